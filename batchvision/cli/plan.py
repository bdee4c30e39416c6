"""``batchvision plan JOB``: what a run would do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from batchvision.cli.command import Command
from batchvision.cli.options import RUN_FLAGS, job_argument, job_flags, load_job
from batchvision.cli.output import print_document, print_lines

if TYPE_CHECKING:
    from batchvision.plan import Plan


@click.command(cls=Command, name="plan")
@job_argument
@job_flags(RUN_FLAGS)
@click.option("--show-request", "show_requests", type=click.IntRange(min=0), default=0, help="Print N request bodies.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def command(job: str, settings: tuple[str, ...], show_requests: int, as_json: bool, **flags: Any) -> None:
    """Say what a run of JOB would do: rows, images, requests, likely cost. Sends nothing."""
    from functools import partial

    import anyio

    from batchvision.plan import plan

    drawn = anyio.run(partial(plan, load_job(job, flags, settings), show_requests=show_requests))
    if as_json:
        print_document(drawn.document())
    else:
        print_lines(plan_lines(drawn))


def plan_lines(drawn: Plan) -> Iterator[str]:
    """The plan in words."""
    rows, images = drawn.rows, drawn.images
    yield f"rows      {rows.total:,} in the manifest: {', '.join(_row_words(drawn))}"
    formats = ", ".join(f"{count:,} {name}" for name, count in images.by_format.most_common())
    if images.count:
        converted = f"; {images.to_convert:,} will be converted" if images.to_convert else ""
        yield f"images    {images.count:,} ({formats}), {size_text(images.bytes)}{converted}"
    tokens = f", about {drawn.cost.tokens:,} tokens" if rows.to_do else ""
    yield f"requests  {rows.to_do:,}{tokens}"
    yield f"cost      {_cost_words(drawn)}"
    if drawn.seconds_at_limit is not None:
        from batchvision.progress import duration

        yield f"time      {duration(drawn.seconds_at_limit)} at the job's own limit of requests"
    if drawn.done_elsewhere[0]:
        yield f"recipe    {drawn.done_elsewhere[0]:,} rows are done under another recipe: see --on-recipe-change"
    for number, (row_id, reason) in enumerate(drawn.reasons):
        yield f"{'invalid' if number == 0 else '':<8}  {row_id}: {reason}"
    if rows.invalid > len(drawn.reasons):
        yield f"          and {rows.invalid - len(drawn.reasons):,} more"
    for shown in drawn.requests_shown:
        yield ""
        yield from json.dumps(shown, ensure_ascii=False, indent=2).splitlines()


def size_text(size_bytes: int) -> str:
    """``81 bytes``, ``14.2 KB``, ``3.1 MB``."""
    if size_bytes < 1000:
        return f"{size_bytes} bytes"
    return f"{size_bytes / 1e3:,.1f} KB" if size_bytes < 1e6 else f"{size_bytes / 1e6:,.1f} MB"


def _row_words(drawn: Plan) -> Iterator[str]:
    rows = drawn.rows
    yield f"{rows.done:,} done"
    yield f"{rows.to_do:,} to do" + (f" ({rows.retried:,} of them failed before)" if rows.retried else "")
    counts = {
        "failed before and left alone": rows.failed_kept,
        "waiting for a ticket": rows.awaiting,
        "on hold": rows.held,
        "left to a later run": rows.left,
        "invalid": rows.invalid,
    }
    yield from (f"{count:,} {says}" for says, count in counts.items() if count)


def _cost_words(drawn: Plan) -> str:
    from batchvision.money import format_usd

    cost = drawn.cost
    if not drawn.rows.to_do:
        return "nothing"
    if cost.likely_ticks is None:
        return "not known: give [provider] prices, USD per million tokens, e.g. { input = 1.25, output = 2.5 }"
    words = f"about {format_usd(cost.likely_ticks)} by list prices"
    if cost.bound_ticks is not None:
        return f"{words}, at most {format_usd(cost.bound_ticks)}"
    return f"{words}; no upper bound without max_tokens in [provider.parameters]"
