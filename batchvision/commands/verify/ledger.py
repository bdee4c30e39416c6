"""Promise P6: the ledger's ticks are the ticks that the stored raw answers report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pyarrow as pa

from batchvision.commands.verify.findings import Finding, note, ok, wrong
from batchvision.errors import JobInvalid
from batchvision.money import is_of_unknown_cost
from batchvision.providers import Dialect, dialect
from batchvision.records import AttemptState, RawAnswer
from batchvision.ticks import cost_words, format_usd
from batchvision.wording import counted

TOPIC = "ledger"
_READ = (
    "row_id",
    "attempt",
    "state",
    "provider",
    "http_status",
    "error_kind",
    "ticket",
    "cost_ticks",
    "cost_source",
    "bound_ticks",
    "raw_answer",
)
_UNCLEAR = (AttemptState.AMBIGUOUS.value, AttemptState.LOST_AFTER_READ.value)
_NAMED = 5
_GONE = (404, 410)
_THEN = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Reread:
    """Sums over the ledger, from its columns and from its raw answers."""

    spent_ticks: int = 0
    reported_ticks: int = 0  #: reported by answers
    computed_ticks: int = 0  #: computed from tokens and prices of answers without a cost
    attempts: int = 0
    checked: int = 0
    computed: int = 0
    unanswered: int = 0  #: attempts without an answer
    not_kept: int = 0
    not_kept_ticks: int = 0
    differing: int = 0
    named: list[str] = field(default_factory=list)
    unknown_cost: int = 0  #: answers without a reported cost and without a price
    unclear: int = 0
    unclear_ticks: int = 0
    unbounded: int = 0  #: ambiguous attempts without a bound

    def take(self, batch: pa.RecordBatch) -> None:
        """Add the attempts of a batch."""
        for row in batch.select(list(_READ)).to_pylist():
            self.attempts += 1
            self.spent_ticks += row["cost_ticks"] or 0
            self.unknown_cost += is_of_unknown_cost(
                row["state"], row["http_status"], row["error_kind"], row["cost_ticks"]
            )
            self._compare(row)
            if row["state"] in _UNCLEAR:
                self.unclear += 1
                self.unclear_ticks += row["bound_ticks"] or 0
                self.unbounded += row["bound_ticks"] is None

    def _compare(self, row: dict[str, Any]) -> None:
        cost, source, raw = row["cost_ticks"], row["cost_source"], row["raw_answer"]
        reader = None if raw is None else _reader(row["provider"])
        if raw is None and row["http_status"] is None:
            self.unanswered += 1
            if cost:
                self._differs(row, "no answer came")
            return
        if raw is None or reader is None:
            self._cannot(cost)
            return
        # a cached answer costs nothing; the header that marks it is not stored
        reported = 0 if source == "cached" else _reported_ticks(reader, row)
        if reported is None and source == "computed":
            self.computed += 1
            self.computed_ticks += cost or 0
        elif reported is None and ("\ufffd" in raw or (source == "reported" and not reader.has_cost_in_body)):
            self._cannot(cost)  # the answer was not UTF-8, or a gateway sent the cost in a header
        else:
            self.checked += 1
            self.reported_ticks += reported or 0
            if (cost or 0) != (reported or 0):
                self._differs(row, f"its answer says {format_usd(reported)}" if reported else "its answer says nothing")

    def _cannot(self, cost: int | None) -> None:
        self.not_kept += 1
        self.not_kept_ticks += cost or 0

    def _differs(self, row: dict[str, Any], text: str) -> None:
        self.differing += 1
        if len(self.named) < _NAMED:
            stands = format_usd(row["cost_ticks"]) if row["cost_ticks"] is not None else "unknown"
            self.named.append(f"row {row['row_id']}, attempt {row['attempt']}: the ledger says {stands}, {text}")


@cache
def _reader(provider: str) -> Dialect | None:
    try:
        return dialect(provider)
    except JobInvalid:
        return None  # the provider comes from an entry point that is not installed


def _reported_ticks(reader: Dialect, row: dict[str, Any]) -> int | None:
    """The cost that a raw answer reports."""
    status = row["http_status"] or 200
    if row["ticket"] is not None and status in _GONE:
        return None
    raw = RawAnswer(status, {}, row["raw_answer"].encode("utf-8", "surrogatepass"), _THEN)
    return reader.read(raw).answer.usage.cost_ticks


# ---------------------------------------------------------------------------------- findings


def ledger_findings(reread: Reread, is_broken: bool) -> Iterator[Finding]:
    """``is_broken``: a part of the ledger is damaged or missing, so the sum is incomplete."""
    if reread.differing:
        by_answers = reread.reported_ticks + reread.computed_ticks + reread.not_kept_ticks
        text = (
            f"the sum is wrong: {format_usd(reread.spent_ticks)} in {counted(reread.attempts, 'attempt')}, but "
            f"{format_usd(by_answers)} by the stored answers; "
            f"{counted(reread.differing, 'attempt')} differ: {'; '.join(reread.named)}"
        )
        more = reread.differing - len(reread.named)
        yield wrong(
            TOPIC,
            text + (f"; and {more:,} more" if more else ""),
            "the raw answers are what the provider billed: restore these parts of attempts/ from a backup",
        )
    elif is_broken:
        yield note(TOPIC, f"the parts that are whole add up to {format_usd(reread.spent_ticks)}; others are not")
    else:
        yield ok(TOPIC, _agreed(reread))
    yield from _unclear(reread)


def _agreed(reread: Reread) -> str:
    cost = cost_words(reread.spent_ticks, reread.unknown_cost)
    words = f"{counted(reread.attempts, 'attempt')} cost {cost} ({reread.spent_ticks:,} ticks)"
    if reread.unknown_cost and not reread.spent_ticks:
        words = f"{counted(reread.attempts, 'attempt')} of unknown cost"
    if reread.checked:
        words += f"; {counted(reread.checked, 'stored answer')} read again say the same to the tick"
    if reread.computed:
        words += f"; {reread.computed:,} did not say their cost, which was computed from their tokens"
    if reread.not_kept:
        words += f"; {reread.not_kept:,} could not be rechecked: their raw answers were not kept"
    return words


def _unclear(reread: Reread) -> Iterator[Finding]:
    if not reread.unclear:
        yield ok("unclear", "no attempt may have been billed without its answer reaching the disk")
        return
    bounded = reread.unclear - reread.unbounded
    if bounded:
        at_most = f"at most {format_usd(reread.unclear_ticks)}"
        at_most += f" for {bounded:,} of them, the others without a bound" if reread.unbounded else ""
    else:
        at_most = "by how much is not known, as there was no max_tokens or no price to bound them with"
    yield note(
        "unclear",
        f"{counted(reread.unclear, 'attempt')} may have been billed without an answer, {at_most}: "
        "`batchvision status` lists them by row",
    )
