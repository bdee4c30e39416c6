"""Name the columns in which answered rows differ from their stored requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc

from batchvision.checkpoint import OutputView, StoredRequest
from batchvision.images import redact_reference
from batchvision.job import Job
from batchvision.records import ImageRef, Row
from batchvision.runner.feed import ByContent

_FIXED = ("row_id", "recipe_id", "updated_at", "request_key", "image_ref", "image_sha256")


def changed_columns(job: Job, rows: Sequence[Row]) -> list[str]:
    """The changed columns of ``rows``, the most frequent first, with examples."""
    stored = _stored(job, [row.row_id for row in rows])
    by_content, found, examples = ByContent(job), Counter[str](), dict[str, str]()
    for row in rows:
        if row.row_id in stored:
            for name, example in _changed(job, by_content, row, stored[row.row_id]):
                found[name] += 1
                examples.setdefault(name, example)
    return [f"{name}{examples[name]}" for name, _ in found.most_common()]


def _stored(job: Job, row_ids: list[str]) -> dict[str, dict[str, Any]]:
    """The newest answer of each row under the job's recipe, with its kept cells."""
    wanted, kept = pa.array(row_ids, pa.string()), [column.name for column in job.keep_columns]
    newest: dict[str, dict[str, Any]] = {}
    for batch in OutputView(job.output_path).rows("results"):
        names = [name for name in (*_FIXED, *kept) if name in batch.schema.names]
        for row in batch.filter(pc.is_in(batch["row_id"], wanted)).select(names).to_pylist():
            before = newest.get(row["row_id"])
            if row["recipe_id"] == job.recipe.recipe_id and (
                before is None or row["updated_at"] >= before["updated_at"]
            ):
                newest[row["row_id"]] = row
    return newest


def _changed(job: Job, by_content: ByContent, row: Row, stored: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Names of changed columns, each with an example."""
    before = tuple(stored["image_ref"] or ())
    answer = StoredRequest(stored["request_key"], before, tuple(stored["image_sha256"] or ()))
    names = [redact_reference(ref) for ref in row.images]
    yield from _changed_images(row.images, names, before)
    with_stored_images = row._replace(images=tuple(ref._replace(size_bytes=0) for ref in row.images))
    if list(before) == names and by_content.is_request_of(answer, with_stored_images):
        for slot in dict.fromkeys(ref.slot for ref in row.images):
            yield slot, " (the content of the files)"
    elif list(before) == names or not by_content.is_request_of(_with_names(answer, names), with_stored_images):
        yield from _changed_texts(job, row, stored)


def _with_names(answer: StoredRequest, names: list[str]) -> StoredRequest:
    """The answer with the image names of today."""
    same_length = len(names) == len(answer.image_sha256)
    return answer._replace(image_ref=tuple(names)) if same_length else answer


def _changed_images(refs: Sequence[ImageRef], names: list[str], before: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if len(before) != len(names):
        for slot in dict.fromkeys(ref.slot for ref in refs):
            yield slot, f" ({len(before)} images before, {len(names)} now)"
        return
    for ref, name, then in zip(refs, names, before, strict=True):
        if name != then:
            yield ref.slot, _example(then, name)


def _example(then: str, now: str) -> str:
    """The changed part of a reference: host, parameters, or the whole."""
    before, after = urlsplit(then), urlsplit(now)
    if before.netloc != after.netloc and before.path == after.path:
        return f" (host {before.netloc or 'none'} became {after.netloc or 'none'})"
    if before.query != after.query and (before.netloc, before.path) == (after.netloc, after.path):
        return f" (parameters {before.query or 'none'!r} became {after.query or 'none'!r})"
    return f" (such as {then} and now {now})"


def _changed_texts(job: Job, row: Row, stored: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Prompt columns with different kept cells, and prompt columns that are not kept. Id columns cannot change."""
    now = {column.source: (column.name, cell) for column, cell in zip(job.keep_columns, row.keep, strict=True)}
    differing = [
        name
        for name in job.prompt_columns
        if name not in job.id_columns
        if name not in now or now[name][0] not in stored or stored[now[name][0]] != now[name][1]
    ]
    yield from ((name, "") for name in differing)
