"""A disk that ends its process: for runs that are killed without a process of their own."""

from __future__ import annotations

from pathlib import Path

from simulated_run import UnsyncedDisk


class Killed(BaseException):
    """The process ends here."""


class KilledDisk(UnsyncedDisk):
    """Ends the process before its ``at``-th change or sync, or before it begins a part of ``table``.

    Half of a write is written. Nothing changes afterwards.
    """

    def __init__(self, at: int | None = None, table: str = "") -> None:
        self.left = at
        self.table = table
        self.is_killed = False

    def _step(self) -> None:
        if self.left == 0:
            self.is_killed = True
        if self.is_killed:
            raise Killed
        if self.left is not None:
            self.left -= 1

    def write(self, descriptor: int, content: bytes | memoryview) -> None:
        if self.left == 0 and not self.is_killed:
            super().write(descriptor, memoryview(content)[: len(content) // 2])
        self._step()
        super().write(descriptor, content)

    def sync(self, descriptor: int) -> None:
        self._step()

    def make_folder(self, path: Path) -> None:
        self._step()
        super().make_folder(path)

    def create(self, path: Path, mode: int) -> int:
        if self.table and self.table in path.parts:
            self.left = 0
        self._step()
        return super().create(path, mode)

    def rename(self, old: Path, new: Path) -> None:
        self._step()
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        self._step()
        super().remove(path)
