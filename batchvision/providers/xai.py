"""xAI: Grok. Completion tokens exclude reasoning, answers report their cost in ticks, a bad key is a 400."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import quote

from batchvision.providers import chat, wire
from batchvision.providers.base import Dialect, ModelListing, listed_aliases, listed_name
from batchvision.records import Lane
from batchvision.ticks import Prices

#: Prices are listed in USD cents for 100 million tokens: 1 means a million ticks for a million tokens.
_TICKS_PER_LISTED_PRICE = 1_000_000


class XaiDialect(Dialect):
    """Grok at api.x.ai."""

    name: ClassVar[str] = "xai"
    default_base_url: ClassVar[str] = "https://api.x.ai/v1"
    default_key_env: ClassVar[str | None] = "XAI_API_KEY"
    account_url: ClassVar[str | None] = "https://console.x.ai"
    lanes: ClassVar[frozenset[Lane]] = frozenset({Lane.ONLINE, Lane.DEFERRED, Lane.BATCH})
    batch_form: ClassVar[str | None] = "xai"
    has_cost_in_body: ClassVar[bool] = True
    models_path: ClassVar[str] = "/language-models"
    usage_rule: ClassVar[chat.UsageRule] = chat.UsageRule(completion_includes_reasoning=False)
    conversation_header: ClassVar[str | None] = "x-grok-conv-id"
    least_image: ClassVar[tuple[int, int]] = (8, 512)

    def ticket_path(self, ticket: str) -> str:
        return f"/chat/deferred-completion/{quote(ticket, safe='')}"

    def listing(self, entry: Mapping[str, Any]) -> ModelListing:
        modalities = entry.get("input_modalities")
        lengths = [wire.count(entry.get(name)) for name in ("context_length", "max_prompt_length")]
        return ModelListing(
            name=listed_name(entry),
            aliases=listed_aliases(entry),
            prices=_listed_prices(entry),
            takes_images="image" in modalities if isinstance(modalities, list) else None,
            context_tokens=next((length for length in lengths if length is not None), None),
        )


class EmulatorDialect(XaiDialect):
    """The loopback provider of this package (``batchvision emulate``): xAI's API without a key."""

    name: ClassVar[str] = "emulator"
    default_base_url: ClassVar[str] = "http://127.0.0.1:8765/v1"
    default_key_env: ClassVar[str | None] = None
    account_url: ClassVar[str | None] = None
    least_image: ClassVar[tuple[int, int]] = (1, 1)


def _ticks(entry: Mapping[str, Any], name: str) -> int | None:
    listed = wire.count(entry.get(name))
    return None if listed is None else listed * _TICKS_PER_LISTED_PRICE


def _listed_prices(entry: Mapping[str, Any]) -> Prices | None:
    """The listed prices. Images count as prompt tokens: the higher of the two prices is used for the prompt."""
    prompt, output = _ticks(entry, "prompt_text_token_price"), _ticks(entry, "completion_text_token_price")
    if prompt is None or output is None:
        return None
    prompt = max(prompt, _ticks(entry, "prompt_image_token_price") or 0)
    cached = _ticks(entry, "cached_prompt_text_token_price")
    return Prices(
        input_ticks_per_mtok=prompt,
        cached_ticks_per_mtok=prompt if cached is None else cached,
        output_ticks_per_mtok=output,
        long_context_tokens=wire.count(entry.get("long_context_threshold")) or None,
        long_input_ticks_per_mtok=_ticks(entry, "prompt_text_token_price_long_context"),
        long_cached_ticks_per_mtok=_ticks(entry, "cached_prompt_text_token_price_long_context"),
        long_output_ticks_per_mtok=_ticks(entry, "completion_text_token_price_long_context"),
    )
