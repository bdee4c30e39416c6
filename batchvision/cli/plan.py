"""``batchvision plan JOB``: plan a run; with ``--pilot``, ask a few rows to estimate its cost."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any

import click

from batchvision.cli.command import Command, typed_command
from batchvision.cli.options import RUN_FLAGS, job_argument, job_flags, load_job, overrides
from batchvision.cli.output import print_document, print_lines, print_table, say
from batchvision.wording import counted, size_text

if TYPE_CHECKING:
    from batchvision.commands.pilot import Compared, Pilot
    from batchvision.commands.plan import Plan
    from batchvision.job import Job


@click.command(cls=Command, name="plan")
@job_argument
@job_flags(RUN_FLAGS)
@click.option("--show-request", "show_requests", type=click.IntRange(min=0), default=0, help="Print N request bodies.")
@click.option(
    "--pilot",
    type=click.IntRange(min=2),
    metavar="N",
    default=None,
    help="Ask N rows across image sizes and known answers, keep their answers, and estimate the cost of all rows "
    "with a 95% interval.",
)
@click.option(
    "--sweep",
    "sweeps",
    multiple=True,
    metavar="KEY=A,B",
    help="With --pilot: ask its rows under other settings too, and compare cost and answers: detail=low,high, "
    "max_side=512,1024, model=..., user_file=a.txt,b.txt, system_file=..., schema=..., provider.parameters.NAME=... "
    "Several: each with each. With known answers it names the cheapest setting that is good enough.",
)
@click.option(
    "--margin",
    metavar="PART",
    default="1%",
    show_default=True,
    help="How much worse than the best a cheaper setting of --sweep may be.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the rows that --pilot chooses.")
@click.option("--quiet", is_flag=True, help="No progress of the pilot.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@click.pass_context
def command(ctx: click.Context, /, job: str, settings: tuple[str, ...], as_json: bool, **flags: Any) -> int:
    """Count the rows, images and requests of a run of JOB, and estimate its cost. Nothing is sent without --pilot.

    The rows of a pilot are asked for real and paid for, within the job's caps; a run does not ask them again. A
    sweep is paid for too; its attempts are in the ledger (attempts/) only. Run the same command again after an
    interruption: nothing is bought twice.
    """
    chosen = load_job(job, flags, settings)
    if flags["pilot"] is None:
        return _plan(chosen, flags, as_json=as_json)
    if flags["show_requests"]:
        raise click.UsageError("--show-request and --pilot are two things: look at the requests first, then ask.")
    result = _pilot(job, chosen, settings, flags)
    if as_json:
        print_document(result.document())
    else:
        print_lines((*plan_lines(result.plan), *pilot_lines(result, _at_once(chosen))))
        _print_sweep(result)
    if result.stopped is not None:
        say(f"{result.stopped.reason}: {result.stopped.message}")
        click.echo(f"To go on: {typed_command(ctx, without=('--json',))}", err=True)
    return result.exit_code


def _plan(job: Job, flags: dict[str, Any], *, as_json: bool) -> int:
    import anyio

    from batchvision.commands.plan import plan

    if flags["sweeps"]:
        raise click.UsageError("--sweep asks the rows of a pilot: give --pilot N with it.")
    planned = anyio.run(partial(plan, job, show_requests=flags["show_requests"]))
    if as_json:
        print_document(planned.document())
    else:
        print_lines(plan_lines(planned))
    return 0


def _pilot(path: str, job: Job, settings: tuple[str, ...], flags: dict[str, Any]) -> Pilot:
    import anyio

    from batchvision.cli.logs import show_warnings
    from batchvision.cli.progress import choose_style, watcher
    from batchvision.cli.terminal import HIDDEN
    from batchvision.commands import pilot
    from batchvision.job import Job
    from batchvision.runner import RunDependencies

    show_warnings(as_json=False)
    style = choose_style("auto", quiet=flags["quiet"], is_terminal=sys.stderr.isatty())
    given = overrides(flags, settings)
    start = partial(
        pilot.pilot,
        job,
        flags["pilot"],
        remake=lambda more: Job.load(path, overrides={**given, **more}),
        sweep=pilot.settings(flags["sweeps"]),
        seed=flags["seed"],
        margin=_margin(flags["margin"]),
        dependencies=RunDependencies(secrets=HIDDEN),
        watch=watcher(style, sys.stderr, rows_wanted=flags["pilot"]),
        begins=lambda what: None if flags["quiet"] else click.echo(what, err=True),
    )
    return anyio.run(start)


def _margin(text: str) -> float:
    from batchvision.job import RowLimit

    with suppress(ValueError):
        if (part := RowLimit.parse(text).part) is not None:
            return float(part)
    raise click.UsageError(f"--margin takes a part of the rows, e.g. 1%; got {text!r}.")


def plan_lines(planned: Plan) -> Iterator[str]:
    """The lines of a plan."""
    rows, images = planned.rows, planned.images
    yield f"rows      {rows.total:,} in the manifest: {', '.join(_row_words(planned))}"
    formats = ", ".join(f"{count:,} {name}" for name, count in images.by_format.most_common())
    sides = ", ".join(f"{count:,} {_side_words(most)}" for most, count in images.sides())
    if images.count:
        converted = f"; {images.to_convert:,} will be converted" if images.to_convert else ""
        yield f"images    {images.count:,} ({formats}), {size_text(images.bytes)}{converted}"
    if sides:
        yield f"          {sides}"
    yield f"requests  {', '.join(_request_words(planned))}"
    yield f"cost      {_cost_words(planned)}"
    if planned.price_warning:
        yield f"          {planned.price_warning}"
    if planned.seconds:
        yield f"time      {', '.join(_time_words(planned))} at the job's own limits"
    yield from _ready_words(planned)
    if rows.to_do:
        yield f"disk      about {size_text(planned.disk_bytes)}, the journal included"
    for refusal in planned.refusals:
        yield f"refused   {refusal}"
    if planned.done_elsewhere[0] and not planned.refusals:
        yield f"recipe    {planned.done_elsewhere[0]:,} rows are done under another recipe: see --on-recipe-change"
    for number, (row_id, reason) in enumerate(planned.reasons):
        yield f"{'invalid' if number == 0 else '':<8}  {row_id}: {reason}"
    if rows.invalid > len(planned.reasons):
        yield f"          and {rows.invalid - len(planned.reasons):,} more"
    for shown in planned.requests_shown:
        yield ""
        yield from json.dumps(shown, ensure_ascii=False, indent=2).splitlines()


def _side_words(most: int | None) -> str:
    return "larger" if most is None else f"up to {most:,} px"


def _request_words(planned: Plan) -> Iterator[str]:
    rows, cost = planned.rows, planned.cost
    shared = rows.to_do - cost.requests
    yield f"{cost.requests:,}" + (f" ({shared:,} rows share the answer of another)" if shared else "")
    if cost.requests:
        cached = cost.cached_tokens / max(1, cost.prompt_tokens)
        of_cache = f" ({cached:.0%} of the prompts from the cache)" if cost.cached_tokens else ""
        yield f"about {cost.prompt_tokens:,} tokens in prompts{of_cache} and {cost.output_tokens:,} in answers"


def _time_words(planned: Plan) -> Iterator[str]:
    from batchvision.cli.progress import duration

    for lane, seconds in sorted(planned.seconds.items(), key=lambda each: each[0] is not planned.lane):
        yield f"{duration(seconds)} {lane.value}"


def _ready_words(planned: Plan) -> Iterator[str]:
    """When a run that begins now stops sending, and a warning if that is too early."""
    from batchvision.cli.progress import duration

    left = planned.seconds_until_ready
    if planned.ready_at is None or left is None:
        return
    yield f"ready by  {planned.ready_at:%Y-%m-%d %H:%M %Z}, {duration(left)} from now: then nothing more is sent"
    if planned.seconds_at_limit is not None:
        yield from _late_words(planned, planned.seconds_at_limit)


def _late_words(planned: Plan, expected_seconds: float) -> Iterator[str]:
    """A warning if the run does not end before ``delivery.ready_by``."""
    from batchvision.cli.progress import duration

    left = planned.seconds_until_ready
    if left is not None and expected_seconds > left:
        late = duration(expected_seconds - left)
        yield f"          warning: the run needs {late} more than until delivery.ready_by; what is left waits"


def _row_words(planned: Plan) -> Iterator[str]:
    rows = planned.rows
    yield f"{rows.done:,} done"
    parts = [*_change_words(planned), *([f"{rows.retried:,} of them failed before"] if rows.retried else [])]
    yield f"{rows.to_do:,} to do" + (f" ({', '.join(parts)})" if parts else "")
    counts = {
        "failed before and left alone": rows.failed_kept,
        "waiting for a ticket": rows.awaiting,
        "on hold": rows.held,
        "left to a later run": rows.left,
        "invalid": rows.invalid,
    }
    yield from (f"{count:,} {says}" for says, count in counts.items() if count)


def _change_words(planned: Plan) -> Iterator[str]:
    """New rows, and rows that would be bought again."""
    found = planned.changes
    if not found.changed and not found.rows_again:
        return
    yield f"{max(0, planned.rows.to_do - found.changed - found.rows_again):,} new"
    if found.changed:
        yield f"{found.changed:,} changed"
    if found.rows_again:
        yield f"{found.rows_again:,} paid for under another recipe"


def _cost_words(planned: Plan) -> str:
    from batchvision.ticks import format_usd

    cost = planned.cost
    if not planned.rows.to_do:
        return "nothing"
    if cost.likely_ticks is None:
        return "not known: give [provider] prices, USD per million tokens, e.g. { input = 1.25, output = 2.5 }"
    words = f"about {format_usd(cost.likely_ticks)} by {planned.prices.source}"
    if cost.bound_ticks is not None:
        return f"{words}, at most {format_usd(cost.bound_ticks)}"
    return f"{words}; no upper bound without max_tokens in [provider.parameters]"


# ---------------------------------------------------------------------------------- a pilot


def pilot_lines(result: Pilot, concurrency: int) -> Iterator[str]:
    """The lines of a pilot, without the table of its sweep."""
    from batchvision.cli.progress import duration
    from batchvision.ticks import cost_words, format_usd

    if not result.wanted:
        yield "pilot     nothing to ask"
        return
    cost = cost_words(result.spent_ticks, result.unknown_cost)
    sent = f"{counted(result.sent, 'request')} sent now for {cost}" if result.sent else ""
    asked = (
        f"{result.ended:,} of {counted(result.wanted, 'row')} asked, of {counted(result.requests, 'request')} in all"
    )
    yield f"pilot     {asked}; {sent or 'nothing sent now'}"
    if result.cost is not None and result.cost.is_known:
        yield f"          all of them cost {format_usd(round(result.cost.value))}: all were asked"
    elif result.cost is not None:
        cost, low, high = (format_usd(round(ticks)) for ticks in (result.cost.value, result.cost.low, result.cost.high))
        yield f"          all of them cost {cost}; 95% sure: {low} to {high} (±{result.cost.share:.1%})"
    else:
        yield "          what all of them cost is not known: fewer than two rows tell, or one did not say its cost"
    if result.tokens is not None and not result.tokens.is_known:
        low, high = f"{result.tokens.low:,.0f}", f"{result.tokens.high:,.0f}"
        yield f"          {result.tokens.value:,.0f} tokens; 95% sure: {low} to {high} (±{result.tokens.share:.1%})"
    if result.cost is not None and result.cost.is_wide:
        yield f"          that is wide: {_narrower(result)}"
    if (seconds := result.seconds(concurrency)) is not None:
        yield f"          about {duration(seconds)} at the pilot's pace ({result.latency_seconds:.2g} s an answer)"
        yield from _late_words(result.plan, seconds)
    if (share := result.accuracy) is not None:
        rows = f"{share.value:.1%} of {counted(len(result.right), 'known row')} are right"
        yield f"accuracy  {rows}; 95% sure: {share.low:.1%} to {share.high:.1%}"


def _at_once(job: Job) -> int:
    """The number of requests that may be in flight."""
    from batchvision.records import Lane

    is_deferred = job.delivery.lane_used is Lane.DEFERRED
    return job.delivery.max_open_tickets if is_deferred else job.limits.concurrency


def _narrower(result: Pilot) -> str:
    from batchvision.commands.pilot import WIDE_SHARE

    if result.cost is None:
        raise RuntimeError("a cost that is not known cannot be narrowed")
    rows = result.cost.rows_for(WIDE_SHARE)
    return f"about {rows:,} rows would make it ±{WIDE_SHARE:.0%}: --pilot {rows} asks {rows - result.ended:,} more"


def _print_sweep(result: Pilot) -> None:
    from batchvision.cli.table import TextColumn

    if len(result.compared) < 2:
        return
    last = ("right", "95% sure") if result.right else ("same answer", "alike")
    numbers = ("rows", "all requests", "95% sure", "tokens", "of own cost", *last)
    print_lines([""])
    print_table(
        [TextColumn("setting"), *(TextColumn(title, right=True) for title in numbers)], [*map(list, sweep_rows(result))]
    )
    print_lines(["", *decision_lines(result)])


def decision_lines(result: Pilot) -> Iterator[str]:
    """Name the cheapest setting that is good enough, or the number of known rows that would decide."""
    from batchvision.wording import counted

    known, margin, found = len(result.right), f"{result.margin:.1%}".replace(".0%", "%"), result.decision
    if not known:
        yield "same answer: every word and value. alike: values that are equal, and text by the words in common."
    elif found is None:
        reason = "the sweep did not end" if result.stopped is not None else "a setting did not say its cost"
        yield f"not decided: {reason}."
    elif found.chosen is not None:
        best = "" if found.chosen == found.best else f" ({found.best})"
        yield (
            f"{found.chosen} is the cheapest setting that is not worse than the best{best} by more than {margin}: "
            f"95% sure on {counted(known, 'known row')}."
        )
    elif found.rows_needed is not None:
        wanted = ceil(found.rows_needed * result.wanted / known)
        next_step = f"--pilot {wanted} asks them"
        if found.rows_needed > result.known_rows:
            next_step = f"add known answers, there are {result.known_rows:,}"
        yield (
            f"not decided: {counted(known, 'known row')} cannot tell whether a cheaper setting is worse than the best "
            f"({found.best}) by more than {margin}. About {found.rows_needed:,} would: {next_step}."
        )


def sweep_rows(result: Pilot) -> Iterator[tuple[str, ...]]:
    """The rows of the sweep table, one for each setting."""
    from batchvision.ticks import format_usd

    own = next((each for each in result.compared if each.is_own), None)
    for each in result.compared:
        cost = each.cost
        is_comparable = cost is not None and own is not None and own.cost is not None and own.cost.value
        yield (
            each.name,
            f"{each.rows:,}" + (f" ({each.unanswered:,} failed)" if each.unanswered else ""),
            "?" if cost is None else format_usd(round(cost.value)),
            "?" if cost is None else f"{format_usd(round(cost.low))} to {format_usd(round(cost.high))}",
            "?" if each.tokens is None else f"{each.tokens.value:,.0f}",
            f"{cost.value / own.cost.value:.0%}" if is_comparable else "",  # type: ignore[union-attr]
            *_likeness(each),
        )


def _likeness(each: Compared) -> tuple[str, str]:
    """The last two cells: right answers where they are known, or equal answers."""
    if (share := each.accuracy) is not None:
        return f"{share.value:.1%}", f"{share.low:.1%} to {share.high:.1%}"
    if (agreed := each.agreement) is not None:
        return f"{agreed.same:,} of {agreed.rows:,}", f"{agreed.alike:.0%}"
    return "", ""
