"""Power cuts in memory: a small run and ``compact`` on a modelled disk, cut before the k-th operation, and run again.

``proofs.recorded_disk`` draws the contents of the disk after a cut. The provider stays the same from run to run and
records its requests and answers.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

from observed_run import SmallRun, unlisted_payments, unwanted_activity
from proofs.modelled import in_memory
from proofs.reckoning import Tally
from proofs.recorded_disk import RecordedDisk, Remains, lay_out

from batchvision.checkpoint import SealAfter, Store, compact
from batchvision.checkpoint import writer as writer_module
from batchvision.checkpoint.lineage import is_merged
from batchvision.errors import StopRun
from batchvision.records import Exchange, Intent, RawAnswer, RunSummary
from batchvision.runner.classify import Classification, Classifier

CONCURRENCY = 2
SMALL_PARTS = SealAfter(attempts=3)
LATEST_SECOND_CUT = 40  #: operations: a recovery has fewer
FEW_POLLERS = 2  #: so that there are few operations between two tickets
EVERY_SO_MANY = 8  #: cuts, one is also asked whether a further run does nothing


class PowerCut(BaseException):
    """The machine is off: no later operation reaches the disk or the provider."""


class CutDisk(RecordedDisk):
    """The power goes before the ``cut_at``-th operation (None: never)."""

    def __init__(self, root: Path, cut_at: int | None = None, forgets: str | None = None) -> None:
        super().__init__(root, forgets)
        self.is_cut = False
        self._cut_at = cut_at

    def _note(self, name: str, path: Path, file: int = -1, content: bytes = b"") -> None:
        self.check_power()
        if self.places == self._cut_at:
            self.is_cut = True
            raise PowerCut
        super()._note(name, path, file, content)

    def check_power(self) -> None:
        if self.is_cut:
            raise PowerCut


@dataclass
class Told:
    """The records before a cut: ids of acknowledged answers and tickets, ids of classified answers, intents by row."""

    answers: set[str] = field(default_factory=set)
    tickets: set[str] = field(default_factory=set)
    judged: set[str] = field(default_factory=set)
    intents: Counter[str] = field(default_factory=Counter)


class PowerCutRun:
    """A small run and its power cuts."""

    def __init__(self, folder: Path, lane: str, forgets: str | None = None) -> None:
        self.session = SmallRun(folder, lane, concurrency=CONCURRENCY)
        self.told = Told()
        self.cuts = 0
        self.places = 0  #: operations of the last run
        self.lost_reads: set[str] = set()  #: tickets whose one read was on its way to the disk at a cut
        self._forgets = forgets

    def run(self, cut_at: int | None = None, luck: random.Random | None = None) -> RunSummary | None:
        """One run, then one ``compact``. Returns None after a cut; the disk then holds one of its possible states."""
        folder, provider = self.session.folder, self.session.provider
        remains, disk = Remains.of(folder), CutDisk(folder, cut_at, self._forgets)
        provider.check_power = disk.check_power
        provider.reads_on_the_wire.clear()
        summary: RunSummary | None = None
        try:
            with listening(self.told, disk):
                summary = self.session.run(disk=disk)
                compact(self.session.output, disk=disk)
        except BaseException:
            if not disk.is_cut:
                raise
        self.places = disk.places
        if disk.is_cut:
            for operation in disk.operations:
                remains.apply(operation)
            lay_out(remains.draw(luck or random.Random(0)), folder)
            self.cuts += 1
            self.lost_reads |= provider.reads_on_the_wire | self._unacknowledged()
            return None
        return summary

    def _unacknowledged(self) -> set[str]:
        """Tickets with an answer that arrived and is not on the disk."""
        return {name.replace("chat", "ticket") for name in set(self.session.provider.delivered) - self.told.answers}


@contextmanager
def listening(told: Told, disk: CutDisk) -> Iterator[None]:
    """Record acknowledgements and classifications. The store seals often, so that a small run has seals."""
    real = Store.intent, Store.ticket, Store.answer, Classifier.classify, writer_module.SealAfter

    async def intent(store: Store, intent: Intent) -> None:
        told.intents[intent.row_id] += 1
        await real[0](store, intent)

    async def ticket(store: Store, exchange_id: str, name: str, at: datetime) -> None:
        await real[1](store, exchange_id, name, at)
        if not disk.is_cut:
            told.tickets.add(name)

    async def answer(store: Store, exchange_id: str, raw: RawAnswer) -> RawAnswer:
        written = await real[2](store, exchange_id, raw)
        if not disk.is_cut:
            told.answers |= name_of(raw)
        return written

    def classify(classifier: Classifier, exchange: Exchange, jitter: float = 0.0) -> Classification:
        if exchange.answer is not None and not disk.is_cut:
            told.judged |= name_of(exchange.answer)
        return real[3](classifier, exchange, jitter)

    store: Any = Store
    judges: Any = Classifier
    module: Any = writer_module
    store.intent, store.ticket, store.answer, judges.classify = intent, ticket, answer, classify
    module.SealAfter = lambda: SMALL_PARTS
    try:
        yield
    finally:
        store.intent, store.ticket, store.answer, judges.classify, module.SealAfter = real


def name_of(raw: RawAnswer) -> set[str]:
    """The id of a whole answer, or nothing."""
    return {json.loads(raw.body)["id"]} if raw.status == 200 and b"choices" in raw.body else set()


# ---------------------------------------------------------------------------------- promises


def broken(cut_run: PowerCutRun) -> list[str]:
    """The broken promises after the cuts and one whole run."""
    ledger = cut_run.session.table("attempts")
    return [
        *_broken_of_rows(cut_run, ledger),
        *_broken_of_answers(cut_run, ledger),
        *_broken_of_tickets(cut_run, ledger),
        *_broken_of_crashes(cut_run, ledger),
        *unlisted_payments(cut_run.session, ledger),
    ]


def _broken_of_rows(cut_run: PowerCutRun, ledger: list[dict[str, Any]]) -> Iterator[str]:
    """Every row is done once. Only a one-time read in flight at a cut may fail, and it is listed."""
    failed = {row["row_id"]: row["error_kind"] for row in cut_run.session.table("failures")}
    done = [row["row_id"] for row in cut_run.session.table("results")]
    if sorted([*done, *failed]) != cut_run.session.rows:
        yield f"results {sorted(done)}, failures {failed}"
    lost = {line["row_id"]: line["ticket"] for line in ledger if line["state"] == "lost_after_read"}
    if set(failed.values()) - {"lost_after_read"} or set(failed) - set(lost):
        yield f"failures {failed}, lost reads {lost}"
    if unexplained := set(lost.values()) - cut_run.lost_reads:
        yield f"lost: the reads of {sorted(unexplained)} were not on their way at any cut"


def _broken_of_answers(cut_run: PowerCutRun, ledger: list[dict[str, Any]]) -> Iterator[str]:
    """P3, P6, P9: every acknowledged or classified answer is in the ledger once, and no other answer is."""
    names = Counter(line["provider_request_id"] for line in ledger if line["cost_ticks"] is not None)
    for what, told in (("acknowledged", cut_run.told.answers), ("judged", cut_run.told.judged)):
        if lost := told - set(names):
            yield f"lost: {sorted(lost)} had been {what}"
    if twice := [name for name, times in names.items() if times > 1]:
        yield f"{twice} are in the ledger more than once"
    if unknown := set(names) - set(cut_run.session.provider.delivered):
        yield f"{unknown} were never delivered"


def _broken_of_tickets(cut_run: PowerCutRun, ledger: list[dict[str, Any]]) -> Iterator[str]:
    """P2: every acknowledged or polled ticket is in the ledger."""
    known = {line["ticket"] for line in ledger}
    for what, told in (
        ("acknowledged", cut_run.told.tickets),
        ("polled", cut_run.session.provider.tickets_polled),
    ):
        if lost := told - known:
            yield f"lost: {sorted(lost)} had been {what}"


def _broken_of_crashes(cut_run: PowerCutRun, ledger: list[dict[str, Any]]) -> Iterator[str]:
    """P5: only requests in flight are ambiguous, and every ledger line has an intent."""
    interrupted = [line["row_id"] for line in ledger if line["error_kind"] == "interrupted"]
    if len(interrupted) > cut_run.cuts * CONCURRENCY:
        yield f"{interrupted} were in flight at {cut_run.cuts} cuts of {CONCURRENCY} requests"
    lines = Counter(line["row_id"] for line in ledger)
    if lines - cut_run.told.intents:
        yield f"{lines - cut_run.told.intents} are in the ledger and were never begun"


# ---------------------------------------------------------------------------------- sweeps


def sweep(folder: Path, lane: str, variations: int, forgets: str | None = None, until: str | None = None) -> Tally:
    """Cut a run and a ``compact`` before each of their operations, in ``variations`` states of the disk.

    Every second time the next run is cut soon after its start, too. ``until``: go in random order up to the first
    fault with this text.
    """
    tally, folder = Tally(), in_memory(folder)
    try:
        with mock.patch("batchvision.runner.lanes.deferred.POLLERS", FEW_POLLERS):
            _sweep(tally, folder, lane, variations, forgets, until)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return tally


def _sweep(tally: Tally, folder: Path, lane: str, variations: int, forgets: str | None, until: str | None) -> None:
    whole = PowerCutRun(folder / "whole", lane, forgets)
    assert whole.run() is not None
    parts = list(whole.session.output.rglob("run_date=*/part-*.parquet"))
    assert len(parts) == 2 and all(is_merged(part.name) for part in parts), "the sweep compacts, too"
    places = list(range(whole.places))
    if until is not None:
        random.Random(0).shuffle(places)
    for place in places:
        for variation in range(place % 2, place % 2 + variations):
            cut_run = PowerCutRun(folder / f"{place}-{variation}", lane, forgets)
            found = _cut_and_ended(cut_run, place, variation, tally)
            tally.faults += [f"cut before operation {place}, luck {variation}: {sentence}" for sentence in found]
            if until is not None and any(until in sentence for sentence in found):
                return


def _cut_and_ended(cut_run: PowerCutRun, place: int, variation: int, tally: Tally) -> list[str]:
    """The faults after a cut at this place."""
    luck = random.Random(1_000 * place + variation)
    tally.outputs += 1
    try:
        assert cut_run.run(place, luck) is None
        tally.acknowledged += len(cut_run.told.answers)
        if variation % 2:
            cut_run.run(luck.randrange(LATEST_SECOND_CUT), luck)
        assert cut_run.run() is not None
    except StopRun as fault:
        return [f"the run after the cut does not begin: {fault}"]
    tally.kills += cut_run.cuts
    states = Counter(line["state"] for line in cut_run.session.table("attempts"))
    tally.ambiguous += states["ambiguous"]
    tally.lost_after_read += states["lost_after_read"]
    return [*broken(cut_run), *(unwanted_activity(cut_run.session) if place % EVERY_SO_MANY == 0 else ())]
