"""Download each image once a run (single-flight), remember results within bounds, and bound the bytes in memory.

Callers that ask for the same image during its download wait for it. A fault of the content is remembered like the
content. A failed connection is not.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import anyio

from batchvision.errors import ImageUnreachable, RowFault
from batchvision.records import Payload

REMEMBERED_BYTES = 64 * 1024 * 1024
#: Bound of the bytes of downloads that arrive or are converted. A single download may use the whole bound.
MAX_BYTES = 160 * 1024 * 1024
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


class DownloadBudget:
    """A bounded number of bytes; waiters are served in order."""

    def __init__(self, total_bytes: int = MAX_BYTES) -> None:
        self._total = self._free = total_bytes
        self._waiting: deque[tuple[int, anyio.Event]] = deque()

    def reservation(self) -> Reservation:
        """A part for one download: ``async with budget.reservation() as held: await held.reserve(count)``."""
        return Reservation(self)

    async def take(self, count: int) -> int:
        """Wait for ``count`` bytes, or for the whole budget. Returns the number of bytes taken."""
        count = min(count, self._total)
        if count <= self._free and not self._waiting:
            self._free -= count
            return count
        entry = (count, anyio.Event())
        self._waiting.append(entry)
        try:
            await entry[1].wait()
        except BaseException:
            if entry[1].is_set():  # served and cancelled in one iteration of the loop
                self.give_back(count)
            else:
                self._waiting.remove(entry)
                self.give_back(0)
            raise
        return count

    def give_back(self, count: int) -> None:
        self._free += count
        while self._waiting and self._waiting[0][0] <= self._free:
            count, event = self._waiting.popleft()
            self._free -= count
            event.set()


class Reservation:
    """The bytes that one download holds until its image is ready."""

    def __init__(self, budget: DownloadBudget) -> None:
        self._budget = budget
        self._held = 0

    async def reserve(self, count: int) -> None:
        """Give back the held bytes, then wait for ``count``: no download waits while it holds bytes."""
        self._give_back()
        self._held = await self._budget.take(count)

    def _give_back(self) -> None:
        self._budget.give_back(self._held)
        self._held = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()
