"""What is durable before and after a request: the exchange as the journal knows it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from batchvision.records.asked import Cell, Lane, Purpose, Tries


class Intent(NamedTuple):
    """Durable before a request is sent; carries all that its result row needs, without the image.

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
    keep: Mapping[str, Cell]  #: by output name, so that a later job with other kept columns can still file it
    has_urls: bool = False
    #: those it was sent under, as ``Prices.record`` names them; empty: none were known; None: not recorded
    prices: Mapping[str, int] | None = None
    purpose: Purpose = Purpose.RUN

    @property
    def is_trial(self) -> bool:
        """Asked to compare settings: the attempt is listed, and the state of its row does not change."""
        return self.purpose is Purpose.SWEEP


class RawAnswer(NamedTuple):
    """What the provider sent, as it came (the key's bytes masked). ``headers``: lower-case names, only the useful ones.

    ``complete`` is False when the body ended before its announced or decodable end.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    received_at: datetime
    complete: bool = True


class EndedWithout(NamedTuple):
    """An exchange that ended without any answer: the ``kind`` of a Transient or RowFault, its message, and when."""

    kind: str
    message: str
    at: datetime


class Exchange(NamedTuple):
    """One attempt as the journal knows it. ``answer`` and ``ended`` both None: it is open, and after a crash its
    request may have been answered and billed. ``ticket`` set: the provider has accepted it and can be asked for the
    answer; ``ticket_at`` is when it did.
    """

    intent: Intent
    ticket: str | None = None
    ticket_at: datetime | None = None
    answer: RawAnswer | None = None
    ended: EndedWithout | None = None
    ticket_place: str | None = None  #: base URL that gave the ticket; None: an earlier version did not note it
    is_unread: bool = False  #: of an earlier run's ticket: no poll of it can have taken the answer

    @property
    def accepted_at(self) -> datetime:
        """When the provider accepted the request."""
        return self.ticket_at or self.intent.sent_at

    @property
    def ended_at(self) -> datetime | None:
        """When the answer arrived, or when the attempt ended without one; None while the exchange is open."""
        if self.answer is not None:
            return self.answer.received_at
        return None if self.ended is None else self.ended.at
