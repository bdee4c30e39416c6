"""The calls of a run to the batches of its provider. A call that fails on the way is made again, if it may be."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, TypeVar

import anyio

from batchvision.errors import (
    BatchvisionError,
    ConnectFailed,
    ModelNotFound,
    RateLimited,
    RequestsRejected,
    StopRun,
    Transient,
)
from batchvision.http import FileUpload
from batchvision.limits import RateLimiter
from batchvision.providers import BatchCall, BatchDialect, BatchLook, BatchRefusal, BatchRefusalKind, BatchResult
from batchvision.records import RawAnswer
from batchvision.runner.provider_calls import ProviderCalls

#: An upload of 200 MB over a slow line takes so long.
UPLOAD_SECONDS = 3_600.0
FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 60.0
READ_BYTES = 256 * 1024

R = TypeVar("R")


class BatchCalls:
    """Sends the calls of one batch dialect. Each method raises StopRun where the provider stays away or the key fails.

    ``rate`` counts the failures on the way, so that an outage is waited for as in the other lanes.
    """

    def __init__(self, dialect: BatchDialect, provider: ProviderCalls, rate: RateLimiter) -> None:
        self.dialect = dialect
        self._provider = provider
        self._rate = rate

    async def upload(self, path: Path, name: str, lifetime: timedelta) -> str | BatchRefusal:
        """Upload an input file, and return its id. A second upload after a lost answer costs nothing."""
        return await self._repeated(self.dialect.upload(name, lifetime), self.dialect.read_uploaded, path)

    async def create(self, name: str, file_id: str) -> BatchLook | BatchRefusal | None:
        """Create the batch of a file. ``None``: the answer was lost, so :meth:`find` must tell what became of it."""
        try:
            found = self.dialect.read_created(await self._sent(self.dialect.create(name, file_id)))
        except ConnectFailed as error:
            self._failed(error)
            return BatchRefusal(BatchRefusalKind.AGAIN, str(error), error)
        except Transient as error:
            self._failed(error)
            return None
        if isinstance(found, BatchRefusal) and found.kind is BatchRefusalKind.AGAIN:
            was_too_fast = isinstance(found.error, RateLimited)  # then it was surely not accepted
            return found if was_too_fast else None
        return found

    async def find(self, name: str) -> BatchLook | None:
        """Our batch of that name, from all pages of the provider's list. ``None``: it was not created."""
        page: str | None = None
        while True:
            listing = await self._repeated(self.dialect.list_batches(page), self.dialect.read_listing)
            if isinstance(listing, BatchRefusal):
                raise stop_of(listing)
            if named := listing.named(name):
                return named[0]
            if listing.next_page is None:
                return None
            page = listing.next_page

    async def look(self, batch_id: str) -> BatchLook | BatchRefusal:
        return await self._repeated(self.dialect.look(batch_id), self.dialect.read_look)

    async def cancel(self, batch_id: str) -> BatchLook | BatchRefusal:
        return await self._repeated(self.dialect.cancel(batch_id), self.dialect.read_look)

    async def results(self, look: BatchLook) -> AsyncIterator[BatchResult]:
        """The results that can be read now. They may be read again, and some come again."""
        calls = list(self.dialect.results(look))
        while calls:
            call = calls.pop(0)
            with TemporaryFile(prefix="batchvision-results-") as file:
                delay = FIRST_DELAY_SECONDS
                while True:
                    file.seek(0)
                    file.truncate()
                    raw = await self._repeated(call, lambda raw: raw, into=file)
                    if raw.complete:
                        break
                    await anyio.sleep(delay)
                    delay = min(2 * delay, LONGEST_DELAY_SECONDS)
                if not 200 <= raw.status < 300:
                    raise stop_of(self.dialect.refusal(raw))
                reader = self.dialect.results_reader(raw.received_at)
                file.seek(0)
                while piece := file.read(READ_BYTES):
                    for result in reader.feed(piece):
                        yield result
                for result in reader.end():
                    yield result
            if reader.problem is not None:
                await anyio.sleep(FIRST_DELAY_SECONDS)
                calls.insert(0, call)
            elif reader.next_page is not None:
                calls += self.dialect.results(look, reader.next_page)

    async def remove(self, look: BatchLook) -> None:
        """Remove the files of a batch. What stays expires at the provider."""
        for file_id in filter(None, (look.input_file, look.output_file, look.error_file)):
            try:
                await self._sent(self.dialect.delete_file(file_id))
            except Transient:
                return

    # ---------------------------------------------------------------------------- one call

    async def _repeated(
        self, call: BatchCall, read: Callable[[RawAnswer], R], path: Path | None = None, into: BinaryIO | None = None
    ) -> R:
        """Make a call that may be repeated, until its answer is more than "again"."""
        delay = FIRST_DELAY_SECONDS
        while True:
            try:
                found = read(await self._sent(call, path, into))
                error: BatchvisionError | None = None
                if isinstance(found, BatchRefusal) and found.kind is BatchRefusalKind.AGAIN:
                    error = found.error
                if error is None:
                    return found
            except Transient as fault:
                error = fault
            self._failed(error)
            await anyio.sleep(max(delay, error.retry_after_seconds or 0.0 if isinstance(error, Transient) else 0.0))
            delay = min(2 * delay, LONGEST_DELAY_SECONDS)

    async def _sent(self, call: BatchCall, path: Path | None = None, into: BinaryIO | None = None) -> RawAnswer:
        body: bytes | FileUpload | None = call.json
        headers = {}
        if call.file is not None and path is not None:
            body = FileUpload(path, call.file.head, call.file.tail)
            headers = {"Content-Type": call.file.content_type}
        seconds = UPLOAD_SECONDS if call.file is not None or into is not None else None
        raw = await self._provider.call(call.method, call.path, body, headers, seconds, into)
        self._rate.observe(None)
        return raw

    def _failed(self, error: BatchvisionError) -> None:
        """Count a failure on the way. Raises StopRun if the provider is away for too long."""
        if reason := self._rate.observe(error):
            raise reason


def stop_of(refusal: BatchRefusal) -> StopRun:
    """The reason to stop the run after a refusal that no row has caused."""
    if isinstance(refusal.error, StopRun):
        return refusal.error
    if refusal.kind is BatchRefusalKind.NOT_OFFERED:
        return ModelNotFound(f'{refusal.message}. Set delivery.lane to "online", or choose a model with batches')
    return RequestsRejected(f"the provider refuses the batch: {refusal.message}")
