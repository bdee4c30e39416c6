"""The figures of a run at work, in a small file beside its journal, for ``status``.

No promise depends on the file. It is replaced whole and not synced.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from batchvision.checkpoint.lock import STATE_FOLDER, Holder
from batchvision.checkpoint.storage import PartStore
from batchvision.records import RunFigures
from batchvision.secrets import Secrets

FILE_NAME = "running.json"


def write(parts: PartStore, folder: Path, figures: RunFigures, secrets: Secrets) -> None:
    """Replace the file. Raises OSError."""
    document = {"holder": Holder.this_process()._asdict(), "figures": figures.document()}
    parts.note(folder / FILE_NAME, secrets.mask_bytes(json.dumps(document).encode()) + b"\n")


class _Version(NamedTuple):
    """Distinguishes a file from the one that it replaced."""

    inode: int
    modified_ns: int
    size_bytes: int


class _Known(NamedTuple):
    version: _Version
    holder: Holder
    figures: RunFigures


class RunningFiles:
    """The files of an output, of all shards. Each file is read once, and again only after it was replaced."""

    def __init__(self, output: Path, files: PartStore) -> None:
        self._folder = output / STATE_FOLDER
        self._files = files
        self._known: dict[Path, _Known] = {}

    def look(self) -> tuple[RunFigures, ...]:
        """The figures of the runs at work. Files of killed runs are skipped. Takes no lock."""
        known = dict[Path, _Known]()
        for path in self._files.list(self._folder, f"*of*/{FILE_NAME}"):
            with suppress(OSError, ValueError, TypeError, KeyError):
                stat = path.stat()
                version = _Version(stat.st_ino, stat.st_mtime_ns, stat.st_size)
                before = self._known.get(path)
                known[path] = before if before is not None and before.version == version else self._read(path, version)
        self._known = known
        return tuple(each.figures for each in known.values() if not each.holder.has_ended)

    def _read(self, path: Path, version: _Version) -> _Known:
        document = json.loads(self._files.get(path) or b"")
        return _Known(version, Holder(**document["holder"]), RunFigures.of_document(document["figures"]))
