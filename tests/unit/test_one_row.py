"""``show --id ROW`` gives everything that an output holds about one row."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from checkpoint_rows import an_answer, an_intent, ask, classify, open_store
from click.testing import CliRunner
from stored_outputs import StoredOutput

from batchvision.cli.entry import group
from batchvision.cli.one_row import row_lines
from batchvision.commands.row import OpenReason, row_details
from batchvision.errors import JobInvalid

NOW = datetime(2026, 12, 1, tzinfo=UTC)


def stored(name: str, folder: Path) -> Path:
    return StoredOutput.unpack(name, folder).output


def lines(output: Path, row_id: str) -> str:
    return "\n".join(row_lines(row_details(output, row_id), NOW))


def one_answer(output: Path, text: str) -> Path:
    with open_store(output) as store:
        store.recover(classify)
        anyio.run(ask, store, an_intent(1), an_answer(text.encode()))
        anyio.run(store.close, True)
    return output


def test_a_row_has_its_answer_every_attempt_and_their_cost(tmp_path: Path) -> None:
    row = row_details(stored("two-recipes", tmp_path), "r02")
    assert row.state == "completed"
    assert row.typed == {"label": "green"}
    assert [each["state"] for each in row.attempts] == ["ok", "ok"]
    assert row.cost_ticks == sum(each["cost_ticks"] for each in row.attempts) > 0
    assert (row.in_manifest, row.open) == (True, ())


def test_older_answers_are_those_under_other_recipes(tmp_path: Path) -> None:
    row = row_details(stored("two-recipes", tmp_path), "r02")
    (older,) = row.older_answers
    assert row.answer is not None
    assert older["recipe_id"] != row.answer["recipe_id"]
    assert older["output_text"] == '{"label": "red"}'


def test_the_prompt_has_the_kept_cells_and_names_cells_that_are_not_stored(tmp_path: Path) -> None:
    row = row_details(stored("two-recipes", tmp_path), "r02")
    assert row.prompt is not None
    assert row.prompt.user == "And now {image:front} of thing 2, then {image:back}. {hint}"
    assert row.prompt.missing == ("hint",)
    assert row.prompt.labels == ("red", "green", "blue")


def test_renamed_kept_cells_fill_the_columns_of_the_manifest(tmp_path: Path) -> None:
    output = stored("two-recipes", tmp_path)
    latest = output / "runs" / "latest.json"
    document = json.loads(latest.read_text())
    document["config"]["manifest"]["keep"] = {"title": "hint"}
    latest.write_text(json.dumps(document))
    prompt = row_details(output, "r02").prompt
    assert prompt is not None
    assert prompt.user == "And now {image:front} of {title}, then {image:back}. thing 2"
    assert prompt.missing == ("title",)


@pytest.mark.parametrize(
    ("row_id", "reason"),
    [
        ("r00", OpenReason.HELD),
        ("r01", OpenReason.UNREAD),
        ("r02", OpenReason.TICKET),
        ("r09", OpenReason.CUT_OFF),
    ],
)
def test_a_pending_row_has_the_reason(tmp_path: Path, row_id: str, reason: OpenReason) -> None:
    row = row_details(stored("every-record", tmp_path), row_id)
    assert (row.state, [each.reason for each in row.open]) == ("pending", [reason])


def test_an_open_ticket_has_its_age(tmp_path: Path) -> None:
    output = stored("every-record", tmp_path)
    (entry,) = row_details(output, "r02").open
    assert entry.since is not None
    document = row_details(output, "r02").document(NOW)
    assert document["open"][0]["ticket"] == "ticket-2"
    assert document["open"][0]["age_seconds"] == (NOW - entry.since).total_seconds() > 0


def test_a_request_of_a_run_at_work_is_in_flight(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.recover(classify)
        anyio.run(store.intent, an_intent(1))
        (entry,) = row_details(tmp_path, "row1").open
        assert entry.reason is OpenReason.IN_FLIGHT
        assert "a run at work waits for the answer" in lines(tmp_path, "row1")
    (entry,) = row_details(tmp_path, "row1").open
    assert entry.reason is OpenReason.CUT_OFF


def test_a_failed_row_has_its_kind_and_advice(tmp_path: Path) -> None:
    output = stored("several-runs", tmp_path)
    row = row_details(output, "r04")
    assert row.failure is not None
    assert (row.state, row.answer) == ("failed", None)
    assert row.document(NOW)["failure"]["advice"] == row.advice
    assert row.failure["error_kind"] in lines(output, "r04")
    assert f"next      {row.advice}" in lines(output, "r04")


def test_an_unknown_id_is_an_error_with_similar_ids(tmp_path: Path) -> None:
    output = stored("two-recipes", tmp_path)
    with pytest.raises(JobInvalid, match=r"holds nothing about the row 'r022'\. Similar ids: 'r02'"):
        row_details(output, "r022")


def test_json_is_one_document_with_the_whole_raw_answer(tmp_path: Path) -> None:
    output = stored("two-recipes", tmp_path)
    for form in (["--json"], ["--format", "jsonl"]):
        done = CliRunner().invoke(group, ["show", str(output), "--id", "r02", *form])
        assert done.exit_code == 0
        (line,) = done.stdout.splitlines()
        document = json.loads(line)
        assert document["state"] == "completed"
        raw = [attempt["raw_answer"] for attempt in document["attempts"]]
        assert raw == [each["raw_answer"] for each in row_details(output, "r02").attempts]
        assert json.loads(raw[0])["object"] == "chat.completion"


def test_a_long_raw_answer_is_shortened_for_people(tmp_path: Path) -> None:
    output = one_answer(tmp_path, "x" * 5_000)
    assert "... 5,000 characters in all: --json prints them" in lines(output, "row1")
    assert "x" * 1_300 not in lines(output, "row1")


def test_control_characters_in_an_answer_reach_no_terminal(tmp_path: Path) -> None:
    output = one_answer(tmp_path, "\x1b[2J\u202eevil")
    done = CliRunner().invoke(group, ["show", str(output), "--id", "row1"])
    assert "\\x1b[2J\\u202eevil" in done.stdout
    assert not {"\x1b", "\u202e"} & set(done.stdout)


@pytest.mark.parametrize("more", [["--format", "csv"], ["--columns", "title"], ["--limit", "1"]])
def test_options_of_many_rows_are_refused_beside_an_id(tmp_path: Path, more: list[str]) -> None:
    done = CliRunner().invoke(group, ["show", str(tmp_path), "--id", "r02", *more])
    assert done.exit_code == 2
    assert "--id prints one row" in done.stderr
