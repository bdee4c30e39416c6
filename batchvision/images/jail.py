"""The jail: local images are read only from inside ``manifest.root``, links followed, and only regular files.

Rule: a file is opened once, without following a link on the last way, and checked by its descriptor before a byte
of it is read. A path that leads outside is forbidden before it is even looked at.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from batchvision.descriptors import EXHAUSTED
from batchvision.errors import ImageForbidden, ImageTooLarge, ImageUnreadable, RowFault, TooManyOpenFiles
from batchvision.images.data_uris import shown_path
from batchvision.images.spelling import hint, respelled

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO must not wait for its writer; O_NOCTTY: nor may a terminal become ours
_FILE_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
_UNPLAIN = frozenset({"", ".", ".."})  #: an empty part: the path is absolute, or ends in a slash
_KERNEL_FOLDERS = frozenset({"proc", "sys", "dev"})


def read_inside(root: Path, reference: str, max_bytes: int) -> bytes:
    """The content of a local image. One that is not there as it is written is looked for in other spellings.

    Raises ImageForbidden (outside, not a regular file), ImageUnreadable (missing, empty, not to be read) or
    ImageTooLarge (more than ``max_bytes``: nothing of it is read).
    """
    name = local_path(reference)
    try:
        descriptor = _open(root, name)
    except (OSError, RuntimeError, ValueError) as error:
        raise _fault(name, root, error) from error
    try:
        return _read_regular(descriptor, shown_path(name), max_bytes)
    finally:
        os.close(descriptor)


def facts_of(root: Path, reference: str) -> os.stat_result:
    """What the system says of the file that :func:`read_inside` would read.

    Raises OSError, ValueError, ImageForbidden or ImageUnreadable.
    """
    name = local_path(reference)
    try:
        return os.stat(name if name.startswith("/") else f"{root}/{name}")  # noqa: PTH116 - a million of them
    except FileNotFoundError:
        other = respelled(_resolved(root), name)
        if other is None:
            raise
        return os.stat(f"{root}/{other}")  # noqa: PTH116


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
    """A path of plain names, none of them a link, is inside by the way it is opened: nothing has to be resolved.
    None for any other, and for what cannot be opened."""
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
    """Opens folder by folder from ``base``, so that a link put in the way since ``resolve()`` is not followed."""
    return _open_parts(base, path.relative_to(base).parts or (".",))


def _open_parts(base: Path, parts: Sequence[str]) -> int:
    """The first from ``base`` by its path, each further one from the folder before; none of them may be a link."""
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
