"""OpenRouter: many providers behind one. It says which one answered, and what it cost in USD."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, ClassVar

from batchvision.money import Prices, usd_to_ticks
from batchvision.providers import chat, wire
from batchvision.providers.base import Dialect, ModelListing, SendOptions
from batchvision.records import Recipe

#: How an application introduces itself; ``provider.headers`` of the job replaces either.
APP_REFERER = "https://batchvision.example"
APP_TITLE = "batchvision"

_TOKENS_PER_MTOK = 1_000_000


class OpenRouterDialect(Dialect):
    """Any vision model at openrouter.ai."""

    name: ClassVar[str] = "openrouter"
    default_base_url: ClassVar[str] = "https://openrouter.ai/api/v1"
    default_key_env: ClassVar[str | None] = "OPENROUTER_API_KEY"
    account_url: ClassVar[str | None] = "https://openrouter.ai/settings/credits"
    usage_rule: ClassVar[chat.UsageRule] = chat.UsageRule(reports_cost_usd=True)
    request_id_headers: ClassVar[tuple[str, ...]] = ("x-generation-id",)

    def own_headers(self) -> dict[str, str]:
        return {"HTTP-Referer": APP_REFERER, "X-OpenRouter-Title": APP_TITLE}

    def fields(self, recipe: Recipe, options: SendOptions) -> dict[str, Any]:
        """With a schema, only providers that honour it may answer: the others would silently drop it."""
        fields = super().fields(recipe, options)
        if "response_format" in fields:
            routing = fields.get("provider")
            fields["provider"] = {"require_parameters": True, **(routing if isinstance(routing, Mapping) else {})}
        return fields

    def listing(self, entry: Mapping[str, Any]) -> ModelListing:
        modalities = wire.mapping(entry.get("architecture")).get("input_modalities")
        return ModelListing(
            name=wire.text(entry.get("id")) or "",
            prices=_listed_prices(wire.mapping(entry.get("pricing"))),
            takes_images="image" in modalities if isinstance(modalities, list) else None,
            context_tokens=wire.count(entry.get("context_length")),
        )


def _listed_prices(pricing: Mapping[str, Any]) -> Prices | None:
    """Prices are listed as text, in USD for one token (``image``: for one image)."""
    prompt, completion = _usd(pricing.get("prompt")), _usd(pricing.get("completion"))
    if prompt is None or completion is None:
        return None
    cached = _usd(pricing.get("input_cache_read"))
    return Prices(
        input_ticks_per_mtok=usd_to_ticks(prompt * _TOKENS_PER_MTOK),
        cached_ticks_per_mtok=usd_to_ticks((prompt if cached is None else cached) * _TOKENS_PER_MTOK),
        output_ticks_per_mtok=usd_to_ticks(completion * _TOKENS_PER_MTOK),
        image_ticks=usd_to_ticks(_usd(pricing.get("image")) or Decimal(0)),
    )


def _usd(value: Any) -> Decimal | None:
    """A price as listed. Negative ones mean "it depends" (a router picks the model)."""
    if not isinstance(value, str | int | Decimal):
        return None
    try:
        price = Decimal(value)
    except InvalidOperation:
        return None
    return price if price.is_finite() and 0 <= price < 1_000_000 else None
