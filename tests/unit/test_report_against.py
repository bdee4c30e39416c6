"""A report beside another output, or beside an earlier run: what differs, by how much, and at what cost."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sealed_output import Output, an_output

from batchvision.cli.report import command
from batchvision.commands.redo import digests_of
from batchvision.commands.report import OtherSide, Report, collect, html_of
from batchvision.commands.report.values import Change
from batchvision.commands.run import run
from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread
from batchvision.errors import JobInvalid
from batchvision.runner.feed import Selection

LABELS = {"answer": {"labels": ["shoe", "bag", "hat"]}}


@pytest.fixture(scope="module")
def emulator() -> Any:
    with start_in_thread(EmulatorOptions()) as running:
        yield running


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, emulator: RunningEmulator) -> Output:
    output = an_output(tmp_path_factory.mktemp("first"), emulator.url, **LABELS)
    output.run()
    return output


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory, emulator: RunningEmulator) -> Output:
    """The same rows under another prompt: some answers differ."""
    prompt = {"user": "Which category has {title}?"}
    output = an_output(tmp_path_factory.mktemp("second"), emulator.url, **LABELS, prompt=prompt)
    output.run()
    return output


@pytest.fixture(scope="module")
def compared(first: Output, second: Output) -> Report:
    return collect(second.path, rows=100, against=OtherSide.of_output(first.path))


def answers(output: Output) -> dict[str, dict[str, Any]]:
    return {row["row_id"]: row for row in output.rows("results")}


def test_rows_are_the_same_or_changed(first: Output, second: Output, compared: Report) -> None:
    before, after = answers(first), answers(second)
    changed = {each for each in before if before[each]["answer_label"] != after[each]["answer_label"]}
    found = compared.comparison
    assert 0 < len(changed) < len(before)
    assert (found.rows, found.changed, found.same) == (len(before), len(changed), len(before) - len(changed))
    assert (found.only_here, found.only_there) == (0, 0)
    assert {card.row_id for card in compared.cards if card.beside.change is Change.CHANGED} == changed


def test_changed_rows_come_first_with_both_answers_and_the_image(
    first: Output, second: Output, compared: Report
) -> None:
    before, after = answers(first), answers(second)
    cards = compared.cards[: compared.comparison.changed]
    assert {card.beside.change for card in cards} == {Change.CHANGED}
    for card in cards:
        assert (card.beside.answer, card.answer) == (
            before[card.row_id]["answer_label"],
            after[card.row_id]["answer_label"],
        )
        assert card.thumbnail is not None


def test_the_agreement_by_label_counts_the_labels_of_the_other_output(
    first: Output, second: Output, compared: Report
) -> None:
    before, after = answers(first), answers(second)
    pairs = Counter((before[each]["answer_label"], after[each]["answer_label"]) for each in before)
    for each in compared.comparison.labels:
        assert each.rows == sum(rows for (there, _), rows in pairs.items() if there == each.label)
        assert each.same == pairs[each.label, each.label]
        assert sum(rows for _, rows in each.instead) == each.rows - each.same


def test_the_cost_difference_is_of_rows_that_have_two_answers(first: Output, second: Output, compared: Report) -> None:
    found = compared.comparison
    assert found.cost_rows == found.rows
    assert found.other_cost_ticks == sum(row["row_cost_ticks"] for row in first.rows("results"))
    assert found.cost_ticks == sum(row["row_cost_ticks"] for row in second.rows("results"))


def test_answers_without_another_one_are_counted(first: Output, second: Output, tmp_path: Path) -> None:
    fewer = first.copy(tmp_path / "fewer")
    removed = [row["row_id"] for row in first.rows("results")[:3]]
    fewer.rewrite("results", lambda rows: rows.__setitem__(slice(None), rows[3:]))
    rows = len(first.rows("results"))
    found = collect(second.path, rows=50, against=OtherSide.of_output(fewer.path))
    assert (found.comparison.only_here, found.comparison.only_there, found.comparison.rows) == (3, 0, rows - 3)
    assert {card.row_id for card in found.cards if card.beside.change is Change.NEW} == set(removed)
    turned = collect(fewer.path, rows=50, against=OtherSide.of_output(second.path)).comparison
    assert (turned.only_here, turned.only_there) == (0, 3)


def test_a_row_that_failed_here_and_was_answered_there_is_different(
    first: Output, tmp_path: Path, emulator: RunningEmulator
) -> None:
    failing = an_output(tmp_path, emulator.url, **LABELS)
    text = (tmp_path / "photos.csv").read_text().replace("thing 3 ", "thing 3 [[fault:refusal]]")
    (tmp_path / "photos.csv").write_text(text)
    failing.run()
    report = collect(failing.path, rows=100, against=OtherSide.of_output(first.path))
    (lost,) = [card for card in report.cards if card.beside.change is Change.LOST]
    assert (lost.row_id, lost.is_failed, lost.beside.answer) == ("r03", True, answers(first)["r03"]["answer_label"])
    assert report.comparison.only_there == 1


def test_an_earlier_run_gives_the_answers_that_were_current_then(tmp_path: Path, emulator: RunningEmulator) -> None:
    output = an_output(tmp_path, emulator.url, **LABELS)
    one = output.run()
    before = answers(output)
    two = output.run(prompt__user="Which category has {title}?", output__on_recipe_change="redo")
    three = output.run(prompt__user="Name the category of {title}.", output__on_recipe_change="redo")
    assert len(output.rows("results")) == 3 * len(before)
    against_one = collect(output.path, rows=100, against=OtherSide.of_run(output.path, one.run_id))
    assert {card.row_id: card.beside.answer for card in against_one.cards if not card.is_failed} == {
        row_id: row["answer_label"] for row_id, row in before.items()
    }
    now = {row["row_id"]: row["answer_label"] for row in output.rows("results") if row["run_id"] == three.run_id}
    earlier = {row["row_id"]: row["answer_label"] for row in output.rows("results") if row["run_id"] == two.run_id}
    against_two = collect(output.path, rows=100, against=OtherSide.of_run(output.path, two.run_id)).comparison
    assert against_two.same == sum(now[each] == earlier[each] for each in now)
    assert collect(output.path, rows=0, against=OtherSide.of_run(output.path, three.run_id)).comparison.changed == 0


def test_a_redo_leaves_its_older_answer_to_the_earlier_run(tmp_path: Path, emulator: RunningEmulator) -> None:
    output = an_output(tmp_path, emulator.url, **LABELS)
    one = output.run()
    label = answers(output)["r03"]["answer_label"]
    earlier = next(each for each in LABELS["answer"]["labels"] if each != label)

    def change(rows: list[dict[str, Any]]) -> None:
        next(row for row in rows if row["row_id"] == "r03")["answer_label"] = earlier

    output.rewrite("results", change)
    run(output.job(), environ={}, selection=Selection(redo=digests_of(["r03"])))
    report = collect(output.path, rows=100, against=OtherSide.of_run(output.path, one.run_id))
    (changed,) = [card for card in report.cards if card.beside.change is Change.CHANGED]
    assert (changed.row_id, changed.beside.answer, changed.answer) == ("r03", earlier, label)


def test_a_row_that_is_failed_now_keeps_its_earlier_answer(tmp_path: Path, emulator: RunningEmulator) -> None:
    output = an_output(tmp_path, emulator.url, **LABELS)
    one = output.run()
    before = answers(output)
    text = (tmp_path / "photos.csv").read_text().replace("thing 3 ", "thing 3 [[fault:refusal]]")
    (tmp_path / "photos.csv").write_text(text)
    output.run()
    report = collect(output.path, rows=100, against=OtherSide.of_run(output.path, one.run_id))
    (lost,) = [card for card in report.cards if card.beside.change is Change.LOST]
    assert (lost.row_id, lost.beside.answer) == ("r03", before["r03"]["answer_label"])


def test_a_run_that_is_not_there_is_named_with_the_last_runs(first: Output) -> None:
    run_id = json.loads((first.path / "runs" / "latest.json").read_text())["run_id"]
    with pytest.raises(
        JobInvalid, match=f"no output at yesterday, and .* no run of that name; its last runs: {run_id}"
    ):
        OtherSide.of_run(first.path, "yesterday")


def test_texts_are_equal_but_for_spaces_and_lists_in_any_order() -> None:
    from batchvision.commands.report.comparing import _spelling

    assert _spelling("a  shoe\n") == _spelling("a shoe")
    assert _spelling('{"b": 1, "a": 2}') == _spelling('{"a": 2, "b": 1}')
    assert _spelling(["red", "blue"]) == _spelling(["blue", "red"])
    assert _spelling("a shoe") != _spelling("A shoe")


def test_several_properties_agree_one_by_one(tmp_path: Path, emulator: RunningEmulator) -> None:
    schema = {
        "type": "object",
        "required": ["count", "is_new"],
        "properties": {"count": {"type": "integer"}, "is_new": {"type": "boolean"}},
    }
    outputs = []
    for name, user in (("one", "Describe {title}."), ("two", "Look at {title}.")):
        (tmp_path / name).mkdir()
        outputs.append(an_output(tmp_path / name, emulator.url, answer={"schema": schema}, prompt={"user": user}))
        outputs[-1].run()
    one, two = map(answers, outputs)
    found = collect(outputs[1].path, rows=0, against=OtherSide.of_output(outputs[0].path)).comparison
    for each in found.properties:
        assert each.same == sum(one[row_id][each.name] == two[row_id][each.name] for row_id in one)
    assert found.same == sum(
        all(one[row_id][each.name] == two[row_id][each.name] for each in found.properties) for row_id in one
    )


def test_an_output_of_another_schema_is_compared_by_its_texts(
    first: Output, tmp_path: Path, emulator: RunningEmulator
) -> None:
    plain = an_output(tmp_path, emulator.url)
    plain.run()
    found = collect(plain.path, rows=100, against=OtherSide.of_output(first.path))
    assert (found.comparison.rows, found.comparison.changed) == (len(first.rows("results")),) * 2
    assert (found.comparison.labels, found.comparison.properties) == ((), ())
    labels, texts = answers(first), answers(plain)
    for card in found.cards:
        if not card.is_failed:
            assert card.beside.answer == labels[card.row_id]["answer_label"]
            assert card.answer == texts[card.row_id]["output_text"]


def test_a_run_whose_rows_all_failed_has_no_column_to_compare(
    first: Output, tmp_path: Path, emulator: RunningEmulator
) -> None:
    failing = an_output(tmp_path, emulator.url, **LABELS)
    text = (tmp_path / "photos.csv").read_text().replace("thing", "[[fault:refusal]] thing")
    (tmp_path / "photos.csv").write_text(text)
    failing.run()
    found = collect(failing.path, rows=100, against=OtherSide.of_output(first.path)).comparison
    assert (found.rows, found.only_there) == (0, len(first.rows("results")))
    turned = collect(first.path, rows=100, against=OtherSide.of_output(failing.path)).comparison
    assert (turned.rows, turned.only_here) == (0, len(first.rows("results")))


def test_the_command_prints_the_values_of_the_page(first: Output, second: Output, tmp_path: Path) -> None:
    to = tmp_path / "page.html"
    done = CliRunner().invoke(
        command, [str(second.path), "-o", str(to), "--against", str(first.path), "--json", "--rows", "5"]
    )
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    found = collect(second.path, rows=5, against=OtherSide.of_output(first.path))
    comparison = document["comparison"]
    assert comparison["changed"] == found.comparison.changed
    assert [each["same"] for each in comparison["labels"]] == [each.same for each in found.comparison.labels]
    assert [(each["row_id"], each["beside"]["answer"]) for each in document["rows"]] == [
        (card.row_id, card.beside.answer) for card in found.cards
    ]
    page = to.read_text()
    assert f"Compared with {first.path}" in page
    assert f"{found.comparison.same:,} of {found.comparison.rows:,} rows" in page


def test_the_command_takes_a_run_id(first: Output, tmp_path: Path) -> None:
    run_id = json.loads((first.path / "runs" / "latest.json").read_text())["run_id"]
    to = tmp_path / "page.html"
    done = CliRunner().invoke(command, [str(first.path), "-o", str(to), "--against", run_id])
    assert done.exit_code == 0, done.output
    assert f"Compared with run {run_id}" in to.read_text()


def test_a_report_that_compares_nothing_shows_no_comparison(first: Output) -> None:
    page = html_of(collect(first.path, rows=5))
    assert "Compared with" not in page
    assert "only different" not in page
