"""Flags that are keys of the job file, and how they become overrides of the job.

A flag is its key with dashes. Paths in flags are relative to the working directory, paths in a job file to its folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Function = TypeVar("Function", bound=Callable[..., Any])


class JobFlag(NamedTuple):
    """A flag: the dotted key that it sets, its type and its help line."""

    flag: str
    key: str
    kind: Any  #: the type for click
    help: str

    @property
    def parameter(self) -> str:
        return self.flag.partition("/")[0].removeprefix("--").replace("-", "_")


#: Where a run reads, writes and sends.
PLACE_FLAGS: tuple[JobFlag, ...] = (
    JobFlag("--manifest", "manifest.path", click.Path(), "The table of images to work on."),
    JobFlag("--out", "output.path", click.Path(), "The folder for answers, failures and the ledger."),
    JobFlag("--provider", "provider.name", str, "xai, openrouter, openai, emulator, or an installed one."),
    JobFlag("--base-url", "provider.base_url", str, "Where the provider is."),
    JobFlag("--model", "provider.model", str, "The model's name at the provider."),
    JobFlag("--lane", "delivery.lane", click.Choice(["online", "deferred", "batch", "auto"]), "How requests travel."),
    JobFlag("--wait/--no-wait", "delivery.wait", bool, "Batches: wait for the answers, or leave them to the next run."),
)
#: How images are handed over.
IMAGE_FLAGS: tuple[JobFlag, ...] = (
    JobFlag(
        "--image-mode",
        "provider.image_mode",
        click.Choice(["url", "inline", "auto"]),
        "How image URLs are handed over.",
    ),
    JobFlag("--detail", "provider.detail", click.Choice(["auto", "low", "high"]), "How closely the model looks."),
    JobFlag(
        "--on-bad-image", "manifest.on_bad_image", click.Choice(["fail_row", "skip_image"]), "What a bad image means."
    ),
)
#: The limits of a run.
LIMIT_FLAGS: tuple[JobFlag, ...] = (
    JobFlag("--requests-per-minute", "limits.requests_per_minute", float, "At most so many requests a minute."),
    JobFlag("--requests-per-second", "limits.requests_per_second", float, "At most so many requests a second."),
    JobFlag("--tokens-per-minute", "limits.tokens_per_minute", float, "At most so many tokens a minute."),
    JobFlag("--concurrency", "limits.concurrency", int, "At most so many requests on the wire."),
    JobFlag("--max-attempts", "limits.max_attempts", int, "Attempts a row (429s and failed connects do not count)."),
    JobFlag("--request-timeout-seconds", "limits.request_timeout_seconds", float, "Deadline of one request."),
    JobFlag("--max-runtime-seconds", "limits.max_runtime_seconds", float, "Stop after so long (exit 4)."),
    JobFlag("--max-outage-seconds", "limits.max_outage_seconds", float, "Stop after so long without an answer."),
    JobFlag("--max-cost-usd", "limits.max_cost_usd", float, "Stop at this cost, over all runs (exit 4)."),
    JobFlag("--max-cost-usd-per-run", "limits.max_cost_usd_per_run", float, "Stop at this cost of the run (exit 4)."),
    JobFlag("--max-cost-usd-per-day", "limits.max_cost_usd_per_day", float, "Stop at this cost of the day (exit 4)."),
    JobFlag("--max-cost-usd-per-month", "limits.max_cost_usd_per_month", float, "Stop at this cost of the month."),
    JobFlag("--max-failed", "limits.max_failed", str, "Stop when more have failed: 20% or a number (exit 4)."),
    JobFlag("--failed-ok", "limits.failed_ok", str, "Exit 0 with up to so many failed: 1% or a number."),
    JobFlag("--quarantine-after-runs", "limits.quarantine_after_runs", int, "Set a row aside after failing so often."),
    JobFlag("--ambiguous", "limits.ambiguous", click.Choice(["retry", "hold"]), "Requests whose end a crash hid."),
)
RECIPE_FLAGS: tuple[JobFlag, ...] = (
    JobFlag(
        "--on-recipe-change",
        "output.on_recipe_change",
        click.Choice(["refuse", "redo", "new_rows_only"]),
        "Rows answered under another prompt or model.",
    ),
    JobFlag(
        "--on-row-change",
        "manifest.on_row_change",
        click.Choice(["refuse", "redo", "keep"]),
        "Answered rows whose cells or images changed.",
    ),
    JobFlag("--max-changed", "manifest.max_changed", str, "Stop first when more of the answered rows changed."),
)
#: Flags of commands that read a job without running it.
READING_FLAGS = PLACE_FLAGS + IMAGE_FLAGS
OUTPUT_FLAGS: tuple[JobFlag, ...] = (
    JobFlag("--snapshot", "output.snapshot", click.Path(), "Write what is current to this Parquet file at the end."),
)
RUN_FLAGS = PLACE_FLAGS + IMAGE_FLAGS + LIMIT_FLAGS + RECIPE_FLAGS + OUTPUT_FLAGS
ALL_FLAGS: Mapping[str, JobFlag] = {flag.parameter: flag for flag in RUN_FLAGS}


def complete_file(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete a file or folder."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


job_argument = click.argument("job", metavar="JOB", type=str, shell_complete=complete_file)


def job_flags(flags: tuple[JobFlag, ...]) -> Callable[[Function], Function]:
    """Decorator that adds ``flags`` and ``--set`` to a command."""

    def decorate(function: Function) -> Function:
        function = click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="KEY=VALUE",
            help="Any key of the job file, e.g. limits.max_attempts=3.",
        )(function)
        for flag in reversed(flags):
            function = click.option(flag.flag, flag.parameter, type=flag.kind, default=None, help=flag.help)(function)
        return function

    return decorate


def overrides(values: Mapping[str, Any], settings: tuple[str, ...]) -> dict[str, object]:
    """The dotted keys that the command line sets. A flag wins over ``--set``."""
    given: dict[str, object] = dict(_parse_setting(setting) for setting in settings)
    for name, value in values.items():
        flag = ALL_FLAGS.get(name)
        if flag is not None and value is not None:
            given[flag.key] = _from_here(value) if isinstance(flag.kind, click.Path) else value
    return given


def _from_here(text: str) -> str:
    """An absolute path. A URL (``s3://``) is unchanged."""
    return text if "://" in text else str(Path(text).expanduser().absolute())


def _parse_setting(setting: str) -> tuple[str, str]:
    """Split ``limits.max_attempts=3`` into key and text. The job parses the text."""
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise click.UsageError(f"--set takes KEY=VALUE, e.g. --set limits.max_attempts=3; got {setting!r}.")
    return key.strip(), text


def load_job(path: str, values: Mapping[str, Any], settings: tuple[str, ...]) -> Any:
    """The job at ``path`` with the overrides of the command line. Raises JobInvalid with all problems."""
    from batchvision.job import Job

    return Job.load(path, overrides=overrides(values, settings))
