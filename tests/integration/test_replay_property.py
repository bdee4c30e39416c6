"""The files of a shard hold the state of its run: at each acknowledged group, and after each power cut."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
from checkpoint_rows import START, a_completed, a_failed, an_answer, an_intent, classify, open_store, tree
from hypothesis import given, settings
from hypothesis import strategies as st
from modelled_disk import ModelledDisk, PowerCut, lose_all

from batchvision.checkpoint import OutputView, Store, Submission, SubmissionStep, batches_of, read_shard
from batchvision.checkpoint.journal_records import Closed, Record
from batchvision.checkpoint.open_log import OpenLog
from batchvision.checkpoint.run_state import RunState
from batchvision.checkpoint.sealing import ClosedSegment, Sealer, part_path
from batchvision.checkpoint.view import ShardState
from batchvision.checkpoint.writer import Writer
from batchvision.errors import StopRun
from batchvision.records import Exchange

ROWS = 6
#: What may happen to a row next. "200" and the like are answers, which are booked at once or (with "late") not yet.
STEPS = ("intent", "ticket", "200", "400", "503", "late", "book", "void", "file", "share", "flush", "seal", "reopen")
#: Of the batch lane. A submission has the number of its first row.
BATCH_STEPS = ("enroll", "creating", "complete", "ended")
Step = tuple[str, int]
STEPS_OF_A_RUN = st.lists(st.tuples(st.sampled_from(STEPS + BATCH_STEPS), st.integers(0, ROWS - 1)), max_size=40)


class State(NamedTuple):
    """Everything that a shard's files say."""

    open: dict[str, Exchange]
    carries: list[Any]
    failures: dict[str, Any]
    attempts: list[tuple[Any, ...]]
    results: list[tuple[Any, ...]]
    doubts: tuple[str, bool, list[str]]
    submissions: dict[str, Submission]


def rows_of(batches: Iterator[Any], names: tuple[str, ...]) -> list[tuple[Any, ...]]:
    return sorted(tuple(row.values()) for batch in batches for row in batch.select(list(names)).to_pylist())


ATTEMPT = ("row_id", "request_key", "attempt", "state", "error_kind", "cost_ticks")
RESULT = ("row_id", "request_key", "output_text", "attempt_count", "row_cost_ticks")


def of_files(output: Path) -> State:
    view = OutputView(output)
    (shard,) = view.shards
    return _state(shard.run_state, rows_of(view.rows("attempts"), ATTEMPT), rows_of(view.rows("results"), RESULT))


def _state(run_state: RunState, attempts: list[tuple[Any, ...]], results: list[tuple[Any, ...]]) -> State:
    carries = sorted(run_state.carries, key=lambda carry: (carry.row_id, carry.request_key))
    failures = dict(sorted(run_state.failures.items()))
    doubts = (run_state.run_id, run_state.run_has_ended, sorted(run_state.doubted))
    submissions = dict(sorted(run_state.submissions.items()))
    return State(dict(run_state.open), carries, failures, attempts, results, doubts, submissions)


class Live:
    """A run on a store, and what it knows at each acknowledged group: the rows of its parts and of its memory."""

    def __init__(self, output: Path, disk: ModelledDisk) -> None:
        self.output = output
        self.acknowledged: list[State] = []
        self.is_recovering = False
        self.at_the_end: State | None = None  #: with the records that were not acknowledged at the cut
        self._disk = disk
        self._runs = 0
        self._attempts: list[tuple[Any, ...]] = []
        self._results: list[tuple[Any, ...]] = []
        self._number = 0
        self._row: dict[int, str] = {}  # the open exchange of each row
        self._late: dict[int, Exchange] = {}

    async def play(self, steps: list[Step]) -> None:
        """Play the steps. A crash of the process separates two runs ("reopen"). Raises PowerCut."""
        steps = [*steps, ("flush", 0)]
        while steps:
            end = next((at for at, (step, _) in enumerate(steps) if step == "reopen"), len(steps))
            self._runs += 1
            self._row, self._late = {}, {}
            with open_store(self.output, run_id=f"run{self._runs}", disk=self._disk) as store:
                self.is_recovering = True
                store.recover(classify)
                self.is_recovering = False
                store.row_index("recipe")
                self._note(store)
                try:
                    for step, number in steps[:end]:
                        with suppress(KeyError):
                            await self._step(store, step, number)
                    await store.flush()
                    self._note(store)
                except PowerCut:
                    self.at_the_end = self._live(store)
                    raise
            steps = steps[end + 1 :]

    async def _step(self, store: Store, step: str, number: int) -> None:
        match step:
            case "intent" if number not in self._row:
                self._number += 1
                intent = self._intent(number)
                self._row[number] = intent.exchange_id
                await store.intent(intent)
            case "ticket" if store._run_state.open[self._row[number]].ticket is None:
                await store.ticket(self._row[number], f"ticket-{self._row[number]}", START)
            case "enroll" if number not in self._row:
                self._number += 1
                intent = self._intent(number)
                self._row[number] = intent.exchange_id
                store.submissions.enroll(intent, f"submission-{number}")
            case "creating" | "complete":
                await store.submissions.note(
                    Submission(f"submission-{number}", SubmissionStep(step), START, batch_id=step)
                )
            case "ended":
                store.submissions.end(f"submission-{number}")
            case "200" | "400" | "503" | "late" if number not in self._late:
                exchange_id = self._row[number]
                raw = await store.answer(exchange_id, an_answer(b"answer", int(step) if step != "late" else 200))
                self._note(store)  # the answer is acknowledged, and its exchange still open
                self._late[number] = store._run_state.open[exchange_id]._replace(answer=raw)
                if step != "late":
                    self._book(store, number)
            case "book":
                self._book(store, number)
            case "void" if number not in self._late and store._run_state.open[self._row[number]].ticket is None:
                store.void(self._row.pop(number))
            case "file":
                store.file(a_failed(an_intent(number), "row_invalid", request_key=None, run_id=f"run{self._runs}"))
            case "share":
                intent = an_intent(number, request_key=f"shared{number}", run_id=f"run{self._runs}")
                store.share(a_completed(intent, "shared"))
            case "seal":
                await store._writer.commit(closes=True)
            case "flush":
                await store.flush()
        if not store._writer.journal.gathering.bodies:  # everything is acknowledged
            self._note(store)

    def _intent(self, number: int) -> Any:
        return an_intent(number, exchange_id=f"run{self._runs}-{self._number}", run_id=f"run{self._runs}")

    def _book(self, store: Store, number: int) -> None:
        store.book(self._row.pop(number), classify(self._late.pop(number)))

    def _note(self, store: Store) -> None:
        self.acknowledged.append(self._live(store))

    def _live(self, store: Store) -> State:
        """The live state: rows of parts, of closed segments and of memory."""
        tables = store._run_state
        live = {"attempts": tables.attempts, "results": tables.results}
        rows = {}
        for name, names in (("attempts", ATTEMPT), ("results", RESULT)):
            made = store._tables.attempts if name == "attempts" else store._tables.results
            waiting = [
                each for each in store._writer.closed if not (self.output / part_path(name, each.header)).exists()
            ]
            closed = [table for each in waiting for table in getattr(each.cut, name)]
            batches = [table for table in [*closed, *live[name].tables, made(live[name].newest)] if table.num_rows]
            parts = sorted((self.output / name).rglob("part-*.parquet"))
            rows[name] = rows_of(iter([*(batch for path in parts for batch in batches_of(path)), *batches]), names)
        return _state(tables, rows["attempts"], rows["results"])


@contextmanager
def in_memory() -> Iterator[Path]:
    memory = Path("/dev/shm")  # thousands of fsyncs would only slow the test down
    folder = Path(tempfile.mkdtemp(prefix="replay-", dir=memory if memory.is_dir() else None))
    try:
        yield folder / "out"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_groups(steps: list[Step]) -> None:
    """The files equal the live state at every acknowledged group."""
    with in_memory() as output:

        class Checked(Live):
            def _note(self, store: Store) -> None:
                super()._note(store)
                assert of_files(output) == self.acknowledged[-1]

        anyio.run(Checked(output, ModelledDisk(output)).play, steps)


def check_cut(steps: list[Step], cut_at: int) -> bool:
    """After a power cut that loses everything unsynced, the files equal the live state at the last acknowledgement."""
    with in_memory() as output:
        disk = ModelledDisk(output, cut_at=cut_at)
        live = Live(output, disk)
        try:
            anyio.run(live.play, steps)
        except PowerCut:
            disk.after_cut(lose_all)
        else:
            return False
        if not live.acknowledged:
            return True
        known = live.acknowledged[-1]
        if not live.is_recovering:  # a group may be durable and not acknowledged yet
            assert of_files(output) in (known, live.at_the_end)
        with open_store(output, run_id="last") as store:
            store.recover(classify)
        found = of_files(output)
        assert not set(known.results) - set(found.results)
        assert not set(known.attempts) - set(found.attempts)
        assert _tickets(found) == _tickets(known)
        return True


def _tickets(state: State) -> set[str]:
    return {exchange_id for exchange_id, each in state.open.items() if each.ticket and not each.answer}


@settings(max_examples=60)
@given(STEPS_OF_A_RUN)
def test_the_files_equal_the_live_state_at_every_acknowledged_group(steps: list[Step]) -> None:
    check_groups(steps)


@settings(max_examples=60)
@given(STEPS_OF_A_RUN, st.integers(0, 120))
def test_after_a_power_cut_the_files_equal_the_live_state_at_the_last_acknowledgement(
    steps: list[Step], cut_at: int
) -> None:
    check_cut(steps, cut_at)


@settings(max_examples=25)
@given(STEPS_OF_A_RUN)
def test_a_run_that_is_recovered_has_the_parts_of_one_that_was_sealed_byte_for_byte(steps: list[Step]) -> None:
    steps = [step for step in steps if step[0] not in ("reopen", "late")]
    with in_memory() as whole, in_memory() as crashed:
        for output, last in ((whole, "seal"), (crashed, "flush")):
            anyio.run(Live(output, ModelledDisk(output)).play, [*steps, (last, 0)])
        with open_store(crashed, run_id="run1", started_at=START + timedelta(days=1)) as store:
            store.recover(classify)
        named = {path: content for path, content in tree(crashed, "results", "attempts").items() if "run1" in path}
        for path, content in tree(whole, "results", "attempts").items():
            assert named[path] == content, path


# ---------------------------------------------------------------------------------- saboteurs

#: Tickets and answers over several seals and runs: it meets each rule that a saboteur breaks.
LONG: list[Step] = [
    *[("intent", number) for number in range(4)],
    ("ticket", 0),
    ("seal", 0),
    ("ticket", 1),
    ("200", 2),
    ("400", 3),
    ("file", 4),
    ("seal", 0),
    ("share", 5),
    ("flush", 0),
    ("200", 0),
    ("intent", 2),
    ("seal", 0),
    ("503", 1),
    ("late", 2),
    ("flush", 0),
    ("reopen", 0),
    ("intent", 1),
    ("enroll", 5),
    ("creating", 5),
    ("seal", 0),
    ("complete", 5),
    ("seal", 0),
    ("book", 1),
    ("200", 1),
    ("flush", 0),
]


def is_caught() -> bool:
    try:
        check_groups(LONG)
        for cut_at in range(150):
            check_cut(LONG, cut_at)
    except (AssertionError, StopRun):
        return True
    return False


def test_without_a_saboteur_the_long_sequence_holds() -> None:
    assert not is_caught()


def test_segments_that_go_before_the_commit_of_their_seal_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage: segments deleted before ``sealed N``."""
    seal = Sealer.seal

    def removing_first(sealer: Sealer, closed: ClosedSegment) -> None:
        sealer._remove_segments(closed.header.seq)
        seal(sealer, closed)

    monkeypatch.setattr(Sealer, "seal", removing_first)
    assert is_caught()


def test_a_closed_record_that_is_lost_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage: ``closed`` is applied and not written."""
    note = Writer.note

    def noting(writer: Writer, record: Record) -> None:
        if isinstance(record, Closed):
            writer._run_state.apply(record)
        else:
            note(writer, record)

    monkeypatch.setattr(Writer, "note", noting)
    assert is_caught()


def test_a_seal_from_the_live_state_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage: the cut is taken when the seal begins, after later records were applied."""
    commit = Writer.commit

    async def committing(writer: Writer, *, closes: bool = False) -> None:
        if closes:  # a record of the next group
            writer.journal.append(an_intent(9, exchange_id="later"))
            late = writer.journal.take()
            writer._run_state.apply(an_intent(9, exchange_id="later"))
            await commit(writer, closes=True)
            for body in late.bodies:
                writer.journal.gathering.add(body)
        else:
            await commit(writer)

    monkeypatch.setattr(Writer, "commit", committing)
    assert is_caught()


def test_an_open_ticket_that_a_seal_forgets_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage: the intent of an old segment is forgotten while its ticket is open."""
    write = OpenLog.write

    def forgetting(log: OpenLog, records: Any, seq: int, *, is_whole: bool) -> None:
        tickets = {record.exchange_id for record in records if type(record).__name__ == "Accepted"}
        kept = [record for record in records if getattr(record, "exchange_id", None) not in tickets]
        write(log, kept, seq, is_whole=is_whole)

    monkeypatch.setattr(OpenLog, "write", forgetting)
    assert is_caught()


def test_the_answers_of_a_view_are_those_of_its_shards(tmp_path: Path) -> None:
    async def run() -> None:
        with open_store(tmp_path) as store:
            store.recover(classify)
            await store.intent(an_intent(1))
            await store.answer("x1", an_answer())

    anyio.run(run)
    shard: ShardState = read_shard(tmp_path, "0of1")
    assert (shard.unread_answers, shard.in_flight, shard.tickets_open) == (1, [], 0)
