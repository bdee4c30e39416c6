"""Wait until tickets outlive this machine: each is in the store of the output before its first poll (P2)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from batchvision.checkpoint.disk import disk_failures


class ReplicatedTickets:
    """``replicate`` puts everything durable to the store. One call serves all tickets that came before it.

    ``name``: of the output, for messages.
    """

    def __init__(self, replicate: Callable[[], Awaitable[None]], name: str) -> None:
        self._replicate = replicate
        self._name = name
        self._here = set[str]()  # tickets that may be on this machine alone
        self._one = asyncio.Lock()

    def add(self, exchange_id: str) -> None:
        """A ticket that is durable on this machine."""
        self._here.add(exchange_id)

    async def outlasts(self, exchange_id: str) -> None:
        """Return when the ticket outlives this machine. Raises StopRun."""
        while exchange_id in self._here:
            async with self._one:
                tickets = self._here.copy()
                if exchange_id in tickets:
                    with disk_failures(f"storing the tickets of {self._name}"):
                        await self._replicate()
                    self._here -= tickets
