"""OpenRouter: many providers behind one API. Answers name the upstream provider and the cost in USD."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, ClassVar

from batchvision.providers import chat, wire
from batchvision.providers.base import Dialect, ModelListing, SendOptions, listed_name
from batchvision.records import Recipe
from batchvision.ticks import Prices, usd_to_ticks

_TOKENS_PER_MTOK = 1_000_000


class OpenRouterDialect(Dialect):
    """Any vision model at openrouter.ai."""

    name: ClassVar[str] = "openrouter"
    default_base_url: ClassVar[str] = "https://openrouter.ai/api/v1"
    default_key_env: ClassVar[str | None] = "OPENROUTER_API_KEY"
    account_url: ClassVar[str | None] = "https://openrouter.ai/settings/credits"
    usage_rule: ClassVar[chat.UsageRule] = chat.UsageRule(reports_cost_usd=True)
    has_cost_in_body: ClassVar[bool] = True
    has_response_cache: ClassVar[bool] = True
    no_batches: ClassVar[str] = (
        "its batches refuse images inside the request (data URIs) and take public URLs at few upstream providers only"
    )
    request_id_headers: ClassVar[tuple[str, ...]] = ("x-generation-id",)

    def response_cache_headers(self, ttl_seconds: int | None, *, is_wanted: bool) -> dict[str, str]:
        if not is_wanted:
            return {"X-OpenRouter-Cache": "false"}
        ttl = {} if ttl_seconds is None else {"X-OpenRouter-Cache-TTL": str(ttl_seconds)}
        return {"X-OpenRouter-Cache": "true", **ttl}

    def fields(self, recipe: Recipe, options: SendOptions) -> dict[str, Any]:
        """With a schema, ask for providers that honour it: the rest would silently drop it."""
        fields = super().fields(recipe, options)
        if "response_format" in fields:
            routing = fields.get("provider")
            fields["provider"] = {"require_parameters": True, **(routing if isinstance(routing, Mapping) else {})}
        return fields

    def listing(self, entry: Mapping[str, Any]) -> ModelListing:
        modalities = wire.mapping(entry.get("architecture")).get("input_modalities")
        return ModelListing(
            name=listed_name(entry),
            prices=_listed_prices(wire.mapping(entry.get("pricing"))),
            takes_images="image" in modalities if isinstance(modalities, list) else None,
            context_tokens=wire.count(entry.get("context_length")),
            max_output_tokens=wire.count(wire.mapping(entry.get("top_provider")).get("max_completion_tokens")),
        )


def _listed_prices(pricing: Mapping[str, Any]) -> Prices | None:
    """Prices are listed as text, in USD for one token (``image``, ``request``: for one of them)."""
    prompt, cached, completion = _rates(pricing)
    if prompt is None or completion is None:
        return None
    steps = (wire.mapping(step) for step in wire.sequence(pricing.get("overrides")))  # some begin at an hour of the day
    long: Mapping[str, Any] = next((step for step in steps if wire.count(step.get("min_prompt_tokens"))), {})
    long_prompt, long_cached, long_completion = _rates(long)
    return Prices(
        input_ticks_per_mtok=prompt,
        cached_ticks_per_mtok=prompt if cached is None else cached,
        output_ticks_per_mtok=completion,
        image_ticks=usd_to_ticks(_usd(pricing.get("image")) or Decimal(0)),
        request_ticks=usd_to_ticks(_usd(pricing.get("request")) or Decimal(0)),
        long_context_tokens=wire.count(long.get("min_prompt_tokens")),
        long_context_factor=1 if long else 2,  # a price without an override does not change
        long_input_ticks_per_mtok=long_prompt,
        long_cached_ticks_per_mtok=long_cached,
        long_output_ticks_per_mtok=long_completion,
    )


def _rates(pricing: Mapping[str, Any]) -> tuple[int | None, int | None, int | None]:
    """Ticks for a million tokens: prompt, cached, completion."""
    listed = (_usd(pricing.get(name)) for name in ("prompt", "input_cache_read", "completion"))
    prompt, cached, completion = (None if usd is None else usd_to_ticks(usd * _TOKENS_PER_MTOK) for usd in listed)
    return prompt, cached, completion


def _usd(value: Any) -> Decimal | None:
    """A price as listed. Negative ones mean "it depends" (a router picks the model)."""
    if not isinstance(value, str | int | Decimal):
        return None
    try:
        price = Decimal(value)
    except InvalidOperation:
        return None
    return price if price.is_finite() and 0 <= price < 1_000_000 else None
