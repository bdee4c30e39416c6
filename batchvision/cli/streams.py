"""The standard streams of a command, made safe against a reader that has gone.

Rule: progress and logs never end the work. After the first failed write to stderr the rest of its text is dropped.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from batchvision.cli.exits import silence_stdout
from batchvision.cli.output import say


class DroppingWriter(io.RawIOBase):
    """Writes to a file descriptor until a write fails (dead pipe, full disk, closed terminal), and drops the rest."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.is_dropping = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, text: Any, /) -> int:
        """Write bytes. All of them count as written, also those that were dropped."""
        left = memoryview(text)
        while left and not self.is_dropping:
            try:
                left = left[os.write(self._descriptor, left) :]
            except OSError:
                self.is_dropping = True
        return len(text)


def prepare_streams() -> None:
    """Open what the caller has closed, and let stderr drop what it cannot write.

    A closed descriptor 0, 1 or 2 is opened on the null device. Otherwise the next file would get its number, and a
    library that prints to it would write into the journal.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number is this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
    if sys.stderr is None or _is_the_processs_own(sys.stderr):
        writer = io.BufferedWriter(DroppingWriter(2))
        encoding = "utf-8" if sys.stderr is None else sys.stderr.encoding
        sys.stderr = io.TextIOWrapper(writer, encoding=encoding, errors="backslashreplace", line_buffering=True)


def _is_the_processs_own(stream: object) -> bool:
    """Whether it is the stderr that Python opened, and not one that a caller has put in its place."""
    return stream is sys.__stderr__


@contextmanager
def stdout_may_fail(place: object) -> Iterator[None]:
    """Print what stands in ``place`` too. Where stdout takes it no more, say so; the exit code stays the work's."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        silence_stdout()
        say(f"warning: stdout cannot be written ({error.strerror}); the summary is in {place}")
