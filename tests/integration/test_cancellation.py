"""A run cancelled at every point at which it can be, and run again: nothing that reached us is lost or bought twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from stepped_time import SteppedLoop
from witness import EVERY_SO_MANY, LANES, SmallNight, broken_peace, broken_promises

from batchvision.records import RunSummary
from batchvision.stopping import Interrupted, StopSignal

ROWS = 3
pytestmark = pytest.mark.timeout(600)  # a busy machine


class Signals:
    """In the place of the operating system's: they come when the test says so."""

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


def signals_first(night: SmallNight, signals: Signals, loop: SteppedLoop) -> None:
    """SIGTERM, and a drain too short for what is in flight."""
    signals.first(loop)


def signals_twice(night: SmallNight, signals: Signals, loop: SteppedLoop) -> None:
    """SIGTERM twice: only what has been received is waited for."""
    signals.second(loop)


def cancels_all(night: SmallNight, signals: Signals, loop: SteppedLoop) -> None:
    """Whoever called ``run_async`` wants no more of it."""
    if night.everything is not None:
        night.everything.cancel()


Way = Callable[[SmallNight, Signals, SteppedLoop], None]


@pytest.fixture
def small_night(monkeypatch):
    """With few pollers, so that there are few steps."""
    monkeypatch.setattr("batchvision.lanes.deferred.POLLERS", 2)
    return SmallNight


def steps_of(folder: Path, lane: str) -> int:
    loop = SteppedLoop()
    assert SmallNight(folder, lane, ROWS).run(loop) is not None
    return loop.steps


def broken_off(folder: Path, lane: str, way: Way, at: int, monkeypatch: Any) -> tuple[SmallNight, RunSummary | None]:
    """A night that was cancelled before its ``at``-th step."""
    night, signals = SmallNight(folder, lane, ROWS), Signals()
    monkeypatch.setattr("batchvision.runner.stop_at_signals", signals)
    loop = SteppedLoop(at, lambda: way(night, signals, loop))
    return night, night.run(loop)


def what_is_wrong(folder: Path, lane: str, way: Way, at: int, monkeypatch: Any) -> list[str]:
    night, first = broken_off(folder, lane, way, at, monkeypatch)
    wrong = [] if first is None else _wrong_at_once(night, first)
    last = night.run()
    assert last is not None
    peace = broken_peace(night) if at % EVERY_SO_MANY == 0 else ()
    return [*wrong, *broken_promises(night, last), *peace]


def _wrong_at_once(night: SmallNight, summary: RunSummary) -> list[str]:
    """A run that ended by a signal has its books in order: no answer waits in the journal, every row is counted."""
    booked = {line["provider_request_id"] for line in night.table("attempts")}
    missing = sorted(set(night.provider.delivered) - booked)
    counted = summary.rows_completed + summary.rows_failed + summary.rows_pending
    return [
        *([f"{missing} reached us and are not in the ledger when the run ends"] if missing else []),
        *([f"{counted} rows are counted"] if counted != ROWS else []),
        *([f"exit code {summary.exit_code}"] if summary.exit_code not in (0, 143) else []),
    ]


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("way", [signals_first, signals_twice, cancels_all])
def test_cancelled_at_any_step_a_run_loses_nothing_and_buys_nothing_twice(
    tmp_path, monkeypatch, small_night, lane, way
):
    steps = steps_of(tmp_path / "whole", lane)
    assert steps > 100
    wrong = {
        at: found for at in range(steps) if (found := what_is_wrong(tmp_path / str(at), lane, way, at, monkeypatch))
    }
    assert wrong == {}


def test_a_shield_that_does_not_hold_is_caught(tmp_path, monkeypatch, small_night):
    """Sabotage: no-shield."""
    leaky = SimpleNamespace(CancelScope=lambda shield: anyio.CancelScope())
    monkeypatch.setattr("batchvision.exchange.anyio", leaky)
    for at in reversed(range(steps_of(tmp_path / "whole", "deferred"))):
        found = what_is_wrong(tmp_path / str(at), "deferred", signals_twice, at, monkeypatch)
        if any("were read and lost" in sentence for sentence in found):
            return
    pytest.fail("no step was found at which it matters")
