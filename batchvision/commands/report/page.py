"""One HTML file of a report: no request leaves it, and no value becomes markup.

The content security policy names the hashes of the one script and the one style sheet. Images are data URIs.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from hashlib import sha256
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from batchvision.commands.report import charts
from batchvision.commands.report.values import Comparison, Report
from batchvision.ticks import bound_words, cost_words, format_usd

_HERE = files("batchvision.commands.report")


def html_of(report: Report) -> str:
    """The page. Values of the report are escaped by the template."""
    style, script = _asset("page.css"), _asset("page.js")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"usd": format_usd, "count": lambda value: f"{value:,}", "percent": lambda v: f"{v:.1%}"}
    template = environment.from_string(_asset("page.html.jinja"))
    return template.render(
        report=report,
        status=report.status,
        latest=report.latest,
        state=state_words(report),
        totals=list(_totals(report)),
        comparison=report.comparison,
        compared=[] if report.comparison is None else list(_compared(report.comparison)),
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'",
        charts=charts,
    )


def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(sha256(text.encode()).digest()).decode("ascii")


def state_words(report: Report) -> tuple[str, str]:
    """How the last run ended, as a kind (good, mixed, bad) and a sentence."""
    latest = report.latest
    if latest is None:
        return "mixed", "No run has ended yet."
    match latest.exit_code:
        case 0 if latest.rows_pending:
            return "good", "The rows that were chosen by --limit or --sample have answers."
        case 0 if latest.rows_failed:
            return "good", "Finished within the allowed failures."
        case 0:
            return "good", "Every row has an answer."
        case 3:
            return "mixed", "Finished. Some rows failed, or wait."
        case 6:
            return "mixed", "Left with open tickets. The next run collects their answers."
        case 4:
            return "mixed", f"Stopped by a limit of the job. {latest.message or latest.stop_reason or ''}".strip()
        case code if code >= 129:
            return "mixed", "Interrupted. The next run continues."
        case _:
            return "bad", f"Stopped. {latest.message or latest.stop_reason or ''}".strip()


def _totals(report: Report) -> Iterator[tuple[str, str, str]]:
    """Name, value and a note for each tile."""
    status, latest = report.status, report.latest
    total = status.spending.total
    yield "answered", f"{status.rows_answered:,}", "" if latest is None else f"of {latest.rows_total:,} rows"
    failed = sum(status.failures_by_kind.values())
    yield "failed", f"{failed:,}", f"{status.rows_quarantined:,} set aside" if status.rows_quarantined else ""
    if latest is not None:
        tickets = f"{status.tickets_open:,} open tickets" if status.tickets_open else ""
        yield "to do", f"{latest.rows_pending:,}", tickets
    note = "" if latest is None else f"last run {cost_words(latest.cost_ticks or 0, latest.unknown_cost)}"
    yield "spent", cost_words(total.cost_ticks, total.unknown_cost), note
    if status.unclear_ticks or total.unbounded:
        yield "unclear", bound_words(status.unclear_ticks, total.unbounded), "may have been billed without an answer"
    run = report.timed or latest
    if run is not None:
        again = f"{run.retries:,} of them again" if run.retries else ""
        yield "requests", f"{run.requests_sent:,}", again
        yield "time", charts.clock_words(run.duration_seconds), _speed(run.requests_sent, run.duration_seconds)


def _compared(found: Comparison) -> Iterator[tuple[str, str, str]]:
    """Name, value and a note for each tile of a comparison."""
    kappa = "" if found.kappa is None else f", kappa {found.kappa:.2f}"
    share = f"{found.same / found.rows:.1%}" if found.rows else "none"
    yield "same answer", share, f"{found.same:,} of {found.rows:,} rows with two answers{kappa}"
    yield "changed", f"{found.changed:,}", ""
    if found.only_here or found.only_there:
        yield (
            "one answer only",
            f"{found.only_here + found.only_there:,}",
            (f"{found.only_here:,} here, {found.only_there:,} there"),
        )
    if found.cost_rows:
        more = found.cost_ticks - found.other_cost_ticks
        percent = f", {more / found.other_cost_ticks:+.1%}" if found.other_cost_ticks else ""
        note = f"{format_usd(found.cost_ticks)} here, {format_usd(found.other_cost_ticks)} there{percent}"
        yield (
            "cost difference",
            f"{'+' if more > 0 else ''}{format_usd(more)}",
            (note if found.cost_rows == found.rows else f"{note}; of {found.cost_rows:,} rows of known cost"),
        )


def _speed(requests: int, seconds: float) -> str:
    return f"{requests / seconds * 60:,.0f} requests a minute" if requests and seconds > 1 else ""
