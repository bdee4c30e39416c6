"""A prices file: the user's own prices of models, for many jobs.

::

    as_of = 2026-11-20              # optional: the date of the prices
    ["grok-4.3"]                    # the keys of [provider.prices]
    input = 1.25
    output = 2.5
    long_above_tokens = 200000
    long_input = 2.5
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, NamedTuple

from pydantic import ValidationError

from batchvision.job.price_keys import PricesSection
from batchvision.job.problems import problem_text


class FilePrices(NamedTuple):
    """The prices of one model in a file, by their names in ``[provider.prices]``."""

    prices: Mapping[str, Any]
    as_of: date | None


def file_prices(text: str, model: str) -> FilePrices:
    """The prices of ``model``; empty where the file does not name it. Raises ValueError with a sentence."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"it is not valid TOML: {error}") from None
    as_of = tables.pop("as_of", None)
    if isinstance(as_of, datetime):
        as_of = as_of.date()
    if as_of is not None and not isinstance(as_of, date):
        raise ValueError("as_of is no date; write it like 2026-11-20, without quotes")
    found = {name: _section(name, table) for name, table in tables.items()}
    own = found.get(model)
    return FilePrices({} if own is None else own.model_dump(exclude_none=True), as_of if own else None)


def _section(name: str, table: Any) -> PricesSection:
    try:
        return PricesSection.model_validate(table)
    except ValidationError as error:
        if (found := error.errors(include_url=False)[0])["type"] == "value_error" and not found["loc"]:
            raise ValueError(f'["{name}"]: {problem_text(found)}') from None
        there = ", ".join(PricesSection.model_fields)
        raise ValueError(
            f'["{name}"] must hold USD per million tokens as numbers (image: per image), by the names {there}'
        ) from None
