"""The records of the journal and of ``open.log``: one frozen value for each kind. ``record_json.py`` has their JSON.

The records of an exchange are ``intent``, perhaps ``ticket``, ``answer`` where one came, then ``closed`` or ``void``.
A ``closed`` record holds everything that the exchange's ledger line and result row need beside intent and raw answer.
So a replay needs no prices, no retry rules and no JSON reader.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from batchvision.records import (
    Answer,
    Attempt,
    AttemptState,
    Completed,
    EndedWithout,
    Exchange,
    Failed,
    Intent,
    Outcome,
    RawAnswer,
)

#: Version of the journal's format. A journal of a later version is refused. Version 1 had no ``closed`` records.
VERSION = 2


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """The first record of a segment. Its fields name the parts, so that a replay overwrites itself."""

    job: str
    run_id: str
    started_at: datetime
    shard: str
    seq: int
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Accepted:
    """The provider has accepted the work and given a ticket.

    ``place``: the base URL that gave it (see ``opening.place_of``). ``is_unread``: journals of version 1 repeat the
    record with it at the end of a run, for tickets that no poll has read.
    """

    exchange_id: str
    ticket: str
    at: datetime
    place: str | None = None
    is_unread: bool = False


class SubmissionStep(StrEnum):
    """How far the provider has taken over a submission of the batch lane."""

    CREATING = "creating"  #: its batch is about to be made, or was made and not acknowledged
    FILLING = "filling"  #: its batch has an id and takes requests
    COMPLETE = "complete"  #: its batch has every request


@dataclass(frozen=True, slots=True)
class Submission:
    """Many requests for one batch of the provider. Each of its exchanges has ``submission_id`` as its ticket.

    The provider's batch bears the same id as its name. A later record replaces an earlier one. An exchange with the
    ticket of a submission that has no record was never sent. ``file_id``: the uploaded file, where there is one.
    """

    submission_id: str
    step: SubmissionStep
    at: datetime
    place: str | None = None
    batch_id: str | None = None
    file_id: str | None = None


@dataclass(frozen=True, slots=True)
class SubmissionEnded:
    """No exchange of the submission is open, and the provider has nothing of it to remove."""

    submission_id: str


@dataclass(frozen=True, slots=True)
class Received:
    """The raw answer, before it is parsed."""

    exchange_id: str
    raw: RawAnswer


@dataclass(frozen=True, slots=True)
class Ended:
    """The exchange ended without an answer. Only journals of version 1 hold this record."""

    exchange_id: str
    ended: EndedWithout


class RowAnswer(NamedTuple):
    """The cells of a result row that neither the intent nor the answer has."""

    output_json: str | None
    answer_columns: Mapping[str, Any]
    row_cost_ticks: int
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class Closed:
    """The classification of an exchange, and the outcome of its row. Without an outcome the row is still pending.

    ``is_held``: the row waits for a run that sends ambiguous rows again. ``is_repeat``: the output has an answer under
    this request already, so the exchange adds a line to the ledger and no result row.
    """

    exchange_id: str
    state: AttemptState
    answer: Answer
    error_kind: str | None = None
    error_message: str | None = None
    bound_ticks: int | None = None
    ended: EndedWithout | None = None
    completed: RowAnswer | None = None
    failed: Failed | None = None
    is_held: bool = False
    is_repeat: bool = False

    def attempt_of(self, exchange: Exchange) -> Attempt:
        """The ledger line of the exchange that this record closes."""
        if self.ended is not None:
            exchange = exchange._replace(ended=self.ended)
        return Attempt(exchange, self.answer, self.state, self.error_kind, self.error_message, self.bound_ticks)


@dataclass(frozen=True, slots=True)
class RowFailed:
    """A row that failed before anything was sent.

    ``is_correction``: the stored failure of the row is replaced, and the row did not fail again.
    """

    failed: Failed
    is_correction: bool = False


@dataclass(frozen=True, slots=True)
class Shared:
    """A result row without an exchange of its own: shared by an identical request, or read again by ``reparse``."""

    completed: Completed


@dataclass(frozen=True, slots=True)
class Voided:
    """The request was never sent. It costs nothing and has no line in the ledger."""

    exchange_id: str


@dataclass(frozen=True, slots=True)
class Carry:
    """Attempts and cost of a row that is still pending. A ``held`` row waits for a run that sends ambiguous rows again.

    ``bound_ticks``: cost bound of its ambiguous attempts. ``empties``: number of empty answers. ``raised``: a truncated
    answer has raised max_tokens.
    """

    row_id: str
    request_key: str
    skip_key: str
    attempts: int
    cost_ticks: int
    runs_failed: int
    held: bool = False
    bound_ticks: int | None = None
    empties: int = 0
    raised: bool = False


@dataclass(frozen=True, slots=True)
class ExchangeRemoved:
    """``open.log`` held the exchange. It is closed or voided since."""

    exchange_id: str


@dataclass(frozen=True, slots=True)
class CarryRemoved:
    """The request is no longer pending."""

    row_id: str
    request_key: str


@dataclass(frozen=True, slots=True)
class FailureRemoved:
    """The row is no longer failed, or a complete pass over the manifest did not meet it."""

    row_id: str


@dataclass(frozen=True, slots=True)
class ReadDoubts:
    """The open tickets whose one-time answer a poll may have taken. ``run_has_ended``: the run ended in order.

    A run that was killed may have polled any open ticket: ``exchange_ids`` is ``None`` then. ``run_id`` is the run that
    has begun or ended.
    """

    run_id: str
    exchange_ids: tuple[str, ...] | None
    run_has_ended: bool


@dataclass(frozen=True, slots=True)
class Sealed:
    """The commit point of a seal: every segment up to ``seq`` is in the parts and in ``open.log``."""

    seq: int


Record = (
    SegmentHeader
    | Intent
    | Accepted
    | Submission
    | SubmissionEnded
    | Received
    | Ended
    | Closed
    | Voided
    | RowFailed
    | Shared
    | Carry
    | ExchangeRemoved
    | CarryRemoved
    | FailureRemoved
    | ReadDoubts
    | Sealed
)


class BookedEnd(Protocol):
    """How an exchange ended: its line in the ledger, and the outcome of its row.

    A row without an outcome is still pending.
    """

    @property
    def attempt(self) -> Attempt: ...

    @property
    def outcome(self) -> Outcome | None: ...


def is_unclear(end: BookedEnd) -> bool:
    """Whether a row is pending after an attempt that may have been billed. ``ambiguous = "hold"`` keeps it pending."""
    return end.outcome is None and end.attempt.state is AttemptState.AMBIGUOUS


def closed(end: BookedEnd, *, is_held: bool = False, is_repeat: bool = False) -> Closed:
    """The record of an end. A redo is no repeat, and holds no row, because its row has an answer."""
    attempt, outcome = end.attempt, end.outcome
    is_redo = attempt.intent.is_redo
    completed = failed = None
    match outcome:
        case Completed():
            completed = RowAnswer(
                outcome.output_json, outcome.answer_columns, outcome.row_cost_ticks, outcome.finished_at
            )
        case Failed():
            failed = outcome
    return Closed(
        attempt.intent.exchange_id,
        attempt.state,
        attempt.answer,
        attempt.error_kind,
        attempt.error_message,
        attempt.bound_ticks,
        attempt.exchange.ended,
        completed,
        failed,
        is_held and not is_redo,
        is_repeat and not is_redo,
    )


def records_of(exchange: Exchange) -> Iterator[Record]:
    """An open exchange as the records that made it."""
    intent = exchange.intent
    yield intent
    if exchange.ticket is not None:
        yield accepted(exchange)
    if exchange.answer is not None:
        yield Received(intent.exchange_id, exchange.answer)


def accepted(exchange: Exchange) -> Accepted:
    """The record of the exchange's ticket."""
    intent = exchange.intent
    if exchange.ticket is None:
        raise RuntimeError("an exchange without a ticket was recorded as accepted")
    at = exchange.ticket_at or intent.sent_at
    return Accepted(intent.exchange_id, exchange.ticket, at, exchange.ticket_place)
