"""verify finds damage and inconsistent numbers and names the next step; a sound output passes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checkpoint_rows import an_answer, an_intent, ask, open_store
from sealed_output import ROWS, Output, a_manifest, an_output

from batchvision.checkpoint import Store, compact, schema
from batchvision.checkpoint.lease import LEASE_NAME
from batchvision.checkpoint.lock import STATE_FOLDER, Holder, holder_at_work
from batchvision.checkpoint.parts import ancestors_of, earlier_sha256, read_part
from batchvision.commands.run import run
from batchvision.commands.verify import Mark, VerifyReport, tables, verify
from batchvision.commands.verify import hashes as by_hash
from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread
from batchvision.errors import JobInvalid
from batchvision.runner.feed import Selection


@pytest.fixture(scope="module")
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions()) as running:
        yield running


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, emulator: RunningEmulator) -> Output:
    output = an_output(tmp_path_factory.mktemp("sealed"), emulator.url)
    assert output.run().exit_code == 3
    return output


@pytest.fixture
def output(pristine: Output, tmp_path: Path) -> Output:
    return pristine.copy(tmp_path)


def wrong(report: VerifyReport) -> dict[str, str]:
    """What is said to be wrong, by topic; each with a next step."""
    found = {each.topic: each for each in report.findings if each.mark is Mark.WRONG}
    assert all(each.next_step for each in found.values())
    assert (report.exit_code == 7) is bool(found)
    return {topic: each.text for topic, each in found.items()}


def notes(report: VerifyReport) -> dict[str, str]:
    return {each.topic: each.text for each in report.findings if each.mark is Mark.NOTE}


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


def whole_tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()}


# ---------------------------------------------------------------------------------- what is right


def test_a_finished_output_is_right_in_every_point(output: Output) -> None:
    report = output.verify()
    assert [each.topic for each in report.findings if each.mark is not Mark.OK] == []
    says = {each.topic: each.text for each in report.findings}
    assert f"{ROWS} rows = {ROWS - 1} completed, 1 failed, 0 pending" in says["manifest"]
    assert "25 attempts" in says["ledger"]
    assert report.exit_code == 0
    assert json.loads(json.dumps(report.document()))["ok"] is True


def test_nothing_is_changed_by_looking(output: Output) -> None:
    before = whole_tree(output.path)
    output.verify()
    assert whole_tree(output.path) == before


def test_a_folder_without_an_output_is_a_mistake_of_the_command(tmp_path: Path) -> None:
    with pytest.raises(JobInvalid, match="no output"):
        anyio.run(verify, tmp_path)


# ---------------------------------------------------------------------------------- flipped bytes


@pytest.mark.parametrize("table", ["results", "failures", "attempts"])
def test_a_flipped_byte_anywhere_in_a_part_is_found(output: Output, table: str) -> None:
    path = output.parts(table)[0]
    size, name = path.stat().st_size, str(path.relative_to(output.path))
    for at in [*range(0, size, max(1, size // 40)), size - 1]:
        flip(path, at)
        report = output.verify()
        assert name in wrong(report).get("parts", ""), f"byte {at} of {size}"
        flip(path, at)
    assert wrong(output.verify()) == {}


def test_a_flipped_byte_in_the_data_is_found_though_nothing_lists_the_part(output: Output) -> None:
    output.unlist()
    path = output.parts("results")[0]
    flip(path, path.stat().st_size // 3)
    report = output.verify()
    assert path.name in wrong(report)["parts"]
    assert "backup" in next(each.next_step or "" for each in report.findings if each.topic == "parts")


def test_a_damaged_ledger_raises_no_alarm_about_the_answers(output: Output) -> None:
    path = output.parts("attempts")[0]
    flip(path, path.stat().st_size // 3)
    report = output.verify()
    assert set(wrong(report)) == {"parts"}
    assert "not compared" in notes(report)["costs"]


def test_a_flipped_byte_anywhere_in_the_journal_of_a_finished_run_is_found(output: Output) -> None:
    path = output.journal()
    for at in range(path.stat().st_size):
        flip(path, at)
        assert "journal" in wrong(output.verify()), f"byte {at}"
        flip(path, at)


def test_a_flipped_byte_anywhere_in_the_journal_of_a_killed_run_is_found(tmp_path: Path) -> None:
    output = killed_run(tmp_path, answers=4)
    path = max((output / STATE_FOLDER / "0of1").glob("journal-*.log"))
    for at in range(0, path.stat().st_size, 7):
        flip(path, at)
        report = anyio.run(verify, output)
        assert "journal" in wrong(report) | notes(report), f"byte {at}"
        flip(path, at)


@pytest.mark.parametrize(
    ("name", "topic"),
    [("runs/latest.json", "runs"), ("recipes/*.json", "recipes"), (".batchvision/columns.json", "columns")],
)
def test_a_small_file_that_is_no_json_any_more_is_found(output: Output, name: str, topic: str) -> None:
    path = next(output.path.glob(name))
    path.write_bytes(path.read_bytes()[:-20])
    assert path.name in wrong(output.verify())[topic]


def test_a_recipe_that_was_edited_or_is_gone_is_found(output: Output) -> None:
    path = next((output.path / "recipes").glob("*.json"))
    path.write_text(path.read_text().replace("Describe", "Explain"))
    assert "its hash differs" in wrong(output.verify())["recipes"]
    path.unlink()
    assert "is missing" in wrong(output.verify())["recipes"]


# ---------------------------------------------------------------------------------- missing, twice, wrong sums


@pytest.mark.parametrize("table", ["results", "failures", "attempts"])
def test_a_missing_part_is_named_with_its_rows(output: Output, table: str) -> None:
    path = output.parts(table)[0]
    path.unlink()
    assert f"{path.relative_to(output.path)} is missing" in wrong(output.verify())["parts"]


def test_lost_rows_are_missed_though_nothing_lists_their_part(output: Output) -> None:
    output.rewrite("results", lambda rows: rows.__delitem__(slice(0, 3)))
    assert "3 of them have no answer" in wrong(output.verify())["manifest"]


def test_an_answer_that_stands_twice_is_named(output: Output) -> None:
    row_id = output.rows("results")[4]["row_id"]
    output.rewrite("results", lambda rows: rows.append(rows[4]))
    found = wrong(output.verify())
    assert set(found) == {"once"}
    assert f"1 answer in results/ more than once: {row_id}" in found["once"]


@pytest.mark.parametrize(("table", "topic"), [("results", "once"), ("attempts", "once")])
def test_a_part_that_was_copied_beside_itself_is_found(output: Output, table: str, topic: str) -> None:
    path = output.parts(table)[0]
    shutil.copy(path, path.with_name(path.name.replace("part-0of1-", "part-0of1-2020")))
    assert f"{table}/ more than once" in wrong(output.verify())[topic]


def test_a_wrong_ledger_sum_is_found_by_the_raw_answers(output: Output) -> None:
    def cheaper(rows: list[dict[str, Any]]) -> None:
        rows[3]["cost_ticks"] -= 1

    row = output.rows("attempts")[3]
    output.rewrite("attempts", cheaper)
    found = wrong(output.verify())
    assert f"row {row['row_id']}, attempt 1" in found["ledger"]
    assert f"row {row['row_id']}" in found["costs"]


def test_a_wrong_ledger_sum_is_found_without_the_raw_answers_too(output: Output) -> None:
    def dearer(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["raw_answer"] = None
        rows[3]["cost_ticks"] += 1

    output.rewrite("attempts", dearer)
    report = output.verify()
    assert set(wrong(report)) == {"costs"}
    assert "25 could not be rechecked" in next(each.text for each in report.findings if each.topic == "ledger")


def test_a_cost_without_an_answer_is_found(output: Output) -> None:
    def unsaid(rows: list[dict[str, Any]]) -> None:
        rows[2].update(http_status=None, raw_answer=None)

    output.rewrite("attempts", unsaid)
    assert "no answer came" in wrong(output.verify())["ledger"]


def test_a_row_that_is_completed_and_failed_at_once_is_found(output: Output) -> None:
    done = output.rows("results")[0]
    output.rewrite("failures", lambda rows: rows[0].update({name: done[name] for name in ("row_id", "request_key")}))
    assert f"at once, under one key: {done['row_id']}" in wrong(output.verify())["once"]


def test_a_part_without_a_registered_column_is_a_note_and_the_next_run_adds_it(output: Output) -> None:
    path = output.path / STATE_FOLDER / "columns.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "answers": [["answer_price", "float64"]]}))
    report = output.verify()
    assert "lacks answer_price" in notes(report)["columns"]
    assert report.exit_code == 0


def test_a_column_that_a_later_version_adds_is_a_note_until_the_next_run_adds_it(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    column = schema.TableColumn("added_later", pa.int32(), lambda row: len(row.intent.image_ref))
    monkeypatch.setattr(schema, "RESULTS", (*schema.RESULTS, column))
    monkeypatch.setitem(tables._FIXED, "results", schema.RESULTS)

    report = output.verify()
    assert wrong(report) == {}
    assert "lacks added_later" in notes(report)["columns"]

    with (output.folder / "photos.csv").open("a") as manifest:
        manifest.write("new,red.png,a new row\n")
    output.run()
    assert notes(output.verify()).keys() == wrong(output.verify()).keys() == set()
    assert {row["row_id"]: row["added_later"] for row in output.rows("results")}.items() >= {
        "r00": None,
        "new": 1,
    }.items()


# ---------------------------------------------------------------------------------- the manifest


def test_a_touched_image_is_still_the_image_that_was_asked_about(output: Output) -> None:
    os.utime(output.folder / "red.png", ns=(1, 1))
    assert [each.topic for each in output.verify().findings if each.mark is not Mark.OK] == []


def test_an_image_that_was_replaced_leaves_its_rows_pending(output: Output) -> None:
    shutil.copy(output.folder / "blue.png", output.folder / "red.png")
    report = output.verify()
    assert report.exit_code == 0
    assert report.manifest is not None and report.manifest.pending == ROWS // 2
    assert "text or image has changed" in notes(report)["manifest"]


def test_a_changed_or_missing_manifest_is_a_note(output: Output) -> None:
    a_manifest(output.folder, ["r00,red.png,thing 0 ", "new,red.png,new"])
    report = output.verify()
    assert "has changed since the last run" in notes(report)["manifest"]
    assert "1 completed, 0 failed, 1 pending" in notes(report)["manifest"]
    (output.folder / "photos.csv").unlink()
    report = output.verify()
    assert "is gone" in notes(report)["manifest"]
    assert report.exit_code == 0


def test_another_manifest_of_an_older_date_is_no_loss(output: Output) -> None:
    path = output.folder / "photos.csv"
    before = path.stat().st_mtime_ns
    path.write_text(path.read_text().replace("\nr", "\nother-"))
    os.utime(path, ns=(before - 1, before - 1))
    report = output.verify()
    assert report.exit_code == 0
    assert report.manifest is not None and report.manifest.pending == ROWS


# ---------------------------------------------------------------------------------- what is under way


def killed_run(folder: Path, answers: int = 0, in_flight: int = 0, tickets: int = 0) -> Path:
    """An output whose writer was killed with so much in its journal."""

    async def session() -> None:
        with open_store(folder) as store:
            store.recover(lambda exchange: pytest.fail("nothing to judge"))
            for number in range(answers):
                await ask(store, an_intent(number), an_answer())
            for number in range(100, 100 + in_flight + tickets):
                await store.intent(an_intent(number))
                if number >= 100 + in_flight:
                    await store.ticket(f"x{number}", "ticket", an_intent(number).sent_at)

    anyio.run(session)
    return folder


def test_open_requests_of_a_killed_run_are_counted_with_their_bound(tmp_path: Path) -> None:
    report = anyio.run(verify, killed_run(tmp_path, answers=2, in_flight=3, tickets=1))
    says = [each.text for each in report.findings if each.topic == "open"]
    assert ["2 answers" in says[0], "3 requests in flight" in says[1], "1 ticket" in says[2]] == [True] * 3
    assert report.exit_code == 0


@pytest.mark.parametrize(
    ("bounds", "says"),
    [([100, 200], "at most $0.0000000300:"), ([100, None], "for 1 of them, the others without"), ([None], "not known")],
)
def test_ambiguous_attempts_are_shown_with_their_bound(output: Output, bounds: list[int | None], says: str) -> None:
    def unclear(rows: list[dict[str, Any]]) -> None:
        for row, bound in zip(rows[-len(bounds) :], bounds, strict=True):
            nothing = dict.fromkeys(("cost_ticks", "cost_usd", "raw_answer", "http_status"))
            row.update(nothing, state="ambiguous", cost_source="unknown", bound_ticks=bound, attempt=99)

    output.rewrite("attempts", unclear)
    assert says in notes(output.verify())["unclear"]


def test_the_next_run_lists_the_sealed_and_padded_parts_of_a_killed_run(tmp_path: Path) -> None:
    async def sealed(run_id: str, number: int) -> set[str]:
        with open_store(tmp_path, run_id=run_id) as store:
            store.recover(lambda exchange: pytest.fail("nothing to judge"))
            await ask(store, an_intent(number), an_answer())
            await store.close(complete=False)
            return {part.path for part in store.parts_to_list()}

    first = anyio.run(sealed, "run1", 1)
    assert first < anyio.run(sealed, "run2", 2)
    with open_store(tmp_path, run_id="run3", columns=_more_columns()) as store:
        padded = {part.path for part in store.parts_to_list()}
    assert {path for path in padded if path.startswith("results")} == {
        str(path.relative_to(tmp_path)) for path in (tmp_path / "results").rglob("part-*.parquet")
    }


def test_a_torn_tail_is_a_note_after_a_kill_and_damage_after_an_end(tmp_path: Path, output: Output) -> None:
    for path, mark in ((killed_run(tmp_path / "killed", answers=2), Mark.NOTE), (output.path, Mark.WRONG)):
        journal = max((path / STATE_FOLDER / "0of1").glob("journal-*.log"))
        with journal.open("ab") as file:
            file.write(b'00000000 {"g":9')
        found = [each.mark for each in anyio.run(verify, path).findings if each.topic == "journal"]
        assert found == [mark]


def test_a_running_writer_is_named_and_keeps_its_lock(output: Output) -> None:
    with Store.lock(output.path) as lock:
        report = output.verify()
        assert f"process {os.getpid()}" in notes(report)["run"]
        assert lock.is_held
    assert "run" not in notes(output.verify())


def test_a_process_that_is_gone_is_not_at_work(output: Output) -> None:
    path = output.path / STATE_FOLDER / "0of1" / "lock"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "pid": 2**22 + 1}))
    assert holder_at_work(output.path, "0of1") is None
    path.write_text(json.dumps({**document, "boot_id": "another"}))
    assert holder_at_work(output.path, "0of1") is None
    path.write_text(json.dumps({**document, "host": "elsewhere"}))
    assert holder_at_work(output.path, "0of1") is None  # the kernel knows


def test_where_only_a_lease_can_tell_a_fresh_one_names_the_holder_and_a_stale_one_does_not(output: Output) -> None:
    """A shared file system whose flocks stay on the machine that took them."""
    folder = output.path / STATE_FOLDER / "0of1"
    elsewhere = {"host": "elsewhere", "pid": 7, "boot_id": "another"}
    (folder / "lock").write_text(json.dumps(elsewhere))
    lease = folder / LEASE_NAME
    lease.write_text(json.dumps({**elsewhere, "token": "t"}))
    assert holder_at_work(output.path, "0of1") == Holder(**elsewhere)
    os.utime(lease, (0, 0))
    assert holder_at_work(output.path, "0of1") is None


def test_a_seal_that_was_cut_off_raises_no_alarm(output: Output) -> None:
    """The part of results is there, those that belong to it are not."""
    header = json.loads(output.journal().read_text().splitlines()[0][9:])
    sealed = output.parts("results")[0]
    name = f"part-0of1-{header['run_id']}-{header['seq']:06d}.parquet"
    shutil.copy(sealed, sealed.with_name(name))
    report = output.verify()
    assert wrong(report) == {}
    assert name in notes(report)["parts"]


def test_a_padded_part_is_compared_with_its_former_hash(output: Output) -> None:
    path = output.parts("results")[0]
    before = path.read_bytes()
    with open_store(output.path, job_name="sealed", columns=_more_columns()):
        pass
    assert path.read_bytes() != before
    assert len(earlier_sha256(path)) == 1
    report = output.verify()
    assert wrong(report) == {}
    assert "had columns added" in next(each.text for each in report.findings if each.topic == "parts")
    flip(path, path.stat().st_size // 3)
    assert path.name in wrong(output.verify())["parts"]


def _more_columns() -> Any:
    from batchvision.checkpoint import Columns

    return Columns(keep=(("title", pa.string()),), answers=(("answer_price", pa.float64()),))


# ---------------------------------------------------------------------------------- hashes


@pytest.mark.parametrize("rows_at_once", [1, 3, 1_000_000])
def test_portions_give_the_same_result_as_the_whole(monkeypatch: pytest.MonkeyPatch, rows_at_once: int) -> None:
    monkeypatch.setattr(by_hash, "PORTION_ROWS", rows_at_once)
    keys = pa.array([*range(50), 7, 7, -9, -9], pa.int64())
    assert by_hash.repeated(keys) == {7, -9}
    rows, sums = pa.array([1, 2, 3, 4], pa.int64()), pa.array([10, 20, 30, 0], pa.int64())
    parts, values = pa.array([1, 2, 1, 2, 4, 8], pa.int64()), pa.array([4, 20, 6, 1, 0, 5], pa.int64())
    assert by_hash.sums_that_differ(rows, sums, parts, values) == {2, 3}


def test_membership_is_exact_for_every_value() -> None:
    texts = [f"row {number}" for number in range(500)]
    known = by_hash.Hashes()
    known.add(pa.array(texts[::2]))
    assert [hash(text) in known for text in texts] == [True, False] * 250


# ---------------------------------------------------------------------------------- merged parts


@pytest.fixture(scope="module")
def compacted(tmp_path_factory: pytest.TempPathFactory, emulator: RunningEmulator) -> Output:
    """Two runs of one output, their parts merged by ``compact``."""
    output = an_output(tmp_path_factory.mktemp("compacted"), emulator.url)
    assert run(output.job(), selection=Selection(limit=10), environ={}).rows_completed == 9
    output.run()
    assert [len(output.parts(table)) for table in ("results", "attempts")] == [2, 2]
    compact(output.path)
    return output


@pytest.fixture
def merged(compacted: Output, tmp_path: Path) -> Output:
    return compacted.copy(tmp_path)


def parts_line(report: VerifyReport) -> str:
    return next(each.text for each in report.findings if each.topic == "parts" and each.mark is Mark.OK)


def test_parts_that_were_merged_are_not_missed(merged: Output) -> None:
    report = merged.verify()
    assert [each.topic for each in report.findings if each.mark is not Mark.OK] == []
    assert parts_line(report).endswith("1 are byte for byte what runs/ lists, 4 that it lists were merged into fewer")
    assert merged.run().requests_sent == 0
    assert wrong(merged.verify()) == {}


@pytest.mark.parametrize("table", ["results", "attempts"])
def test_a_flipped_byte_anywhere_in_a_merged_part_is_found_though_nothing_lists_it(merged: Output, table: str) -> None:
    (path,) = merged.parts(table)
    size = path.stat().st_size
    for at in [*range(0, size, max(1, size // 40)), size - 1]:
        flip(path, at)
        found = wrong(merged.verify())
        assert path.name in found.get("parts", ""), f"byte {at} of {size}"
        flip(path, at)
    assert wrong(merged.verify()) == {}


def test_a_missing_merged_part_is_named_by_its_sources(merged: Output) -> None:
    (path,) = merged.parts("results")
    path.unlink()
    found = [each.text for each in merged.verify().findings if each.mark is Mark.WRONG]
    assert len(found) == 2
    assert all("is missing" in says and "results/" in says for says in found)


def test_a_part_that_was_damaged_when_it_was_merged_is_still_found(output: Output) -> None:
    path = output.parts("results")[0]
    before = pq.ParquetFile(path).read()
    pq.write_table(before, path, write_page_checksum=True)  # other bytes
    shutil.copy(path, path.with_name(path.name.replace("-000001", "-000000")))
    compact(output.path)
    assert "was not what the run" in wrong(output.verify())["parts"]


def test_files_that_a_crash_has_left_beside_their_merged_part_are_a_note_and_count_once(
    compacted: Output, tmp_path: Path
) -> None:
    output = compacted.copy(tmp_path)
    (path,) = output.parts("results")
    for ancestor in ancestors_of(path):
        pq.write_table(
            read_part(path).slice(ancestor.start, ancestor.stop - ancestor.start), path.with_name(ancestor.name)
        )
    report = output.verify()
    assert wrong(report) == {}
    assert notes(report)["parts"].startswith("2 files merged into others and not removed yet")
    assert report.tables.rows["results"] == ROWS - 1
    output.run()
    assert output.parts("results") == [path]


def test_a_merged_part_that_had_columns_added_is_right(merged: Output) -> None:
    with open_store(merged.path, job_name="sealed", columns=_more_columns()):
        pass
    assert wrong(merged.verify()) == {}
