"""``run --redo``: read the names of the rows, and quote what asking them again costs. Sends nothing."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from batchvision.accuracy import unguarded
from batchvision.commands.places import reading
from batchvision.errors import JobInvalid
from batchvision.job import Job
from batchvision.keys import row_digest
from batchvision.money import quote
from batchvision.runner import RequestCounter, estimator_of, row_index_of
from batchvision.runner.feed import NoKnownRows, Selection, stretches, survey
from batchvision.ticks import format_usd
from batchvision.wording import counted

_NAMED = 5
#: The column of row_ids, and that of a report's ``review.csv`` with the verdict on each answer.
_ID, _VERDICT = "row_id", "verdict"


class RedoQuote(NamedTuple):
    """``rows`` of the named rows have an answer and are asked again. ``ticks`` is ``None`` without a price."""

    named: int
    rows: int
    requests: int
    ticks: int | None

    def __str__(self) -> str:
        cost = "at an unknown price" if self.ticks is None else f"for about {format_usd(self.ticks)}"
        words = f"{counted(self.rows, 'answered row')} asked again: {counted(self.requests, 'request')} {cost}"
        if left := self.named - self.rows:
            words += f"; {counted(left, 'named row')} without an answer left to a run without --redo"
        return words


def named_rows(text: str) -> tuple[str, ...]:
    """The row_ids of ``--redo``: separated by commas, or those of a file. Raises JobInvalid.

    A file is a CSV with the column row_id, or has one id a line. Where it has a column verdict, only rows that are
    marked wrong are named.
    """
    path = Path(text).expanduser()
    if path.is_file():
        found = _rows_of_file(path)
    elif path.suffix in (".csv", ".txt"):
        raise JobInvalid(f"--redo: {text} does not exist: name a file, or row_ids separated by commas")
    else:
        found = [each.strip() for each in text.split(",")]
    named = tuple(dict.fromkeys(filter(None, found)))
    if not named:
        raise JobInvalid(f"--redo: {text} names no row" + (" that is marked wrong" if path.is_file() else ""))
    return named


def _rows_of_file(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as fault:
        raise JobInvalid(f"--redo: {path} cannot be read as UTF-8 text: {fault}") from fault
    header = next(csv.reader(lines[:1]), [])
    if _ID not in header:
        return [line.strip() for line in lines]
    with path.open(encoding="utf-8-sig", newline="") as file:  # a quoted cell may hold line ends
        rows = [row for row in csv.DictReader(file) if (row.get(_VERDICT, "wrong") or "").strip().casefold() == "wrong"]
    is_sample = "sample" in header  # of report --export-review, which guards its cells
    return [unguarded(row[_ID] or "") if is_sample else row[_ID] or "" for row in rows]


def digests_of(row_ids: Iterable[str]) -> frozenset[bytes]:
    """The rows for ``Selection.redo``."""
    return frozenset(row_digest(row_id, "") for row_id in row_ids)


async def quote_redo(job: Job, row_ids: Iterable[str], selection: Selection) -> RedoQuote:
    """Find the rows in the manifest, and estimate the cost of those of this shard that have an answer.

    Raises JobInvalid if a row is not in the manifest, if no row has an answer, and as a run would.
    """
    job, unknown = reading(job), dict.fromkeys(row_ids)
    own = [row_id for row_id in unknown if selection.own_shard.owns(row_id)]
    selection = replace(selection, shard=0, shards=1, redo=digests_of(own))
    surveyed, row_index = survey(job, selection), row_index_of(job)
    counter = RequestCounter(job, estimator_of(job, quote(job).prices), NoKnownRows())
    rows = 0
    for stretch in stretches(job, surveyed, row_index, selection):
        await counter.add(stretch)
        rows += stretch.tally.counts.redo
        for row_id in unknown.keys() & set(stretch.ids.to_pylist()):
            del unknown[row_id]
    if unknown:
        names = ", ".join(list(unknown)[:_NAMED]) + (
            f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        )
        raise JobInvalid(
            f"--redo names {counted(len(unknown), 'row')} that {job.manifest_name} does not have: {names}. Nothing was "
            f"sent. Row ids are spelled as in the column row_id of `batchvision show {job.output_path}`"
        )
    if not rows and own:
        raise JobInvalid(
            f"--redo: none of the {counted(len(own), 'named row')} has an answer under this job: a run without --redo "
            "asks rows without an answer, and --retry-failed asks failed ones"
        )
    return RedoQuote(len(own), rows, counter.totals.requests, counter.totals.likely_ticks)
