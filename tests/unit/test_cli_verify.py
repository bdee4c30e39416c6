"""The words of verify and reparse: one line for each thing, a mark before it, the next step behind it."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchvision.cli.reparse import reparsed_lines
from batchvision.cli.verify import report_lines
from batchvision.commands.reparse import Reparsed
from batchvision.commands.reparse.reading import NoAnswerReason
from batchvision.commands.verify import Finding, Mark, VerifyReport
from batchvision.commands.verify.tables import TableContents

GOOD = Finding("parts", Mark.OK, "3 files")
ODD = Finding("manifest", Mark.NOTE, "is gone", "put it back")
BAD = Finding("ledger", Mark.WRONG, "the sum is wrong", "restore it")


def report(*findings: Finding) -> VerifyReport:
    return VerifyReport(Path("out"), findings, TableContents(), None)


def test_every_finding_has_its_mark_and_its_next_step() -> None:
    assert list(report_lines(report(GOOD, ODD, BAD))) == [
        "ok  parts     3 files",
        "--  manifest  is gone",
        "              next: put it back",
        "NO  ledger    the sum is wrong",
        "              next: restore it",
        "out: 1 thing is not right",
    ]


def test_a_note_leaves_the_output_right() -> None:
    assert list(report_lines(report(GOOD, ODD)))[-1] == "out: all is right"
    assert report(GOOD, ODD).exit_code == 0
    assert list(report_lines(report(BAD, BAD)))[-1] == "out: 2 things are not right"
    assert report(BAD).exit_code == 7


def test_a_report_as_json_holds_the_same_findings() -> None:
    document = report(GOOD, BAD).document()
    assert (document["ok"], document["exit_code"], document["manifest"]) == (False, 7, None)
    assert document["findings"][1] == {
        "topic": "ledger",
        "mark": "wrong",
        "says": "the sum is wrong",
        "next": "restore it",
    }


def test_when_all_is_published_there_is_nothing_to_type() -> None:
    lines = list(reparsed_lines(Reparsed(rows=2, published=1, done=1), "batchvision run j"))
    assert lines == [
        "1 row of 2 got an answer that was stored before; nothing was sent",
        "  done      1 row had an answer under this recipe before",
    ]


@pytest.mark.parametrize(
    ("why", "says"),
    [
        (NoAnswerReason.UNFIT, "whose stored answers do not satisfy [answer]"),
        (NoAnswerReason.NOT_KEPT, "there is nothing to read again"),
        (NoAnswerReason.CHANGED, "whose text or images are not those"),
        (NoAnswerReason.NONE, "that no answer has come for yet"),
    ],
)
def test_every_reason_and_the_next_command_are_shown(why: NoAnswerReason, says: str) -> None:
    without = {**dict.fromkeys(NoAnswerReason, 0), why: 3}
    lines = list(reparsed_lines(Reparsed(rows=5, published=2, without=without), "batchvision run j"))
    assert sum(says in line and "3 rows" in line for line in lines) == 1
    assert lines[-1] == "  next      batchvision run j   (asks these rows: 3)"


def test_the_first_reasons_stand_under_the_rows_that_do_not_fit() -> None:
    without = {**dict.fromkeys(NoAnswerReason, 0), NoAnswerReason.UNFIT: 1}
    reparsed = Reparsed(rows=1, without=without, problems=[("a", "no label")], waiting=0, invalid=0)
    assert "            row a: no label" in list(reparsed_lines(reparsed, "x"))
    assert reparsed.document()["problems"] == [{"row_id": "a", "problem": "no label"}]


def test_rows_that_wait_or_are_invalid_are_not_offered_to_a_run() -> None:
    reparsed = Reparsed(rows=3, published=1, waiting=1, invalid=1)
    lines = list(reparsed_lines(reparsed, "x"))
    assert reparsed.to_ask == 0
    assert [line.split()[0] for line in lines[1:]] == ["waiting", "invalid"]
