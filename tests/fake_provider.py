"""A provider in memory, for virtual time: it answers after a while, and misbehaves when told to."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
from provider_transports import InMemoryProvider

from batchvision.errors import Transient
from batchvision.records import RawAnswer
from batchvision.runner.dependencies import RunDependencies

NIGHTFALL = datetime(2026, 11, 20, 22, 0, tzinfo=UTC)
TICKS = 1_000


def virtual_now() -> datetime:
    """The wall clock of a virtual run."""
    return NIGHTFALL + timedelta(seconds=anyio.current_time() - 1_000)


async def inline(work: Callable[..., Any], /, *args: Any) -> Any:
    return work(*args)


@dataclass(frozen=True)
class Asked:
    """One POST as the provider saw it. ``try_`` counts the tries of the same row from 1."""

    number: int
    at: float
    row: str
    try_: int
    body: dict[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """What is sent back: a status, a document (or bytes), headers."""

    status: int = 200
    document: Any = None
    headers: dict[str, str] = field(default_factory=dict)


Script = Callable[[Asked], Reply | Transient | None]


def chat(text: str, *, finish: str = "stop", ticks: int = TICKS) -> dict[str, Any]:
    return {
        "id": "chat-1",
        "model": "grok-4.3",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110, "cost_in_usd_ticks": ticks},
    }


def error(status: int, text: str, code: str = "invalid-argument", **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"code": code, "error": text}, named)


class FakeProvider(InMemoryProvider):
    """A transport. ``script`` says what a POST is answered with; None: properly."""

    def __init__(
        self, script: Script = lambda asked: None, *, latency_seconds: float = 2.0, ticket_seconds: float = 60.0
    ) -> None:
        self.asked: list[Asked] = []
        self.polls: list[float] = []
        self.tickets: dict[str, tuple[float, bytes]] = {}
        self.billed_ticks = 0
        self.in_flight = self.most_in_flight = 0
        self._script = script
        self._latency = latency_seconds
        self._ticket_seconds = ticket_seconds
        self._tries: Counter[str] = Counter()
        self._headers: Mapping[str, str] = {}

    def dependencies(self, seed: int = 0) -> RunDependencies:
        return RunDependencies(now=virtual_now, rng=random.Random(seed), offload=inline, transport=self)

    async def send(
        self, method: str, path: str, body: bytes, timeout_seconds: float, headers: Mapping[str, str]
    ) -> RawAnswer:
        self._headers = headers  # of the request that is noted next
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return self._raw(await (self._post(body) if method == "POST" else self._poll(path)))
        finally:
            self.in_flight -= 1

    async def _post(self, body: bytes) -> Reply:
        asked = self._note(body)
        await anyio.sleep(self._latency)
        reply = self._script(asked)
        if isinstance(reply, Exception):
            raise reply
        if reply is None:
            reply = Reply(200, chat(f"an answer for [[{asked.row}]]"))
        if asked.body.get("deferred") and reply.status == 200:
            ticket = f"ticket-{asked.number}"
            self.tickets[ticket] = (anyio.current_time() + self._ticket_seconds, json.dumps(reply.document).encode())
            return Reply(200, {"request_id": ticket})
        self._bill(reply)
        return reply

    async def _poll(self, path: str) -> Reply:
        self.polls.append(anyio.current_time())
        await anyio.sleep(0.05)
        ready_at, answer = self.tickets.get(path.rsplit("/", 1)[1], (None, b""))
        if ready_at is None:
            return error(404, "not found", "not-found")
        if anyio.current_time() < ready_at:
            return Reply(202, b"")
        del self.tickets[path.rsplit("/", 1)[1]]  # from here on nobody else has it
        await anyio.sleep(0.05)
        reply = Reply(200, json.loads(answer))
        self._bill(reply)
        return reply

    def _bill(self, reply: Reply) -> None:
        if reply.status == 200 and isinstance(reply.document, dict):
            self.billed_ticks += reply.document.get("usage", {}).get("cost_in_usd_ticks", 0)

    def _note(self, body: bytes) -> Asked:
        document = json.loads(body)
        row = re.search(r"\[\[(.*?)\]\]", body.decode())
        name = row.group(1) if row else ""
        self._tries[name] += 1
        asked = Asked(len(self.asked) + 1, anyio.current_time(), name, self._tries[name], document, self._headers)
        self.asked.append(asked)
        return asked

    def tries_of(self, row: str) -> int:
        return self._tries[row]

    @staticmethod
    def _raw(reply: Reply) -> RawAnswer:
        body = reply.document if isinstance(reply.document, bytes) else json.dumps(reply.document).encode()
        return RawAnswer(reply.status, {"content-type": "application/json", **reply.headers}, body, virtual_now())
