"""Where rows stand, and what an output shows to others."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Event

import pyarrow as pa
import pytest
from checkpoint_rows import (
    COST_TICKS,
    START,
    a_failed,
    an_answer,
    an_intent,
    ask,
    classify,
    open_store,
)
from many_parts import a_summary

from batchvision.checkpoint import Carried, KeySet, OutputView, RowIndex, RowState, Store, read_latest, summary_document
from batchvision.checkpoint.keyset import Bucket, Heads, Tails
from batchvision.checkpoint.lock import lock_path
from batchvision.checkpoint.manifest_index import RowsMet
from batchvision.checkpoint.row_keys import pair
from batchvision.checkpoint.summaries import load_recipe
from batchvision.errors import CheckpointDamaged, JobInvalid
from batchvision.keys import KEY_BYTES, key_bytes

pytestmark = pytest.mark.anyio

SUMMARY = a_summary()


def started(output: Path, **options: object) -> Store:
    store = open_store(output, **options)
    store.recover(classify)
    return store


async def a_run(output: Path) -> None:
    """Row 1 completed, row 2 failed, row 3 tried once and pending, row 4 with an open ticket, row 5 in flight."""
    with started(output) as store:
        await ask(store, an_intent(1), an_answer())
        await ask(store, an_intent(2, cost_before_ticks=5), an_answer(b"no", 400))
        await ask(store, an_intent(3, cost_before_ticks=6), an_answer(b"busy", 503))
        await store.intent(an_intent(4))
        await store.ticket("x4", "ticket-4", START)
        await store.intent(an_intent(5))
        await store.close(complete=False)


# ---------------------------------------------------------------------------------- standing


@pytest.mark.parametrize("key", ["key", "skip"])
async def test_a_row_is_known_by_either_of_its_keys(tmp_path: Path, key: str) -> None:
    await a_run(tmp_path)
    with open_store(tmp_path, run_id="run2") as store:
        store.recover(classify, hold=True)
        row_index = store.row_index("recipe")
        states = [row_index.state(f"row{number}", f"{key}{number}") for number in range(1, 7)]
    assert states == [
        RowState.DONE,
        RowState.FAILED,
        RowState.NEW,
        RowState.AWAITING,
        RowState.HELD,
        RowState.NEW,
    ]


async def test_a_row_whose_key_has_changed_is_new_and_carries_nothing(tmp_path: Path) -> None:
    await a_run(tmp_path)
    with open_store(tmp_path, run_id="run2") as store:
        store.recover(classify, hold=True)
        row_index = store.row_index("recipe")
        assert {row_index.state(f"row{number}", "changed") for number in range(1, 6)} == {RowState.NEW}
        assert row_index.carried("row3", "changed") == Carried(0, 0, 0, 0)
        assert row_index.failed_before("row2", "changed") is None


async def test_what_was_used_up_goes_on_whether_the_row_failed_or_is_pending(tmp_path: Path) -> None:
    await a_run(tmp_path)
    with started(tmp_path) as store:
        row_index = store.row_index("recipe")
        assert row_index.carried("row2", "skip2") == Carried(1, 5, 1, 0)
        assert row_index.carried("row3", "key3") == Carried(1, 6, 0, 0)
        assert row_index.carried("row5", "key5") == Carried(1, 0, 0, 0)
        assert row_index.carried("row1", "key1") == Carried(0, 0, 0, 0)
        failed = row_index.failed_before("row2", "key2")
        assert failed is not None
        assert failed.keep == {"title": "title 2"}


async def test_whatever_is_known_of_a_row_that_is_not_done_it_is_met_before(tmp_path: Path) -> None:
    await a_run(tmp_path)
    with open_store(tmp_path, run_id="run2") as store:
        store.recover(classify, hold=True)
        row_index = store.row_index("recipe")
        rows = [f"row{number}" for number in (6, 5, 4, 3, 2, 7)]
        assert [rows[at] for at in row_index.met_before(rows)] == ["row5", "row4", "row3", "row2"]
        assert row_index.met_before(["row1", "row6"]) == []


async def test_done_rows_are_passed_over_by_the_batch_under_either_key(tmp_path: Path) -> None:
    await a_run(tmp_path)
    with started(tmp_path) as store:
        row_index = store.row_index("recipe")
        ids = pa.array(["row1", "row1", "row2", "row1", "row2"])
        keys = b"".join(map(key_bytes, ["key1", "skip1", "key2", "skip2", "key1"]))
        assert row_index.not_done(ids, keys) == [2, 3, 4]
        assert [row_index.is_done("row1", "key1"), row_index.is_done("row2", "key2")] == [True, False]
        assert row_index.answered.contains(key_bytes("key1"))
        assert not row_index.answered.contains(key_bytes("skip1"))


def ask_from_two_threads(row_index: RowIndex, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], bool]:
    """The answers for a done row: of the feed thread, and of the event loop, which asks while the first question sorts
    keys, if it does."""
    sorts, has_asked, add = Event(), Event(), Bucket.add

    def waiting_add(bucket: Bucket, heads: Heads, tails: Tails) -> None:
        sorts.set()
        has_asked.wait(60)
        add(bucket, heads, tails)

    monkeypatch.setattr(Bucket, "add", waiting_add)
    with ThreadPoolExecutor(1) as feed:
        asked = feed.submit(row_index.not_done, pa.array(["row1"]), key_bytes("skip1"))
        asked.add_done_callback(lambda _: sorts.set())
        sorts.wait(60)
        try:
            is_done = row_index.is_done("row1", "key1")
        finally:
            has_asked.set()
        return asked.result(), is_done


async def test_a_done_row_is_found_by_two_threads_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await a_run(tmp_path)
    with started(tmp_path) as store:
        assert ask_from_two_threads(store.row_index("recipe"), monkeypatch) == ([], True)


async def test_an_index_whose_first_question_sorts_its_keys_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await a_run(tmp_path)
    with started(tmp_path) as store:
        with monkeypatch.context() as sabotage:
            sabotage.setattr(KeySet, "settle", lambda keys: None)
            row_index = store.row_index("recipe")
        assert ask_from_two_threads(row_index, monkeypatch) == ([], False)


def test_rows_met_are_those_of_the_manifest_done_or_not() -> None:
    keys = [bytes([number]) * KEY_BYTES for number in range(5)]
    done = KeySet(keys[:3])
    done.settle()
    met = RowsMet(done)
    met.add(keys[1] + keys[3])
    met.add_done(keys[2])
    assert met.contain(b"".join(keys)).tolist() == [False, True, True, True, False]
    met.begin()
    assert met.contain(b"".join(keys)).tolist() == [False, True, True, False, False], "the pass meets the others again"
    met.add(keys[3])
    met.is_complete = True
    met.add(keys[0] + keys[4])
    assert met.contain(b"".join(keys)).tolist() == [False, True, True, True, False], "nothing is added after the pass"


def noted(row_index: RowIndex) -> tuple[list[str], list[bool]]:
    """The open rows that were met, and which rows of :func:`a_run` were met under a key."""
    rows, keys = [f"row{number}" for number in range(1, 7)], [f"key{number}" for number in range(1, 7)]
    records = [a_failed(an_intent(number), "refused") for number in range(1, 7)]
    met = row_index.met.contain(b"".join(map(pair, rows, keys)))
    return [each.row_id for each in records if row_index.met.has(each)], met.tolist()


async def test_a_question_to_the_row_index_notes_nothing(tmp_path: Path) -> None:
    await a_run(tmp_path)
    with open_store(tmp_path, run_id="run2") as store:
        store.recover(classify, hold=True)
        row_index = store.row_index("recipe")
        rows = [f"row{number}" for number in range(1, 7)]
        for number, row_id in enumerate(rows, 1):
            for key in (f"key{number}", f"skip{number}"):
                row_index.state(row_id, key)
                row_index.open_state(row_id, key)
                row_index.is_done(row_id, key)
                row_index.failed_before(row_id, key)
                row_index.carried(row_id, key)
            list(row_index.requests_of(row_id))
        ids = pa.array(rows)
        row_index.not_done(ids, b"".join(key_bytes(f"key{number}") for number in range(1, 7)))
        row_index.met_before(rows)
        row_index.were_paid(ids)
        row_index.are_elsewhere(ids)
        assert noted(row_index) == ([], [False] * 6)
        assert store.held_count == 0


async def test_of_the_rows_that_a_pass_meets_only_done_and_open_ones_are_noted_one_by_one(tmp_path: Path) -> None:
    await a_run(tmp_path)
    with open_store(tmp_path, run_id="run2") as store:
        store.recover(classify, hold=True)
        row_index = store.row_index("recipe")
        for number in range(1, 7):
            row_index.meet(f"row{number}", f"key{number}")
            row_index.meet(f"row{number}", "changed")
        assert noted(row_index) == (["row2", "row3", "row4", "row5"], [True, *[False] * 5])
        assert store.held_count == 1
        row_index.meet_all(pa.array(["row1", "row6"]), key_bytes("skip1") + key_bytes("key6"))
        assert noted(row_index)[1] == [True, *[False] * 4, True]


async def test_digests_of_the_parts_are_those_of_keys_whatever_the_row_id(tmp_path: Path) -> None:
    names = ["", "a:b", "é", "名前", "🙂", "12:34"]
    with started(tmp_path) as store:
        for number, name in enumerate(names):
            await ask(store, an_intent(number, row_id=name), an_answer())
        await store.close(complete=True)
    with started(tmp_path) as store:
        row_index = store.row_index("recipe")
        assert all(row_index.state(name, f"key{number}") is RowState.DONE for number, name in enumerate(names))


async def test_a_row_is_elsewhere_when_its_newest_answer_is_of_another_recipe(tmp_path: Path) -> None:
    with started(tmp_path) as store:
        for number, recipe in ((1, "old"), (1, "older"), (2, "old"), (3, "old"), (3, "new"), (4, "new")):
            key = f"{recipe}-{number}"
            row = an_intent(number, exchange_id=key, request_key=key, skip_key=f"s{key}", recipe_id=recipe)
            await ask(store, row, an_answer())
        await store.close(complete=True)
    with started(tmp_path) as store:
        row_index, ids = store.row_index("new"), pa.array([f"row{number}" for number in range(1, 6)])
        assert row_index.are_elsewhere(ids) == [True, True, False, False, False]
        paid = row_index.paid_rows()
        places = paid.find(ids)
        assert (places >= 0).tolist() == [True, True, True, True, False]
        assert [paid.recipes[number] for number in paid.newest_recipes(places[:4])] == ["older", "old", "new", "new"]
        assert paid.have_current(places[:4]).tolist() == [False, False, True, True]
        assert paid.ticks(places[:2]) == 2 * COST_TICKS
        assert row_index.state("row1", "old-1") is RowState.NEW
        assert store.row_index("old").state("row1", "old-1") is RowState.DONE


async def test_the_ledgers_sums_are_those_of_all_runs_and_shards(tmp_path: Path) -> None:
    for number, shard in ((1, "0of2"), (2, "1of2"), (3, "0of2")):
        with started(tmp_path, run_id=f"run{number}", shard=shard) as store:
            await ask(store, an_intent(number), an_answer())
            await store.intent(an_intent(number + 10))
    for shard in ("0of2", "1of2"):
        started(tmp_path, run_id="last", shard=shard).release()
    with started(tmp_path) as store:
        row_index = store.row_index("recipe")
        assert (row_index.spent_ticks, row_index.ambiguous_ticks) == (3 * COST_TICKS, 300)


async def test_this_runs_carries_are_seen_at_once(tmp_path: Path) -> None:
    with started(tmp_path) as store:
        row_index = store.row_index("recipe")
        await ask(store, an_intent(1, cost_before_ticks=3), an_answer(b"busy", 503))
        assert row_index.carried("row1", "key1") == Carried(1, 3, 0, 0)


async def test_a_row_that_fails_in_the_same_way_again_keeps_its_record(tmp_path: Path) -> None:
    failed = a_failed(an_intent(1), "row_invalid")
    with started(tmp_path) as store:
        store.file(failed)
        store.file(replace(failed, failed_at=START + timedelta(days=1), run_id="run2"))
        assert store.failures() == (failed,)
        worse = replace(failed, runs_failed=2, failed_at=START + timedelta(days=1))
        store.file(worse)
        assert store.failures() == (worse,)


# ---------------------------------------------------------------------------------- an output as others see it


async def test_a_view_counts_and_lists_without_the_lock(tmp_path: Path) -> None:
    await a_run(tmp_path)
    with started(tmp_path, run_id="run2"):
        view = OutputView(tmp_path)
        assert view.exists
        assert (view.count("results"), view.count("failures"), view.count("attempts")) == (1, 1, 4)
        assert [batch["error_kind"].to_pylist() for batch in view.rows("failures")] == [["request_rejected"]]
        assert view.quarantined_count() == 0
        assert view.sums() == (COST_TICKS, 100)
        assert [(line.row_id, line.bound_ticks) for line in view.ambiguous()] == [("row5", 100)]
        rows = [row for batch in view.rows("results", ("row_id", "title")) for row in batch.to_pylist()]
        assert rows == [{"row_id": "row1", "title": "title 1"}]


async def test_a_view_shows_what_is_open_while_a_run_writes(tmp_path: Path) -> None:
    await a_run(tmp_path)
    work = OutputView(tmp_path).open_work()
    assert [intent.row_id for intent in work.in_flight] == ["row5"]
    assert [intent.row_id for intent in work.tickets] == ["row4"]
    with open_store(tmp_path) as store:
        store.recover(classify, hold=True)
        await store.intent(an_intent(6))
        await ask(store, an_intent(7), an_answer())
        work = OutputView(tmp_path).open_work()
        assert [intent.row_id for intent in work.in_flight] == ["row6"]
        assert [carry.row_id for carry in work.held] == ["row5"]


def test_a_view_of_nothing_is_empty(tmp_path: Path) -> None:
    view = OutputView(tmp_path / "none")
    assert not view.exists
    assert view.latest() is None
    assert view.sums() == (0, 0)
    assert list(view.rows("results")) == []
    assert view.open_work() == ((), (), (), None)


async def test_the_current_answer_is_that_of_the_recipe_or_else_the_newest(tmp_path: Path) -> None:
    answers = [  # row, recipe, key, minute
        (1, "old", "a", 0),
        (1, "new", "b", 1),
        (2, "old", "c", 5),
        (2, "older", "d", 2),
        (3, "new", "e", 1),
        (3, "new", "f", 3),  # its prompt's cell has changed
    ]
    with started(tmp_path) as store:
        for number, recipe, key, minute in answers:
            intent = an_intent(number, exchange_id=key, request_key=key, recipe_id=recipe)
            raw = an_answer(key.encode())
            await ask(store, intent, raw._replace(received_at=START + timedelta(minutes=minute)))
        await store.close(complete=True)
    view = OutputView(tmp_path)

    def shown(recipe_id: str | None) -> list[str]:
        batches = view.current_results(recipe_id, ("output_text",))
        return [text for batch in batches for text in batch["output_text"].to_pylist()]

    assert shown("new") == ["b", "c", "f"]
    assert shown("old") == ["a", "c", "f"]
    assert shown(None) == ["b", "c", "f"]
    assert [batch.num_columns > 30 for batch in view.current_results("new")] == [True]


# ---------------------------------------------------------------------------------- summaries and recipes


def test_a_summary_is_written_twice_and_read_back_as_it_was(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        assert read_latest(store.output) is None
        store.write_summary(SUMMARY)
        assert read_latest(store.output) == SUMMARY
    runs = tmp_path / "runs"
    assert (runs / "run1.json").read_bytes() == (runs / "latest.json").read_bytes()
    assert json.loads((runs / "run1.json").read_text())["parts"][0]["rows"] == 1
    assert summary_document(SUMMARY)["failures_by_kind"] == {"refused": 1}


def test_fields_of_a_later_version_are_left_out_of_a_summary(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.write_summary(SUMMARY)
    path = tmp_path / "runs" / "latest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "carbon_grams": 12}))
    assert read_latest(tmp_path) == SUMMARY


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_a_summary_that_cannot_be_read_says_what_to_do(tmp_path: Path, content: str) -> None:
    path = tmp_path / "runs" / "latest.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(CheckpointDamaged, match="delete it"):
        read_latest(tmp_path)


def test_a_recipe_that_is_gone_or_damaged_says_so(tmp_path: Path) -> None:
    with pytest.raises(JobInvalid, match="missing"):
        load_recipe(tmp_path, "abc")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "abc.json").write_text("{")
    with pytest.raises(CheckpointDamaged, match="damaged"):
        load_recipe(tmp_path, "abc")


def test_the_lock_file_does_not_make_an_output_held(tmp_path: Path) -> None:
    open_store(tmp_path).release()
    assert lock_path(tmp_path, "0of1").exists()
    open_store(tmp_path).release()
