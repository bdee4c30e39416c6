"""How a command ends: errors become words on stderr and one of DESIGN's exit codes.

Rule: the only place that turns an exception into an exit code.
"""

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
    """Run one command line to its exit code; whatever goes wrong is told on stderr, once."""
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
    except SystemExit as leaving:  # click's own answer to a reader that has gone away
        silence_stdout()
        return leaving.code if isinstance(leaving.code, int) and leaving.code != 1 else 0
    except Exception as error:  # noqa: BLE001 - the last line of defence: said in words, exit 1
        return report(error, debug=debug)
    return code if isinstance(code, int) else 0


def report(error: Exception, *, debug: bool = False) -> int:
    """Say what went wrong and return the exit code that says it to machines."""
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
    """The error in words: one sentence, or a bullet for each problem."""
    problems = error.problems if isinstance(error, JobInvalid) else (error.message,)
    if len(problems) == 1:
        return [f"error: {problems[0] or error.kind}"]
    return [f"error: {len(problems)} problems", *(f"  - {problem}" for problem in problems)]


def _known_cause(error: BaseException) -> BatchvisionError | None:
    """The error of ours that ``error`` is, or that a group of errors holds."""
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
    """Nobody reads stdout any more (``| head``): let the interpreter's last flush go nowhere instead of complaining."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
