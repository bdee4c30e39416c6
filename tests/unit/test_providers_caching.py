"""Which of the provider's caches a request may use."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import UUID

import pytest

from batchvision.keys import request_key_of
from batchvision.providers import dialect
from batchvision.providers.base import Caching, caching, conversations
from batchvision.records import Tries


def caching_of(provider: str = "xai", **changes: Any) -> Caching:
    asked: dict[str, Any] = {
        "concurrency": 64,
        "prompt_cache": True,
        "answers": False,
        "answers_ttl_seconds": None,
        "own_headers": {},
    }
    return caching(dialect(provider), "recipe-1", **(asked | changes))


@pytest.mark.parametrize(("concurrency", "ids"), [(1, 1), (15, 1), (16, 1), (32, 2), (256, 16), (1000, 62)])
def test_there_is_an_id_for_sixteen_requests_in_flight(concurrency: int, ids: int) -> None:
    found = conversations("recipe-1", concurrency)
    assert len(set(found)) == len(found) == ids
    assert all(UUID(each).version == 4 for each in found)


def test_ids_are_the_same_for_every_run_of_a_recipe_and_no_other() -> None:
    assert conversations("recipe-1", 256) == conversations("recipe-1", 256)
    assert not set(conversations("recipe-1", 256)) & set(conversations("recipe-2", 256))


def test_requests_spread_evenly_over_the_ids_and_each_keeps_its_own() -> None:
    held = caching_of()
    keys = [request_key_of("recipe-1", (f"row {number}",), []) for number in range(4_000)]
    counts = Counter(held.headers(key, Tries(), 0)["x-grok-conv-id"] for key in keys)
    assert set(counts) == set(held.conversations)
    assert min(counts.values()) > 800
    assert all(held.headers(key, Tries(spent=4), 2) == held.headers(key, Tries(), 0) for key in keys[:50])


@pytest.mark.parametrize(
    "held",
    [
        caching_of(prompt_cache=False),
        caching_of("openai"),
        caching_of("openrouter"),
        caching_of(own_headers={"X-Grok-Conv-Id": "my own"}),
        caching_of("openrouter", answers=True, own_headers={"x-openrouter-cache": "false"}),
    ],
)
def test_nothing_is_sent_where_it_is_off_or_unknown_or_the_jobs_own(held: Caching) -> None:
    assert held.headers("key", Tries(), 0) == {}


def test_an_answer_may_come_from_the_cache_until_one_was_of_no_use() -> None:
    held = caching_of("openrouter", answers=True, answers_ttl_seconds=600)
    wanted = {"X-OpenRouter-Cache": "true", "X-OpenRouter-Cache-TTL": "600"}
    assert held.headers("key", Tries(), 0) == wanted
    assert held.headers("key", Tries(spent=2), 0) == wanted, "it may have been cut off on its way"
    for tries, runs_failed in ((Tries(spent=3), 0), (Tries(empties=1), 0), (Tries(), 1)):
        assert held.headers("key", tries, runs_failed) == {"X-OpenRouter-Cache": "false"}
