"""What was spent since a moment, by shard: by the time each attempt was sent, in whichever part it stands."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from checkpoint_rows import COST_TICKS, START, an_answer, an_intent, ask, classify, open_store

from batchvision.checkpoint import LedgerSums, OutputView, SealAfter, compact, spent_by_shard
from batchvision.records import Shard

pytestmark = pytest.mark.anyio

MIDNIGHT = datetime(2026, 11, 27, tzinfo=START.tzinfo)
LATE = MIDNIGHT + timedelta(hours=3)


async def a_long_run(output: Path, shard: str = "0of1") -> None:
    """Begun a week before midnight; three of its rows are sent after it, one of them is in flight as it dies."""
    with open_store(output, run_id="long", shard=shard, seal_after=SealAfter(attempts=2)) as store:
        store.recover(classify)
        store.row_index("recipe")
        for number in range(1, 5):
            await ask(store, an_intent(number, sent_at=START + timedelta(days=number)), an_answer())
        for number in range(5, 7):
            await ask(store, an_intent(number, sent_at=LATE), an_answer())
        await store.intent(an_intent(7, sent_at=LATE))


async def test_a_run_of_a_week_ago_that_was_sending_today_counts_today(tmp_path: Path) -> None:
    await a_long_run(tmp_path)
    with open_store(tmp_path, run_id="next", started_at=LATE) as store:
        store.recover(classify)
    assert spent_by_shard(tmp_path, MIDNIGHT) == {Shard(): LedgerSums(2 * COST_TICKS, 100)}
    assert spent_by_shard(tmp_path) == {Shard(): LedgerSums(6 * COST_TICKS, 100)}
    assert OutputView(tmp_path).sums() == LedgerSums(6 * COST_TICKS, 100)
    compact(tmp_path)
    assert spent_by_shard(tmp_path, MIDNIGHT) == {Shard(): LedgerSums(2 * COST_TICKS, 100)}


async def test_the_very_moment_counts_and_each_shard_is_added_up_by_itself(tmp_path: Path) -> None:
    for shard, sent_at in (("0of2", MIDNIGHT), ("1of2", MIDNIGHT - timedelta(microseconds=1))):
        with open_store(tmp_path, run_id="run", shard=shard) as store:
            store.recover(classify)
            store.row_index("recipe")
            await ask(store, an_intent(1, sent_at=sent_at), an_answer())
            await store.close(complete=True)
    assert {shard: sums.ticks for shard, sums in spent_by_shard(tmp_path, MIDNIGHT).items()} == {
        Shard(0, 2): COST_TICKS,
        Shard(1, 2): 0,
    }
