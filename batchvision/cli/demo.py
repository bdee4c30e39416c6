"""``batchvision demo``: a whole run on sample images, without a key."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import click

from batchvision.cli.command import Command
from batchvision.cli.show import show_table


@click.command(cls=Command, name="demo")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/demo"), show_default=True)
def command(out: Path) -> int:
    """Write sample images and run a real job on them, against a provider on this machine. Free; needs no key."""
    import anyio

    from batchvision.cli.logs import show_warnings
    from batchvision.cli.progress import choose_style, watcher
    from batchvision.commands.demo import demo

    out.mkdir(parents=True, exist_ok=True)
    show_warnings(as_json=False)
    style = choose_style("auto", quiet=False, is_terminal=sys.stderr.isatty())
    ended = anyio.run(partial(demo, out, watcher(style, sys.stderr)))
    click.echo()
    show_table(out)
    click.echo()
    for line in closing(ended.folder, ended.job_path, ended.summary.requests_sent):
        click.echo(line)
    return ended.summary.exit_code


def closing(folder: Path, job_path: Path, requests_sent: int) -> list[str]:
    """The results of the demo and the next steps."""
    again = (
        []
        if requests_sent
        else ["All rows were done by an earlier demo: nothing was sent. That is how a rerun works.", ""]
    )
    return [
        *again,
        "These answers come from the emulator: it looks at the pixels and is no model.",
        "",
        f"  the job       {job_path}",
        f"  the images    {folder / 'photos'}",
        f"  the answers   {folder / 'results'}   (batchvision show {folder})",
        f"  every attempt {folder / 'attempts'}   (batchvision status {folder})",
        "",
        "Next, a real model:",
        "  export XAI_API_KEY=...",
        f"  batchvision run {job_path} --provider xai --out out/real",
    ]
