"""Prices and ticks. Money is integers: 1 USD = 10^10 ticks; nothing here is a float.

Prices serve estimates, and the cost of answers without a reported cost.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import date
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation, localcontext
from typing import Any

from batchvision.records import TICKS_PER_USD, Usage

TOKENS_PER_MTOK = 1_000_000

#: Larger amounts are refused; an int64 of ticks holds more.
_MOST_USD = Decimal(900_000_000)

#: Names of prices: the service tier for slower answers, and a batch.
FLEX, BATCH = "flex", "batch"

#: These servers of OpenAI's API charge half the price for flex and for batches.
_HALF_PRICE_HOSTS = frozenset({"api.openai.com", "generativelanguage.googleapis.com"})

#: The price of a long context over the usual price, where no price is listed.
LONG_CONTEXT_FACTOR = 2

#: When the built-in prices were read from https://docs.x.ai/developers/pricing.
PRICES_AS_OF = date(2026, 9, 29)


def usd_to_ticks(usd: Decimal | str | int | float) -> int:
    """USD as ticks, rounded half-even. A float counts as its decimal text. Raises ValueError."""
    try:
        amount = usd if isinstance(usd, Decimal) else Decimal(str(usd))
    except InvalidOperation:
        raise ValueError(f"{usd!r} is not an amount in USD") from None
    if not amount.is_finite() or not abs(amount) <= _MOST_USD:
        raise ValueError(f"{usd!r} is not an amount in USD")
    with localcontext(prec=60):
        return int((amount * TICKS_PER_USD).to_integral_value(ROUND_HALF_EVEN))


def format_usd(ticks: int) -> str:
    """Ticks for people: cents from one USD on, below that three significant digits."""
    usd = Decimal(ticks) / TICKS_PER_USD
    if not ticks or abs(usd) >= 1:
        return f"${usd:,.2f}".replace("$-", "-$")
    places = max(2, 2 - usd.adjusted())
    return f"${usd:.{places}f}".replace("$-", "-$")


def known_or_none(ticks: int, unknown: int) -> int | None:
    """A sum for machines: ``None`` where all amounts are ``unknown``. A partly known sum stays."""
    return None if unknown and not ticks else ticks


def cost_words(ticks: int | None, unknown: int) -> str:
    """A sum for people. ``unknown``: the number of answers of unknown cost, which are not in the sum."""
    if not unknown:
        return format_usd(ticks or 0)
    if not ticks:
        return "unknown cost"
    return f"{format_usd(ticks)} and the unknown cost of {unknown:,} {'answer' if unknown == 1 else 'answers'}"


def bound_words(ticks: int | None, unbounded: int) -> str:
    """An upper bound for people. ``unbounded``: the number of requests without a bound."""
    if not unbounded:
        return f"at most {format_usd(ticks or 0)}"
    if not ticks:
        return "at an unknown cost"
    return f"at most {format_usd(ticks)} and the unknown cost of {unbounded:,}"


# ---------------------------------------------------------------------------------- prices


@dataclass(frozen=True, slots=True)
class Prices:
    """The prices of a model, in ticks for a million tokens (``image_ticks``: for one image).

    From ``long_context_tokens`` prompt tokens on, all tokens of the request cost the ``long_`` price, or
    ``long_context_factor`` times the usual price. ``request_ticks``: for the request itself. ``flex_percent`` and
    ``batch_percent``: the price of the service tier ``flex`` and of a batch, in percent of the usual price.
    """

    input_ticks_per_mtok: int
    cached_ticks_per_mtok: int
    output_ticks_per_mtok: int
    image_ticks: int = 0
    long_context_tokens: int | None = None
    long_context_factor: int = LONG_CONTEXT_FACTOR
    long_input_ticks_per_mtok: int | None = None
    long_cached_ticks_per_mtok: int | None = None
    long_output_ticks_per_mtok: int | None = None
    request_ticks: int = 0
    flex_percent: int | None = None
    batch_percent: int | None = None

    def record(self) -> dict[str, int]:
        """The prices as an intent records them: every field that is set."""
        return {each.name: value for each in fields(self) if (value := getattr(self, each.name)) is not None}

    @classmethod
    def recorded(cls, record: Mapping[str, int | None]) -> Prices:
        """The prices of a record; a field may be null. Raises ValueError or TypeError for an invalid record."""
        given = {name: ticks for name, ticks in record.items() if ticks is not None}
        if not all(type(ticks) is int and ticks >= 0 for ticks in given.values()):
            raise ValueError("prices that are no counts of ticks")
        return cls(**given)

    def at(self, tier: str | None) -> Prices:
        """The prices of ``flex`` or ``batch``. Each other tier, and a tier of unknown price, has the usual prices."""
        percent = {FLEX: self.flex_percent, BATCH: self.batch_percent}.get(tier or "")
        if percent is None:
            return self
        scaled = {
            each.name: round(Decimal(ticks * percent) / 100)
            for each in fields(self)
            if "ticks" in each.name and (ticks := getattr(self, each.name)) is not None
        }
        return replace(self, **scaled, flex_percent=None, batch_percent=None)

    def ticks(self, prompt: int, output: int, cached: int = 0, images: int = 0) -> int:
        """The cost of that many tokens; ``cached`` are part of ``prompt``."""
        cached = min(cached, prompt)
        is_long = self.long_context_tokens is not None and prompt >= self.long_context_tokens
        rates: tuple[int, ...]
        rates = self.input_ticks_per_mtok, self.cached_ticks_per_mtok, self.output_ticks_per_mtok
        if is_long:
            listed = self.long_input_ticks_per_mtok, self.long_cached_ticks_per_mtok, self.long_output_ticks_per_mtok
            pairs = zip(rates, listed, strict=True)
            rates = tuple(usual * self.long_context_factor if long is None else long for usual, long in pairs)
        total = (prompt - cached) * rates[0] + cached * rates[1] + output * rates[2]
        whole, rest = divmod(total, TOKENS_PER_MTOK)
        is_rounded_up = 2 * rest > TOKENS_PER_MTOK or (2 * rest == TOKENS_PER_MTOK and whole % 2 == 1)  # half-even
        return whole + is_rounded_up + images * self.image_ticks + self.request_ticks


def cost_ticks(usage: Usage, prices: Prices | None, images: int = 0, tier: str | None = None) -> int | None:
    """The cost of an answer: as reported, else from its tokens; ``None`` where tokens or prices are unknown.

    ``tier``: the service tier that the answer names, or ``batch``.
    """
    if usage.cost_ticks is not None:
        return usage.cost_ticks
    if prices is None or usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    output = usage.completion_tokens + (usage.reasoning_tokens or 0)
    return prices.at(tier).ticks(usage.prompt_tokens, output, usage.cached_tokens or 0, images)


def with_cost(usage: Usage, prices: Prices | None, images: int = 0, tier: str | None = None) -> Usage:
    """``usage`` with its cost; an unreported cost is computed if possible."""
    if usage.cost_ticks is not None:
        return usage
    ticks = cost_ticks(usage, prices, images, tier)
    if ticks is None:
        return usage
    return usage._replace(cost_ticks=ticks, cost_source="computed")


def _per_mtok(input_usd: str, cached_usd: str, output_usd: str) -> Prices:
    return Prices(usd_to_ticks(input_usd), usd_to_ticks(cached_usd), usd_to_ticks(output_usd), 0, 200_000)


#: The models of this family have the same prices. The names without a date come from LiteLLM's price map 1.108.
_GROK_4_20 = (
    "grok-4.20", "grok-4.20-reasoning", "grok-4.20-non-reasoning", "grok-4.20-multi-agent", "grok-4.20-0309",
    "grok-4.20-0309-reasoning", "grok-4.20-0309-non-reasoning", "grok-4.20-multi-agent-0309",
)  # fmt: skip

#: USD for a million tokens: input, cached, output.
_GROK = {
    "grok-4.7": _per_mtok("2.00", "0.50", "6.00"),
    "grok-4.6": _per_mtok("2.00", "0.50", "6.00"),
    "grok-4.5": _per_mtok("2.00", "0.30", "6.00"),
    "grok-4.3": _per_mtok("1.25", "0.20", "2.50"),
    **dict.fromkeys(_GROK_4_20, _per_mtok("1.25", "0.20", "2.50")),
}
_BUILT_IN: dict[str, Mapping[str, Prices]] = {
    "xai": _GROK,
    "emulator": _GROK,
    "openrouter": {f"x-ai/{model}": prices for model, prices in _GROK.items()},
}

_PERCENTS = ("flex_percent", "batch_percent")
_FIELDS = {
    "input": "input_ticks_per_mtok",
    "cached": "cached_ticks_per_mtok",
    "output": "output_ticks_per_mtok",
    "image": "image_ticks",
    "long_input": "long_input_ticks_per_mtok",
    "long_cached": "long_cached_ticks_per_mtok",
    "long_output": "long_output_ticks_per_mtok",
}


def built_in(provider: str, model: str) -> Prices | None:
    """The prices of :data:`PRICES_AS_OF`. A variant (``model:floor``, ``model-latest``) has the prices of its model."""
    return _BUILT_IN.get(provider, {}).get(re.sub(r":.*", "", model).removesuffix("-latest"))


def with_tiers(prices: Prices, provider: str, model: str, host: str) -> Prices:
    """``prices`` with the known percentages of tiers, where they have none. ``host``: of the base URL."""
    name = re.sub(r":.*", "", model).removesuffix("-latest")
    flex = batch = None
    if provider == "openai" and host in _HALF_PRICE_HOSTS:
        flex = batch = 50
    elif provider == "openrouter" and name.startswith(("openai/", "google/")):
        flex = 50
    elif provider in ("xai", "emulator") and name in ("grok-4.3", *_GROK_4_20):
        batch = 80
    return replace(
        prices,
        flex_percent=flex if prices.flex_percent is None else prices.flex_percent,
        batch_percent=batch if prices.batch_percent is None else prices.batch_percent,
    )


def overlaid(known: Prices | None, given: Mapping[str, Any]) -> Prices | None:
    """``given`` over ``known``; ``None`` where input and output prices are missing in both.

    ``given``: ``input``, ``cached``, ``output`` in USD for a million tokens, ``image`` in USD for one image. Without
    ``cached``, cached tokens cost the input price. From ``long_above_tokens`` prompt tokens on, all tokens of a request
    cost ``long_input``, ``long_cached``, ``long_output``; an absent one is a factor of the usual price.
    ``flex_percent`` and ``batch_percent`` are taken as they are.
    """
    ticks: dict[str, Any] = {
        _FIELDS[name]: usd_to_ticks(usd) for name, usd in given.items() if usd is not None and name in _FIELDS
    }
    ticks |= {name: given[name] for name in _PERCENTS if given.get(name) is not None}
    long: dict[str, Any] = {f"long_{name}": None for name in ticks if f"long_{name}" in _FIELDS.values()}
    if (above := given.get("long_above_tokens")) is not None:
        long |= {"long_context_tokens": above, "long_context_factor": LONG_CONTEXT_FACTOR}
    if known is not None:
        return replace(known, **{**long, **ticks})
    if not {"input_ticks_per_mtok", "output_ticks_per_mtok"} <= ticks.keys():
        return None
    return Prices(**({"cached_ticks_per_mtok": ticks["input_ticks_per_mtok"]} | long | ticks))
