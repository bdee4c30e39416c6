"""The parts of the emulator that batches use."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Protocol

from aiohttp import web

from batchvision.emulator.bodies import Generated
from batchvision.emulator.checks import ParsedRequest
from batchvision.emulator.clock import EmulatorClock
from batchvision.emulator.delivery import Outgoing
from batchvision.emulator.faults import FaultKind, FaultPicker, Stage
from batchvision.emulator.ledger import Ledger, OpenEntry
from batchvision.emulator.options import EmulatorOptions, Face, Seconds
from batchvision.emulator.pixels import PictureMemory
from batchvision.emulator.refusals import Refusal


class BatchHost(Protocol):
    """See ``Emulator``, which implements it."""

    options: EmulatorOptions
    clock: EmulatorClock
    memory: PictureMemory
    leaving: asyncio.Event
    ledger: Ledger
    faults: FaultPicker

    def check_key(self, face: Face, request: web.Request) -> None: ...

    def no(self, face: Face, refusal: Refusal) -> Outgoing: ...

    def drawn(self, seconds: Seconds) -> float: ...

    async def wait(self, seconds: Seconds) -> None: ...

    def pick(self, asked: ParsedRequest, entry: OpenEntry, stages: Collection[Stage]) -> FaultKind | None: ...

    def generate(
        self, asked: ParsedRequest, entry: OpenEntry, fault: FaultKind | None, batch_percent: int | None = None
    ) -> Generated: ...
