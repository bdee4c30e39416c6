"""``batchvision report OUT``: one HTML page about an output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchvision.cli.command import Command
from batchvision.cli.output import print_document, say
from batchvision.cli.place import output_of, place_argument, url_of
from batchvision.cli.terminal import safe_line
from batchvision.errors import JobInvalid
from batchvision.wording import counted, size_text

if TYPE_CHECKING:
    from batchvision.commands.report import OtherSide, Report, ReviewSample

#: Exit code where the accuracy is lower than --fail-under: as a run that finished with failed rows.
TOO_LOW = 3


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
@click.option(
    "--rows",
    type=click.IntRange(min=0),
    default=300,
    show_default=True,
    help="Rows in the gallery, or in the file of --export-review.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the rows that are drawn.")
@click.option(
    "--against",
    metavar="OUT|JOB|RUN_ID",
    default=None,
    help="Compare with the answers of another output, or with those after an earlier run of this one.",
)
@click.option(
    "--fail-under",
    metavar="SHARE",
    type=click.FloatRange(0, 1),
    default=None,
    help="Exit 3 where the accuracy on the known answers is lower, e.g. 0.9.",
)
@click.option(
    "--export-review",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Write a random sample of the answered rows as a CSV file to be filled, and no page. The command says the "
    "interval that the sample gives.",
)
@click.option(
    "--least-confident",
    is_flag=True,
    help="With --export-review: the answers of the lowest confidence in place of a sample. They give no accuracy.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the values of the page as JSON on stdout, too.")
def command(place: str, **flags: Any) -> int:
    """Write one HTML file about an output: totals, failures with advice, answers by label, cost and rate over time,
    and a gallery to review by keyboard. It needs no server and loads nothing. OUT is a folder or a job file.

    Exit codes: 0 the file is written, 2 there is no output, or no known answers for --fail-under, 3 the accuracy is
    lower than --fail-under.
    """
    from batchvision.commands.report import collect, html_of

    if flags["export_review"] is not None:
        return _export_review(place, flags)
    if flags["least_confident"]:
        raise click.UsageError("--least-confident chooses the rows of --export-review FILE: give both.")
    output = output_of(place)
    against = None if flags["against"] is None else _other_side(output, flags["against"])
    report = collect(output, rows=flags["rows"], seed=flags["seed"], against=against)
    too_low = [] if flags["fail_under"] is None else list(_too_low(report, flags["fail_under"]))
    path = flags["to"] or (Path("report.html") if url_of(place) else output / "report.html")
    page = html_of(report)
    _write(path, page)
    say(safe_line(f"{path} ({size_text(len(page))}): open it in a browser"))
    if flags["as_json"]:
        print_document(report.document())
    for words in too_low:
        say(f"{words}: lower than --fail-under {flags['fail_under']:g}")
    return TOO_LOW if too_low else 0


def _write(path: Path, text: str) -> None:
    """Replace a file in one step."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", errors="replace", newline="")
        partial.replace(path)
    except OSError as fault:
        partial.unlink(missing_ok=True)
        raise click.ClickException(f"{path} cannot be written: {fault.strerror}") from None


def _export_review(place: str, flags: Mapping[str, Any]) -> int:
    from batchvision.accuracy import SampleKind
    from batchvision.commands.report import draw

    if flags["to"] or flags["against"] or flags["fail_under"] is not None:
        raise click.UsageError("--export-review writes no page: leave out --output, --against and --fail-under.")
    kind = SampleKind.LEAST_CONFIDENT if flags["least_confident"] else SampleKind.RANDOM
    path, sample = flags["export_review"], draw(output_of(place), kind, flags["rows"], flags["seed"])
    if not sample.rows:
        raise JobInvalid("no row to review: there is no answered row, or --rows is 0")
    _write(path, sample.csv_text())
    for line in _sample_lines(path, sample):
        say(safe_line(line))
    if flags["as_json"]:
        print_document(sample.document())
    return 0


def _sample_lines(path: Path, sample: ReviewSample) -> Iterator[str]:
    how = "the least confident" if sample.interval is None else f"drawn at random (seed {sample.seed})"
    yield f"{path}: {len(sample.rows):,} of {counted(sample.rows_completed, 'answered row')}, {how}"
    yield "Fill verdict with right or wrong, or answer with the right answer."
    if sample.interval is None:
        yield "These rows find mistakes. They give no accuracy: the file is refused as answer.expected_file."
    else:
        yield "Then name the file in answer.expected_file of the job, and run it again: paid answers cost nothing."
        if len(sample.rows) < sample.rows_completed:
            low, high = sample.interval.low, sample.interval.high
            yield f"If 90% of these are right, the accuracy of all rows is from {low:.1%} to {high:.1%} (95% sure)."


def _too_low(report: Report, share: float) -> Iterator[str]:
    """A sentence for each measured property with a lower accuracy. Raises JobInvalid without known answers."""
    if not report.accuracy:
        raise JobInvalid(
            "--fail-under: the last run compared no known answers. Name them in answer.expected or "
            "answer.expected_file of the job and run it again: answers that are paid cost nothing."
        )
    return (each.words for each in report.accuracy if each.accuracy < share)


def _other_side(output: Path, named: str) -> OtherSide:
    """The answers of a run of ``output``, or of the output or job at ``named``."""
    from batchvision.commands.report import OtherSide

    is_place = "://" in named or Path(named).expanduser().exists()
    is_run = (output / "runs" / f"{named}.json").is_file()
    return OtherSide.of_output(output_of(named)) if is_place and not is_run else OtherSide.of_run(output, named)
