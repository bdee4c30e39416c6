"""xAI's batches: requests added as JSON or by a file, counters and no status, pages of results that stay readable."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import quote

from batchvision.providers import wire
from batchvision.providers.batch import PAGE_SIZE, BatchDialect, checked_id, kind_of, moment, object_of, segment
from batchvision.providers.batch_results import PageReader, ResultsReader
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
    RequestListing,
)
from batchvision.records import RawAnswer

#: Results of one page. The API's clients use 1,000, which is its largest page.
RESULTS_PAGE_SIZE = 500

_LINE_NUMBER = re.compile(r"\blines? (\d{1,9})\b", re.IGNORECASE)


class XaiBatches(BatchDialect):
    """Batches of files, and batches to which requests are added."""

    takes_adds: ClassVar[bool] = True
    is_one_model_per_file: ClassVar[bool] = False
    usual_limits: ClassVar[BatchLimits] = BatchLimits(creates_per_second=2.0, calls_per_second=1000 / 30)

    def upload(self, filename: str, lifetime: timedelta) -> BatchCall:
        fields = (("expires_after", str(int(lifetime.total_seconds()))),)
        return BatchCall("POST", "/files", file=FilePart(filename, fields))

    def create(self, name: str, input_file: str | None = None) -> BatchCall:
        document = {"name": name} if input_file is None else {"name": name, "input_file_id": input_file}
        return BatchCall("POST", "/batches", json.dumps(document).encode())

    def add(self, batch_id: str, requests: Iterable[tuple[str, bytes]]) -> BatchCall:
        entries = [
            b'{"batch_request_id":"%b","batch_request":{"chat_get_completion":%b}}'
            % (checked_id(our_id).encode(), body)
            for our_id, body in requests
        ]
        body = b'{"batch_requests":[%b]}' % b",".join(entries)
        return BatchCall("POST", f"/batches/{segment(batch_id)}/requests", body)

    def list_batches(self, page: str | None = None) -> BatchCall:
        return BatchCall("GET", f"/batches?{_query(PAGE_SIZE, page)}")

    def list_requests(self, batch_id: str, page: str | None = None) -> BatchCall | None:
        return BatchCall("GET", f"/batches/{segment(batch_id)}/requests?{_query(PAGE_SIZE, page)}")

    def cancel(self, batch_id: str) -> BatchCall:
        return BatchCall("POST", f"/batches/{segment(batch_id)}:cancel", b"{}")

    def results(self, look: BatchLook, page: str | None = None) -> tuple[BatchCall, ...]:
        """One page. Results can be read while the batch runs."""
        if not look.counts.succeeded and not look.counts.failed:
            return ()
        return (BatchCall("GET", f"/batches/{segment(look.batch_id)}/results?{_query(RESULTS_PAGE_SIZE, page)}"),)

    def results_reader(self, at: datetime) -> ResultsReader:
        return PageReader(at)

    # ------------------------------------------------------------------ readers

    def read_requests(self, raw: RawAnswer) -> RequestListing | BatchRefusal:
        document = object_of(raw)
        listed = None if document is None else _listed(document, "batch_request_metadata")
        if document is None or listed is None:
            return self.refusal(raw)
        ids = (wire.text(wire.mapping(each).get("batch_request_id")) for each in listed)
        return RequestListing(tuple(filter(None, ids)), _next_page(document))

    def _look_of(self, document: Mapping[str, Any], now: datetime) -> BatchLook | None:
        batch_id = wire.text(document.get("batch_id"))
        if batch_id is None:
            return None
        state = wire.mapping(document.get("state"))
        names = ("num_requests", "num_success", "num_error", "num_cancelled")
        counts = BatchCounts(*(wire.count(state.get(name)) or 0 for name in names))
        ends = document.get("expire_time") or document.get("expires_at")
        message = document.get("cancel_by_xai_message")
        cost = wire.mapping(document.get("cost_breakdown")).get("total_cost_usd_ticks")
        look = BatchLook(
            batch_id,
            BatchState.RUNNING,
            counts,
            name=wire.text(document.get("name"), most=512),
            input_file=wire.text(document.get("input_file_id")),
            created_at=moment(document.get("create_time")),
            expires_at=moment(ends, ends_day=True),
            refusal=_failure(message) if isinstance(message, str) and message else None,
            cost_ticks=wire.count(cost),
        )
        return look._replace(state=_state(look, wire.count(state.get("num_pending")), document, now))

    def _listing_of(self, document: Mapping[str, Any], now: datetime) -> BatchListing | None:
        listed = _listed(document, "batches")
        if listed is None:
            return None
        looks = (self._look_of(wire.mapping(each), now) for each in listed)
        return BatchListing(tuple(look for look in looks if look is not None), _next_page(document))


def _listed(document: Mapping[str, Any], name: str) -> list[Any] | None:
    """The list ``name``, which may be null or absent if it is empty; ``None`` if the document is of another kind."""
    found = document.get(name)
    if found is None and document.keys() <= {name, "pagination_token"}:
        return []
    return found if isinstance(found, list) else None


def _next_page(document: Mapping[str, Any]) -> str | None:
    return wire.text(document.get("pagination_token"), most=4096)


def _state(look: BatchLook, pending: int | None, document: Mapping[str, Any], now: datetime) -> BatchState:
    """xAI sends counters. An empty batch is being validated, or has no requests yet."""
    counts = look.counts
    if look.refusal is not None and not counts.succeeded:
        return BatchState.FAILED
    if look.refusal is not None or document.get("cancel_time"):
        return BatchState.CANCELLED
    is_open = bool(counts.pending if pending is None else pending)
    if counts.total and not is_open:
        return BatchState.ENDED
    if look.expires_at is not None and look.expires_at <= now:
        return BatchState.EXPIRED
    if not counts.total:
        return BatchState.PREPARING
    return BatchState.RUNNING if counts.succeeded or counts.failed else BatchState.WAITING


def _failure(message: str) -> BatchRefusal:
    """The reason for which xAI cancelled a batch: a model without batches, a line that it names, or any other."""
    shown = wire.presentable(message)
    if kind_of(message) is BatchRefusalKind.NOT_OFFERED:
        return BatchRefusal(BatchRefusalKind.NOT_OFFERED, shown)
    lines = tuple(sorted({int(number) - 1 for number in _LINE_NUMBER.findall(message) if int(number)}))
    return BatchRefusal(BatchRefusalKind.LINES if lines else BatchRefusalKind.REJECTED, shown, lines=lines)


def _query(limit: int, page: str | None) -> str:
    return f"limit={limit}" + (f"&pagination_token={quote(page, safe='')}" if page else "")
