"""Tokens of images by the published rules; likely figures learn, bounds hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchvision.money import Estimator
from batchvision.money.estimator import LearnedImages, rule
from batchvision.records import AnswerSpec, Example, Recipe, Usage
from batchvision.ticks import Prices

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
        ("grok-4.3", (64, 64), "low", 256),
        ("grok-4.3", (64, 64), "auto", 512),
        ("grok-4.3", (1000, 800), "high", 1792),
        ("a-model-of-tomorrow", (450, 448), "high", 768),
    ],
)
def test_images_count_as_published(model: str, size: tuple[int, int], detail: str, tokens: int) -> None:
    assert rule(model).tokens(*size, detail) == tokens
    assert LearnedImages(rule(model), detail).most(size) >= tokens


@given(
    st.sampled_from(["gpt-5.4", "gpt-5.5", "gpt-5-mini", "gpt-4o", "gemini-2.5", "claude-x", "grok-4.3"]),
    st.integers(1, 20_000),
    st.integers(1, 20_000),
    st.sampled_from(["auto", "low", "high"]),
)
def test_any_image_has_a_count_within_bounds(model: str, width: int, height: int, detail: str) -> None:
    tokens = rule(model).tokens(width, height, detail)

    assert 1 <= tokens <= max(LearnedImages(rule(model), detail).most((width, height)), 12_000)


def test_an_image_of_unknown_size_is_assumed_ordinary_and_at_most_large() -> None:
    assert rule("gpt-4o").tokens(None, None, "high") == 765
    assert LearnedImages(rule("gpt-5.4"), "high").most((None, None)) == 3000


# ---------------------------------------------------------------------------------- requests


def test_an_estimate_adds_text_image_and_output() -> None:
    estimate = Estimator(recipe(max_tokens=100), PRICES).estimate(400, [(1024, 1024)])

    assert estimate.tokens == 100 + 20 + 1792 + 100
    assert estimate.likely_ticks == (100 + 20 + 1792) + 10 * 100 + 100
    assert estimate.bound_ticks == (800 + 40 + 1792) + 10 * 100 + 100


def test_without_max_tokens_there_is_no_bound_and_without_prices_no_money() -> None:
    assert Estimator(recipe(), PRICES).estimate(400, []).bound_ticks is None
    assert Estimator(recipe(max_tokens=9), None).estimate(400, [])[1:3] == (None, None)


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


BIG = (1024, 1024)


def test_image_tokens_are_learned_where_no_rule_is_published() -> None:
    estimator = Estimator(recipe(), None)
    before = estimator.estimate(0, [BIG, BIG])
    estimator.learn(Usage(prompt_tokens=1020, image_tokens=1000), before)

    assert before.tokens - estimator.estimate(0, [BIG, BIG]).tokens == 2 * (1792 - 500)


def test_what_is_learned_of_one_size_corrects_the_rule_for_others() -> None:
    estimator = Estimator(recipe(), None)
    small_before = estimator.estimate(0, [(64, 64)]).tokens
    estimator.learn(Usage(image_tokens=896), estimator.estimate(0, [BIG]))
    estimator.learn(Usage(image_tokens=896), estimator.estimate(0, [BIG]))

    assert small_before - estimator.estimate(0, [(64, 64)]).tokens == 512 // 2
    estimator.learn(Usage(image_tokens=100), estimator.estimate(0, [(64, 64)]))
    assert small_before - estimator.estimate(0, [(64, 64)]).tokens == 512 - 100, "its own size tells more"


def test_unreported_image_tokens_are_the_prompt_tokens_that_text_leaves() -> None:
    estimator = Estimator(recipe(), None)
    before = estimator.estimate(400, [BIG])
    estimator.learn(Usage(prompt_tokens=820), before)

    assert before.tokens - estimator.estimate(400, [BIG]).tokens == 1792 - (820 - 100 - 20)


def test_a_published_rule_is_not_unlearned() -> None:
    estimator = Estimator(recipe("gpt-4o"), None)
    before = estimator.estimate(0, [BIG])
    estimator.learn(Usage(image_tokens=5), before)

    assert estimator.estimate(0, [BIG]) == before


def test_a_larger_image_than_the_prior_raises_the_bound() -> None:
    estimator = Estimator(recipe(max_tokens=1), PRICES)
    before = estimator.estimate(0, [(9, 9)])
    estimator.learn(Usage(image_tokens=4000), before)
    after = estimator.estimate(0, [(9, 9)]).bound_ticks

    assert before.bound_ticks is not None
    assert after == before.bound_ticks + 5000 - 1792


def test_a_usage_without_tokens_teaches_nothing() -> None:
    estimator = Estimator(recipe(), None)
    before = estimator.estimate(0, [(9, 9)])
    estimator.learn(Usage(), before)

    assert estimator.estimate(0, [(9, 9)]) == before


# ---------------------------------------------------------------------------------- bounds that shrink


def image_bound(estimator: Estimator, width: int | None, height: int | None) -> int:
    """Of one image, in tokens: one tick each."""
    bound = estimator.estimate(0, [(width, height)], messages_bytes=1).bound_ticks
    assert bound is not None
    return bound - 1 - 10 - 100


def taught(image_tokens: int, size: tuple[int, int], answers: int = 10, **more: int) -> Estimator:
    estimator = Estimator(recipe(max_tokens=1), PRICES)
    for _ in range(answers):
        estimator.learn(Usage(image_tokens=image_tokens, **more), estimator.estimate(0, [size]))
    return estimator


def test_a_bound_comes_down_to_what_images_at_least_as_large_took() -> None:
    estimator = taught(400, (1000, 800))

    assert image_bound(estimator, 1000, 800) == 500
    assert image_bound(estimator, 64, 64) == 500
    assert image_bound(estimator, 1001, 800) == 1792, "nothing is known of wider ones"
    assert image_bound(estimator, None, None) == 1792, "nor of URLs that are handed over"


def test_few_answers_lower_no_bound() -> None:
    assert image_bound(taught(400, (1000, 800), answers=9), 1000, 800) == 1792


def test_all_prompt_tokens_bound_an_image_without_reported_tokens() -> None:
    estimator = Estimator(recipe(max_tokens=1), PRICES)
    for _ in range(10):
        estimator.learn(Usage(prompt_tokens=480), estimator.estimate(0, [(1000, 800)]))

    assert image_bound(estimator, 1000, 800) == 600


def test_an_answer_above_a_learned_bound_raises_it() -> None:
    estimator = taught(400, (1000, 800))
    estimator.learn(Usage(image_tokens=900), estimator.estimate(0, [(500, 500)]))

    assert image_bound(estimator, 1000, 800) == image_bound(estimator, 500, 500) == 1125


SIZES = st.tuples(st.integers(1, 3000), st.integers(1, 3000))
COUNTS = st.sampled_from(
    [
        lambda w, h: 256 * (1 + min(6, -(-w // 448) * -(-h // 448))),
        lambda w, h: -(-w // 32) * -(-h // 32),
        lambda w, h: -(-w * h // 750),
        lambda w, h: 280,
    ]
)


@given(COUNTS, st.lists(SIZES, min_size=1, max_size=60), SIZES)
def test_no_learned_bound_is_below_what_an_image_takes(
    count: Callable[[int, int], int], seen: list[tuple[int, int]], size: tuple[int, int]
) -> None:
    """Under any rule by which larger images take no fewer tokens, and within the prior's bound."""
    estimator = Estimator(recipe(max_tokens=1), PRICES)
    for each in seen:
        tokens = min(1792, count(*each))
        assert image_bound(estimator, *each) >= tokens
        estimator.learn(Usage(image_tokens=tokens), estimator.estimate(0, [each]))

    assert image_bound(estimator, *size) >= min(1792, count(*size))


# ---------------------------------------------------------------------------------- tiers


def test_the_likely_cost_follows_the_tier_and_the_bound_has_the_usual_prices() -> None:
    prices = Prices(10_000_000, 10_000_000, 20_000_000, flex_percent=50)
    asked = recipe(max_tokens=100)
    flex = Estimator(replace(asked, parameters={**asked.parameters, "service_tier": "flex"}), prices)
    usual = Estimator(asked, prices)
    both = flex.estimate(400, []), usual.estimate(400, [])
    assert both[1].likely_ticks is not None
    assert both[0].likely_ticks == both[1].likely_ticks // 2
    assert both[0].bound_ticks == both[1].bound_ticks


def test_the_likely_cost_follows_the_tier_that_answers_name() -> None:
    prices = Prices(10_000_000, 10_000_000, 20_000_000, flex_percent=50)
    asked = recipe(max_tokens=100)
    flex = Estimator(replace(asked, parameters={**asked.parameters, "service_tier": "flex"}), prices)
    before = flex.estimate(400, []).likely_ticks
    flex.learn(Usage(), None, "default")
    assert flex.estimate(400, []).likely_ticks == Estimator(asked, prices).estimate(400, []).likely_ticks
    flex.learn(Usage(), None, None)
    flex.learn(Usage(), None, "flex")
    assert flex.estimate(400, []).likely_ticks == before
