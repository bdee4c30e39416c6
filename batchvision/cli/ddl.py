"""``batchvision ddl OUT``: SQL for the tables of an output in a warehouse."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from batchvision.cli.command import Command
from batchvision.cli.output import write
from batchvision.cli.place import output_of, place_argument

if TYPE_CHECKING:
    from batchvision.commands.ddl import Statement

_DIALECTS = ("bigquery", "snowflake", "redshift", "databricks", "postgres", "duckdb")


@click.command(cls=Command, name="ddl")
@place_argument
@click.option("--dialect", type=click.Choice(_DIALECTS), required=True, help="The SQL of which warehouse.")
@click.option("--table-prefix", default="batchvision_", show_default=True, help="What the names of tables begin with.")
@click.option("--db-schema", default="", metavar="[DATABASE.]SCHEMA", help="Where the tables are.  [default: none]")
@click.option(
    "--location", default="", metavar="URL", help="The output as the warehouse reads it: s3://, gs://, a stage."
)
def command(place: str, dialect: str, table_prefix: str, db_schema: str, location: str) -> None:
    """Print SQL that creates the tables of an output, loads its parts, merges the newest answer of each row, and a view
    of it. OUT is a folder or a job file. Connects to nothing.
    """
    from batchvision.commands.ddl import Target, output_statements

    target = Target(dialect, table_prefix, db_schema, location)
    write("\n".join(script(output_statements(output_of(place), target))))


def script(statements: Iterable[Statement]) -> Iterator[str]:
    """The statements as a script, each below a comment."""
    for purpose, sql in statements:
        yield textwrap.fill(purpose, 110, initial_indent="-- ", subsequent_indent="-- ", break_on_hyphens=False)
        yield f"{sql};\n" if sql else ""
