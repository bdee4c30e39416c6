"""The records of submissions: durable before a batch is created, and given to the shard that owns their members."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoint_rows import START, an_intent, classify, open_store

from batchvision.checkpoint import LocalDisk, Submission, SubmissionStep, read_shard

CREATING = Submission("s1", SubmissionStep.CREATING, START, file_id="file-1")


class ReplicatingDisk(LocalDisk):
    """Notes what the files hold at each call that puts them to another machine."""

    def __init__(self, output: Path) -> None:
        super().__init__()
        self.replicated: list[tuple[set[str], set[str]]] = []
        self._output = output

    def replicate(self) -> None:
        state = read_shard(self._output, "0of1").run_state
        self.replicated.append((set(state.open), set(state.submissions)))


@pytest.mark.anyio
async def test_a_step_and_its_members_outlive_the_machine_before_the_batch_is_created(tmp_path: Path) -> None:
    disk = ReplicatingDisk(tmp_path / "out")
    with open_store(tmp_path / "out", disk=disk, ticket_place="https://api.x.ai/v1") as store:
        store.recover(classify)
        for number in (1, 2):
            store.submissions.enroll(an_intent(number), "s1")
        assert disk.replicated == []
        await store.submissions.note(CREATING)
    assert disk.replicated[-1] == ({"x1", "x2"}, {"s1"})
    state = read_shard(tmp_path / "out", "0of1").run_state
    assert {state.open[name].ticket for name in ("x1", "x2")} == {"s1"}
    assert state.submissions["s1"].place == state.open["x1"].ticket_place == "https://api.x.ai/v1"


@pytest.mark.anyio
async def test_members_are_no_ambiguous_requests_after_a_crash(tmp_path: Path) -> None:
    with open_store(tmp_path / "out") as store:
        store.recover(classify)
        store.submissions.enroll(an_intent(1), "s1")
        await store.submissions.note(CREATING)
    with open_store(tmp_path / "out", run_id="run2") as store:
        recovery = store.recover(classify)
        assert (recovery.ambiguous, recovery.tickets) == ((), ("x1",))
        assert store.submissions.open["s1"].file_id == "file-1"
        store.void("x1")
        store.submissions.end_without_members()
        await store.flush()
        assert not store.submissions.open
    with open_store(tmp_path / "out", run_id="run3") as store:
        assert store.recover(classify).tickets == ()
        assert not store.submissions.open


@pytest.mark.anyio
async def test_a_dead_shard_gives_the_submission_with_its_members(tmp_path: Path) -> None:
    with open_store(tmp_path / "out", shard="0of2") as store:
        store.recover(classify)
        for number in range(1, 9):
            store.submissions.enroll(an_intent(number), "s1")
        await store.submissions.note(CREATING)
    with open_store(tmp_path / "out", run_id="run2") as store:
        assert len(store.recover(classify).tickets) == 8
        assert set(store.submissions.open) == {"s1"}
