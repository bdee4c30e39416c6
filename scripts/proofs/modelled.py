"""The modelled disk: runs in virtual time are recorded, cut at any operation and continued.

A run is the real runner, lanes and store over a provider in memory. The disk records its operations, and the proof
records each acknowledgement with its place among them. After a cut at place k and a recovery, the tables must hold
everything that was acknowledged before k, also if the recovery itself was cut.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pyarrow as pa
import pyarrow.parquet as pq
from fake_provider import NIGHTFALL, Asked, FakeProvider, Reply, chat, error
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as set_seed
from hypothesis import strategies as st
from virtual_time import VIRTUAL

from batchvision import Job
from batchvision.checkpoint import Columns, Recovery, SealAfter, Store, StoreSettings, compact
from batchvision.checkpoint import writer as writer_module
from batchvision.errors import BatchvisionError
from batchvision.records import Intent, RawAnswer, RunSummary
from batchvision.runner.classify import Classifier
from batchvision.runner.retry import RetryPolicy
from batchvision.runner.session import run_async
from proofs.reckoning import Tally
from proofs.recorded_disk import RecordedDisk, Remains, lay_out

CONCURRENCY = 4
ROWS = 14
SMALL_PARTS = SealAfter(attempts=5)
FORGETS = {"no-fsync": "sync", "no-dirsync": "sync_folder"}


class Told(NamedTuple):
    """Something the store acknowledged, and how many operations the disk had done by then."""

    place: int
    what: str
    exchange_id: str


@dataclass
class RecordedRun:
    """The operations of the disk and the acknowledgements to the lanes."""

    job: Job
    disk: RecordedDisk
    told: list[Told] = field(default_factory=list)
    attempts: dict[str, tuple[str, int]] = field(default_factory=dict)  #: exchange -> (row, attempt)

    def told_before(self, place: int, what: str) -> set[str]:
        return {each.exchange_id for each in self.told if each.what == what and each.place <= place}

    def remains_at(self, place: int) -> Remains:
        remains = Remains()
        for operation in self.disk.operations[:place]:
            remains.apply(operation)
        return remains


# ---------------------------------------------------------------------------------- recording


def job_of(folder: Path, lane: str) -> Job:
    lines = [f"r{n},https://images.example/{n}.jpg,thing {n}" for n in range(ROWS)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "photos.csv").write_text("\n".join(["sku,image,title", *lines]) + "\n")
    settings = {
        "name": "night",
        "manifest": {"path": "photos.csv", "id": "sku", "keep": ["title"]},
        "prompt": {"user": "Describe {title} [[{sku}]]"},
        "provider": {"name": "xai", "model": "grok-4.3"},
        "delivery": {"lane": lane},
        "limits": {"concurrency": CONCURRENCY, "max_attempts": 2},
        "output": {"path": "out"},
    }
    return Job.from_mapping(settings, folder)


def _moods(luck: random.Random, asked: Asked) -> Reply | None:
    """Mostly a good answer; now and then one that is tried again, or fails its row."""
    drawn = luck.random()
    if drawn < 0.1:
        return error(500, "boom")
    if drawn < 0.15:
        return error(400, "bad request")
    return Reply(200, chat("")) if drawn < 0.2 else None


def provider_of(seed: int) -> FakeProvider:
    luck = random.Random(seed)
    return FakeProvider(partial(_moods, luck), latency_seconds=luck.uniform(0.001, 0.05), ticket_seconds=0.5)


def run_over(job: Job, provider: FakeProvider, disk: RecordedDisk, seed: int) -> RunSummary:
    """A whole run in virtual time. Raises StopRun where it cannot begin."""
    dependencies = provider.dependencies(seed)
    run = partial(
        run_async,
        job,
        environ={"XAI_API_KEY": "xai-secret-key-000"},
        dependencies=type(dependencies)(
            dependencies.now, dependencies.rng, disk, dependencies.offload, dependencies.transport
        ),
    )
    return anyio.run(run, backend_options=VIRTUAL)


def record(folder: Path, lane: str, seed: int, sabotage: str | None = None) -> RecordedRun:
    """A whole run and ``compact`` on a recorded disk."""
    job = job_of(folder, lane)
    output = folder / "out"
    output.mkdir()
    session = RecordedRun(job, RecordedDisk(output, FORGETS.get(sabotage or "")))
    with listening(session):
        run_over(job, provider_of(seed), session.disk, seed)
        compact(output, disk=session.disk)
    return session


@contextmanager
def listening(session: RecordedRun) -> Iterator[None]:
    """Record acknowledgements, and let the store seal often."""
    real = Store.intent, Store.ticket, Store.answer, writer_module.SealAfter

    def tell(what: str, exchange_id: str) -> None:
        session.told.append(Told(session.disk.places, what, exchange_id))

    async def intent(store: Store, intent: Intent) -> None:
        session.attempts[intent.exchange_id] = (intent.row_id, intent.attempt)
        await real[0](store, intent)
        tell("intent", intent.exchange_id)

    async def ticket(store: Store, exchange_id: str, name: str, at: datetime) -> None:
        await real[1](store, exchange_id, name, at)
        tell("ticket", exchange_id)

    async def answer(store: Store, exchange_id: str, raw: RawAnswer) -> RawAnswer:
        written = await real[2](store, exchange_id, raw)
        tell("answer", exchange_id)
        return written

    store: Any = Store
    module: Any = writer_module
    store.intent, store.ticket, store.answer, module.SealAfter = intent, ticket, answer, lambda: SMALL_PARTS
    try:
        yield
    finally:
        store.intent, store.ticket, store.answer, module.SealAfter = real


# ---------------------------------------------------------------------------------- cutting, and picking up


class Pieces:
    """A folder in which states are laid out and recovered, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / "state"
        self.states = 0
        self.answers_checked = 0

    def cut(self, session: RecordedRun, place: int, luck: random.Random, again: int | None = None) -> None:
        """One crash, or two: ``again`` cuts off the recovery too. Raises AssertionError where something is lost."""
        lay_out(session.remains_at(place).draw(luck), self.output)
        self.states += 1
        if again is not None:
            remains, disk = Remains.of(self.output), RecordedDisk(self.output, session.disk._forgets)
            self._recover(session, disk)
            for operation in disk.operations[: again % (disk.places + 1)]:
                remains.apply(operation)
            lay_out(remains.draw(luck), self.output)
            self.states += 1
        self._check(session, place, self._recover(session, RecordedDisk(self.output)))

    def _recover(self, session: RecordedRun, disk: RecordedDisk) -> Recovery:
        classifier = Classifier({session.job.recipe.recipe_id: session.job.recipe}, RetryPolicy(2, raise_once=False))
        columns = Columns(keep=(("title", pa.string()),), answers=())
        settings = StoreSettings(job_name="night", run_id="rerun", started_at=NIGHTFALL, columns=columns)
        with Store.open(self.output, settings, disk=disk) as store:
            return store.recover(classifier.classify)

    def _check(self, session: RecordedRun, place: int, recovery: Recovery) -> None:
        ledger = self._ledger()
        twice = [key for key, times in Counter((row, attempt) for row, attempt, _ in ledger).items() if times > 1]
        assert not twice, f"in the ledger twice: {twice}"
        states = {(row, attempt): state for row, attempt, state in ledger}
        tickets = set(recovery.tickets)
        answers = session.told_before(place, "answer")
        for exchange_id in answers:
            state = states.get(session.attempts[exchange_id])
            assert state not in (None, "ambiguous"), f"the answer of {exchange_id} was acknowledged; ledger: {state}"
        for exchange_id in session.told_before(place, "ticket") - answers - tickets:
            state = states.get(session.attempts[exchange_id])
            assert state not in (None, "ambiguous"), f"the ticket of {exchange_id} was acknowledged; ledger: {state}"
        ids = [row for path in self._parts("results") for row in pq.ParquetFile(path).read(["row_id"])[0].to_pylist()]
        assert len(ids) == len(set(ids)), "a row is in results twice"
        assert len(recovery.ambiguous) <= CONCURRENCY, f"{len(recovery.ambiguous)} ambiguous"
        assert len(list(self.output.glob(".batchvision/0of1/journal-*.log"))) == 1, "one segment"
        left = list(map(str, self.output.rglob("*.tmp")))
        assert not left, f"leftovers of the crash: {left}"
        self.answers_checked += len(answers)

    def _parts(self, table: str) -> list[Path]:
        return sorted((self.output / table).rglob("part-*.parquet"))

    def _ledger(self) -> list[tuple[str, int, str]]:
        names = ["row_id", "attempt", "state"]
        tables = [pq.ParquetFile(path).read(names) for path in self._parts("attempts")]
        return [tuple(row.values()) for table in tables for row in table.to_pylist()]


def try_one(pieces: Pieces, session: RecordedRun, place: int, seed: int, again: int | None) -> None:
    """As :meth:`Pieces.cut`; damage counts as lost too."""
    try:
        pieces.cut(session, place, random.Random(seed), again)
    except BatchvisionError as fault:
        raise AssertionError(f"{type(fault).__name__}: {fault}") from fault


class JobRuns:
    """Recorded runs, each made when it is first asked for."""

    def __init__(self, folder: Path, sabotage: str | None = None) -> None:
        self._folder = folder
        self._sabotage = sabotage
        self._recorded: dict[tuple[str, int], RecordedRun] = {}

    def of(self, lane: str, seed: int) -> RecordedRun:
        if (lane, seed) not in self._recorded:
            self._recorded[lane, seed] = record(self._folder / f"{lane}-{seed}", lane, seed, self._sabotage)
        return self._recorded[lane, seed]


def crash_states(most_runs: int) -> st.SearchStrategy[tuple[str, int, int, int, int | None]]:
    """lane, run, place of the cut, luck of the disk, place of a second cut during the recovery."""
    places, seeds = st.integers(0, 10_000), st.integers(0, 2**32)
    again = st.none() | st.integers(0, 10_000)
    return st.tuples(st.sampled_from(["online", "deferred"]), st.integers(0, most_runs - 1), places, seeds, again)


def search(folder: Path, states: int, seed: int, sabotage: str | None = None, job_runs: int = 40) -> Tally:
    """Draw that many crash states by hypothesis. The first one with a loss is shrunk and reported."""
    tally, folder = Tally(outputs=job_runs), in_memory(folder)
    recorded, pieces = JobRuns(folder, sabotage), Pieces(folder)
    keeps = settings(
        max_examples=max(1, states * 2 // 3),  # half of them are cut twice
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )

    @keeps
    @set_seed(seed)
    @given(crash_states(job_runs))
    def nothing_is_lost(drawn: tuple[str, int, int, int, int | None]) -> None:
        lane, number, place, luck, again = drawn
        session = recorded.of(lane, number)
        try_one(pieces, session, place % (session.disk.places + 1), luck, again)

    logging.disable()
    try:
        nothing_is_lost()
    except AssertionError as fault:
        tally.faults.append(f"{fault} {' '.join(getattr(fault, '__notes__', []))}".replace("\n", " "))
    finally:
        logging.disable(logging.NOTSET)
        shutil.rmtree(folder, ignore_errors=True)
    tally.kills, tally.acknowledged = pieces.states, pieces.answers_checked
    return tally


def in_memory(folder: Path) -> Path:
    """The states are many and small, and their own disk does not matter."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else folder.parent))
