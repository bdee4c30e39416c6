"""Promise P9: each answer stands once, and once more for each redo. Each cost is the sum of its attempts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from batchvision.checkpoint import FAILURES_TABLE, batches_of, part_paths
from batchvision.commands.verify.findings import Finding, note, ok, wrong
from batchvision.commands.verify.hashes import common, int64_column, joined, repeated, sums_that_differ
from batchvision.commands.verify.tables import ATTEMPTS_TABLE, RESULTS_TABLE, SENT, TableContents, answer_names
from batchvision.errors import CheckpointDamaged
from batchvision.ticks import format_usd
from batchvision.wording import counted

RowAndRequestKey = tuple[str, str]
KEY = ("row_id", "request_key")
#: Suspicious rows that are compared by name. More rows have the same fault.
_FOLLOWED = 10_000
_NAMED = 5


def once_findings(output: Path, tables: TableContents) -> Iterator[Finding]:
    """Repeated answers, repeated attempts, and rows both completed and failed."""
    found = list(_twice(output, _ANSWERS, repeated(tables.once.column), "answer"))
    found += _twice(output, _Names(ATTEMPTS_TABLE, SENT), repeated(tables.sent.column), "attempt")
    both = common(tables.failures.column, tables.answers.column)
    if both and (rows := _named_in_both(output, both)):
        found.append(
            wrong(
                "once",
                f"{counted(len(rows), 'row')} in failures/ and in results/ at once, under one key: {_some(rows)}",
                "run the job again: a run that looks at every row clears it; report it if it stays",
            )
        )
    yield from found
    if not found:
        redone = f", {tables.redone:,} of them beside an older one that they supersede" if tables.redone else ""
        answers = counted(tables.rows[RESULTS_TABLE], "answer")
        yield ok("once", f"each of {answers} stands once{redone}, and no attempt twice")


def _twice(output: Path, names: _Names, suspects: set[int], what: str) -> Iterator[Finding]:
    if not suspects:
        return
    where: dict[str, list[str]] = {}
    for path, batch, place in _followed(output, names, suspects):
        text = names.texts(batch.slice(place, 1))[0].as_py()
        where.setdefault(text, []).append(str(path.relative_to(output)))
    again = {text: files for text, files in where.items() if len(files) > 1}
    if not again:
        return
    files = Counter(file for stands in again.values() for file in stands)
    rows = [text.split("\x00")[0] for text in again]
    yield wrong(
        "once",
        f"{counted(len(again), what)} in {names.table}/ more than once: {_some(rows)}; in {_some(list(files))}",
        "if one of these files was copied there by hand, move the copy away; otherwise report it, with this folder",
    )


def _named_in_both(output: Path, both: set[int]) -> list[str]:
    failed = {_key(batch, place) for _, batch, place in _followed(output, _Names(FAILURES_TABLE, KEY), both)}
    done = {_key(batch, place) for _, batch, place in _followed(output, _Names(RESULTS_TABLE, KEY), both)}
    return sorted(row_id for row_id, _ in failed & done)


class _Names(NamedTuple):
    """The ``columns`` of a table that a hash was made of. ``made_by`` makes one text of them."""

    table: str
    columns: tuple[str, ...]
    made_by: Callable[[pa.RecordBatch], pa.Array] | None = None

    def texts(self, batch: pa.RecordBatch) -> pa.Array:
        return joined(batch, *self.columns) if self.made_by is None else self.made_by(batch)


_ANSWERS = _Names(RESULTS_TABLE, (*KEY, "run_id"), answer_names)


def _followed(
    output: Path, names: _Names, wanted: set[int], more: tuple[str, ...] = ()
) -> Iterator[tuple[Path, pa.RecordBatch, int]]:
    """The rows behind some hashes, by part, batch and place. Parts that cannot be read are skipped."""
    wanted = set(sorted(wanted)[:_FOLLOWED])
    for path in part_paths(output, names.table):
        with suppress(CheckpointDamaged, FileNotFoundError):
            for batch in batches_of(path, (*names.columns, *more)):
                for place, text in enumerate(names.texts(batch).to_pylist()):
                    if hash(text) in wanted:
                        yield path, batch, place


def _key(batch: pa.RecordBatch, place: int) -> RowAndRequestKey:
    return batch["row_id"][place].as_py(), batch["request_key"][place].as_py()


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED:,} more"


# ---------------------------------------------------------------------------------- cost of rows


@dataclass(slots=True)
class _RowAttempts:
    """The attempts of one request: numbers and cost."""

    numbers: list[int]
    ticks: list[int]

    def agrees(self, row: dict[str, Any]) -> bool:
        """Whether the attempts explain the row's cost. Numbers start again after a row was not in the manifest."""
        cost = row["row_cost_ticks"] or 0
        if len(set(self.numbers)) < len(self.numbers):
            return cost <= sum(self.ticks)
        counted_in = zip(self.numbers, self.ticks, strict=True)
        return cost == sum(ticks for number, ticks in counted_in if number <= row["attempt_count"])


def cost_findings(output: Path, tables: TableContents) -> Iterator[Finding]:
    """``row_cost_ticks`` of each answer is the sum of its attempts."""
    if ATTEMPTS_TABLE in tables.broken:
        yield note("costs", "cost of rows was not compared: a part of the ledger is damaged or missing")
        return
    suspects = sums_that_differ(
        tables.billed.column, int64_column(tables.row_costs), tables.attempts.column, int64_column(tables.attempt_costs)
    )
    wrong_rows = _unexplained(output, suspects) if suspects else []
    if wrong_rows:
        yield wrong(
            "costs",
            f"row_cost_ticks is not the sum of the attempts in {counted(len(wrong_rows), 'answer')}: "
            f"{'; '.join(wrong_rows[:_NAMED])}",
            "compare these rows of results/ and attempts/ with a backup, and restore the one that was changed",
        )
        return
    borrowed = tables.rows[RESULTS_TABLE] - len(tables.billed)
    more = f"; {borrowed:,} repeat an answer that was paid before" if borrowed else ""
    yield ok("costs", f"row_cost_ticks of {counted(len(tables.billed), 'answer')} is the sum of its attempts{more}")


def _unexplained(output: Path, suspects: set[int]) -> list[str]:
    behind: dict[RowAndRequestKey, _RowAttempts] = {}
    for _, batch, place in _followed(output, _Names(ATTEMPTS_TABLE, KEY), suspects, ("attempt", "cost_ticks")):
        attempts = behind.setdefault(_key(batch, place), _RowAttempts([], []))
        attempts.numbers.append(batch["attempt"][place].as_py())
        attempts.ticks.append(batch["cost_ticks"][place].as_py() or 0)
    found = []
    costs = ("attempt_count", "row_cost_ticks")
    for _, batch, place in _followed(output, _Names(RESULTS_TABLE, KEY), suspects, costs):
        row = batch.slice(place, 1).to_pylist()[0]
        attempts = behind.get(_key(batch, place), _RowAttempts([], []))
        if not attempts.agrees(row) or not attempts.numbers:
            said = format_usd(row["row_cost_ticks"] or 0)
            found.append(f"row {row['row_id']} says {said}, its attempts {format_usd(sum(attempts.ticks))}")
    return found
