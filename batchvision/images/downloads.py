"""What downloads have in common: one for each image of a run, remembered within bounds, and room for their bytes.

Rule: whoever asks for the same image while it is on its way waits for that one download; a fault of the content is
remembered like the content, a fault of the way is not.
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
#: Bytes of downloads that are on their way, or being converted. One alone may have all of it.
ROOM_BYTES = 160 * 1024 * 1024
_ENTRY_BYTES = 1024  # what an entry takes without its content

Outcome = Payload | RowFault


@dataclass(slots=True)
class _Flight:
    done: anyio.Event = field(default_factory=anyio.Event)
    outcome: Outcome | None = None  #: stays None where it was cancelled


class Downloads:
    """Payloads by the identity of their URL. For one event loop."""

    def __init__(self, remembered_bytes: int = REMEMBERED_BYTES) -> None:
        self._most_bytes = remembered_bytes
        self._bytes = 0
        self._remembered: OrderedDict[str, Outcome] = OrderedDict()
        self._flights: dict[str, _Flight] = {}

    async def get(self, name: str, download: Callable[[], Awaitable[Payload]]) -> Payload:
        """The payload called ``name``: remembered, awaited with others, or downloaded now. Raises a RowFault."""
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
            raise type(known)(known.message)  # each row has its own: tracebacks would grow
        return known

    def _known(self, name: str) -> Outcome | None:
        known = self._remembered.get(name)
        if known is not None:
            self._remembered.move_to_end(name)
        return known

    async def _fly(self, name: str, download: Callable[[], Awaitable[Payload]]) -> Outcome:
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

    def _remember(self, name: str, outcome: Outcome) -> None:
        size = _size(outcome)
        if size > self._most_bytes // 2:
            return
        self._remembered[name] = outcome
        self._bytes += size
        while self._bytes > self._most_bytes:
            self._bytes -= _size(self._remembered.popitem(last=False)[1])


def _size(outcome: Outcome) -> int:
    if not isinstance(outcome, Payload) or outcome.inline is None:
        return _ENTRY_BYTES
    return _ENTRY_BYTES + len(outcome.inline) + sum(len(page.inline) for page in outcome.more)


class Room:
    """Bytes that may be held at once; who comes first is served first."""

    def __init__(self, total_bytes: int = ROOM_BYTES) -> None:
        self._total = self._free = total_bytes
        self._waiting: deque[tuple[int, anyio.Event]] = deque()

    def share(self) -> Share:
        """A part of it for one download: ``async with room.share() as share: await share.reserve(count)``."""
        return Share(self)

    async def take(self, count: int) -> int:
        """Wait until there is room; how much was taken: never more than all of it."""
        count = min(count, self._total)
        if count <= self._free and not self._waiting:
            self._free -= count
            return count
        entry = (count, anyio.Event())
        self._waiting.append(entry)
        try:
            await entry[1].wait()
        except BaseException:
            if entry[1].is_set():  # served and cancelled at once
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


class Share:
    """What one download holds of the room until its image is ready."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._held = 0

    async def reserve(self, count: int) -> None:
        """Hold ``count`` bytes instead of what was held: nobody waits for more while holding some."""
        self._give_back()
        self._held = await self._room.take(count)

    def _give_back(self) -> None:
        self._room.give_back(self._held)
        self._held = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()
