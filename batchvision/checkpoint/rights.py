"""Words on a missing right: the owner of a file or folder, and the right that this process lacks."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path


def missing_right(path: Path) -> str | None:
    """A sentence on the first obstacle on the way to ``path``. Never raises."""
    with suppress(OSError):
        obstacle = _obstacle(path)
        if obstacle is not None:
            return _sentence(*obstacle)
    return None


def _obstacle(path: Path) -> tuple[Path, str] | None:
    """The first file or folder on the way that lacks a right, and the verb of that right."""
    for folder in reversed(path.parents):
        if folder.is_dir() and not _may(folder, os.X_OK):
            return folder, "enter"
    if path.exists() and not _may(path, os.R_OK):
        return path, "read"
    folder = next(parent for parent in path.parents if parent.is_dir())
    if not _may(folder, os.W_OK):
        return folder, "create, replace or remove files in"
    if path.exists() and not _may(path, os.W_OK):
        return path, "write to"
    return None


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _sentence(place: Path, may_not: str) -> str:
    found, me = place.stat(), os.geteuid()
    owner = _user(found.st_uid)
    facts = f"{place} belongs to {owner} (group {_group(found.st_gid)}, mode {stat.filemode(found.st_mode)})"
    if found.st_uid == me:
        return f"{facts}, and its mode does not let {owner} {may_not} it. Next: chmod u+rwX {place}"
    return (
        f"{facts}, and {_user(me)} may not {may_not} it. Next: ask {owner} for that right or run as {owner}, or set "
        "output.path to a folder of your own. For an output that a group shares, see output.group_readable"
    )


def _user(uid: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return f"user {uid}"


def _group(gid: int) -> str:
    with suppress(KeyError):
        return grp.getgrgid(gid).gr_name
    return str(gid)
