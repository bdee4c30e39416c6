"""Where an output is stored: local files for its journal, and a store of whole files for its parts.

Every change to a file goes through one of the two interfaces. A test replaces them to fail or lose any operation.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol


class StoreFault(OSError):
    """An object store has failed for good. The message names the next step."""


class JournalFiles(Protocol):
    """Local files, changed by one small operation at a time. Each operation raises OSError when it fails."""

    def make_folder(self, path: Path) -> None:
        """Make one folder inside an existing one."""

    def create(self, path: Path, mode: int) -> int:
        """Open a new or emptied file for writing and return its descriptor."""

    def set_aside(self, path: Path, size_bytes: int) -> None:
        """Make a file that takes so much space and holds nothing. Where the space is missing, leave no file."""

    def write(self, descriptor: int, content: bytes | memoryview) -> None:
        """Append ``content`` whole, or nothing on an error."""

    def sync(self, descriptor: int) -> None:
        """Return when every written byte is durable (fdatasync)."""

    def close(self, descriptor: int) -> None:
        """Give the descriptor back."""

    def rename(self, old: Path, new: Path) -> None:
        """Rename a file in one step. A file of the new name is replaced."""

    def remove(self, path: Path) -> None:
        """Remove a file."""

    def sync_folder(self, path: Path) -> None:
        """Return when the names in a folder are durable."""


class Hold(Protocol):
    """An output that is held against other machines."""

    @property
    def is_held(self) -> bool: ...

    def release(self) -> None: ...


class NewFile(Protocol):
    """A file for a Parquet writer. It appears under its name only when :meth:`publish` returns."""

    closed: bool

    @property
    def sha256(self) -> str:
        """Hash of the bytes written so far."""

    def write(self, content: bytes | memoryview) -> int: ...

    def tell(self) -> int: ...

    def flush(self) -> None: ...

    def publish(self, path: Path) -> None:
        """Make the file durable under a name in the same folder."""


class PartStore(Protocol):
    """Whole files of an output. Each change is durable when its method returns. Methods raise OSError."""

    def put(self, path: Path, content: bytes | memoryview, owner: str = "") -> None:
        """Store a file, or replace it whole. ``owner`` names the writer where several may write the same file."""

    def note(self, path: Path, content: bytes) -> None:
        """Replace a local file that no promise depends on. It is not synced."""

    def replace_if(self, path: Path, content: bytes, expected: bytes | None) -> bool:
        """Replace a file that holds ``expected``. Return False where it holds other bytes.

        ``expected`` is ``None`` for a file that does not exist.
        """

    def growing(self, path: Path) -> AbstractContextManager[NewFile]:
        """Begin a file that is too large for memory. Without ``publish`` nothing is stored."""

    def get(self, path: Path) -> bytes | None:
        """The content of a file. A missing file has ``None``."""

    def list(self, folder: Path, pattern: str) -> list[Path]:
        """The files in a folder that match the glob pattern, in order of their paths."""

    def delete(self, paths: Iterable[Path]) -> None:
        """Remove files."""


class Disk(JournalFiles, PartStore, Protocol):
    """A local file system: both in one."""

    def hold(self, output: Path) -> Hold | None:
        """Hold an output where other machines can write to it, and bring it up to date. A local one has ``None``.

        The caller has locked it on this machine. Raises OutputHeld, OSError.
        """

    def replicate(self) -> None:
        """Return when everything that is durable here outlives this machine as far as the storage allows."""
