"""Small parts become few: every row stays, in its place, and once, whatever happens while they are merged."""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from checkpoint_rows import COLUMNS, START, a_completed, an_answer, an_intent, ask, classify, open_store, tree
from many_parts import CURRENT, OLD_AND_NEW, ROWS, an_answer_of, an_output, answered, index_of, pairs, rows_of
from modelled_disk import ModelledDisk
from proofs.recorded_disk import RecordedDisk, Remains, lay_out

from batchvision.checkpoint import OutputView, SealAfter, Store, compact, compaction, lineage, parts
from batchvision.checkpoint.current import superseded
from batchvision.checkpoint.disk import LocalDisk
from batchvision.checkpoint.parts import (
    ancestors_of,
    batches_of,
    dated_path,
    pad_part,
    part_paths,
    read_part,
    row_count,
    rows_with,
    schema_of,
    seal,
    sha256_of,
)
from batchvision.checkpoint.registry import register
from batchvision.checkpoint.schema import Columns, TableSchemas, results_schema
from batchvision.errors import CheckpointDamaged, DiskFailed, OutputHeld

# ---------------------------------------------------------------------------------- a merge


def test_all_rows_are_in_one_part_in_their_order_and_the_old_parts_are_gone(tmp_path: Path) -> None:
    output = an_output(tmp_path)
    before = read_part(part_paths(output, "results")[0]).schema
    compacted = compact(output)
    assert compacted.files_before == {"results": 4, "attempts": 4}
    assert compacted.files_after == {"results": 1, "attempts": 1}
    assert compacted.rows == {"results": 10, "attempts": 10}
    assert rows_of(output) == rows_of(output, "attempts") == ROWS
    assert len(list(output.rglob("*.parquet"))) == 2
    merged = part_paths(output, "results")[0]
    assert read_part(merged).schema.equals(before)
    assert OutputView(output).count("results") == 10


def test_a_part_says_what_it_was_made_of_also_through_others(tmp_path: Path) -> None:
    output = an_output(tmp_path)
    were = {path.name: (row_count(path), (sha256_of(path),)) for path in part_paths(output, "results")}
    compact(output)
    first = part_paths(output, "results")[0]
    were[first.name] = (10, (sha256_of(first),))
    an_output(output, sizes=(2, 5), run_id="run2", first=10)
    were |= {path.name: (row_count(path), (sha256_of(path),)) for path in part_paths(output, "results")[1:]}
    compact(output)
    (path,) = part_paths(output, "results")
    found = {each.name: (each.rows, each.sha256) for each in ancestors_of(path)}
    assert found == were
    spans = {each.name: (each.start, each.stop) for each in ancestors_of(path)}
    assert list(spans.values()) == [(0, 3), (3, 4), (4, 8), (8, 10), (0, 10), (10, 12), (12, 17)]


def test_the_name_holds_the_hash_of_the_bytes_stands_in_its_place_and_is_that_of_no_sealed_part(tmp_path: Path) -> None:
    output = an_output(tmp_path)
    names = [path.name for path in part_paths(output, "results")]
    merged = compaction.merge(LocalDisk(), output, part_paths(output, "results")[1:3])
    name = Path(merged.path).name
    assert lineage.is_merged(name)
    assert not any(map(lineage.is_merged, names))
    assert lineage.merged_name("part-0of1-run1-000002", sha256_of(output / merged.path)) == name
    assert [path.name for path in part_paths(output, "results")] == [names[0], name, names[3]]
    assert (merged.table, merged.rows, merged.sha256) == ("results", 5, sha256_of(output / merged.path))
    assert rows_of(output) == ROWS


def test_the_same_parts_make_the_same_file_and_a_second_time_nothing_is_left_to_do(tmp_path: Path) -> None:
    compact(an_output(tmp_path / "a"))
    compact(an_output(tmp_path / "b"))
    assert tree(tmp_path / "a", "results", "attempts") == tree(tmp_path / "b", "results", "attempts")
    before = tree(tmp_path / "a", "results", "attempts")
    again = compact(tmp_path / "a")
    assert again.files_before == again.files_after
    assert tree(tmp_path / "a", "results", "attempts") == before


def test_parts_and_row_groups_have_a_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "PART_ROWS", 7)
    monkeypatch.setattr(parts, "GROUP_ROWS", 3)
    output = an_output(tmp_path, sizes=(2,) * 9)
    compact(output)
    paths = part_paths(output, "results")
    assert [row_count(path) for path in paths] == [6, 6, 6]
    groups = [pq.ParquetFile(path).metadata for path in paths]
    assert all(each.row_group(n).num_rows <= 3 for each in groups for n in range(each.num_row_groups))
    assert rows_of(output) == [f"row{number}" for number in range(18)]
    monkeypatch.setattr(compaction, "PART_ROWS", 1000)
    monkeypatch.setattr(compaction, "PART_BYTES", sum(path.stat().st_size for path in paths[:2]))
    compact(output)
    assert len(part_paths(output, "results")) == 2


def test_dates_and_shards_keep_their_own_parts(tmp_path: Path) -> None:
    output = an_output(tmp_path)
    tables = TableSchemas("night", COLUMNS, lambda text: text)
    for shard, days in (("0of1", 1), ("0of2", 0), ("1of2", 0)):
        for seq in (1, 2):
            path = dated_path("results", shard, "run1", START + timedelta(days=days), seq)
            seal(LocalDisk(), output, path, tables.results([a_completed(an_intent(100 + seq))]))
    for shard in ("0of1", "0of2", "1of2"):
        (output / ".batchvision" / shard).mkdir(exist_ok=True)
    compact(output)
    names = [
        str(path.relative_to(output))[: -len("-m0123456789abcdef.parquet")] for path in part_paths(output, "results")
    ]
    assert names == [
        "results/run_date=2026-11-20/part-0of1-run1-000001",
        "results/run_date=2026-11-20/part-0of2-run1-000001",
        "results/run_date=2026-11-20/part-1of2-run1-000001",
        "results/run_date=2026-11-21/part-0of1-run1-000001",
    ]


def test_columns_that_one_part_lacks_or_has_alone_are_all_there(tmp_path: Path) -> None:
    output = an_output(tmp_path)
    wide = Columns(keep=(*COLUMNS.keep, ("price", COLUMNS.answers[0][1])), answers=COLUMNS.answers)
    first = part_paths(output, "results")[0]
    pad_part(LocalDisk(), first, results_schema(wide))
    compact(output)
    merged = read_part(part_paths(output, "results")[0])
    assert merged.column_names == [*results_schema(COLUMNS).names, "price"]
    assert merged["title"].to_pylist() == [f"title {number}" for number in range(10)]


def test_a_merged_part_that_is_given_columns_still_says_what_it_was_made_of(tmp_path: Path) -> None:
    output = an_output(tmp_path)
    compact(output)
    (path,) = part_paths(output, "results")
    before, names = sha256_of(path), [each.name for each in ancestors_of(path)]
    wide = Columns(keep=(*COLUMNS.keep, ("price", COLUMNS.answers[0][1])), answers=COLUMNS.answers)
    register(LocalDisk(), output, "night", wide)
    assert "price" in schema_of(path).names
    assert parts.earlier_sha256(path) == [before]
    assert [each.name for each in ancestors_of(path)] == names
    assert compaction._is_whole(path)


def test_parts_whose_columns_contradict_each_other_are_not_merged(tmp_path: Path) -> None:
    output = an_output(tmp_path)
    path = part_paths(output, "results")[2]
    table = read_part(path)
    at = table.schema.get_field_index("answer_score")
    seal(LocalDisk(), output, str(path.relative_to(output)), table.set_column(at, "answer_score", table["row_id"]))
    with pytest.raises(CheckpointDamaged, match="answer_score is string, and double in other parts"):
        compact(output)
    assert rows_of(output) == ROWS


def test_a_damaged_part_is_told_and_nothing_is_merged_with_it(tmp_path: Path) -> None:
    output = an_output(tmp_path)
    path = part_paths(output, "results")[1]
    raw = bytearray(path.read_bytes())
    raw[pq.ParquetFile(path).metadata.row_group(0).column(1).data_page_offset + 30] ^= 1
    path.write_bytes(raw)
    before = tree(output, "results")
    with pytest.raises(CheckpointDamaged, match=path.name):
        compact(output)
    assert tree(output, "results") == before


def test_an_output_that_a_run_holds_is_left_alone(tmp_path: Path) -> None:
    output = an_output(tmp_path)
    before = tree(output, "results", "attempts")
    with Store.lock(output), pytest.raises(OutputHeld):
        compact(output)
    assert tree(output, "results", "attempts") == before


# ---------------------------------------------------------------------------------- readers beside it


def test_who_has_listed_the_old_parts_finds_their_rows_in_the_new_one(tmp_path: Path) -> None:
    output = an_output(tmp_path)
    paths = part_paths(output, "results")
    tables = [read_part(path) for path in paths]
    wanted = tables[2]["row_id"].slice(1, 1).combine_chunks()
    for _ in range(2):  # merged, and then with others again
        compact(output)
        for path, table in zip(paths, tables, strict=True):
            assert not path.exists()
            assert read_part(path).equals(table)
            assert row_count(path) == table.num_rows
            assert [row for batch in batches_of(path) for row in batch.to_pylist()] == table.to_pylist()
        assert [len(list(rows_with(path, "row_id", wanted))) for path in paths] == [0, 0, 1, 0]
        an_output(output, sizes=(2,), run_id="run2", first=10)
    with pytest.raises(FileNotFoundError):
        read_part(paths[0].with_name("part-0of1-run9-000001.parquet"))


def test_a_reader_on_its_way_meets_every_row_once(tmp_path: Path) -> None:
    output = an_output(tmp_path)
    rows = OutputView(output).rows("results", ("row_id",))
    seen = next(rows)["row_id"].to_pylist()
    compact(output)
    seen += next(rows)["row_id"].to_pylist()
    an_output(output, sizes=(2,), run_id="run2", first=10)
    compact(output)
    seen += [row_id for batch in rows for row_id in batch["row_id"].to_pylist()]
    assert seen == ROWS


def test_a_part_that_was_merged_between_two_looks_at_the_folder_is_missed_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look may have passed the place of the new name before it was there, and come to the old ones afterwards."""
    output = an_output(tmp_path)
    glob, looks = Path.glob, list[str]()

    def late_glob(path: Path, pattern: str) -> Iterator[Path]:
        looks.append(pattern)
        found = list(glob(path, pattern))
        if len(looks) == 1:
            monkeypatch.setattr(Path, "glob", glob)
            compact(output)
            monkeypatch.setattr(Path, "glob", late_glob)
            found = found[:1]  # of the others nothing was left
        return iter(found)

    monkeypatch.setattr(Path, "glob", late_glob)
    assert rows_of(output) == ROWS


# ---------------------------------------------------------------------------------- crashes

#: How often a state is drawn for each place.
LUCKS = 3


def states(recorded: RecordedDisk, before: Path, at: Path) -> Iterator[str]:
    """What a power cut may leave, at each operation of what was recorded; laid out in ``at``."""
    for place in range(recorded.places + 1):
        for luck in range(LUCKS):
            remains = Remains.of(before)
            for operation in recorded.operations[:place]:
                remains.apply(operation)
            lay_out(remains.draw(random.Random(31 * place + luck)), at)
            yield f"cut before operation {place} of {recorded.places}, luck {luck}"


def recorded_compaction(folder: Path, forgets: str | None = None) -> tuple[RecordedDisk, Path]:
    """Every operation of a compaction, and the output as it was before."""
    before = an_output(folder / "before")
    with Store.lock(before):
        pass
    shutil.copytree(before, folder / "after")
    disk = RecordedDisk(folder / "after", forgets)
    compact(folder / "after", disk=disk)
    return disk, before


def sentences(output: Path) -> Iterator[str]:
    """What is wrong with the rows of an output, as its readers see them."""
    for table in ("results", "attempts"):
        try:
            if (rows := rows_of(output, table)) != ROWS:
                yield f"{table} are {rows}"
            if (count := OutputView(output).count(table)) != len(ROWS):
                yield f"{table}: {count} rows"
        except CheckpointDamaged as fault:
            yield f"{table}: {fault.message}"


def swept(folder: Path, forgets: str | None = None) -> Iterator[str]:
    """Cut a compaction at each operation, often the one that repairs it too, and look each time: what was wrong."""
    recorded, before = recorded_compaction(folder, forgets)
    output = folder / "cut"
    for number, case in enumerate(states(recorded, before, output)):
        yield from (f"{case}: {says}" for says in sentences(output))
        try:
            if number % 5 == 0:
                _cut_again(output, forgets, random.Random(number))
                yield from (f"{case}, and cut again: {says}" for says in sentences(output))
            compact(output)
        except CheckpointDamaged as fault:
            yield f"{case}: {fault.message}"
            continue
        yield from (f"{case}, and repaired: {says}" for says in sentences(output))
        left = [path.name for path in output.rglob("*.tmp")]
        if len(list(output.rglob("*.parquet"))) != 2 or left:
            yield f"{case}: it is not finished, {left}"


def _cut_again(output: Path, forgets: str | None, luck: random.Random) -> None:
    remains, disk = Remains.of(output), RecordedDisk(output, forgets)
    compact(output, disk=disk)
    for operation in disk.operations[: luck.randint(0, disk.places)]:
        remains.apply(operation)
    lay_out(remains.draw(luck), output)


def test_a_power_cut_at_any_operation_loses_no_row_and_shows_none_twice(tmp_path: Path) -> None:
    assert list(swept(tmp_path)) == []


def parts_that_are_there(output: Path, table: str) -> list[Path]:
    return sorted((output / table).glob("run_date=*/part-*.parquet"))


@pytest.mark.parametrize("forgets", ["sync", "sync_folder"])
def test_a_merged_part_that_is_not_durable_before_the_old_ones_go_is_caught(tmp_path: Path, forgets: str) -> None:
    """Sabotage: no-fsync, no-dirsync."""
    found = next(swept(tmp_path, forgets), "")
    assert " rows" in found or " are [" in found or "does not hold what was written" in found


def test_old_parts_that_go_before_the_new_one_has_its_name_are_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: the disk removes what is merged when it is asked to name the new part."""
    rename = RecordedDisk.rename

    def removing_first(disk: RecordedDisk, old: Path, new: Path) -> None:
        if lineage.is_merged(new.name):
            for path in parts_that_are_there(disk.root, new.parents[1].name):
                disk.remove(path)
            monkeypatch.setattr(RecordedDisk, "delete", lambda *arguments: None)
        rename(disk, old, new)

    monkeypatch.setattr(RecordedDisk, "rename", removing_first)
    recorded, before = recorded_compaction(tmp_path)
    assert any(says for _ in states(recorded, before, tmp_path / "cut") for says in sentences(tmp_path / "cut"))


def test_a_reader_that_does_not_ask_what_was_merged_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage: what a new part was made of counts as long as it is there."""
    recorded, before = recorded_compaction(tmp_path)
    monkeypatch.setattr("batchvision.checkpoint.view.part_paths", parts_that_are_there)
    seen = [says for _ in states(recorded, before, tmp_path / "cut") for says in sentences(tmp_path / "cut")]
    assert any("20 rows" in says for says in seen)


def test_what_a_crash_left_is_removed_by_the_next_run_and_only_if_the_new_part_is_whole(tmp_path: Path) -> None:
    for damage in (False, True):
        output = an_output(tmp_path / str(damage))
        old = {path: path.read_bytes() for path in part_paths(output, "results")}
        compact(output)
        (merged,) = part_paths(output, "results")
        for path, content in old.items():
            path.write_bytes(content)
        if damage:
            raw = bytearray(merged.read_bytes())
            raw[100] ^= 1
            merged.write_bytes(raw)
        with open_store(output, run_id="run2") as store:
            store.recover(classify)
        assert [path.exists() for path in old] == [damage] * len(old)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_fails_at_any_operation_loses_nothing_and_says_so(tmp_path: Path, error: int) -> None:
    whole = an_output(tmp_path / "whole")
    disk = ModelledDisk(whole)
    compact(whole, disk=disk)
    for place in range(len(disk.operations)):
        output = an_output(tmp_path / str(place))
        with pytest.raises(DiskFailed, match=rf"(compacting|making) {output}"):
            compact(output, disk=ModelledDisk(output, fail_at=place, error=error))
        assert list(sentences(output)) == [], f"operation {place}"
        compact(output)
        assert list(sentences(output)) == [], f"operation {place}, mended"
        assert len(list(output.rglob("*.parquet"))) == 2


# ---------------------------------------------------------------------------------- what a journal can make again


@pytest.mark.anyio
async def test_a_part_that_the_next_run_seals_anew_is_not_merged(tmp_path: Path) -> None:
    """The power went when the parts of a seal were there, and its commit in ``open.log`` was not."""
    with open_store(tmp_path, seal_after=SealAfter(attempts=1)) as store:
        store.recover(classify)
        for number in (0, 1):
            await ask(store, an_intent(number), an_answer())
            await store.flush()
    with open_store(tmp_path, run_id="run1b") as store:
        store.recover(classify)
        await ask(store, an_intent(2), an_answer())
        await store.flush()
    folder = tmp_path / ".batchvision" / "0of1"
    before = {path: path.read_bytes() for path in folder.glob("*.log")}
    with open_store(tmp_path, run_id="run2") as store:
        store.recover(classify)  # seals what the segment has under the name of the run before
    for path in folder.glob("*.log"):
        path.unlink()
    for path, content in before.items():  # ... and that was the moment
        path.write_bytes(content)
    paths = part_paths(tmp_path, "results")
    compacted = compact(tmp_path)
    assert compacted.waiting == 2, "one of each table"
    assert part_paths(tmp_path, "results")[-1] == paths[-1]
    with open_store(tmp_path, run_id="run3") as store:
        store.recover(classify)
    compact(tmp_path)
    assert sorted(rows_of(tmp_path)) == sorted(rows_of(tmp_path, "attempts")) == ["row0", "row1", "row2"]


# ---------------------------------------------------------------------------------- answers that newer ones replaced


def test_only_answers_that_are_not_current_are_dropped_and_no_attempt(tmp_path: Path) -> None:
    output = answered(tmp_path, *OLD_AND_NEW)
    index_of(output, *CURRENT)
    current = {row["row_id"]: row for batch in OutputView(output).current_results(None) for row in batch.to_pylist()}
    compacted = compact(output, drop_superseded=True)
    assert compacted.superseded == 4
    assert compacted.rows == {"results": 5, "attempts": 9}
    assert pairs(output) == [
        ("row2", "a"),  # current, though others came later
        ("row3", "a"),
        ("row1", "b"),
        ("row4", "b"),
        ("row5", "c"),  # not in the manifest
    ]
    after = {row["row_id"]: row for batch in OutputView(output).current_results(None) for row in batch.to_pylist()}
    assert after == current
    assert compact(output, drop_superseded=True).superseded == 0


def test_without_an_index_the_newest_answer_is_shown_and_none_is_dropped(tmp_path: Path) -> None:
    output = answered(tmp_path, *OLD_AND_NEW)
    compacted = compact(output, drop_superseded=True)
    assert (compacted.superseded, compacted.is_index_missing) == (0, True)
    batches = OutputView(output).current_results(None)
    shown = {row["row_id"]: row["recipe_id"] for batch in batches for row in batch.to_pylist()}
    assert shown == {"row1": "b", "row2": "c", "row3": "a", "row4": "b", "row5": "c"}


def test_a_row_whose_current_answer_is_not_there_keeps_the_others(tmp_path: Path) -> None:
    output = answered(tmp_path, *OLD_AND_NEW)
    index_of(output, *CURRENT)
    part_paths(output, "results")[1].unlink()
    assert compact(output, drop_superseded=True).superseded == 1
    assert pairs(output) == [("row1", "a"), ("row2", "a"), ("row3", "a"), ("row4", "b"), ("row5", "c")]


def test_rows_that_are_dropped_leave_the_others_where_readers_look_for_them(tmp_path: Path) -> None:
    output = answered(tmp_path, *OLD_AND_NEW)
    index_of(output, *CURRENT)
    paths = part_paths(output, "results")
    compact(output)
    (merged,) = part_paths(output, "results")
    compact(output, drop_superseded=True)
    found = [[row["row_id"] for row in read_part(path, ("row_id",)).to_pylist()] for path in (*paths, merged)]
    assert found == [["row2", "row3"], ["row1", "row4"], ["row5"], ["row2", "row3", "row1", "row4", "row5"]]


def test_a_part_of_which_nothing_stays_is_still_known(tmp_path: Path) -> None:
    output = answered(tmp_path, [an_answer_of(1, "a", 1)])
    (old,) = part_paths(output, "results")
    old_sha256 = sha256_of(old)
    seal(
        LocalDisk(),
        output,
        dated_path("results", "0of1", "run2", START + timedelta(days=1), 1),
        TableSchemas("night", COLUMNS, lambda text: text).results([an_answer_of(1, "b", 2)]),
    )
    index_of(output, an_answer_of(1, "b", 2))
    assert compact(output, drop_superseded=True).superseded == 1
    empty, full = part_paths(output, "results")
    assert [row_count(empty), row_count(full)] == [0, 1]
    assert [(each.name, each.sha256) for each in ancestors_of(empty)] == [(old.name, (old_sha256,))]


def test_many_rows_with_many_answers_are_judged_as_one_by_one(tmp_path: Path) -> None:
    luck = random.Random(4)
    answers = [an_answer_of(luck.randrange(40), luck.choice("abc"), luck.randrange(9), str(n)) for n in range(300)]
    output = answered(tmp_path, answers[:120], answers[120:130], answers[130:])
    current = {answer.row_id: answer for answer in luck.sample(answers, 60)}
    index_of(output, *current.values())
    found = superseded(output, part_paths(output, "results"))
    ends = [0, 120, 130]
    dropped = {
        ends[number] + place
        for number, path in enumerate(part_paths(output, "results"))
        for place in found.get(path, [])
    }
    kept = [answer.row_id not in current or answer == current[answer.row_id] for answer in answers]
    assert dropped == {place for place, is_kept in enumerate(kept) if not is_kept}
    assert 100 < len(dropped) < 290


def test_a_link_that_leads_nowhere_is_told_and_not_looked_for_for_ever(tmp_path: Path) -> None:
    output = an_output(tmp_path)
    first = part_paths(output, "results")[0]
    (first.parent / "part-0of1-run1-000009-m0123456789abcdef.parquet").symlink_to(tmp_path / "nowhere")
    for read in (lambda: part_paths(output, "results"), lambda: read_part(first.with_name("part-0of1-run9-1.parquet"))):
        with pytest.raises(CheckpointDamaged, match="remove broken links"):
            read()
