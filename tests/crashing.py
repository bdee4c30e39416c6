"""Power cuts in memory: a small run on a disk that forgets, cut off before its k-th operation, and run again.

What the disk holds after a cut is drawn by ``proofs.recorded_disk``; here the whole run is under test, and the provider
goes on from run to run: it knows what it was asked, what it gave, and what it will not give twice.
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

from proofs.modelled import in_memory
from proofs.reckoning import Tally
from proofs.recorded_disk import RecordedDisk, Remains, lay_out
from witness import SmallRun, broken_peace, unlisted_payments

from batchvision.checkpoint import SealAfter, Store, compaction
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
    """The machine is gone: nothing that runs after this reaches the disk or the provider."""


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
    """What was said while there was power: by name, each answer and ticket that the store acknowledged, and each answer
    that was judged; by row, how many intents were handed in."""

    answers: set[str] = field(default_factory=set)
    tickets: set[str] = field(default_factory=set)
    judged: set[str] = field(default_factory=set)
    intents: Counter[str] = field(default_factory=Counter)


class CrashingRun:
    """A small run and its cuts."""

    def __init__(self, folder: Path, lane: str, forgets: str | None = None) -> None:
        self.session = SmallRun(folder, lane, concurrency=CONCURRENCY)
        self.told = Told()
        self.cuts = 0
        self.places = 0  #: operations of the last run
        self.lost_reads: set[str] = set()  #: tickets whose one read was on its way to the disk at a cut
        self._forgets = forgets

    def run(self, cut_at: int | None = None, luck: random.Random | None = None) -> RunSummary | None:
        """One run. None: the power went, and the disk holds one of the states that it may hold then."""
        folder, provider = self.session.folder, self.session.provider
        remains, disk = Remains.of(folder), CutDisk(folder, cut_at, self._forgets)
        provider.check_power = disk.check_power
        provider.reads_on_the_wire.clear()
        summary: RunSummary | None = None
        try:
            with listening(self.told, disk):
                summary = self.session.run(disk=disk)
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
        """Tickets whose answer has reached us, and not the disk."""
        return {name.replace("chat", "ticket") for name in set(self.session.provider.delivered) - self.told.answers}


@contextmanager
def listening(told: Told, disk: CutDisk) -> Iterator[None]:
    """Write down what is acknowledged and what is judged. A store that seals often, so that a small run does."""
    real = Store.intent, Store.ticket, Store.answer, Classifier.classify, writer_module.SealAfter, compaction.FEW_PARTS

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
    merging: Any = compaction
    store.intent, store.ticket, store.answer, judges.classify = intent, ticket, answer, classify
    module.SealAfter, merging.FEW_PARTS = lambda: SMALL_PARTS, 1
    try:
        yield
    finally:
        store.intent, store.ticket, store.answer, judges.classify, module.SealAfter, merging.FEW_PARTS = real


def name_of(raw: RawAnswer) -> set[str]:
    """The name of an answer that is one."""
    return {json.loads(raw.body)["id"]} if raw.status == 200 and b"choices" in raw.body else set()


# ---------------------------------------------------------------------------------- what must be true in the end


def broken(crashing: CrashingRun) -> list[str]:
    """After the cuts and a run that was not cut; empty: all is as promised."""
    ledger = crashing.session.table("attempts")
    return [
        *_broken_of_rows(crashing, ledger),
        *_broken_of_answers(crashing, ledger),
        *_broken_of_tickets(crashing, ledger),
        *_broken_of_crashes(crashing, ledger),
        *unlisted_payments(crashing.session, ledger),
    ]


def _broken_of_rows(crashing: CrashingRun, ledger: list[dict[str, Any]]) -> Iterator[str]:
    """Every row is done, once; all that may fail is a one-time read that was on its way at a cut, and that is said."""
    failed = {row["row_id"]: row["error_kind"] for row in crashing.session.table("failures")}
    done = [row["row_id"] for row in crashing.session.table("results")]
    if sorted([*done, *failed]) != crashing.session.rows:
        yield f"results {sorted(done)}, failures {failed}"
    lost = {line["row_id"]: line["ticket"] for line in ledger if line["state"] == "lost_after_read"}
    if set(failed.values()) - {"lost_after_read"} or set(failed) - set(lost):
        yield f"failures {failed}, lost reads {lost}"
    if unexplained := set(lost.values()) - crashing.lost_reads:
        yield f"lost: the reads of {sorted(unexplained)} were not on their way at any cut"


def _broken_of_answers(crashing: CrashingRun, ledger: list[dict[str, Any]]) -> Iterator[str]:
    """P3, P6, P9: what was acknowledged is there, also what was only read; and nothing is there twice or made up."""
    names = Counter(line["provider_request_id"] for line in ledger if line["cost_ticks"] is not None)
    for what, told in (("acknowledged", crashing.told.answers), ("judged", crashing.told.judged)):
        if lost := told - set(names):
            yield f"lost: {sorted(lost)} had been {what}"
    if twice := [name for name, times in names.items() if times > 1]:
        yield f"{twice} are in the ledger more than once"
    if unknown := set(names) - set(crashing.session.provider.delivered):
        yield f"{unknown} were never delivered"


def _broken_of_tickets(crashing: CrashingRun, ledger: list[dict[str, Any]]) -> Iterator[str]:
    """P2: what was acknowledged, or asked for, is known."""
    known = {line["ticket"] for line in ledger}
    for what, told in (
        ("acknowledged", crashing.told.tickets),
        ("polled", crashing.session.provider.tickets_polled),
    ):
        if lost := told - known:
            yield f"lost: {sorted(lost)} had been {what}"


def _broken_of_crashes(crashing: CrashingRun, ledger: list[dict[str, Any]]) -> Iterator[str]:
    """P5: at most what was in flight is ambiguous, and nothing is in the ledger that was never begun."""
    interrupted = [line["row_id"] for line in ledger if line["error_kind"] == "interrupted"]
    if len(interrupted) > crashing.cuts * CONCURRENCY:
        yield f"{interrupted} were in flight at {crashing.cuts} cuts of {CONCURRENCY} requests"
    lines = Counter(line["row_id"] for line in ledger)
    if lines - crashing.told.intents:
        yield f"{lines - crashing.told.intents} are in the ledger and were never begun"


# ---------------------------------------------------------------------------------- sweeps


def sweep(folder: Path, lane: str, variations: int, forgets: str | None = None, until: str | None = None) -> Tally:
    """Cut a run before each of its operations, so many times with other luck; every second time, cut the next run
    soon after its start too; then let it end. ``until``: in another order, up to the first fault that has
    this in its words."""
    tally, folder = Tally(), in_memory(folder)
    try:
        with mock.patch("batchvision.runner.lanes.deferred.POLLERS", FEW_POLLERS):
            _sweep(tally, folder, lane, variations, forgets, until)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return tally


def _sweep(tally: Tally, folder: Path, lane: str, variations: int, forgets: str | None, until: str | None) -> None:
    whole = CrashingRun(folder / "whole", lane, forgets)
    assert whole.run() is not None
    parts = list(whole.session.output.rglob("run_date=*/part-*.parquet"))
    assert len(parts) == 2 and all(is_merged(part.name) for part in parts), "the night merges its parts, too"
    places = list(range(whole.places))
    if until is not None:
        random.Random(0).shuffle(places)
    for place in places:
        for variation in range(place % 2, place % 2 + variations):
            crashing = CrashingRun(folder / f"{place}-{variation}", lane, forgets)
            found = _cut_and_ended(crashing, place, variation, tally)
            tally.faults += [f"cut before operation {place}, luck {variation}: {sentence}" for sentence in found]
            if until is not None and any(until in sentence for sentence in found):
                return


def _cut_and_ended(crashing: CrashingRun, place: int, variation: int, tally: Tally) -> list[str]:
    """What is wrong after a cut at this place."""
    luck = random.Random(1_000 * place + variation)
    tally.outputs += 1
    try:
        assert crashing.run(place, luck) is None
        tally.acknowledged += len(crashing.told.answers)
        if variation % 2:
            crashing.run(luck.randrange(LATEST_SECOND_CUT), luck)
        assert crashing.run() is not None
    except StopRun as fault:
        return [f"the run after the cut does not begin: {fault}"]
    tally.kills += crashing.cuts
    states = Counter(line["state"] for line in crashing.session.table("attempts"))
    tally.ambiguous += states["ambiguous"]
    tally.lost_after_read += states["lost_after_read"]
    return [*broken(crashing), *(broken_peace(crashing.session) if place % EVERY_SO_MANY == 0 else ())]
