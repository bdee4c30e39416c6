"""Polls that may have taken the one-time answer of a ticket."""

from __future__ import annotations


class PollWatch:
    """Remembers the doubtful polls of one run."""

    def __init__(self) -> None:
        self._on_the_wire: set[str] = set()  # or cut off there
        self._read: set[str] = set()

    def begin(self, exchange_id: str) -> None:
        """Note that a poll is on the wire. It may take the ticket's one-time answer."""
        self._on_the_wire.add(exchange_id)

    def end(self, exchange_id: str, *, may_be_read: bool) -> None:
        """``may_be_read``: the poll failed in a way that may have taken the answer."""
        self._on_the_wire.discard(exchange_id)
        if may_be_read:
            self._read.add(exchange_id)

    @property
    def doubted(self) -> set[str]:
        return self._read | self._on_the_wire

    def is_doubted(self, exchange_id: str) -> bool:
        return exchange_id in self._read or exchange_id in self._on_the_wire
