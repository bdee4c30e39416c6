"""The store: what it acknowledged is in the tables exactly once, whatever happens at whichever operation."""

from __future__ import annotations

import errno
import json
import random
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pyarrow.parquet as pq
import pytest
from checkpoint_rows import (
    COST_TICKS,
    START,
    BookedEnd,
    a_failed,
    an_answer,
    an_attempt,
    an_intent,
    ask,
    classify,
    open_store,
    tree,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from modelled_disk import Choose, ModelledDisk, PowerCut, keep_all, lose_all

from batchvision.checkpoint import (
    Carried,
    Columns,
    OutputView,
    RowState,
    SealAfter,
    Store,
    journal,
    load_recipe,
    parts,
    run_state,
)
from batchvision.checkpoint.journal import Group, segment_paths
from batchvision.checkpoint.journal_records import (
    Carry,
    Closed,
    ExchangeRemoved,
    Received,
    Record,
    Sealed,
    Voided,
    closed,
)
from batchvision.checkpoint.log_file import read_log
from batchvision.checkpoint.parts import part_file
from batchvision.checkpoint.recovery import ShardRecovery
from batchvision.errors import DiskFailed, OutputHeld
from batchvision.eventloop import inline
from batchvision.records import AttemptState, EndedWithout, Exchange, Failed
from batchvision.secrets import Secret, Secrets

pytestmark = pytest.mark.anyio


def started(output: Path, **options: Any) -> Store:
    store = open_store(output, **options)
    store.recover(classify)
    store.row_index("recipe")
    return store


def column(output: Path, table: str, name: str) -> list[Any]:
    return [value for batch in OutputView(output).rows(table, (name,)) for value in batch[name].to_pylist()]


def segment_of(output: Path, shard: str = "0of1") -> Path:
    (path,) = segment_paths(output / ".batchvision" / shard)
    return path


# ---------------------------------------------------------------------------------- a run that ends as it should


async def test_rows_end_in_their_table_and_every_attempt_in_the_ledger(tmp_path: Path) -> None:
    with started(tmp_path) as store:
        await ask(store, an_intent(1), an_answer())
        await ask(store, an_intent(2), an_answer(b"no", 400))
        await ask(store, an_intent(3), an_answer(b"busy", 503))
        await ask(store, an_intent(33, row_id="row3", request_key="key3", attempt=2), an_answer())
        await store.close(complete=True)
        assert {part.table: part.rows for part in store.parts_to_list()} == {"results": 2, "failures": 1, "attempts": 4}
    assert column(tmp_path, "results", "row_id") == ["row1", "row3"]
    assert column(tmp_path, "failures", "row_id") == ["row2"]
    assert column(tmp_path, "attempts", "state") == ["ok", "failed", "retried", "ok"]
    assert OutputView(tmp_path).sums() == (2 * COST_TICKS, 0)


async def test_parts_are_named_by_run_and_sequence_and_dated_by_the_runs_start(tmp_path: Path) -> None:
    with started(tmp_path, started_at=START.replace(hour=23, minute=59), shard="1of4") as store:
        await ask(store, an_intent(1), an_answer())
        await store.close(complete=True)
        paths = [part.path for part in store.parts_to_list()]
    assert sorted(paths) == [
        "attempts/run_date=2026-11-20/part-1of4-run1-000001.parquet",
        "failures/part-1of4.parquet",
        "results/run_date=2026-11-20/part-1of4-run1-000001.parquet",
    ]


async def test_the_writer_commits_for_many_lanes_at_once(tmp_path: Path) -> None:
    disk = ModelledDisk(tmp_path)
    with started(tmp_path, disk=disk, seal_after=SealAfter(attempts=40)) as store:

        async def lane(first: int) -> None:
            for number in range(first, 100, 20):
                await ask(store, an_intent(number), an_answer(b"answer %d" % number))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.run)
            async with anyio.create_task_group() as lanes:
                for first in range(20):
                    lanes.start_soon(lane, first)
            await store.close(complete=True)
    texts = dict(zip(column(tmp_path, "results", "row_id"), column(tmp_path, "results", "output_text"), strict=True))
    assert texts == {f"row{number}": f"answer {number}" for number in range(100)}
    groups = sum(op.name == "write" and op.path.suffix == ".log" for op in disk.operations)
    assert groups < 60, "200 records in groups of up to 20"


async def test_an_idle_run_changes_no_byte_of_the_tables(tmp_path: Path) -> None:
    with started(tmp_path) as store:
        await ask(store, an_intent(1), an_answer())
        await ask(store, an_intent(2), an_answer(b"no", 400))
        store.file(a_failed(an_intent(3), "row_invalid", request_key=None))
        await store.close(complete=True)
    before = tree(tmp_path)
    with started(tmp_path, run_id="run2", started_at=START + timedelta(days=1)) as store:
        row_index = store.row_index("recipe")
        assert row_index.state("row1", "key1") is RowState.DONE
        assert row_index.state("row2", "key2") is RowState.FAILED
        row_index.meet("row2", "key2")
        again = a_failed(an_intent(3), "row_invalid", request_key=None, run_id="run2", failed_at=START)
        store.file(again)
        await store.close(complete=True)
        assert not store._sealer.parts
    assert tree(tmp_path) == before


async def test_times_in_the_tables_are_those_of_the_answer_not_of_the_seal(tmp_path: Path) -> None:
    with started(tmp_path) as store:
        await ask(store, an_intent(1), an_answer())
        await store.close(complete=True)
    assert column(tmp_path, "results", "updated_at") == [START + timedelta(seconds=2)]
    assert column(tmp_path, "results", "latency_ms") == [2000]


async def test_the_key_is_in_no_file_of_the_output(tmp_path: Path) -> None:
    key = "sk-never-to-be-seen"
    with started(tmp_path, secrets=Secrets(Secret(key))) as store:
        store.write_recipe("recipe", {"system": f"use {key}"})
        intent = an_intent(1, keep={"title": f"my key is {key}"}, image_ref=(f"https://e.org/a.jpg?k={key}",))
        await ask(store, intent, an_answer(f"echo: {key}".encode(), x_echo=key))
        await ask(store, an_intent(2), an_answer(f"bad {key}".encode(), 400))
        await store.intent(an_intent(3))
        store.file(a_failed(an_intent(4), error_message=f"{key}" * 100))
        assert all(key.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        await store.close(complete=True)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or key.encode() not in path.read_bytes(), path
    for path in tmp_path.rglob("*.parquet"):
        assert key not in str(pq.ParquetFile(path).read().to_pylist()), path
    assert column(tmp_path, "results", "output_text") == ["echo: ***"]


async def test_raw_answers_are_left_out_of_the_ledger_on_request(tmp_path: Path) -> None:
    for keep_raw, expected in ((True, "fine"), (False, None)):
        with started(tmp_path / str(keep_raw), keep_raw=keep_raw) as store:
            await ask(store, an_intent(1), an_answer())
            await store.close(complete=True)
        assert column(tmp_path / str(keep_raw), "attempts", "raw_answer") == [expected]


# ---------------------------------------------------------------------------------- seals and segments


async def test_a_seal_leaves_open_work_in_open_log_and_its_segment_goes(tmp_path: Path) -> None:
    with started(tmp_path, seal_after=SealAfter(attempts=1)) as store:
        await store.intent(an_intent(1))
        await store.ticket("x1", "ticket-1", START)
        await store.intent(an_intent(2))
        await store.answer("x2", an_answer(b"not booked yet"))
        await ask(store, an_intent(3), an_answer(b"busy", 503))
        await store.intent(an_intent(4))  # the segment closes with this record
        await store.intent(an_intent(5))
        segment = read_log(segment_of(tmp_path))
        open_log = read_log(tmp_path / ".batchvision" / "0of1" / "open.log").records
    assert segment.header.seq == 2
    assert [type(record).__name__ for record in segment.records] == ["Intent"]
    kinds = ["Intent", "Received", "Intent", "Intent", "Accepted", "Carry", "ReadDoubts", "Sealed"]
    assert [type(record).__name__ for record in open_log] == kinds
    assert open_log[5] == Carry("row3", "key3", "skip3", 1, 0, 0)
    assert open_log[7] == Sealed(1)


async def test_a_later_seal_writes_only_the_difference(tmp_path: Path) -> None:
    path = tmp_path / ".batchvision" / "0of1" / "open.log"
    with started(tmp_path, seal_after=SealAfter(attempts=1)) as store:
        for number in range(20):
            await store.intent(an_intent(number))
            await store.ticket(f"x{number}", f"ticket-{number}", START)
        await ask(store, an_intent(21), an_answer())
        await store.flush()
        whole = len(read_log(path).records)
        raw = await store.answer("x7", an_answer())
        store.book("x7", classify(Exchange(an_intent(7), "ticket-7", START, raw)))
        await store.flush()
        added = read_log(path).records[whole:]
    assert added == [ExchangeRemoved("x7"), Sealed(2)]


async def the_answer_looked_for_during_a_seal(output: Path) -> bool:
    """Whether it is found while its segment is closed and no part has it."""
    begun, goes_on = anyio.Event(), anyio.Event()
    found: dict[str, Any] = {}

    async def slow(work: Any, /, *args: Any) -> Any:
        if work.__name__ == "_seal":
            begun.set()
            await goes_on.wait()
        return work(*args)

    with started(output, offload=slow, seal_after=SealAfter(attempts=1)) as store:
        async with anyio.create_task_group() as tasks:
            await ask(store, an_intent(1), an_answer())
            tasks.start_soon(store.intent, an_intent(2))
            await begun.wait()
            found.update(await store.answers({"key1"}, inline))
            goes_on.set()
    return "key1" in found


async def test_a_seal_under_way_hides_no_answer(tmp_path: Path) -> None:
    assert await the_answer_looked_for_during_a_seal(tmp_path)


async def test_without_the_rows_of_closed_segments_the_answer_would_be_bought_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = Store.answers

    async def of_parts_alone(store: Store, *settings: Any) -> Any:
        closed, store._writer.closed = store._writer.closed, deque()
        found = await answers(store, *settings)
        store._writer.closed = closed
        return found

    monkeypatch.setattr(Store, "answers", of_parts_alone)
    assert not await the_answer_looked_for_during_a_seal(tmp_path)


async def test_no_request_leaves_while_four_closed_segments_wait_for_their_seal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "GROUP_SECONDS", 0.0)  # a task that waits for this timer counts as blocked
    goes_on, sent = anyio.Event(), list[int]()

    async def slow(work: Any, /, *args: Any) -> Any:
        if work.__name__ == "_seal":
            await goes_on.wait()
        return work(*args)

    with started(tmp_path, offload=slow, seal_after=SealAfter(attempts=1)) as store:

        async def lane() -> None:
            for number in range(9):
                await store.intent(an_intent(number))
                sent.append(number)
                raw = await store.answer(f"x{number}", an_answer())
                store.book(f"x{number}", classify(Exchange(an_intent(number), answer=raw)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.run)
            async with anyio.create_task_group() as lanes:
                lanes.start_soon(lane)
                await anyio.wait_all_tasks_blocked()
                waiting, sent_then = len(store._writer.closed), len(sent)
                goes_on.set()
            assert (waiting, sent_then, len(sent)) == (5, 5, 9), "the answer in flight has closed one more"
            await store.close(complete=True)
    assert len(column(tmp_path, "results", "row_id")) == 9


async def test_a_failure_is_dropped_when_its_row_is_asked_again_and_its_costs_go_on(tmp_path: Path) -> None:
    with started(tmp_path) as store:
        await ask(store, an_intent(1, cost_before_ticks=7, attempt=2), an_answer(b"no", 400))
        await store.close(complete=True)
    with started(tmp_path, run_id="run2") as store:
        row_index = store.row_index("recipe")
        carried = row_index.carried("row1", "key1")
        assert carried == Carried(2, 7, 1, 0)
        again = an_intent(11, row_id="row1", request_key="key1", attempt=3, cost_before_ticks=7, runs_failed=1)
        await store.intent(again)
        assert not store.failures()
        store.release()
    with started(tmp_path, run_id="run3") as store:
        assert store.row_index("recipe").carried("row1", "key1") == Carried(3, 7, 1, 0)
        await store.close(complete=False)
    assert column(tmp_path, "failures", "row_id") == []


async def test_a_replay_after_a_crash_makes_the_same_parts_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_state, "ROWS_AT_ONCE", 4)
    monkeypatch.setattr(parts, "SEALED_GROUP_ROWS", 8)
    sealed, crashed = tmp_path / "sealed", tmp_path / "crashed"
    for output in (sealed, crashed):
        with started(output) as store:
            for number in range(21):
                await ask(store, an_intent(number), an_answer(b"answer %d" % number))
            await store.flush()
            assert [table.num_rows for table in store._run_state.attempts.tables] == [4] * 5
            if output == sealed:
                await store.close(complete=True)
    with open_store(crashed, run_id="run2") as store:
        assert store.recover(classify).completed == 21
    assert tree(sealed, "attempts", "results") == tree(crashed, "attempts", "results")
    (ledger,) = (sealed / "attempts").rglob("*.parquet")
    file = pq.ParquetFile(ledger)
    assert [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)] == [8, 8, 5]


async def test_failures_of_rows_that_left_go_after_a_complete_pass_and_carries_stay(
    tmp_path: Path,
) -> None:
    with started(tmp_path) as store:
        for number in (1, 2):
            await ask(store, an_intent(number), an_answer(b"no", 400))
        for number in (3, 4):
            await ask(store, an_intent(number), an_answer(b"busy", 503))
        await store.close(complete=True)
    for complete, left in ((False, ["row1", "row2"]), (True, ["row1"])):
        with started(tmp_path, run_id=f"run-{complete}") as store:
            row_index = store.row_index("recipe")
            row_index.meet("row1", "key1")
            row_index.meet("row3", "key3")
            await store.close(complete=complete)
        assert column(tmp_path, "failures", "row_id") == left
    with started(tmp_path, run_id="run4") as store:
        assert store.row_index("recipe").carried("row3", "key3").attempts == 1
        assert store.row_index("recipe").carried("row4", "key4").attempts == 1


async def test_a_row_completed_twice_is_in_results_once_and_in_the_ledger_twice(tmp_path: Path) -> None:
    with started(tmp_path) as store:
        await ask(store, an_intent(1), an_answer())
        await ask(store, an_intent(2, row_id="row1", request_key="key1"), an_answer(b"second"))
        await store.close(complete=True)
    with started(tmp_path, run_id="run2") as store:
        await ask(store, an_intent(3, row_id="row1", request_key="key1"), an_answer(b"third"))
        await store.close(complete=True)
    assert column(tmp_path, "results", "output_text") == ["fine"]
    assert len(column(tmp_path, "attempts", "row_id")) == 3


# ---------------------------------------------------------------------------------- recovery


async def test_a_crash_leaves_answers_tickets_and_ambiguous_rows(tmp_path: Path) -> None:
    with started(tmp_path) as store:
        await ask(store, an_intent(1), an_answer())
        await store.intent(an_intent(2))
        await store.answer("x2", an_answer(b"not booked"))
        await store.intent(an_intent(3))
        await store.intent(an_intent(4))
        await store.ticket("x4", "ticket-4", START)
    store = open_store(tmp_path, run_id="run2")
    with store:
        recovery = store.recover(classify)
        row_index = store.row_index("recipe")
        assert (recovery.completed, recovery.failed, recovery.torn_bytes) == (2, 0, 0)
        assert [intent.row_id for intent in recovery.ambiguous] == ["row3"]
        tickets = [store.exchange(exchange_id) for exchange_id in recovery.tickets]
        assert [(ticket.intent.row_id, ticket.ticket) for ticket in tickets] == [("row4", "ticket-4")]
        assert row_index.state("row2", "key2") is RowState.DONE
        assert row_index.state("row3", "key3") is RowState.NEW
        assert row_index.carried("row3", "key3") == Carried(1, 0, 0, 0)
        assert row_index.state("row4", "skip4") is RowState.AWAITING
        assert row_index.ambiguous_ticks == 100
        assert "2 completed" in " ".join(recovery.sentences())
    assert sorted(part.path for part in store.parts_to_list() if part.table == "results") == [
        "results/run_date=2026-11-20/part-0of1-run1-000001.parquet",  # closed by the run before
        "results/run_date=2026-11-20/part-0of1-run2-000002.parquet",  # its answer was classified by this run
    ]


async def test_held_rows_stay_pending_until_a_run_asks_them_again(tmp_path: Path) -> None:
    with started(tmp_path) as store:
        await store.intent(an_intent(1))
    for _ in range(2):
        with open_store(tmp_path) as store:
            recovery = store.recover(classify, hold=True)
            row_index = store.row_index("recipe")
            assert row_index.state("row1", "key1") is RowState.HELD
            assert store.held_count == 0, "no pass over the manifest has met the row"
            row_index.meet("row1", "key1")
            assert store.held_count == 1
            await store.close(complete=False)
    assert recovery.ambiguous == ()
    with started(tmp_path) as store:
        assert store.row_index("recipe").state("row1", "key1") is RowState.NEW
        assert store.row_index("recipe").carried("row1", "key1").attempts == 1
    assert column(tmp_path, "attempts", "state") == ["ambiguous"]


async def test_a_request_that_never_left_is_not_ambiguous(tmp_path: Path) -> None:
    with started(tmp_path) as store:
        await store.intent(an_intent(1))
        store.void("x1")
        await store.intent(an_intent(2, attempt=3, cost_before_ticks=9, runs_failed=1))
        store.void("x2")
        await store.close(complete=False)
    with open_store(tmp_path) as store:
        assert store.recover(classify).ambiguous == ()
        assert store.row_index("recipe").carried("row1", "key1") == Carried(0, 0, 0, 0)
        assert store.row_index("recipe").carried("row2", "key2") == Carried(2, 9, 1, 0)


async def test_an_end_without_an_answer_is_in_the_journal(tmp_path: Path) -> None:
    intent = an_intent(1)
    late = START + timedelta(minutes=10)
    exchange = Exchange(intent, ended=EndedWithout("timeout", "slow", late))
    timed_out = an_attempt(exchange, AttemptState.AMBIGUOUS, error_kind="timeout", error_message="slow")
    with started(tmp_path) as store:
        await store.intent(intent)
        store.book("x1", BookedEnd(timed_out, None))
        await store.intent(an_intent(2))
        (end,) = [record for record in read_log(segment_of(tmp_path)).records if isinstance(record, Closed)]
        assert (end.exchange_id, end.state, end.ended) == ("x1", AttemptState.AMBIGUOUS, ("timeout", "slow", late))
    with open_store(tmp_path) as store:
        assert [intent.row_id for intent in store.recover(classify).ambiguous] == ["row2"]


async def replayed_under_other_rules(output: Path) -> None:
    """Raises AssertionError where the replay classifies an exchange that was closed."""
    with started(output) as store:
        await ask(store, an_intent(1), an_answer(b"as it was read then"))
        await ask(store, an_intent(2), an_answer(b"no", 400))
        await ask(store, an_intent(3), an_answer(b"busy", 503))
        await store.flush()

    def classify_otherwise(exchange: Exchange) -> Any:
        raise AssertionError(f"{exchange.intent.row_id} was classified again")

    with open_store(output, run_id="run2") as store:
        recovery = store.recover(classify_otherwise)
        assert (recovery.completed, recovery.failed) == (1, 1)
        assert store.row_index("recipe").carried("row3", "key3").attempts == 1
    assert column(output, "results", "output_text") == ["as it was read then"]
    assert OutputView(output).sums() == (COST_TICKS, 0)


async def test_a_corrected_failure_is_recovered_as_one_failed_row(tmp_path: Path) -> None:
    failed = a_failed(an_intent(1), "image_unreadable", request_key=None, runs_failed=3)
    with started(tmp_path) as store:
        assert store.file(failed)
        assert store.file(replace(failed, runs_failed=2), is_correction=True)
        await store.flush()
    with open_store(tmp_path) as store:
        assert store.recover(classify).failed == 1
        assert [each.runs_failed for each in store.failures()] == [2]


async def test_a_replay_needs_no_prices_no_retry_rules_and_no_reader_of_answers(tmp_path: Path) -> None:
    await replayed_under_other_rules(tmp_path)


async def test_a_replay_with_todays_prices_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sabotaged twin."""
    apply = ShardRecovery._apply

    def reclassifying(recovery: ShardRecovery, path: Path, records: Iterable[Record]) -> None:
        for record in records:
            if isinstance(record, Closed):
                end = recovery._classify(recovery.run_state.open[record.exchange_id])
                apply(recovery, path, (closed(end),))
            else:
                apply(recovery, path, (record,))

    monkeypatch.setattr(ShardRecovery, "_apply", reclassifying)
    with pytest.raises(AssertionError, match="classified again"):
        await replayed_under_other_rules(tmp_path)


async def test_an_exchange_is_booked_once(tmp_path: Path) -> None:
    with started(tmp_path) as store:
        classification = await ask(store, an_intent(1), an_answer())
        with pytest.raises(KeyError):
            store.book("x1", classification)


async def test_a_torn_tail_is_cut_and_reported(tmp_path: Path) -> None:
    with started(tmp_path) as store:
        await ask(store, an_intent(1), an_answer())
    path = segment_of(tmp_path)
    path.write_bytes(path.read_bytes() + b"0badc0de {half a rec")
    with open_store(tmp_path) as store:
        recovery = store.recover(classify)
        assert (recovery.torn_bytes, recovery.completed) == (20, 1)
        assert "20 bytes" in " ".join(recovery.sentences())


async def test_nothing_is_written_before_recovery(tmp_path: Path) -> None:
    with open_store(tmp_path) as store, pytest.raises(RuntimeError, match="recover"):
        await store.intent(an_intent(1))


async def test_a_forked_child_may_not_write_to_its_parents_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with started(tmp_path) as store:
        monkeypatch.setattr("os.getpid", lambda: -1)
        with pytest.raises(OutputHeld):
            await store.intent(an_intent(1))


# ---------------------------------------------------------------------------------- crashes and failing disks


class Acknowledged:
    """What a script of a run was told, and what it would be right to find afterwards."""

    def __init__(self) -> None:
        self.answers: dict[str, int] = {}
        self.tickets: set[str] = set()
        self.sent: set[str] = set()
        self.ended: set[str] = set()


async def small_run(output: Path, told: Acknowledged, **options: Any) -> None:
    """Ten rows, two seals on the way: answers good and bad, a retry, an open ticket, a row filed without a request."""
    with open_store(output, offload=inline, seal_after=SealAfter(attempts=4), **options) as store:
        store.recover(classify)
        store.row_index("recipe")
        for number, status in ((1, 200), (2, 400), (3, 503), (5, 200), (6, 200), (7, 200), (8, 400)):
            await answered(store, told, an_intent(number), status)
        await answered(store, told, an_intent(33, row_id="row3", request_key="key3", attempt=2), 200)
        await store.intent(an_intent(4))
        await store.ticket("x4", "ticket-4", START)
        told.tickets.add("x4")
        store.file(a_failed(an_intent(10), "image_unreadable"))
        await answered(store, told, an_intent(9), 200)
        await store.close(complete=True)


async def answered(store: Store, told: Acknowledged, intent: Any, status: int) -> None:
    told.sent.add(intent.exchange_id)
    await store.intent(intent)
    raw = await store.answer(intent.exchange_id, an_answer(intent.row_id.encode(), status))
    told.answers[intent.exchange_id] = status
    store.book(intent.exchange_id, classify(Exchange(intent, answer=raw)))


def check_nothing_is_lost(output: Path, told: Acknowledged) -> None:
    with open_store(output, run_id="run2") as store:
        recovery = store.recover(classify)
        store.row_index("recipe")
        open_tickets = set(recovery.tickets)
    rows = column(output, "results", "row_id")
    assert len(rows) == len(set(rows)), "a row is in results twice"
    assert column(output, "results", "output_text") == rows, "each answer belongs to its row"
    completed = {"row" + name[1] for name, status in told.answers.items() if status == 200}
    assert completed <= set(rows)
    failed = {"row" + name[1] for name, status in told.answers.items() if status == 400}
    assert failed <= set(column(output, "failures", "row_id"))
    assert told.tickets <= open_tickets
    assert {intent.exchange_id for intent in recovery.ambiguous} <= (told.sent | {"x4"}) - told.answers.keys()
    ledger = list(zip(column(output, "attempts", "row_id"), column(output, "attempts", "attempt"), strict=True))
    assert len(ledger) == len(set(ledger)), "an attempt is in the ledger twice"
    assert len(ledger) >= len(told.answers)
    assert not list(output.rglob("*.tmp")), "leftovers of the crash"
    segment_of(output)


async def operations_of_a_small_run(output: Path) -> int:
    disk = ModelledDisk(output)
    await small_run(output, Acknowledged(), disk=disk)
    return len(disk.operations)


def an_output(folder: Path, name: object) -> Path:
    output = folder / str(name)
    output.mkdir()
    return output


@pytest.mark.parametrize("choose", [lose_all, keep_all])
async def test_a_power_cut_at_any_operation_loses_nothing_that_was_acknowledged(tmp_path: Path, choose: Choose) -> None:
    operations = await operations_of_a_small_run(an_output(tmp_path, "whole"))
    most = 0
    for at in range(operations):
        output, told = an_output(tmp_path, at), Acknowledged()
        disk = ModelledDisk(output, cut_at=at)
        with pytest.raises(PowerCut):
            await small_run(output, told, disk=disk)
        disk.after_cut(choose)
        check_nothing_is_lost(output, told)
        most = max(most, len(told.answers))
    assert most >= 8, "the script must have been told something, or this proves nothing"


@settings(max_examples=40)
@given(at=st.integers(0, 200), again=st.integers(0, 25), seed=st.integers(0, 2**16))
def test_a_second_power_cut_during_recovery_loses_nothing_either(
    tmp_path_factory: pytest.TempPathFactory, at: int, again: int, seed: int
) -> None:
    output, told, luck = tmp_path_factory.mktemp("cut"), Acknowledged(), random.Random(seed)
    disk = ModelledDisk(output, cut_at=at)
    with suppress(PowerCut):
        anyio.run(lambda: small_run(output, told, disk=disk))
    disk.after_cut(lambda most: luck.randint(0, most))
    disk = ModelledDisk(output, cut_at=again)
    with suppress(PowerCut), open_store(output, run_id="run2", disk=disk) as store:
        store.recover(classify)
    disk.after_cut(lambda most: luck.randint(0, most))
    check_nothing_is_lost(output, told)


async def test_a_disk_that_fails_at_any_operation_stops_the_run_and_loses_nothing(tmp_path: Path) -> None:
    operations = await operations_of_a_small_run(an_output(tmp_path, "whole"))
    for at in range(operations):
        output, told = an_output(tmp_path, at), Acknowledged()
        with pytest.raises(DiskFailed):
            await small_run(output, told, disk=ModelledDisk(output, fail_at=at, error=errno.ENOSPC))
        check_nothing_is_lost(output, told)


@pytest.mark.parametrize("sabotaged", ["sync", "sync_folder"])
async def test_without_its_syncs_the_proof_would_fail(tmp_path: Path, sabotaged: str) -> None:
    """The twin that the crash test must catch: a disk that only says it synced."""
    operations = await operations_of_a_small_run(an_output(tmp_path, "whole"))
    caught = 0
    for at in range(operations - 1, 0, -4):
        output, told = an_output(tmp_path, at), Acknowledged()
        disk = ModelledDisk(output, cut_at=at)
        setattr(disk, sabotaged, lambda what: None)
        with suppress(PowerCut):
            await small_run(output, told, disk=disk)
        disk.after_cut(lose_all)
        try:
            check_nothing_is_lost(output, told)
        except Exception:  # noqa: BLE001 damage and missing rows are both a catch
            caught += 1
        except AssertionError:
            caught += 1
    assert caught > 0


async def test_the_answers_of_lanes_that_are_shielded_are_written_when_the_writer_is_cancelled(tmp_path: Path) -> None:
    with started(tmp_path) as store:
        reading = anyio.Event()

        async def lane() -> None:
            await store.intent(an_intent(1))
            with anyio.CancelScope(shield=True):
                reading.set()
                while store._writer.is_running:
                    await anyio.sleep(0)
                await store.answer("x1", an_answer(b"read once"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.run)
            tasks.start_soon(lane)
            await reading.wait()
            tasks.cancel_scope.cancel()
    with open_store(tmp_path) as store:
        assert store.recover(classify).completed == 1


class FailingDisk(ModelledDisk):
    """Fails for good, once told to."""

    fails = False

    def _begin(self, name: str, path: Path) -> bool:
        if self.fails:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return super()._begin(name, path)


async def test_a_failing_writer_tells_the_lanes_and_leaves_by_its_own_error(tmp_path: Path) -> None:
    disk = FailingDisk(tmp_path)
    with started(tmp_path, disk=disk) as store:
        disk.fails = True
        told: list[str] = []

        async def write() -> None:
            with pytest.raises(DiskFailed):
                await store.run()
            told.append("writer")

        async def lane() -> None:
            with pytest.raises(DiskFailed):
                await store.intent(an_intent(1))
            told.append("lane")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            tasks.start_soon(lane)
        disk.fails = False
        before = len(disk.operations)
        await store.close(complete=True)
        assert sorted(told) == ["lane", "writer"]
        assert len(disk.operations) == before, "after that nothing more is written"
        with pytest.raises(DiskFailed):
            await store.intent(an_intent(2))


async def answers_under_way(store: Store, disk: ModelledDisk, fail_from_now: int) -> None:
    """Two answers come after the disk has failed at the next ``fail_from_now``-th operation, under a running writer."""
    for number in (1, 2, 3):
        await store.intent(an_intent(number))
    async with anyio.create_task_group() as tasks:

        async def write() -> None:
            with pytest.raises(DiskFailed, match="Input/output error"):
                await store.run()

        tasks.start_soon(write)
        disk._fail_at = len(disk.operations) + fail_from_now
        for number in (1, 2):
            raw = await store.answer(f"x{number}", an_answer(b"answer %d" % number))
            store.book(f"x{number}", classify(Exchange(an_intent(number), answer=raw)))
        with pytest.raises(DiskFailed):
            await store.intent(an_intent(4))
        with pytest.raises(DiskFailed):
            await store.close(complete=True)


@pytest.mark.parametrize("operation", ["write", "sync"])
async def test_when_the_journal_fails_what_is_in_flight_goes_to_fresh_files_and_the_same_is_never_tried_again(
    tmp_path: Path, operation: str
) -> None:
    disk = ModelledDisk(tmp_path)
    with started(tmp_path, disk=disk) as store:
        failed = segment_of(tmp_path)
        at = len(disk.operations) + 2 * 3  # the three intents
        await answers_under_way(store, disk, 0 if operation == "write" else 1)
        assert disk.operations[at + (operation == "sync")].name == operation
        hidden = failed.with_name(f".{failed.name}.tmp")  # the name it was opened under
        assert not [each for each in disk.operations[at + 2 :] if each.name != "remove" and each.path == hidden]
        assert not failed.exists()
    disk.after_cut(lose_all)
    with open_store(tmp_path, run_id="run2") as store:
        recovery = store.recover(classify)
    assert [intent.row_id for intent in recovery.ambiguous] == ["row3"]
    assert sorted(column(tmp_path, "results", "output_text")) == ["answer 1", "answer 2"]


async def test_a_failed_seal_is_made_again_into_fresh_files_and_answers_in_flight_are_kept(tmp_path: Path) -> None:
    disk = ModelledDisk(tmp_path)
    with started(tmp_path, disk=disk, seal_after=SealAfter(attempts=1)) as store:
        for number in (1, 2, 3):
            await store.intent(an_intent(number))
        raw = await store.answer("x1", an_answer(b"answer 1"))
        store.book("x1", classify(Exchange(an_intent(1), answer=raw)))
        disk._fail_at = len(disk.operations) + 2 + 1  # the group, and then the first operation of the seal
        await store.answer("x2", an_answer(b"answer 2"))
        with pytest.raises(DiskFailed):
            await store.intent(an_intent(4))
        await store.answer("x3", an_answer(b"answer 3"))
        with pytest.raises(DiskFailed):
            await store.close(complete=True)
    disk.after_cut(lose_all)
    with open_store(tmp_path, run_id="run2") as store:
        assert store.recover(classify).ambiguous == ()
    assert sorted(column(tmp_path, "results", "output_text")) == ["answer 1", "answer 2", "answer 3"]


async def test_after_a_second_failure_nothing_more_is_written_and_durable_answers_are_kept(tmp_path: Path) -> None:
    disk = FailingDisk(tmp_path)
    with started(tmp_path, disk=disk) as store:
        for number in (1, 2):
            await store.intent(an_intent(number))
        await store.answer("x1", an_answer(b"answer 1"))
        disk.fails = True
        with pytest.raises(DiskFailed, match="Input/output error"):
            await store.answer("x2", an_answer(b"answer 2"))
        assert not store.takes_answers
        disk.fails, made = False, len(disk.operations)
        for doing in (store.answer("x2", an_answer(b"answer 2")), store.intent(an_intent(3))):
            with pytest.raises(DiskFailed):
                await doing
        await store.close(complete=True)
        assert len(disk.operations) == made
    disk.after_cut(lose_all)
    with open_store(tmp_path, run_id="run2") as store:
        assert [intent.row_id for intent in store.recover(classify).ambiguous] == ["row2"]
    assert column(tmp_path, "results", "output_text") == ["answer 1"]


@pytest.mark.parametrize("steps", range(1, 16))
async def test_a_part_is_listed_only_when_nothing_will_seal_it_again(tmp_path: Path, steps: int) -> None:
    """The disk fails in the middle of a seal, and an answer comes after: the next run seals more under the old name."""
    disk = ModelledDisk(tmp_path)
    with started(tmp_path, disk=disk, seal_after=SealAfter(attempts=1)) as store:
        for number in (1, 2):
            await store.intent(an_intent(number))
        raw = await store.answer("x1", an_answer(b"answer 1"))
        store.book("x1", classify(Exchange(an_intent(1), answer=raw)))
        disk._fail_at = len(disk.operations) + steps
        with suppress(DiskFailed):
            await store.answer("x2", an_answer(b"answer 2"))
        with suppress(DiskFailed):
            await store.close(complete=True)
        listed = [part for part in store.parts_to_list() if part.table != "failures"]
    with open_store(tmp_path, run_id="run2") as store:
        store.recover(classify)
        listed += store.parts_to_list()
    assert {part.path for part in listed} == {str(each.relative_to(tmp_path)) for each in tmp_path.glob("**/*.parquet")}
    assert [part.sha256 for part in listed] == [part_file(tmp_path, tmp_path / part.path).sha256 for part in listed]


async def test_the_parts_of_a_start_that_was_cut_off_are_listed_by_the_next_run(tmp_path: Path) -> None:
    async def left_by_a_killed_run(output: Path) -> None:
        with started(output) as store:
            await ask(store, an_intent(1), an_answer())
            await ask(store, an_intent(2), an_answer(b"no", 400))
            await store.flush()

    output = an_output(tmp_path, "counted")
    await left_by_a_killed_run(output)
    counted = ModelledDisk(output)
    with open_store(counted.root, run_id="run2", disk=counted) as store:
        store.recover(classify)
        operations = len(counted.operations)
    for at in range(1, operations):
        output = an_output(tmp_path, at)
        await left_by_a_killed_run(output)
        disk = ModelledDisk(output, cut_at=at)
        with pytest.raises(PowerCut), open_store(output, run_id="run2", disk=disk) as store:
            store.recover(classify)
        disk.after_cut(keep_all)
        with started(output, run_id="run3") as store:
            await store.close(complete=False)
            listed = {part.path: part.sha256 for part in store.parts_to_list()}
        there = {
            str(path.relative_to(output)): part_file(output, path).sha256 for path in output.glob("**/part-*.parquet")
        }
        assert listed == there, f"cut at {at}"


async def test_an_answer_that_comes_while_a_seal_finds_the_disk_full_is_still_written(tmp_path: Path) -> None:
    disk = ModelledDisk(tmp_path)
    store: Store

    async def full_at_the_seal(work: Any, /, *args: Any) -> Any:
        if work.__name__ == "_seal" and "x2" in store._run_state.open and not late:
            late.append(store._writer.add(Received("x2", an_answer(b"came late"))))
            disk._fail_at = len(disk.operations)
        return work(*args)

    late: list[Group] = []
    with started(tmp_path, disk=disk, offload=full_at_the_seal, seal_after=SealAfter(attempts=1)) as store:
        await store.intent(an_intent(1))
        await store.intent(an_intent(2))
        raw = await store.answer("x1", an_answer())
        store.book("x1", classify(Exchange(an_intent(1), answer=raw)))
        with pytest.raises(DiskFailed):
            await store.intent(an_intent(3))
        with pytest.raises(DiskFailed):
            await store.close(complete=False)
        await late[0].durable()
    with open_store(tmp_path) as store:
        assert store.recover(classify).completed == 1
    assert column(tmp_path, "results", "output_text") == ["fine", "came late"]


async def test_small_files_are_written_by_one_rename_and_read_back(tmp_path: Path) -> None:
    disk = ModelledDisk(tmp_path)
    with started(tmp_path, disk=disk) as store:
        store.write_recipe("abc", {"model": "grok", "system": "é"})
        made = len(disk.operations)
        store.write_recipe("abc", {"model": "grok", "system": "é"})
        assert len(disk.operations) == made
        assert load_recipe(tmp_path, "abc") == {"model": "grok", "system": "é"}
        assert json.loads((tmp_path / "recipes" / "abc.json").read_text()) == {"model": "grok", "system": "é"}


async def test_kept_columns_of_an_earlier_job_are_still_filed(tmp_path: Path) -> None:
    """An intent names its kept cells, so a ticket is filed right under a job that keeps other columns."""
    with started(tmp_path) as store:
        await store.intent(an_intent(1))
        await store.ticket("x1", "ticket", START)
        await store.close(complete=False)
    with started(tmp_path, columns=Columns()) as store:
        written = await store.answer("x1", an_answer())
        store.book("x1", classify(Exchange(an_intent(1), "ticket", START, written)))
        await store.close(complete=False)
    assert column(tmp_path, "results", "title") == ["title 1"]


def test_failed_records_survive_their_table(tmp_path: Path) -> None:
    failed: Failed = a_failed(an_intent(1), last_output_text="half", last_error_kind="timeout")

    async def file() -> None:
        with started(tmp_path) as store:
            store.file(failed)
            await store.close(complete=True)

    anyio.run(file)
    with started(tmp_path) as store:
        assert store.failures() == (failed,)


async def test_what_ended_unclear_before_a_crash_is_held_by_the_replay_as_it_was_live(tmp_path: Path) -> None:
    def unclear(exchange: Exchange) -> BookedEnd:
        attempt = an_attempt(exchange.intent, AttemptState.AMBIGUOUS, error_kind="timeout", error_message="slow")
        return BookedEnd(attempt, None)

    for hold, expected in ((True, RowState.HELD), (False, RowState.NEW)):
        output = an_output(tmp_path, hold)
        with started(output) as store:
            await store.intent(an_intent(1))
            store.book("x1", unclear(Exchange(an_intent(1))), hold=hold)
            await store.intent(an_intent(2))
        with open_store(output, run_id="run2") as store:
            store.recover(unclear, hold=hold)
            assert store.row_index("recipe").state("row1", "key1") is expected


def test_shards_that_write_the_same_small_file_at_once_do_not_take_it_from_each_other(tmp_path: Path) -> None:
    """Each has a hidden name of its own; what a crash left under it, the shard's next start removes."""
    first, second = (ModelledDisk(tmp_path), ModelledDisk(tmp_path))
    with open_store(tmp_path, shard="0of2", disk=first) as one, open_store(tmp_path, shard="1of2", disk=second) as two:
        one.write_recipe("abc", {"model": "grok"})
        (tmp_path / "recipes" / "abc.json").unlink()
        two.write_recipe("abc", {"model": "grok"})
    hidden = [op.path.name for disk in (first, second) for op in disk.operations if op.name == "create"]
    assert {".abc.json.0of2.tmp", ".abc.json.1of2.tmp"} <= set(hidden)
    left = [tmp_path / "recipes" / f".abc.json.{shard}.tmp" for shard in ("0of2", "1of2")]
    for path in left:
        path.touch()
    with open_store(tmp_path, shard="0of2") as one:
        one.recover(classify)
    assert [path.exists() for path in left] == [False, True]


async def test_what_was_handed_in_is_flushed_also_where_no_writer_runs_any_more(tmp_path: Path) -> None:
    with started(tmp_path) as store:
        await store.intent(an_intent(1))
        store.void("x1")
        await store.flush()
        assert read_log(segment_of(tmp_path)).records[-1] == Voided("x1")
        await store.flush()


@pytest.mark.parametrize("step", ["remove", "sync_folder"])
async def test_an_old_segment_that_cannot_be_removed_ends_the_run_and_costs_no_answer(
    tmp_path: Path, step: str
) -> None:
    counted, output = ModelledDisk(an_output(tmp_path, "counted")), an_output(tmp_path, "run")

    async def session(output: Path, disk: ModelledDisk) -> None:
        with started(output, disk=disk, seal_after=SealAfter(attempts=1)) as store:
            for number in (1, 2):
                await store.intent(an_intent(number))
            raw = await store.answer("x1", an_answer(b"answer 1"))
            store.book("x1", classify(Exchange(an_intent(1), answer=raw)))
            await store.answer("x2", an_answer(b"answer 2"))
            await store.close(complete=True)

    await session(counted.root, counted)
    removed = next(at for at, each in enumerate(counted.operations) if each.name == "remove")
    with pytest.raises(DiskFailed):
        await session(output, ModelledDisk(output, fail_at=removed + (step == "sync_folder")))
    with open_store(output, run_id="run2") as store:
        assert store.recover(classify).ambiguous == ()
    segment_of(output)
    assert sorted(column(output, "results", "output_text")) == ["answer 1", "answer 2"]
