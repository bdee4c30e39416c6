"""A run cancelled at every third point at which it can be, each way at others; ``scripts/crash --deep`` is at all."""

from __future__ import annotations

from types import SimpleNamespace

import anyio
import pytest
from observed_run import LANES, SmallRun
from proofs.cancelling import WAYS, at_each_step, cancelled, signals_twice, steps_of

pytestmark = pytest.mark.timeout(600)  # a busy machine


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("way", WAYS)
def test_cancelled_at_any_step_a_run_loses_nothing_and_buys_nothing_twice(tmp_path, lane, way):
    tally = at_each_step(tmp_path / "nights", lane, [way], step=len(WAYS))
    assert tally.faults == []
    assert tally.kills >= steps_of(tmp_path / "whole", lane) // len(WAYS) > 30, "every third step, and none left out"
    assert min(tally.acknowledged, tally.ambiguous) > 0, "cancelling that hurt nobody proves nothing"


def test_a_shield_that_does_not_hold_is_caught(tmp_path, monkeypatch):
    """Sabotage: no-shield."""
    leaky = SimpleNamespace(CancelScope=lambda shield: anyio.CancelScope())
    monkeypatch.setattr("batchvision.runner.exchange.anyio", leaky)
    for at in reversed(range(steps_of(tmp_path / "whole", "deferred"))):
        found = cancelled(SmallRun(tmp_path / str(at), "deferred", 3), signals_twice, at)
        if any("were read and lost" in sentence for sentence in found):
            return
    pytest.fail("no step was found at which it matters")
