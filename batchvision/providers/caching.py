"""Which of the provider's caches a request may use, said in its headers. Pure.

Prompt cache: requests with the same beginning are brought to servers that have it. One id for a whole run would send
all of it to one server, so it is spread over several; a request keeps its id in every try and every run.

Answer cache (OpenRouter): the same bytes are answered with what was answered before, free of charge. It is for the
answer that was cut off on its way, not for one that came and was of no use.
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
#: From this try on, an answer from the cache has been seen already, and helped nobody.
FRESH_FROM_TRY = 3


@dataclass(frozen=True, slots=True)
class Caching:
    """``conversations``: ids of the prompt cache, none: they are not sent. ``answers``: use the answer cache."""

    dialect: Dialect
    conversations: tuple[str, ...] = ()
    answers: bool = False
    answers_ttl_seconds: int | None = None

    def headers(self, request_key: str, tries: Tries, runs_failed: int) -> dict[str, str]:
        """The headers of one request beside those of all. ``runs_failed``: runs before in which its row failed."""
        headers: dict[str, str] = {}
        if self.conversations:
            number = crc32(request_key.encode()) % len(self.conversations)
            headers |= self.dialect.routing_headers(self.conversations[number])
        if self.answers:
            is_spoilt = tries.empties > 0 or tries.spent >= FRESH_FROM_TRY or runs_failed > 0
            headers |= self.dialect.response_cache_headers(self.answers_ttl_seconds, is_wanted=not is_spoilt)
        return headers


def conversations(recipe_id: str, concurrency: int) -> tuple[str, ...]:
    """The ids for so many requests in flight: the same for every run of a recipe."""
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
    """``own_headers``: of the job (``provider.headers``); a header that is given there is left to it."""
    given = {name.lower() for name in own_headers}
    ids = conversations(recipe_id, concurrency) if prompt_cache else ()
    if given & {name.lower() for name in dialect.routing_headers("")}:
        ids = ()
    if given & {name.lower() for name in dialect.response_cache_headers(None, is_wanted=True)}:
        answers = False
    return Caching(dialect, ids, answers, answers_ttl_seconds)
