"""All batches of all faces. Each call of a client first settles them to the clock's time.

A batch is validated by the first call after its ``validates_at``, so no task runs in the background.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Collection

from aiohttp import web

from batchvision.emulator import bodies
from batchvision.emulator.batches.batch import BatchItem, EmulatedBatch, ItemState
from batchvision.emulator.batches.files import FileStore, UploadedFile
from batchvision.emulator.batches.host import BatchHost
from batchvision.emulator.batches.lines import BatchLine, LineProblem, read_file
from batchvision.emulator.checks import ParsedRequest
from batchvision.emulator.faults import BATCHED, CALLED, VALIDATED, FaultKind, read_markers
from batchvision.emulator.limits import LimitBucket
from batchvision.emulator.options import Face
from batchvision.emulator.pricing import batch_percent
from batchvision.emulator.refusals import Reason, Refusal, RequestRefused

#: Faults of calls that only their own call meets; the faults that are not listed concern each call.
_OF_ONE_CALL = frozenset({FaultKind.UPLOAD_RESET, FaultKind.CREATE_RESET, FaultKind.ADD_RESET, FaultKind.RESULTS_CUT})
#: Requests are answered in portions of this size, so that connections are served in between.
_PORTION = 200


class BatchService:
    """The owner of files and batches. ``emulator`` answers, picks faults and keeps the bill."""

    def __init__(self, emulator: BatchHost) -> None:
        self._emulator = emulator
        self.files = FileStore()
        self._batches: dict[str, EmulatedBatch] = {}
        self._settling = asyncio.Lock()
        self._creates: dict[Face, LimitBucket] = {}

    def now(self) -> float:
        return self._emulator.clock.now()

    def close(self) -> None:
        self.files.close()
        self._batches.clear()

    def refit(self) -> None:
        """Apply changed options."""
        per_second = self._emulator.options.batch_creates_per_second
        self._creates = {}
        if per_second is not None:
            per_minute, most = per_second * 60, max(1.0, per_second)
            self._creates = {face: LimitBucket(per_minute, most, self.now) for face in Face}

    # ------------------------------------------------------------------ files

    async def upload(self, face: Face, request: web.Request) -> tuple[UploadedFile, FaultKind | None]:
        """Store an upload. The fault may be UPLOAD_RESET. Raises RequestRefused."""
        file = await self.files.receive(face, request, self.now())
        try:
            fault = self.fault(file.name, FaultKind.UPLOAD_RESET)
        except RequestRefused:
            self.files.delete(file)
            raise
        self._emulator.ledger.uploaded(file.size)
        return file, fault

    # ------------------------------------------------------------------ batches

    def admit_create(self, face: Face) -> None:
        """Raises RequestRefused with 429 beyond the limits of creates and of open batches."""
        bucket = self._creates.get(face)
        if bucket is not None:
            if bucket.level < 1:
                raise RequestRefused(Reason.REQUESTS, "Too many requests: batches are created too fast.")
            bucket.take(1)
        most = self._emulator.options.batch_max_open
        now = self.now()
        count = sum(batch.is_open(now) for batch in self._batches.values() if batch.face is face)
        if most is not None and count >= most:
            raise RequestRefused(Reason.REQUESTS, f"Too many open batches: {count} of {most}.")

    def create(
        self,
        face: Face,
        *,
        name: str = "",
        metadata: dict[str, str] | None = None,
        endpoint: str = "",
        input_file_id: str | None = None,
    ) -> tuple[EmulatedBatch, FaultKind | None]:
        """Create a batch. The fault may be CREATE_RESET. Raises RequestRefused."""
        emulator, now = self._emulator, self.now()
        validation = emulator.drawn(emulator.options.batch_validation_seconds)
        batch = EmulatedBatch(
            id=f"batch_{uuid.uuid4()}",
            face=face,
            created_at=now,
            expires_at=now + emulator.options.batch_life_seconds,
            validates_at=now + validation if input_file_id is not None else now,
            duration_seconds=emulator.drawn(emulator.options.batch_seconds),
            seed=emulator.options.seed,
            name=name,
            metadata=metadata,
            endpoint=endpoint,
            input_file_id=input_file_id,
            is_validated=input_file_id is None,
            cancel_takes_seconds=validation,
        )
        fault = self.fault(batch.markers, FaultKind.CREATE_RESET)
        self._batches[batch.id] = batch
        emulator.ledger.batch_created()
        return batch, fault

    def find(self, face: Face, batch_id: str) -> EmulatedBatch:
        batch = self._batches.get(batch_id)
        if batch is None or batch.face is not face:
            raise RequestRefused(Reason.NO_PATH, f"No batch found with id '{batch_id}'.")
        return batch

    def listed(self, face: Face) -> list[EmulatedBatch]:
        """The newest first."""
        return [batch for batch in reversed(self._batches.values()) if batch.face is face]

    def add(self, batch: EmulatedBatch, lines: list[BatchLine]) -> None:
        batch.add(lines, self.now())

    async def cancel(self, batch: EmulatedBatch) -> None:
        """Stop a batch. Its answers stay."""
        batch.cancelled_at = min(batch.cancelled_at, self.now())
        await self.settle()

    def fault(self, marked: str, own: FaultKind | None = None) -> FaultKind | None:
        """The fault of a call; ``own`` is the kind that only this call meets. Raises RequestRefused."""
        hashed = hashlib.blake2b(f"{marked}|{own}".encode(errors="replace"), digest_size=8).digest()
        without: Collection[FaultKind] = _OF_ONE_CALL - {own} if own is not None else _OF_ONE_CALL
        markers = read_markers(marked)
        kind = self._emulator.faults.pick(int.from_bytes(hashed, "big"), markers, CALLED, without)
        if kind is not None:
            self._emulator.ledger.fault(None, kind)
        match kind:
            case FaultKind.CALL_ERROR:
                raise RequestRefused(Reason.UNAVAILABLE, "Service temporarily unavailable.")
            case FaultKind.CALL_THROTTLED:
                raise RequestRefused(Reason.REQUESTS, "Too many requests.")
            case _:
                return kind

    # ------------------------------------------------------------------ time

    async def settle(self) -> None:
        """Move all batches to the clock's time."""
        async with self._settling:
            for batch in list(self._batches.values()):
                now = self.now()
                if not batch.is_validated and now >= batch.validates_at:
                    lines = await self._validated(batch)
                    batch.is_validated = True
                    batch.add(lines, batch.validates_at)
                while batch.settle_to(now, self._answer, _PORTION):  # noqa: ASYNC110  other connections are served
                    await asyncio.sleep(0)

    async def _validated(self, batch: EmulatedBatch) -> tuple[BatchLine, ...]:
        """The requests of the input file; none if the batch fails. Quota and models decide at this time, as at the real
        providers."""
        emulator = self._emulator
        try:
            file = self.files.find(batch.face, batch.input_file_id, batch.created_at)
        except RequestRefused as refused:
            return self._failed(batch, [LineProblem("invalid_input_file", refused.refusal.message)])
        if file.path is None:
            return self._failed(batch, [LineProblem("invalid_input_file", "A file of results is no input.")])
        read = await asyncio.to_thread(read_file, batch.face, file.path, emulator.options, emulator.memory)
        problems = [*read.problems, *self._bad_lines(read.lines), *self._over_quota(batch, read.lines)]
        return self._failed(batch, problems) if problems else read.lines

    def _failed(self, batch: EmulatedBatch, problems: list[LineProblem]) -> tuple[BatchLine, ...]:
        batch.problems = tuple(problems)
        if batch.face is Face.XAI:
            batch.cancelled_at = batch.validates_at
        return ()

    def _bad_lines(self, lines: tuple[BatchLine, ...]) -> list[LineProblem]:
        """Lines that the fault BAD_LINE makes invalid."""
        problems = []
        for number, line in enumerate(lines, 1):
            asked = line.asked
            if isinstance(asked, ParsedRequest) and self._emulator.faults.pick(
                asked.content_hash, asked.faults, VALIDATED
            ):
                problems.append(LineProblem("invalid_request", "The emulator was asked to refuse this line.", number))
        return problems

    def _over_quota(self, batch: EmulatedBatch, lines: tuple[BatchLine, ...]) -> list[LineProblem]:
        most = self._emulator.options.batch_max_enqueued_tokens
        if most is None or batch.face is not Face.OPENAI:
            return []
        tokens: dict[str, int] = {}
        for line in lines:
            if isinstance(line.asked, ParsedRequest):
                tokens[line.model] = tokens.get(line.model, 0) + line.asked.text_tokens + line.asked.image_tokens
        for other in self._batches.values():
            if other.face is batch.face and other is not batch:
                for model, enqueued in other.enqueued_tokens().items():
                    tokens[model] = tokens.get(model, 0) + enqueued
        return [
            LineProblem(
                "token_limit_exceeded",
                f"Enqueued token limit reached for {line.model} in organization org-emulator. Limit: {most:,} enqueued "
                "tokens. Please try again once some in_progress batches have been completed.",
            )
            for line in lines[:1]
            if tokens.get(line.model, 0) > most
        ]

    def _answer(self, batch: EmulatedBatch, item: BatchItem) -> None:
        """Answer one request of a batch, or refuse it."""
        emulator, line = self._emulator, item.line
        asked = line.asked
        if not isinstance(asked, ParsedRequest):
            _refuse(item, batch.face, asked)
            return
        entry = emulator.ledger.open(batch.face.value)
        entry.lane, entry.custom_id = "batch", line.custom_id
        entry.echo, entry.text, entry.content_hash = asked.echo, asked.text[:120], asked.content_hash
        try:
            fault = emulator.pick(asked, entry, BATCHED)
            if fault is FaultKind.RESET_BEFORE:
                raise RequestRefused(Reason.SERVER, "Internal server error")
        except RequestRefused as refused:
            _refuse(item, batch.face, refused.refusal)
        else:
            if fault is FaultKind.LINE_MISSING:
                item.state, item.is_missing = ItemState.FAILED, True
            else:
                percent = batch_percent(asked.model, batch.face is Face.XAI) or 100
                generated = emulator.generate(asked, entry, fault, percent)
                item.state, item.status, item.entry = ItemState.SUCCEEDED, 200, entry
                item.document = bodies.chat_document(generated)
                item.is_garbled = fault is FaultKind.LINE_GARBLED
        emulator.ledger.answered(entry, item.status)


def _refuse(item: BatchItem, face: Face, refusal: Refusal) -> None:
    item.state, item.status, item.document = ItemState.FAILED, refusal.status(face), refusal.document(face)
