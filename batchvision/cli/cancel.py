"""``batchvision cancel JOB``: cancel the open batches of an output."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from batchvision.cli.command import Command
from batchvision.cli.options import READING_FLAGS, job_argument, job_flags, load_job
from batchvision.cli.output import print_document, say


@click.command(cls=Command, name="cancel")
@job_argument
@job_flags(READING_FLAGS)
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def command(job: str, settings: tuple[str, ...], as_json: bool, **flags: Any) -> int:
    """Cancel the open batches of JOB's output. Answers that they have finished are kept and booked. The other rows fail
    as expired, and the next run asks them. Deferred tickets cannot be cancelled.

    Exit codes: 0 no ticket is open, 6 tickets are open, 2 wrong job, 5 key refused, 7 disk, 11 a run holds the output.
    """
    import anyio

    from batchvision.cli.logs import show_warnings
    from batchvision.cli.terminal import HIDDEN
    from batchvision.runner import RunDependencies, cancel_async
    from batchvision.wording import counted

    show_warnings(as_json=False)
    dependencies = RunDependencies(secrets=HIDDEN)
    found = anyio.run(partial(cancel_async, load_job(job, flags, settings), dependencies=dependencies))
    if as_json:
        print_document(found._asdict())
    else:
        say(
            f"{counted(found.answers, 'answer')} kept, {counted(found.failed, 'row')} cancelled or failed, "
            f"{counted(found.left, 'ticket')} still open"
        )
    return 6 if found.left else 0
