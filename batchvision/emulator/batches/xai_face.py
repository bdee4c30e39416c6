"""xAI's files and batches: counters and no status, requests added as JSON or by a file, results in pages.

Timestamps are dates. A failed request has its error in one of three places, depending on its id.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar
from zlib import crc32

from aiohttp import web

from batchvision.emulator.batches.batch import BatchItem, EmulatedBatch, ItemState
from batchvision.emulator.batches.endpoint import BatchHandler, BatchReply, endpoint, json_body, limit_of
from batchvision.emulator.batches.host import BatchHost
from batchvision.emulator.batches.lines import CHAT_URL, RESPONSES_URL, BatchLine, read_request_of
from batchvision.emulator.batches.service import BatchService
from batchvision.emulator.faults import FaultKind
from batchvision.emulator.options import Face
from batchvision.emulator.refusals import Reason, RequestRefused

_URLS = {"chat_get_completion": CHAT_URL, "responses": RESPONSES_URL}
_MOST_OF_A_REQUEST = 25 * 1024 * 1024
_Listed = TypeVar("_Listed")


def xai_batch_routes(emulator: BatchHost, batches: BatchService, prefix: str) -> list[web.RouteDef]:
    face = _XaiBatches(emulator, batches)

    def at(method: str, path: str, handle: BatchHandler) -> web.RouteDef:
        return web.route(method, f"{prefix}{path}", endpoint(emulator, batches, Face.XAI, handle))

    return [
        at("POST", "/files", face.upload),
        at("DELETE", "/files/{file}", face.delete_file),
        at("POST", "/batches", face.create),
        at("GET", "/batches", face.list_batches),
        at("GET", "/batches/{batch}", face.show),
        at("POST", "/batches/{batch}/requests", face.add),
        at("GET", "/batches/{batch}/requests", face.list_requests),
        at("GET", "/batches/{batch}/results", face.results),
        at("POST", "/batches/{batch}:cancel", face.cancel),
    ]


class _XaiBatches:
    """The handlers."""

    def __init__(self, emulator: BatchHost, batches: BatchService) -> None:
        self._emulator = emulator
        self._service = batches

    async def upload(self, request: web.Request) -> BatchReply:
        file, fault = await self._service.upload(Face.XAI, request)
        document = {
            "id": file.id,
            "object": "file",
            "bytes": file.size,
            "created_at": int(file.created_at),
            "expires_at": None if file.expires_at is None else int(file.expires_at),
            "filename": file.name,
            "purpose": "",
        }
        return BatchReply(document, fault)

    async def delete_file(self, request: web.Request) -> BatchReply:
        file = self._service.files.find(Face.XAI, request.match_info["file"], self._service.now())
        self._service.files.delete(file)
        return BatchReply({"id": file.id, "object": "file", "deleted": True})

    async def create(self, request: web.Request) -> BatchReply:
        document = await json_body(request)
        self._service.admit_create(Face.XAI)
        name, file_id = document.get("name"), document.get("input_file_id")
        if not isinstance(name, str):
            message = "Failed to deserialize the JSON body into the target type: missing field `name`"
            raise RequestRefused(Reason.FIELD, message)
        if file_id is not None:
            self._service.files.find(Face.XAI, file_id, self._service.now())
        batch, fault = self._service.create(Face.XAI, name=name, input_file_id=file_id)
        return BatchReply(_document(batch), fault)

    async def list_batches(self, request: web.Request) -> BatchReply:
        batches = self._service.listed(Face.XAI)
        listed = _after(batches, [batch.id for batch in batches], request.query, 100)
        return BatchReply({"batches": list(map(_document, listed.page)), "pagination_token": listed.token})

    async def show(self, request: web.Request) -> BatchReply:
        return BatchReply(_document(self._batch(request)))

    async def cancel(self, request: web.Request) -> BatchReply:
        batch = self._batch(request)
        await self._service.cancel(batch)
        return BatchReply(_document(batch))

    async def add(self, request: web.Request) -> BatchReply:
        """All requests of a call are added, or none. The answer is ``null``."""
        batch = self._batch(request)
        document = await json_body(request)
        if batch.is_sealed:
            raise RequestRefused(Reason.INVALID, f"Batch {batch.id} was created from a file and takes no requests.")
        if batch.cancelled_at != math.inf or batch.expires_at <= self._service.now():
            raise RequestRefused(Reason.INVALID, f"Batch {batch.id} is cancelled or expired and takes no requests.")
        lines = await asyncio.to_thread(self._added, document)
        for line in lines:
            if line.custom_id in batch.items:
                raise RequestRefused(Reason.INVALID, f"batch_request_id {line.custom_id} exists in the batch already.")
        fault = self._service.fault(batch.markers, FaultKind.ADD_RESET)
        self._service.add(batch, lines)
        return BatchReply(None, fault)

    def _added(self, document: Mapping[str, Any]) -> list[BatchLine]:
        given = document.get("batch_requests")
        if not isinstance(given, list) or not given:
            raise _wrong("missing field `batch_requests`")
        lines: dict[str, BatchLine] = {}
        for entry in given:
            request_id = entry.get("batch_request_id") if isinstance(entry, dict) else None
            request = entry.get("batch_request") if isinstance(entry, dict) else None
            bodies = request if isinstance(request, dict) else {}
            kind = next((kind for kind in _URLS if isinstance(bodies.get(kind), dict)), None)
            if not isinstance(request_id, str) or not request_id or kind is None:
                raise _wrong("batch_requests: expected batch_request_id and batch_request")
            if request_id in lines:
                raise RequestRefused(Reason.INVALID, f"batch_request_id {request_id} is given twice.")
            line = read_request_of(
                Face.XAI, request_id, _URLS[kind], bodies[kind], self._emulator.options, self._emulator.memory
            )
            if not isinstance(line, BatchLine):
                raise RequestRefused(Reason.INVALID, line.message)
            lines[request_id] = line
        return list(lines.values())

    async def list_requests(self, request: web.Request) -> BatchReply:
        items = list(self._batch(request).items.values())
        listed = _after(items, [item.line.custom_id for item in items], request.query, 100)
        metadata = [
            {
                "batch_request_id": item.line.custom_id,
                "endpoint": item.line.endpoint,
                "model": item.line.model,
                "state": item.state.value,
                "create_time": _date(item.added_at),
                "finish_time": None if item.finished_at is None else _date(item.finished_at),
            }
            for item in listed.page
        ]
        return BatchReply({"batch_request_metadata": metadata, "pagination_token": listed.token})

    async def results(self, request: web.Request) -> BatchReply:
        batch = self._batch(request)
        if batch.expires_at <= self._service.now():
            raise RequestRefused(Reason.NO_PATH, f"The results of batch {batch.id} have expired.")
        items = [item for item in batch.finished if not item.is_missing]
        listed = _after(items, [item.line.custom_id for item in items], request.query, 100)
        fault = self._service.fault(batch.markers, FaultKind.RESULTS_CUT)
        document = {"results": list(map(_result, listed.page)), "pagination_token": listed.token}
        return BatchReply(document, fault, delivers=[item for item in listed.page if not item.is_garbled])

    def _batch(self, request: web.Request) -> EmulatedBatch:
        return self._service.find(Face.XAI, request.match_info["batch"])


def _wrong(message: str) -> RequestRefused:
    return RequestRefused(Reason.FIELD, f"Failed to deserialize the JSON body into the target type: {message}")


class _Page(NamedTuple):
    page: Sequence[Any]
    token: str | None


def _after(items: Sequence[_Listed], ids: Sequence[str], query: Mapping[str, str], default: int) -> _Page:
    """One page. The token is the id of the page's last item. Raises RequestRefused."""
    token, limit = query.get("pagination_token"), limit_of(query, default, 1000)
    begin = 0
    if token:
        if token not in ids:
            raise RequestRefused(Reason.INVALID, "Invalid pagination_token.")
        begin = ids.index(token) + 1
    page = items[begin : begin + limit]
    return _Page(page, ids[begin + limit - 1] if begin + limit < len(items) else None)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def _document(batch: EmulatedBatch) -> dict[str, Any]:
    is_cancelled = batch.cancelled_at != math.inf
    message = f"JSONL file validation failed: {_words(batch)}" if batch.problems else None
    ticks = sum(item.entry.ticks for item in batch.items.values() if item.entry is not None)
    return {
        "batch_id": batch.id,
        "name": batch.name,
        "create_time": _date(batch.created_at),
        "expire_time": _date(batch.expires_at),
        "cancel_time": _date(batch.cancelled_at) if is_cancelled else None,
        "cancel_by_xai_message": message,
        "input_file_id": batch.input_file_id,
        "state": {
            "num_requests": len(batch.items),
            "num_pending": batch.count(ItemState.PENDING),
            "num_success": batch.count(ItemState.SUCCEEDED),
            "num_error": batch.count(ItemState.FAILED),
            "num_cancelled": batch.count(ItemState.CANCELLED),
        },
        "cost_breakdown": {"total_cost_usd_ticks": ticks},
    }


def _words(batch: EmulatedBatch) -> str:
    first = batch.problems[0]
    return first.message if first.line is None else f"line {first.line}: {first.message}"


#: gRPC's codes of HTTP statuses, of which xAI documents INVALID_ARGUMENT (3).
_GRPC_CODES = {429: 8, 500: 13, 502: 14, 503: 14, 504: 4}


def _result(item: BatchItem) -> dict[str, Any]:
    request_id = item.line.custom_id
    if item.is_garbled:
        return {"batch_request_id": request_id, "batch_result": None}
    if item.state is ItemState.SUCCEEDED:
        return {"batch_request_id": request_id, "batch_result": {"response": {"chat_get_completion": item.document}}}
    error = item.document.get("error")
    message = error if isinstance(error, str) else str((error or {}).get("message", "failed"))
    code = _GRPC_CODES.get(item.status, 3)
    match crc32(request_id.encode()) % 3:
        case 0:
            result = {"error": {"code": code, "message": message}}
            return {"batch_request_id": request_id, "batch_result": result, "error_message": message}
        case 1:
            return {"batch_request_id": request_id, "batch_result": {"error": {"code": code, "message": message}}}
        case _:
            body = {"code": item.document.get("code") or "invalid-argument", "error": message}
            return {"batch_request_id": request_id, "batch_result": {"response": {"chat_get_completion": body}}}
