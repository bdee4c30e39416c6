"""Build a valid instance of a JSON schema from an image description and a prompt. Pure.

The same clue gives the same instance. Each free string holds the sentence, so the echo of the row is in the answer.
``pattern`` and ``not`` are ignored: the portable subset of JSON schema has neither.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_DEPTH = 8  # depth at which a recursive schema ends
_FORMATS = {
    "date": "2026-11-20",
    "time": "12:00:00Z",
    "date-time": "2026-11-20T12:00:00Z",
    "email": "nobody@example.com",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "127.0.0.1",
    "ipv6": "::1",
    "uri": "https://example.com/",
}
_REFUSED_KEYWORDS = ("minContains", "maxContains")


@dataclass(frozen=True, slots=True)
class Clue:
    """The material of an answer."""

    sentence: str  #: the plain answer, echo included
    words: str  #: the prompt and the file names, in which labels are searched
    colours: tuple[str, ...] = ()
    format: str = ""
    width: int = 0
    height: int = 0

    def draw(self, *of: object) -> int:
        """A number that depends only on the clue and on ``of``."""
        text = "|".join((self.sentence, *map(str, of)))
        return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest(), "big")


def compose(schema: Mapping[str, Any], clue: Clue) -> Any:
    """An instance of ``schema``. Raises ValueError if it has no finite instance."""
    return _Composer(schema, clue).instance(schema, "", 0)


class _Composer:
    """Walks one schema. ``name`` is the property of which the instance is made."""

    def __init__(self, root: Mapping[str, Any], clue: Clue) -> None:
        self.root = root
        self.clue = clue

    def instance(self, schema: Any, name: str, depth: int) -> Any:
        if not isinstance(schema, Mapping):
            return self.clue.sentence
        schema = self.resolved(schema, depth)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self.choice(schema["enum"])
        for several in ("anyOf", "oneOf"):
            if several in schema:
                return self.instance(self.branch(schema[several], depth), name, depth + 1)
        match self.type_of(schema, depth):
            case "object":
                return self.members(schema, depth)
            case "array":
                return self.array(schema, name, depth)
            case "string":
                return self.text(schema, name)
            case "integer":
                return int(self.number(schema, name, is_integer=True))
            case "number":
                return self.number(schema, name, is_integer=False)
            case "boolean":
                return self.clue.draw("bool", name) % 2 == 0
            case _:
                return None

    def resolved(self, schema: Mapping[str, Any], depth: int) -> Mapping[str, Any]:
        """Follow references and merge a single ``allOf``. Keys beside it win."""
        if depth > 2 * _DEPTH and ("$ref" in schema or "allOf" in schema):  # optional parts ended at half of this depth
            raise ValueError("it refers to itself without an end")
        if "$ref" in schema:
            target = _pointer(self.root, schema["$ref"])
            own = {key: value for key, value in schema.items() if key != "$ref"}
            return self.resolved({**target, **own}, depth + 1)
        if "allOf" in schema:
            merged: dict[str, Any] = {}
            for part in schema["allOf"]:
                merged.update(self.resolved(part, depth + 1))
            return {**merged, **{key: value for key, value in schema.items() if key != "allOf"}}
        return schema

    def type_of(self, schema: Mapping[str, Any], depth: int) -> str:
        kinds = schema.get("type")
        if kinds is None:
            kinds = "object" if "properties" in schema else "array" if "items" in schema else "string"
        if isinstance(kinds, str):
            return kinds
        if depth >= _DEPTH and "null" in kinds:
            return "null"
        return next((str(kind) for kind in kinds if kind != "null"), "null")

    def branch(self, branches: Sequence[Any], depth: int) -> Any:
        nulls = [each for each in branches if isinstance(each, Mapping) and each.get("type") == "null"]
        if depth >= _DEPTH and nulls:
            return nulls[0]
        return next((each for each in branches if each not in nulls), branches[0])

    def members(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        required = schema.get("required", ())
        return {
            name: self.instance(each, name, depth + 1)
            for name, each in schema.get("properties", {}).items()
            if name in required or depth < _DEPTH
        }

    def array(self, schema: Mapping[str, Any], name: str, depth: int) -> list[Any]:
        items = [self.instance(each, name, depth + 1) for each in schema.get("prefixItems", ())]
        item = schema.get("items")
        least, most = schema.get("minItems", 0), schema.get("maxItems", 256)
        if item is False or (depth >= _DEPTH and not least):
            return items[:most]
        resolved = self.resolved(item, depth) if isinstance(item, Mapping) else {}
        if isinstance(resolved.get("enum"), list):
            items += self.choices(resolved["enum"], max(least, 1))[: most - len(items)]
        while len(items) < min(max(least, 1), most):
            items.append(self.instance(item if item is not None else {}, name, depth + 1))
        return _distinct(items) if schema.get("uniqueItems") else items

    def text(self, schema: Mapping[str, Any], name: str) -> str:
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        text = self.words_for(name)
        pattern = schema.get("pattern")
        if pattern is not None:
            text = _matching(pattern, [*schema.get("examples", ()), text, *_FORMATS.values(), "", "1", "a", "A1"])
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        text = text.ljust(least, ".")
        return text if most is None else text[:most]

    def words_for(self, name: str) -> str:
        """The words for a property. A property named after an image property gets that property alone."""
        lowered = name.lower()
        if "colo" in lowered and self.clue.colours:
            return self.clue.colours[0]
        if lowered in ("format", "file_format", "image_format") and self.clue.format:
            return self.clue.format
        return self.clue.sentence

    def number(self, schema: Mapping[str, Any], name: str, is_integer: bool) -> float:
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        high = schema.get("maximum", schema.get("exclusiveMaximum"))
        step = schema.get("multipleOf") or (1 if is_integer else None)
        value = self.number_for(name, is_integer)
        if low is not None:
            value = max(value, low)
        if high is not None:
            value = min(value, high)
        if value == schema.get("exclusiveMinimum"):
            value += step or (min(1.0, (high - value) / 2) if high is not None else 1.0)
        elif value == schema.get("exclusiveMaximum"):
            value -= step or (min(1.0, (value - low) / 2) if low is not None else 1.0)
        if step:  # without division, so that large integers stay exact
            value = -(-value // step) * step
            if high is not None and value > high:
                value = high // step * step
        return value

    def number_for(self, name: str, is_integer: bool) -> float:
        lowered = name.lower()
        if "width" in lowered:
            return self.clue.width
        if "height" in lowered:
            return self.clue.height
        if not is_integer and any(word in lowered for word in ("confidence", "score", "probability")):
            return 0.5 + self.clue.draw(name) % 50 / 100
        return 1 if is_integer else 0.5

    def choice(self, values: Sequence[Any]) -> Any:
        return self.choices(values, 1)[0]

    def choices(self, values: Sequence[Any], at_least: int) -> list[Any]:
        """The best values, at least ``at_least`` of them: first labels named like a colour of the image, then the
        labels most frequent in the prompt. Ties are drawn."""
        order = sorted(values, key=lambda value: (-self.fit(value), self.clue.draw(json.dumps(value))))
        best = [value for value in order if self.fit(value) >= 10]
        return order[: max(at_least, min(len(best), 2))]

    def fit(self, value: object) -> int:
        if not isinstance(value, str):
            return -1 if value is None else 0
        word = value.lower().replace("_", " ")
        seen = any(colour in word.split() for colour in self.clue.colours)
        is_format = bool(self.clue.format) and word == self.clue.format.lower()
        said = len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", self.clue.words.lower())) if word else 0
        return (10 if seen or is_format else 0) + said


def schema_problem(schema: Mapping[str, Any]) -> str | None:
    """Why xAI would refuse the schema with 400, or ``None``."""
    for place, each in _subschemas(schema, "schema"):
        for name in _REFUSED_KEYWORDS:
            if name in each:
                return f"{place}: {name} is not supported"
        for name in ("enum", "anyOf"):
            if name in each and not each[name]:
                return f"{place}: {name} is empty"
        if isinstance(each.get("items"), list):
            return f"{place}: items must be a schema, not a list"
        for name, value in _properties(each).items():
            if isinstance(value, bool):
                return f"{place}.{name}: a property schema must not be true or false"
        reference = each.get("$ref")
        if reference is not None and not _pointer(schema, reference):
            return f"{place}: {reference!r} refers to nothing"
    return None


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = schema.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def _subschemas(schema: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not isinstance(schema, Mapping):
        return
    yield place, schema
    for name, each in _properties(schema).items():
        yield from _subschemas(each, f"{place}.{name}")
    for keyword in ("$defs", "definitions"):
        for name, each in (schema.get(keyword) or {}).items():
            yield from _subschemas(each, f"{place}.{keyword}.{name}")
    for keyword in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for number, each in enumerate(schema.get(keyword) or ()):
            yield from _subschemas(each, f"{place}.{keyword}[{number}]")
    yield from _subschemas(schema.get("items"), f"{place}.items")


def _pointer(root: Mapping[str, Any], reference: object) -> Mapping[str, Any]:
    """The schema at ``#/$defs/name``, or an empty one."""
    found: Any = root
    if not isinstance(reference, str) or not reference.startswith("#"):
        return {}
    for step in reference[1:].split("/")[1:]:
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _matching(pattern: str, candidates: Sequence[object]) -> str:
    """The first candidate that matches, otherwise the first candidate."""
    texts = [text for text in candidates if isinstance(text, str)]
    try:
        return next((text for text in texts if re.search(pattern, text)), texts[0])
    except re.error:
        return texts[0]


def _distinct(items: list[Any]) -> list[Any]:
    """Append numbers to equal neighbouring texts."""
    seen: set[str] = set()
    distinct: list[Any] = []
    for item in items:
        while json.dumps(item) in seen and isinstance(item, str | int) and not isinstance(item, bool):
            item = f"{item}'" if isinstance(item, str) else item + 1
        seen.add(json.dumps(item))
        distinct.append(item)
    return distinct
