"""A batch dialect: how a provider takes many requests at once, and how its answers are read. Sans-IO, no clock.

Each call is a plain value (:class:`BatchCall`); the lane sends it, journals, and gives the answer to the reader of that
call. A reader returns its value or a :class:`BatchRefusal`; it never raises. ``batch_openai`` and ``batch_xai`` hold
the two dialects, ``batch_values`` the values, ``batch_results`` reads results.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, time, timedelta
from typing import Any, ClassVar
from urllib.parse import quote

from batchvision.errors import AnswerCutShort, BatchvisionError, Expired, ServerError, StopRun, Transient
from batchvision.providers import faults, wire
from batchvision.providers.base import Dialect
from batchvision.providers.batch_results import ResultsReader
from batchvision.providers.batch_values import (
    BatchCall,
    BatchLimits,
    BatchListing,
    BatchLook,
    BatchRefusal,
    BatchRefusalKind,
    BatchState,
    RequestListing,
)
from batchvision.records import RawAnswer

#: The URL of each line. Results of other endpoints have another form.
CHAT_URL = "/v1/chat/completions"
#: Batches of a listing, requests of a listing.
PAGE_SIZE = 100

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def checked_id(our_id: str) -> str:
    """``our_id``, if each provider accepts it. Raises ValueError."""
    if not _ID.fullmatch(our_id):
        raise ValueError(f"{our_id!r} is no id of a batch's request: use 1 to 64 of A-Z, a-z, 0-9, _ and -")
    return our_id


# ---------------------------------------------------------------------------------- the contract


class BatchDialect(ABC):
    """The calls of a provider's batches and the readers of their answers. Instances hold no state."""

    #: Whether requests can be added to an empty batch, without a file.
    takes_adds: ClassVar[bool] = False
    #: Whether a file may hold one model only.
    is_one_model_per_file: ClassVar[bool] = True
    #: The usual limits.
    usual_limits: ClassVar[BatchLimits] = BatchLimits()

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect

    def limits(self, base_url: str) -> BatchLimits:
        """The usual limits of the server at ``base_url``."""
        return self.usual_limits

    # ------------------------------------------------------------------ input

    def line(self, our_id: str, body: bytes) -> bytes:
        """The line of one request in an input file. ``body`` is inserted unchanged. Raises ValueError."""
        if b"\n" in body:
            raise ValueError(f"the body of request {our_id} holds a line end")
        return b'{"custom_id":"%b","method":"POST","url":"%b","body":%b}\n' % (
            checked_id(our_id).encode(),
            CHAT_URL.encode(),
            body,
        )

    # ------------------------------------------------------------------ calls

    @abstractmethod
    def upload(self, filename: str, lifetime: timedelta) -> BatchCall:
        """Upload an input file, which the provider deletes after ``lifetime``."""

    @abstractmethod
    def create(self, name: str, input_file: str | None = None) -> BatchCall:
        """Create a batch under our ``name``, of an uploaded file or empty."""

    def add(self, batch_id: str, requests: Iterable[tuple[str, bytes]]) -> BatchCall:
        """Add requests (our id and body) to a batch that was created empty."""
        raise NotImplementedError(f"batches of {self.dialect.name} are made of files")

    def look(self, batch_id: str) -> BatchCall:
        return BatchCall("GET", f"/batches/{segment(batch_id)}")

    @abstractmethod
    def list_batches(self, page: str | None = None) -> BatchCall:
        """One page of the account's batches. ``page``: ``next_page`` of the page before."""

    def list_requests(self, batch_id: str, page: str | None = None) -> BatchCall | None:
        """One page of a batch's requests; ``None`` where a batch holds exactly the lines of its file."""
        return None

    @abstractmethod
    def cancel(self, batch_id: str) -> BatchCall:
        """Cancel a batch. Its finished answers stay."""

    @abstractmethod
    def results(self, look: BatchLook, page: str | None = None) -> tuple[BatchCall, ...]:
        """The calls for the results that can be read now, or for the next ``page`` that a reader names."""

    def delete_file(self, file_id: str) -> BatchCall:
        return BatchCall("DELETE", f"/files/{segment(file_id)}")

    # ------------------------------------------------------------------ readers

    def read_uploaded(self, raw: RawAnswer) -> str | BatchRefusal:
        """The id of the uploaded file."""
        document = object_of(raw)
        file_id = wire.text(document.get("id")) if document is not None else None
        return self.refusal(raw, is_first_call=True) if file_id is None else file_id

    def read_created(self, raw: RawAnswer) -> BatchLook | BatchRefusal:
        """The created batch."""
        return self._read_batch(raw, is_first_call=True)

    def read_added(self, raw: RawAnswer) -> BatchRefusal | None:
        """``None``: the requests are added."""
        return None if is_success(raw) else self.refusal(raw)

    def read_look(self, raw: RawAnswer) -> BatchLook | BatchRefusal:
        """The batch; also the answer to ``cancel``."""
        return self._read_batch(raw, is_first_call=False)

    def _read_batch(self, raw: RawAnswer, *, is_first_call: bool) -> BatchLook | BatchRefusal:
        document = object_of(raw)
        found = None if document is None else self._look_of(document, raw.received_at)
        return self.refusal(raw, is_first_call=is_first_call) if found is None else found

    def read_listing(self, raw: RawAnswer) -> BatchListing | BatchRefusal:
        """One page of batches. A body that cannot be read is never an empty page."""
        document = object_of(raw)
        listing = None if document is None else self._listing_of(document, raw.received_at)
        return self.refusal(raw) if listing is None else listing

    def read_requests(self, raw: RawAnswer) -> RequestListing | BatchRefusal:
        """One page of a batch's requests. A body that cannot be read is never an empty page."""
        raise NotImplementedError(f"{self.dialect.name} lists no requests of a batch")

    def read_deleted(self, raw: RawAnswer) -> BatchRefusal | None:
        """``None``: the file is gone."""
        return None if is_success(raw) or raw.status in (404, 410) else self.refusal(raw)

    @abstractmethod
    def results_reader(self, at: datetime) -> ResultsReader:
        """A reader for the successful answer to one call of ``results``. ``at``: when it arrives."""

    @abstractmethod
    def _look_of(self, document: Mapping[str, Any], now: datetime) -> BatchLook | None:
        """The batch in a JSON object, if there is one."""

    @abstractmethod
    def _listing_of(self, document: Mapping[str, Any], now: datetime) -> BatchListing | None:
        """The batches in a JSON object, if it is a list of batches."""

    # ------------------------------------------------------------------ refusals

    def refusal(self, raw: RawAnswer, *, is_first_call: bool = False) -> BatchRefusal:
        """The meaning of a refused call. ``is_first_call``: a 404 means that the server has no batches."""
        error = self.dialect.read(raw).error
        words = faults.error_text(wire.document_of(raw.body))
        message = f"{self.dialect.name} answered {raw.status} with an unexpected body"
        if error is not None and not is_success(raw):
            message = error.what
        by_words = kind_of(words)
        if by_words is not None:
            return BatchRefusal(by_words, message, error, max_enqueued_tokens=stated_tokens(words))
        if raw.status in (404, 405, 410, 501):
            is_missing = raw.status != 501 and (not is_first_call or "file" in words.lower())
            kind = BatchRefusalKind.GONE if is_missing else BatchRefusalKind.NOT_OFFERED
        elif raw.status == 409:  # a batch that has ended cannot be cancelled
            kind = BatchRefusalKind.REJECTED
        elif is_success(raw) or error is None:
            kind, error = BatchRefusalKind.AGAIN, AnswerCutShort(message)
        elif isinstance(error, Transient):
            kind = BatchRefusalKind.AGAIN
        else:
            kind = BatchRefusalKind.STOP if isinstance(error, StopRun) else BatchRefusalKind.REJECTED
        return BatchRefusal(kind, message, error)

    def unanswered(self, look: BatchLook) -> BatchvisionError:
        """The error of a request that a final batch answers with nothing."""
        match look.state:
            case BatchState.EXPIRED:
                return Expired(f"batch {look.batch_id} expired before this request was answered")
            case BatchState.CANCELLED:
                return Expired(f"batch {look.batch_id} was cancelled before this request was answered")
            case BatchState.FAILED:
                why = look.refusal.message if look.refusal is not None else "the provider gives no reason"
                return ServerError(f"batch {look.batch_id} failed before any request was answered: {why}")
            case _ if look.counts.cancelled:
                return Expired(f"batch {look.batch_id} ended before this request was answered")
            case _:
                return AnswerCutShort(f"batch {look.batch_id} has ended, and its results do not hold this request")


# ---------------------------------------------------------------------------------- words of refusals

_NOT_OFFERED = re.compile(
    r"not supported (?:for|by|in|with) (?:the )?batch|does(?: not|n't) support (?:the )?batch"
    r"|batch(?:es| processing| api| inference)? (?:is|are) not (?:supported|available|enabled|allowed)",
    re.IGNORECASE,
)
_QUOTA = re.compile(
    r"enqueued token|token_limit_exceeded|too many (?:open|active|pending|running|concurrent) batch"
    r"|(?:maximum|max\.?|limit) (?:number )?of (?:open|active|pending|running|concurrent) batch",
    re.IGNORECASE,
)
_DUPLICATE = re.compile(
    r"(?:request_id|custom_id|request id)\b.{0,100}?\b(?:already|exists|duplicate)|duplicate (?:request|custom|batch)",
    re.IGNORECASE,
)
_STATED_TOKENS = re.compile(r"limit:?\s*(\d[\d,]{0,18})\s*(?:enqueued )?tokens", re.IGNORECASE)


def kind_of(words: str) -> BatchRefusalKind | None:
    """The kind that the provider's words name, if any."""
    kinds = (
        (_NOT_OFFERED, BatchRefusalKind.NOT_OFFERED),
        (_QUOTA, BatchRefusalKind.QUOTA),
        (_DUPLICATE, BatchRefusalKind.DUPLICATE),
    )
    return next((kind for pattern, kind in kinds if pattern.search(words)), None)


def stated_tokens(words: str) -> int | None:
    """The limit of enqueued tokens in a message."""
    stated = _STATED_TOKENS.search(words)
    return int(stated[1].replace(",", "")) if stated else None


# ---------------------------------------------------------------------------------- small readers


def is_success(raw: RawAnswer) -> bool:
    return 200 <= raw.status < 300 and raw.complete


def object_of(raw: RawAnswer) -> Mapping[str, Any] | None:
    """The JSON object of a successful answer; ``None`` for any other body."""
    value = wire.document_of(raw.body).value if is_success(raw) else None
    return value if isinstance(value, dict) else None


def segment(name: str) -> str:
    """An id of the provider as one segment of a path."""
    return quote(name, safe="")


def moment(value: object, *, ends_day: bool = False) -> datetime | None:
    """A time in UTC: seconds since 1970, RFC 3339, or a date. ``ends_day``: a date means the end of its day."""
    seconds = wire.count(value)
    if seconds is not None:
        return datetime.fromtimestamp(seconds, UTC) if 0 < seconds < 253_402_300_800 else None
    text = value if isinstance(value, str) else ""
    try:
        found = datetime.fromisoformat(text)
        if len(text) == len("2026-11-20") and ends_day:
            found = datetime.combine(found.date(), time.max)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
