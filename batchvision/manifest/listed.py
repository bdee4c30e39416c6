"""A folder of images as a manifest: its images are listed anew at each run. New images are new rows.

``id`` is the path below the folder, with its suffix, so that images that come or go change no other id. ``image`` is
the same path, or a URL in an object store.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from batchvision.errors import JobInvalid
from batchvision.images import sniff
from batchvision.manifest.columns import reject_missing
from batchvision.manifest.inputs import InputIdentity, unreadable
from batchvision.object_store import ObjectUnreachable, list_objects

COLUMNS = ("id", "image")
#: Objects are recognised by name, because their content is far away.
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".avif", ".tif", ".tiff", ".bmp", ".heic", ".heif")
_HEAD_BYTES = 256
_BATCH_ROWS = 8_192
#: The folder that every output holds (see ``checkpoint.lock``).
_OUTPUT_MARK = ".batchvision"


@dataclass(frozen=True, slots=True)
class Listing:
    """The input of a listed manifest: it has no bytes of its own. An image's reference is ``prefix`` and its id."""

    name: str
    ids: pa.Array
    prefix: str

    def open(self) -> BinaryIO:
        raise JobInvalid(f"{self.name} is a folder of images: it is listed, not opened.")

    def identity(self) -> InputIdentity:
        """Images that come while a run reads its list are rows of the next run."""
        digest = blake2b(digest_size=7)
        for buffer in self.ids.buffers():
            digest.update(buffer or b"")
        return InputIdentity(len(self.ids), int.from_bytes(digest.digest()))


class ListedManifest:
    """The images of one listing, in the order of their ids."""

    byte_columns: frozenset[str] = frozenset()

    def __init__(self, listing: Listing, needed: Mapping[str, str]) -> None:
        """``needed``: column -> the job key that names it. Raises JobInvalid where one is missing."""
        self.columns = COLUMNS
        self.inputs = (listing,)
        self._listing = listing
        reject_missing(needed, COLUMNS, listing.name)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        prefix = pa.scalar(self._listing.prefix, pa.string())
        for start in range(0, max(1, len(self._listing.ids)), _BATCH_ROWS):
            ids = self._listing.ids.slice(start, _BATCH_ROWS)
            found = {"id": ids, "image": pc.binary_join_element_wise(prefix, ids, "")}
            yield pa.RecordBatch.from_arrays([found[name] for name in columns], names=list(columns))


def listed_folder(folder: Path, without: Path | None = None) -> Listing:
    """The images below a local folder, recognised by content.

    Hidden files, outputs of runs and the folder ``without`` are left out. Links to folders are not followed. Raises
    JobInvalid.
    """
    excluded = None if without is None else without.resolve()
    try:
        paths = sorted(path.relative_to(folder).as_posix() for path in _images(folder, excluded))
    except OSError as error:
        raise unreadable(error.filename or folder, error) from error
    for path in paths:
        if not path.isprintable() or "\ufffd" in path or path != os.fsencode(path).decode("utf-8", "replace"):
            raise JobInvalid(f"the file name {path!r} has characters that a table cannot hold: rename it.")
    return Listing(folder.name, pa.array(paths, pa.string()), "./")


def _images(folder: Path, excluded: Path | None) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if not path.is_symlink() and path.resolve() != excluded and not (path / _OUTPUT_MARK).is_dir():
                yield from _images(path, excluded)
        elif path.is_file() and _is_image(path):
            yield path


def _is_image(path: Path) -> bool:
    with path.open("rb") as file:
        return sniff(file.read(_HEAD_BYTES)) is not None


def listed_prefix(url: str) -> Listing:
    """The images below a URL that ends in a slash, recognised by their suffixes. Raises JobInvalid."""
    try:
        start = len(url.partition("://")[2].partition("/")[2])
        keys = sorted(each.key for each in list_objects(url) if each.key.lower().endswith(SUFFIXES))
    except ObjectUnreachable as fault:
        raise JobInvalid(f"{url} cannot be listed: the store refused or did not answer ({fault}).") from fault
    return Listing(url, pa.array([key[start:] for key in keys], pa.string()), url)
