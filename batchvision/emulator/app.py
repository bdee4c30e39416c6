"""The path of a request from its arrival to its bill. Joins the modules that need no network.

All state belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from aiohttp import web

from batchvision.emulator import bodies, repeats
from batchvision.emulator.answers import count_tokens, cut_to, make_answer
from batchvision.emulator.batches import BatchService
from batchvision.emulator.bodies import Generated
from batchvision.emulator.checks import ParsedRequest, check_content_type, check_key, read_request
from batchvision.emulator.clock import EmulatorClock
from batchvision.emulator.delivery import Delivered, Outgoing, ResponseDelivery
from batchvision.emulator.faults import ONLINE, POLLED, STREAMED, SUBMITTED, FaultKind, FaultPicker, Stage
from batchvision.emulator.ledger import Bill, Ledger, OpenEntry
from batchvision.emulator.limits import Limits
from batchvision.emulator.options import EmulatorOptions, Face, Seconds
from batchvision.emulator.pixels import PictureMemory
from batchvision.emulator.pricing import CACHE_BLOCK_TOKENS, TIER_PERCENTS, cost_ticks, text_tokens
from batchvision.emulator.refusals import (
    Reason,
    Refusal,
    RequestRefused,
    bad_key,
    download_failed,
    refused_by_fault,
    unknown_model,
)
from batchvision.emulator.repeats import Repeat, ResponseCache
from batchvision.emulator.tickets import Ticket, Tickets

#: Larger requests are decoded in a thread, so that they do not block the event loop.
_LARGE_BODY = 256 * 1024
_PREFIXES_REMEMBERED = 10_000
JSON = {"Content-Type": "application/json"}
_EVENTS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}


class Emulator:
    """One provider with its limits, tickets and bill."""

    def __init__(self, options: EmulatorOptions) -> None:
        self.options = options
        self.leaving = asyncio.Event()
        self.clock = EmulatorClock()
        self.memory = PictureMemory()
        self.batches = BatchService(self)
        self.reset()

    def reset(self) -> None:
        """Clear the bill, tickets, batches, fault counts and limits. Options and clock stay."""
        self.ledger = Ledger(self.options.ledger_entries)
        self._tickets = Tickets(self.clock.now)
        self.batches.close()
        self._prefixes: set[str] = set()
        self._repeats = ResponseCache(time.monotonic)
        self._refit()

    def configure(self, changes: Mapping[str, Any]) -> None:
        """Change options of a running emulator. Bill, tickets and batches stay. Raises ValueError."""
        self.options = self.options.changed(changes)
        self._refit()

    def _refit(self) -> None:
        options = self.options
        self._random = random.Random(options.seed)
        self.faults = FaultPicker(options.fault_rates, options.seed)
        self._limits = {face: Limits(options, face) for face in Face}
        self.batches.refit()

    def bill(self) -> Bill:
        return self.ledger.bill()

    def check_key(self, face: Face, request: web.Request) -> None:
        """Raises RequestRefused. Requests to the default path need no key."""
        is_default = not request.path.startswith(face.path)
        check_key(face, request.headers.get("Authorization"), self.options, may_be_missing=is_default)

    # ------------------------------------------------------------------ chat

    async def chat(self, face: Face, request: web.Request) -> web.StreamResponse:
        """POST chat/completions."""
        entry = self.ledger.open(face.value)
        delivery = ResponseDelivery(request, self.options.slow_seconds, self.leaving)
        try:
            asked = await self._read(face, request)
            _note(entry, asked)
            repeat = await self._repeat(asked, entry, request)
            if repeat is None:
                self._limits[face].spend(asked.model, asked.text_tokens + asked.image_tokens)
                stages = SUBMITTED if asked.is_deferred else STREAMED if asked.is_stream else ONLINE
                fault = self.pick(asked, entry, stages)
        except RequestRefused as refused:
            await self.wait(self.options.latency_seconds)
            delivered = await delivery.send(self.no(face, refused.refusal))
        else:
            if repeat is not None:
                delivered = await delivery.send(self._outgoing(repeat.generated, None, repeat.headers))
            else:
                delivered = await self._answer(asked, entry, fault, delivery, request)
        self.ledger.answered(entry, delivered.status)
        return delivered.response

    async def _read(self, face: Face, request: web.Request) -> ParsedRequest:
        options = self.options
        self.check_key(face, request)
        check_content_type(request.content_type if "Content-Type" in request.headers else "")
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            message = f"Failed to buffer the request body: more than {options.max_body_bytes} bytes"
            raise RequestRefused(Reason.TOO_LARGE, message) from None
        self._limits[face].admit()
        if len(body) >= _LARGE_BODY:
            return await asyncio.to_thread(read_request, face, body, options, self.memory)
        return read_request(face, body, options, self.memory)

    async def _repeat(self, asked: ParsedRequest, entry: OpenEntry, request: web.Request) -> Repeat | None:
        """The stored answer from OpenRouter's response cache, which is free."""
        if asked.face is not Face.OPENROUTER:
            return None
        key = self._repeats.key(request.path, request.headers, await request.read())
        repeat = None if key is None else self._repeats.find(key, f"gen-{uuid.uuid4().hex}")
        if repeat is not None:
            self.ledger.repeated(entry, repeat.generated.request_id)
        return repeat

    def pick(self, asked: ParsedRequest, entry: OpenEntry, stages: Collection[Stage]) -> FaultKind | None:
        """The fault of this try, if any. Raises RequestRefused for a fault that refuses the request."""
        without = set() if asked.urls else {FaultKind.IMAGE_DOWNLOAD_FAILED}
        if asked.service_tier is None:
            without |= {FaultKind.RESOURCE_UNAVAILABLE, FaultKind.TIER_DEFAULT}
        kind = self.faults.pick(asked.content_hash, asked.faults, stages, without)
        if kind is None:
            return None
        self.ledger.fault(entry, kind)
        if kind.stage is Stage.REQUEST and kind is not FaultKind.RESET_BEFORE:
            raise self._refusal(kind, asked)
        return kind

    def _refusal(self, kind: FaultKind, asked: ParsedRequest) -> RequestRefused:
        match kind:
            case FaultKind.BAD_KEY:
                return bad_key(asked.face, "emulated")
            case FaultKind.MODEL_NOT_FOUND:
                return unknown_model(asked.face, asked.model)
            case FaultKind.IMAGE_DOWNLOAD_FAILED:
                return download_failed(asked.face, asked.urls[0])
            case (
                FaultKind.RATE_LIMITED
                | FaultKind.RATE_LIMITED_SECONDS
                | FaultKind.RATE_LIMITED_MS
                | FaultKind.RATE_LIMITED_DATE
                | FaultKind.TOKENS_LIMITED
            ):
                return self._limits[asked.face].refuse(kind, asked.model)
            case _:
                return refused_by_fault(kind)

    async def _answer(
        self,
        asked: ParsedRequest,
        entry: OpenEntry,
        fault: FaultKind | None,
        delivery: ResponseDelivery,
        request: web.Request,
    ) -> Delivered:
        if fault is FaultKind.RESET_BEFORE:
            return await delivery.send(Outgoing(()), fault)
        generated = self.generate(asked, entry, fault)
        if asked.is_deferred:
            return await self._accept(generated, entry, fault, delivery)
        told = self._keep(generated, request, await request.read())
        await self.wait(self.options.latency_seconds)
        delivered = await delivery.send(self._outgoing(generated, fault, told), fault)
        if delivered.is_whole:
            self.ledger.delivered(entry)
        return delivered

    def _keep(self, generated: Generated, request: web.Request, body: bytes) -> dict[str, str]:
        """Store an answer in OpenRouter's response cache if the request asks for it. Returns its headers."""
        key = self._repeats.key(request.path, request.headers, body)
        if key is None or generated.asked.face is not Face.OPENROUTER:
            return {}
        self._repeats.keep(key, generated, request.headers)
        return {repeats.STATUS: "MISS"}

    def generate(
        self, asked: ParsedRequest, entry: OpenEntry, fault: FaultKind | None, batch_percent: int | None = None
    ) -> Generated:
        """Make the answer and charge for it. ``batch_percent``: the price of a batch, which knows no tiers."""
        made = make_answer(asked, fault)
        cached = self._cached_tokens(asked)
        tokens = count_tokens(asked, made, self.options.reasoning_tokens, cached)
        if asked.max_tokens is not None:
            made = cut_to(made, asked.max_tokens - tokens.reasoning)
            tokens = replace(tokens, completion=min(tokens.completion, text_tokens(made.text or made.refusal or "")))
        tier = None if fault is FaultKind.TIER_DEFAULT or batch_percent else asked.service_tier
        percent = batch_percent or TIER_PERCENTS.get(tier or "", 100)
        # OpenRouter does not charge for an answer that ends in an error
        ticks = 0 if made.error is not None else cost_ticks(asked.model, tokens, percent)
        name = {Face.XAI: str(uuid.uuid4()), Face.OPENROUTER: f"gen-{uuid.uuid4().hex}"}
        request_id = name.get(asked.face, f"chatcmpl-{uuid.uuid4().hex}")
        self.ledger.generated(entry, request_id, ticks)
        return Generated(asked, made, tokens, ticks, request_id, int(time.time()), tier or "default")

    def _cached_tokens(self, asked: ParsedRequest) -> int:
        """Tokens of whole blocks of a text prefix that an earlier request had."""
        blocks = text_tokens(asked.prefix) // CACHE_BLOCK_TOKENS
        if not blocks:
            return 0
        if asked.prefix in self._prefixes:
            return blocks * CACHE_BLOCK_TOKENS
        if len(self._prefixes) < _PREFIXES_REMEMBERED:
            self._prefixes.add(asked.prefix)
        return 0

    def _outgoing(
        self, generated: Generated, fault: FaultKind | None, more: Mapping[str, str] | None = None
    ) -> Outgoing:
        face, asked = generated.asked.face, generated.asked
        headers = {**self._headers(face, generated.request_id), **self._limits[face].headers(), **(more or {})}
        if not asked.is_stream:
            return Outgoing((bodies.chat_body(generated),), headers=JSON | headers)
        pieces = bodies.stream_pieces(generated)
        if fault in (FaultKind.STREAM_CUT, FaultKind.STREAM_ERROR):
            pieces = pieces[: len(pieces) // 2]
            if fault is FaultKind.STREAM_ERROR:
                pieces.append(bodies.stream_error(face))
        return Outgoing(tuple(pieces), headers=_EVENTS | headers, is_stream=True)

    def _headers(self, face: Face, request_id: str) -> dict[str, str]:
        own = "X-Generation-Id" if face is Face.OPENROUTER else "x-request-id"
        return {own: request_id, "Server": "batchvision-emulator (no model)"}

    def no(self, face: Face, refusal: Refusal) -> Outgoing:
        """A refusal in the dialect of the face."""
        kind = {"Content-Type": "text/html; charset=utf-8"} if refusal.is_page() else JSON
        headers = {**kind, **self._headers(face, str(uuid.uuid4())), **refusal.headers}
        return Outgoing((refusal.body(face),), refusal.status(face), headers)

    # ------------------------------------------------------------------ deferred

    async def _accept(
        self, generated: Generated, entry: OpenEntry, fault: FaultKind | None, delivery: ResponseDelivery
    ) -> Delivered:
        """Return a ticket. A fault of the BYTES stage is kept for the poll that collects the answer."""
        wait_seconds = self.drawn(self.options.deferred_seconds)
        if fault is FaultKind.TICKET_SLOW:
            wait_seconds += self.options.slow_seconds
        late = fault if fault is not None and fault.stage is Stage.BYTES else None
        name = str(uuid.uuid4())
        self._tickets.accept(name, generated, entry, late, wait_seconds, self.options.ticket_life_seconds)
        await self.wait(self.options.latency_seconds)
        headers = {**JSON, **self._headers(Face.XAI, name), **self._limits[Face.XAI].headers()}
        early = fault if fault is FaultKind.SUBMIT_RESET else None
        return await delivery.send(Outgoing((bodies.ticket_body(name),), headers=headers), early)

    async def poll(self, face: Face, request: web.Request) -> web.StreamResponse:
        """GET chat/deferred-completion/{ticket}: 202 while pending, 200 exactly once, then 404."""
        delivery = ResponseDelivery(request, self.options.slow_seconds, self.leaving)
        name = request.match_info["ticket"]
        try:
            self.check_key(face, request)
            if self.options.polls_count:
                self._limits[face].admit()
            ticket = self._found(name)
        except RequestRefused as refused:
            delivered = await delivery.send(self.no(face, refused.refusal))
        else:
            delivered = await self._polled(name, ticket, delivery)
        self.ledger.polled(delivered.status)
        return delivered.response

    def _found(self, name: str) -> Ticket:
        ticket = self._tickets.find(name)
        if ticket is None:
            raise RequestRefused(Reason.NO_PATH, f"Deferred completion {name} was not found.")
        asked = ticket.generated.asked
        kind = self.faults.pick(asked.content_hash, asked.faults, POLLED)
        if kind is None:
            return ticket
        self.ledger.fault(ticket.entry, kind)
        match kind:
            case FaultKind.POLL_RATE_LIMITED:
                raise self._limits[asked.face].refuse(kind, asked.model)
            case FaultKind.TICKET_LOST:
                self._tickets.forget(name)
                raise RequestRefused(Reason.NO_PATH, f"Deferred completion {name} was not found.")
            case FaultKind.TICKET_FAILED:
                self._tickets.forget(name)
        raise refused_by_fault(kind)

    async def _polled(self, name: str, ticket: Ticket, delivery: ResponseDelivery) -> Delivered:
        if not self._tickets.is_ready(ticket):
            return await delivery.send(Outgoing((b"",), 202, self._headers(Face.XAI, name)))
        self._tickets.forget(name)
        delivered = await delivery.send(self._outgoing(ticket.generated, ticket.fault), ticket.fault)
        if delivered.is_whole:
            self.ledger.delivered(ticket.entry)
        return delivered

    # ------------------------------------------------------------------ lists and accounts

    async def wait(self, seconds: Seconds) -> None:
        drawn = self.drawn(seconds)
        if drawn > 0:
            await asyncio.sleep(drawn)

    def drawn(self, seconds: Seconds) -> float:
        return self._random.uniform(*seconds) if isinstance(seconds, tuple) else seconds


def _note(entry: OpenEntry, asked: ParsedRequest) -> None:
    """Copy what identifies the request into its bill entry."""
    entry.lane = "deferred" if asked.is_deferred else "stream" if asked.is_stream else "online"
    entry.echo, entry.text, entry.content_hash = asked.echo, asked.text[:120], asked.content_hash
