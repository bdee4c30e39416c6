"""The provider of the benchmarks: HTTP/1.1 with keep-alive on a bare asyncio protocol, one canned xAI answer.

``POST /bench`` takes new settings and clears the record of requests. ``GET /bench`` returns this record. The server
uses as little CPU as possible, so that the client is measured.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import socket
import sys
import time
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, cast

BUFFER_BYTES = 1024 * 1024
KEPT_BYTES = 16 * 1024
PROMPT_TOKENS, COMPLETION_TOKENS = 412, 38
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_TOKENS = re.compile(rb"tokens=(\d+)")


@dataclass(frozen=True, slots=True)
class Settings:
    """How the server behaves. ``says``: of "limits" (x-ratelimit headers), "words" (xAI's text) and "retry-after".

    ``storm_after`` answers everything is refused for ``storm_seconds``. ``ticket_seconds``: a POST gets a ticket,
    whose answer is there after so long. Each ``stray_every``-th request is refused for no reason, with ``stray_status``
    and ``Retry-After: 1``.
    """

    latency_seconds: float = 0.0
    per_minute: float | None = None
    burst: float = 1.0
    tokens_per_minute: float | None = None
    token_burst_seconds: float = 10.0
    says: Sequence[str] = ()
    storm_after: int | None = None
    storm_seconds: float = 0.0
    ticket_seconds: float | None = None
    stray_every: int | None = None
    stray_status: int = 429


class Bucket:
    """Fills at ``per_second`` up to ``capacity``. A refused request takes nothing."""

    def __init__(self, per_second: float, capacity: float, now: float) -> None:
        self.per_second, self.capacity = per_second, capacity
        self._level, self._at = capacity, now

    def refuses(self, amount: float, now: float) -> bool:
        self._level = min(self.capacity, self._level + (now - self._at) * self.per_second)
        self._at = now
        if self._level < min(amount, self.capacity):
            return True
        self._level -= amount
        return False

    def seconds_until(self, amount: float) -> float:
        return max(0.0, (min(amount, self.capacity) - self._level) / self.per_second)


class Desk:
    """Decides on every request, and remembers it: when it came, whether it was accepted, its tokens."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.take_settings(Settings())

    def take_settings(self, settings: Settings) -> None:
        now = time.monotonic()
        self.settings = settings
        self.arrivals, self.accepted, self.tokens = array("d"), array("b"), array("q")
        self.polls, self.tickets_until = array("d"), array("d")
        self.accepted_count = self.connections = 0
        self.storm_until: float | None = None
        self._requests = self._tokens_left = None
        if settings.per_minute is not None:
            self._requests = Bucket(settings.per_minute / 60, settings.burst, now)
        if settings.tokens_per_minute is not None:
            per_second = settings.tokens_per_minute / 60
            self._tokens_left = Bucket(per_second, per_second * settings.token_burst_seconds, now)
        self._plain = response(200, chat(PROMPT_TOKENS), self._limit_headers())

    def told(self) -> dict[str, Any]:
        return {
            "arrivals": self.arrivals.tolist(),
            "accepted": self.accepted.tolist(),
            "tokens": self.tokens.tolist(),
            "polls": self.polls.tolist(),
            "connections": self.connections,
            "storm_until": self.storm_until,
            "settings": asdict(self.settings),
        }

    def answer(self, head: bytes, body: bytes) -> tuple[bytes, float]:
        """The response, and after how long it is sent."""
        if head.startswith(b"POST /bench "):
            self.take_settings(Settings(**json.loads(body)))
            return response(200, b"{}"), 0.0
        if head.startswith(b"GET /bench "):
            return response(200, json.dumps(self.told()).encode()), 0.0
        now = time.monotonic()
        if head.startswith(b"GET "):
            return self._poll(now, head), self.settings.latency_seconds
        found = _TOKENS.search(body) if self._tokens_left is not None else None
        tokens = int(found[1]) if found else 0
        refusal = self._refusal(now, tokens)
        self.arrivals.append(now)
        self.accepted.append(refusal is None)
        self.tokens.append(tokens)
        if refusal is not None:
            return refusal, 0.0
        self.accepted_count += 1
        good = self._plain
        if self.settings.ticket_seconds is not None:
            good = response(200, b'{"request_id":"%d"}' % len(self.tickets_until))
            self.tickets_until.append(now + self.settings.ticket_seconds)
        elif tokens:
            good = response(200, chat(tokens - COMPLETION_TOKENS), self._limit_headers())
        return good, self.settings.latency_seconds

    def _poll(self, now: float, head: bytes) -> bytes:
        self.polls.append(now)
        number = int(head.split(b" ")[1].rpartition(b"/")[2])
        return self._plain if now >= self.tickets_until[number] else response(202, b'{"status":"pending"}')

    def _refusal(self, now: float, tokens: int) -> bytes | None:
        settings = self.settings
        if (
            self.storm_until is None
            and settings.storm_after is not None
            and self.accepted_count >= settings.storm_after
        ):
            self.storm_until = now + settings.storm_seconds
        if self.storm_until is not None and now < self.storm_until:
            return self._refused("Requests per Second", 0, self.storm_until - now)
        if settings.stray_every and len(self.arrivals) % settings.stray_every == settings.stray_every // 2:
            body = b'{"code":"overloaded","error":"Try again later."}'
            return response(settings.stray_status, body, "Retry-After: 1\r\n")
        if self._requests is not None and self._requests.refuses(1, now):
            return self._refused("Requests per Second", self._requests.per_second, self._requests.seconds_until(1))
        if self._tokens_left is not None and self._tokens_left.refuses(tokens, now):
            per_minute = self._tokens_left.per_second * 60
            return self._refused("Tokens per Minute", per_minute, self._tokens_left.seconds_until(tokens))
        return None

    def _refused(self, unit: str, limit: float, wait_seconds: float) -> bytes:
        says = self.settings.says
        text = "Too many requests."
        if "words" in says and limit:
            text = (
                "Too many requests for team bench and model grok-4.3. "
                f"Your team's rate limit is - {unit} (actual/limit): {limit + 1:.0f}/{limit:.0f}"
            )
        headers = self._limit_headers()
        if "retry-after" in says:
            headers += f"Retry-After: {max(1, math.ceil(wait_seconds))}\r\n"
        return response(429, json.dumps({"code": "resource-exhausted", "error": text}).encode(), headers)

    def _limit_headers(self) -> str:
        settings = self.settings
        if "limits" not in settings.says:
            return ""
        limits = {"requests": settings.per_minute, "tokens": settings.tokens_per_minute}
        return "".join(f"x-ratelimit-limit-{name}: {limit:.0f}\r\n" for name, limit in limits.items() if limit)


class Connection(asyncio.BufferedProtocol):
    """One connection: request after request, no pipelining. All connections read into one buffer, one at a time."""

    _buffer = memoryview(bytearray(BUFFER_BYTES))

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._collected = bytearray()
        self._head: bytes | None = None
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._desk.connections += 1

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        chunk = self._buffer[:nbytes]
        if self._head is None:
            self._collected += chunk
            end = self._collected.find(b"\r\n\r\n")
            if end < 0:
                return
            self._head = bytes(self._collected[:end])
            length = _LENGTH.search(self._head)
            del self._collected[: end + 4]
            self._left = (int(length[1]) if length else 0) - len(self._collected)
        else:
            if len(self._collected) < KEPT_BYTES:
                self._collected += chunk
            self._left -= nbytes
        if self._left <= 0:
            self._answer(self._head)

    def _answer(self, head: bytes) -> None:
        content, delay = self._desk.answer(head, bytes(self._collected))
        self._head = None
        self._collected.clear()
        if delay:
            self._desk.loop.call_later(delay, self._send, content)
        else:
            self._send(content)

    def _send(self, content: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(content)


def response(status: int, body: bytes, headers: str = "") -> bytes:
    phrase = {200: "OK", 429: "Too Many Requests"}.get(status, "Service Unavailable")
    head = (
        f"HTTP/1.1 {status} {phrase}\r\nDate: Sat, 21 Nov 2026 00:00:00 GMT\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nx-request-id: 6f0c1c1e-9a0b-4b8e-8f0e-3a1d5b7c9e10\r\n{headers}\r\n"
    )
    return head.encode() + body


def chat(prompt_tokens: int) -> bytes:
    """A ``chat.completion`` as xAI sends it."""
    text = "A pair of brown leather shoes with white laces on a plain background, seen from the side."
    message = {"role": "assistant", "content": text, "reasoning_content": None, "refusal": None}
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": COMPLETION_TOKENS,
        "total_tokens": prompt_tokens + COMPLETION_TOKENS,
        "prompt_tokens_details": {
            "text_tokens": 60,
            "audio_tokens": 0,
            "image_tokens": prompt_tokens - 60,
            "cached_tokens": 0,
        },
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0, "accepted_prediction_tokens": 0},
        "num_sources_used": 0,
        "cost_in_usd_ticks": 11_350_000,
    }
    document = {
        "id": "0d4f6a1c-3b1e-4a7e-9d8a-5b2f1c7e6a90",
        "object": "chat.completion",
        "created": 1_795_219_200,
        "model": "grok-4.3",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": usage,
        "system_fingerprint": "fp_bench",
        "service_tier": "default",
    }
    return json.dumps(document).encode()


async def serve() -> None:
    desk = Desk()
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    server = await desk.loop.create_server(lambda: Connection(desk), sock=listener, backlog=4096)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


def main() -> None:
    from benches.process import at_home, many_files

    at_home(json.loads(sys.argv[1]))
    many_files()
    with suppress(KeyboardInterrupt):
        asyncio.run(serve())


if __name__ == "__main__":
    main()
