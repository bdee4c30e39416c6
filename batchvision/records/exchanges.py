"""Exchanges: the intent before a request, its ticket, and its raw answer or end."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

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
    is_unread: bool = False  #: no poll of this ticket of an earlier run can have taken the answer

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
