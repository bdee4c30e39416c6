"""A disk that forgets: it works on a real folder, knows what is durable, and can be cut off or fail at any operation.

The model: bytes are durable up to the last sync of their file, and a name
(new, changed or removed) is durable after a sync of its folder. What is not durable may survive a cut or not: a
``choose`` function says so for each name and each file, so that every state a real disk could show can be drawn.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from batchvision.checkpoint.disk import WholeFiles


class PowerCut(BaseException):
    """The machine is gone: no code after this runs on it."""


class Operation(NamedTuple):
    """One call, as the record of a run shows it."""

    name: str
    path: Path


class _File:
    """What stands behind names: its bytes, and those of them that are durable."""

    __slots__ = ("content", "durable")

    def __init__(self) -> None:
        self.content = bytearray()
        self.durable = b""


#: Says how many of ``most`` unsynced bytes (or of 1 unsynced name) survive.
Choose = Callable[[int], int]


def lose_all(most: int) -> int:
    """The harshest cut: nothing survives that was not synced."""
    return 0


def keep_all(most: int) -> int:
    """A killed process: the kernel still writes everything."""
    return most


class ModelledDisk(WholeFiles):
    """A ``Disk`` under ``root``. ``cut_at``: the power goes in the middle of that operation (counted from 0);
    ``fail_at``: that operation raises ``error`` instead of doing anything."""

    def __init__(
        self, root: Path, *, cut_at: int | None = None, fail_at: int | None = None, error: int = errno.EIO
    ) -> None:
        self.root = root
        self.operations: list[Operation] = []
        self._cut_at = cut_at
        self._fail_at = fail_at
        self._error = error
        self._names: dict[Path, _File] = {}
        self._durable_names: dict[Path, _File] = {}
        self._folders: set[Path] = {root}
        self._durable_folders: set[Path] = {root}
        self._open: dict[int, tuple[Path, _File]] = {}
        self._adopt()

    def _adopt(self) -> None:
        """What is in the folder at the start is durable."""
        for path in self.root.rglob("*"):
            if path.is_dir():
                self._folders.add(path)
                continue
            file = _File()
            file.durable = path.read_bytes()
            file.content = bytearray(file.durable)
            self._names[path] = file
        self._durable_names = dict(self._names)
        self._durable_folders = set(self._folders)

    def _begin(self, name: str, path: Path) -> bool:
        """Count the operation; True: the power goes while it is under way."""
        at = len(self.operations)
        if self._cut_at is not None and at > self._cut_at:
            raise PowerCut
        self.operations.append(Operation(name, path))
        if at == self._fail_at:
            raise OSError(self._error, os.strerror(self._error), str(path))
        return at == self._cut_at

    # ---------------------------------------------------------------------------- the Disk

    def make_folder(self, path: Path) -> None:
        is_cut = self._begin("make_folder", path)
        path.mkdir()
        self._folders.add(path)
        self._cut_if(is_cut)

    def create(self, path: Path, mode: int) -> int:
        is_cut = self._begin("create", path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        self._names[path] = _File()
        self._open[descriptor] = (path, self._names[path])
        self._cut_if(is_cut)
        return descriptor

    def set_aside(self, path: Path, size_bytes: int) -> None:
        is_cut = self._begin("set_aside", path)
        path.touch()
        self._names[path] = _File()
        self._cut_if(is_cut)

    def write(self, descriptor: int, content: bytes | memoryview) -> None:
        path, file = self._open[descriptor]
        is_cut = self._begin("write", path)
        os.write(descriptor, content)
        file.content += bytes(content)
        self._cut_if(is_cut)

    def sync(self, descriptor: int) -> None:
        path, file = self._open[descriptor]
        self._cut_if(self._begin("sync", path))  # cut before it took effect: nobody was told that it did
        file.durable = bytes(file.content)

    def close(self, descriptor: int) -> None:
        if self._open.pop(descriptor, None) is not None:  # after a cut all are closed already
            os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        is_cut = self._begin("rename", new)
        old.replace(new)
        self._names[new] = self._names.pop(old)
        self._cut_if(is_cut)

    def remove(self, path: Path) -> None:
        is_cut = self._begin("remove", path)
        path.unlink()
        del self._names[path]
        self._cut_if(is_cut)

    def sync_folder(self, path: Path) -> None:
        self._cut_if(self._begin("sync_folder", path))
        self._durable_names = {name: file for name, file in self._durable_names.items() if name.parent != path}
        self._durable_names |= {name: file for name, file in self._names.items() if name.parent == path}
        self._durable_folders |= {folder for folder in self._folders if folder.parent == path}

    def _cut_if(self, is_cut: bool) -> None:
        if is_cut:
            raise PowerCut

    # ---------------------------------------------------------------------------- after the cut

    def after_cut(self, choose: Choose = lose_all) -> None:
        """Make the folder what the disk holds when the power is back."""
        for descriptor in list(self._open):
            self.close(descriptor)
        names = self._surviving_names(choose)
        for path in sorted(self.root.rglob("*"), reverse=True):
            if path.is_dir():
                if path not in self._durable_folders:
                    path.rmdir()
            else:
                path.unlink()
        for path, file in names.items():
            path.write_bytes(_surviving_bytes(file, choose))

    def _surviving_names(self, choose: Choose) -> dict[Path, _File]:
        names = {}
        for path in sorted(self._names.keys() | self._durable_names.keys()):
            now, durable = self._names.get(path), self._durable_names.get(path)
            file = now if now is not durable and choose(1) else durable
            if file is not None and self._is_reachable(path):
                names[path] = file
        return names

    def _is_reachable(self, path: Path) -> bool:
        """A file whose folder was never durable is gone with it."""
        inside = [folder for folder in path.parents if folder.is_relative_to(self.root)]
        return all(folder in self._durable_folders for folder in inside)


def _surviving_bytes(file: _File, choose: Choose) -> bytes:
    """The durable bytes, and as many of those after them as were lucky."""
    if not bytes(file.content).startswith(file.durable):  # emptied and written anew: the old bytes are gone
        return bytes(file.content)
    unsynced = len(file.content) - len(file.durable)
    return bytes(file.content[: len(file.durable) + (choose(unsynced) if unsynced else 0)])
