"""The images of one batch: their stamps for the skip_keys, and their refs for the rows to do.

Rule: a column of plain URLs is stamped as a column. In each other column every cell becomes ``ImageRef`` objects, which
are stamped one by one: a local file is looked up, bytes are hashed.
"""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from batchvision.images import ImageFiles, below_object_root, stamp, with_size, without_parameters
from batchvision.manifest import NO_TEXT, JsonCells, cell_texts, image_refs, letters
from batchvision.records import ImageKind, ImageRef

_PLAIN_HOST = r"^https?://[a-z0-9.:-]+(/|$)"
_URL = "url:"
ONE = pa.scalar(1, pa.int32())
_COLON, _URL_FRAME = pa.scalar(":", pa.string()), pa.scalar(f":{_URL}", pa.string())


def are_plain(urls: pa.Array) -> bool:
    """Whether each cell is null or a URL that is its own identity.

    Such a URL has a lower-case host, no user name, query or fragment, and only characters that a URL may hold.
    """
    written = letters(urls)
    if written.min(initial=0xFF) <= ord(" ") or (written == ord("?")).any() or (written == ord("#")).any():
        return False
    if pc.any(pc.greater(pc.count_substring(urls, "://"), ONE)).as_py():  # a URL inside a URL, or several in a cell
        return False
    return pc.all(pc.match_substring_regex(urls, _PLAIN_HOST)).as_py() is not False


class ImageColumns(NamedTuple):
    """A job's settings for image columns."""

    names: tuple[str, ...]
    separator: str | None
    version: str | None
    files: ImageFiles
    identity_mode: str
    #: the prompt places images by column, so the column is part of the request
    are_placed_by_name: bool = False
    #: parameters of URLs that do not change the image
    ignored_parameters: frozenset[str] = frozenset()
    #: the object store prefix that relative references lie in
    object_root: str | None = None


class BatchImages:
    """All images of a batch, row by row."""

    def __init__(self, batch: pa.RecordBatch, columns: ImageColumns) -> None:
        self._batch = batch
        self._columns = columns
        self._plain = [self._plain_urls(name) for name in columns.names]
        self._refs = [
            None if plain is not None else self._parsed(name)
            for name, plain in zip(columns.names, self._plain, strict=True)
        ]

    @property
    def are_all_plain(self) -> bool:
        """Whether each image is a plain URL. The stamp of a plain URL is its identity."""
        return None not in self._plain

    def _plain_urls(self, name: str) -> pa.Array | None:
        """The column, if each of its cells is a plain URL or null; otherwise its cells have to be parsed."""
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

    def _parsed(self, name: str) -> list[tuple[ImageRef, ...]]:
        """The refs of each cell. A URL also has its form without the ignored parameters."""
        batch, version, ignored = self._batch, self._columns.version, self._columns.ignored_parameters
        texts = None if version is None else cell_texts(batch.column(version), batch.schema.field(version))
        versions = [] if texts is None else texts.to_pylist()
        rows = image_refs(batch.column(name), batch.schema.field(name), self._columns.separator, versions)
        root = self._columns.object_root
        if root is not None:
            rows = [tuple(below_object_root(ref, root) for ref in row) for row in rows]
        if not ignored:
            return rows
        return [
            tuple(
                ref._replace(known_by=without_parameters(ref.reference, ignored)) if ref.kind is ImageKind.URL else ref
                for ref in row
            )
            for row in rows
        ]

    def stamps(self) -> pa.Array:
        """For each row the stamps of its images, framed and joined; "" where it has no image."""
        files, mode = self._columns.files, self._columns.identity_mode
        framed: list[pa.Array] = []
        for name, plain, refs in zip(self._columns.names, self._plain, self._refs, strict=True):
            if plain is not None:
                stamps = _framed_urls(plain)
            else:
                texts = ["".join([frame(stamp(ref, files, mode)) for ref in row]) for row in refs or ()]
                stamps = pa.array(texts, pa.string())
            if self._columns.are_placed_by_name:  # the column's name comes first, except where it has no stamp
                named = pc.binary_join_element_wise(pa.scalar(frame(name), pa.string()), stamps, NO_TEXT)
                stamps = pc.replace_with_mask(named, pc.equal(stamps, NO_TEXT), NO_TEXT)
            framed.append(stamps)
        if not framed:
            return pa.repeat(NO_TEXT, self._batch.num_rows)
        if len(framed) == 1:
            return pc.fill_null(framed[0], NO_TEXT)
        return pc.binary_join_element_wise(*framed, NO_TEXT, null_handling="replace", null_replacement="")

    def of_rows(self, places: list[int]) -> list[tuple[ImageRef, ...]]:
        """The refs of the rows at ``places``, in the order of the columns."""
        files, columns = self._columns.files, list[list[tuple[ImageRef, ...]]]()
        for name, plain, refs in zip(self._columns.names, self._plain, self._refs, strict=True):
            if refs is not None:  # sizes are looked up in the feed's thread, because a disk may block
                columns.append([tuple([with_size(ref, files) for ref in refs[place]]) for place in places])
            elif plain is not None:
                urls = plain.take(pa.array(places, pa.int64())).to_pylist()
                columns.append([() if url is None else (ImageRef(ImageKind.URL, url, name),) for url in urls])
        if not columns:
            return [()] * len(places)
        if len(columns) == 1:
            return columns[0]
        return [tuple(chain.from_iterable(row)) for row in zip(*columns, strict=True)]

    def places_with_nul(self) -> list[int]:
        """The rows with a NUL in an image reference. Plain URLs are free of it."""
        return [
            place
            for refs in self._refs
            for place, row in enumerate(refs or ())
            if any("\x00" in ref.reference or "\x00" in (ref.version or "") for ref in row)
        ]


def _framed_urls(urls: pa.Array) -> pa.Array:
    """The framed ``images.stamp`` of plain URLs. A test compares the two."""
    lengths = pc.add(pc.binary_length(urls), pa.scalar(len(_URL), pa.int32()))
    return pc.binary_join_element_wise(lengths.cast(pa.string()), _URL_FRAME, urls, NO_TEXT)


def framed_texts(texts: pa.Array) -> pa.Array:
    """Each text after its length in bytes, the form in which ``keys`` hashes its parts. Null stays null."""
    return pc.binary_join_element_wise(pc.cast(pc.binary_length(texts), pa.string()), _COLON, texts, NO_TEXT)


def frame(text: str) -> str:
    """:func:`framed_texts` of one text."""
    return f"{len(text.encode())}:{text}"
