"""URLs of object stores, and where the local copy of an output there is kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

STATE_DIR_ENV = "BATCHVISION_STATE_DIR"


def local_copy(url: str, state_dir: Path | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """The folder of the local copy. Its last name is that of the URL, and the folder around it belongs to it alone."""
    url = url.rstrip("/")
    owner = sha256(url.encode()).hexdigest()[:16]
    return (state_dir or state_folder(environ)) / owner / url.rpartition("/")[2]


def state_folder(environ: Mapping[str, str] | None = None) -> Path:
    """``BATCHVISION_STATE_DIR``, else the user's own state folder for this program."""
    found = os.environ if environ is None else environ
    if own := found.get(STATE_DIR_ENV):
        return Path(own).expanduser().absolute()
    base = found.get("XDG_STATE_HOME", "")
    # XDG: ignore a relative path
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".local" / "state") / "batchvision"
