"""Turn exceptions of a command into messages on stderr and an exit code. No other module does."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence

import click

from batchvision.cli.output import say
from batchvision.errors import BatchvisionError, JobInvalid, StopRun

UNEXPECTED = 1
USAGE = 2
INTERRUPTED = 130


def run_and_report(group: click.Group, arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. An error is reported on stderr once."""
    debug = "--debug" in arguments
    try:
        code = group.main(args=list(arguments), prog_name="batchvision", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as usage:
        usage.show(sys.stderr)
        return USAGE
    except click.Abort:
        say("\ninterrupted")
        return INTERRUPTED
    except BrokenPipeError:
        silence_stdout()
        return 0
    except SystemExit as leaving:  # raised by click if the reader of stdout has closed it
        silence_stdout()
        return leaving.code if isinstance(leaving.code, int) and leaving.code != 1 else 0
    except Exception as error:  # noqa: BLE001 - the last resort: a message and exit code 1
        return report(error, debug=debug)
    return code if isinstance(code, int) else 0


def report(error: Exception, *, debug: bool = False) -> int:
    """Write the error to stderr and return its exit code."""
    known = _known_cause(error)
    if debug:
        say("".join(traceback.format_exception(error)).rstrip())
    if known is None:
        say(f"error: unexpected {type(error).__name__}: {_first_line(error)}")
        if not debug:
            say("This is a fault in batchvision or its surroundings. Run it again with --debug to see the traceback.")
        return UNEXPECTED
    for line in error_lines(known):
        say(line)
    return known.exit_code if isinstance(known, StopRun) else UNEXPECTED


def error_lines(error: BatchvisionError) -> list[str]:
    """The error as one sentence, or as a list of problems."""
    problems = error.problems if isinstance(error, JobInvalid) else (error.message,)
    if len(problems) == 1:
        return [f"error: {problems[0] or error.kind}"]
    return [f"error: {len(problems)} problems", *(f"  - {problem}" for problem in problems)]


def _known_cause(error: BaseException) -> BatchvisionError | None:
    """The batchvision error in ``error`` or in its group of errors."""
    for leaf in _leaves(error):
        if isinstance(leaf, BatchvisionError):
            return leaf
        if isinstance(leaf, PermissionError) and leaf.filename is not None:
            from batchvision.checkpoint import disk_failed

            return disk_failed(f"opening {leaf.filename}", leaf)
    return None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _first_line(error: BaseException) -> str:
    first = next(iter(_leaves(error)))
    return next(iter(str(first).splitlines()), "") or "no message"


def silence_stdout() -> None:
    """Redirect stdout to the null device after its reader has closed it, so that the last flush does not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
