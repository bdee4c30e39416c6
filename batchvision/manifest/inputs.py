"""A manifest and the files that it consists of, as inputs that are opened, read and recognised again.

Rule: the readers of this package take a ``ManifestInput`` and never a path. An object store is another implementation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import pyarrow as pa

from batchvision.errors import JobInvalid


class InputIdentity(NamedTuple):
    """While both are equal, the content counts as unchanged."""

    size: int
    modified_ns: int


class ManifestInput(Protocol):
    """One file of a manifest."""

    @property
    def name(self) -> str:
        """The name in messages. Its suffix decides the format."""

    def open(self) -> BinaryIO:
        """The content from its start, seekable. It has a file descriptor, which Parquet needs. Raises JobInvalid."""

    def identity(self) -> InputIdentity:
        """Raises JobInvalid where the input has gone."""


@dataclass(frozen=True, slots=True)
class LocalInput:
    """A regular file of this machine."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except FileNotFoundError as error:
            raise JobInvalid(
                f"{self.path} does not exist: correct [manifest] path, or pass --manifest FILE."
            ) from error
        except OSError as error:
            raise unreadable(self.path, error) from error

    def identity(self) -> InputIdentity:
        try:
            stat = self.path.stat()
        except OSError as error:
            raise JobInvalid(f"{self.path} cannot be read any more: {error.strerror}.") from error
        return InputIdentity(stat.st_size, stat.st_mtime_ns)


class Manifest(Protocol):
    """A table that can be read any number of times."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its columns (of JSONL: those of the first line)."""

    @property
    def inputs(self) -> tuple[ManifestInput, ...]:
        """The files that it consists of."""

    @property
    def byte_columns(self) -> frozenset[str]:
        """The columns that hold bytes. They are large: read them only where they are needed."""

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """``columns`` of every row in order, in batches of bounded size. Raises JobInvalid at damage."""


def unreadable(name: Path | str, error: OSError) -> JobInvalid:
    """The sentence for a file or folder that cannot be read."""
    return JobInvalid(f"{name} cannot be read: {error.strerror or error}.")
