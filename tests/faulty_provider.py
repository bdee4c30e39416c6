"""A provider in memory with the faults of a schedule, for virtual time. Its bill is compared with the ledger.

``delivered``: cost of the answers that arrived whole. ``unseen``: cost of the answers that did not arrive.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import anyio
from fake_provider import Reply, chat, error, inline, virtual_now
from fault_schedule import Fate, FaultSchedule, Nature, Phase
from provider_transports import InMemoryProvider

from batchvision.checkpoint import Disk
from batchvision.errors import ConnectFailed, ConnectionCut, RequestTimedOut
from batchvision.records import RawAnswer
from batchvision.runner.dependencies import RunDependencies

_MARK = re.compile(rb"\[\[(.*?)\]\]")
_JSON = {"content-type": "application/json"}
_FINISH = {Nature.REFUSED: "content_filter", Nature.ENDLESS: "length"}


class FaultyProvider(InMemoryProvider):
    """A transport. Without a schedule it has no faults."""

    def __init__(self, schedule: FaultSchedule | None) -> None:
        self.sends: Counter[str] = Counter()
        self.polls = 0
        self.rate_limited = 0  #: POSTs that were answered 429
        self.polls_rate_limited = 0
        self.away = 0  #: POSTs that met the outage
        self.delivered: dict[str, int] = {}
        self.unseen: defaultdict[str, list[int]] = defaultdict(list)
        self._schedule = schedule or FaultSchedule(0, 0.0)
        self._is_calm = schedule is None
        self._tickets: dict[str, tuple[float, str, int, bytes]] = {}
        self._began_at: float | None = None
        self._passed: Counter[Phase] = Counter()

    def dependencies(self, seed: int, disk: Disk | None = None) -> RunDependencies:
        return RunDependencies(now=virtual_now, rng=random.Random(seed), offload=inline, transport=self, disk=disk)

    async def send(
        self, method: str, path: str, body: bytes, timeout_seconds: float, headers: Mapping[str, str]
    ) -> RawAnswer:
        if self._began_at is None:
            self._began_at = anyio.current_time()
        if method == "POST":
            return await self._post(body, timeout_seconds)
        self.polls += 1
        return await self._poll(path.rsplit("/", 1)[1], timeout_seconds)

    # ---------------------------------------------------------------------------- requests

    async def _post(self, body: bytes, timeout_seconds: float) -> RawAnswer:
        row = _MARK.search(body)[1].decode()  # type: ignore[index]
        self.sends[row] += 1
        try_ = self.sends[row]
        if (phase := self._phase()) is not None:
            if phase.is_away:
                self.away += 1
                return await self._unavailable(self._schedule.draw("away", row, try_), timeout_seconds)
            if not self._passes(phase):
                self.rate_limited += 1
                return await self._too_many(phase)
        is_deferred = b'"deferred":true' in body
        await anyio.sleep(0.2 if is_deferred else self._schedule.latency_seconds(row, try_))
        return await self._meet(row, try_, timeout_seconds, is_deferred=is_deferred)

    def _phase(self) -> Phase | None:
        return None if self._is_calm else self._schedule.phase_at(anyio.current_time() - (self._began_at or 0.0))

    def _passes(self, phase: Phase) -> bool:
        """Whether a storm lets this request through."""
        allowed = (anyio.current_time() - (self._began_at or 0.0) - phase.begins) * phase.per_second
        passes = self._passed[phase] < allowed
        self._passed[phase] += passes
        return passes

    async def _unavailable(self, dice: float, timeout_seconds: float) -> RawAnswer:
        if dice < 0.5:
            await anyio.sleep(1)
            raise ConnectFailed("connection refused")
        if dice < 0.9:
            await anyio.sleep(2)
            return _raw(error(503, "Service temporarily unavailable", "unavailable"))
        await anyio.sleep(timeout_seconds)
        raise RequestTimedOut(f"no answer within {timeout_seconds:g} s")

    async def _too_many(self, phase: Phase) -> RawAnswer:
        await anyio.sleep(0.2)
        seconds = phase.retry_after_seconds
        named = {} if seconds is None else {"retry_after": f"{seconds:g}"}
        return _raw(error(429, "Too many requests", "resource-exhausted", **named))

    async def _meet(self, row: str, try_: int, timeout_seconds: float, *, is_deferred: bool) -> RawAnswer:
        """The request's fate, then the row's nature."""
        fate = Fate.WELL if self._is_calm else self._schedule.fate_of(row, try_)
        nature = Nature.PLAIN if self._is_calm else self._schedule.nature_of(row)
        match fate:
            case Fate.CONNECT_FAILED:
                raise ConnectFailed("connection refused")
            case Fate.CUT_BEFORE:
                raise ConnectionCut("the connection was reset")
            case Fate.SERVER_ERROR:
                return _raw(error(500, "Internal error", "internal"))
            case Fate.ERROR_IN_200:
                return _raw(Reply(200, {"error": {"code": 502, "message": "Upstream failed"}}))
        if nature is Nature.REJECTED:
            return _raw(error(400, "This request cannot be answered"))
        ticks, answer = self._answer(row, try_, nature, is_empty=fate is Fate.EMPTY)
        name = f"{row}-{try_}"
        if is_deferred:
            ready_at = anyio.current_time() + 30 * self._schedule.latency_seconds(row, try_)
            self._tickets[name] = (ready_at, row, ticks, answer)
            answer = json.dumps({"request_id": name}).encode()
        return await self._deliver(fate, row, name, None if is_deferred else ticks, answer, timeout_seconds)

    def _answer(self, row: str, try_: int, nature: Nature, *, is_empty: bool) -> tuple[int, bytes]:
        ticks = self._schedule.ticks(row, try_)
        text = "" if is_empty else f"an answer for [[{row}]]"
        document = chat(text, finish=_FINISH.get(nature, "stop"), ticks=ticks)
        return ticks, json.dumps({**document, "id": f"{row}-{try_}"}).encode()

    async def _deliver(
        self, fate: Fate, row: str, name: str, ticks: int | None, answer: bytes, timeout_seconds: float
    ) -> RawAnswer:
        """Send the answer, which cost ``ticks``, or the ticket (None: it is billed when it is read)."""
        if fate not in (Fate.WELL, Fate.EMPTY):
            lost = self._tickets.pop(name)[2] if ticks is None else ticks
            self.unseen[row].append(lost)
        elif ticks is not None:
            self.delivered[name] = ticks
        match fate:
            case Fate.CUT_AFTER:
                raise ConnectionCut("the connection was reset")
            case Fate.SILENT:
                await anyio.sleep(timeout_seconds)
                raise RequestTimedOut(f"no answer within {timeout_seconds:g} s")
            case Fate.SLOW_BODY:
                await anyio.sleep(timeout_seconds)
                return RawAnswer(200, _JSON, answer[:60], virtual_now(), complete=False)
            case Fate.TORN | Fate.TORN_QUIETLY:
                return RawAnswer(200, _JSON, answer[: len(answer) // 2], virtual_now(), complete=fate is not Fate.TORN)
        return RawAnswer(200, _JSON, answer, virtual_now())

    # ---------------------------------------------------------------------------- tickets

    async def _poll(self, ticket: str, timeout_seconds: float) -> RawAnswer:
        if (phase := self._phase()) is not None:
            if phase.is_away:
                return await self._unavailable(self._schedule.draw("poll", ticket, self.polls), timeout_seconds)
            if not self._passes(phase):
                self.polls_rate_limited += 1
                return await self._too_many(phase)
        await anyio.sleep(0.1)
        if ticket not in self._tickets:
            return _raw(error(404, "not found", "not-found"))
        ready_at, row, ticks, answer = self._tickets[ticket]
        if anyio.current_time() < ready_at:
            return RawAnswer(202, _JSON, b"", virtual_now())
        del self._tickets[ticket]
        if not self._is_calm and self._schedule.draw("read", ticket) < 0.002:
            self.unseen[row].append(ticks)
            raise ConnectionCut("the connection was reset")
        self.delivered[ticket] = ticks
        return RawAnswer(200, _JSON, answer, virtual_now())


def _raw(reply: Reply) -> RawAnswer:
    headers: Mapping[str, Any] = {**_JSON, **reply.headers}
    return RawAnswer(reply.status, headers, json.dumps(reply.document).encode(), virtual_now())
