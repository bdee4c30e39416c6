"""Read from the tables of an output which rows have ended under one recipe, at which cost and with which answer.

The ledger is the main source, because attempts of sweeps stand in no other table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batchvision.checkpoint import OutputView
from batchvision.errors import InvalidAnswer
from batchvision.prompt import check_answer
from batchvision.providers import dialect
from batchvision.records import AttemptState, Purpose, RawAnswer, Recipe

_THEN = datetime(1970, 1, 1, tzinfo=UTC)
_ENDED = (AttemptState.OK.value, AttemptState.FAILED.value)
_UNCLEAR = (AttemptState.AMBIGUOUS.value, AttemptState.LOST_AFTER_READ.value)
_LEDGER = (
    "row_id",
    "request_key",
    "state",
    "http_status",
    "provider",
    "prompt_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "cost_ticks",
    "latency_ms",
    "raw_answer",
)


@dataclass(frozen=True, slots=True)
class Answered:
    """The text of an answer, and its checked JSON."""

    text: str
    output_json: str | None


@dataclass(slots=True)
class PaidRow:
    """Sums over the attempts of one row. ``ticks`` and ``tokens`` are ``None`` if an answer did not report them."""

    ticks: int | None = 0
    tokens: int | None = 0
    has_ended: bool = False
    is_unclear: bool = False  #: an attempt may have been billed without an answer
    latency_ms: int | None = None  #: latency of the last attempt
    answer: Answered | None = None

    def add(self, row: Mapping[str, Any]) -> None:
        if row["http_status"] is not None and row["http_status"] < 300:
            counts = (row["prompt_tokens"], row["completion_tokens"])
            self.tokens = _plus(self.tokens, None if None in counts else sum(counts) + (row["reasoning_tokens"] or 0))
            self.ticks = _plus(self.ticks, row["cost_ticks"])
        self.is_unclear |= row["state"] in _UNCLEAR
        if row["state"] in _ENDED:
            self.has_ended, self.latency_ms = True, row["latency_ms"]


@dataclass(frozen=True, slots=True)
class Paid:
    """Rows by row_id."""

    rows: Mapping[str, PaidRow] = field(default_factory=dict)

    @property
    def ended(self) -> frozenset[str]:
        return frozenset(row_id for row_id, paid in self.rows.items() if paid.has_ended)

    @property
    def unclear(self) -> frozenset[str]:
        """Rows that have not ended and may have been billed. With ``ambiguous = "hold"`` they are not asked again."""
        return frozenset(row_id for row_id, paid in self.rows.items() if paid.is_unclear and not paid.has_ended)

    def answers(self, row_ids: frozenset[str]) -> dict[str, Answered]:
        return {
            row_id: paid.answer for row_id, paid in self.rows.items() if paid.answer is not None and row_id in row_ids
        }

    def ticks(self) -> dict[str, float] | None:
        """Cost of the ended rows; ``None`` if the cost of a row is not known."""
        return _known({row_id: self.rows[row_id].ticks for row_id in self.ended})

    def tokens(self) -> dict[str, float] | None:
        return _known({row_id: self.rows[row_id].tokens for row_id in self.ended})

    def latency_seconds(self) -> float | None:
        """The mean latency of answers."""
        known = [paid.latency_ms for paid in self.rows.values() if paid.latency_ms is not None]
        return sum(known) / len(known) / 1000 if known else None


def _known(found: Mapping[str, int | None]) -> dict[str, float] | None:
    known = {row_id: float(value) for row_id, value in found.items() if value is not None}
    return known if len(known) == len(found) else None


def _plus(left: int | None, right: int | None) -> int | None:
    return None if left is None or right is None else left + right


def paid_for(output: Path, recipe: Recipe, keys: Mapping[str, str]) -> Paid:
    """Read the rows with these request_keys (by row_id) from all runs.

    Attempts under an earlier request_key do not count. Rows that failed before a request was sent cost nothing.
    """
    view = OutputView(output)
    rows: dict[str, PaidRow] = {}
    for row in _rows(view, "attempts", _LEDGER, recipe, keys):
        paid = rows.setdefault(row["row_id"], PaidRow())
        paid.add(row)
        if row["state"] == AttemptState.OK:
            paid.answer = _read(row, recipe)
    for row in _rows(view, "failures", ("row_id", "request_key"), recipe, keys):
        rows.setdefault(row["row_id"], PaidRow()).has_ended = True
    for row in _rows(view, "results", ("row_id", "request_key", "output_text", "output_json"), recipe, keys):
        paid = rows.setdefault(row["row_id"], PaidRow())
        paid.has_ended, paid.answer = True, Answered(row["output_text"], row["output_json"])
    return Paid(rows)


def pilot_rows(output: Path, recipe_id: str) -> frozenset[str]:
    """The rows that earlier pilots asked under this recipe and that have ended."""
    found: set[str] = set()
    for batch in OutputView(output).rows("attempts", ("row_id", "recipe_id", "run_id", "state")):
        runs = batch["run_id"].unique().to_pylist()
        pilots = pa.array([run_id for run_id in runs if Purpose.of_run_id(run_id) is Purpose.PILOT], pa.string())
        is_own = pc.and_(pc.equal(batch["recipe_id"], recipe_id), pc.is_in(batch["run_id"], pilots))
        is_end = pc.is_in(batch["state"], pa.array(_ENDED))
        found.update(batch["row_id"].filter(pc.and_(is_own, is_end)).to_pylist())
    return frozenset(found)


def _rows(
    view: OutputView, table: str, names: tuple[str, ...], recipe: Recipe, keys: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    wanted = pa.array(sorted(keys), pa.string())
    for batch in view.rows(table, (*names, "recipe_id")):
        is_own = pc.and_(pc.equal(batch["recipe_id"], recipe.recipe_id), pc.is_in(batch["row_id"], wanted))
        for row in batch.filter(is_own).select(list(names)).to_pylist():
            if row["request_key"] in (None, keys[row["row_id"]]):
                yield row


def _read(row: Mapping[str, Any], recipe: Recipe) -> Answered | None:
    """Parse the stored answer; ``None`` if raw answers were not kept or the answer is invalid."""
    if row["raw_answer"] is None:
        return None
    raw = RawAnswer(row["http_status"] or 200, {}, row["raw_answer"].encode("utf-8", "surrogatepass"), _THEN)
    text = dialect(row["provider"]).read(raw).answer.text
    try:
        return Answered(text, check_answer(recipe.answer, text).output_json)
    except InvalidAnswer:
        return None
