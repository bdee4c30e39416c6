"""``batchvision report OUT``: one HTML page about an output."""

from __future__ import annotations

from pathlib import Path

import click

from batchvision.cli.command import Command
from batchvision.cli.output import say
from batchvision.cli.place import output_of, place_argument, url_of
from batchvision.cli.terminal import safe_line
from batchvision.wording import size_text


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
def command(place: str, to: Path | None, rows: int, seed: int) -> int:
    """Write one HTML file about an output: totals, failures with advice, answers by label, cost and rate over time,
    and a gallery to review by keyboard. It needs no server and loads nothing. OUT is a folder or a job file.
    """
    from batchvision.commands.report import collect, html_of

    output = output_of(place)
    page = html_of(collect(output, rows=rows, seed=seed))
    path = to or (Path("report.html") if url_of(place) else output / "report.html")
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(page, encoding="utf-8", errors="replace")
        partial.replace(path)
    except OSError as fault:
        partial.unlink(missing_ok=True)
        raise click.ClickException(f"{path} cannot be written: {fault.strerror}") from None
    say(safe_line(f"{path} ({size_text(len(page))}): open it in a browser"))
    return 0
