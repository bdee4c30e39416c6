"""Image files: where images named by a path are, and how they are opened.

A local image is read only from inside ``manifest.root``, links followed, and only if it is a regular file. A file is
opened once, without following a link in the last step, and checked by its descriptor before a byte is read.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

from batchvision.descriptors import EXHAUSTED
from batchvision.errors import ImageForbidden, ImageTooLarge, ImageUnreadable, RowFault, TooManyOpenFiles
from batchvision.images.data_uris import shown_path
from batchvision.images.spelling import hint, respelled

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: do not wait for the writer of a FIFO. O_NOCTTY: do not take a terminal as the controlling one.
_FILE_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
_UNPLAIN = frozenset({"", ".", ".."})  #: an empty part: the path is absolute, or ends in a slash
_KERNEL_FOLDERS = frozenset({"proc", "sys", "dev"})


class FileFacts(NamedTuple):
    """Facts of a file that is not read. ``version`` changes when the content may have changed."""

    size_bytes: int
    version: str


class ImageFiles(Protocol):
    """The images that a manifest names by path. Both methods block."""

    def read(self, reference: str, max_bytes: int) -> bytes:
        """The content of an image. Raises ImageForbidden, ImageUnreadable or ImageTooLarge."""
        ...

    def facts(self, reference: str) -> FileFacts | None:
        """Facts of the file that ``read`` would read; ``None`` where it is missing."""
        ...


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """The image files inside a local folder. A missing path is looked for in other spellings."""

    root: Path

    def read(self, reference: str, max_bytes: int) -> bytes:
        """Raises ImageForbidden (outside, not a regular file), ImageUnreadable (missing, empty, no permission) or
        ImageTooLarge (more than ``max_bytes``, and nothing was read)."""
        name = local_path(reference)
        try:
            descriptor = _open(self.root, name)
        except (OSError, RuntimeError, ValueError) as error:
            raise _fault(name, self.root, error) from error
        try:
            return _read_regular(descriptor, shown_path(name), max_bytes)
        finally:
            os.close(descriptor)

    def facts(self, reference: str) -> FileFacts | None:
        """Size and time of last change. The file is not opened, and may be outside the folder."""
        try:
            name = local_path(reference)
            try:
                found = os.stat(name if name.startswith("/") else f"{self.root}/{name}")  # noqa: PTH116 - a Path is slow
            except FileNotFoundError:
                other = respelled(_resolved(self.root), name)
                if other is None:
                    return None
                found = os.stat(f"{self.root}/{other}")  # noqa: PTH116
        except (OSError, ValueError, ImageForbidden, ImageUnreadable):
            return None
        return FileFacts(found.st_size, f"{found.st_size}:{found.st_mtime_ns}")


def _open(root: Path, name: str) -> int:
    """Raises OSError, RuntimeError, ValueError or ImageForbidden."""
    base = _resolved(root)
    descriptor = _open_plain(base, name)
    if descriptor is not None:
        return descriptor
    try:
        return _open_step_by_step(base, _path_inside(base, name))
    except (FileNotFoundError, NotADirectoryError):
        other = respelled(base, name)
        if other is None:
            raise
        return _open_step_by_step(base, _path_inside(base, other))


def local_path(reference: str) -> str:
    """The path a reference names: itself, or the path of a ``file:`` URL of this machine."""
    if reference[:5].lower() != "file:":
        return reference
    try:
        parts = urlsplit(reference)
    except ValueError as error:
        raise ImageUnreadable(f"not a usable file URL: {reference} ({error})") from error
    if parts.netloc not in ("", "localhost"):
        raise ImageForbidden(f"{reference} names another machine ({parts.netloc})")
    return unquote(parts.path)


@lru_cache(maxsize=64)
def _resolved(root: Path) -> Path:
    return root.resolve()


def _open_plain(base: Path, name: str) -> int | None:
    """Open a path of plain names without links. It is inside by construction, so nothing is resolved. ``None`` for any
    other path, and for one that cannot be opened."""
    parts = name.split("/")
    if not _UNPLAIN.isdisjoint(parts) or not _KERNEL_FOLDERS.isdisjoint((*base.parts[1:2], parts[0])):
        return None
    try:
        return _open_parts(base, parts)
    except (OSError, ValueError):
        return None


def _path_inside(base: Path, name: str) -> Path:
    path = (base / name).resolve()
    if not path.is_relative_to(base) or _KERNEL_FOLDERS.intersection(path.parts[1:2]):
        raise ImageForbidden(
            f"{shown_path(name)} is outside {base}: put the image there, or set manifest.root to a folder that holds "
            f"both{hint(name)}"
        )
    return path


def _open_step_by_step(base: Path, path: Path) -> int:
    """Open folder by folder from ``base``: a link created since ``resolve()`` is not followed."""
    return _open_parts(base, path.relative_to(base).parts or (".",))


def _open_parts(base: Path, parts: Sequence[str]) -> int:
    """Open the first part below ``base``, each further one in the folder before it. No part may be a link."""
    folder, place = None, f"{base}/{parts[0]}"
    try:
        for part in parts[1:]:
            inner = os.open(place, _FOLDER_FLAGS, dir_fd=folder)
            if folder is not None:
                os.close(folder)
            folder, place = inner, part
        return os.open(place, _FILE_FLAGS, dir_fd=folder)
    finally:
        if folder is not None:
            os.close(folder)


def _read_regular(descriptor: int, name: str, max_bytes: int) -> bytes:
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        raise ImageForbidden(f"{name} is not a regular file")
    if facts.st_size == 0:
        raise ImageUnreadable(f"{name} is empty (0 bytes)")
    if facts.st_size > max_bytes:
        raise ImageTooLarge(f"{name} has {facts.st_size:,} bytes, more than the {max_bytes:,} that are read")
    parts: list[bytes] = []
    left = facts.st_size
    try:
        while left > 0 and (part := os.read(descriptor, left)):
            parts.append(part)
            left -= len(part)
    except OSError as error:
        raise ImageUnreadable(f"{name} cannot be read: {error.strerror}") from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _fault(name: str, root: Path, error: Exception) -> RowFault | TooManyOpenFiles:
    code = error.errno if isinstance(error, OSError) else None
    if code in EXHAUSTED:
        return TooManyOpenFiles(f"reading {shown_path(name)}")
    shown, more = shown_path(name), hint(name)
    if code in (errno.ENOENT, errno.ENOTDIR):
        return ImageUnreadable(f"no such file: {shown} (root is {root}){more}")
    if code == errno.ELOOP or isinstance(error, RuntimeError):
        return ImageForbidden(f"{shown} is a link that leads in a circle, or was changed while it was opened")
    if code in (errno.ENXIO, errno.ENODEV):
        return ImageForbidden(f"{shown} is not a regular file")
    reason = error.strerror if isinstance(error, OSError) else error
    return ImageUnreadable(f"{shown!r} cannot be opened: {reason}{more}")
