"""Read every part of every table once: checksums, columns, and hashes for the other checks.

A batch is dropped after it is read. A hash and a number stay for each row.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batchvision.checkpoint import (
    ATTEMPTS,
    DATED,
    FAILURES,
    FAILURES_TABLE,
    LATER_FAILURE_COLUMNS,
    RESULTS,
    Columns,
    Name,
    TableColumn,
    are_of_redo,
    attempts_schema,
    batches_of,
    earlier_sha256,
    is_number,
    part_paths,
    read_registry,
    results_schema,
    schema_of,
    sha256_of,
)
from batchvision.commands.verify.findings import Finding, note, ok, wrong
from batchvision.commands.verify.hashes import Hashes, joined
from batchvision.commands.verify.journals import ShardJournal
from batchvision.commands.verify.ledger import Reread
from batchvision.commands.verify.listed import Runs
from batchvision.commands.verify.merged import Merged, read_merged
from batchvision.errors import CheckpointDamaged
from batchvision.wording import counted

RESULTS_TABLE, ATTEMPTS_TABLE = "results", "attempts"
#: Columns that identify an attempt.
SENT = ("row_id", "request_key", "attempt", "sent_at")
#: Sources of cost of answers without an attempt of their own.
BORROWED = ("shared", "cached")

_RESTORE = {
    RESULTS_TABLE: "restore it from a backup. Without one: move the file away and type `batchvision reparse JOB`, "
    "which makes its rows again from the raw answers in attempts/, for nothing",
    ATTEMPTS_TABLE: "restore it from a backup. Without one: move the file away; the answers in results/ are whole, "
    "but what these attempts cost is no longer counted",
    FAILURES_TABLE: "restore it from a backup. Without one: move the file away; the next run asks its rows again, "
    "those too whose failed answers were paid for",
}
_FIXED: dict[str, tuple[TableColumn[Any], ...]] = {
    RESULTS_TABLE: RESULTS,
    ATTEMPTS_TABLE: ATTEMPTS,
    FAILURES_TABLE: FAILURES,
}


@dataclass(slots=True)
class TableContents:
    """The results of reading all parts. ``broken``: tables with a damaged or missing part."""

    findings: list[Finding] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*DATED, FAILURES_TABLE), 0))
    files: int = 0
    unlisted: int = 0
    unlisted_runs: set[str] = field(default_factory=set)  #: runs that sealed unlisted parts
    padded: int = 0
    merged: int = 0  #: unlisted parts made by a compaction
    merged_from: int = 0  #: listed parts that were merged
    left: int = 0  #: merged parts that still exist
    broken: set[str] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)  #: parts, by path
    sealing: list[str] = field(default_factory=list)
    recipes: set[str] = field(default_factory=set)
    answers: Hashes = field(default_factory=Hashes)  #: row_id and request_key of results
    once: Hashes = field(default_factory=Hashes)  #: :func:`answer_names` of results
    current: int = 0  #: answers under the last run's recipe
    answered: Hashes = field(default_factory=Hashes)  #: row_id of rows completed or failed under the last run's recipe
    billed: Hashes = field(default_factory=Hashes)  #: row_id and request_key of results with attempts of their own
    row_costs: array[int] = field(default_factory=lambda: array("q"))  #: of the same
    failures: Hashes = field(default_factory=Hashes)  #: row_id, request_key
    failed_rows: Hashes = field(default_factory=Hashes)  #: row_id of failures
    attempts: Hashes = field(default_factory=Hashes)  #: row_id and request_key of attempts
    attempt_costs: array[int] = field(default_factory=lambda: array("q"))  #: of the same
    sent: Hashes = field(default_factory=Hashes)  #: the same with number and time of the attempt
    reread: Reread = field(default_factory=Reread)

    @property
    def redone(self) -> int:
        """Answers beside an older one to the same request."""
        return len(self.answers) - int(pc.count_distinct(self.answers.column).as_py())


def read_tables(output: Path, runs: Runs, journals: Sequence[ShardJournal]) -> TableContents:
    """Read all parts. Damage becomes a finding and is not raised."""
    reader = _TableReader(output, runs, journals)
    for table in (RESULTS_TABLE, FAILURES_TABLE, ATTEMPTS_TABLE):
        for path in part_paths(output, table):
            reader.read(table, path)
    reader.find_missing(read_merged(output, reader.found.damaged))
    return reader.found


def answer_names(batch: pa.RecordBatch) -> pa.Array:
    """Of each result row a text that no other row of ``results`` may have (P9): row_id, request_key, and of a redo also
    its run."""
    run_ids = pc.if_else(are_of_redo(batch), batch["run_id"], "")
    return pc.binary_join_element_wise(joined(batch, "row_id", "request_key"), run_ids, "\x00")


class _TableReader:
    """Fills ``found`` part by part."""

    def __init__(self, output: Path, runs: Runs, journals: Sequence[ShardJournal]) -> None:
        self.found = TableContents()
        self._output = output
        self._runs = runs
        self._journals = journals
        self._columns = self._registry()

    def _registry(self) -> Columns | None:
        restore = "restore .batchvision/columns.json from a backup, or run the job again with all columns it ever kept"
        try:
            columns = read_registry(self._output)
        except CheckpointDamaged as fault:
            self.found.findings.append(wrong("columns", fault.what, restore))
            return None
        if columns is None and any(part_paths(self._output, table) for table in DATED):
            text = ".batchvision/columns.json is missing: the next parts would not have the columns of these"
            self.found.findings.append(wrong("columns", text, restore))
        return columns

    def read(self, table: str, path: Path) -> None:
        """Read one part. The rows of a part that a journal still holds are not counted."""
        found, relative = self.found, str(path.relative_to(self._output))
        is_sealing = table != FAILURES_TABLE and any(journal.is_sealing(path.name) for journal in self._journals)
        found.files += 1
        try:
            self._check_columns(relative, table, schema_of(path))
            rows = 0
            for batch in batches_of(path):
                rows += batch.num_rows
                if not is_sealing:
                    self._add(table, batch)
            found.rows[table] += 0 if is_sealing else rows
            self._check_file(relative, table, path)
        except FileNotFoundError:
            return  # a run has replaced it
        except (CheckpointDamaged, pa.ArrowException, KeyError, ValueError) as fault:
            found.broken.add(table)
            found.damaged.add(relative)
            if isinstance(fault, CheckpointDamaged):
                text = fault.what
            else:  # a damaged footer
                text = f"{relative} does not hold what was written ({fault})"
            found.findings.append(wrong("parts", text, _RESTORE[table]))
        if is_sealing:
            found.sealing.append(relative)

    def _check_columns(self, relative: str, table: str, schema: pa.Schema) -> None:
        columns = self._columns
        for column in _FIXED[table]:
            is_there = column.name in schema.names
            if not is_there and (table != FAILURES_TABLE or column.name in LATER_FAILURE_COLUMNS):
                continue  # an earlier version wrote the part; a note below names the column
            if not is_there or schema.field(column.name).type != column.type:
                raise CheckpointDamaged(f"{relative} has no column {column.name} of the type {column.type}")
        if columns is None or table == FAILURES_TABLE:
            return
        wanted = results_schema(columns) if table == RESULTS_TABLE else attempts_schema(columns)
        missing = [name for name in wanted.names if name not in schema.names]
        if missing:
            names = ", ".join(missing)
            text = f"{relative} lacks {names}, of a later version or of a run that was cut off; the next run adds it"
            self.found.findings.append(note("columns", text))
        for column in wanted:
            actual = column.type if column.name in missing else schema.field(column.name).type
            if actual != column.type and is_number(actual) and is_number(column.type):
                text = (
                    f"{relative}: the column {column.name} is {actual}, and will be {column.type}; the next run goes on"
                )
                self.found.findings.append(note("columns", text))
            elif actual != column.type:
                text = f"{relative}: the column {column.name} is {actual}, not {column.type}"
                self.found.findings.append(wrong("columns", text, _RESTORE[table]))

    def _check_file(self, relative: str, table: str, path: Path) -> None:
        """Compare a part with its listed sha256 (or that before columns were added), or with the hash in its name.

        Raises CheckpointDamaged.
        """
        runs = self._runs
        listed, name, actual = runs.parts.get(relative), Name.of(path.name), sha256_of(path)
        if name is not None and not name.agrees([actual, *earlier_sha256(path)]):
            raise CheckpointDamaged(f"{relative} is not the file that was merged (its sha256 is not that of its name)")
        if listed is None:
            is_merged = name is not None and name.digest is not None
            if name is not None and not is_merged:
                self.found.unlisted_runs.add(name.run_id)
            self.found.merged += is_merged
            self.found.unlisted += not is_merged
            return
        if actual == listed.sha256 or (table == FAILURES_TABLE and actual in runs.listed_sha256[relative]):
            return
        if listed.sha256 in earlier_sha256(path):
            self.found.padded += 1
            return
        differs = f"{relative} is not the file that the run {listed.run_id} wrote (its sha256 differs)"
        if table == FAILURES_TABLE and not all(journal.has_ended(runs.ended_whole) for journal in self._journals):
            self.found.findings.append(note("parts", f"{differs}: a run that has not ended may have replaced it"))
            return
        raise CheckpointDamaged(differs)

    def _add(self, table: str, batch: pa.RecordBatch) -> None:
        """Keep hashes and sums of a batch."""
        found, latest = self.found, self._runs.latest
        keys = joined(batch, "row_id", "request_key")
        if table == ATTEMPTS_TABLE:
            found.attempts.add(keys)
            found.attempt_costs.extend(pc.fill_null(batch["cost_ticks"], 0).to_pylist())
            found.sent.add(joined(batch, *SENT))
            found.reread.take(batch)
            return
        if latest is not None:
            is_current = pc.equal(batch["recipe_id"], latest.recipe_id)
            found.answered.add(batch["row_id"].filter(is_current))
        if table == FAILURES_TABLE:
            found.failed_rows.add(batch["row_id"])
            found.failures.add(keys.filter(pc.is_valid(batch["request_key"])))
            return
        found.answers.add(keys)
        found.once.add(answer_names(batch))
        found.recipes.update(pc.unique(batch["recipe_id"]).to_pylist())
        if latest is not None:
            found.current += pc.sum(is_current).as_py() or 0
        has_own = pc.invert(pc.is_in(batch["cost_source"], pa.array(BORROWED)))
        found.billed.add(keys.filter(has_own))
        found.row_costs.extend(pc.fill_null(batch["row_cost_ticks"], 0).filter(has_own).to_pylist())

    def find_missing(self, merged: Merged) -> None:
        """Find listed parts that neither exist nor were merged."""
        self.found.left = len(merged.left)
        for relative, listed in sorted(self._runs.parts.items()):
            there = merged.sha256.get(relative)
            if listed.sha256 in (there or ()):
                self.found.merged_from += 1
                continue
            if (self._output / relative).exists() or relative.rpartition("/")[0] in merged.unreadable:
                continue
            table = relative.split("/")[0]
            self.found.broken.add(table)
            text = f"{relative} is missing: {counted(listed.rows, 'row')} that the run {listed.run_id} wrote"
            if there is not None:
                text = f"{relative} was not what the run {listed.run_id} wrote when it was merged (its sha256 differs)"
            self.found.findings.append(wrong("parts", text, _RESTORE.get(table, _RESTORE[RESULTS_TABLE])))


# ---------------------------------------------------------------------------------- findings


def table_findings(tables: TableContents) -> Iterator[Finding]:
    yield from tables.findings
    if tables.sealing:
        text = f"{counted(len(tables.sealing), 'part')} about to be sealed: {', '.join(tables.sealing[:3])}"
        yield note("parts", f"{text}; a run that was cut off there is completed by the next one")
    if tables.left:
        text = (
            f"{counted(tables.left, 'file')} merged into others and not removed yet: nothing of them is counted twice"
        )
        yield note("parts", f"{text}, and the next run removes them")
    if not any(finding.topic == "parts" and finding.mark == "wrong" for finding in tables.findings):
        yield ok("parts", _all_right(tables))
    if not any(finding.topic == "columns" for finding in tables.findings):
        yield ok("columns", "every part has the columns that the output has grown to")


def _all_right(tables: TableContents) -> str:
    rows = f"{counted(tables.rows[RESULTS_TABLE], 'answer')}, {counted(tables.rows[FAILURES_TABLE], 'failed row')}"
    words = [
        f"{counted(tables.files, 'file')} ({rows}, {counted(tables.rows[ATTEMPTS_TABLE], 'attempt')}): every page "
        "checksum is right"
    ]
    listed = tables.files - tables.unlisted - tables.padded - tables.merged
    words.append(f"{listed:,} are byte for byte what runs/ lists")
    if tables.padded:
        words.append(f"{tables.padded:,} had columns added since")
    if tables.merged_from:
        words.append(f"{tables.merged_from:,} that it lists were merged into fewer")
    if tables.unlisted:
        words.append(f"{tables.unlisted:,} are of runs that were cut off before they could list them")
    return ", ".join(words)
