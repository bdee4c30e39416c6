"""The parts that compaction merged, by their former names."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path

from batchvision.checkpoint import DATED, ancestors_of, is_merged, part_paths
from batchvision.errors import CheckpointDamaged


@dataclass(slots=True)
class Merged:
    """``sha256``: the hashes of each merged part, with and without added columns. ``left``: merged parts that still
    exist.

    ``unreadable``: folders with a merged part that does not list its sources.
    """

    sha256: dict[str, set[str]] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    unreadable: set[str] = field(default_factory=set)


def read_merged(output: Path, damaged: Container[str]) -> Merged:
    """Read the footers of all merged parts that are not ``damaged``. Raises nothing."""
    found = Merged()
    for table in DATED:
        for path in part_paths(output, table):
            if str(path.relative_to(output)) in damaged:
                found.unreadable.add(str(path.parent.relative_to(output)))
            elif is_merged(path.name):
                _add(found, path, str(path.parent.relative_to(output)))
    found.left = [relative for relative in found.sha256 if (output / relative).exists()]
    return found


def _add(found: Merged, path: Path, folder: str) -> None:
    try:
        for ancestor in ancestors_of(path):
            found.sha256.setdefault(f"{folder}/{ancestor.name}", set()).update(ancestor.sha256)
    except (CheckpointDamaged, FileNotFoundError):  # not found: a run has merged it again
        found.unreadable.add(folder)
