"""Turn pydantic's errors into sentences with the next step.

The value of a header is never repeated, as it may be a key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from batchvision.job.price_keys import PricesSection
from batchvision.job.sections import SECTIONS, ExampleSection, keys_of
from batchvision.job.sources import TOP_LEVEL

_MAX_SHOWN = 60


def sentences(section: str, error: ValidationError, origins: Mapping[str, str]) -> Iterator[str]:
    """One sentence for each wrong setting in ``section`` ("" for the top level)."""
    seen = set[str]()
    for found in error.errors(include_url=False):
        place = _place(section, found["loc"])
        if place in seen:  # pydantic reports each branch of a union
            continue
        seen.add(place)
        yield _sentence(section, place, found, origins)


def _place(section: str, loc: tuple[int | str, ...]) -> str:
    """``limits.max_attempts``, ``prompt.example[2].answer``; without the names of a union's branches."""
    path = section
    for depth, step in enumerate(loc):
        in_free_table = depth == 1 and loc[0] in ("headers", "parameters", "prices")
        if isinstance(step, int):
            path += f"[{step + 1}]"
        elif depth == 0 or in_free_table or isinstance(loc[depth - 1], int):
            path += f".{step}" if path else step
    return path


def _sentence(section: str, place: str, found: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    if found["type"] == "extra_forbidden":
        return unknown_key(place, origins)
    if found["type"] == "missing":
        return f"{place} is missing; set it in the job file"
    text = problem_text(found)
    if place == section:  # the sentence names the keys
        return f"[{place}]: {text}"
    origin = origins.get(place, "job file")
    came_from = f" ({origin})" if origin != "job file" else ""
    if ".headers" in place or isinstance(found["input"], Mapping):
        return f"{place}{came_from}: {text}"
    shown = repr(found["input"])
    shown = shown if len(shown) <= _MAX_SHOWN else shown[:_MAX_SHOWN] + "..."
    return f"{place} = {shown}{came_from}: {text}"


#: pydantic's nouns, and those of TOML.
_TOML_WORDS = {
    "a valid tuple": "a list",
    "a valid dictionary": "a table",
    "a valid string": "text",
    "a valid boolean": "true or false",
}
_INPUT_SHOULD = re.compile(r"^(?:Decimal input|Input) should")


def problem_text(found: Mapping[str, Any]) -> str:
    """One of pydantic's errors in our words. A validator of ours raised the sentence itself."""
    if found["type"] == "value_error":
        return str(found["ctx"]["error"])
    text = str(found["msg"])
    for word, ours in _TOML_WORDS.items():
        text = text.replace(word, ours)
    return _INPUT_SHOULD.sub("it should", text)


def unknown_key(place: str, origins: Mapping[str, str]) -> str:
    """A sentence for an unknown key, with the closest key or the right section."""
    origin = origins.get(place, "job file")
    named = f"{place} ({origin})" if origin != "job file" else place
    section, _, key = place.rpartition(".")
    keys = _siblings(section)
    close = get_close_matches(key, keys, n=1, cutoff=0.6)
    if close:
        return f"{named} is not a key; did you mean {f'{section}.' if section else ''}{close[0]}?"
    homes = [f"[{name}]" for name, model in SECTIONS.items() if key in keys_of(model)]
    if homes:
        return f"{named} is not a key here; {key} belongs in {' or '.join(homes)}"
    return f"{named} is not a key; there are: {', '.join(keys)}"


def _siblings(section: str) -> tuple[str, ...]:
    if section.startswith("prompt.example"):
        return keys_of(ExampleSection)
    if section == "provider.prices":
        return keys_of(PricesSection)
    model: type[BaseModel] | None = SECTIONS.get(section)
    return keys_of(model) if model else (*TOP_LEVEL, *SECTIONS)
