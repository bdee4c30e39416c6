"""``batchvision status OUT``: the progress and cost of an output."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchvision.accuracy import accuracy_words
from batchvision.cli.command import Command
from batchvision.cli.output import csv_line, plain, print_document, print_lines, write
from batchvision.cli.place import local_folder_of, output_of, place_argument, url_of
from batchvision.cli.progress import duration

if TYPE_CHECKING:
    import pyarrow as pa

    from batchvision.commands.status import OutputStatus


@click.command(cls=Command, name="status")
@place_argument
@click.option("--watch", "watches", is_flag=True, help="Follow the runs at work until they end. Ctrl-C only ends this.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print it as JSON, the last run's summary included; with --watch one line for each change.",
)
@click.option(
    "--ledger-csv",
    metavar="FILE|-",
    type=click.Path(dir_okay=False, allow_dash=True),
    default=None,
    help="Write every attempt with the provider's request id, to compare with its usage page.",
)
def command(place: str, watches: bool, as_json: bool, ledger_csv: str | None) -> None:
    """Say how far an output is and what it cost, also while a run is at work. OUT is a folder or a job file."""
    from batchvision.commands.status import look

    if ledger_csv is not None:
        _write_ledger(output_of(place), ledger_csv)
        return
    if watches and _watch(local_folder_of(place), as_json=as_json):
        return
    status = look(output_of(place), local_folder_of(place))
    status = replace(status, output=url_of(place) or status.output)
    if as_json:
        print_document(status.document())
    else:
        print_lines(status_lines(status))


def _watch(folder: Path, *, as_json: bool) -> bool:
    """Follow the runs at work. Returns False if there is none."""
    from batchvision.checkpoint import LocalDisk, RunningFiles
    from batchvision.cli.watching import Lines, Panel, end_words, watch

    is_panel = sys.stdout.isatty() and not as_json
    try:
        run_ids = watch(
            RunningFiles(folder, LocalDisk()), Panel(sys.stdout) if is_panel else Lines(sys.stdout, as_json=as_json)
        )
    except KeyboardInterrupt:  # the usual way to leave a panel
        return True
    print_lines([] if as_json else [end_words(folder, run_id) for run_id in run_ids])
    return bool(run_ids)


def _write_ledger(output: Path, to: str) -> None:
    """Write the ledger as CSV. The file is renamed into place when it is complete."""
    from batchvision.commands.status import LEDGER_COLUMNS, ledger_rows

    rows = ledger_rows(output)
    if to == "-":
        write(csv_line(LEDGER_COLUMNS))
        for batch in rows:
            write("".join(_csv_lines(batch)))
        return
    path, count = Path(to), 0
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            file.write(csv_line(LEDGER_COLUMNS))
            for batch in rows:
                file.writelines(_csv_lines(batch))
                count += batch.num_rows
        partial.replace(path)
    except OSError as fault:
        partial.unlink(missing_ok=True)
        raise click.ClickException(f"{path} cannot be written: {fault.strerror}") from None
    click.echo(f"{count:,} attempts in {path}", err=True)


def _csv_lines(batch: pa.RecordBatch) -> Iterator[str]:
    from batchvision.commands.status import LEDGER_COLUMNS

    for row in batch.to_pylist():
        yield csv_line(plain(row[name]) for name in LEDGER_COLUMNS)


def status_lines(status: OutputStatus) -> Iterator[str]:
    """The lines of a status."""
    from batchvision.cli.watching import failure_lines, run_lines
    from batchvision.money import UNCLEAR
    from batchvision.ticks import bound_words, cost_words, format_usd

    yield f"{status.output}"
    for figures in status.running:
        yield from run_lines(figures, status.at)
    superseded = status.answers - status.rows_answered
    yield f"  answers   {status.rows_answered:,} rows" + (f" ({superseded:,} older answers kept)" if superseded else "")
    if status.rows_pending:
        yield f"  pending   {status.rows_pending:,} rows"
    yield from failure_lines(status.failures)
    if status.rows_quarantined:
        yield f"  set aside {status.rows_quarantined:,} of the failed rows (--retry-quarantined)"
    if status.rows_held:
        yield f'  on hold   {status.rows_held:,} rows that a crash cut short (ambiguous = "retry" sends them again)'
    if status.tickets_open:
        age = duration((status.at - (status.oldest_ticket_at or status.at)).total_seconds())
        yield f"  tickets   {status.tickets_open:,} open, the oldest for {age}: batchvision run collects their answers"
    if status.in_flight and not status.running:
        yield f"  in flight {status.in_flight:,} requests of a run that was cut off: run again to go on"
    for number, use in enumerate(status.sharing):
        held = f", {format_usd(use.held_ticks)} reserved" if use.held_ticks else ""
        rate = f"{use.slots_per_second:,.1f} requests a second{held}"
        yield f"  {'sharing' if number == 0 else '':<8}  process {use.process}, {use.name.replace('|', ' ')}: {rate}"
    projected = status.projected_ticks
    rest = (
        f", about {format_usd(projected)} when all rows are done" if projected not in (None, status.spent_ticks) else ""
    )
    total = status.spending.total
    yield f"  spent     {cost_words(total.cost_ticks, total.unknown_cost)}{rest}"
    for state, each in status.attempts.items():
        cost = cost_words(each.cost_ticks, each.unknown_cost)
        if state in UNCLEAR and each.unbounded:
            cost = bound_words(each.bound_ticks, each.unbounded)
        elif each.bound_ticks:
            cost += f", perhaps up to {format_usd(each.bound_ticks)}"
        yield f"            {each.attempts:,} attempts {state}: {cost}"
    yield from _spending(status)
    for number, attempt in enumerate(status.unclear):
        bound = f", {bound_words(attempt.bound_ticks, attempt.bound_ticks is None)}"
        yield f"  {'unclear' if number == 0 else '':<8}  row {attempt.row_id}: {attempt.state}{bound}"
    yield from _last_run(status)


def _spending(status: OutputStatus) -> Iterator[str]:
    """Lines about waste, models, days and the prompt cache, if they add to the total."""
    from batchvision.money import NO_MODEL
    from batchvision.ticks import cost_words, format_usd

    wasted = {name: each for name, each in status.spending.wasted().items() if each.cost_ticks}
    if wasted:
        words = ", ".join(f"{cost_words(each.cost_ticks, each.unknown_cost)} {name}" for name, each in wasted.items())
        yield f"  wasted    {format_usd(sum(each.cost_ticks for each in wasted.values()))}: {words}"
    models = {name: each for name, each in status.spending.by_model().items() if name != NO_MODEL}
    for title, sums, most in (("by model", models, 20), ("by day", status.spending.by_day(), 14)):
        shown = list(sums.items())[-most:] if len(sums) > 1 else []
        for number, (name, each) in enumerate(shown):
            cost, sent = cost_words(each.cost_ticks, each.unknown_cost), f"{each.attempts:,} attempts"
            yield f"  {title if number == 0 else '':<8}  {name}: {cost} for {sent}"
    if status.tokens.cached:
        tokens = status.tokens
        yield f"  tokens    {tokens.prompt:,} in prompts, {tokens.cached_share:.0%} of them from the cache"


def _last_run(status: OutputStatus) -> Iterator[str]:
    last = status.latest
    if last is None:
        yield "  last run  none has ended yet"
        return
    how = f"exit {last.exit_code}" + (f", {last.stop_reason}" if last.stop_reason else "")
    yield f"  last run  {last.finished_at[:19].replace('T', ' ')} UTC, {how}"
    yield (
        f"            {last.rows_completed:,} of {last.rows_total:,} rows completed, {last.rows_failed:,} failed, "
        f"{last.rows_pending:,} pending"
    )
    if rate_limited := sum(each.rate_limited for each in last.rate_history):
        paused_seconds = sum(each.paused_seconds for each in last.rate_history)
        rate = last.rate_history[-1].rate_per_second
        rate_words = "" if rate is None else f", then {rate:,.1f} requests a second"
        yield f"            {rate_limited:,} answers 429, {paused_seconds:,.0f} s of pauses{rate_words}"
    for number, words in enumerate(accuracy_words(last.accuracy)):
        yield f"  {'accuracy' if number == 0 else '':<8}  {words}"
    yield f"  manifest  {last.manifest}"
