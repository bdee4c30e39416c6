"""A manifest in an object store: fetched once into a private temporary folder, which ends with the process."""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from batchvision.errors import JobInvalid
from batchvision.manifest.inputs import InputIdentity
from batchvision.manifest.parquet import PARQUET_SUFFIXES, Piece, partitions_of
from batchvision.object_store import (
    ObjectFacts,
    ObjectMissing,
    ObjectUnreachable,
    list_objects,
    object_chunks,
    object_facts,
)


@dataclass(frozen=True, slots=True)
class ObjectInput:
    """One object at an ``s3://``, ``gs://`` or ``az://`` URL."""

    url: str

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    def open(self) -> BinaryIO:
        with _faults(self.url):
            return _COPIES.open(self.url)

    def identity(self) -> InputIdentity:
        with _faults(self.url):
            return _identity(object_facts(self.url))


def _identity(facts: ObjectFacts) -> InputIdentity:
    return InputIdentity(facts.size_bytes, int(facts.modified_at.timestamp() * 1_000_000_000))


class _Copies:
    """Local copies by URL. A copy of an object that has changed is fetched again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folder: Path | None = None
        self._copies: dict[str, tuple[InputIdentity, Path]] = {}

    def open(self, url: str) -> BinaryIO:
        with self._lock:
            found = _identity(object_facts(url))
            known = self._copies.get(url)
            if known is None or known[0] != found:
                self._copies[url] = known = (found, self._fetched(url))
            return known[1].open("rb")

    def _fetched(self, url: str) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="batchvision-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        path = self._folder / f"{len(self._copies)}-{url.rpartition('/')[2][-80:]}"
        with path.open("wb") as file:
            file.writelines(object_chunks(url))
        return path


_COPIES = _Copies()


@contextmanager
def _faults(url: str) -> Iterator[None]:
    try:
        yield
    except ObjectMissing:
        raise JobInvalid(f"{url} does not exist: correct [manifest] path, or pass --manifest.") from None
    except ObjectUnreachable as fault:
        raise JobInvalid(f"{url} cannot be read: the store refused or did not answer ({fault}).") from fault
    except OSError as fault:
        raise JobInvalid(f"{url} cannot be copied to this machine: {fault.strerror or fault}.") from fault


def object_pieces(url: str) -> list[Piece]:
    """The Parquet objects below a URL that ends in a slash, in the order of their keys. Hidden ones are left out."""
    start = len(url.partition("://")[2].partition("/")[2])
    with _faults(url):
        keys = sorted(each.key[start:] for each in list_objects(url) if each.key.lower().endswith(PARQUET_SUFFIXES))
    parts = [key.split("/") for key in keys]
    return [
        Piece(ObjectInput(url + key), partitions_of(folders[:-1]))
        for key, folders in zip(keys, parts, strict=True)
        if not any(part.startswith((".", "_")) for part in folders)
    ]
