"""Deferred answers that wait to be collected. Each can be read once before it expires. No I/O.

An answer is deleted when it is returned, whether or not it arrives, as xAI does.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

from batchvision.emulator.bodies import Generated
from batchvision.emulator.faults import FaultKind
from batchvision.emulator.ledger import OpenEntry


@dataclass(frozen=True, slots=True)
class Ticket:
    """An accepted request. ``fault`` is of the BYTES stage and applies when the answer is collected."""

    ready_at: float
    gone_at: float
    generated: Generated
    entry: OpenEntry
    fault: FaultKind | None


class Tickets:
    """Accepted requests whose answers are not collected."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: dict[str, Ticket] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def accept(
        self,
        name: str,
        generated: Generated,
        entry: OpenEntry,
        fault: FaultKind | None,
        wait_seconds: float,
        life_seconds: float,
    ) -> None:
        self._drop_expired()
        now = self._clock()
        self._waiting[name] = Ticket(now + wait_seconds, now + life_seconds, generated, entry, fault)

    def find(self, name: str) -> Ticket | None:
        """The ticket, or ``None`` if it is unknown, collected, lost or expired."""
        ticket = self._waiting.get(name)
        if ticket is not None and ticket.gone_at <= self._clock():
            del self._waiting[name]
            return None
        return ticket

    def is_ready(self, ticket: Ticket) -> bool:
        return ticket.ready_at <= self._clock()

    def forget(self, name: str) -> None:
        self._waiting.pop(name, None)

    def _drop_expired(self) -> None:
        """Delete at most two of the oldest tickets if they are expired."""
        now = self._clock()
        for name, ticket in list(itertools.islice(self._waiting.items(), 2)):
            if ticket.gone_at <= now:
                del self._waiting[name]
