"""``batchvision check JOB``: check the needs of a run."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from batchvision.cli.command import Command
from batchvision.cli.options import READING_FLAGS, job_argument, job_flags, load_job
from batchvision.cli.output import print_document, print_lines


@click.command(cls=Command, name="check")
@job_argument
@job_flags(READING_FLAGS)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(job: str, settings: tuple[str, ...], as_json: bool, **flags: Any) -> int:
    """Check the key, the model, the manifest, the folders and the extras of JOB. Costs nothing.

    Exit codes: 0 all is well, 2 something here is wrong, 5 the provider refuses the key or does not know the model.
    """
    import anyio

    from batchvision.cli.terminal import HIDDEN
    from batchvision.commands.check import check

    report = anyio.run(partial(check, load_job(job, flags, settings), secrets=HIDDEN))
    if as_json:
        print_document(report.document())
    else:
        print_lines(f"{'ok ' if f.exit_code == 0 else 'NO '} {f.topic:<9} {f.text}" for f in report.findings)
    return report.exit_code
