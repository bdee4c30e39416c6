"""The first pass over the manifest, before anything is sent: find damage, count rows, find repeated ids.

Rule: it reads each row once and no image. It holds eight bytes a row.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import types

from batchvision.errors import JobInvalid, ManifestChanged
from batchvision.manifest import (
    InputIdentity,
    Manifest,
    ManifestInput,
    needed_columns,
    open_manifest,
    reject_no_images,
    survey_types,
)
from batchvision.runner.feed.keying import row_ids
from batchvision.runner.feed.selection import Selection
from batchvision.secrets import Secrets

if TYPE_CHECKING:
    from batchvision.job import Job


#: A larger row holds images as text.
LARGE_ROW_BYTES = 32 * 1024


class SurveyedInput(NamedTuple):
    """A file of the manifest, as it was when it was surveyed."""

    source: ManifestInput
    identity: InputIdentity


@dataclass(frozen=True, slots=True)
class Survey:
    """The facts about a manifest before the first request.

    ``manifest``: as it was opened, for later passes. ``rows``: the rows of this run's shard. ``repeated``: hashes of
    ids that very probably come more than once, by Python's ``hash``, which differs between processes. ``keep_types``:
    output name and Arrow type of each kept column. ``only_nulls``: the kept columns without any cell, and so without a
    known type.
    """

    manifest: Manifest
    rows: int
    rows_in_manifest: int
    repeated: frozenset[int]
    keep_types: tuple[tuple[str, pa.DataType], ...]
    inputs: tuple[SurveyedInput, ...]
    only_nulls: frozenset[str] = frozenset()
    holds_images: bool = False  #: rows hold whole images, so few rows are read ahead
    secrets: Secrets = field(default_factory=Secrets)  #: masked in row ids

    @property
    def typed_keep(self) -> tuple[tuple[str, pa.DataType], ...]:
        """The kept columns of a known type."""
        return tuple((name, arrow) for name, arrow in self.keep_types if name not in self.only_nulls)

    def reject_changed(self, inputs: Iterable[SurveyedInput] | None = None) -> None:
        """Raise ManifestChanged where one of ``inputs`` (default: all) has changed since the survey."""
        for source, identity in self.inputs if inputs is None else inputs:
            try:
                is_same = source.identity() == identity
            except JobInvalid as error:
                raise ManifestChanged(error.problems) from error
            if not is_same:
                raise ManifestChanged(
                    f"{source.name} was changed while it was read: it is no longer what the run began with. "
                    "Answered rows stay answered; run again when it is finished."
                )


def survey(
    job: Job, selection: Selection | None = None, manifest: Manifest | None = None, secrets: Secrets | None = None
) -> Survey:
    """Stream all of the job's manifest once; ``secrets`` are masked in row ids. Raises JobInvalid naming the damage."""
    secrets = secrets or Secrets()
    selection = selection or Selection()
    manifest = manifest or open_manifest(job)
    inputs = tuple(SurveyedInput(source, source.identity()) for source in manifest.inputs)
    known: dict[str, pa.DataType | None] = {}
    hashes, rows, position, row_bytes = array("q"), 0, 0, 0
    for batch in manifest.batches(_surveyed_columns(job, manifest)):
        _check_types(batch.schema, job)
        survey_types((batch.schema.field(name) for name in {column.source for column in job.keep_columns}), known)
        ids = row_ids(batch, job, secrets)
        rows += len(own_places(ids, selection, position)) if selection.shards > 1 else batch.num_rows
        position += batch.num_rows
        row_bytes = max(row_bytes, batch.nbytes // max(1, batch.num_rows))
        hashes.extend(map(hash, ids.drop_null().to_pylist()))
    keep_types = tuple((column.name, known.get(column.source) or pa.string()) for column in job.keep_columns)
    only_nulls = frozenset(column.name for column in job.keep_columns if known.get(column.source) is None)
    holds_images = not manifest.byte_columns.isdisjoint(job.manifest.images) or row_bytes > LARGE_ROW_BYTES
    repeated = frozenset(_repeated(hashes))
    found = Survey(manifest, rows, position, repeated, keep_types, inputs, only_nulls, holds_images, secrets)
    try:
        found.reject_changed()
    except ManifestChanged as error:  # the run has not begun
        raise JobInvalid(error.problems) from error
    return found


def _surveyed_columns(job: Job, manifest: Manifest) -> list[str]:
    """The columns that the job reads. Images as bytes are left out where no id needs them."""
    needed = needed_columns(job)
    unread = manifest.byte_columns if job.id_columns else frozenset()
    kept = {column.source for column in job.keep_columns} | set(job.prompt_columns) | set(job.id_columns)
    return [name for name in needed if name not in unread or name in kept]


def _check_types(schema: pa.Schema, job: Job) -> None:
    for name in job.id_columns:
        given = schema.field(name).type
        if types.is_list(given) or types.is_struct(given) or types.is_map(given):
            raise JobInvalid(f"the id column {name!r} holds {given}: name a column of single values in [manifest] id.")
    for name in job.manifest.images:
        if name in schema.names:
            reject_no_images(schema.field(name))


def own_places(ids: pa.Array, selection: Selection, rows_before: int) -> list[int]:
    """The places in a batch of the rows of the selection's shard."""
    return selection.own(
        position_id(rows_before + place) if row_id is None else row_id
        for place, row_id in enumerate(ids.to_pylist(), start=1)
    )


def position_id(position: int) -> str:
    """The row_id of an invalid row without an id of its own."""
    return f"#{position}"


def _repeated(hashes: array[int]) -> list[int]:
    """The values that come more than once. Sorts ``hashes`` in place."""
    ordered = np.frombuffer(hashes, dtype=np.int64)
    ordered.sort()
    return sorted(set(ordered[1:][ordered[1:] == ordered[:-1]].tolist()))
