"""row_ids, prompts and keys of a whole batch at once: Arrow joins strings, and one loop hashes them.

Rule: the values are those that ``keys`` gives row by row. Tests compare the two, and golden vectors pin both.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from itertools import groupby, islice, repeat
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from batchvision import keys
from batchvision.images import ImageFolder, stamp
from batchvision.manifest import NO_TEXT, cell_texts
from batchvision.prompt import ColumnField, joined
from batchvision.records import ImageSlot, Prompt, Row
from batchvision.runner.feed.batch_images import BatchImages, ImageColumns, frame, framed_texts
from batchvision.secrets import Secrets

if TYPE_CHECKING:
    from batchvision.job import Job


_BAR, _DASH = pa.scalar("|", pa.string()), pa.scalar("-", pa.string())


def _texts_of(batch: pa.RecordBatch, name: str) -> pa.Array:
    return cell_texts(batch.column(name), batch.schema.field(name))


# ---------------------------------------------------------------------------------- row_ids


def row_ids(batch: pa.RecordBatch, job: Job, secrets: Secrets) -> pa.Array:
    """The id of each row as exact text; null where one of its cells is null or empty.

    Several columns are joined by ``|``. Inside a cell, ``|`` and ``\\`` are escaped by ``\\``. Without id columns the
    id is a hash of the image refs and of the cells that the prompt reads: 16 hex digits. Equal rows have equal ids.
    """
    if not job.id_columns:
        return _content_ids(batch, job)
    texts = [_texts_of(batch, name) for name in job.id_columns]
    if len(texts) > 1:
        texts = [
            pc.replace_substring(pc.replace_substring(_empty_as_null(text), "\\", "\\\\"), "|", "\\|") for text in texts
        ]
        return _masked(pc.binary_join_element_wise(*texts, _BAR, null_handling="emit_null"), secrets)
    return _masked(_empty_as_null(texts[0]), secrets)


def _masked(ids: pa.Array, secrets: Secrets) -> pa.Array:
    """The ids in their stored form. They are compared in it, so a signed URL is recognised under a new signature."""
    written = ids.buffers()[2]
    if written is None or secrets.mask_bytes(found := written.to_pybytes()) == found:
        return ids
    return pa.array([None if each is None else secrets.mask(each) for each in ids.to_pylist()], pa.string())


def _empty_as_null(texts: pa.Array) -> pa.Array:
    if not pc.any(pc.equal(texts, NO_TEXT)).as_py():
        return texts
    # pc.if_else of pyarrow 18 reads the wrong part of a sliced column
    return pa.array([text or None for text in texts.to_pylist()], pa.string())


def _content_ids(batch: pa.RecordBatch, job: Job) -> pa.Array:
    parts = [pa.scalar(frame("row-1"), pa.string())]
    parts += [pc.fill_null(framed_texts(_texts_of(batch, name)), _DASH) for name in job.prompt_columns]
    # by reference: the id stays when a file is touched or a URL gets a new signature
    by_reference = image_columns(job)._replace(version=None, identity_mode="ref")
    parts.append(BatchImages(batch, by_reference).stamps())
    joined = pc.binary_join_element_wise(*parts, NO_TEXT).cast(pa.binary())
    return pa.array([blake2b(whole, digest_size=8).hexdigest() for whole in joined.to_pylist()], pa.string())


def image_columns(job: Job) -> ImageColumns:
    """The job's settings for image columns."""
    manifest = job.manifest
    return ImageColumns(
        job.manifest.images,
        manifest.image_separator,
        manifest.image_version,
        ImageFolder(job.root),
        manifest.image_identity,
        are_placed_by_name=job.template is not None and any(job.template.slots),
        ignored_parameters=frozenset(manifest.ignore_url_parameters),
        object_root=job.object_root,
    )


# ---------------------------------------------------------------------------------- texts


class BatchPrompts(NamedTuple):
    """The rendered prompts of a batch.

    ``texts``: the hashed form, null where the prompt column is null. One text where the prompt reads no cell.
    ``parts``: texts by column, and the parts that each row shares. Absent where the text is the whole prompt.
    """

    texts: pa.Array | str
    parts: Sequence[pa.Array | str | ImageSlot] | None = None

    def of_rows(self, places: pa.Array) -> list[Prompt]:
        """The prompts of the rows at ``places``. A null text becomes ""."""
        parts = [self.texts] if self.parts is None else self.parts
        columns = [
            pc.fill_null(part.take(places), NO_TEXT).to_pylist() if isinstance(part, pa.Array) else repeat(part)
            for part in parts
        ]
        rows = islice(zip(*columns, strict=False), len(places))  # a constant part repeats without an end
        return list(rows) if self.parts is None else [joined(row) for row in rows]


def prompts_of(batch: pa.RecordBatch, job: Job) -> BatchPrompts:
    """The prompts of a batch. In a template a null cell is ""."""
    template = job.template
    if template is None:
        return BatchPrompts(_texts_of(batch, job.prompt_columns[0]))
    parts = [
        pc.fill_null(_texts_of(batch, part.name), NO_TEXT) if isinstance(part, ColumnField) else part
        for part in template.parts
    ]
    kept_parts = parts if template.slots else None
    if not template.columns:
        return BatchPrompts(keys.hashed_text(template.render({})), kept_parts)
    hashed = [keys.slot_text(part.name) if isinstance(part, ImageSlot) else part for part in parts]
    scalars = [pa.scalar(part, pa.string()) if isinstance(part, str) else part for part in hashed]
    return BatchPrompts(pc.binary_join_element_wise(*scalars, NO_TEXT), kept_parts)


# ---------------------------------------------------------------------------------- keys


def skip_digests(recipe_id: str, texts: pa.Array | str, stamps: pa.Array) -> bytes:
    """``keys.skip_key`` of each row, 16 bytes each. ``stamps``: framed and joined. A null text counts as ""."""
    return _digests("skip-1", recipe_id, texts, stamps)


def request_digests(recipe_id: str, texts: pa.Array | str, identities: pa.Array) -> bytes:
    """``keys.request_key_of`` of each row, in the form of :func:`skip_digests`."""
    return _digests("request-1", recipe_id, texts, identities)


def _digests(kind: str, recipe_id: str, texts: pa.Array | str, images: pa.Array) -> bytes:
    head = frame(kind) + frame(recipe_id)
    if isinstance(texts, str):
        return keys.digests_after((head + frame(texts)).encode(), images.cast(pa.binary()).to_pylist())
    wholes = pc.binary_join_element_wise(framed_texts(pc.fill_null(texts, NO_TEXT)), images, NO_TEXT)
    return keys.digests_after(head.encode(), wholes.cast(pa.binary()).to_pylist())


def skip_key_of(row: Row, job: Job, recipe_id: str) -> str:
    """The skip_key of one row under another recipe with the same prompt. Its images are stamped again."""
    parts: list[str] = []
    columns = image_columns(job)
    for slot, refs in groupby(row.images, key=lambda ref: ref.slot):
        if columns.are_placed_by_name:
            parts.append(slot)
        parts += [stamp(ref, columns.files, columns.identity_mode) for ref in refs]
    return keys.skip_key(recipe_id, keys.hashed_text(row.prompt), parts)
