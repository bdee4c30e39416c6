"""A manifest in an object store: fetched once into a private temporary file."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple

from batchvision.errors import JobInvalid
from batchvision.manifest.inputs import InputIdentity
from batchvision.manifest.parquet import PARQUET_SUFFIXES, Piece, partitions_of
from batchvision.object_store import ObjectMissing, ObjectUnreachable, fetch_object, list_objects


class _Copy(NamedTuple):
    """A local copy, and the object as it was then."""

    path: Path
    identity: InputIdentity


class ObjectInput:
    """One object at an ``s3://``, ``gs://`` or ``az://`` URL.

    All passes read one copy, which ends with this object. So a run goes on while the object is replaced.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    def open(self) -> BinaryIO:
        return self._copy.path.open("rb")

    def identity(self) -> InputIdentity:
        return self._copy.identity

    @cached_property
    def _copy(self) -> _Copy:
        folder = tempfile.mkdtemp(prefix="batchvision-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        path = Path(folder) / "manifest"
        with _faults(self.url), path.open("wb") as file:
            facts = fetch_object(self.url, file)
        return _Copy(path, InputIdentity(facts.size_bytes, int(facts.modified_at.timestamp() * 1_000_000_000)))


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
