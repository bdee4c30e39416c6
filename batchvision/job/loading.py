"""The section ``[load]``: the database that a run loads into at its end."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import BeforeValidator, Field, model_validator

from batchvision.job.values import Section, Text, one_or_many
from batchvision.secrets import has_password

LoadedTable = Literal["results", "failures", "attempts", "runs"]
LOADED_TABLES: tuple[str, ...] = get_args(LoadedTable)
DEFAULT_TABLE_PREFIX = "batchvision_"


class LoadSection(Section):
    """The database into which `run` loads the output at its end. `batchvision load JOB` does the same by hand."""

    to: Text | None = None
    """The destination: `duckdb:///relative.db`, `duckdb:////absolute.db`, `postgresql://user@host:port/db`,
    `delta:FOLDER`, `bigquery://PROJECT/DATASET`, `snowflake://USER@ACCOUNT/DATABASE/SCHEMA`, `dlt:NAME` for another
    destination of dlt, or `env:NAME` for a URL in the environment. A URL with a password may stand in the environment
    alone. Example: `to = "env:WAREHOUSE_URL"`."""
    db_schema: Text | None = None
    """The schema of the tables in the database. It is made if it is missing. Default: the database's own. Example:
    `db_schema = "photos"`."""
    table_prefix: Annotated[str, Field(max_length=40)] = DEFAULT_TABLE_PREFIX
    """The beginning of each table's name. Example: `table_prefix = "captions_"`."""
    include: Annotated[tuple[LoadedTable, ...], BeforeValidator(one_or_many), Field(min_length=1)] = (
        "results",
        "failures",
        "attempts",
        "runs",
    )
    """The tables to load. Example: `include = ["results", "failures"]`."""

    @model_validator(mode="after")
    def _has_no_password(self) -> Self:
        if self.to is not None and has_password(self.to):  # the message of a single key would repeat it
            raise ValueError('`to` holds a password; write `to = "env:WAREHOUSE_URL"` and set the URL there')
        return self
