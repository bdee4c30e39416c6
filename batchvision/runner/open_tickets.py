"""Tickets of earlier runs: which ones a run may collect, which wait for another place, and which have expired.

A ticket is collected where it was given: at the same provider and base URL. The account is not noted, since no trace
of the key may be written. A place that does not know a ticket answers 404, and the ticket waits
(``Exchanges.collect``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple
from urllib.parse import urlsplit

from batchvision.errors import Expired, JobInvalid
from batchvision.providers import Dialect, dialect
from batchvision.records import EndedWithout, Exchange


def place_of(base_url: str) -> str:
    """``base_url`` without user, query and fragment: where a ticket is given and read."""
    parts = urlsplit(base_url)
    host = (parts.netloc.rpartition("@")[2]).lower()
    return f"{parts.scheme.lower()}://{host}{parts.path.rstrip('/')}"


class OpenTickets(NamedTuple):
    """Open tickets of earlier runs."""

    here: tuple[Exchange, ...] = ()  #: this run may collect them
    elsewhere: tuple[Exchange, ...] = ()  #: they wait for a run at the place that gave them
    expired: tuple[Exchange, ...] = ()  #: of another place and older than any answer is kept

    @classmethod
    def sorted(cls, tickets: Iterable[Exchange], provider: str, place: str, now: datetime) -> OpenTickets:
        """Tickets without a place are of an earlier version, and belong to any place of their provider."""
        here, elsewhere, expired = list[Exchange](), list[Exchange](), list[Exchange]()
        for exchange in tickets:
            if exchange.intent.provider == provider and exchange.ticket_place in (None, place):
                here.append(exchange)
            elif now < _kept_until(exchange):
                elsewhere.append(exchange)
            else:
                expired.append(_expired(exchange, now))
        return cls(tuple(here), tuple(elsewhere), tuple(expired))

    @property
    def not_here_ticks(self) -> int:
        """What those that are not collected here may have cost."""
        return sum(exchange.intent.bound_ticks or 0 for exchange in (*self.elsewhere, *self.expired))

    def sentences(self) -> Iterator[str]:
        """For people."""
        if self.here:
            yield f"{len(self.here)} tickets of earlier runs are open and will be collected"
        for where, count in sorted(Counter(map(_named_place, self.elsewhere)).items()):
            last = min(_kept_until(each) for each in self.elsewhere if _named_place(each) == where)
            yield (
                f"{count} open tickets were given by {where} and wait there until {last:%Y-%m-%d %H:%M} UTC: a run "
                "with that provider and base_url collects them; later they are booked as expired"
            )
        if self.expired:
            yield (
                f"{len(self.expired)} tickets of another provider or base_url were never collected and have expired; "
                "they may have been billed"
            )


def _lifetime(exchange: Exchange) -> timedelta:
    try:
        return dialect(exchange.intent.provider).ticket_lifetime
    except JobInvalid:  # the package of its provider is not installed any longer
        return Dialect.ticket_lifetime


def _kept_until(exchange: Exchange) -> datetime:
    return exchange.accepted_at + _lifetime(exchange)


def _named_place(exchange: Exchange) -> str:
    return f"{exchange.intent.provider} at {exchange.ticket_place or 'an unknown base_url'}"


def _expired(exchange: Exchange, now: datetime) -> Exchange:
    hours = _lifetime(exchange).total_seconds() / 3600
    message = (
        f"ticket {exchange.ticket} of {_named_place(exchange)} is older than {hours:g} hours and was not collected"
    )
    return exchange._replace(ended=EndedWithout(Expired.kind, message, now))
