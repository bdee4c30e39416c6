"""The local copy of an output in an object store, and which of its files are as they are in the store.

A segment of the journal is stored as numbered objects: ``journal-000007.log/000000001234`` holds its bytes from 1234
on. Each other file is one object under its own path. Locks, the reserve and incomplete files stay local.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from batchvision.checkpoint.disk import PRIVATE, PUBLIC, LocalDisk, make_folders, start_file
from batchvision.checkpoint.figures import FILE_NAME
from batchvision.checkpoint.journal import is_segment, segment_seq
from batchvision.checkpoint.lease import LEASE_NAME
from batchvision.checkpoint.lock import LOCK_NAME
from batchvision.checkpoint.object_lock import LOCK_KEY
from batchvision.checkpoint.objects import ListedObject, ObjectFolder, Version
from batchvision.checkpoint.open_log import OPEN_LOG_NAME, read_open_log
from batchvision.checkpoint.reserve import RESERVE_NAME
from batchvision.errors import CheckpointDamaged

#: Files that belong to the processes of one machine, beside ``*.lock``.
_LOCAL = frozenset({LOCK_NAME, LEASE_NAME, RESERVE_NAME, FILE_NAME})
_TOKENS, _RECORD, _READERS = "tokens.json", "objects.jsonl", "readers.lock"
_DOWNLOADS = 16  #: at once


class StoreListing(NamedTuple):
    """The objects of an output: whole files by key, and the objects of each segment in order."""

    files: dict[str, ListedObject]
    segments: dict[str, list[ListedObject]]

    @classmethod
    def of(cls, objects: ObjectFolder) -> StoreListing:
        """Raises StoreFault."""
        files, segments = dict[str, ListedObject](), dict[str, list[ListedObject]]()
        for each in sorted(objects.list()):
            folder = each.key.rpartition("/")[0]
            if is_segment(Path(folder)):
                segments.setdefault(folder, []).append(each)
            elif each.key != LOCK_KEY:
                files[each.key] = each
        return cls(files, segments)

    def goes_on_as(self, later: StoreListing) -> bool:
        """Whether segments have only grown meanwhile, and no other file has changed."""
        grown = {key: pieces[: len(self.segments.get(key, ()))] for key, pieces in later.segments.items()}
        return self.files == later.files and self.segments == {key: grown[key] for key in grown if grown[key]}

    @property
    def is_empty(self) -> bool:
        return not self.files and not self.segments


def segment_key(key: str, start: int) -> str:
    """The object that holds the bytes of a segment from ``start`` on."""
    return f"{key}/{start:012d}"


class LocalCopy:
    """The folder ``output``, and beside it the files that describe the copy."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self._known: dict[str, list[object]] = {}
        self._record_file: int | None = None
        self._disk = LocalDisk()

    def key(self, path: Path) -> str:
        return path.relative_to(self.output).as_posix()

    def path(self, key: str) -> Path:
        return self.output / key

    def files(self) -> Iterator[Path]:
        """The files of the output that belong into the store."""
        for path in sorted(self.output.rglob("*")):
            if is_mirrored(path) and path.is_file():
                yield path

    # ---------------------------------------------------------------------------- whose copy

    @property
    def tokens(self) -> list[str]:
        """Tokens of the lock under which the store held nothing that this copy lacks."""
        with suppress(FileNotFoundError, ValueError):
            return list(json.loads((self.output.parent / _TOKENS).read_bytes()))
        return []

    def set_tokens(self, *tokens: str) -> None:
        """Durable when it returns. Raises OSError."""
        self._disk.put(self.output.parent / _TOKENS, json.dumps(tokens).encode())

    # ---------------------------------------------------------------------------- which files are the store's

    def open_record(self) -> None:
        """Read which version of each object the copy holds, and note the later ones."""
        with suppress(FileNotFoundError):
            for line in (self.output.parent / _RECORD).read_bytes().splitlines():
                with suppress(ValueError, KeyError, TypeError):  # a torn line
                    key, *stood = json.loads(line)
                    self._known[key] = stood
        kept = b"".join(json.dumps([key, *stood]).encode() + b"\n" for key, stood in self._known.items())
        self._disk.put(self.output.parent / _RECORD, kept)
        self._record_file = os.open(self.output.parent / _RECORD, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def note(self, key: str, version: Version) -> None:
        """The file holds this version of its object. A note that a crash loses costs one more transfer."""
        found = self.path(key).stat()
        self._known[key] = [*version, found.st_size, found.st_mtime_ns]
        if self._record_file is not None:
            os.write(self._record_file, json.dumps([key, *self._known[key]]).encode() + b"\n")

    def holds(self, each: ListedObject) -> bool:
        """Whether the file is as the object is."""
        try:
            found = self.path(each.key).stat()
        except FileNotFoundError:
            return False
        return self._known.get(each.key) == [*each.version, found.st_size, found.st_mtime_ns]

    def close(self) -> None:
        if self._record_file is not None:
            os.close(self._record_file)
            self._record_file = None

    # ---------------------------------------------------------------------------- fetching

    def follow(self, objects: ObjectFolder) -> None:
        """Fetch the output as it stood at one moment. A run may write meanwhile.

        Raises OSError, StoreFault, CheckpointDamaged.
        """
        make_folders(self._disk, self.output)
        descriptor = os.open(self.output.parent / _READERS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PUBLIC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self.open_record()
            before = StoreListing.of(objects)
            while True:
                is_whole = self.fetch(objects, before)
                after = StoreListing.of(objects)
                if is_whole and before.goes_on_as(after):
                    return
                before = after
        finally:
            self.close()
            os.close(descriptor)

    def fetch(self, objects: ObjectFolder, listing: StoreListing) -> bool:
        """Fetch the files that differ, and remove those that the store lacks. False: an object has gone meanwhile.

        Raises OSError, StoreFault, CheckpointDamaged.
        """
        for path in self.files():
            key = self.key(path)
            if key not in listing.files and key not in listing.segments:
                self._disk.remove(path)
        missing = [each for each in listing.files.values() if not self.holds(each)]
        with ThreadPoolExecutor(_DOWNLOADS, "batchvision-fetch") as pool:
            files = list(pool.map(partial(self._fetch_file, objects), missing))
            segments = [each for each in listing.segments.items() if not self._is_sealed(each[0])]
            return all(files) and all(pool.map(lambda each: self._fetch_segment(objects, *each), segments))

    def _is_sealed(self, key: str) -> bool:
        """Whether ``open.log`` no longer needs a segment. The removal of its objects may not be complete."""
        path = self.path(key)
        return segment_seq(path) <= read_open_log(path.parent).sealed

    def _fetch_file(self, objects: ObjectFolder, each: ListedObject) -> bool:
        found = objects.get(each.key)
        if found is None:
            return False
        self._store(self.path(each.key), found.content)
        self.note(each.key, found.version)
        return True

    def _fetch_segment(self, objects: ObjectFolder, key: str, pieces: list[ListedObject]) -> bool:
        content = bytearray()
        for piece in pieces:
            if piece.key != segment_key(key, len(content)):
                raise CheckpointDamaged(
                    f"{objects.url}/{key} lacks its bytes from {len(content)} on",
                    next_step="restore the objects from the bucket's versions or a copy, then run again",
                )
            found = objects.get(piece.key)
            if found is None:
                return False
            content += found.content
        self._store(self.path(key), bytes(content))
        return True

    def _store(self, path: Path, content: bytes) -> None:
        mode = PRIVATE if is_segment(path) or path.name == OPEN_LOG_NAME else PUBLIC
        make_folders(self._disk, path.parent)
        self._disk.close(start_file(self._disk, path, (content,), mode))


def is_mirrored(path: Path) -> bool:
    """Whether a file of an output belongs into the store."""
    return path.name not in _LOCAL and path.suffix != ".lock" and not path.name.startswith(".")
