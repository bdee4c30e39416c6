"""The prices of a model, in this order: the job, its prices file, the provider's list, the built-in table.

``models`` and ``check`` fetch the provider's list; this module stores it in the user's cache folder, and a
run reads it. The list is optional: a missing, damaged or unwritable list is ignored. Nothing here sends or raises.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from batchvision.job import Job
from batchvision.providers import ModelListing
from batchvision.ticks import FLEX, PRICES_AS_OF, Prices, built_in, overlaid, with_tiers

CACHE_DIR_ENV = "BATCHVISION_CACHE_DIR"
#: Older prices come with a warning.
OLD_AFTER = timedelta(days=30)
#: A younger list is used without fetching it again.
FRESH_FOR = timedelta(days=1)

_VERSION = 1


class ListedPrices(NamedTuple):
    """A provider's list of models, and the time of reading."""

    models: tuple[ModelListing, ...]
    at: datetime

    def find(self, model: str) -> ModelListing | None:
        """Find a model by name or alias; an unlisted variant (``model:floor``) counts as its model."""
        by_name = {name: each for each in self.models for name in (*each.aliases, each.name)}
        return by_name.get(model) or by_name.get(re.sub(r":.*", "", model))


class PriceQuote(NamedTuple):
    """The prices of a job's model, with their source. Without ``as_of`` they never count as old."""

    prices: Prices | None
    source: str
    as_of: date | None = None

    def warning(self, today: date, job: Job) -> str | None:
        """A sentence about prices older than 30 days."""
        if self.prices is None or self.as_of is None or today - self.as_of <= OLD_AFTER:
            return None
        provider = job.provider.name
        return (
            f"the prices of {job.provider.model} ({self.source}) are of {self.as_of}, {(today - self.as_of).days} days "
            f"old: read the provider's own with `batchvision models --provider {provider} --refresh`, or set "
            "provider.prices"
        )


def quote(job: Job, environ: Mapping[str, str] | None = None) -> PriceQuote:
    """The prices of the job's model. Each source may hold some of the prices; the next source fills the gaps."""
    provider = job.provider
    known = _known(provider.name, job.base_url, provider.model, environ)
    filed = job.file_prices
    if filed is not None and filed.prices:
        known = _over(known, filed.prices, f"prices file {provider.prices_file}", filed.as_of)
    own = provider.prices.model_dump(exclude_none=True)
    found = _over(known, own, "provider.prices", None) if own else known
    needs_tiers = job.delivery.lane in ("batch", "auto") or provider.parameters.get("service_tier") == FLEX
    if found.prices is None or not needs_tiers:
        return found
    host = urlsplit(job.base_url).hostname or ""
    return found._replace(prices=with_tiers(found.prices, provider.name, provider.model, host))


def _known(provider: str, base_url: str, model: str, environ: Mapping[str, str] | None) -> PriceQuote:
    listed = recall(provider, base_url, environ)
    found = listed.find(model) if listed is not None else None
    if listed is not None and found is not None and found.prices is not None:
        return PriceQuote(found.prices, "the provider's list", listed.at.date())
    prices = built_in(provider, model)
    if prices is None:
        return PriceQuote(None, "none known")
    return PriceQuote(prices, "built-in table", None if provider == "emulator" else PRICES_AS_OF)


def _over(known: PriceQuote, given: Mapping[str, Any], source: str, as_of: date | None) -> PriceQuote:
    """``given`` over ``known``. The date is that of the input and output prices."""
    prices = overlaid(known.prices, given)
    if {"input", "output"} <= given.keys():
        return PriceQuote(prices, source, as_of)
    return PriceQuote(prices, f"{source} over {known.source}", known.as_of)


# ---------------------------------------------------------------------------------- the stored list


def cache_folder(environ: Mapping[str, str] | None = None) -> Path:
    """``BATCHVISION_CACHE_DIR``, else the user's own cache folder for this program."""
    found = os.environ if environ is None else environ
    if own := found.get(CACHE_DIR_ENV):
        return Path(own).expanduser()
    base = found.get("XDG_CACHE_HOME", "")
    # XDG: ignore a relative path
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "batchvision"


def list_path(provider: str, base_url: str, environ: Mapping[str, str] | None = None) -> Path:
    """The file of one server; a provider's name may stand for several servers."""
    server = sha256(base_url.rstrip("/").encode()).hexdigest()[:12]
    return cache_folder(environ) / "models" / f"{re.sub(r'[^A-Za-z0-9_-]', '_', provider)[:40]}-{server}.json"


def remember(
    provider: str,
    base_url: str,
    models: tuple[ModelListing, ...],
    at: datetime,
    environ: Mapping[str, str] | None = None,
) -> Path | None:
    """Store a list for later runs, replaced by one rename. Returns ``None`` if it cannot be stored."""
    document = {"version": _VERSION, "provider": provider, "read_at": at.isoformat()}
    listed = [{**model._asdict(), "prices": model.prices and model.prices.record()} for model in models]
    content = json.dumps({**document, "models": listed}, ensure_ascii=False)
    temporary: str | None = None
    try:
        path = list_path(provider, base_url, environ)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
            file.write(content)
        Path(temporary).replace(path)
    except (OSError, RuntimeError):  # RuntimeError: no home folder
        if temporary is not None:
            with suppress(OSError):
                Path(temporary).unlink()
        return None
    return path


def recall(provider: str, base_url: str, environ: Mapping[str, str] | None = None) -> ListedPrices | None:
    """The stored list; ``None`` if there is no readable list."""
    try:
        document = json.loads(list_path(provider, base_url, environ).read_text(encoding="utf-8"))
        if document["version"] != _VERSION or document["provider"] != provider:
            return None
        at = datetime.fromisoformat(document["read_at"])
        models = tuple(_listing(entry) for entry in document["models"])
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return ListedPrices(models, at.replace(tzinfo=UTC) if at.tzinfo is None else at)


def _listing(entry: Mapping[str, Any]) -> ModelListing:
    """Raises ValueError, KeyError or TypeError for an entry that no version wrote."""
    prices = entry["prices"]
    return ModelListing(
        name=str(entry["name"]),
        aliases=tuple(str(alias) for alias in entry["aliases"]),
        prices=None if prices is None else Prices.recorded(prices),
        takes_images=entry["takes_images"],
        context_tokens=entry["context_tokens"],
        max_output_tokens=entry.get("max_output_tokens"),
    )
