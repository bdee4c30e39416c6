"""A run cancelled at every step, and repeated: no answer that arrived is lost or bought twice.

A small run goes in steps of its event loop. Before one step the interruption comes. Then the run is repeated without
one, and its output is compared with the records of the provider.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import anyio
from observed_run import EVERY_SO_MANY, SmallRun, broken_promises, unwanted_activity
from stepped_time import SteppedLoop

from batchvision.records import RunSummary
from batchvision.stopping import Interrupted, StopSignal
from proofs.modelled import in_memory
from proofs.reckoning import Tally

ROWS = 4
FEW_POLLERS = 2  #: so that there are few steps


class Signals:
    """Signals at a chosen step, in place of the operating system's."""

    def __init__(self) -> None:
        self.stop: StopSignal | None = None
        self.wire: anyio.CancelScope | None = None

    async def __call__(self, stop: StopSignal, wire: anyio.CancelScope, drain_timeout_seconds: float) -> None:
        self.stop, self.wire = stop, wire
        await anyio.sleep_forever()

    def first(self, loop: SteppedLoop) -> None:
        if self.stop is not None and self.wire is not None:
            self.stop.request(Interrupted("SIGTERM", 15))
            self.wire.deadline = loop.time() + 1.0  # shorter than an answer takes

    def second(self, loop: SteppedLoop) -> None:
        self.first(loop)
        if self.wire is not None:
            self.wire.cancel()


Way = Callable[[SmallRun, Signals, SteppedLoop], None]


def signals_first(session: SmallRun, signals: Signals, loop: SteppedLoop) -> None:
    """SIGTERM, and a drain too short for the requests in flight."""
    signals.first(loop)


def signals_twice(session: SmallRun, signals: Signals, loop: SteppedLoop) -> None:
    """SIGTERM twice: only received answers are kept."""
    signals.second(loop)


def cancels_all(session: SmallRun, signals: Signals, loop: SteppedLoop) -> None:
    """The caller of ``run_async`` cancels its task."""
    if session.everything is not None:
        session.everything.cancel()


WAYS: tuple[Way, ...] = (signals_first, signals_twice, cancels_all)


@contextmanager
def cancelled_by(signals: Signals) -> Iterator[None]:
    with (
        mock.patch("batchvision.runner.lanes.deferred.POLLERS", FEW_POLLERS),
        mock.patch("batchvision.runner.session.stop_at_signals", signals),
    ):
        yield


def steps_of(folder: Path, lane: str) -> int:
    """The steps of an undisturbed run."""
    loop = SteppedLoop()
    with cancelled_by(Signals()):
        assert SmallRun(folder, lane, ROWS).run(loop) is not None
    return loop.steps


def cancelled(session: SmallRun, way: Way, at: int) -> list[str]:
    """The faults after a run was cancelled before its ``at``-th step and repeated."""
    signals = Signals()
    loop = SteppedLoop(at, lambda: way(session, signals, loop))
    with cancelled_by(signals):
        first = session.run(loop)
        wrong = [] if first is None else _wrong_at_once(session, first)
        last = session.run()
        assert last is not None
        peace = unwanted_activity(session) if at % EVERY_SO_MANY == 0 else ()
        return [*wrong, *broken_promises(session, last), *peace]


def _wrong_at_once(session: SmallRun, summary: RunSummary) -> list[str]:
    """A run that ended by a signal has its books in order: no answer waits in the journal, every row is counted."""
    booked = {line["provider_request_id"] for line in session.table("attempts")}
    missing = sorted(set(session.provider.delivered) - booked)
    counted = summary.rows_completed + summary.rows_failed + summary.rows_pending
    return [
        *([f"{missing} reached us and are not in the ledger when the run ends"] if missing else []),
        *([f"{counted} rows are counted"] if counted != ROWS else []),
        *([f"exit code {summary.exit_code}"] if summary.exit_code not in (0, 143) else []),
    ]


def at_each_step(folder: Path, lane: str, ways: Sequence[Way] = WAYS, step: int = 1) -> Tally:
    """Before every ``step``-th step of a run; each way of ``WAYS`` begins at another, so that together they are at
    more of them."""
    tally, folder = Tally(), in_memory(folder)
    try:
        steps = steps_of(folder / "whole", lane)
        for way in ways:
            for at in range(WAYS.index(way) % step, steps, step):
                _one(folder / f"{way.__name__}-{at}", lane, way, at, tally)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return tally


def _one(folder: Path, lane: str, way: Way, at: int, tally: Tally) -> None:
    session = SmallRun(folder, lane, ROWS)
    found = cancelled(session, way, at)
    tally.faults += [f"{way.__name__} before step {at}: {sentence}" for sentence in found]
    tally.outputs, tally.kills = tally.outputs + 1, tally.kills + 1
    tally.acknowledged += len(session.provider.delivered)
    tally.ambiguous += sum(line["state"] == "ambiguous" for line in session.table("attempts"))
    shutil.rmtree(folder)
