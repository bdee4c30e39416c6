"""The frame of a handler: check the key, settle the batches, answer in the dialect of the face."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from aiohttp import web

from batchvision.emulator.batches.batch import BatchItem
from batchvision.emulator.batches.host import BatchHost
from batchvision.emulator.batches.service import BatchService
from batchvision.emulator.delivery import Outgoing, ResponseDelivery
from batchvision.emulator.faults import FaultKind
from batchvision.emulator.options import Face
from batchvision.emulator.refusals import Reason, RequestRefused

#: The faults that the connection shows, as ResponseDelivery knows them.
_AS_DELIVERED = {
    FaultKind.UPLOAD_RESET: FaultKind.RESET_AFTER,
    FaultKind.CREATE_RESET: FaultKind.RESET_AFTER,
    FaultKind.ADD_RESET: FaultKind.RESET_AFTER,
    FaultKind.RESULTS_CUT: FaultKind.HALF_BODY,
}


class BatchReply(NamedTuple):
    """A JSON answer (or the ``content`` of a file), its fault, and the requests whose answers it holds."""

    document: Any = None
    fault: FaultKind | None = None
    delivers: Sequence[BatchItem] = ()
    content: bytes | None = None


BatchHandler = Callable[[web.Request], Awaitable[BatchReply]]


def endpoint(
    emulator: BatchHost, batches: BatchService, face: Face, handle: BatchHandler
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The handler of a route."""

    async def answer(request: web.Request) -> web.StreamResponse:
        delivery = ResponseDelivery(request, emulator.options.slow_seconds, emulator.leaving)
        reply, outgoing = BatchReply(), Outgoing(())
        try:
            emulator.check_key(face, request)
            await emulator.wait(emulator.options.latency_seconds)
            await batches.settle()
            reply = await handle(request)
        except RequestRefused as refused:
            outgoing = emulator.no(face, refused.refusal)
        else:
            if reply.content is None:
                content = json.dumps(reply.document).encode()
                outgoing = Outgoing((content,), headers={"Content-Type": "application/json"})
            else:
                outgoing = Outgoing((reply.content,), headers={"Content-Type": "application/octet-stream"})
        fault = None if reply.fault is None else _AS_DELIVERED[reply.fault]
        delivered = await delivery.send(outgoing, fault)
        if delivered.is_whole:
            for item in reply.delivers:
                if item.entry is not None:
                    emulator.ledger.delivered(item.entry)
        return delivered.response

    return answer


async def json_body(request: web.Request) -> dict[str, Any]:
    """The JSON object of a request. Raises RequestRefused."""
    try:
        document = json.loads(await request.read())
    except web.HTTPRequestEntityTooLarge:
        raise RequestRefused(Reason.TOO_LARGE, "Failed to buffer the request body: length limit exceeded") from None
    except ValueError as error:
        raise RequestRefused(Reason.INVALID, f"Failed to parse the request body as JSON: {error}") from None
    if not isinstance(document, dict):
        raise RequestRefused(Reason.FIELD, "Failed to deserialize the JSON body into the target type: no object")
    return document


def limit_of(query: Mapping[str, str], default: int, most: int) -> int:
    """The page size of a list. Raises RequestRefused."""
    given = query.get("limit")
    if given is None:
        return default
    if not given.isdecimal() or not 1 <= int(given) <= most:
        raise RequestRefused(Reason.INVALID, f"limit must be an integer from 1 to {most}.")
    return int(given)
