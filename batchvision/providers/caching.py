"""Request headers for the provider's caches. Pure.

Prompt cache: a conversation id brings requests with a common prefix to the same server. A run uses several ids, to use
several servers. A request keeps its id in each try and each run.

Answer cache (OpenRouter): an identical body gets the earlier answer free of charge. It serves answers that were cut
off, not answers that arrived and were unusable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from uuid import UUID
from zlib import crc32

from batchvision.providers.base import Dialect
from batchvision.records import Tries

#: Requests in flight that share one conversation id.
REQUESTS_A_CONVERSATION = 16
#: From this try on a cached answer is known to be unusable.
FRESH_FROM_TRY = 3


@dataclass(frozen=True, slots=True)
class Caching:
    """``conversations``: ids of the prompt cache; empty: send no id. ``answers``: use the answer cache."""

    dialect: Dialect
    conversations: tuple[str, ...] = ()
    answers: bool = False
    answers_ttl_seconds: int | None = None

    def headers(self, request_key: str, tries: Tries, runs_failed: int) -> dict[str, str]:
        """The headers of one request. ``runs_failed``: earlier runs in which its row failed."""
        headers: dict[str, str] = {}
        if self.conversations and (name := self.dialect.conversation_header):
            headers[name] = self.conversations[crc32(request_key.encode()) % len(self.conversations)]
        if self.answers:
            is_spoilt = tries.empties > 0 or tries.spent >= FRESH_FROM_TRY or runs_failed > 0
            headers |= self.dialect.response_cache_headers(self.answers_ttl_seconds, is_wanted=not is_spoilt)
        return headers


def conversations(recipe_id: str, concurrency: int) -> tuple[str, ...]:
    """The conversation ids for ``concurrency`` requests in flight, the same in each run of a recipe."""
    count = max(1, concurrency // REQUESTS_A_CONVERSATION)
    return tuple(_id(f"{recipe_id}/{number}") for number in range(count))


def _id(seed: str) -> str:
    return str(UUID(bytes=sha256(seed.encode()).digest()[:16], version=4))


def caching(
    dialect: Dialect,
    recipe_id: str,
    concurrency: int,
    *,
    prompt_cache: bool,
    answers: bool,
    answers_ttl_seconds: int | None,
    own_headers: Mapping[str, str],
) -> Caching:
    """The caches of a job. ``own_headers`` (``provider.headers``) win over the headers of a cache."""
    given = {name.lower() for name in own_headers}
    ids = conversations(recipe_id, concurrency) if prompt_cache else ()
    if dialect.conversation_header is None or dialect.conversation_header.lower() in given:
        ids = ()
    if given & {name.lower() for name in dialect.response_cache_headers(None, is_wanted=True)}:
        answers = False
    return Caching(dialect, ids, answers, answers_ttl_seconds)
