"""``batchvision manifest FOLDER -o FILE``: a table of the images in a folder."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import click

from batchvision.cli.command import Command


@click.command(cls=Command, name="manifest")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-o", "--out", "out", required=True, type=click.Path(path_type=Path), help="The CSV or Parquet to write.")
def command(folder: Path, out: Path) -> None:
    """Write a manifest of the images in FOLDER and below: columns id and image, sorted by name.

    Where FILE is there already, its images keep their ids.
    """
    from batchvision.manifest import in_words, make_manifest

    skipped = Counter[str]()
    count = make_manifest(folder, out, skipped)
    click.echo(f"{count:,} images listed in {out}", err=True)
    if skipped:
        click.echo(f"Skipped, as they are no images that can be read: {in_words(skipped)}.", err=True)
    if not folder.resolve().is_relative_to(out.resolve().parent):
        click.echo(
            "They lie outside of its folder, and a run reads images only from there: put "
            f"`root = {json.dumps(str(folder.resolve()), ensure_ascii=False)}` under [manifest] in the job file.",
            err=True,
        )
