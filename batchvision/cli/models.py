"""``batchvision models --provider P``: the models a provider lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchvision.cli.command import Command
from batchvision.cli.output import print_document, print_table
from batchvision.cli.table import Column

if TYPE_CHECKING:
    from batchvision.providers import ModelListing


@click.command(cls=Command, name="models")
@click.option("--provider", default="xai", show_default=True, help="xai, openrouter, openai, emulator, ...")
@click.option("--base-url", default=None, help="Where the provider is, if not at its usual place.")
@click.option("--all", "every", is_flag=True, help="Also those that take no images.")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def command(provider: str, base_url: str | None, every: bool, as_json: bool) -> None:
    """List a provider's models. Costs nothing; the key is read from the provider's environment variable."""
    import anyio

    from batchvision.check import key_from_environment, list_models
    from batchvision.providers import dialect

    speaks = dialect(provider)
    key = key_from_environment(speaks)
    found = anyio.run(list_models, speaks, base_url or speaks.default_base_url, key, {})
    models = [model for model in found if every or model.takes_images is not False]
    if as_json:
        print_document({"provider": provider, "models": [_document(model) for model in models]})
        return
    print_table(
        [Column("model"), Column("aliases"), *(Column(name, right=True) for name in ("input", "output", "context"))],
        [_cells(model) for model in models],
    )
    click.echo(f"{len(models)} models; prices in USD for a million tokens, - where not listed", err=True)


def _cells(model: ModelListing) -> list[str]:
    prices = model.prices
    return [
        model.name,
        ", ".join(model.aliases),
        "-" if prices is None else _usd(prices.input_ticks_per_mtok),
        "-" if prices is None else _usd(prices.output_ticks_per_mtok),
        "-" if model.context_tokens is None else f"{model.context_tokens:,}",
    ]


def _usd(ticks: int) -> str:
    from batchvision.money import format_usd

    return format_usd(ticks)


def _document(model: ModelListing) -> dict[str, object]:
    prices = model.prices
    return {
        "name": model.name,
        "aliases": list(model.aliases),
        "takes_images": model.takes_images,
        "context_tokens": model.context_tokens,
        "prices": None
        if prices is None
        else {
            "input_ticks_per_million": prices.input_ticks_per_mtok,
            "cached_ticks_per_million": prices.cached_ticks_per_mtok,
            "output_ticks_per_million": prices.output_ticks_per_mtok,
            "image_ticks": prices.image_ticks,
        },
    }
