"""OpenAI's files and batches: a status word, an output file and an error file with one line a request."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from aiohttp import web

from batchvision.emulator.batches.batch import BatchItem, EmulatedBatch, ItemState
from batchvision.emulator.batches.endpoint import BatchHandler, BatchReply, endpoint, json_body, limit_of
from batchvision.emulator.batches.files import UploadedFile
from batchvision.emulator.batches.host import BatchHost
from batchvision.emulator.batches.lines import CHAT_URL
from batchvision.emulator.batches.service import BatchService
from batchvision.emulator.faults import FaultKind
from batchvision.emulator.options import Face
from batchvision.emulator.refusals import Reason, RequestRefused

_OUTPUT, _ERRORS = "output", "errors"
_EXPIRED = "This request could not be executed before the completion window expired."
_FINAL = frozenset({"completed", "expired", "cancelled"})


def openai_batch_routes(emulator: BatchHost, batches: BatchService, prefix: str) -> list[web.RouteDef]:
    face = _OpenAIBatches(emulator, batches)

    def at(method: str, path: str, handle: BatchHandler) -> web.RouteDef:
        return web.route(method, f"{prefix}{path}", endpoint(emulator, batches, Face.OPENAI, handle))

    return [
        at("POST", "/files", face.upload),
        at("GET", "/files", face.list_files),
        at("GET", "/files/{file}", face.show_file),
        at("GET", "/files/{file}/content", face.read_file),
        at("DELETE", "/files/{file}", face.delete_file),
        at("POST", "/batches", face.create),
        at("GET", "/batches", face.list_batches),
        at("GET", "/batches/{batch}", face.show),
        at("POST", "/batches/{batch}/cancel", face.cancel),
    ]


class _OpenAIBatches:
    """The handlers."""

    def __init__(self, emulator: BatchHost, batches: BatchService) -> None:
        self._service = batches

    # ------------------------------------------------------------------ files

    async def upload(self, request: web.Request) -> BatchReply:
        file, fault = await self._service.upload(Face.OPENAI, request)
        return BatchReply(_file_document(file), fault)

    async def list_files(self, request: web.Request) -> BatchReply:
        files = self._service.files.listed(Face.OPENAI)
        return BatchReply(_page([_file_document(file) for file in files], request.query, 10_000, 10_000))

    async def show_file(self, request: web.Request) -> BatchReply:
        return BatchReply(_file_document(self._file(request)))

    async def delete_file(self, request: web.Request) -> BatchReply:
        file = self._file(request)
        self._service.files.delete(file)
        return BatchReply({"id": file.id, "object": "file", "deleted": True})

    async def read_file(self, request: web.Request) -> BatchReply:
        file = self._file(request)
        if file.path is not None:
            return BatchReply(content=file.path.read_bytes())
        batch = self._service.find(Face.OPENAI, file.batch_id)
        items = [item for item in _finished(batch) if _kind(item) == file.purpose.rpartition("_")[2]]
        content = b"".join(_line(batch, item) for item in items)
        fault = self._service.fault(batch.markers, FaultKind.RESULTS_CUT)
        return BatchReply(content=content, fault=fault, delivers=[item for item in items if not item.is_garbled])

    def _file(self, request: web.Request) -> UploadedFile:
        name, now = request.match_info["file"], self._service.now()
        kind, _, batch_id = name.removeprefix("file-").partition("-")
        if kind in (_OUTPUT, _ERRORS):
            batch = self._service.find(Face.OPENAI, batch_id)
            if name in self._result_files(batch).values():
                return self._service.files.find(Face.OPENAI, name, now)
        return self._service.files.find(Face.OPENAI, name, now)

    def _result_files(self, batch: EmulatedBatch) -> dict[str, str]:
        """The ids of the files that an ended batch has. Each is made once, so that it can be deleted."""
        if batch.openai_status(self._service.now()) not in _FINAL:
            return {}
        kinds = {_kind(item) for item in _finished(batch)}
        ids = {kind: f"file-{kind}-{batch.id}" for kind in (_OUTPUT, _ERRORS) if kind in kinds}
        for kind, name in ids.items():
            if kind not in batch.result_files:
                batch.result_files.add(kind)
                made_at = batch.ended_at or self._service.now()
                filename = f"{batch.id}_{kind}.jsonl"
                self._service.files.keep(
                    UploadedFile(name, Face.OPENAI, filename, f"batch_{kind}", made_at, batch_id=batch.id)
                )
        return ids

    # ------------------------------------------------------------------ batches

    async def create(self, request: web.Request) -> BatchReply:
        document = await json_body(request)
        self._service.admit_create(Face.OPENAI)
        if document.get("endpoint") != CHAT_URL:
            raise RequestRefused(Reason.INVALID, f"Invalid value for 'endpoint': the emulator takes {CHAT_URL!r}.")
        if document.get("completion_window") != "24h":
            raise RequestRefused(Reason.INVALID, "Invalid value for 'completion_window': expected '24h'.")
        file = self._service.files.find(Face.OPENAI, document.get("input_file_id"), self._service.now())
        batch, fault = self._service.create(
            Face.OPENAI, metadata=_metadata(document.get("metadata")), endpoint=CHAT_URL, input_file_id=file.id
        )
        return BatchReply(self._document(batch), fault)

    async def list_batches(self, request: web.Request) -> BatchReply:
        batches = [self._document(batch) for batch in self._service.listed(Face.OPENAI)]
        return BatchReply(_page(batches, request.query, 20, 100))

    async def show(self, request: web.Request) -> BatchReply:
        return BatchReply(self._document(self._service.find(Face.OPENAI, request.match_info["batch"])))

    async def cancel(self, request: web.Request) -> BatchReply:
        batch = self._service.find(Face.OPENAI, request.match_info["batch"])
        status = batch.openai_status(self._service.now())
        if status not in ("validating", "in_progress", "finalizing", "cancelling"):
            raise RequestRefused(Reason.CONFLICT, f"Cannot cancel a batch with status '{status}'.")
        await self._service.cancel(batch)
        return BatchReply(self._document(batch))

    def _document(self, batch: EmulatedBatch) -> dict[str, Any]:
        status = batch.openai_status(self._service.now())
        files = self._result_files(batch)
        lost = batch.count(ItemState.EXPIRED) if status == "expired" else 0
        counts = {
            "total": len(batch.items),
            "completed": batch.count(ItemState.SUCCEEDED),
            "failed": batch.count(ItemState.FAILED) + lost,
        }
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": batch.endpoint,
            "model": next((item.line.model for item in batch.items.values()), None),
            "errors": _errors(batch) if status == "failed" else None,
            "input_file_id": batch.input_file_id,
            "completion_window": "24h",
            "status": status,
            "output_file_id": files.get(_OUTPUT),
            "error_file_id": files.get(_ERRORS),
            "created_at": int(batch.created_at),
            "in_progress_at": int(batch.validates_at) if batch.items else None,
            "expires_at": int(batch.expires_at),
            "finalizing_at": int(batch.ended_at or 0) if status in ("finalizing", "completed") else None,
            "completed_at": int(batch.ended_at or 0) if status == "completed" else None,
            "failed_at": int(batch.validates_at) if status == "failed" else None,
            "expired_at": int(batch.expires_at) if status == "expired" else None,
            "cancelling_at": int(batch.cancelled_at) if batch.cancelled_at != math.inf else None,
            "cancelled_at": int(batch.cancelled_at + batch.cancel_takes_seconds) if status == "cancelled" else None,
            "request_counts": counts,
            "metadata": batch.metadata,
        }


def _errors(batch: EmulatedBatch) -> dict[str, Any]:
    listed = [
        {"code": each.code, "message": each.message, "param": each.param, "line": each.line} for each in batch.problems
    ]
    return {"object": "list", "data": listed}


def _metadata(given: Any) -> dict[str, str] | None:
    if given is None:
        return None
    is_valid = isinstance(given, dict) and len(given) <= 16
    if not is_valid or any(not isinstance(value, str) or len(value) > 512 for value in given.values()):
        raise RequestRefused(Reason.INVALID, "metadata takes at most 16 texts of at most 512 characters.")
    return dict(given)


def _file_document(file: UploadedFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": int(file.created_at),
        "expires_at": None if file.expires_at is None else int(file.expires_at),
        "filename": file.name,
        "purpose": "batch" if file.path is not None else "batch_output",
        "status": "processed",
    }


def _page(documents: list[dict[str, Any]], query: Mapping[str, str], default: int, most: int) -> dict[str, Any]:
    """The page after ``after``. Raises RequestRefused."""
    after, limit = query.get("after"), limit_of(query, default, most)
    begin = 0
    if after is not None:
        begin = next((at + 1 for at, each in enumerate(documents) if each["id"] == after), len(documents))
    page = documents[begin : begin + limit]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
    return {"object": "list", "data": page, **ends, "has_more": begin + limit < len(documents)}


def _finished(batch: EmulatedBatch) -> Iterator[BatchItem]:
    """The requests that have a line in a file, in the order of their answers; expired ones come last."""
    yield from (item for item in batch.finished if not item.is_missing)
    yield from (item for item in batch.items.values() if item.state is ItemState.EXPIRED)


def _kind(item: BatchItem) -> str:
    return _OUTPUT if item.state is ItemState.SUCCEEDED else _ERRORS


def _line(batch: EmulatedBatch, item: BatchItem) -> bytes:
    custom_id = item.line.custom_id
    line: dict[str, Any] = {"id": f"batch_req_{custom_id}", "custom_id": custom_id, "response": None, "error": None}
    if item.state is ItemState.EXPIRED:
        line["error"] = {"code": "batch_expired", "message": _EXPIRED}
    else:
        line["response"] = {"status_code": item.status, "request_id": f"req_{custom_id}", "body": item.document}
    text = json.dumps(line).encode()
    return (text[: len(text) // 2] if item.is_garbled else text) + b"\n"
