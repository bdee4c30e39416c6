"""``batchvision verify OUT``: check an output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from batchvision.cli.command import Command
from batchvision.cli.output import print_document, print_lines
from batchvision.cli.place import output_of, place_argument, url_of

if TYPE_CHECKING:
    from batchvision.commands.verify import VerifyReport

MARKS = {"ok": "ok ", "note": "-- ", "wrong": "NO "}


@click.command(cls=Command, name="verify")
@place_argument
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(place: str, as_json: bool) -> int:
    """Read journal and tables of an output with their checksums and compare them with each other, with the raw answers
    and with the manifest. Changes nothing. OUT is a folder or a job file.

    Exit codes: 0 all is right, 7 the output is damaged or inconsistent.
    """
    import anyio

    from batchvision.commands.verify import verify

    report = anyio.run(verify, output_of(place))
    report = replace(report, output=url_of(place) or report.output)
    if as_json:
        print_document(report.document())
    else:
        print_lines(report_lines(report))
    return report.exit_code


def report_lines(report: VerifyReport) -> Iterator[str]:
    """A line for each finding, and the next step after a wrong one."""
    for finding in report.findings:
        yield f"{MARKS[finding.mark]} {finding.topic:<8}  {finding.text}"
        if finding.next_step:
            yield f"{'':<12}  next: {finding.next_step}"
    wrong = sum(finding.mark == "wrong" for finding in report.findings)
    if wrong:
        yield f"{report.output}: {wrong} {'thing is' if wrong == 1 else 'things are'} not right"
    else:
        yield f"{report.output}: all is right"
