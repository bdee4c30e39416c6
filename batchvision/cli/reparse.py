"""``batchvision reparse JOB``: read stored answers again after [answer] has changed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from batchvision.cli.command import Command, typed_command
from batchvision.cli.options import READING_FLAGS, job_argument, job_flags, load_job
from batchvision.cli.output import print_document, print_lines

if TYPE_CHECKING:
    from batchvision.commands.reparse import Reparsed


@click.command(cls=Command, name="reparse")
@job_argument
@job_flags(READING_FLAGS)
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
@click.pass_context
def command(ctx: click.Context, /, job: str, settings: tuple[str, ...], as_json: bool, **flags: Any) -> int:
    """Read the stored raw answers of JOB's output again, where only [answer] (schema, labels, fallback) has changed,
    and publish those that satisfy it now. Sends nothing and costs nothing.

    Exit codes: 0 done, 2 something else than [answer] has changed, 7 disk, 11 another run holds the output.
    """
    import anyio

    from batchvision.cli.logs import show_warnings
    from batchvision.cli.terminal import HIDDEN
    from batchvision.commands.reparse import reparse
    from batchvision.runner import RunDependencies

    show_warnings(as_json=False)
    reparsed = anyio.run(partial(reparse, load_job(job, flags, settings), dependencies=RunDependencies(secrets=HIDDEN)))
    if as_json:
        print_document(reparsed.document())
    else:
        typed = typed_command(ctx, without=("--json",), add=("--on-recipe-change", "redo"))
        print_lines(reparsed_lines(reparsed, typed.replace("batchvision reparse", "batchvision run", 1)))
    return 0


def reparsed_lines(reparsed: Reparsed, again: str) -> Iterator[str]:
    """The counts of rows, and the commands for the remaining rows."""
    from batchvision.commands.reparse import NoAnswerReason
    from batchvision.wording import counted

    none, not_kept, changed, unfit = (reparsed.without[why] for why in NoAnswerReason)
    published = counted(reparsed.published, "row")
    yield f"{published} of {reparsed.rows:,} got an answer that was stored before; nothing was sent"
    if reparsed.refreshed:
        yield f"  refreshed {counted(reparsed.refreshed, 'answered row')} with the kept cells of the manifest"
    if reparsed.done:
        yield f"  done      {counted(reparsed.done, 'row')} had an answer under this recipe before"
    if unfit:
        yield f"  unfit     {counted(unfit, 'row')} whose stored answers do not satisfy [answer] as it is now"
        for row_id, problem in reparsed.problems:
            yield f"            row {row_id}: {problem}"
    if not_kept:
        yield (
            f"  not kept  {counted(not_kept, 'row')} whose raw answers were not kept "
            "(output.keep_raw_answers = false): there is nothing to read again"
        )
    if changed:
        yield f"  changed   {counted(changed, 'row')} whose text or images are not those that were asked about"
    if none:
        yield f"  no answer {counted(none, 'row')} that no answer has come for yet"
    if reparsed.waiting:
        yield f"  waiting   {counted(reparsed.waiting, 'row')} with a ticket open, or on hold"
    if reparsed.invalid:
        yield f"  invalid   {counted(reparsed.invalid, 'row')} of the manifest"
    if reparsed.to_ask:
        yield f"  next      {again}   (asks these rows: {reparsed.to_ask:,})"
