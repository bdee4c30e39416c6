"""Tokens of images by the published rules; likely figures learn, bounds hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchvision.estimate import Estimator
from batchvision.estimate.image_tokens import rule
from batchvision.money import Prices
from batchvision.records import AnswerSpec, Example, Recipe, Usage

#: One tick a prompt token, ten an output token, a hundred an image: sums can be read.
PRICES = Prices(1_000_000, 1_000_000, 10_000_000, image_ticks=100)


def recipe(model: str = "grok-4.3", max_tokens: int | None = None, **more: object) -> Recipe:
    parameters = {} if max_tokens is None else {"max_tokens": max_tokens}
    return Recipe("xai", model, None, "", None, parameters, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "size", "detail", "tokens"),
    [
        # patches: the documented example, a small image, budgets, factors
        ("gpt-5.4", (2048, 2048), "high", 3000),
        ("gpt-5.2", (1024, 1024), "high", 1229),
        ("gpt-5.2", (32, 32), "high", 2),
        ("gpt-5.2", (1, 1), "high", 2),
        ("gpt-5.2", (2048, 2048), "low", 308),
        ("gpt-5-mini", (1024, 1024), "high", 1659),
        ("gpt-4.1-nano", (512, 512), "auto", 630),
        ("o4-mini", (320, 320), "auto", 172),
        ("openai/gpt-5-mini:floor", (1024, 1024), "high", 1659),
        # auto sends the image as it is on newer models
        ("gpt-5.5", (3200, 3200), "auto", 12_000),
        ("gpt-5.5", (3200, 3200), "high", 3000),
        # tiles
        ("gpt-4o", (1024, 1024), "high", 765),
        ("gpt-4o", (2048, 4096), "high", 1105),
        ("gpt-4o", (4096, 8192), "low", 85),
        ("gpt-4.1", (512, 512), "auto", 255),
        ("gpt-4o-mini", (512, 512), "auto", 8500),
        ("gpt-5", (1024, 1024), "auto", 630),
        ("o3", (1024, 1024), "auto", 675),
        # others
        ("anthropic/claude-sonnet-5", (1000, 750), "auto", 1000),
        ("claude-opus-5", (4000, 4000), "auto", 1600),
        ("gemini-3-pro", (4000, 4000), "low", 280),
        ("google/gemini-3-flash", (100, 100), "auto", 1120),
        ("gemini-2.5-flash", (300, 300), "auto", 258),
        ("gemini-2.5-flash", (1536, 768), "auto", 516),
        ("grok-4.3", (64, 64), "low", 1792),
        ("a-model-of-tomorrow", (64, 64), "low", 1792),
    ],
)
def test_images_count_as_published(model: str, size: tuple[int, int], detail: str, tokens: int) -> None:
    assert rule(model).tokens(*size, detail) == tokens
    assert rule(model).most(*size, detail) >= tokens


@given(
    st.sampled_from(["gpt-5.4", "gpt-5.5", "gpt-5-mini", "gpt-4o", "gemini-2.5", "claude-x", "grok-4.3"]),
    st.integers(1, 20_000),
    st.integers(1, 20_000),
    st.sampled_from(["auto", "low", "high"]),
)
def test_any_image_has_a_count_within_bounds(model: str, width: int, height: int, detail: str) -> None:
    tokens = rule(model).tokens(width, height, detail)

    assert 1 <= tokens <= max(rule(model).most(width, height, detail), 12_000)


def test_an_image_of_unknown_size_is_assumed_ordinary_and_at_most_large() -> None:
    assert rule("gpt-4o").tokens(None, None, "high") == 765
    assert rule("gpt-5.4").most(None, None, "high") == 3000


# ---------------------------------------------------------------------------------- requests


def test_an_estimate_adds_text_image_and_output() -> None:
    estimate = Estimator(recipe(max_tokens=100), PRICES).estimate(400, [(1024, 1024)])

    assert estimate.tokens == 100 + 20 + 1792 + 100
    assert estimate.likely_ticks == (100 + 20 + 1792) + 10 * 100 + 100
    assert estimate.bound_ticks == (800 + 40 + 1792) + 10 * 100 + 100


def test_without_max_tokens_there_is_no_bound_and_without_prices_no_money() -> None:
    assert Estimator(recipe(), PRICES).estimate(400, []).bound_ticks is None
    assert Estimator(recipe(max_tokens=9), None).estimate(400, [])[1:] == (None, None)


def test_a_raised_limit_raises_the_bound() -> None:
    estimator = Estimator(recipe(max_tokens=100), PRICES)
    plain, raised = estimator.estimate(0, []), estimator.estimate(0, [], max_tokens=400)

    assert plain.bound_ticks is not None
    assert raised.bound_ticks == plain.bound_ticks + 10 * 300


def test_what_every_request_holds_is_counted() -> None:
    spec = AnswerSpec(schema={"type": "object", "properties": {"label": {"type": "string"}}})
    examples = (Example("u" * 400, ("a.jpg", "b.jpg"), "a" * 400),)
    plain = Estimator(recipe(), None).estimate(0, [])
    laden = Estimator(recipe(examples=examples, answer=spec), None).estimate(0, [])

    assert laden.tokens - plain.tokens >= 200 + 2 * 1792 + 10


def test_no_text_has_more_tokens_than_bytes() -> None:
    estimator = Estimator(recipe(max_tokens=1), PRICES)

    assert estimator.estimate(1000, [], messages_bytes=1100).bound_ticks == 1100 + 10
    assert estimator.estimate(1000, [], messages_bytes=400_000).bound_ticks == 2040 + 10


def test_output_is_learned_reasoning_included() -> None:
    estimator = Estimator(recipe(), None)
    before = estimator.estimate(0, []).tokens
    for _ in range(10):
        estimator.learn(Usage(completion_tokens=20, reasoning_tokens=30))

    assert before - estimator.estimate(0, []).tokens == 300 - 50


def test_image_tokens_are_learned_where_no_rule_is_published() -> None:
    estimator = Estimator(recipe(), None)
    before = estimator.estimate(0, [(9, 9), (9, 9)]).tokens
    estimator.learn(Usage(prompt_tokens=1020, image_tokens=1000))

    assert before - estimator.estimate(0, [(9, 9), (9, 9)]).tokens == 2 * (1792 - 500)


def test_image_tokens_are_what_text_leaves_where_they_are_not_told() -> None:
    estimator = Estimator(recipe(), None)
    before = estimator.estimate(0, [(9, 9)]).tokens
    estimator.learn(Usage(prompt_tokens=720))

    assert before - estimator.estimate(0, [(9, 9)]).tokens == 1792 - 700


def test_a_published_rule_is_not_unlearned() -> None:
    estimator = Estimator(recipe("gpt-4o"), None)
    before = estimator.estimate(0, [(1024, 1024)])
    estimator.learn(Usage(image_tokens=5), images=1)

    assert estimator.estimate(0, [(1024, 1024)]) == before


def test_a_larger_image_than_the_prior_raises_the_bound() -> None:
    estimator = Estimator(recipe(max_tokens=1), PRICES)
    before = estimator.estimate(0, [(9, 9)]).bound_ticks
    estimator.learn(Usage(image_tokens=4000), images=1)
    after = estimator.estimate(0, [(9, 9)]).bound_ticks

    assert before is not None
    assert after == before + 5000 - 1792


def test_a_usage_without_tokens_teaches_nothing() -> None:
    estimator = Estimator(recipe(), None)
    before = estimator.estimate(0, [(9, 9)])
    estimator.learn(Usage())

    assert estimator.estimate(0, [(9, 9)]) == before
