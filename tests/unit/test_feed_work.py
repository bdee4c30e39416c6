"""The second pass gives the rows that are to do, each once, and every other row is counted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchvision import keys
from batchvision.checkpoint import RowIndex, RowState, StoredRequest
from batchvision.errors import JobInvalid, ManifestChanged
from batchvision.images import ImageFolder, stamp
from batchvision.job import Job
from batchvision.keys import row_digest
from batchvision.manifest import LocalInput
from batchvision.records import Failed, ImageKind, ImageSlot, Row
from batchvision.runner.feed import KnownRows, NoKnownRows, PassCounts, Selection, checking, feed, survey
from batchvision.runner.feed.keying import skip_key_of
from batchvision.runner.feed.surveying import SurveyedInput

Ask = Callable[..., Job]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """A job over a table of columns (Parquet) or over text (by the name's suffix)."""

    def make(content: str | dict[str, Any], name: str = "m.csv", **sections: Any) -> Job:
        path = tmp_path / ("m.parquet" if isinstance(content, dict) else name)
        if isinstance(content, dict):
            pq.write_table(pa.table(content), path)
        else:
            path.write_text(content, encoding="utf-8", newline="")
        manifest = {"path": path.name, "id": "id", **sections.pop("manifest", {})}
        table = {
            "name": "j",
            "manifest": {key: value for key, value in manifest.items() if value is not None},
            "prompt": {"user": "Describe {title}."},
            "provider": {"name": "emulator", "model": "m"},
        }
        return Job.from_mapping({**table, **sections}, tmp_path)

    return make


class Known(NoKnownRows):
    """A standing by row_id; failures by kind."""

    def __init__(self, done: Iterable[str] = (), failed: dict[str, str] | None = None, **states: Iterable[str]) -> None:
        self.done = set(done)
        self.failed = failed or {}
        self.states = {row_id: RowState[state.upper()] for state, ids in states.items() for row_id in ids}
        self.quarantined: set[str] = set()
        self.elsewhere: set[str] = set()
        self.keys: dict[str, str] = {}

    def not_done(self, ids: pa.Array, keys: bytes) -> list[int]:
        return [place for place, row_id in enumerate(ids.to_pylist()) if row_id not in self.done]

    def met_before(self, row_ids: Sequence[str]) -> list[int]:
        return [at for at, each in enumerate(row_ids) if each in self.failed or each in self.states]

    def open_state(self, row_id: str, key: str) -> RowState:
        self.keys[row_id] = key
        return RowState.FAILED if row_id in self.failed else self.states.get(row_id, RowState.NEW)

    def failed_before(self, row_id: str, key: str) -> Failed | None:
        at = datetime(2026, 1, 1, tzinfo=UTC)
        return Failed(
            row_id,
            None,
            key,
            "r",
            self.failed[row_id],
            "m",
            None,
            1,
            0,
            1,
            row_id in self.quarantined,
            None,
            at,
            "run",
            {},
        )

    def were_paid(self, ids: pa.Array) -> list[bool]:
        return [False] * len(ids)

    def requests_of(self, row_id: str) -> list[StoredRequest]:
        return []

    def are_elsewhere(self, ids: pa.Array) -> list[bool]:
        return [row_id in self.elsewhere for row_id in ids.to_pylist()]


def batched_hex(keys: bytes) -> list[str]:
    return [keys[at : at + 16].hex() for at in range(0, len(keys), 16)]


def passed(job: Job, row_index: KnownRows | None = None, **selection: Any) -> tuple[list[Row], PassCounts]:
    """All rows of one pass, and the sums of its batches."""
    chosen = Selection(**selection)
    surveyed = survey(job, chosen)
    batches = list(feed(job, surveyed, row_index or NoKnownRows(), chosen))
    rows = [row for batch in batches for row in batch.rows]
    sums = PassCounts(*map(sum, zip(*(astuple(batch.counts) for batch in batches), strict=True)))
    counted = sums.done + sums.failed_kept + sums.awaiting + sums.held + sums.left + len(rows)
    assert counted == surveyed.rows, "every row is exactly one of these"
    return rows, sums


def ids(rows: Iterable[Row]) -> list[str]:
    return [row.row_id for row in rows]


def problems(rows: Iterable[Row]) -> dict[str, str | None]:
    return {row.row_id: row.problem for row in rows}


HUNDRED = "id,image,title\n" + "".join(f"r{number},https://h/{number}.jpg,t{number}\n" for number in range(100))


# ---------------------------------------------------------------------------------- rows


def test_a_row_has_all_parts_of_its_request(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"image")
    job = ask("id,front,back,title,price\n007,a.jpg,https://h/b.jpg,Boot,9.90\n", manifest={
        "images": ["front", "back"], "keep": {"cost": "price", "title": "title"},
    }, prompt={"user": "{image:back} {title}{image}!"})  # fmt: skip
    (row,), _ = passed(job)
    assert (row.position, row.row_id, row.problem, row.keep) == (1, "007", None, ("9.90", "Boot"))
    assert row.prompt == (ImageSlot("back"), " Boot", ImageSlot(""), "!")
    assert [(ref.kind, ref.reference, ref.slot) for ref in row.images] == [
        (ImageKind.PATH, "a.jpg", "front"),
        (ImageKind.URL, "https://h/b.jpg", "back"),
    ]
    stamps = [part for ref in row.images for part in (ref.slot, stamp(ref, ImageFolder(job.root), "content"))]
    assert row.skip_key == keys.skip_key(job.recipe.recipe_id, keys.hashed_text(row.prompt), stamps), (
        "placed by name: the name counts"
    )


def test_a_touched_file_has_a_new_skip_key_and_the_same_id(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"image")
    job = ask("image,title\na.jpg,t\n", manifest={"id": None})
    (before,), _ = passed(job)
    os.utime(tmp_path / "a.jpg", ns=(1, 1))
    (after,), _ = passed(job)
    assert before.row_id == after.row_id
    assert before.skip_key != after.skip_key


def test_the_same_table_has_the_same_keys_in_every_form(ask: Ask) -> None:
    text = ask("id,image,title\n1,https://h/a.jpg,Boot\n2,b.jpg,\n")
    lines = ask(
        '{"id": 1, "image": "https://h/a.jpg", "title": "Boot"}\n{"id": 2, "image": ["b.jpg"]}\n{"title": null}\n',
        "m.jsonl",
    )
    table = ask({"id": [1, 2], "image": [["https://h/a.jpg"], ["b.jpg"]], "title": pa.array(["Boot", None])})
    found = [[(row.row_id, row.skip_key) for row in passed(job)[0][:2]] for job in (text, lines, table)]
    assert found[0] == found[1] == found[2]


def test_rows_that_come_go_or_move_change_no_other_row(ask: Ask) -> None:
    lines = HUNDRED.splitlines(keepends=True)
    before, _ = passed(ask("".join(lines)))
    after, _ = passed(ask("".join([lines[0], "new,n.jpg,n\n", *reversed(lines[50:])])))
    known = {(row.row_id, row.skip_key) for row in before}
    assert {(row.row_id, row.skip_key) for row in after if row.row_id != "new"} <= known


def test_kept_cells_are_json_ready_and_fit_their_types(ask: Ask) -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    table = {
        "id": ["a"],
        "image": ["x"],
        "title": ["t"],
        "at": [moment],
        "raw": [b"\x00"],
        "big": pa.array([2**64 - 1], pa.uint64()),
    }
    job = ask(table, manifest={"keep": ["at", "raw", "big"]})
    (row,), _ = passed(job)
    assert row.keep == ("2026-01-02T00:00:00.000000Z", "AA==", "18446744073709551615")
    assert [str(given) for _, given in survey(job).keep_types] == [
        "timestamp[us, tz=UTC]",
        "binary",
        "decimal128(20, 0)",
    ]


def test_images_in_cells_travel_with_their_row(ask: Ask) -> None:
    shape = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    job = ask({"id": [1], "image": pa.array([{"bytes": b"x", "path": "a.png"}], shape), "title": ["t"]})
    (row,), _ = passed(job)
    assert [(ref.kind, ref.reference, ref.content) for ref in row.images] == [(ImageKind.BYTES, "a.png", b"x")]


# ---------------------------------------------------------------------------------- rows that are invalid


def test_each_invalid_row_has_its_problem_and_valid_rows_are_sent(ask: Ask) -> None:
    job = ask({
        "id": ["ok", None, "ok", "null", "none", "nul", "nul-image", "nul-kept", ""],
        "image": ["a", "b", "c", "d", None, "f", "g\x00.jpg", "h", "i"],
        "ask": ["p", "p", "p", None, "p", "p\x00", "p", "p", "p"],
        "note": ["n", "n", "n", "n", "n", "n", "n", "x\x00y", "n"],
    }, manifest={"keep": ["note"]}, prompt={"column": "ask"})  # fmt: skip
    rows, _ = passed(job)
    assert problems(rows) == {
        "ok": None,
        "#2": "it has no id: id must not be empty",
        "ok#2": "row_id ok appears first in row 1",
        "null": "its prompt is null (column 'ask')",
        "none": "it has no image (column 'image')",
        "nul": "its cell 'ask' holds a NUL character",
        "nul-image": "an image reference holds a NUL character",
        "nul-kept": "its cell 'note' holds a NUL character",
        "#9": "it has no id: id must not be empty",
    }
    assert sum(row.problem is not None for row in rows) == 8
    assert rows[7].keep == ("x\ufffdy",)
    assert all(row.prompt == () and row.images == () for row in rows if row.problem)


def test_an_id_with_a_nul_is_invalid_and_stored_without_it(ask: Ask) -> None:
    (row,), _ = passed(ask({"id": ["a\x00b"], "image": ["x"], "title": ["t"]}))
    assert (row.row_id, row.problem) == ("a\ufffdb", "its id holds a NUL character")


def test_an_invalid_rows_key_stays_while_its_problem_does(ask: Ask) -> None:
    row_index = Known(failed={"a#2": "row_invalid"})
    job = ask("id,image,title\na,x,t\na,y,t\n")
    passed(job, row_index)
    first = row_index.keys["a#2"]
    rows, _ = passed(job, row_index)
    assert row_index.keys["a#2"] == first == rows[1].skip_key != rows[0].skip_key


def test_a_third_row_with_one_id_gets_an_id_of_its_own(ask: Ask) -> None:
    rows, _ = passed(ask("id,image,title\na,x,t\nb,x,t\na,y,t\na,z,t\n"))
    assert ids(rows) == ["a", "b", "a#2", "a#3"]
    assert rows[3].problem == "row_id a appears first in row 1"


def test_without_an_id_rows_that_are_alike_are_counted_and_valid(ask: Ask) -> None:
    rows, _ = passed(ask("image,title\nx,t\ny,t\nx,t\nx,t\n", manifest={"id": None}))
    first = rows[0].row_id
    assert ids(rows) == [first, rows[1].row_id, f"{first}-2", f"{first}-3"]
    assert not any(row.problem for row in rows)


def test_a_null_cell_in_a_template_is_no_problem(ask: Ask) -> None:
    (row,), _ = passed(ask("id,image,title\na,x,\n"))
    assert (row.prompt, row.problem) == (("Describe .",), None)


# ---------------------------------------------------------------------------------- rows that are not to do


def test_every_standing_is_counted_and_only_new_rows_come(ask: Ask) -> None:
    row_index = Known(done=["r1", "r2"], failed={"r3": "refused"}, awaiting=["r4"], held=["r5", "r6"])
    rows, sums = passed(ask(HUNDRED), row_index, retry_failed=frozenset({"server_error"}))
    assert (sums.done, sums.failed_kept, sums.awaiting, sums.held) == (2, 1, 1, 2)
    assert len(rows) == 94


def test_done_rows_are_known_by_id_and_key_and_never_asked_about_again(ask: Ask) -> None:
    job = ask(HUNDRED)
    rows, _ = passed(job)
    done = {(row.row_id, row.skip_key) for row in rows}

    class AllDone(NoKnownRows):
        def not_done(self, ids: pa.Array, keys: bytes) -> list[int]:
            asked = zip(ids.to_pylist(), batched_hex(keys), strict=True)
            return [place for place, pair in enumerate(asked) if pair not in done]

        def open_state(self, row_id: str, key: str) -> RowState:
            raise AssertionError("a done row was looked at")

    assert passed(job, AllDone())[1].done == 100


class AskedAbout(Known):
    """Asked about each row, one by one."""

    def met_before(self, row_ids: Sequence[str]) -> list[int]:
        return list(range(len(row_ids)))


@pytest.mark.parametrize("limit", [None, 0, 1, 30, 93, 94, 500])
@pytest.mark.parametrize("others", [{}, {"sample": 50}])
def test_rows_counted_at_once_are_counted_as_one_by_one(ask: Ask, limit: int | None, others: dict[str, Any]) -> None:
    job, selection = ask(HUNDRED), {"limit": limit, "retry_failed": frozenset({"server_error"}), **others}
    failed = {"r3": "refused", "r90": "server_error"}
    at_once, one_by_one = (
        kind(done=["r1", "r2"], failed=failed, awaiting=["r4"], held=["r5"]) for kind in (Known, AskedAbout)
    )
    assert passed(job, at_once, **selection) == passed(job, one_by_one, **selection)
    is_at_once = limit == 0 or (limit is None and not others)
    assert len(at_once.keys) == (len(failed) + 2 if is_at_once else len(one_by_one.keys))


def test_failed_rows_are_retried_by_kind(ask: Ask) -> None:
    failed = {"r1": "refused", "r2": "image_unreachable"}
    assert passed(ask(HUNDRED), Known(failed=failed), retry_failed=None)[1].failed_kept == 0
    assert passed(ask(HUNDRED), Known(failed=failed), retry_failed=frozenset())[1].failed_kept == 2
    row_index = Known(failed=failed)
    rows, sums = passed(ask(HUNDRED), row_index, retry_failed=frozenset({"image_unreachable"}))
    assert (sums.failed_kept, "r2" in ids(rows)) == (1, True)


def test_rows_set_aside_come_back_only_when_asked(ask: Ask) -> None:
    row_index = Known(failed={"r1": "truncated"})
    row_index.quarantined = {"r1"}
    assert passed(ask(HUNDRED), row_index)[1].quarantined == 1
    assert "r1" in ids(passed(ask(HUNDRED), row_index, retry_quarantined=True)[0])


def test_rows_done_under_another_recipe_are_left_when_only_new_rows_are_wanted(ask: Ask) -> None:
    row_index = Known()
    row_index.elsewhere = {"r1", "r2"}
    assert passed(ask(HUNDRED), row_index)[1].left == 0
    assert passed(ask(HUNDRED, output={"on_recipe_change": "new_rows_only"}), row_index)[1].left == 2


# ---------------------------------------------------------------------------------- selections


def test_a_limit_is_of_rows_that_are_sent(ask: Ask) -> None:
    job = ask("id,image,title\na,,t\n" + HUNDRED.partition("\n")[2])
    row_index = Known(done=["r0"], failed={"r50": "server_error"})
    rows, sums = passed(job, row_index, limit=3)
    assert ids(rows) == ["a", "r1", "r2", "r3"]
    assert (sums.done, sums.failed_kept, sums.left) == (1, 1, 95)


def test_a_sample_is_drawn_from_the_rows_to_do_and_the_same_for_its_seed(ask: Ask) -> None:
    job = ask(HUNDRED)
    drawn = {seed: ids(passed(job, sample=10, seed=seed)[0]) for seed in (0, 1)}
    assert ids(passed(job, sample=10, seed=0)[0]) == drawn[0] != drawn[1]
    assert len(drawn[0]) == 10
    others = ids(passed(job, Known(done=drawn[0]), sample=10)[0])
    assert len(others) == 10 and not set(others) & set(drawn[0])
    ninety = [f"r{number}" for number in range(90)]
    assert len(passed(job, Known(done=ninety), sample=5)[0]) == 5
    assert len(passed(job, Known(done=ninety), sample=20)[0]) == 10
    assert len(passed(job, sample=1000)[0]) == 100


def test_shards_share_the_rows_and_keep_them_when_rows_are_added(ask: Ask) -> None:
    shares = [set(ids(passed(ask(HUNDRED), shard=shard, shards=3)[0])) for shard in range(3)]
    assert sorted(row_id for share in shares for row_id in share) == sorted(f"r{number}" for number in range(100))
    longer = ask(HUNDRED.replace("r0,", "new,n.jpg,n\nr0,"))
    assert all(shares[shard] <= set(ids(passed(longer, shard=shard, shards=3)[0])) for shard in range(3))


def test_repeated_ids_are_found_within_their_shard(ask: Ask) -> None:
    job = ask(HUNDRED + "r7,x.jpg,t\n")
    found = [row for shard in range(4) for row in passed(job, shard=shard, shards=4)[0] if row.problem]
    assert [(row.row_id, row.position, row.problem) for row in found] == [
        ("r7#2", 101, "row_id r7 appears first in row 8")
    ]


def test_a_second_pass_is_for_the_named_rows_only(ask: Ask) -> None:
    only = frozenset({row_digest("r3", ""), row_digest("r5", "")})
    rows, sums = passed(ask(HUNDRED), only=only)
    assert (ids(rows), sums.left) == (["r3", "r5"], 98)


def test_a_shard_has_the_name_its_files_bear() -> None:
    assert Selection(shard=2, shards=4).shard_name == "2of4"


# ---------------------------------------------------------------------------------- the stream


def test_long_prompts_make_short_batches(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "_PROMPT_CHARACTERS", 64 * 1024)
    job = ask(HUNDRED, prompt={"user": "x" * 2000 + "{title}"})
    batches = list(feed(job, survey(job), NoKnownRows()))
    assert [len(batch.rows) for batch in batches] == [64, 36]
    assert [row.position for batch in batches for row in batch.rows] == list(range(1, 101))


def test_a_manifest_that_changed_since_its_survey_stops_the_feed(ask: Ask, tmp_path: Path) -> None:
    job = ask(HUNDRED)
    surveyed = survey(job)
    os.utime(tmp_path / "m.csv", ns=(1, 1))
    with pytest.raises(JobInvalid, match="was changed while it was read"):
        next(feed(job, surveyed, NoKnownRows()))


def test_a_manifest_that_grows_during_the_pass_is_refused_at_its_end(ask: Ask, tmp_path: Path) -> None:
    job = ask(HUNDRED)
    batches = feed(job, survey(job), NoKnownRows())
    next(batches)
    (tmp_path / "m.csv").write_text(HUNDRED + "late,l.jpg,t\n")
    with pytest.raises(JobInvalid, match="was changed while it was read"):
        list(batches)


def test_text_written_into_a_manifest_during_the_pass_is_no_row(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program overwrites the file: the pass gives rows of the old content only."""
    monkeypatch.setattr("batchvision.manifest.delimited.BATCH_ROWS", 10)
    monkeypatch.setattr("batchvision.manifest.text_file._BLOCK_BYTES", 64)
    job = ask(HUNDRED)
    batches = feed(job, survey(job), NoKnownRows())
    rows = list(next(batches).rows)
    (tmp_path / "m.csv").write_text(HUNDRED.replace("r", "x") * 2)
    with pytest.raises(ManifestChanged, match="was changed while it was read") as caught:
        for batch in batches:
            rows += batch.rows
    assert caught.value.exit_code == 4
    assert 10 <= len(rows) < 100
    assert {row.row_id for row in rows} <= {line.partition(",")[0] for line in HUNDRED.splitlines()}


def test_damage_in_a_manifest_that_was_written_to_is_a_change_and_no_fault_of_a_line(ask: Ask, tmp_path: Path) -> None:
    job = ask(HUNDRED)
    surveyed = survey(job)
    batches = feed(job, surveyed, NoKnownRows())
    (tmp_path / "m.csv").write_text("no,such,header\nx\n")
    with pytest.raises(ManifestChanged):
        list(batches)


def test_damage_in_a_manifest_that_was_not_written_to_is_damage(ask: Ask, tmp_path: Path) -> None:
    job, path = ask(HUNDRED), tmp_path / "m.csv"
    surveyed = survey(job)
    path.write_text(HUNDRED + "ragged\n")
    surveyed = replace(surveyed, inputs=(SurveyedInput(LocalInput(path), LocalInput(path).identity()),))
    with pytest.raises(JobInvalid, match="1 cells") as caught:
        list(feed(job, surveyed, NoKnownRows()))
    assert not isinstance(caught.value, ManifestChanged)


def test_the_checkpoints_standing_answers_all_that_the_feed_asks() -> None:
    asked = [name for name in vars(KnownRows) if not name.startswith("_")]
    assert len(asked) == 10
    assert all(callable(getattr(RowIndex, name)) for name in asked)


# ---------------------------------------------------------------------------------- keys of one row, again


@pytest.mark.parametrize("prompt", ["Describe {title}.", "{image:back} is the back of {image:front}: {title}."])
def test_a_rows_skip_key_can_be_made_again_from_the_row(ask: Ask, tmp_path: Path, prompt: str) -> None:
    (tmp_path / "a.png").write_bytes(b"not looked into")
    url = "https://example.org/b.png?X-Amz-Signature=1"
    job = ask(
        {
            "id": ["1", "2", "3"],
            "title": ["one", "two", "three"],
            "front": ["a.png", None, "a.png;missing.png"],
            "back": ["https://example.org/b.png", "a.png", url],
        },
        manifest={"images": ["front", "back"], "image_separator": ";"},
        prompt={"user": prompt},
    )
    rows = [row for batch in feed(job, survey(job), NoKnownRows()) for row in batch.rows]
    assert [row.row_id for row in rows] == ["1", "2", "3"]
    for row in rows:
        assert skip_key_of(row, job, job.recipe.recipe_id) == row.skip_key
        assert skip_key_of(row, job, "another recipe") != row.skip_key
