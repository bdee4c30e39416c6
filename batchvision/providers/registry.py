"""Dialects by name. Other packages add theirs through the entry point group ``batchvision.providers``."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from batchvision.errors import JobInvalid
from batchvision.providers.base import Dialect
from batchvision.providers.batch import BatchDialect
from batchvision.providers.batch_openai import OpenAIBatches
from batchvision.providers.batch_xai import XaiBatches
from batchvision.providers.openai import OpenAIDialect
from batchvision.providers.openrouter import OpenRouterDialect
from batchvision.providers.xai import EmulatorDialect, XaiDialect

ENTRY_POINT_GROUP = "batchvision.providers"

_BUILT_IN: dict[str, type[Dialect]] = {
    of.name: of for of in (XaiDialect, OpenRouterDialect, OpenAIDialect, EmulatorDialect)
}


def names() -> tuple[str, ...]:
    """The names of all providers, built-in ones first."""
    return (*_BUILT_IN, *sorted(point.name for point in entry_points(group=ENTRY_POINT_GROUP)))


@cache
def dialect(name: str) -> Dialect:
    """The dialect of a provider. Raises JobInvalid with the known names."""
    built_in = _BUILT_IN.get(name)
    return built_in() if built_in is not None else _from_entry_point(name)


_BATCHES: dict[str, type[BatchDialect]] = {"openai": OpenAIBatches, "xai": XaiBatches}


def batch_dialect(dialect: Dialect) -> BatchDialect:
    """The batches of a provider. Raises JobInvalid where it has none, with the reason and the way out."""
    if dialect.batch_form is None:
        raise JobInvalid(dialect.batch_refusal())
    return _BATCHES[dialect.batch_form](dialect)


def _from_entry_point(name: str) -> Dialect:
    for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        loaded = point.load()
        found = loaded() if isinstance(loaded, type) else loaded
        if isinstance(found, Dialect):
            return found
        raise JobInvalid(f"the provider {name!r} ({point.value}) is not a batchvision.providers.Dialect")
    raise JobInvalid(f"there is no provider {name!r}; choose one of: {', '.join(names())}")
