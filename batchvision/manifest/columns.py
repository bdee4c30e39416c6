"""The columns that a job needs, and the messages for missing and repeated columns. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from batchvision.errors import JobInvalid

if TYPE_CHECKING:
    from batchvision.job import Job

#: A message lists at most this many column names.
_MOST_NAMES = 40


def needed_columns(job: Job) -> dict[str, str]:
    """Each column that the job reads -> the job key that names it, in this order."""
    needed: dict[str, str] = {}

    def need(names: Iterable[str], key: str) -> None:
        for name in names:
            needed.setdefault(name, key)

    need(job.id_columns, "[manifest] id")
    need(job.manifest.images, "[manifest] images")
    need(job.prompt_columns, "[prompt]")
    need((column.source for column in job.keep_columns), "[manifest] keep")
    need(filter(None, [job.manifest.image_version]), "[manifest] image_version")
    need(job.expected_columns.values(), "[answer] expected")
    return needed


def reject_missing(needed: Mapping[str, str], present: Sequence[str], manifest_name: str) -> None:
    """Raise JobInvalid with one sentence for each column of ``needed`` that is not ``present``."""
    there = ", ".join(repr(column) for column in present[:_MOST_NAMES])
    more = f" and {len(present) - _MOST_NAMES} more" if len(present) > _MOST_NAMES else ""
    plain = {column.strip().lower(): column for column in present}  # without regard to case and spaces
    problems: list[str] = []
    for name, key in needed.items():
        if name not in present:
            close = get_close_matches(name.strip().lower(), plain, n=1, cutoff=0.6)
            hint = f" Did you mean {plain[close[0]]!r}?" if close else ""
            problems.append(
                f"{manifest_name} has no column {name!r}, which {key} names; its columns are {there}{more}.{hint}"
            )
    if problems:
        raise JobInvalid(problems)


def reject_repeated(columns: Sequence[str], manifest_name: str) -> None:
    """Raise JobInvalid where two columns have one name. Columns without a name are tolerated, as no job names them."""
    repeated = [name for name in dict.fromkeys(columns) if name and columns.count(name) > 1]
    if repeated:
        names = ", ".join(repr(name) for name in repeated)
        raise JobInvalid(f"{manifest_name} has more than one column named {names}: give each a name of its own.")
