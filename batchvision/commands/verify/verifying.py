"""Check an output: read every byte of it and compare its numbers. Takes no lock, changes nothing.

``journals`` checks records and open requests, ``listed`` summaries and recipes, ``tables`` every part. ``ledger`` holds
P6, ``once`` P9, ``rows`` P8.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchvision.commands.status import open_output
from batchvision.commands.verify.findings import Finding, Mark
from batchvision.commands.verify.journals import journal_findings, open_findings, read_journals
from batchvision.commands.verify.ledger import ledger_findings
from batchvision.commands.verify.listed import index_findings, read_runs, recipe_findings, run_findings
from batchvision.commands.verify.once import cost_findings, once_findings
from batchvision.commands.verify.rows import ManifestCounts, manifest_findings
from batchvision.commands.verify.tables import ATTEMPTS_TABLE, TableContents, read_tables, table_findings
from batchvision.errors import CheckpointDamaged
from batchvision.ticks import known_or_none


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """All findings in the order of the checks."""

    output: Path | str  #: a folder or URL
    findings: tuple[Finding, ...]
    tables: TableContents
    manifest: ManifestCounts | None

    @property
    def is_right(self) -> bool:
        return all(finding.mark is not Mark.WRONG for finding in self.findings)

    @property
    def exit_code(self) -> int:
        return 0 if self.is_right else CheckpointDamaged.exit_code

    def document(self) -> dict[str, Any]:
        """JSON content for ``verify --json``."""
        reread, rows = self.tables.reread, self.manifest
        return {
            "output": str(self.output),
            "ok": self.is_right,
            "exit_code": self.exit_code,
            "findings": [
                {"topic": each.topic, "mark": each.mark.value, "says": each.text, "next": each.next_step}
                for each in self.findings
            ],
            "rows": dict(self.tables.rows),
            "files": self.tables.files,
            "cost_ticks": known_or_none(reread.spent_ticks, reread.unknown_cost),
            "unknown_cost": reread.unknown_cost,
            "rechecked_attempts": reread.checked,
            "not_rechecked_attempts": reread.not_kept,
            "ambiguous_attempts": reread.unclear,
            "ambiguous_ticks": known_or_none(reread.unclear_ticks, reread.unbounded),
            "manifest": None
            if rows is None
            else {"rows": rows.rows, "completed": rows.completed, "failed": rows.failed, "pending": rows.pending},
        }


async def verify(output: Path) -> VerifyReport:
    """Check an output. Raises JobInvalid if there is no output; all problems are in the report."""
    open_output(output)
    journals = read_journals(output)
    runs = read_runs(output)
    tables = read_tables(output, runs, journals)
    of_rows, counts = await manifest_findings(output, runs.latest, tables, journals)
    findings = (
        *journal_findings(journals, runs.ended_whole),
        *table_findings(tables),
        *run_findings(runs, tables.unlisted_runs, {each.header.run_id for each in journals if each.header}),
        *index_findings(output),
        *recipe_findings(output, frozenset(tables.recipes)),
        *once_findings(output, tables),
        *ledger_findings(tables.reread, ATTEMPTS_TABLE in tables.broken),
        *cost_findings(output, tables),
        *of_rows,
        *open_findings(journals),
    )
    return VerifyReport(output, findings, tables, counts)
