"""Image cells -> image refs. The package ``images`` decides whether an image may be read.

A cell is a path, a ``file://`` or http(s) URL, a ``data:`` URI, bytes, ``struct<bytes, path>``, or a list of them.
Text may hold several images, as a JSON array or separated by ``manifest.image_separator``. Null and blank mean no
image.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import types

from batchvision.errors import JobInvalid
from batchvision.images import as_data_uri, kind_of, named_url, several_in
from batchvision.manifest.cells import JsonCells, python_values
from batchvision.records import ImageKind, ImageRef

_PATH_KEYS = ("path", "url")
_IMAGE_START = re.compile("data:|https?://", re.IGNORECASE)


def reject_no_images(field: pa.Field) -> None:
    """Raise JobInvalid where a normalised column's type cannot hold images."""
    if not _may_hold_images(field.type):
        raise JobInvalid(
            f"the image column {field.name!r} holds {field.type}: an image cell is text (path, URL, data URI), bytes, "
            "struct<bytes, path>, or a list of these. Correct [manifest] images."
        )


def _may_hold_images(given: pa.DataType) -> bool:
    if types.is_list(given):
        return _may_hold_images(given.value_type)
    if types.is_struct(given):
        return any(given.get_field_index(name) >= 0 for name in ("bytes", *_PATH_KEYS))
    return bool(types.is_string(given) or types.is_binary(given) or types.is_null(given))


def image_refs(
    array: pa.Array, field: pa.Field, separator: str | None = None, versions: Sequence[str | None] = ()
) -> list[tuple[ImageRef, ...]]:
    """The refs in each cell of a normalised column. ``versions``: one for the images of each row."""
    is_json = JsonCells.of(field) is JsonCells.ANY
    return [
        tuple(_refs(json.loads(value) if is_json and value is not None else value, field.name, separator, version))
        for value, version in zip(python_values(array), versions or [None] * len(array), strict=True)
    ]


def _refs(value: Any, slot: str, separator: str | None, version: str | None) -> Iterator[ImageRef]:
    """The refs in a cell, or in an element of one."""
    match value:
        case str():
            yield from _text_refs(value, slot, separator, version)
        case bytes():
            yield ImageRef(ImageKind.BYTES, "", slot, value, version)
        case list():
            for element in value:
                yield from _refs(element, slot, None, version)
        case dict():
            yield from _struct_refs(value, slot, version)


def _struct_refs(value: dict[str, Any], slot: str, version: str | None) -> Iterator[ImageRef]:
    named = (value[key] for key in _PATH_KEYS if isinstance(value.get(key), str))
    path = next(filter(str.strip, named), "")
    if isinstance(value.get("bytes"), bytes):
        yield ImageRef(ImageKind.BYTES, path, slot, value["bytes"], version)
    elif path:
        yield named_image(path, slot, version)


def _text_refs(text: str, slot: str, separator: str | None, version: str | None) -> Iterator[ImageRef]:
    if text.lstrip().startswith("[") and (listed := _json_list(text)) is not None:
        yield from _refs(listed, slot, None, version)
        return
    pieces: Iterable[str] = (text,)
    if separator and separator in text:
        is_data = as_data_uri(text.strip()) is not None and (separator in ",;" or separator.isspace())
        pieces = _data_uri_pieces(text, separator) if is_data else [piece.strip() for piece in text.split(separator)]
    for piece in pieces:
        if piece.strip():
            yield named_image(piece, slot, version)


def _json_list(text: str) -> list[Any] | None:
    """The images of a JSON array. Nothing for different text: a file may be called ``[1].jpg``."""
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(listed, list) or not all(each is None or isinstance(each, str | dict) for each in listed):
        return None
    return listed


def _data_uri_pieces(text: str, separator: str) -> Iterator[str]:
    """A data URI holds ``,`` and ``;`` and may be broken into lines: only the start of another image ends it."""
    start = searched = 0
    for found in _IMAGE_START.finditer(text):
        at = found.start()
        end = searched + len(text[searched:at].rstrip())  # linear: each blank is read once
        searched = found.end()
        if text.endswith(separator, start, end):
            yield text[start : end - len(separator)]
        elif separator in text[end:at]:
            yield text[start:end]
        else:
            continue
        start = at
    yield text[start:]


def named_image(text: str, slot: str, version: str | None = None) -> ImageRef:
    """The ref of one path, URL, data URI or bare base64. Several joined URLs are UNSUPPORTED.

    Spaces around a URL are dropped. Spaces around a path belong to the file's name.
    """
    bare = text.strip()
    kind = kind_of(bare)
    if kind is ImageKind.URL:
        if several_in(bare) > 1:
            return ImageRef(ImageKind.UNSUPPORTED, bare, slot, version=version)
        return ImageRef(kind, named_url(bare), slot, version=version)
    if kind is ImageKind.PATH and (uri := as_data_uri(bare)) is not None:
        return ImageRef(ImageKind.DATA, uri, slot, version=version)
    reference = text if kind is ImageKind.PATH and "://" not in bare else bare
    return ImageRef(kind, reference, slot, version=version)
