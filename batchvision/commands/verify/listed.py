"""The parts that ``runs/`` lists with their sha256, and the recipes under their own hashes."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from batchvision import keys
from batchvision.checkpoint import batches_of, index_paths, load_recipe, read_latest, read_summary, summary_paths
from batchvision.commands.verify.findings import Finding, note, ok, wrong
from batchvision.errors import CheckpointDamaged, DiskFailed
from batchvision.records import RunSummary
from batchvision.secrets import MASK
from batchvision.wording import counted

_NAMED = 5


class ListedPart(NamedTuple):
    """A part as the newest summary lists it."""

    sha256: str
    rows: int
    run_id: str


@dataclass(slots=True)
class Runs:
    """All summaries in the order of their start. ``ended_whole``: runs that ended without a disk failure."""

    parts: dict[str, ListedPart] = field(default_factory=dict)
    #: every listed sha256 by path: parts of ``failures/`` are replaced, and clocks may be wrong
    listed_sha256: dict[str, set[str]] = field(default_factory=dict)
    ended: frozenset[str] = frozenset()
    ended_whole: frozenset[str] = frozenset()
    latest: RunSummary | None = None
    count: int = 0
    unreadable: list[str] = field(default_factory=list)


def read_runs(output: Path) -> Runs:
    """Read ``runs/``. Files that cannot be read are listed; nothing is raised."""
    found = Runs()
    summaries: list[RunSummary] = []
    for path in summary_paths(output):
        try:
            summaries.append(read_summary(path))
        except CheckpointDamaged as fault:
            found.unreadable.append(fault.message)
    try:
        found.latest = read_latest(output)
    except CheckpointDamaged as fault:
        found.unreadable.append(fault.message)
    in_order = sorted(summaries, key=lambda summary: summary.started_at)
    # the latest run comes last, even if its clock was slow
    for summary in (*in_order, *([found.latest] if found.latest else [])):
        for part in summary.parts:
            found.listed_sha256.setdefault(part.path, set()).add(part.sha256)
            found.parts[part.path] = ListedPart(part.sha256, part.rows, summary.run_id)
    found.count = len(summaries)
    found.ended = frozenset(each.run_id for each in summaries)
    found.ended_whole = frozenset(each.run_id for each in summaries if each.stop_reason != DiskFailed.kind)
    return found


def run_findings(runs: Runs, sealed_by: Set[str], at_work: Set[str]) -> Iterator[Finding]:
    """``sealed_by``: runs with parts that no summary lists. ``at_work``: the last run of each shard."""
    yield from _missing(runs, sealed_by, at_work)
    for text in runs.unreadable:
        yield wrong("runs", text, "delete the file, or restore it: the parts it lists are then checked by pages alone")
    if runs.latest is None and runs.count:
        yield note("runs", "runs/latest.json is missing; the next run writes it")
    elif runs.latest is None and not runs.unreadable:
        if not sealed_by:
            yield note("runs", "no run has ended here yet, so no list of parts to compare with")
    elif not runs.unreadable:
        yield ok("runs", f"{counted(runs.count, 'summary').replace('summarys', 'summaries')}, all readable")


_RESTORE = (
    "restore runs/ from a backup. Without one the answers and the ledger are whole, but the sha256 of these parts, and "
    "what was agreed to be asked again, are not known"
)


def _missing(runs: Runs, sealed_by: Set[str], at_work: Set[str]) -> Iterator[Finding]:
    """Missing summaries. A killed run writes no summary; the next run lists its parts."""
    if not runs.count and not runs.latest and not runs.unreadable:
        if sealed_by:
            text = "runs/ holds no summary, and there are parts: no run has ended yet, or runs/ was removed"
            yield note("runs", text, _RESTORE)
        return
    gone = set(sealed_by - runs.ended - at_work)
    if runs.latest is not None and not runs.unreadable and runs.latest.run_id not in runs.ended:
        gone.add(runs.latest.run_id)
    if gone:
        named = ", ".join(sorted(gone)[:_NAMED]) + (f" and {len(gone) - _NAMED} more" if len(gone) > _NAMED else "")
        yield note("runs", f"a summary of {counted(len(gone), 'run')} is gone from runs/: {named}", _RESTORE)


# ---------------------------------------------------------------------------------- the index of the manifest


def index_findings(output: Path) -> Iterator[Finding]:
    """Whether each index of a manifest can be read."""
    for path in index_paths(output):
        try:
            for _ in batches_of(path):
                pass
        except FileNotFoundError:  # replaced by a run
            continue
        except CheckpointDamaged as fault:
            yield wrong("index", fault.what, "delete the file: the next run over the whole manifest writes it again")


# ---------------------------------------------------------------------------------- recipes


def recipe_findings(output: Path, used: frozenset[str]) -> Iterator[Finding]:
    """``used``: the recipe_ids of the stored answers."""
    there = {path.stem: path for path in sorted((output / "recipes").glob("*.json"))}
    bad = [finding for recipe_id, path in there.items() if (finding := _recipe(output, recipe_id, path))]
    missing = sorted(used - there.keys())
    yield from bad
    for recipe_id in missing:
        yield wrong(
            "recipes",
            f"recipes/{recipe_id}.json is missing: there are answers, but not what was asked",
            "restore the file from a backup, or run the job that asked: it writes its recipe again",
        )
    if not bad and not missing:
        yield ok("recipes", f"{counted(len(there), 'recipe')}, each under its own hash")


def _recipe(output: Path, recipe_id: str, path: Path) -> Finding | None:
    restore = "restore the file from a backup; the job that asked writes it again where it is missing"
    try:
        document = load_recipe(output, recipe_id)
        is_right = keys.recipe_id(document) == recipe_id
    except CheckpointDamaged as fault:
        return wrong("recipes", fault.what, restore)
    except UnicodeDecodeError as fault:
        return wrong("recipes", f"recipes/{recipe_id}.json is not UTF-8 text ({fault})", restore)
    if is_right:
        return None
    if MASK in path.read_text(encoding="utf-8", errors="surrogatepass"):
        return note("recipes", f"recipes/{recipe_id}.json holds a masked secret, so its hash cannot be checked")
    return wrong("recipes", f"recipes/{recipe_id}.json is not the recipe that was asked: its hash differs", restore)
