"""The journal of a long deferred run grows with its open work only. ``scripts/simulate tickets`` plays a whole day."""

from __future__ import annotations

from pathlib import Path

import pytest
from ticket_stream import MOST_OF_LIVE_WORK, play

from batchvision.checkpoint import SealAfter
from batchvision.checkpoint import writer as writer_module


def test_the_journal_stays_below_three_times_the_open_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "SealAfter", lambda: SealAfter(attempts=100))
    disk = play(tmp_path, seconds=300, per_second=10, ticket_seconds=60)
    assert len(disk.seals) >= 10
    assert disk.most_live_rows >= 600
    assert 1 <= disk.most_of_live_work < MOST_OF_LIVE_WORK
