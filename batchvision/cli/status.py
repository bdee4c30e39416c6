"""``batchvision status OUT``: how far an output is and what it cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from batchvision.cli.command import Command
from batchvision.cli.output import print_document, print_lines
from batchvision.cli.place import output_of, place_argument

if TYPE_CHECKING:
    from batchvision.status import OutputStatus


@click.command(cls=Command, name="status")
@place_argument
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON, the last run's summary included.")
def command(place: str, as_json: bool) -> None:
    """Say how far an output is and what it cost, by its tables and its last run. OUT is a folder or a job file."""
    from batchvision.status import look

    seen = look(output_of(place))
    if as_json:
        print_document(seen.document())
    else:
        print_lines(status_lines(seen))


def status_lines(seen: OutputStatus) -> Iterator[str]:
    """The status in words."""
    from batchvision.money import format_usd

    yield f"{seen.output}"
    superseded = seen.answers - seen.rows_answered
    yield f"  answers   {seen.rows_answered:,} rows" + (f" ({superseded:,} older answers kept)" if superseded else "")
    for kind, count in seen.failures_by_kind.items():
        yield f"  failed    {count:,} {kind}"
    if seen.rows_quarantined:
        yield f"  set aside {seen.rows_quarantined:,} of the failed rows (--retry-quarantined)"
    if seen.rows_held:
        yield f'  on hold   {seen.rows_held:,} rows that a crash cut short (ambiguous = "retry" sends them again)'
    if seen.tickets_open:
        yield f"  tickets   {seen.tickets_open:,} open: batchvision run collects their answers"
    if seen.in_flight:
        yield f"  in flight {seen.in_flight:,} requests: a run is under way, or was killed (run again)"
    yield f"  spent     {format_usd(seen.spent_ticks)}"
    for state, each in seen.attempts.items():
        bound = f", perhaps up to {format_usd(each.bound_ticks)}" if each.bound_ticks else ""
        yield f"            {each.attempts:,} attempts {state}: {format_usd(each.cost_ticks)}{bound}"
    for number, attempt in enumerate(seen.unclear):
        bound = "" if attempt.bound_ticks is None else f", at most {format_usd(attempt.bound_ticks)}"
        yield f"  {'unclear' if number == 0 else '':<8}  row {attempt.row_id}: {attempt.state}{bound}"
    yield from _last_run(seen)


def _last_run(seen: OutputStatus) -> Iterator[str]:
    last = seen.latest
    if last is None:
        yield "  last run  none has ended yet"
        return
    how = f"exit {last.exit_code}" + (f", {last.stop_reason}" if last.stop_reason else "")
    yield f"  last run  {last.finished_at[:19].replace('T', ' ')} UTC, {how}"
    yield (
        f"            {last.rows_completed:,} of {last.rows_total:,} rows completed, {last.rows_failed:,} failed, "
        f"{last.rows_pending:,} pending"
    )
    yield f"  manifest  {last.manifest}"
