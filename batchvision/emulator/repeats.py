"""OpenRouter's response cache: equal bytes get the stored answer. No I/O.

The key is the caller's API key, the path and the body, byte for byte. A request turns the cache on by a header. An
answer is stored whether or not it arrived.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from batchvision.emulator.bodies import Generated
from batchvision.emulator.pricing import AnswerTokens

STATUS, AGE, SOURCE, TTL = (f"X-OpenRouter-Cache-{name}" for name in ("Status", "Age", "Source-Id", "TTL"))
ASKED = "X-OpenRouter-Cache"
_DEFAULT_TTL_SECONDS = 300
_MOST = 100_000


class Repeat(NamedTuple):
    """A stored answer without usage, and the headers that mark it."""

    generated: Generated
    headers: dict[str, str]


class _Kept(NamedTuple):
    generated: Generated
    at: float
    ttl_seconds: float


class ResponseCache:
    """``clock`` returns monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kept: dict[bytes, _Kept] = {}

    def key(self, path: str, headers: Mapping[str, str], body: bytes) -> bytes | None:
        """The cache key of a request; ``None`` without the header for it."""
        if headers.get(ASKED, "").strip().lower() != "true":
            return None
        told = f"{headers.get('Authorization', '')}\0{path}\0".encode(errors="replace")
        return hashlib.sha256(told + body).digest()

    def find(self, key: bytes, request_id: str) -> Repeat | None:
        kept = self._kept.get(key)
        if kept is None or self._clock() - kept.at >= kept.ttl_seconds:
            return None
        headers = {STATUS: "HIT", AGE: str(int(self._clock() - kept.at)), SOURCE: kept.generated.request_id}
        free = replace(kept.generated, tokens=AnswerTokens(0, 0, 0, 0, 0), ticks=0, request_id=request_id)
        return Repeat(free, headers)

    def keep(self, key: bytes, generated: Generated, headers: Mapping[str, str]) -> None:
        asked = headers.get(TTL, "")
        ttl = min(86_400, max(1, int(asked))) if asked.isdecimal() else _DEFAULT_TTL_SECONDS
        if len(self._kept) >= _MOST:
            self._kept.pop(next(iter(self._kept)))
        self._kept[key] = _Kept(generated, self._clock(), ttl)
