"""Money is integers: exact to the tick."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchvision.records import TICKS_PER_USD, Usage
from batchvision.ticks import Prices, built_in, cost_ticks, format_usd, overlaid, usd_to_ticks, with_cost, with_tiers

GROK_4_3 = Prices(12_500_000_000, 2_000_000_000, 25_000_000_000, 0, 200_000)


@pytest.mark.parametrize(
    ("usd", "ticks"),
    [
        ("1", TICKS_PER_USD),
        (25.0, 25 * TICKS_PER_USD),
        (0.1, TICKS_PER_USD // 10),
        (Decimal("0.000905"), 9_050_000),
        ("0.00000000005", 0),  # half a tick, to the even one
        ("0.00000000015", 2),
        ("-1.5", -15_000_000_000),
        (0, 0),
    ],
)
def test_usd_become_ticks_exactly(usd: Decimal | str | float, ticks: int) -> None:
    assert usd_to_ticks(usd) == ticks


@pytest.mark.parametrize("usd", ["", "a lot", "NaN", "inf", float("inf"), Decimal("1e30"), "1_0e99"])
def test_what_is_no_amount_is_refused(usd: Decimal | str | float) -> None:
    with pytest.raises(ValueError, match="is not an amount in USD"):
        usd_to_ticks(usd)


@given(st.integers(0, 10**18))
def test_ticks_survive_the_way_through_usd(ticks: int) -> None:
    assert usd_to_ticks(Decimal(ticks).scaleb(-10)) == ticks


@pytest.mark.parametrize(
    ("ticks", "text"),
    [
        (0, "$0.00"),
        (12_345_600_000_000, "$1,234.56"),
        (TICKS_PER_USD, "$1.00"),
        (4_210_000_000, "$0.421"),
        (421_000_000, "$0.0421"),
        (9_050_000, "$0.000905"),
        (1, "$0.000000000100"),
        (-25_000_000_000, "-$2.50"),
    ],
)
def test_ticks_are_shown_as_usd(ticks: int, text: str) -> None:
    assert format_usd(ticks) == text


# ---------------------------------------------------------------------------------- prices


@pytest.mark.parametrize(
    ("usage", "ticks"),
    [
        (Usage(prompt_tokens=1000, completion_tokens=100), 12_500_000 + 2_500_000),
        (Usage(prompt_tokens=1000, completion_tokens=100, cached_tokens=400), 7_500_000 + 800_000 + 2_500_000),
        (Usage(prompt_tokens=1000, completion_tokens=100, reasoning_tokens=900), 12_500_000 + 25_000_000),
        (Usage(prompt_tokens=1000, completion_tokens=0, cached_tokens=4000), 2_000_000),
        (Usage(prompt_tokens=199_999, completion_tokens=1), 2_499_987_500 + 25_000),
        (Usage(prompt_tokens=200_000, completion_tokens=1), 2 * (2_500_000_000 + 25_000)),
        (Usage(prompt_tokens=0, completion_tokens=0), 0),
        (Usage(prompt_tokens=1000), None),
        (Usage(completion_tokens=1000), None),
        (Usage(cost_ticks=7, cost_source="reported"), 7),
        (Usage(prompt_tokens=1000, completion_tokens=100, cost_ticks=0, cost_source="cached"), 0),
    ],
)
def test_the_cost_of_a_usage(usage: Usage, ticks: int | None) -> None:
    assert cost_ticks(usage, GROK_4_3) == ticks


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**12))
def test_costs_are_rounded_half_even_and_never_drift(prompt: int, output: int, cached: int, price: int) -> None:
    prices = Prices(price, price // 3, price * 2)
    uncached = prompt - min(cached, prompt)
    exact = Fraction(uncached * price + min(cached, prompt) * (price // 3) + output * price * 2, 10**6)

    assert prices.ticks(prompt, output, cached) == round(exact)


def test_images_may_have_a_price_of_their_own() -> None:
    assert Prices(0, 0, 0, image_ticks=5).ticks(10, 10, images=3) == 15


def test_a_computed_cost_is_marked_and_a_reported_one_stays() -> None:
    tokens = Usage(prompt_tokens=1000, completion_tokens=100)

    assert with_cost(tokens, GROK_4_3).cost_source == "computed"
    assert with_cost(tokens, GROK_4_3).cost_ticks == 15_000_000
    assert with_cost(tokens, None) is tokens
    reported = Usage(prompt_tokens=1000, completion_tokens=100, cost_ticks=1, cost_source="reported")
    assert with_cost(reported, GROK_4_3) is reported


def test_grok_has_built_in_prices() -> None:
    assert built_in("xai", "grok-4.3") == GROK_4_3
    assert built_in("emulator", "grok-4.3") == GROK_4_3
    assert built_in("openrouter", "x-ai/grok-4.3:floor") == GROK_4_3
    grok = built_in("xai", "grok-4.7")
    assert grok is not None
    assert grok.ticks(1_000_000 // 10, 0) == TICKS_PER_USD // 5


def test_prices_of_the_job_win_over_built_in_ones() -> None:
    prices = overlaid(built_in("xai", "grok-4.3"), {"output": 3.0, "input": None})

    assert prices is not None
    assert prices.output_ticks_per_mtok == 30_000_000_000
    assert prices.input_ticks_per_mtok == GROK_4_3.input_ticks_per_mtok


def test_a_model_without_prices_needs_those_of_input_and_output() -> None:
    assert built_in("openai", "gpt-5") is None
    assert overlaid(None, {}) is None
    assert overlaid(None, {"input": 1}) is None
    assert overlaid(None, {"input": 1, "output": "4", "image": Decimal("0.5")}) == Prices(
        TICKS_PER_USD, TICKS_PER_USD, 4 * TICKS_PER_USD, TICKS_PER_USD // 2
    )


# ---------------------------------------------------------------------------------- a long context


def test_a_long_context_costs_the_long_prices_of_the_job() -> None:
    given = {"input": 1, "output": 2, "long_above_tokens": 1_000, "long_input": 3, "long_output": 5}
    prices = overlaid(None, given)
    assert prices is not None
    assert prices.ticks(999, 10) == 999 * 10_000 + 10 * 20_000
    assert prices.ticks(1_000, 10) == 1_000 * 30_000 + 10 * 50_000
    assert prices.ticks(1_000, 0, cached=1_000) == 1_000 * 20_000, "not given: twice the short price"


def test_a_long_context_without_prices_of_its_own_costs_twice() -> None:
    prices = overlaid(None, {"input": 1, "output": 2, "long_above_tokens": 1_000})
    assert prices is not None
    assert prices.ticks(1_000, 10) == 2 * (1_000 * 10_000 + 10 * 20_000)


def test_the_jobs_long_context_is_before_the_known_one() -> None:
    known = Prices(10**10, 10**10, 2 * 10**10, 0, 500, 1, 7 * 10**10, 7 * 10**10, 9 * 10**10)
    assert overlaid(known, {"image": 1}) == replace(known, image_ticks=10**10)
    above = overlaid(known, {"long_above_tokens": 1_000, "long_input": 3})
    assert above is not None
    assert above.ticks(999, 0) == 999 * 10_000
    assert above.ticks(1_000, 10) == 1_000 * 30_000 + 10 * 90_000, "a long price that is known stays"
    assert overlaid(None, {"long_above_tokens": 1_000}) is None


@pytest.mark.parametrize(
    "model",
    [
        "grok-4.7", "grok-4.6", "grok-4.5", "grok-4.3", "grok-4.20-0309-reasoning", "grok-4.20-0309-non-reasoning",
        "grok-4.20-multi-agent", "grok-4.20", "grok-4.3-latest", "grok-4.20-reasoning-latest",
    ],
)  # fmt: skip
def test_every_grok_has_a_built_in_price(model: str) -> None:
    for provider, name in (("xai", model), ("emulator", model), ("openrouter", f"x-ai/{model}")):
        prices = built_in(provider, name)
        assert prices is not None and prices.ticks(200_000, 0) == 2 * prices.ticks(100_000, 0) * 2


# ---------------------------------------------------------------------------------- tiers

TIERED = replace(GROK_4_3, image_ticks=11, request_ticks=3, long_input_ticks_per_mtok=25_000_000_001, flex_percent=50)


def test_flex_and_batch_cost_their_percentage_of_each_price() -> None:
    half = TIERED.at("flex")
    assert (half.input_ticks_per_mtok, half.cached_ticks_per_mtok, half.output_ticks_per_mtok) == (
        6_250_000_000,
        1_000_000_000,
        12_500_000_000,
    )
    assert (half.image_ticks, half.request_ticks, half.long_input_ticks_per_mtok) == (6, 2, 12_500_000_000)
    assert (half.long_context_tokens, half.long_output_ticks_per_mtok) == (200_000, None)
    usage = Usage(prompt_tokens=1000, completion_tokens=100)
    usual = cost_ticks(usage, TIERED)
    assert cost_ticks(usage, replace(GROK_4_3, batch_percent=80), tier="batch") == 12_500_000 * 80 // 100 + 2_000_000
    assert with_cost(usage, GROK_4_3, tier="flex").cost_ticks == cost_ticks(usage, GROK_4_3)
    assert usual == 15_000_003


@pytest.mark.parametrize("tier", [None, "", "default", "auto", "priority", "batch"])
def test_another_tier_or_one_of_unknown_price_has_the_usual_prices(tier: str | None) -> None:
    assert TIERED.at(tier) is TIERED


def test_a_reported_cost_wins_over_the_price_of_a_tier() -> None:
    assert cost_ticks(Usage(10, cost_ticks=7), TIERED, tier="flex") == 7


def test_prices_of_tiers_are_recorded_and_given() -> None:
    assert Prices.recorded(TIERED.record()) == TIERED
    given = overlaid(GROK_4_3, {"flex_percent": 40, "batch_percent": 60})
    assert given is not None
    assert (given.flex_percent, given.batch_percent, given.input_ticks_per_mtok) == (40, 60, 12_500_000_000)
    assert overlaid(None, {"flex_percent": 40}) is None


@pytest.mark.parametrize(
    ("provider", "model", "host", "flex", "batch"),
    [
        ("openai", "gpt-5.2", "api.openai.com", 50, 50),
        ("openai", "qwen3", "gpu.internal", None, None),
        ("openrouter", "google/gemini-3-flash", "openrouter.ai", 50, None),
        ("openrouter", "x-ai/grok-4.3", "openrouter.ai", None, None),
        ("xai", "grok-4.3", "api.x.ai", None, 80),
        ("xai", "grok-4.20-0309-non-reasoning", "api.x.ai", None, 80),
        ("xai", "grok-4.7", "api.x.ai", None, None),
    ],
)
def test_known_prices_of_tiers(provider: str, model: str, host: str, flex: int | None, batch: int | None) -> None:
    found = with_tiers(GROK_4_3, provider, model, host)
    assert (found.flex_percent, found.batch_percent) == (flex, batch)
    own = with_tiers(replace(GROK_4_3, flex_percent=90, batch_percent=70), provider, model, host)
    assert (own.flex_percent, own.batch_percent) == (90, 70)
