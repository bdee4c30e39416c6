"""Three runs under faults of every kind, one of them killed: every tick of the bill is found (``scripts/money``)."""

from __future__ import annotations

from pathlib import Path

import pytest
from proofs.money import missing_kinds, play


@pytest.mark.timeout(300)
def test_after_faults_and_a_kill_every_tick_is_in_the_ledger_or_listed_by_row(tmp_path: Path) -> None:
    account = play(tmp_path, rows=400, seed=1, share=0.4)
    assert account.wrong == []
    assert account.exits[0] == -9
    assert account.unsure_billed_ticks > 0
    assert len(missing_kinds(account)) < 12, "most kinds of faults have hit something"
