"""OpenAI's batches, and those of compatible servers: an input file, a status word, an output file and an error file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

from batchvision.providers import wire
from batchvision.providers.batch import CHAT_URL, PAGE_SIZE, BatchDialect, kind_of, moment, segment, stated_tokens
from batchvision.providers.batch_results import LinesReader, ResultsReader
from batchvision.providers.batch_values import (
    BatchCall,
    BatchCounts,
    BatchLimits,
    BatchListing,
    BatchLook,
    BatchRefusal,
    BatchRefusalKind,
    BatchState,
    FilePart,
)

#: The key of ``metadata`` that holds our name of a batch.
NAME_KEY = "batchvision"
#: Line numbers in errors count from here. OpenAI documents no number for the first line.
FIRST_LINE = 1

_STATES = {
    "validating": BatchState.PREPARING,
    "in_progress": BatchState.RUNNING,
    "finalizing": BatchState.RUNNING,
    "cancelling": BatchState.RUNNING,
    "completed": BatchState.ENDED,
    "expired": BatchState.EXPIRED,
    "cancelled": BatchState.CANCELLED,
    "failed": BatchState.FAILED,
}

#: Limits of compatible servers, by the end of their host name.
_HOSTS: Mapping[str, BatchLimits] = {
    "together.xyz": BatchLimits(max_bytes=100_000_000),
    "together.ai": BatchLimits(max_bytes=100_000_000),
    "groq.com": BatchLimits(max_bytes=100_000_000),
    "morphllm.com": BatchLimits(max_bytes=100_000_000),
}


class OpenAIBatches(BatchDialect):
    """Batches of files."""

    usual_limits: ClassVar[BatchLimits] = BatchLimits()

    def limits(self, base_url: str) -> BatchLimits:
        host = urlsplit(base_url).hostname or ""
        known = (limits for end, limits in _HOSTS.items() if host == end or host.endswith(f".{end}"))
        return next(known, self.usual_limits)

    def upload(self, filename: str, lifetime: timedelta) -> BatchCall:
        seconds = str(int(lifetime.total_seconds()))
        fields = (
            ("purpose", "batch"),
            ("expires_after[anchor]", "created_at"),
            ("expires_after[seconds]", seconds),
        )
        return BatchCall("POST", "/files", file=FilePart(filename, fields))

    def create(self, name: str, input_file: str | None = None) -> BatchCall:
        if input_file is None:
            raise ValueError("a batch of OpenAI's kind is made of an uploaded file")
        document = {
            "input_file_id": input_file,
            "endpoint": CHAT_URL,
            "completion_window": "24h",
            "metadata": {NAME_KEY: name},
        }
        return BatchCall("POST", "/batches", json.dumps(document).encode())

    def list_batches(self, page: str | None = None) -> BatchCall:
        after = f"&after={quote(page, safe='')}" if page else ""
        return BatchCall("GET", f"/batches?limit={PAGE_SIZE}{after}")

    def cancel(self, batch_id: str) -> BatchCall:
        return BatchCall("POST", f"/batches/{segment(batch_id)}/cancel", b"{}")

    def results(self, look: BatchLook, page: str | None = None) -> tuple[BatchCall, ...]:
        """The output file and the error file: a failed request is in the error file alone."""
        files = (name for name in (look.output_file, look.error_file) if name)
        return tuple(BatchCall("GET", f"/files/{segment(name)}/content") for name in files)

    def results_reader(self, at: datetime) -> ResultsReader:
        return LinesReader(at)

    # ------------------------------------------------------------------ readers

    def _look_of(self, document: Mapping[str, Any], now: datetime) -> BatchLook | None:
        batch_id = wire.text(document.get("id"))
        if batch_id is None or document.get("status") is None:
            return None
        counts = wire.mapping(document.get("request_counts"))
        total, succeeded, failed = (wire.count(counts.get(name)) or 0 for name in ("total", "completed", "failed"))
        state = _STATES.get(str(document["status"]), BatchState.WAITING)  # gateways add words, for example "queued"
        return BatchLook(
            batch_id,
            state,
            BatchCounts(total, succeeded, failed),
            name=wire.text(wire.mapping(document.get("metadata")).get(NAME_KEY), most=512),
            input_file=wire.text(document.get("input_file_id")),
            output_file=wire.text(document.get("output_file_id")),
            error_file=wire.text(document.get("error_file_id")),
            created_at=moment(document.get("created_at")),
            expires_at=moment(document.get("expires_at")),
            refusal=_failure(document) if state is BatchState.FAILED else None,
        )

    def _listing_of(self, document: Mapping[str, Any], now: datetime) -> BatchListing | None:
        data = document.get("data")
        if not isinstance(data, list):
            return None
        looks = tuple(look for each in data if (look := self._look_of(wire.mapping(each), now)) is not None)
        last = wire.text(document.get("last_id")) or (looks[-1].batch_id if looks else None)
        return BatchListing(looks, last if document.get("has_more") is True else None)


def _failure(document: Mapping[str, Any]) -> BatchRefusal:
    """The reason in ``errors``. A named line is believed only if nothing concerns the whole batch."""
    listed = [wire.mapping(each) for each in wire.sequence(wire.mapping(document.get("errors")).get("data"))]
    texts = [f"{each.get('message') or ''} ({each.get('code') or 'no code'})" for each in listed]
    message = wire.presentable("; ".join(texts[:3])) or "the batch failed, and the provider gives no reason"
    for each, text in zip(listed, texts, strict=True):
        kind = kind_of(text)
        if kind is None and each.get("code") == "model_not_found":
            kind = BatchRefusalKind.NOT_OFFERED
        if kind in (BatchRefusalKind.NOT_OFFERED, BatchRefusalKind.QUOTA):
            return BatchRefusal(kind, message, max_enqueued_tokens=stated_tokens(text))
    numbers = {number for each in listed if (number := wire.count(each.get("line"))) is not None}
    lines = tuple(sorted(number - FIRST_LINE for number in numbers if number >= FIRST_LINE))
    return BatchRefusal(BatchRefusalKind.LINES if lines else BatchRefusalKind.REJECTED, message, lines=lines)
