"""The images of one batch: their stamps for the skip_key, and their refs where a row is to do.

Rule: a cell that is one plain URL is dealt with over the column; only the others become ``ImageRef`` objects to be
stamped (a local file is looked at, bytes are hashed).
"""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from batchvision.images import ImageFiles, stamp, with_size, without_parameters
from batchvision.manifest import NO_TEXT, JsonCells, cell_texts, image_refs, letters
from batchvision.records import ImageKind, ImageRef

_PLAIN_HOST = r"^https?://[a-z0-9.:-]+(/|$)"
_URL = "url:"
ONE = pa.scalar(1, pa.int32())
_COLON, _URL_FRAME = pa.scalar(":", pa.string()), pa.scalar(f":{_URL}", pa.string())


def are_plain(urls: pa.Array) -> bool:
    """Whether all are URLs that are their own identity, or null: lower-case host, no user name, query or fragment,
    nothing a URL cannot hold."""
    written = letters(urls)
    if written.min(initial=0xFF) <= ord(" ") or (written == ord("?")).any() or (written == ord("#")).any():
        return False
    if pc.any(pc.greater(pc.count_substring(urls, "://"), ONE)).as_py():  # one URL in another, or several in a cell
        return False
    return pc.all(pc.match_substring_regex(urls, _PLAIN_HOST)).as_py() is not False


def _with_name(name: str, stamps: pa.Array) -> pa.Array:
    """The column's name before its stamps; nothing where it has none."""
    named = pc.binary_join_element_wise(pa.scalar(frame(name), pa.string()), stamps, NO_TEXT)
    return pc.replace_with_mask(named, pc.equal(stamps, NO_TEXT), NO_TEXT)


class ImageColumns(NamedTuple):
    """How a job reads images out of a batch."""

    names: tuple[str, ...]
    separator: str | None
    version: str | None
    files: ImageFiles
    identity_mode: str
    #: the prompt places images by column: which one an image is in decides what is asked
    are_placed_by_name: bool = False
    #: parameters of URLs that do not change the image
    ignored_parameters: frozenset[str] = frozenset()


class BatchImages:
    """All images of a batch, row by row."""

    def __init__(self, batch: pa.RecordBatch, columns: ImageColumns) -> None:
        self._batch = batch
        self._columns = columns
        self._plain = [self._plain_urls(name) for name in columns.names]
        self._refs = self._refs_of_others()

    @property
    def are_all_plain(self) -> bool:
        """Whether all are plain URLs: the stamp of such a one is its identity, and there is no more to know of it."""
        return None not in self._plain

    def plain_counts(self, chosen: pa.Array) -> list[int]:
        """How many plain URLs each of some rows has."""
        counts = np.zeros(len(chosen), dtype=np.int64)
        for urls in self._plain:
            if urls is not None:
                counts += urls.take(chosen).is_valid().to_numpy(zero_copy_only=False)
        return list(counts.tolist())

    def _plain_urls(self, name: str) -> pa.Array | None:
        """The column where every cell is a plain URL or null; None where it has to be taken apart."""
        field, array = self._batch.schema.field(name), self._batch.column(name)
        if types.is_null(field.type):
            return array.cast(pa.string())
        if not types.is_string(field.type) or self._columns.version or JsonCells.of(field) is JsonCells.ANY:
            return None
        if not are_plain(array):
            return None
        separator = self._columns.separator
        if separator and pc.any(pc.match_substring(array, separator)).as_py():
            return None
        return array

    def _refs_of_others(self) -> list[list[tuple[ImageRef, ...]] | None]:
        versions = self._versions() if None in self._plain else ()
        return [
            self._known(
                image_refs(self._batch.column(name), self._batch.schema.field(name), self._columns.separator, versions)
            )
            if plain is None
            else None
            for name, plain in zip(self._columns.names, self._plain, strict=True)
        ]

    def _known(self, rows: list[tuple[ImageRef, ...]]) -> list[tuple[ImageRef, ...]]:
        """URLs are known without the parameters that do not change the image."""
        ignored = self._columns.ignored_parameters
        if not ignored:
            return rows
        return [
            tuple(
                ref._replace(known_by=without_parameters(ref.reference, ignored)) if ref.kind is ImageKind.URL else ref
                for ref in row
            )
            for row in rows
        ]

    def _versions(self) -> list[str | None]:
        name = self._columns.version
        if name is None:
            return []
        return list(cell_texts(self._batch.column(name), self._batch.schema.field(name)).to_pylist())

    def stamps(self) -> pa.Array:
        """Of each row the stamps of all its images, framed and joined: "" where it has no image."""
        framed = [
            _framed_urls(plain) if plain is not None else self._stamped(refs or [])
            for plain, refs in zip(self._plain, self._refs, strict=True)
        ]
        if not framed:
            return pa.repeat(NO_TEXT, self._batch.num_rows)
        if self._columns.are_placed_by_name:
            framed = [_with_name(name, stamps) for name, stamps in zip(self._columns.names, framed, strict=True)]
        if len(framed) == 1:
            return pc.fill_null(framed[0], NO_TEXT)
        return pc.binary_join_element_wise(*framed, NO_TEXT, null_handling="replace", null_replacement="")

    def _stamped(self, refs: list[tuple[ImageRef, ...]]) -> pa.Array:
        files, mode = self._columns.files, self._columns.identity_mode
        return pa.array(["".join([frame(stamp(ref, files, mode)) for ref in row]) for row in refs], pa.string())

    def of_rows(self, places: list[int]) -> list[tuple[ImageRef, ...]]:
        """The refs of some rows, each in the order of the columns."""
        columns = [
            [self._with_sizes(refs[place]) for place in places] if refs is not None else _url_refs(plain, name, places)
            for name, plain, refs in zip(self._columns.names, self._plain, self._refs, strict=True)
        ]
        if len(columns) == 1:
            return columns[0]
        return (
            [tuple(chain.from_iterable(row)) for row in zip(*columns, strict=True)] if columns else [()] * len(places)
        )

    def _with_sizes(self, refs: tuple[ImageRef, ...]) -> tuple[ImageRef, ...]:
        """Looked up here, in the feed's thread: a disk may keep it waiting."""
        return tuple([with_size(ref, self._columns.files) for ref in refs])

    def places_with_nul(self) -> list[int]:
        """The rows of which an image's name holds a NUL (a plain URL cannot)."""
        return [
            place
            for refs in self._refs
            for place, row in enumerate(refs or ())
            if any("\x00" in ref.reference or "\x00" in (ref.version or "") for ref in row)
        ]


def _url_refs(urls: pa.Array, slot: str, places: list[int]) -> list[tuple[ImageRef, ...]]:
    chosen = urls.take(pa.array(places, pa.int64())).to_pylist()
    return [() if url is None else (ImageRef(ImageKind.URL, url, slot),) for url in chosen]


def _framed_urls(urls: pa.Array) -> pa.Array:
    """What ``images.stamp`` says of plain URLs, framed (a test holds the two together)."""
    lengths = pc.add(pc.binary_length(urls), pa.scalar(len(_URL), pa.int32()))
    return pc.binary_join_element_wise(lengths.cast(pa.string()), _URL_FRAME, urls, NO_TEXT)


def framed_texts(texts: pa.Array) -> pa.Array:
    """Each text with its length in bytes before it, as ``keys`` frames the parts of a hash; null stays null."""
    return pc.binary_join_element_wise(pc.cast(pc.binary_length(texts), pa.string()), _COLON, texts, NO_TEXT)


def frame(text: str) -> str:
    """:func:`framed_texts` of one text."""
    return f"{len(text.encode())}:{text}"
