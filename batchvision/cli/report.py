"""``batchvision report OUT``: one HTML page about an output."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchvision.cli.command import Command
from batchvision.cli.output import print_document, say
from batchvision.cli.place import output_of, place_argument, url_of
from batchvision.cli.terminal import safe_line
from batchvision.wording import size_text

if TYPE_CHECKING:
    from batchvision.commands.report import OtherSide


@click.command(cls=Command, name="report")
@place_argument
@click.option(
    "-o",
    "--output",
    "to",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Default: OUT/report.html, and report.html here for an output in an object store.",
)
@click.option("--rows", type=click.IntRange(min=0), default=300, show_default=True, help="Rows in the gallery.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the rows that are drawn.")
@click.option(
    "--against",
    metavar="OUT|JOB|RUN_ID",
    default=None,
    help="Compare with the answers of another output, or with those after an earlier run of this one.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the values of the page as JSON on stdout, too.")
def command(place: str, **flags: Any) -> int:
    """Write one HTML file about an output: totals, failures with advice, answers by label, cost and rate over time,
    and a gallery to review by keyboard. It needs no server and loads nothing. OUT is a folder or a job file.
    """
    from batchvision.commands.report import collect, html_of

    output = output_of(place)
    against = None if flags["against"] is None else _other_side(output, flags["against"])
    report = collect(output, rows=flags["rows"], seed=flags["seed"], against=against)
    page = html_of(report)
    path = flags["to"] or (Path("report.html") if url_of(place) else output / "report.html")
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(page, encoding="utf-8", errors="replace")
        partial.replace(path)
    except OSError as fault:
        partial.unlink(missing_ok=True)
        raise click.ClickException(f"{path} cannot be written: {fault.strerror}") from None
    say(safe_line(f"{path} ({size_text(len(page))}): open it in a browser"))
    if flags["as_json"]:
        print_document(report.document())
    return 0


def _other_side(output: Path, named: str) -> OtherSide:
    """The answers of a run of ``output``, or of the output or job at ``named``."""
    from batchvision.commands.report import OtherSide

    is_place = "://" in named or Path(named).expanduser().exists()
    is_run = (output / "runs" / f"{named}.json").is_file()
    return OtherSide.of_output(output_of(named)) if is_place and not is_run else OtherSide.of_run(output, named)
