"""Exchanges (intent, ticket, raw answer or end), their attempts in the ledger, and the outcomes of rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from batchvision.records.requests import Cell, Lane, Purpose, Tries


class Intent(NamedTuple):
    """A request that is about to be sent. It is durable first, and holds the cells of its result row but the answer.

    ``exchange_id`` is unique in the output. ``attempt`` is the 1-based number in the ledger of this request_key.
    """

    exchange_id: str
    row_id: str
    request_key: str
    recipe_id: str
    skip_key: str
    run_id: str
    lane: Lane
    provider: str
    model_requested: str
    attempt: int
    tries: Tries
    bound_ticks: int | None
    cost_before_ticks: int
    runs_failed: int
    sent_at: datetime
    image_ref: tuple[str, ...]
    image_sha256: tuple[str | None, ...]
    keep: Mapping[str, Cell]  #: by column name of the output, so that a job with other kept columns can use it
    has_urls: bool = False
    #: the prices at its sending, as ``Prices.record`` names them; empty: unknown; ``None``: not recorded
    prices: Mapping[str, int] | None = None
    purpose: Purpose = Purpose.RUN

    @property
    def is_trial(self) -> bool:
        """Asked to compare settings: the attempt is listed, and the state of its row does not change."""
        return self.purpose is Purpose.SWEEP

    @property
    def is_redo(self) -> bool:
        """Its answer supersedes an older one. If it fails, the older one stays."""
        return self.purpose is Purpose.REDO


class RawAnswer(NamedTuple):
    """The provider's bytes, with the key masked. ``headers``: the useful ones, with lower-case names.

    ``complete`` is False if the body ended before its announced or decodable end.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    received_at: datetime
    complete: bool = True


class EndedWithout(NamedTuple):
    """The end of an exchange without an answer: the ``kind`` of a Transient or RowFault, its message, and the time."""

    kind: str
    message: str
    at: datetime


class Exchange(NamedTuple):
    """One attempt as the journal holds it.

    Without ``answer`` and ``ended`` it is open; after a crash its request may have been answered and billed. With a
    ``ticket`` the provider has accepted it, at ``ticket_at``, and can be polled for the answer.
    """

    intent: Intent
    ticket: str | None = None
    ticket_at: datetime | None = None
    answer: RawAnswer | None = None
    ended: EndedWithout | None = None
    ticket_place: str | None = None  #: the base URL that gave the ticket; ``None`` in journals of earlier versions

    @property
    def accepted_at(self) -> datetime:
        """When the provider accepted the request."""
        return self.ticket_at or self.intent.sent_at

    @property
    def ended_at(self) -> datetime | None:
        """When the answer arrived, or when the attempt ended without one. ``None`` while the exchange is open."""
        if self.answer is not None:
            return self.answer.received_at
        return None if self.ended is None else self.ended.at


class Usage(NamedTuple):
    """Tokens and money of one answer, normalised: ``completion_tokens`` never includes ``reasoning_tokens``."""

    prompt_tokens: int | None = None
    image_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_ticks: int | None = None
    cost_source: str = "unknown"  #: reported | computed | shared | cached | unknown

    @property
    def total_tokens(self) -> int | None:
        """The tokens of a tokens-a-minute limit: prompt (images and cached included), completion and reasoning."""
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return self.prompt_tokens + self.completion_tokens + (self.reasoning_tokens or 0)


class Answer(NamedTuple):
    """The parsed answer of a provider. ``text`` is the content verbatim; "" without content.

    An answer may stand beside an error (refused, truncated, an error in a choice; see ``providers.Reading``). Then it
    holds the facts that were read before the error.
    """

    text: str = ""
    finish_reason: str | None = None
    usage: Usage = Usage()
    model: str | None = None
    upstream_provider: str | None = None
    provider_request_id: str | None = None
    system_fingerprint: str | None = None
    service_tier: str | None = None
    reasoning_text: str | None = None  #: thoughts beside the content


class AttemptState(StrEnum):
    """How one attempt ended."""

    OK = "ok"  #: its answer completed the row
    RETRIED = "retried"  #: it failed, and the row is or was tried again
    FAILED = "failed"  #: it failed, and the row with it
    AMBIGUOUS = "ambiguous"  #: its end is unknown; it may have been billed
    LOST_AFTER_READ = "lost_after_read"  #: a one-time answer was read and never arrived


class Attempt(NamedTuple):
    """One row of the attempts ledger: an exchange, its answer as read, and how it ended."""

    exchange: Exchange
    answer: Answer
    state: AttemptState
    error_kind: str | None = None
    error_message: str | None = None
    bound_ticks: int | None = None  #: the most it can have cost; set if it may have been billed at an unknown cost

    @property
    def intent(self) -> Intent:
        return self.exchange.intent

    @property
    def http_status(self) -> int | None:
        raw = self.exchange.answer
        return None if raw is None else raw.status

    @property
    def raw_answer(self) -> str | None:
        raw = self.exchange.answer
        return None if raw is None else raw.body.decode("utf-8", "replace")

    @property
    def latency_ms(self) -> int | None:
        ended_at = self.exchange.ended_at
        if ended_at is None:
            return None
        return max(0, round((ended_at - self.intent.sent_at).total_seconds() * 1000))


class Completed(NamedTuple):
    """A row of ``results``: the intent of the attempt that completed it, and the answer, read and checked.

    ``answer_columns`` holds the typed values by column name (``answer_label`` ...). The intent of a row without an
    attempt of its own (a shared answer) has ``attempt`` 0.
    """

    intent: Intent
    answer: Answer
    output_json: str | None
    answer_columns: Mapping[str, Any]
    row_cost_ticks: int
    finished_at: datetime
    updated_at: datetime | None = None  #: set for an older answer that was read again; otherwise ``None``

    @property
    def row_id(self) -> str:
        return self.intent.row_id

    @property
    def request_key(self) -> str:
        return self.intent.request_key

    @property
    def skip_key(self) -> str:
        return self.intent.skip_key


@dataclass(frozen=True, slots=True)
class Failed:
    """A row of ``failures``. ``request_key`` is ``None`` if the row never became a request."""

    row_id: str
    request_key: str | None
    skip_key: str
    recipe_id: str
    error_kind: str
    error_message: str
    last_error_kind: str | None
    attempt_count: int
    row_cost_ticks: int
    runs_failed: int
    quarantined: bool
    last_output_text: str | None
    failed_at: datetime
    run_id: str
    keep: Mapping[str, Cell]
    image_ref: tuple[str, ...] = ()  #: redacted; empty in failures of earlier versions
    at_provider: bool = False  #: counts toward limits.max_failed (not stored)


Outcome = Completed | Failed
