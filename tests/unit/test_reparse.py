"""reparse publishes stored answers that satisfy the job and answer the requests of today."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from checkpoint_rows import tree
from sealed_output import ROWS, Output, a_manifest, an_output

from batchvision.checkpoint import OutputView, Store
from batchvision.commands.reparse import Reparsed, recipes_alike, reparse
from batchvision.commands.reparse.reading import NoAnswerReason
from batchvision.commands.verify import Mark
from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread
from batchvision.errors import JobInvalid, OutputHeld

RED, ANY = {"labels": ["red", "blue"]}, {"labels": ["blue", "red", "other"]}


@pytest.fixture(scope="module")
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions()) as running:
        yield running


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, emulator: RunningEmulator) -> Output:
    """23 answers of two labels, and a refusal."""
    output = an_output(tmp_path_factory.mktemp("asked"), emulator.url, answer=RED)
    assert output.run().exit_code == 3
    return output


@pytest.fixture
def output(pristine: Output, tmp_path: Path) -> Output:
    return pristine.copy(tmp_path)


def read_again(output: Output, **answer: Any) -> Reparsed:
    output.settings = {**output.settings, "answer": answer}
    return anyio.run(reparse, output.job())


def new_rows(output: Output) -> list[dict[str, Any]]:
    recipe_id = output.job().recipe.recipe_id
    return [row for row in output.rows("results") if row["recipe_id"] == recipe_id]


def by_row(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["row_id"]: row for row in rows}


# ---------------------------------------------------------------------------------- what is published


def test_answers_that_satisfy_the_new_labels_are_published_and_nothing_is_sent(
    output: Output, emulator: RunningEmulator
) -> None:
    before, asked = by_row(output.rows("results")), emulator.bill().requests
    reparsed = read_again(output, **ANY)
    assert (reparsed.rows, reparsed.published, reparsed.to_ask) == (ROWS, ROWS - 1, 1)
    after = by_row(new_rows(output))
    assert after.keys() == before.keys()
    for row_id, row in after.items():
        old = before[row_id]
        same = ("output_text", "answer_label", "image_ref", "image_sha256", "title", "started_at", "finished_at")
        assert {name: row[name] for name in same} == {name: old[name] for name in same}
        assert row["request_key"] != old["request_key"] and row["skip_key"] != old["skip_key"]
        assert (row["cost_ticks"], row["cost_source"]) == (0, "cached")
        assert row["row_cost_ticks"] == old["row_cost_ticks"] > 0
        assert row["updated_at"] > old["updated_at"]
        assert row["run_id"] != old["run_id"]
    assert emulator.bill().requests == asked


def test_a_run_afterwards_asks_only_the_rest(output: Output, emulator: RunningEmulator) -> None:
    read_again(output, **ANY)
    asked = emulator.bill().requests
    summary = output.run(output__on_recipe_change="redo")
    assert summary.requests_sent == emulator.bill().requests - asked == 1  # the refused row
    assert summary.rows_completed == ROWS - 1


def test_the_ledger_stays_as_it_is_and_verify_agrees(output: Output) -> None:
    ledger, spent = tree(output.path, "attempts"), OutputView(output.path).sums()
    read_again(output, **ANY)
    assert tree(output.path, "attempts") == ledger
    assert OutputView(output.path).sums() == spent
    assert [each.text for each in output.verify().findings if each.mark is not Mark.OK] == []


def test_a_second_time_publishes_nothing_and_changes_no_byte(output: Output) -> None:
    read_again(output, **ANY)
    before = tree(output.path, "results", "failures", "attempts", "runs", "recipes")
    reparsed = read_again(output, **ANY)
    assert (reparsed.published, reparsed.done) == (0, ROWS - 1)
    assert tree(output.path, "results", "failures", "attempts", "runs", "recipes") == before


def test_answers_that_do_not_satisfy_it_are_counted_with_the_reason(output: Output) -> None:
    labels = {row["answer_label"] for row in output.rows("results")}
    one = sorted(labels)[0]
    fitting = sum(row["answer_label"] == one for row in output.rows("results"))
    reparsed = read_again(output, labels=[one, "another"])
    assert reparsed.published == fitting
    assert reparsed.without[NoAnswerReason.UNFIT] == ROWS - fitting
    assert len(labels) == 1 or reparsed.problems


def test_a_fallback_takes_in_nothing_that_did_not_fit(output: Output) -> None:
    reparsed = read_again(output, labels=["nothing of it"], labels_fallback="other")
    assert (reparsed.published, reparsed.without[NoAnswerReason.UNFIT]) == (0, ROWS)
    assert new_rows(output) == []


def test_new_typed_columns_are_filled_and_older_rows_padded(tmp_path: Path, emulator: RunningEmulator) -> None:
    output = an_output(tmp_path, emulator.url, answer={"schema": "answer.json"})
    colour, size = {"type": "string"}, {"type": "integer"}
    schema = {"type": "object", "properties": {"colour": colour, "size": size}, "required": ["colour", "size"]}
    (tmp_path / "answer.json").write_text(json.dumps(schema))
    output.run()
    wider = {**schema, "properties": {"colour": colour, "size": size, "mass": {"type": ["number", "null"]}}}
    (tmp_path / "answer.json").write_text(json.dumps(wider))
    assert read_again(output, schema="answer.json").published == ROWS - 1
    assert list(output.rows("results")[0])[-3:] == ["answer_colour", "answer_size", "answer_mass"]
    for row in output.rows("results"):
        assert isinstance(row["answer_size"], int) and row["answer_mass"] is None
    assert output.verify().is_right


def test_rows_that_failed_only_by_the_schema_are_completed_and_leave_failures(
    tmp_path: Path, emulator: RunningEmulator
) -> None:
    output = an_output(tmp_path, emulator.url, answer={"labels": ["red", "blue"]})
    a_manifest(output.folder, ["a,red.png,fine ", "b,red.png,[[fault:invalid_answer]]"])
    output.run()
    assert [row["error_kind"] for row in output.rows("failures")] == ["invalid_answer"]
    cost = output.rows("failures")[0]["row_cost_ticks"]
    assert read_again(output, labels=["red", "blue", "mauve"]).published == 1
    assert read_again(output).published == 2  # plain text takes any answer
    assert output.rows("failures") == []
    assert by_row(new_rows(output))["b"]["output_text"].startswith("[")
    assert by_row(new_rows(output))["b"]["row_cost_ticks"] == cost > 0
    assert by_row(new_rows(output))["b"]["image_sha256"] != [None]
    assert output.verify().is_right
    assert output.run(output__on_recipe_change="redo").requests_sent == 0


def test_lost_results_are_made_again_from_the_ledger_as_they_were(output: Output) -> None:
    before = by_row(output.rows("results"))
    output.parts("results")[0].unlink()
    assert not output.verify().is_right
    assert read_again(output, **RED).published == ROWS - 1
    after = by_row(output.rows("results"))
    changing = ("run_id", "updated_at")
    for row_id, row in after.items():
        assert {k: v for k, v in row.items() if k not in changing} == {
            k: v for k, v in before[row_id].items() if k not in changing
        }


def test_the_newest_answer_that_fits_wins(output: Output, emulator: RunningEmulator) -> None:
    output.settings = {**output.settings, "answer": ANY}
    output.run(output__on_recipe_change="redo")
    newest = {row["row_id"]: row["finished_at"] for row in new_rows(output)}
    assert read_again(output, labels=["red", "blue", "other", "more"]).published == ROWS - 1
    assert {row["row_id"]: row["finished_at"] for row in new_rows(output)} == newest


@pytest.mark.parametrize("rows_at_once", [1, 20_000])
def test_rows_that_shared_an_answer_share_it_again(
    tmp_path: Path, emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    monkeypatch.setattr("batchvision.commands.reparse.reparsing.FOLLOWERS_AT_ONCE", rows_at_once)
    output = an_output(tmp_path, emulator.url, answer=RED)
    rows = [f"r{n},{('red.png', 'blue.png')[n % 2]},the same" for n in range(6)]
    a_manifest(output.folder, rows)
    assert output.run().requests_sent == 2
    a_manifest(output.folder, rows[::-1])  # now most come before the row whose answer they share
    reparsed = read_again(output, **ANY)
    assert (reparsed.published, reparsed.to_ask) == (6, 0)
    assert sorted(row["cost_source"] for row in new_rows(output)) == ["cached"] * 2 + ["shared"] * 4
    assert output.verify().is_right
    assert output.run(output__on_recipe_change="redo").requests_sent == 0


STYLES: dict[str, dict[str, Any]] = {
    "ids of content": {"manifest": {"path": "m.csv", "images": "front"}},
    "ids of two columns": {"manifest": {"path": "m.csv", "id": ["id", "title"], "images": "front"}},
    "two images": {"manifest": {"path": "m.csv", "id": "id", "images": ["front", "back"]}},
    "placed images": {
        "manifest": {"path": "m.csv", "id": "id", "images": ["front", "back"]},
        "prompt": {"user": "{image:back} is behind {image:front}: {title}"},
    },
    "bad images skipped": {
        "manifest": {"path": "m.csv", "id": "id", "images": ["front", "bad"], "on_bad_image": "skip_image"}
    },
    "by reference": {"manifest": {"path": "m.csv", "id": "id", "images": "front", "image_identity": "ref"}},
    "by version": {"manifest": {"path": "m.csv", "id": "id", "images": "front", "image_version": "title"}},
    "URLs": {"manifest": {"path": "m.csv", "id": "id", "images": "url"}, "prompt": {"column": "title"}},
}


@pytest.mark.parametrize("style", STYLES)
def test_every_way_to_name_rows_and_images_finds_its_answers_again(
    tmp_path: Path, emulator: RunningEmulator, style: str
) -> None:
    output = an_output(tmp_path, emulator.url, answer=RED, **STYLES[style])
    (tmp_path / "bad.png").write_bytes(b"no image")
    lines = [
        f"{n},red.png,blue.png,{('bad.png', '')[n % 2]},https://images.example/{n}.png?X-Amz-Signature={n},thing {n}"
        for n in range(4)
    ]
    (tmp_path / "m.csv").write_text("\n".join(["id,front,back,bad,url,title", *lines]) + "\n")
    output.run(provider__image_mode="url" if style == "URLs" else "auto")
    asked = emulator.bill().requests
    answered = len(output.rows("results"))
    assert answered == 4
    reparsed = read_again(output, **ANY)
    assert (reparsed.published, reparsed.to_ask) == (4, 0)
    assert output.verify().is_right
    assert output.run(output__on_recipe_change="redo").requests_sent == 0
    assert emulator.bill().requests == asked


def test_kept_cells_are_those_of_the_manifest_now(output: Output) -> None:
    lines = (output.folder / "photos.csv").read_text().splitlines()
    shop = [f"{line},shop {n}" for n, line in enumerate(lines[1:])]
    (output.folder / "photos.csv").write_text("\n".join([lines[0] + ",shop", *shop]) + "\n")
    output.settings = {**output.settings, "manifest": {**output.settings["manifest"], "keep": ["title", "shop"]}}
    assert read_again(output, **ANY).published == ROWS - 1
    assert {row["shop"] for row in new_rows(output)} == {f"shop {n}" for n in range(ROWS) if n != 5}


def test_answers_lie_in_many_parts_and_hashes_may_meet(
    tmp_path: Path, emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batchvision.commands.run import run
    from batchvision.runner.feed import Selection

    output = an_output(tmp_path, emulator.url, answer=RED)
    for _ in range(5):
        run(output.job(), selection=Selection(limit=5), environ={})
    assert len(output.parts("attempts")) == 5
    monkeypatch.setattr("batchvision.commands.reparse.stored.hash", lambda text: len(text), raising=False)
    monkeypatch.setattr("batchvision.commands.reparse.reparsing.ROWS_AT_ONCE", 7)
    assert read_again(output, **ANY).published == ROWS - 1
    texts = {row["row_id"]: row["output_text"] for row in output.rows("results")}
    assert all(texts[row["row_id"]] == row["output_text"] for row in new_rows(output))
    assert output.verify().is_right


# ---------------------------------------------------------------------------------- what is not


def test_a_row_with_changed_text_or_image_is_left_to_a_run(output: Output) -> None:
    lines = (output.folder / "photos.csv").read_text().splitlines()
    lines[1] += "!"
    (output.folder / "photos.csv").write_text("\n".join([*lines[:-1], "new,red.png,never asked"]) + "\n")
    shutil.copy(output.folder / "red.png", output.folder / "blue.png")
    reparsed = read_again(output, **ANY)
    changed = 1 + ROWS // 2 - 1  # a text, and the rows of the image that was replaced (one of them left the manifest)
    assert (reparsed.without[NoAnswerReason.CHANGED], reparsed.without[NoAnswerReason.NONE]) == (changed, 1)
    assert reparsed.published + changed + 1 == ROWS


def test_a_touched_image_is_read_and_known_again(output: Output) -> None:
    os.utime(output.folder / "red.png", ns=(1, 1))
    assert read_again(output, **ANY).published == ROWS - 1


def test_an_image_that_is_gone_leaves_its_rows_to_a_run(output: Output) -> None:
    (output.folder / "red.png").unlink()
    reparsed = read_again(output, **ANY)
    assert reparsed.without[NoAnswerReason.CHANGED] == ROWS // 2


def test_without_raw_answers_there_is_nothing_to_read(tmp_path: Path, emulator: RunningEmulator) -> None:
    output = an_output(tmp_path, emulator.url, answer=RED)
    output.run(output__keep_raw_answers=False)
    reparsed = read_again(output, **ANY)
    assert (reparsed.published, reparsed.without[NoAnswerReason.NOT_KEPT]) == (0, ROWS)


@pytest.mark.parametrize(
    ("change", "names"),
    [({"prompt": {"user": "Name {title}."}}, "user"), ({"images": {"max_side": 20}}, "images")],
)
def test_another_change_than_of_the_answer_is_refused_and_named(
    output: Output, change: dict[str, Any], names: str
) -> None:
    before = tree(output.folder, ".")
    output.settings = {**output.settings, **change}
    with pytest.raises(JobInvalid, match=rf"{names} changed as well.*--on-recipe-change redo"):
        anyio.run(reparse, output.job())
    assert tree(output.folder, ".") == before


def test_a_recipe_file_with_a_wrong_name_is_not_used(output: Output) -> None:
    path = next((output.path / "recipes").glob("*.json"))
    path.write_text(path.read_text().replace('"blue"', '"green"'))
    with pytest.raises(JobInvalid, match="can be read again"):
        recipes_alike(output.job())


def test_an_output_that_is_held_is_left_alone(output: Output) -> None:
    with Store.lock(output.path), pytest.raises(OutputHeld):
        read_again(output, **ANY)


def test_reading_again_is_no_consent_to_pay_again(output: Output) -> None:
    labels = sorted({row["answer_label"] for row in output.rows("results")})
    read_again(output, labels=[labels[0], "another"])
    left = ROWS - len(new_rows(output))  # the refused row was paid for too
    with pytest.raises(JobInvalid, match=f"{left} rows? of this manifest (was|were) paid for under another recipe"):
        output.run()


# ---------------------------------------------------------------------------------- the summary, shards, crashes


def test_the_new_recipe_becomes_the_current_one(output: Output) -> None:
    read_again(output, **ANY)
    latest = OutputView(output.path).latest()
    assert latest is not None
    assert (latest.command, latest.recipe_id, latest.requests_sent) == ("reparse", output.job().recipe.recipe_id, 0)
    assert (latest.rows_total, latest.rows_completed, latest.rows_pending) == (ROWS, ROWS - 1, 1)
    assert (output.path / "recipes" / f"{latest.recipe_id}.json").exists()


def test_a_sharded_output_is_read_shard_by_shard(tmp_path: Path, emulator: RunningEmulator) -> None:
    from batchvision.commands.run import run
    from batchvision.runner.feed import Selection

    output = an_output(tmp_path, emulator.url, answer=RED)
    for shard in range(3):
        run(output.job(), selection=Selection(shard=shard, shards=3), environ={})
    reparsed = read_again(output, **ANY)
    assert (reparsed.rows, reparsed.published) == (ROWS, ROWS - 1)
    assert read_again(output, **ANY).published == 0
    assert output.verify().is_right


def test_a_reparse_that_died_between_its_tables_is_mended_by_the_next(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batchvision.checkpoint.sealing import Sealer

    with monkeypatch.context() as patched:
        patched.setattr(Sealer, "begin", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            read_again(output, **ANY)
    assert read_again(output, **ANY).published + len(new_rows(output)) >= ROWS - 1
    assert len(by_row(new_rows(output))) == len(new_rows(output)) == ROWS - 1
    assert output.verify().is_right
