"""What an output holds now: the last run's summary, its tables counted, the ledger added up.

Rule: reads through ``OutputView``, so it needs no lock and no job, and sees what a running job has sealed so far.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from batchvision.checkpoint import AmbiguousAttempt, OutputView, summary_text
from batchvision.errors import JobInvalid
from batchvision.records import TICKS_PER_USD, RunSummary

#: Attempts of unknown end that are listed by row; ``attempts/`` has all of them.
LISTED_ATTEMPTS = 20
COMPLETED, FAILED = "completed", "failed"


class StateSum(NamedTuple):
    """The attempts of one state, added up. ``bound_ticks``: what those of unknown cost may have cost at most."""

    attempts: int
    cost_ticks: int
    bound_ticks: int


@dataclass(frozen=True, slots=True)
class OutputStatus:
    """One output, looked at. ``answers`` counts those under earlier recipes too, ``rows_answered`` each row once."""

    output: Path
    latest: RunSummary | None
    answers: int
    rows_answered: int
    failures_by_kind: Mapping[str, int]
    rows_quarantined: int
    attempts: Mapping[str, StateSum]
    unclear: tuple[AmbiguousAttempt, ...]
    in_flight: int  #: requests that the journal has open: under way now, or when a run was killed
    tickets_open: int
    rows_held: int

    @property
    def spent_ticks(self) -> int:
        return sum(each.cost_ticks for each in self.attempts.values())

    @property
    def unclear_ticks(self) -> int:
        return sum(each.bound_ticks for each in self.attempts.values())

    def document(self) -> dict[str, Any]:
        """JSON content for ``status --json``."""
        return {
            "output": str(self.output),
            "rows_answered": self.rows_answered,
            "answers": self.answers,
            "rows_failed": sum(self.failures_by_kind.values()),
            "rows_quarantined": self.rows_quarantined,
            "rows_held": self.rows_held,
            "failures_by_kind": dict(self.failures_by_kind),
            "in_flight": self.in_flight,
            "tickets_open": self.tickets_open,
            "cost_ticks": self.spent_ticks,
            "cost_usd": self.spent_ticks / TICKS_PER_USD,
            "ambiguous_ticks": self.unclear_ticks,
            "attempts": {state: each._asdict() for state, each in self.attempts.items()},
            "ambiguous": [each._asdict() for each in self.unclear],
            "last_run": None if self.latest is None else summary_document(self.latest),
        }


def summary_document(summary: RunSummary) -> dict[str, Any]:
    """The summary as ``runs/<run_id>.json`` holds it."""
    document: dict[str, Any] = json.loads(summary_text(summary))
    return document


def look(output: Path) -> OutputStatus:
    """Everything about one output. Raises JobInvalid where there is none."""
    view = open_output(output)
    work = view.open_work()
    return OutputStatus(
        output=output,
        latest=view.latest(),
        answers=view.count("results"),
        rows_answered=_distinct_rows(view),
        failures_by_kind=view.failures_by_kind(),
        rows_quarantined=view.quarantined_count(),
        attempts=_by_state(view),
        unclear=tuple(islice(view.ambiguous(), LISTED_ATTEMPTS)),
        in_flight=len(work.in_flight),
        tickets_open=len(work.tickets),
        rows_held=len(work.held),
    )


def open_output(output: Path) -> OutputView:
    """The output at ``output``. Raises JobInvalid, saying what makes one."""
    view = OutputView(output)
    if view.exists or view.count("results") or view.count("failures"):
        return view
    if not output.exists():
        raise JobInvalid(f"there is no output at {output}: batchvision run JOB makes one")
    raise JobInvalid(f"{output} holds no output of batchvision: name the folder that [output] path says, or the job")


def _distinct_rows(view: OutputView) -> int:
    """Rows that have an answer, however many recipes have asked them."""
    chunks = [batch["row_id"] for batch in view.rows(_TABLES[COMPLETED], ("row_id",))]
    return int(pc.count_distinct(pa.chunked_array(chunks, pa.string())).as_py())


def _by_state(view: OutputView) -> dict[str, StateSum]:
    sums: dict[str, StateSum] = {}
    for batch in view.rows("attempts", ("state", "cost_ticks", "bound_ticks")):
        table = pa.Table.from_batches([batch])
        grouped = table.group_by("state").aggregate([("state", "count"), ("cost_ticks", "sum"), ("bound_ticks", "sum")])
        for row in grouped.to_pylist():
            before = sums.get(row["state"], StateSum(0, 0, 0))
            sums[row["state"]] = StateSum(
                before.attempts + row["state_count"],
                before.cost_ticks + (row["cost_ticks_sum"] or 0),
                before.bound_ticks + (row["bound_ticks_sum"] or 0),
            )
    return dict(sorted(sums.items()))


# ---------------------------------------------------------------------------------- rows, for show

_TABLES = {COMPLETED: "results", FAILED: "failures"}
#: The fixed columns that a terminal shows; kept and ``answer_*`` columns stand between the id and the cost.
_FIRST = {COMPLETED: ("row_id",), FAILED: ("row_id",)}
_LAST = {COMPLETED: ("cost_usd",), FAILED: ("error_kind", "error_message")}


class Shown(NamedTuple):
    """The columns there are, those that a terminal shows unasked, and the rows."""

    columns: tuple[str, ...]
    shown: tuple[str, ...]
    batches: Iterator[pa.RecordBatch]


def rows_of(output: Path, status: str, columns: Sequence[str] | None = None) -> Shown:
    """The rows of one status, each once, in all ``columns`` (None: every one). Raises JobInvalid."""
    view = open_output(output)
    names = _columns(view, _TABLES[status])
    unknown = [name for name in columns or () if name not in names]
    if names and unknown:
        raise JobInvalid(f"there is no column {', '.join(unknown)}; there are: {', '.join(names)}")
    return Shown(names, _worth_showing(names, status), _batches(view, status, columns))


def _batches(view: OutputView, status: str, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    if status == FAILED:
        return view.rows("failures", columns)
    latest = view.latest()
    return view.current_results(None if latest is None else latest.recipe_id, columns)


def _columns(view: OutputView, table: str) -> tuple[str, ...]:
    """The columns of a table: older parts are padded, so that any part has them all; none where there is no row."""
    first = next(view.rows(table), None)
    return () if first is None else tuple(first.schema.names)


def _worth_showing(names: Sequence[str], status: str) -> tuple[str, ...]:
    """Id, kept columns, then the typed answers (or the text where there are none), then cost or error."""
    from batchvision.job import FIXED_COLUMNS

    own = [name for name in names if name not in FIXED_COLUMNS]
    answers = [name for name in own if name.startswith("answer_")]
    kept = [name for name in own if name not in answers]
    middle = (*kept, *(answers or ["output_text"])) if status == COMPLETED else tuple(kept)
    return tuple(name for name in (*_FIRST[status], *middle, *_LAST[status]) if name in names)
