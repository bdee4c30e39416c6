"""``batchvision compact OUT``: merge the small files of many runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchvision.cli.command import Command
from batchvision.cli.output import print_document, say
from batchvision.cli.place import from_here, job_at, output_of, place_argument, url_of
from batchvision.cli.terminal import safe_line
from batchvision.wording import counted, size_text

if TYPE_CHECKING:
    from batchvision.checkpoint import Compacted


@click.command(cls=Command, name="compact")
@place_argument
@click.option(
    "--drop-superseded",
    is_flag=True,
    help="Leave out answers that their row does not have now: the last run's manifest decides. A job that goes back to "
    "an earlier prompt, model or cell would have to ask for them again.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def command(place: str, drop_superseded: bool, as_json: bool) -> int:
    """Merge the small Parquet files of an output, date by date, so that runs start and warehouses load faster. No row
    of the ledger is ever dropped. OUT is a folder or a job file.

    Exit codes: 0 done, 7 disk failed or the output is damaged, 11 a run holds the output.
    """
    from batchvision.checkpoint import compact
    from batchvision.commands.places import for_writing
    from batchvision.commands.status import open_output

    open_output(output_of(place))
    output, disk = for_writing(job_at(place) or place)
    compacted = compact(output, drop_superseded=drop_superseded, disk=disk)
    for line in compacted_lines(url_of(place) or from_here(output), compacted):
        say(safe_line(line))
    if as_json:
        print_document(_document(output, compacted))
    return 0


def compacted_lines(output: Path | str, compacted: Compacted) -> Iterator[str]:
    """The merged files, and the next step."""
    if compacted.files_after == compacted.files_before and not compacted.superseded:
        yield f"{output}: nothing to merge: {_files(sum(compacted.files_after.values()))}, and few enough"
    else:
        for table, before in compacted.files_before.items():
            after, rows = compacted.files_after[table], counted(compacted.rows[table], "row")
            yield f"{table}/: {_files(before)} became {after:,}, {rows}"
        yield f"{size_text(compacted.bytes_before)} became {size_text(compacted.bytes_after)}"
    if compacted.superseded:
        yield f"{counted(compacted.superseded, 'answer')} left out: their rows have other ones now"
    if compacted.is_index_missing:
        yield "no answer was left out: run the job once more, so that it is known which answers its manifest has now"
    if compacted.waiting:
        yield f"{_files(compacted.waiting)} not touched: a run was cut off, and the next one seals them anew"


def _files(number: int) -> str:
    return counted(number, "file")


def _document(output: Path, compacted: Compacted) -> dict[str, Any]:
    """JSON content for ``compact --json``."""
    return {
        "output": str(output),
        "files_before": compacted.files_before,
        "files_after": compacted.files_after,
        "bytes_before": compacted.bytes_before,
        "bytes_after": compacted.bytes_after,
        "rows": compacted.rows,
        "superseded_dropped": compacted.superseded,
        "files_waiting": compacted.waiting,
    }
