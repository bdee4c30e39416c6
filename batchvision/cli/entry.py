"""Start the command line: find a command by its name and import it when it is called.

Only click is imported here, so that ``batchvision --help`` answers at once.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import click

from batchvision import __version__
from batchvision.errors import NOT_ON_WINDOWS

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

#: Start of this process. ``limits.max_runtime_seconds`` counts from here.
BEGAN_AT = monotonic()

#: Rows make little cyclic garbage. At Python's default thresholds the collector takes a quarter of a run's CPU.
GC_THRESHOLDS = (50_000, 10, 10)


class _Entry(NamedTuple):
    module: str
    help: str


#: All commands in the order of ``--help``: the module that holds ``command``, and its help line.
COMMANDS: dict[str, _Entry] = {
    "demo": _Entry("batchvision.cli.demo", "Run a real job on sample images, on this machine, for free."),
    "init": _Entry("batchvision.cli.init", "Write a job file for a folder of images."),
    "run": _Entry("batchvision.cli.run", "Ask the model about every row that has no answer yet."),
    "plan": _Entry("batchvision.cli.plan", "Say what a run would do. Sends nothing."),
    "check": _Entry("batchvision.cli.check", "Check key, model, manifest and folders. Costs nothing."),
    "status": _Entry("batchvision.cli.status", "Say how far an output is and what it cost."),
    "show": _Entry("batchvision.cli.show", "Print answers or failures as a table, CSV or JSON lines."),
    "load": _Entry("batchvision.cli.load", "Load answers, failures and costs of an output into a database."),
    "report": _Entry("batchvision.cli.report", "Write one HTML page about an output, to look at and to review."),
    "verify": _Entry("batchvision.cli.verify", "Check an output, byte for byte and number for number."),
    "compact": _Entry("batchvision.cli.compact", "Merge an output's small files into few."),
    "ddl": _Entry("batchvision.cli.ddl", "Print SQL that loads an output into a warehouse."),
    "reparse": _Entry("batchvision.cli.reparse", "Read stored answers again after [answer] changed. Sends nothing."),
    "cancel": _Entry("batchvision.cli.cancel", "Cancel open batches. Keeps what they have finished."),
    "config": _Entry("batchvision.cli.config", "Print a job's settings and where each came from."),
    "manifest": _Entry("batchvision.cli.manifest", "Write a manifest of the images in a folder."),
    "models": _Entry("batchvision.cli.models", "List a provider's models."),
    "completion": _Entry("batchvision.cli.completion", "Print the completion script of bash, zsh or fish."),
    "emulate": _Entry("batchvision.cli.emulate", "Serve a loopback provider to rehearse a job with."),
}

HELP = """Ask a vision model about every row of a table of images; never pay for an answer twice.

New here? `batchvision demo` shows a whole run without a key. Then write a job file, set its key, and
`batchvision run JOB`; run the same command again whenever something is left to do.
"""


class CommandTable(click.Group):
    """A group that finds commands by name and imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = import_module(entry.module).command
        if not isinstance(command, click.Command):
            raise RuntimeError("the module of a command holds no command")
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the name of a command, without importing the commands."""
        from click.shell_completion import CompletionItem

        names = [name for name in COMMANDS if name.startswith(incomplete)]
        found = [CompletionItem(name, help=COMMANDS[name].help) for name in names]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands of the table, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


def _remember_debug(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta["batchvision.debug"] = True


@click.command(
    cls=CommandTable,
    help=HELP,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="batchvision")
@click.option("--debug", is_flag=True, expose_value=False, callback=_remember_debug, help="Show tracebacks of errors.")
def group() -> None:
    pass


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit with its code."""
    if os.name == "nt":
        click.echo(NOT_ON_WINDOWS, err=True)
        sys.exit(2)
    gc.set_threshold(*GC_THRESHOLDS)  # before the imports of the command
    from batchvision.cli.exits import run_and_report
    from batchvision.cli.streams import prepare_streams

    prepare_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.exit(run_and_report(group, arguments))
