"""A disk that records every operation, and the possible states of a real disk after a cut.

The bytes of a file are durable up to its last sync, a name after a sync of its folder. Later bytes may be there in
part and in any order: lost, cut, zero-filled, or with sectors missing. Each name may be old or new. No code of the
product decides this.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from batchvision.checkpoint.disk import LocalDisk

SECTOR_BYTES = 512


class Operation(NamedTuple):
    """One call. ``file`` is the number of the created file; -1: no file."""

    name: str
    path: Path
    file: int = -1
    content: bytes = b""


class RecordedDisk(LocalDisk):
    """The disk of this machine, with a record."""

    def __init__(self, root: Path, forgets: str | None = None) -> None:
        self.root = root
        self.operations: list[Operation] = []
        self._forgets = forgets  #: ``sync`` or ``sync_folder``: reported as done, but not done
        self._open: dict[int, tuple[Path, int]] = {}
        self._files: dict[Path, int] = {}
        self._created = 0

    @property
    def places(self) -> int:
        """Where it can be cut: before each operation, and after the last."""
        return len(self.operations)

    def _note(self, name: str, path: Path, file: int = -1, content: bytes = b"") -> None:
        if name != self._forgets:
            self.operations.append(Operation(name, path.relative_to(self.root), file, content))

    def make_folder(self, path: Path) -> None:
        self._note("make_folder", path)
        super().make_folder(path)

    def set_aside(self, path: Path, size_bytes: int) -> None:
        """The room itself does not matter here; that a file appears does."""
        self.close(self.create(path, 0o600))

    def create(self, path: Path, mode: int) -> int:
        self._note("create", path, self._created)
        descriptor = super().create(path, mode)
        self._open[descriptor] = (path, self._created)
        self._files[path] = self._created
        self._created += 1
        return descriptor

    def write(self, descriptor: int, content: bytes | memoryview) -> None:
        self._note("write", *self._open[descriptor], bytes(content))
        super().write(descriptor, content)

    def sync(self, descriptor: int) -> None:
        self._note("sync", *self._open[descriptor])

    def close(self, descriptor: int) -> None:
        del self._open[descriptor]
        super().close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        self._files[new] = self._files.pop(old, -1)
        self._note("rename", new, self._files[new], str(old.relative_to(self.root)).encode())
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        self._note("remove", path, self._files.pop(path, -1))
        super().remove(path)

    def sync_folder(self, path: Path) -> None:
        self._note("sync_folder", path)


# ---------------------------------------------------------------------------------- states after a cut


@dataclass(slots=True)
class _File:
    content: bytearray = field(default_factory=bytearray)
    durable_bytes: int = 0


@dataclass
class Remains:
    """The durable and the unsynced operations at a power cut."""

    files: dict[int, _File] = field(default_factory=dict)
    names: dict[Path, int] = field(default_factory=dict)
    durable_names: dict[Path, int] = field(default_factory=dict)
    folders: set[Path] = field(default_factory=lambda: {Path()})
    durable_folders: set[Path] = field(default_factory=lambda: {Path()})

    @classmethod
    def of(cls, root: Path) -> Remains:
        """A folder with all its contents durable."""
        remains = cls()
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root)
            if path.is_dir():
                remains.folders.add(name)
            else:
                content = bytearray(path.read_bytes())
                number = -2 - len(remains.files)  # the record counts its own files from 0
                remains.files[number] = _File(content, len(content))
                remains.names[name] = number
        remains.durable_names, remains.durable_folders = dict(remains.names), set(remains.folders)
        return remains

    def apply(self, operation: Operation) -> None:
        name, path, file, content = operation
        match name:
            case "make_folder":
                self.folders.add(path)
            case "create":
                self.files[file] = _File()
                self.names[path] = file
            case "write":
                self.files[file].content += content
            case "sync":
                self.files[file].durable_bytes = len(self.files[file].content)
            case "rename":
                self.names[path] = self.names.pop(Path(content.decode()))
            case "remove":
                self.names.pop(path)
            case "sync_folder":
                self._sync_folder(path)

    def _sync_folder(self, path: Path) -> None:
        kept = {name: file for name, file in self.durable_names.items() if name.parent != path}
        self.durable_names = kept | {name: file for name, file in self.names.items() if name.parent == path}
        self.durable_folders |= {folder for folder in self.folders if folder.parent == path}

    def draw(self, luck: random.Random) -> Iterator[tuple[Path, bytes | None]]:
        """One possible state of the disk: folders (None) and files."""
        folders = {folder for folder in self.folders if folder in self.durable_folders or luck.random() < 0.5}
        reachable = {folder for folder in folders if all(parent in folders for parent in folder.parents)}
        yield from ((folder, None) for folder in sorted(reachable - {Path()}))
        temper = luck.choice((0.0, 0.5, 1.0))  # of this cut: nothing survives, half of it, everything
        for path in sorted(self.names.keys() | self.durable_names.keys()):
            now, durable = self.names.get(path), self.durable_names.get(path)
            file = now if now != durable and luck.random() < temper else durable
            if file is not None and path.parent in reachable:
                yield path, _surviving(self.files[file], temper, luck)


def _surviving(file: _File, temper: float, luck: random.Random) -> bytes:
    """The durable bytes and, of the bytes behind them: none, some, zeros, or single sectors."""
    content, durable = bytes(file.content), file.durable_bytes
    if temper == 0.0 or durable == len(content):
        return content[:durable]
    if temper == 1.0 and luck.random() < 0.5:
        return content
    kept = luck.randint(durable, len(content))
    match luck.randrange(4):
        case 0:
            return content[:kept]
        case 1:
            return content[:kept] + bytes(luck.randint(kept, len(content)) - kept)
        case 2:
            return content[:kept] + bytes(len(content) - kept)
    torn = bytearray(content)
    for start in range(durable - durable % SECTOR_BYTES, len(content), SECTOR_BYTES):
        if luck.random() < 0.5:
            end = min(start + SECTOR_BYTES, len(content))
            torn[max(start, durable) : end] = bytes(end - max(start, durable))
    return bytes(torn)


def lay_out(state: Iterator[tuple[Path, bytes | None]], root: Path) -> None:
    """Make ``root`` hold exactly this state."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for path, content in state:
        if content is None:
            (root / path).mkdir()
        else:
            descriptor = os.open(root / path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(descriptor, content)
            os.close(descriptor)
