"""The state of an output: the runs at work, the last summary, the rows of its tables, the sums of its ledger.

Reads without lock and without job.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

from batchvision.checkpoint import AmbiguousAttempt, LocalDisk, OutputView, RunningFiles, summary_text
from batchvision.commands.advice import ADVICE
from batchvision.errors import JobInvalid
from batchvision.limits import MemberUse
from batchvision.money import NO_ANSWER_KINDS, UNCLEAR, Kind, Spending, Sum
from batchvision.records import TICKS_PER_USD, FailureExample, Purpose, RunFigures, RunSummary, WaitNotice
from batchvision.runner import shared_uses
from batchvision.ticks import known_or_none

#: Ambiguous attempts that are listed by row. ``attempts/`` holds every attempt.
LISTED_ATTEMPTS = 20


class TokenCounts(NamedTuple):
    """Tokens of all answers. ``cached`` and ``image`` are part of ``prompt``."""

    prompt: int = 0
    cached: int = 0
    image: int = 0
    completion: int = 0
    reasoning: int = 0

    @property
    def cached_share(self) -> float:
        return self.cached / self.prompt if self.prompt else 0.0


class FailureKind(NamedTuple):
    """Failed rows of one kind, with the message of one of them."""

    kind: str
    rows: int
    advice: str
    example_id: str
    example: str


@dataclass(frozen=True, slots=True)
class OutputStatus:
    """The state of one output. ``answers`` includes answers under earlier recipes; ``rows_answered`` counts each row
    once."""

    output: Path | str  #: a folder or URL
    latest: RunSummary | None
    answers: int
    rows_answered: int
    failures: tuple[FailureKind, ...]  #: the most frequent kind first
    rows_quarantined: int
    spending: Spending
    tokens: TokenCounts
    projected_ticks: int | None  #: projected cost of all rows; ``None`` without data
    unclear: tuple[AmbiguousAttempt, ...]
    in_flight: int  #: open requests of the journal: in flight, or cut off by a crash
    tickets_open: int
    rows_held: int
    at: datetime
    oldest_ticket_at: datetime | None = None
    running: tuple[RunFigures, ...] = ()  #: the runs at work
    sharing: tuple[MemberUse, ...] = ()  #: the processes that share its limits, this output's runs included

    @property
    def attempts(self) -> Mapping[str, Sum]:
        """Attempts by state."""
        return self.spending.by_state()

    @property
    def spent_ticks(self) -> int:
        return self.spending.total.cost_ticks

    @property
    def unclear_ticks(self) -> int:
        return self.spending.total.bound_ticks

    @property
    def failures_by_kind(self) -> dict[str, int]:
        return {each.kind: each.rows for each in self.failures}

    @property
    def waiting(self) -> tuple[WaitNotice, ...]:
        """The waits of the runs at work."""
        notices = (each.progress.waiting for each in self.running)
        return tuple(each for each in notices if each is not None and each.until > self.at)

    @property
    def rows_pending(self) -> int | None:
        """Rows that the runs at work, or the next run, must still ask; ``None``: no run has counted them."""
        if self.running:
            return sum(each.progress.rows_left for each in self.running)
        return None if self.latest is None else self.latest.rows_pending

    def document(self) -> dict[str, Any]:
        """JSON content for ``status --json``."""
        total = self.spending.total
        cost_ticks = known_or_none(total.cost_ticks, total.unknown_cost)
        return {
            "output": str(self.output),
            "rows_answered": self.rows_answered,
            "answers": self.answers,
            "rows_failed": sum(self.failures_by_kind.values()),
            "rows_quarantined": self.rows_quarantined,
            "rows_held": self.rows_held,
            "rows_pending": self.rows_pending,
            "failures_by_kind": dict(self.failures_by_kind),
            "failures": [each._asdict() for each in self.failures],
            "in_flight": self.in_flight,
            "tickets_open": self.tickets_open,
            "oldest_ticket_at": self.oldest_ticket_at and self.oldest_ticket_at.isoformat(),
            "running": [running_document(each) for each in self.running],
            "waiting": [{**each._asdict(), "until": each.until.isoformat()} for each in self.waiting],
            "sharing": [each._asdict() for each in self.sharing],
            "cost_ticks": cost_ticks,
            "cost_usd": None if cost_ticks is None else cost_ticks / TICKS_PER_USD,
            "unknown_cost": total.unknown_cost,
            "ambiguous_ticks": known_or_none(total.bound_ticks, total.unbounded),
            "unbounded": total.unbounded,
            "projected_ticks": self.projected_ticks,
            "projected_usd": None if self.projected_ticks is None else self.projected_ticks / TICKS_PER_USD,
            "attempts": {state: each.document() for state, each in self.attempts.items()},
            "spent": self.spending.document(),
            "tokens": {**self.tokens._asdict(), "cached_share": round(self.tokens.cached_share, 4)},
            "ambiguous": [each._asdict() for each in self.unclear],
            "last_run": None if self.latest is None else summary_document(self.latest),
        }


def summary_document(summary: RunSummary) -> dict[str, Any]:
    """The summary as ``runs/<run_id>.json`` holds it."""
    document: dict[str, Any] = json.loads(summary_text(summary))
    return document


def running_document(figures: RunFigures) -> dict[str, Any]:
    """JSON content for the figures of a run at work."""
    progress = figures.progress
    document = figures.document()
    document |= document.pop("progress")
    del document["failures_by_kind"], document["examples"]
    projected = progress.projected_ticks
    return {
        **document,
        "rows_answered": progress.rows_answered,
        "cost_usd": None if progress.unknown_cost else progress.cost_ticks / TICKS_PER_USD,
        "projected_usd": None if projected is None else projected / TICKS_PER_USD,
        "failures": [each._asdict() for each in failures_of_run(figures)],
    }


def failures_of_run(figures: RunFigures) -> tuple[FailureKind, ...]:
    """The failures of a run at work, the most frequent first."""
    return _failure_kinds(figures.failures_by_kind, figures.examples)


def _failure_kinds(
    failures_by_kind: Mapping[str, int], examples: Mapping[str, FailureExample]
) -> tuple[FailureKind, ...]:
    counts = sorted(failures_by_kind.items(), key=lambda pair: (-pair[1], pair[0]))
    return tuple(
        FailureKind(kind, rows, ADVICE.get(kind, "read the message"), *examples.get(kind, FailureExample("", "")))
        for kind, rows in counts
    )


def look(output: Path, local_copy: Path | None = None) -> OutputStatus:
    """Read the state of an output. Raises JobInvalid if there is no output.

    ``local_copy``: the folder where a run of this machine works on an output in an object store.
    """
    view = open_output(output)
    work = view.open_work()
    latest = view.latest()
    spending, tokens, recipes = _ledger(view, "UTC" if latest is None else str(latest.config.get("timezone", "UTC")))
    return OutputStatus(
        output=output,
        latest=latest,
        answers=view.count("results"),
        rows_answered=_distinct_rows(view),
        failures=_failures(view),
        rows_quarantined=view.quarantined_count(),
        spending=spending,
        tokens=tokens,
        projected_ticks=None if spending.total.unknown_cost else _projected(view, latest, spending, recipes),
        unclear=tuple(islice(view.ambiguous(), LISTED_ATTEMPTS)),
        in_flight=len(work.in_flight),
        tickets_open=len(work.tickets),
        rows_held=len(work.held),
        at=datetime.now(UTC),
        oldest_ticket_at=work.oldest_ticket_at,
        running=RunningFiles(output if local_copy is None else local_copy, LocalDisk()).look(),
        sharing=shared_uses(output, None if latest is None else latest.config.get("limits", {}).get("share")),
    )


def open_output(output: Path) -> OutputView:
    """Open the output at ``output``. Raises JobInvalid if there is no output."""
    view = OutputView(output)
    if view.exists or any(view.count(table) for table in ("results", "failures", "attempts")):
        return view
    if not output.exists():
        raise JobInvalid(f"there is no output at {output}: batchvision run JOB makes one")
    raise JobInvalid(f"{output} holds no output of batchvision: name the folder that [output] path says, or the job")


def _failures(view: OutputView) -> tuple[FailureKind, ...]:
    """The failed rows by kind. The first row of each kind is the example."""
    counts, examples = Counter[str](), dict[str, FailureExample]()
    for batch in view.rows("failures", ("error_kind", "row_id", "error_message")):
        for pair in pc.value_counts(batch["error_kind"]).to_pylist():
            kind = pair["values"]
            counts[kind] += pair["counts"]
            if kind not in examples:
                row = batch.slice(pc.index(batch["error_kind"], kind).as_py(), 1).to_pylist()[0]
                examples[kind] = FailureExample(row["row_id"], row["error_message"] or "")
    return _failure_kinds(counts, examples)


def _distinct_rows(view: OutputView) -> int:
    """The number of rows with an answer under any recipe."""
    chunks = [batch["row_id"] for batch in view.rows("results", ("row_id",))]
    return int(pc.count_distinct(pa.chunked_array(chunks, pa.string())).as_py())


_KEYS = ("state", "error_kind", "model", "day", "recipe_id")
_TOKENS = ("prompt_tokens", "cached_tokens", "image_tokens", "completion_tokens", "reasoning_tokens")
_SUMMED = ("cost_ticks", "bound_ticks", *_TOKENS)
_COUNTED = ("unknown_cost", "unbounded")


def _ledger(view: OutputView, timezone: str) -> tuple[Spending, TokenCounts, Mapping[str, int]]:
    """Add up the ledger batch by batch. Returns spending, tokens, and ticks by recipe_id."""
    spending, tokens, recipes = Spending(), TokenCounts(), dict[str, int]()
    names = ("state", "error_kind", "model", "recipe_id", "http_status", "sent_at", *_SUMMED)
    for batch in view.rows("attempts", names):
        table = pa.Table.from_batches([batch]).append_column("day", _days(batch["sent_at"], timezone))
        for name, flags in zip(_COUNTED, _unknown(batch), strict=True):
            table = table.append_column(name, flags.cast(pa.int64()))
        summed = [(name, "sum") for name in (*_SUMMED, *_COUNTED)]
        sums = table.group_by(list(_KEYS)).aggregate([("state", "count"), *summed])
        for row in sums.to_pylist():
            cost = row["cost_ticks_sum"] or 0
            kind = Kind(row["state"], row["error_kind"], row["model"], row["day"])
            counts = [row[f"{name}_sum"] for name in _COUNTED]
            spending.add(kind, Sum(row["state_count"], cost, row["bound_ticks_sum"] or 0, *counts))
            tokens = TokenCounts(
                *(so_far + (row[f"{name}_sum"] or 0) for so_far, name in zip(tokens, _TOKENS, strict=True))
            )
            recipes[row["recipe_id"]] = recipes.get(row["recipe_id"], 0) + cost
    return spending, tokens, recipes


def _unknown(batch: pa.RecordBatch) -> tuple[pa.Array, pa.Array]:
    """Two masks: attempts with an answer of unknown cost (as ``is_of_unknown_cost``), and attempts without a bound."""
    status = pc.fill_null(batch["http_status"], 0)
    is_unclear = pc.is_in(batch["state"], pa.array(sorted(UNCLEAR)))
    is_answer = pc.and_(pc.greater_equal(status, 200), pc.less(status, 300))
    is_error = pc.is_in(batch["error_kind"], pa.array(sorted(NO_ANSWER_KINDS)))
    is_model_answer = pc.and_(is_answer, pc.invert(pc.or_(is_unclear, is_error)))
    unknown = pc.and_(pc.is_null(batch["cost_ticks"]), is_model_answer)
    return unknown, pc.and_(pc.is_null(batch["bound_ticks"]), pc.or_(unknown, is_unclear))


def _days(sent_at: pa.Array, timezone: str) -> pa.Array:
    try:
        return pc.strftime(sent_at.cast(pa.timestamp("us", timezone)), format="%Y-%m-%d")
    except pa.ArrowInvalid:  # no time zone database on the system: use Python's package tzdata
        zone = ZoneInfo(timezone)
        days = (at.astimezone(zone).date().isoformat() for at in sent_at.to_pylist())
        return pa.array(days, pa.string())


def _projected(
    view: OutputView, latest: RunSummary | None, spending: Spending, recipes: Mapping[str, int]
) -> int | None:
    """The ticks spent, plus the mean cost of a row of the last recipe for each pending row. Waste is included."""
    spent_ticks = spending.total.cost_ticks
    if latest is None or latest.command == Purpose.PILOT:
        return None  # rows of a pilot are no average, and the pilot has estimated the cost itself
    if not latest.rows_pending:
        return spent_ticks
    ended = sum(
        int(pc.sum(pc.equal(batch["recipe_id"], latest.recipe_id)).as_py() or 0)
        for table in ("results", "failures")
        for batch in view.rows(table, ("recipe_id",))
    )
    if not ended:
        return None
    return spent_ticks + round(recipes.get(latest.recipe_id, 0) * latest.rows_pending / ended)


# ---------------------------------------------------------------------------------- the ledger

#: Columns to compare with a provider's usage page.
LEDGER_COLUMNS = (
    "sent_at",
    "received_at",
    "provider_request_id",
    "ticket",
    "row_id",
    "attempt",
    "state",
    "error_kind",
    "http_status",
    "provider",
    "upstream_provider",
    "model",
    "service_tier",
    *_TOKENS,
    "cost_ticks",
    "cost_usd",
    "cost_source",
    "bound_ticks",
    "run_id",
)


def ledger_rows(output: Path) -> Iterator[pa.RecordBatch]:
    """Every attempt with the ids of the provider, batch by batch. Raises JobInvalid if there is no output."""
    return open_output(output).rows("attempts", LEDGER_COLUMNS)
