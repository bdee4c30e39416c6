"""Download each image once a run (single-flight), and remember results within bounds.

Callers that ask for the same image during its download wait for it. A fault of the content is remembered like the
content. A failed connection is not.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio

from batchvision.errors import ImageUnreachable, RowFault
from batchvision.records import Payload

REMEMBERED_BYTES = 64 * 1024 * 1024
_ENTRY_BYTES = 1024  # an entry without its content

DownloadResult = Payload | RowFault


@dataclass(slots=True)
class _Flight:
    done: anyio.Event = field(default_factory=anyio.Event)
    outcome: DownloadResult | None = None  #: stays ``None`` after a cancellation


class Downloads:
    """Payloads by the identity of their URL. For one event loop."""

    def __init__(self, remembered_bytes: int = REMEMBERED_BYTES) -> None:
        self._most_bytes = remembered_bytes
        self._bytes = 0
        self._remembered: OrderedDict[str, DownloadResult] = OrderedDict()
        self._flights: dict[str, _Flight] = {}

    async def get(self, name: str, download: Callable[[], Awaitable[Payload]]) -> Payload:
        """Return the payload called ``name``: remembered, in download, or downloaded now. Raises a RowFault."""
        while (known := self._known(name)) is None:
            flight = self._flights.get(name)
            if flight is None:
                known = await self._fly(name, download)
                break
            await flight.done.wait()
            if flight.outcome is not None:
                known = flight.outcome
                break
        if isinstance(known, RowFault):
            raise type(known)(known.message)  # a new error for each row: the traceback of a shared one would grow
        return known

    def _known(self, name: str) -> DownloadResult | None:
        known = self._remembered.get(name)
        if known is not None:
            self._remembered.move_to_end(name)
        return known

    async def _fly(self, name: str, download: Callable[[], Awaitable[Payload]]) -> DownloadResult:
        flight = self._flights[name] = _Flight()
        try:
            try:
                flight.outcome = await download()
            except RowFault as fault:
                flight.outcome = fault.with_traceback(None)
        finally:
            del self._flights[name]
            flight.done.set()
        if not isinstance(flight.outcome, ImageUnreachable):
            self._remember(name, flight.outcome)
        return flight.outcome

    def _remember(self, name: str, outcome: DownloadResult) -> None:
        size = _size(outcome)
        if size > self._most_bytes // 2:
            return
        self._remembered[name] = outcome
        self._bytes += size
        while self._bytes > self._most_bytes:
            self._bytes -= _size(self._remembered.popitem(last=False)[1])


def _size(outcome: DownloadResult) -> int:
    if not isinstance(outcome, Payload) or outcome.inline is None:
        return _ENTRY_BYTES
    return _ENTRY_BYTES + len(outcome.inline) + sum(len(page.inline) for page in outcome.more)
