"""The keys of ``[provider.prices]`` and of a prices file."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from batchvision.job.values import Count, Money, Section


class PricesSection(Section):
    """USD per million tokens (``image``: per image). An absent price is the provider's listed price.

    From ``long_above_tokens`` prompt tokens on, all tokens of the request cost the ``long_`` prices. An absent
    ``long_`` price is twice the short price.
    """

    input: Money | None = None
    """USD per million prompt tokens. Example: `input = 1.25`."""
    cached: Money | None = None
    """USD per million prompt tokens that the provider has in its cache. Example: `cached = 0.2`."""
    output: Money | None = None
    """USD per million tokens of the answer, thinking included. Example: `output = 2.5`."""
    image: Money | None = None
    """USD per image, where the provider charges images by the piece. Example: `image = 0.001`."""
    long_above_tokens: Count | None = None
    """From so many prompt tokens on, all tokens of the request cost the `long_` prices. Example: `long_above_tokens =
    200000`."""
    long_input: Money | None = None
    """USD per million prompt tokens of a long request. Default: twice `input`. Example: `long_input = 2.5`."""
    long_cached: Money | None = None
    """USD per million cached tokens of a long request. Default: twice `cached`. Example: `long_cached = 0.4`."""
    long_output: Money | None = None
    """USD per million tokens of the answer to a long request. Default: twice `output`. Example: `long_output = 5.0`."""
    flex_percent: Annotated[Count, Field(le=100)] | None = None
    """The price of answers under `service_tier = "flex"`, in percent of the prices above. Default: what is known of the
    model, otherwise 100. Example: `flex_percent = 50`."""
    batch_percent: Annotated[Count, Field(le=100)] | None = None
    """The price of answers in a batch, in percent of the prices above. Default: what is known of the model, otherwise
    100. Example: `batch_percent = 50`."""

    @model_validator(mode="after")
    def _long_from_somewhere(self) -> Self:
        given = [name for name in ("long_input", "long_cached", "long_output") if getattr(self, name) is not None]
        if given and self.long_above_tokens is None:
            raise ValueError(f"{given[0]} needs long_above_tokens: from how many prompt tokens on it is the price")
        return self
