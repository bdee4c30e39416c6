"""The values that pass between a batch dialect and the lane: limits, states, refusals, calls, chunks. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from enum import Enum
from typing import NamedTuple

from batchvision.errors import BatchvisionError, Transient


class BatchLimits(NamedTuple):
    """Limits of a provider, all of them settings. ``None``: no limit is known."""

    max_bytes: int = 200_000_000  #: of an input file
    max_lines: int = 50_000  #: of an input file
    max_open_batches: int | None = None
    max_enqueued_tokens: int | None = None  #: prompt tokens of all open batches of a model
    creates_per_second: float | None = None
    max_call_bytes: int = 20_000_000  #: of one call that adds requests
    calls_per_second: float | None = None  #: calls that add requests
    #: The provider works on a batch for so long; requests without an answer then expire.
    window: timedelta = timedelta(hours=24)
    #: The provider deletes an input file after so long.
    file_lifetime: timedelta = timedelta(days=3)


class BatchState(Enum):
    """The state of a batch, the same for all providers."""

    PREPARING = "preparing"  #: its input is validated, or it has no request yet
    WAITING = "waiting"  #: it is accepted, and no request has been answered
    RUNNING = "running"
    ENDED = "ended"  #: each request has an answer or an error
    EXPIRED = "expired"  #: the window is over; answers until then can be read
    CANCELLED = "cancelled"  #: answers until then can be read
    FAILED = "failed"  #: refused whole; there are no answers

    @property
    def is_final(self) -> bool:
        return self not in (BatchState.PREPARING, BatchState.WAITING, BatchState.RUNNING)


class BatchRefusalKind(Enum):
    """The consequence of a refused call or a failed batch."""

    AGAIN = "again"  #: the call may succeed later; it may have been accepted, so the lane looks before it repeats one
    QUOTA = "quota"  #: other batches must end first
    NOT_OFFERED = "not_offered"  #: the model or the server takes no batches
    LINES = "lines"  #: the lines in ``lines`` are wrong; the rest of the file may be sent again
    DUPLICATE = "duplicate"  #: the batch holds one of the ids already
    GONE = "gone"  #: the provider does not know the batch or the file
    STOP = "stop"  #: the key, the credit: ``error`` stops the run
    REJECTED = "rejected"  #: any further refusal; of a batch: a line that the provider does not name


class BatchRefusal(NamedTuple):
    """A refused call, or the reason of a failed batch. ``lines`` are indexes into the file, from 0."""

    kind: BatchRefusalKind
    message: str
    error: BatchvisionError | None = None
    lines: tuple[int, ...] = ()
    max_enqueued_tokens: int | None = None  #: the limit that the message states

    @property
    def retry_after_seconds(self) -> float | None:
        return self.error.retry_after_seconds if isinstance(self.error, Transient) else None


class BatchCounts(NamedTuple):
    """Requests of a batch by state."""

    total: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def pending(self) -> int:
        return max(0, self.total - self.succeeded - self.failed - self.cancelled)


class BatchLook(NamedTuple):
    """A batch as the provider describes it. ``name`` is ours; ``None`` if the batch was not created by a lane."""

    batch_id: str
    state: BatchState
    counts: BatchCounts = BatchCounts()
    name: str | None = None
    input_file: str | None = None
    output_file: str | None = None
    error_file: str | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None
    refusal: BatchRefusal | None = None  #: of a failed batch
    cost_ticks: int | None = None  #: of the whole batch, where reported


class BatchListing(NamedTuple):
    """One page of the provider's batches, the newest first where the provider sorts them."""

    looks: tuple[BatchLook, ...]
    next_page: str | None = None

    def named(self, name: str) -> tuple[BatchLook, ...]:
        """The batches of that name. A create that was repeated may have made several."""
        return tuple(look for look in self.looks if look.name == name)


class RequestListing(NamedTuple):
    """One page of a batch's requests: our ids that the provider has."""

    ids: tuple[str, ...]
    next_page: str | None = None


#: Separates the parts of an upload. No line of an input file begins like it.
_BOUNDARY = "batchvision-input-file"


class FilePart(NamedTuple):
    """A file to be uploaded as multipart/form-data. The lane streams its content between ``head`` and ``tail``."""

    filename: str
    fields: tuple[tuple[str, str], ...]  #: xAI refuses fields that come after the file

    @property
    def content_type(self) -> str:
        return f"multipart/form-data; boundary={_BOUNDARY}"

    @property
    def head(self) -> bytes:
        parts = [
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in self.fields
        ]
        parts.append(
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{self.filename}"\r\n'
            "Content-Type: application/jsonl\r\n\r\n"
        )
        return "".join(parts).encode()

    @property
    def tail(self) -> bytes:
        return f"\r\n--{_BOUNDARY}--\r\n".encode()


class BatchCall(NamedTuple):
    """One HTTP request. ``path`` (with its query) is relative to the base URL."""

    method: str
    path: str
    json: bytes | None = None
    file: FilePart | None = None


# ---------------------------------------------------------------------------------- chunks


class LineSize(NamedTuple):
    """The size of one line: bytes with its line end, estimated prompt tokens, model."""

    size_bytes: int
    tokens: int = 0
    model: str = ""


class Chunk(NamedTuple):
    """Consecutive lines that go into one file or one call: ``lines`` of them from ``first`` on."""

    first: int
    lines: int
    size_bytes: int
    tokens: int
    model: str


def chunks(sizes: Iterable[LineSize], max_bytes: int, max_lines: int, max_tokens: int | None = None) -> Iterator[Chunk]:
    """Cut lines into chunks of one model. A line above a limit becomes a chunk of its own."""
    first, count, total, tokens, model = 0, 0, 0, 0, ""
    for size in sizes:
        is_full = (
            count >= max_lines
            or total + size.size_bytes > max_bytes
            or (max_tokens is not None and tokens + size.tokens > max_tokens)
            or size.model != model
        )
        if count and is_full:
            yield Chunk(first, count, total, tokens, model)
            first, count, total, tokens = first + count, 0, 0, 0
        count, total, tokens, model = count + 1, total + size.size_bytes, tokens + size.tokens, size.model
    if count:
        yield Chunk(first, count, total, tokens, model)
