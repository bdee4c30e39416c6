"""The JSON files beside the tables: recipes in ``recipes/``, and run summaries in ``runs/``.

Each file is replaced by one rename, and only where it changes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from typing import Any

from batchvision.checkpoint.disk import disk_failures
from batchvision.checkpoint.parts import DATED, earlier_sha256, failures_path, part_paths
from batchvision.checkpoint.shards import mutex
from batchvision.checkpoint.storage import PartStore
from batchvision.checkpoint.whole_output import newest_of_shards, whole_summary
from batchvision.errors import CheckpointDamaged, JobInvalid
from batchvision.records import PartFile, Purpose, RateSample, RunSummary, Shard
from batchvision.secrets import Secrets

LATEST = "latest.json"


def summary_document(summary: RunSummary) -> dict[str, Any]:
    """The summary as JSON content."""
    document = {part.name: getattr(summary, part.name) for part in fields(summary)}
    for name in ("parts", "rate_history"):
        document[name] = [each._asdict() for each in document[name]]
    for name in ("failures_by_kind", "versions", "config"):
        document[name] = dict(document[name])
    return document


def summary_text(summary: RunSummary) -> str:
    """The summary on one line, as in ``run --json`` and ``runs/<run_id>.json``."""
    return json.dumps(summary_document(summary), ensure_ascii=False, default=str)


def write_summary(store: PartStore, output: Path, summary: RunSummary, secrets: Secrets, shard: str = "0of1") -> None:
    """Write ``runs/<run_id>.json``, then ``runs/latest.json``: of shards, the whole output.

    A sweep changes no row, so it is never the latest. Raises DiskFailed.
    """

    def put(name: str, document: RunSummary) -> None:
        content = secrets.mask_bytes(summary_text(document).encode("utf-8", "replace")) + b"\n"
        store.put(output / "runs" / name, content, owner=shard)

    division = Shard.named(shard).of
    with disk_failures(f"writing {output / 'runs'}"):
        put(f"{summary.run_id}.json", summary)
        if summary.command == Purpose.SWEEP:
            return
        if division == 1:
            put(LATEST, summary)
            return
        with mutex(output):  # another shard may end now
            put(LATEST, whole_summary(summary, newest_of_shards(newest_summaries(output), division)))


def read_latest(output: Path) -> RunSummary | None:
    """The summary of the last run that ended, if any."""
    path = output / "runs" / LATEST
    return read_summary(path) if path.exists() else None


def summary_paths(output: Path) -> list[Path]:
    """The summaries of all runs that ended, in the order of their names."""
    return sorted(path for path in (output / "runs").glob("*.json") if path.name != LATEST)


def newest_summaries(output: Path) -> Iterator[RunSummary]:
    """The readable summaries of runs that ended, the newest first. A file name holds the start to the second only."""
    for _, paths in groupby(reversed(summary_paths(output)), key=lambda path: path.name.partition("-")[0]):
        found: list[RunSummary] = []
        for path in paths:
            with suppress(CheckpointDamaged):
                found.append(read_summary(path))
        yield from sorted(found, key=lambda summary: summary.started_at, reverse=True)


def has_ended(output: Path, run_id: str) -> bool:
    """Whether a run ended and listed its parts."""
    return (output / "runs" / f"{run_id}.json").exists()


def unlisted(output: Path, shard: str) -> Iterator[Path]:
    """The parts of a shard that no summary lists as they are, and always ``failures``."""
    listed: dict[str, str] = {}
    for path in summary_paths(output):
        with suppress(CheckpointDamaged):
            listed.update((part.path, part.sha256) for part in read_summary(path).parts)
    for path in [path for table in DATED for path in part_paths(output, table)]:
        sha256 = listed.get(str(path.relative_to(output)))
        if path.name.startswith(f"part-{shard}-") and (sha256 is None or sha256 in earlier_sha256(path)):
            yield path
    if (path := output / failures_path(shard)).exists():
        yield path


def read_summary(path: Path) -> RunSummary:
    """Read a summary without the fields of later versions. Raises CheckpointDamaged."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        document["parts"] = tuple(PartFile(**part) for part in document["parts"])
        document["rate_history"] = tuple(RateSample(**each) for each in document.get("rate_history", ()))
        for name in ("stopped_by", "redo_recipes"):
            if document.get(name) is not None:
                document[name] = tuple(document[name])
        known = {part.name for part in fields(RunSummary)}
        return RunSummary(**{name: value for name, value in document.items() if name in known})
    except (ValueError, TypeError, KeyError) as fault:
        raise CheckpointDamaged(
            f"{path} cannot be read ({fault})",
            next_step="delete it: it only repeats the tables, and the next run writes a new one",
        ) from fault


def recipe_path(output: Path, recipe_id: str) -> Path:
    return output / "recipes" / f"{recipe_id}.json"


def write_recipe(
    store: PartStore, output: Path, recipe_id: str, document: Mapping[str, Any], secrets: Secrets, shard: str = "0of1"
) -> None:
    """Write ``recipes/<recipe_id>.json`` where it is missing or differs. Raises DiskFailed."""
    text = json.dumps(document, indent=1, ensure_ascii=False)
    content = secrets.mask_bytes(text.encode("utf-8", "surrogatepass")) + b"\n"
    path = recipe_path(output, recipe_id)
    if path.exists() and path.read_bytes() == content:
        return
    with disk_failures(f"writing {path}"):
        store.put(path, content, owner=shard)


def load_recipe(output: Path, recipe_id: str) -> dict[str, Any]:
    """The stored recipe of a recipe_id. Raises JobInvalid, CheckpointDamaged."""
    path = recipe_path(output, recipe_id)
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8", errors="surrogatepass"))
    except FileNotFoundError:
        raise JobInvalid(
            f"{path} is missing, and an answer that waits in the journal was asked for by that recipe. "
            "Restore the file, or set output.path to another folder."
        ) from None
    except ValueError as fault:
        next_step = "restore it from a copy, then run again"
        raise CheckpointDamaged(f"{path} is damaged ({fault})", next_step=next_step) from fault
    return document
