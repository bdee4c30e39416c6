"""``batchvision config show JOB``: every setting, and where it came from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from batchvision.cli.command import Command
from batchvision.cli.options import RUN_FLAGS, job_argument, job_flags, load_job
from batchvision.cli.output import print_document, print_table
from batchvision.cli.table import TextColumn


@click.group(name="config", no_args_is_help=True)
def command() -> None:
    """Look at a job's settings."""


@command.command(cls=Command, name="show")
@job_argument
@job_flags(RUN_FLAGS)
@click.option("--json", "as_json", is_flag=True, help="Print the resolved job as JSON.")
def show(job: str, settings: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Print every setting of JOB with its value and where it came from: flag, environment, job file or default."""
    chosen = load_job(job, flags, settings)
    if as_json:
        print_document({"config": chosen.config(), "origins": dict(chosen.origins)})
        return
    rows = [[key, _as_text(value), chosen.origins.get(key, "default")] for key, value in flat(chosen.config())]
    print_table([TextColumn("key"), TextColumn("value"), TextColumn("from")], rows)


def flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values. An empty table is one value."""
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _as_text(value: Any) -> str:
    if value is None:
        return "—"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
