"""``batchvision run JOB``: the main command."""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from batchvision.cli.command import Command, typed_command
from batchvision.cli.entry import BEGAN_AT
from batchvision.cli.options import RUN_FLAGS, job_argument, job_flags, load_job
from batchvision.cli.output import say
from batchvision.cli.place import from_here
from batchvision.cli.terminal import safe_json, safe_line
from batchvision.errors import OutputHeld

if TYPE_CHECKING:
    from batchvision.cli.logs import AppendedLog
    from batchvision.job import Job
    from batchvision.records import RunSummary
    from batchvision.runner.feed import Selection

log = logging.getLogger(__name__)

#: Flags that apply to one run only. The suggested next command leaves them out.
ONCE_FLAGS = ("--retry-failed", "--no-retry-failed", "--retry-quarantined", "--yes", "--recut", "--json")
ONCE_VALUES = ("--redo",)


class RunCommand(Command):
    """Lets ``--retry-failed`` stand alone: without ``=KIND`` it means all kinds and takes no other argument."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["--retry-failed=all" if arg == "--retry-failed" else arg for arg in args])


@click.command(cls=RunCommand, name="run")
@job_argument
@job_flags(RUN_FLAGS)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N rows that are to do.")
@click.option("--sample", type=click.IntRange(min=1), help="Only N rows that are to do, drawn at random.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of --sample.")
@click.option(
    "--retry-failed",
    metavar="[=KIND,...]",
    default=None,
    help="Ask failed rows again: all kinds, or those named after =.",
)
@click.option("--no-retry-failed", is_flag=True, help="Leave all failed rows as they are.")
@click.option("--retry-quarantined", is_flag=True, help="Bring back rows that were set aside.")
@click.option(
    "--redo",
    metavar="ID,...|FILE",
    default=None,
    help="Ask only these answered rows again, and pay again: row_ids or a file (of review.csv the rows marked wrong).",
)
@click.option("--yes", is_flag=True, help="With --redo: do not ask for consent on a terminal.")
@click.option("--allow-empty", is_flag=True, help="Accept a manifest without rows beside an output with answers.")
@click.option(
    "--shard",
    metavar="I/N",
    default=None,
    help="Only this slice of the manifest: 0/4 to 3/4; auto/4 takes the index from the job array.",
)
@click.option(
    "--shards-at-once",
    metavar="K",
    type=click.IntRange(min=1),
    default=None,
    help="So many shards run at the same time: each has a K-th of the rates and the concurrency. Default: N.",
)
@click.option("--recut", is_flag=True, help="Divide the output into another number of shards than before.")
@click.option(
    "--drain-timeout",
    type=click.FloatRange(min=0),
    default=25.0,
    show_default=True,
    help="Seconds to finish in after Ctrl-C.",
)
@click.option(
    "--if-locked",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="Where another run holds the output: exit 11, or say so and exit 0.",
)
@click.option(
    "--metrics-file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Write the figures of the run for Prometheus' textfile collector.",
)
@click.option("--quiet", is_flag=True, help="Print only warnings, and closing words where the exit code is not 0.")
@click.option(
    "--log-format",
    type=click.Choice(["auto", "text", "json"]),
    default="auto",
    show_default=True,
    help="auto: text on a terminal, JSON lines elsewhere and in --log-file.",
)
@click.option(
    "--log-file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Append log lines, progress and the summary to a file, also with --quiet.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout.")
@click.pass_context
def command(ctx: click.Context, /, job: str, settings: tuple[str, ...], as_json: bool, **flags: Any) -> int:
    """Ask the model about every row of JOB that has no answer yet.

    Run it again whenever something is left: finished rows cost nothing.

    Exit codes: 0 all rows have answers, 2 the job or manifest is wrong, 3 some rows failed, 4 a limit of the job was
    reached, 5 the provider refused, 6 tickets are open, 7 disk, 8 the load at the end failed, 11 another run holds the
    output, 129, 130 or 143 after a signal.
    """
    chosen = load_job(job, flags, (*settings, *_retry_setting(flags)))
    rows = selection(flags, chosen)
    if flags["redo"] is not None:
        rows = _redo_selection(chosen, flags, rows)
        if rows.redo is None:
            say("Nothing was sent.")
            return 0
    log_file = _log_file(flags)
    try:
        summary = _run(chosen, rows, flags, log_file)
    except OutputHeld as held:
        if flags["if_locked"] == "fail":
            raise
        if not flags["quiet"]:
            say(f"skipped: {held.message}")
        return 0
    _send_metrics(flags["metrics_file"], summary)
    _print_closing(ctx, job, chosen, summary, flags, log_file)
    if as_json:
        from batchvision.cli.output import print_document
        from batchvision.cli.streams import stdout_may_fail
        from batchvision.commands.status import summary_document

        with stdout_may_fail(chosen.output_path / "runs" / f"{summary.run_id}.json"):
            print_document(summary_document(summary))
    return summary.exit_code


def _send_metrics(path: Path | None, summary: RunSummary) -> None:
    """Metrics that cannot be written or sent are a warning: the exit code is that of the run."""
    from batchvision.commands.metrics import export_metrics, write_metrics

    export_metrics(summary)
    if path is None:
        return
    try:
        write_metrics(path, summary)
    except OSError as fault:
        log.warning("%s cannot be written (%s); the summary is in runs/", path, fault.strerror)


def _redo_selection(job: Job, flags: dict[str, Any], rows: Selection) -> Selection:
    """The rows of ``--redo``, after saying what they cost. On a terminal without consent: ``redo`` is None."""
    import anyio

    from batchvision.commands.redo import digests_of, named_rows, quote_redo

    for name in ("limit", "sample", "retry_failed", "retry_quarantined"):
        if flags[name]:
            flag = name.replace("_", "-")
            raise click.UsageError(f"--redo asks the rows that it names, and no others: leave --{flag} out.")
    named = named_rows(flags["redo"])
    words = safe_line(str(anyio.run(quote_redo, job, named, rows)))
    if sys.stdin.isatty() and sys.stderr.isatty() and not flags["yes"]:
        if not click.confirm(f"{words}. Go on?", err=True):
            return rows
    elif _logs_json(flags) and not flags["quiet"]:
        click.echo(safe_json(json.dumps({"event": "redo", "message": words}, ensure_ascii=False)), err=True)
    elif not flags["quiet"]:
        say(words)
    return replace(rows, redo=digests_of(named))


def _run(job: Job, rows: Selection, flags: dict[str, Any], log_file: AppendedLog | None) -> RunSummary:
    import anyio

    from batchvision.cli.logs import FAILURES_SHOWN, show_warnings
    from batchvision.cli.progress import Style, both, choose_style, watcher
    from batchvision.cli.terminal import HIDDEN
    from batchvision.commands.run import run_async
    from batchvision.runner import RunDependencies

    shown = choose_style(flags["log_format"], quiet=False, is_terminal=sys.stderr.isatty())
    most = FAILURES_SHOWN if shown is Style.BAR else None
    show_warnings(as_json=shown is Style.JSON, news=not flags["quiet"], failures_shown=most, log_file=log_file)
    style = Style.QUIET if flags["quiet"] else shown
    rows_wanted = flags["limit"] or flags["sample"]
    watch = watcher(style, sys.stderr, rows_wanted=rows_wanted)
    if log_file is not None:
        file_style = Style.JSON if log_file.as_json else Style.TEXT
        watch = both(watch, watcher(file_style, log_file, rows_wanted=rows_wanted))
    start = partial(
        run_async,
        job,
        selection=rows,
        dependencies=RunDependencies(secrets=HIDDEN),
        drain_timeout_seconds=flags["drain_timeout"],
        elapsed_seconds=monotonic() - BEGAN_AT,
        watch=watch,
    )
    return anyio.run(start)


def _log_file(flags: dict[str, Any]) -> AppendedLog | None:
    if flags["log_file"] is None:
        return None
    from batchvision.cli.logs import AppendedLog

    return AppendedLog(flags["log_file"], as_json=flags["log_format"] != "text")


def _retry_setting(flags: dict[str, Any]) -> tuple[str, ...]:
    """``--retry-failed=KINDS`` and ``--no-retry-failed`` as one setting of the job."""
    if flags["no_retry_failed"] and flags["retry_failed"] is not None:
        raise click.UsageError("--retry-failed and --no-retry-failed contradict each other: give one.")
    kinds = "none" if flags["no_retry_failed"] else flags["retry_failed"]
    return () if kinds is None else (f"limits.retry_failed={kinds}",)


def selection(flags: dict[str, Any], job: Job) -> Selection:
    """The selection of rows by the flags."""
    from batchvision.cli.shards import shard_of
    from batchvision.runner.feed import Selection

    chosen = shard_of(flags["shard"], os.environ)
    return Selection(
        limit=flags["limit"],
        sample=flags["sample"],
        seed=flags["seed"],
        shard=chosen.number,
        shards=chosen.of,
        shards_at_once=flags["shards_at_once"],
        recut=flags["recut"],
        retry_failed=job.limits.retry_kinds,
        retry_quarantined=flags["retry_quarantined"],
        allow_empty=flags["allow_empty"],
    )


def _logs_json(flags: dict[str, Any]) -> bool:
    return flags["log_format"] == "json" or (flags["log_format"] == "auto" and not sys.stderr.isatty())


def _print_closing(
    ctx: click.Context, path: str, job: Job, summary: RunSummary, flags: dict[str, Any], log_file: AppendedLog | None
) -> None:
    """Write the closing lines to stderr and to the log file, each in its format."""
    from batchvision.cli.closing import Typed, closing_lines
    from batchvision.commands.status import summary_document

    typed = Typed(
        again=typed_command(ctx, without=ONCE_FLAGS, without_values=ONCE_VALUES),
        check=f"batchvision check {path}",
        reparse=f"batchvision reparse {path}",
        load=f"batchvision load {path}",
    )
    lines = closing_lines(summary, job.output_url or from_here(job.output_path), typed)
    finished = safe_json(json.dumps({"event": "finished", **summary_document(summary)}, ensure_ascii=False))
    if log_file is not None:
        for line in [finished] if log_file.as_json else map(safe_line, lines):
            log_file.write_line(line)
    if flags["quiet"] and summary.exit_code == 0:
        return
    if _logs_json(flags):
        click.echo(finished, err=True)
        return
    for line in lines:
        say(line)
