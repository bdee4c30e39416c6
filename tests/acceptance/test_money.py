"""The proofs of ``scripts/money``, short: every tick of the bill is found; what a pilot says of the whole is true."""

from __future__ import annotations

from pathlib import Path

import pytest
from proofs import pilot
from proofs.money import missing_kinds, play


@pytest.mark.timeout(300)
def test_after_faults_and_a_kill_every_tick_is_in_the_ledger_or_listed_by_row(tmp_path: Path) -> None:
    account = play(tmp_path, rows=400, seed=1, share=0.4)
    assert account.wrong == []
    assert account.exits[0] == -9
    assert account.unsure_billed_ticks > 0
    assert len(missing_kinds(account)) < 12, "most kinds of faults have hit something"


def test_the_bill_for_the_whole_lies_in_the_interval_that_a_pilot_told() -> None:
    found = list(pilot.tell(rows=120, asked=20, seeds=3, rule="tiles", restless=0.2, images=15))
    assert pilot.faults(found) == []
    assert all(told.share > 0 for told in found)


def test_a_pilot_of_the_first_rows_of_a_sorted_manifest_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pilot.SamplingFrame, "choose", pilot.first_rows)
    found = list(pilot.tell(rows=120, asked=20, seeds=2, rule="area", restless=0.2, images=15))
    assert not any(told.is_hit for told in found)
