"""The request bodies that a run would send, to be shown: base64 cut short."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from batchvision.errors import ImageUnreachable, RowFault
from batchvision.images import Reserve
from batchvision.job import Job
from batchvision.money import Estimator
from batchvision.providers import SendOptions, dialect
from batchvision.records import Lane, Row
from batchvision.runner.wiring import RunDependencies, forms_of, images_of, preparer_of

_BASE64 = re.compile(r"(data:[\w.+/-]+;base64,)([A-Za-z0-9+/=]{41,})")


class _NoDownloads:
    """A plan asks nobody for anything, image hosts included."""

    async def fetch(self, url: str, max_bytes: int, reserve: Reserve | None = None) -> bytes:
        raise ImageUnreachable('plan downloads nothing: with image_mode = "inline" the run would download it')


async def bodies(job: Job, estimator: Estimator, rows: list[Row]) -> list[dict[str, Any]]:
    """The bodies that would be sent for ``rows``; where one cannot be made, why."""
    speaks = dialect(job.provider.name)
    deferred = job.delivery.lane_used is Lane.DEFERRED
    options = SendOptions(deferred=deferred, stream=job.delivery.stream and not deferred, form=forms_of(job).current)
    preparer = preparer_of(job, estimator, images_of(job, _NoDownloads(), RunDependencies()))
    bodies = []
    for row in rows:
        try:
            request = await preparer.prepare(row)
        except RowFault as fault:
            bodies.append({"row_id": row.row_id, "cannot_be_made": fault.message})
            continue
        body: Mapping[str, Any] = json.loads(speaks.body(job.recipe, request.messages, options))
        bodies.append({"row_id": row.row_id, "body": shortened(body)})
    return bodies


def shortened(document: Any) -> Any:
    """``document`` with base64 cut to its beginning and its length."""
    match document:
        case str():
            return _BASE64.sub(lambda m: f"{m[1]}{m[2][:24]}... ({len(m[2]):,} characters)", document)
        case Mapping():
            return {key: shortened(value) for key, value in document.items()}
        case list():
            return [shortened(value) for value in document]
        case _:
            return document
