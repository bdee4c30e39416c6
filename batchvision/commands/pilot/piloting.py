"""Ask a few rows to estimate the cost of all rows, and compare cheaper settings.

A pilot is a run over chosen rows (``frame``, ``interval``). Its answers are kept, so a later run does not ask these
rows again. A sweep (``sweep``) asks the same rows under other settings: its attempts are in the ledger, its answers in
no table. Results are read from the tables (``paid``), so a second pilot buys no answer twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from batchvision.accuracy import Decision, Proportion, wilson
from batchvision.checkpoint import OutputView
from batchvision.commands.pilot.agreement import agreement
from batchvision.commands.pilot.frame import Choice, SamplingFrame
from batchvision.commands.pilot.interval import Interval
from batchvision.commands.pilot.paid import Paid, paid_for, pilot_rows
from batchvision.commands.pilot.sweep import Compared, Remake, Setting, decide, variants, with_rest_of_cap
from batchvision.commands.plan import Plan, plan
from batchvision.errors import RowFault, SpendCapReached
from batchvision.job import Job
from batchvision.keys import row_digest
from batchvision.manifest import open_manifest
from batchvision.money import quote
from batchvision.records import TICKS_PER_USD, Purpose
from batchvision.runner import (
    AnswerCheck,
    CountedRequest,
    RequestReader,
    RunDependencies,
    Watch,
    estimator_of,
    has_known_answers,
    right_answers,
    run_async,
    wiring,
)
from batchvision.runner.feed import NoKnownRows, Selection, feed, survey
from batchvision.ticks import known_or_none

#: row_id -> property -> right answer
RightAnswers = Mapping[str, Mapping[str, str]]
#: How much worse than the best setting a cheaper one may be, as a share of the rows.
DEFAULT_MARGIN = 0.01


class PilotStop(NamedTuple):
    """Why a pilot ended early."""

    reason: str
    exit_code: int
    message: str


@dataclass(frozen=True, slots=True)
class Pilot:
    """The result of a pilot. ``cost`` (ticks) and ``tokens`` are estimates for all ``requests`` of the job.

    ``sent``, ``spent_ticks`` and ``unknown_cost`` cover this call only, sweeps included.
    """

    plan: Plan
    requests: int  #: requests from which the pilot chose
    wanted: int  #: chosen rows
    ended: int = 0  #: chosen rows that have an outcome
    sent: int = 0
    spent_ticks: int = 0
    unknown_cost: int = 0  #: answers without a known cost
    cost: Interval | None = None
    tokens: Interval | None = None
    latency_seconds: float | None = None
    known_rows: int = 0  #: of the requests, with a known answer
    right: tuple[bool, ...] = ()  #: of the chosen rows with a known answer
    compared: tuple[Compared, ...] = ()
    margin: float = DEFAULT_MARGIN
    decision: Decision | None = None
    stopped: PilotStop | None = None

    @property
    def exit_code(self) -> int:
        return 0 if self.stopped is None else self.stopped.exit_code

    @property
    def accuracy(self) -> Proportion | None:
        """The share of right answers among the chosen rows with a known answer."""
        return wilson(sum(self.right), len(self.right)) if self.right else None

    def seconds(self, concurrency: int) -> float | None:
        """Duration of all requests at the pilot's latency and this concurrency."""
        if self.latency_seconds is None:
            return None
        at_limit = self.plan.seconds_at_limit or 0.0
        return max(at_limit, self.requests * self.latency_seconds / min(concurrency, max(1, self.requests)))

    def document(self) -> dict[str, Any]:
        """JSON content for ``plan --pilot --json``."""
        document, spent = self.plan.document(), known_or_none(self.spent_ticks, self.unknown_cost)
        if self.cost is not None:
            document["cost_usd"] = {**_usd(self.cost), "source": "pilot"}
        if self.tokens is not None:
            document["tokens"] = {**document["tokens"], "interval": _rounded(self.tokens)}
        document["pilot"] = {
            "rows": self.ended,
            "rows_wanted": self.wanted,
            "of_requests": self.requests,
            "requests_sent": self.sent,
            "cost_usd": None if spent is None else spent / TICKS_PER_USD,
            "unknown_cost": self.unknown_cost,
            "interval": None if self.cost is None else {**_usd(self.cost), "share": round(self.cost.share, 4)},
            "tokens": None if self.tokens is None else _rounded(self.tokens),
            "latency_seconds": self.latency_seconds,
            "sweep": [_compared(each) for each in self.compared],
            "stop_reason": None if self.stopped is None else self.stopped.reason,
        }
        if self.right:
            document["pilot"]["known_rows"] = self.known_rows
            document["pilot"]["accuracy"] = _accuracy(self.right)
            document["pilot"]["margin"] = self.margin
            document["pilot"]["decision"] = None if self.decision is None else _decision(self.decision)
        return document


def _accuracy(right: Sequence[bool]) -> dict[str, float]:
    return {"rows": len(right), "right": sum(right), **wilson(sum(right), len(right))._asdict()}


def _decision(found: Decision) -> dict[str, Any]:
    behind = {name: share._asdict() for name, share in found.behind.items()}
    return {"chosen": found.chosen, "best": found.best, "behind": behind, "rows_needed": found.rows_needed}


def _usd(interval: Interval) -> dict[str, float]:
    values = {"expected": interval.value, "low": interval.low, "high": interval.high}
    return {name: round(value) / TICKS_PER_USD for name, value in values.items()}


def _rounded(interval: Interval) -> dict[str, int]:
    return {"expected": round(interval.value), "low": round(interval.low), "high": round(interval.high)}


def _compared(each: Compared) -> dict[str, Any]:
    return {
        "setting": each.name,
        "is_own": each.is_own,
        "rows": each.rows,
        "unanswered": each.unanswered,
        "cost_usd": None if each.cost is None else _usd(each.cost),
        "tokens": None if each.tokens is None else _rounded(each.tokens),
        "agreement": None if each.agreement is None else each.agreement._asdict(),
        **({"accuracy": _accuracy(each.right)} if each.right else {}),
    }


async def pilot(
    job: Job,
    rows: int,
    *,
    remake: Remake | None = None,
    sweep: Sequence[Setting] = (),
    seed: int = 0,
    margin: float = DEFAULT_MARGIN,
    watch: Watch | None = None,
    begins: Callable[[str], None] = lambda what: None,
    environ: Mapping[str, str] | None = None,
    dependencies: RunDependencies | None = None,
) -> Pilot:
    """Ask ``rows`` rows across image sizes and known answers, then the same rows under each setting of ``sweep``.

    ``remake`` makes the job with other values of some keys; a sweep needs it. ``margin``: how much worse than the best
    setting a cheaper one may be, as a share of the rows. ``begins`` is called before each run with a line that
    describes it. Raises JobInvalid before the first request; a later end is in ``stopped``.
    """
    chosen_variants = list(variants(job, sweep, remake)) if remake is not None else []
    runs = _PilotRuns(watch, begins, environ, dependencies)
    wiring.bring_up_to_date(job, dependencies or RunDependencies())
    if OutputView(job.output_path).is_cut_off():  # a journal may hold answers to the rows of this pilot
        await runs.run(job, frozenset(), Purpose.PILOT, "a run did not end: reading its journal")
    known: RightAnswers = {}
    if has_known_answers(job):
        known = right_answers(job, open_manifest(job), (dependencies or RunDependencies()).secrets)
    frame = await _frame(job, known, is_swept=bool(chosen_variants))
    planned = await plan(job, watch=frame.add)
    choice = frame.choose(rows, seed)
    own = await runs.paid(job, choice, frozenset(choice.row_ids), Purpose.PILOT, "pilot")
    compared_ids = choice.known & own.ended
    asked_known = {row_id: known[row_id] for row_id in choice.row_ids if row_id in compared_ids}
    compared = []
    if chosen_variants and remake is not None and own.ended:
        compared.append(_own(job, chosen_variants, choice, own, asked_known))
        for setting, variant in chosen_variants:
            if variant.recipe.recipe_id != job.recipe.recipe_id and runs.stopped is None:
                paid = await _swept(setting, variant, job, remake, choice, own, runs)
                compared.append(_compare(setting.name, variant, choice, own, paid, asked_known))
    cost, tokens = _intervals(choice, own)
    return Pilot(
        plan=planned,
        requests=choice.rows,
        wanted=len(choice.row_ids),
        ended=len(own.ended),
        sent=runs.sent,
        spent_ticks=runs.spent_ticks,
        unknown_cost=runs.unknown_cost,
        cost=cost,
        tokens=tokens,
        latency_seconds=own.latency_seconds(),
        known_rows=len(choice.known),
        right=_right(job, own, asked_known),
        compared=tuple(compared),
        margin=margin,
        decision=None if runs.stopped is not None else decide(compared, margin),
        stopped=runs.stopped,
    )


async def _frame(job: Job, known: RightAnswers, *, is_swept: bool) -> SamplingFrame:
    """The rows that an earlier pilot paid for. A sweep also takes known rows that a run has answered."""
    by_answer = {row_id: " ".join(right.values()) for row_id, right in known.items()}
    frame = SamplingFrame(by_answer, job.recipe.example_image_sha256)
    paid_before = pilot_rows(job.output_path, job.recipe.recipe_id)
    for request in await _requests_of(job, paid_before | (known.keys() if is_swept else frozenset())):
        frame.add(request)
    return frame


async def _requests_of(job: Job, row_ids: frozenset[str]) -> list[CountedRequest]:
    """The requests of these rows of the manifest, also of done rows. Rows that cannot be sent are left out."""
    found: list[CountedRequest] = []
    if not row_ids:
        return found
    only = Selection(only=frozenset(row_digest(row_id, "") for row_id in row_ids))
    reader = RequestReader(job, estimator_of(job, quote(job).prices))
    for batch in feed(job, survey(job, only), NoKnownRows(), only):
        for row in batch.rows:
            with suppress(RowFault):
                found.append(await reader.read(row))
    return found


@dataclass(slots=True)
class _PilotRuns:
    """The runs of a pilot, one after another until one is stopped, and their sums."""

    watch: Watch | None
    begins: Callable[[str], None]
    environ: Mapping[str, str] | None
    dependencies: RunDependencies | None
    sent: int = 0
    spent_ticks: int = 0  #: bounds of ambiguous attempts included
    unknown_cost: int = 0
    stopped: PilotStop | None = None

    async def paid(
        self, job: Job, choice: Choice, wanted: frozenset[str], purpose: Purpose, name: str, capped: Job | None = None
    ) -> Paid:
        """The cost and answers of the chosen rows under ``job``. Asks the rows of ``wanted`` that are not paid for."""
        requests = await _requests_of(job, frozenset(choice.row_ids))
        keys = {each.row.row_id: each.request_key for each in requests}
        found = paid_for(job.output_path, job.recipe, keys)
        missing = wanted - found.ended - (found.unclear if job.limits.ambiguous == "hold" else frozenset())
        if not missing or self.stopped is not None:
            return found
        await self.run(capped or job, missing, purpose, f"{name}: asking {len(missing):,} rows")
        return paid_for(job.output_path, job.recipe, keys)

    async def run(self, job: Job, row_ids: frozenset[str], purpose: Purpose, line: str) -> None:
        self.begins(line)
        only = frozenset(row_digest(row_id, "") for row_id in row_ids)
        summary = await run_async(
            job,
            selection=Selection(only=only, retry_failed=frozenset()),
            watch=self.watch,
            environ=self.environ,
            dependencies=self.dependencies,
            purpose=purpose,
        )
        self.sent += summary.requests_sent
        by_state: Mapping[str, Mapping[str, int | None]] = summary.spent["by_state"]
        self.spent_ticks += sum((each["cost_ticks"] or 0) + (each["bound_ticks"] or 0) for each in by_state.values())
        self.unknown_cost += summary.unknown_cost
        if summary.stop_reason is not None:
            self.stopped = PilotStop(summary.stop_reason, summary.exit_code, summary.message or "")
        elif summary.tickets_open:
            self.stopped = PilotStop("tickets_open", summary.exit_code, "answers are still to come")


def _intervals(choice: Choice, paid: Paid) -> tuple[Interval | None, Interval | None]:
    ticks, tokens = paid.ticks(), paid.tokens()
    return None if ticks is None else choice.ticks(ticks), None if tokens is None else choice.tokens(tokens)


async def _swept(
    setting: Setting, variant: Job, job: Job, remake: Remake, choice: Choice, own: Paid, runs: _PilotRuns
) -> Paid:
    """The pilot's rows under one setting."""
    capped = with_rest_of_cap(job, setting, remake, runs.spent_ticks)
    if capped is None:
        spent = SpendCapReached(
            f"limits.max_cost_usd_per_run is spent: nothing is left of it for {setting.name}",
            key="limits.max_cost_usd_per_run",
        )
        runs.stopped = PilotStop(spent.kind, spent.exit_code, spent.message)
    return await runs.paid(variant, choice, own.ended, Purpose.SWEEP, setting.name, capped)


def _right(job: Job, paid: Paid, known: RightAnswers) -> tuple[bool, ...]:
    """Whether the answer to each known row is right. A row without an answer is not."""
    check = AnswerCheck(job)
    answers = paid.answers(frozenset(known))
    return tuple(
        row_id in answers and check.is_right(right, answers[row_id].output_json or answers[row_id].text)
        for row_id, right in known.items()
    )


def _own(job: Job, chosen: Sequence[tuple[Setting, Job]], choice: Choice, own: Paid, known: RightAnswers) -> Compared:
    """The job's own setting, the base of the comparison."""
    names = [setting.name for setting, variant in chosen if variant.recipe.recipe_id == job.recipe.recipe_id]
    return _compare(" ".join([*names, "(the job's own)"]), job, choice, own, own, known)


def _compare(name: str, variant: Job, choice: Choice, own: Paid, paid: Paid, known: RightAnswers) -> Compared:
    cost, tokens = _intervals(choice, paid)
    is_own = paid is own
    return Compared(
        name,
        is_own=is_own,
        rows=len(paid.ended),
        unanswered=sum(paid.rows[row_id].answer is None for row_id in paid.ended),
        cost=cost,
        tokens=tokens,
        agreement=None
        if is_own
        else agreement(own.answers(paid.ended), paid.answers(paid.ended), variant.recipe.answer),
        right=_right(variant, paid, known),
    )
