"""``batchvision load OUT --to URL``: load an output into a database."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchvision.cli.command import Command
from batchvision.cli.output import print_document, print_lines
from batchvision.cli.place import job_at, output_of, place_argument

if TYPE_CHECKING:
    from batchvision.commands.load import Loaded, LoadProgress


@click.command(cls=Command, name="load")
@place_argument
@click.option(
    "--to",
    metavar="URL",
    help="duckdb:///relative.db, duckdb:////absolute.db, postgresql://user@host:port/db, delta:FOLDER, dlt:NAME, "
    "bigquery://PROJECT/DATASET, snowflake://USER@ACCOUNT/DATABASE/SCHEMA, or env:NAME for "
    "a URL in the environment. A password comes from there, PGPASSWORD or ~/.pgpass.  [default: load.to of the job]",
)
@click.option("--db-schema", metavar="NAME", help="The schema of the tables.  [default: the database's own]")
@click.option("--table-prefix", metavar="TEXT", help="The beginning of the tables' names.  [default: batchvision_]")
@click.option("--include", metavar="A,B,...", help="The tables.  [default: results,failures,attempts,runs]")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def command(
    place: str, to: str | None, db_schema: str | None, table_prefix: str | None, include: str | None, as_json: bool
) -> int:
    """Load the current answer of each row, the failures, the attempts and the runs of an output into a database. Tables
    and missing columns are made. A repeated load writes only changes. OUT is a folder, or a job file with its
    section [load].

    Exit codes: 0 done, 2 bad URL or missing extra, 7 the output is damaged, 8 the database cannot be loaded now.
    """
    from batchvision.commands.load import LoadPlace, load, open_destination, table_names
    from batchvision.job import LoadSection

    job = job_at(place)
    section = LoadSection() if job is None else job.load_section
    schema = db_schema or section.db_schema
    if to is not None:
        where = LoadPlace(to, Path.cwd(), schema)
    elif job is not None and section.to is not None:
        where = LoadPlace(section.to, job.base_dir, schema, key="load.to")
    else:
        raise click.UsageError("Name the destination: --to URL, or `to` in the section [load] of the job.")
    names = table_names(include.split(",")) if include is not None else section.include
    destination = open_destination(where)
    prefix = section.table_prefix if table_prefix is None else table_prefix
    with _progress() as progress:
        loaded = load(output_of(place), destination, names, prefix, progress)
    if as_json:
        print_document(loaded.document())
    else:
        print_lines(loaded_lines(loaded))
    return 0


def loaded_lines(loaded: Loaded) -> Iterator[str]:
    """A line for each table."""
    yield f"loaded into {loaded.destination}"
    for name, table in loaded.tables.items():
        deleted = f", {table.deleted:,} deleted" if table.deleted else ""
        yield f"  {name:<8}  {table.merged:,} merged{deleted}, {table.unchanged:,} unchanged"


@contextmanager
def _progress() -> Iterator[LoadProgress]:
    """Show the rows of each table on a terminal."""
    from tqdm import tqdm

    with tqdm(unit=" rows", disable=not sys.stderr.isatty(), leave=False) as bar:

        def show(table: str, rows: int) -> None:
            bar.set_description(table, refresh=False)
            bar.update(rows - bar.n)

        yield show
