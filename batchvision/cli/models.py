"""``batchvision models --provider P``: the models a provider lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchvision.cli.command import Command
from batchvision.cli.output import print_document, print_table
from batchvision.cli.table import TextColumn

if TYPE_CHECKING:
    from batchvision.providers import ModelListing
    from batchvision.ticks import Prices


@click.command(cls=Command, name="models")
@click.option("--provider", default="xai", show_default=True, help="xai, openrouter, openai, emulator, ...")
@click.option("--base-url", default=None, help="Where the provider is, if not at its usual place.")
@click.option("--refresh", is_flag=True, help="Ask again, even if the list is less than a day old.")
@click.option("--all", "every", is_flag=True, help="Also those that take no images.")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def command(provider: str, base_url: str | None, refresh: bool, every: bool, as_json: bool) -> None:
    """List a provider's vision models with their prices and limits.

    Costs nothing; the key is read from the provider's environment variable. The list is remembered: runs, plans and
    caps go by its prices, unless the job has its own.
    """
    from batchvision.cli.terminal import HIDDEN
    from batchvision.commands.check import current_models
    from batchvision.providers import dialect

    speaks = dialect(provider)
    where = base_url or speaks.default_base_url
    listed = current_models(speaks, where, refresh=refresh, secrets=HIDDEN)
    models = [model for model in listed.models if every or model.takes_images is not False]
    if as_json:
        read_at = listed.at.isoformat(timespec="seconds")
        print_document(
            {
                "provider": provider,
                "base_url": where,
                "read_at": read_at,
                "models": [_document(model) for model in models],
            }
        )
        return
    print_table(
        [TextColumn("model"), TextColumn("aliases"), *(TextColumn(name, right=True) for name in _NUMBERS)],
        [_cells(model) for model in models],
    )
    of = listed.at.strftime("%Y-%m-%d %H:%M UTC")
    click.echo(f"{len(models)} models, as of {of}; prices in USD for a million tokens, - where not listed", err=True)


_NUMBERS = ("input", "cached", "output", "image", "long", "context", "answer")


def _cells(model: ModelListing) -> list[str]:
    prices = model.prices
    known = ["-"] * 5
    if prices is not None:
        rates = (prices.input_ticks_per_mtok, prices.cached_ticks_per_mtok, prices.output_ticks_per_mtok)
        known = [*map(_usd, rates), _usd(prices.image_ticks) if prices.image_ticks else "-", _long(prices)]
    return [model.name, ", ".join(model.aliases), *known, _count(model.context_tokens), _count(model.max_output_tokens)]


def _long(prices: Prices) -> str:
    """The price of input in a long context, and where the long context begins."""
    if prices.long_context_tokens is None:
        return "-"
    own = prices.long_input_ticks_per_mtok
    listed = prices.input_ticks_per_mtok * prices.long_context_factor if own is None else own
    return f"{_usd(listed)} from {prices.long_context_tokens // 1000:,}k"


def _count(tokens: int | None) -> str:
    return "-" if tokens is None else f"{tokens:,}"


def _usd(ticks: int) -> str:
    from batchvision.ticks import format_usd

    return format_usd(ticks)


def _document(model: ModelListing) -> dict[str, object]:
    prices = model.prices
    return {
        "name": model.name,
        "aliases": list(model.aliases),
        "takes_images": model.takes_images,
        "context_tokens": model.context_tokens,
        "max_output_tokens": model.max_output_tokens,
        "prices": None
        if prices is None
        else {
            "input_ticks_per_million": prices.input_ticks_per_mtok,
            "cached_ticks_per_million": prices.cached_ticks_per_mtok,
            "output_ticks_per_million": prices.output_ticks_per_mtok,
            "image_ticks": prices.image_ticks,
            "request_ticks": prices.request_ticks,
            "long_context_tokens": prices.long_context_tokens,
            "long_context_factor": prices.long_context_factor,
            "long_input_ticks_per_million": prices.long_input_ticks_per_mtok,
            "long_cached_ticks_per_million": prices.long_cached_ticks_per_mtok,
            "long_output_ticks_per_million": prices.long_output_ticks_per_mtok,
        },
    }
