"""Make the standard streams safe against closed descriptors and readers.

A failed write of progress or logs never ends the work. After a failed write to stderr, later text is dropped.
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
    """Writes to a file descriptor until a write fails, and drops later text."""

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
        """Write bytes. Dropped bytes count as written."""
        left = memoryview(text)
        while left and not self.is_dropping:
            try:
                left = left[os.write(self._descriptor, left) :]
            except OSError:
                self.is_dropping = True
        return len(text)


def prepare_streams() -> None:
    """Open closed standard descriptors on the null device, and let stderr drop text that cannot be written.

    Otherwise the next opened file would get the number of a closed descriptor, and a library's output would go into it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
    if sys.stderr is None or _is_the_processs_own(sys.stderr):
        writer = io.BufferedWriter(DroppingWriter(2))
        encoding = "utf-8" if sys.stderr is None else sys.stderr.encoding
        sys.stderr = io.TextIOWrapper(writer, encoding=encoding, errors="backslashreplace", line_buffering=True)


def _is_the_processs_own(stream: object) -> bool:
    """Whether the stream is the stderr that Python opened."""
    return stream is sys.__stderr__


@contextmanager
def stdout_may_fail(place: object) -> Iterator[None]:
    """Print to stdout as a copy of ``place``. If stdout is closed, a warning is written and the exit code stays."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        silence_stdout()
        say(f"warning: stdout cannot be written ({error.strerror}); the summary is in {place}")
