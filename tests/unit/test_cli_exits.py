"""Every way a command can end has its exit code and its words on stderr."""

from __future__ import annotations

import click
import pytest

from batchvision.cli.command import Command
from batchvision.cli.exits import error_lines, run_and_report
from batchvision.errors import (
    AuthenticationFailed,
    BatchvisionError,
    CheckpointDamaged,
    ConnectFailed,
    JobInvalid,
    OutputHeld,
    SpendCapReached,
)


def _ending_in(error: BaseException | None, returns: int | None = None) -> click.Group:
    @click.group()
    def group() -> None:
        pass

    @group.command(cls=Command)
    def go() -> int | None:
        if error is not None:
            raise error
        return returns

    return group


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (JobInvalid("no"), 2),
        (AuthenticationFailed("no"), 5),
        (SpendCapReached("no"), 4),
        (CheckpointDamaged("no"), 7),
        (OutputHeld("no"), 11),
        (ConnectFailed("no"), 1),
        (RuntimeError("no"), 1),
        (KeyboardInterrupt(), 130),
        (click.UsageError("no"), 2),
        (click.FileError("x"), 2),
        (ExceptionGroup("", [ExceptionGroup("", [OutputHeld("no")])]), 11),
    ],
)
def test_an_error_ends_in_its_exit_code(error: BaseException, code: int) -> None:
    assert run_and_report(_ending_in(error), ["go"]) == code


@pytest.mark.parametrize("returns", [None, 0, 3, 6])
def test_a_commands_number_is_its_exit_code(returns: int | None) -> None:
    assert run_and_report(_ending_in(None, returns), ["go"]) == (returns or 0)


def test_an_unexpected_error_is_one_line_and_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    run_and_report(_ending_in(RuntimeError("first\nsecond")), ["go"])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "error: unexpected RuntimeError: first",
        "This is a fault in batchvision or its surroundings. Run it again with --debug to see the traceback.",
    ]


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    run_and_report(_ending_in(RuntimeError("first")), ["go", "--debug"])
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_all_problems_of_a_job_are_listed() -> None:
    error = JobInvalid(["prompt.user is missing", "limits.concurency is unknown; did you mean concurrency?"])
    assert error_lines(error) == [
        "error: 2 problems",
        "  - prompt.user is missing",
        "  - limits.concurency is unknown; did you mean concurrency?",
    ]


def test_a_single_problem_is_one_line() -> None:
    errors: list[BatchvisionError] = [JobInvalid("no file"), AuthenticationFailed("bad key")]
    assert [error_lines(error) for error in errors] == [["error: no file"], ["error: bad key"]]


def test_a_message_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    run_and_report(_ending_in(JobInvalid("\x1b[2Jgone")), ["go"])
    assert capsys.readouterr().err == "error: \\x1b[2Jgone\n"
