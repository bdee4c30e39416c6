"""Turn a user's JSON schema into the form that every provider takes, and into the form that answers are checked by.

The sent form has only types, enums, properties, items, anyOf and descriptions. Objects are closed and properties
required; optional properties are nullable. The descriptions state limits (lengths, ranges, patterns, formats) in words,
and the check of the answer enforces them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

Schema = dict[str, Any]

#: References are copied in, so a schema can grow; no provider takes more nodes (OpenAI: 5,000 properties).
MAX_NODES = 5_000

#: Stated in the description, and checked here.
_STATED = (
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern",
    "format", "minItems", "maxItems", "uniqueItems",
)  # fmt: skip
#: Checked here only: providers ignore these keywords.
_CHECKED = (
    "minProperties", "maxProperties", "contains", "minContains", "maxContains", "not", "if", "then", "else",
    "dependentRequired",
)  # fmt: skip
#: Dropped: annotations, and references that were followed. The last two lines are of OpenAPI and of tools.
_DROPPED = (
    "title", "default", "examples", "$schema", "$id", "$comment", "$defs", "definitions", "deprecated", "readOnly",
    "writeOnly", "$anchor", "id", "$vocabulary", "$dynamicAnchor", "$recursiveAnchor", "contentEncoding",
    "contentMediaType", "discriminator", "example", "externalDocs", "xml", "components", "enumNames",
    "enumDescriptions", "markdownDescription", "propertyOrdering", "errorMessage", "strict",
)  # fmt: skip
_STRUCTURE = (
    "type", "enum", "const", "properties", "required", "items", "anyOf", "oneOf", "allOf", "$ref", "description",
    "additionalProperties", "nullable",
)  # fmt: skip
_KNOWN = frozenset((*_STRUCTURE, *_DROPPED, *_STATED, *_CHECKED))
_TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
_NULL: Schema = {"type": "null"}


class SchemaProblem(ValueError):
    """The schema is outside the portable subset; ``problems`` holds a sentence each."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


#: Wrappers around a schema: OpenAI's two forms of ``response_format``, its functions, and those of similar tools.
_WRAPPERS = ("response_format", "text", "format", "json_schema", "schema", "function", "parameters", "input_schema")
_OF_A_SCHEMA = frozenset({"properties", "$ref", "anyOf", "oneOf", "allOf", "enum"})


def unwrapped(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema itself, out of ``{"name": ..., "strict": true, "schema": {...}}`` and forms like it."""
    if schema.keys() & _OF_A_SCHEMA or schema.get("type") in _TYPES:
        return {word: value for word, value in schema.items() if word not in ("name", "strict")}
    inner = next((schema[word] for word in _WRAPPERS if isinstance(schema.get(word), Mapping)), None)
    return schema if inner is None else unwrapped(inner)


def expand(schema: Mapping[str, Any]) -> Schema:
    """``schema`` with every ``$ref`` copied in, single-branch ``allOf`` merged, ``const`` and ``oneOf`` made plain.

    In the result every node has either ``type`` (one or a list), or ``anyOf``. Raises :class:`SchemaProblem`.
    """
    expander = _Expander(schema)
    result = expander.node(schema, "#", ())
    if expander.problems:
        raise SchemaProblem(list(dict.fromkeys(expander.problems)))
    return result


class _Expander:
    """One walk over a user's schema that collects its problems."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._nodes = 0
        self.problems: list[str] = []

    def _wrong(self, path: str, sentence: str) -> Schema:
        self.problems.append(f"schema {path}: {sentence}")
        return {"type": "null"}

    def node(self, schema: Any, path: str, inside: tuple[str, ...]) -> Schema:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            return self._wrong("#", f"it has more than {MAX_NODES} parts once its references are followed")
        if not isinstance(schema, Mapping):
            return self._wrong(path, "true or false is no type here; say what type the value has")
        if "$ref" in schema:
            return self._reference(schema, path, inside)
        if "allOf" in schema:
            return self._single_all_of(schema, path, inside)
        for word in schema.keys() - _KNOWN:
            if not word.startswith("x-"):  # a tool's own notes
                self._wrong(path, f"{word} is not understood by all providers; remove it")
        plain = _with_plain_bounds(schema)
        result = {word: plain[word] for word in ("description", *_STATED, *_CHECKED) if word in plain}
        result |= (self._branches if "anyOf" in plain or "oneOf" in plain else self._typed)(plain, path, inside)
        # OpenAPI's way to allow null: beside a type, an enum (which need not name null), a reference or a choice
        nullable = schema.get("nullable", False)
        if not isinstance(nullable, bool):
            return self._wrong(path, "nullable is true or false")
        return _or_null(result) if nullable else result

    def _reference(self, schema: Mapping[str, Any], path: str, inside: tuple[str, ...]) -> Schema:
        target = schema["$ref"]
        if target in inside:
            return self._wrong(path, f"{target} refers to itself; providers do not take recursive schemas")
        found: Any = self._root
        steps = target[1:].split("/")[1:] if isinstance(target, str) and target.startswith("#") else None
        for step in steps or ():
            key = unquote(step).replace("~1", "/").replace("~0", "~")
            found = found.get(key) if isinstance(found, Mapping) else None
        if steps is None or found is None:
            return self._wrong(path, f"$ref {target!r} is not in this file; only references like #/$defs/name are")
        beside = {word: value for word, value in schema.items() if word not in ("$ref", *_DROPPED)}
        return self.node({**found, **beside} if isinstance(found, Mapping) else found, path, (*inside, str(target)))

    def _single_all_of(self, schema: Mapping[str, Any], path: str, inside: tuple[str, ...]) -> Schema:
        branches = schema["allOf"]
        if not isinstance(branches, list) or len(branches) != 1 or not isinstance(branches[0], Mapping):
            return self._wrong(path, "allOf with other than one branch is not understood by all providers; merge it")
        return self.node({**branches[0], **{k: v for k, v in schema.items() if k != "allOf"}}, path, inside)

    def _branches(self, schema: Mapping[str, Any], path: str, inside: tuple[str, ...]) -> Schema:
        word = "anyOf" if "anyOf" in schema else "oneOf"
        branches = schema[word]
        if not isinstance(branches, list) or not branches:
            return self._wrong(path, f"{word} is empty; list the possible types")
        if beside := sorted(schema.keys() & {"properties", "items", "enum", "const"}):
            return self._wrong(path, f"{beside[0]} beside {word} is not understood by all; move it into the branches")
        return {"anyOf": [self.node(branch, f"{path}/{word}/{i}", inside) for i, branch in enumerate(branches)]}

    def _typed(self, schema: Mapping[str, Any], path: str, inside: tuple[str, ...]) -> Schema:
        result: Schema = {}
        if "enum" in schema or "const" in schema:
            values = schema["enum"] if "enum" in schema else [schema["const"]]
            if not isinstance(values, list) or not values:
                return self._wrong(path, "enum is empty; list the allowed values")
            result["enum"] = values
        types = self._types(schema, result.get("enum"), path)
        result["type"] = types[0] if len(types) == 1 else types
        if "object" in types:
            result |= self._object(schema, path, inside)
        if "array" in types:
            result |= self._array(schema, path, inside)
        return result

    def _types(self, schema: Mapping[str, Any], values: list[Any] | None, path: str) -> list[str]:
        given = schema.get("type")
        types = [given] if isinstance(given, str) else list(given or ())
        if not types and values is not None:
            types = list(dict.fromkeys(_type_of(value) for value in values))
        if not types and "properties" in schema:
            types = ["object"]
        if not types:
            self._wrong(path, 'it says no type; add one, such as "type": "string"')
        for name in types:
            if name not in _TYPES:
                self._wrong(path, f"{name!r} is no JSON type; there are {', '.join(_TYPES)}")
        if values is not None:  # "null" beside an enum without null does not allow null
            types = [name for name in types if _values_of(name, values)]
            if not types:
                self._wrong(path, "no value of the enum has the type; make them agree")
        return [name for name in types if name in _TYPES] or ["null"]

    def _object(self, schema: Mapping[str, Any], path: str, inside: tuple[str, ...]) -> Schema:
        properties = schema.get("properties")
        required = schema.get("required", [])
        if not isinstance(properties, Mapping) or not properties:
            return self._wrong(path, "an object needs properties; for free keys use an array of {key, value} objects")
        if schema.get("additionalProperties", False) is not False:
            self._wrong(path, "additionalProperties must be false: only the listed properties can be asked for")
        for name in required:
            if name not in properties:
                self._wrong(path, f"required names {name!r}, which is not among the properties")
        return {
            "properties": {
                str(name): self.node(child, f"{path}/properties/{name}", inside) for name, child in properties.items()
            },
            "required": [name for name in properties if name in required],
        }

    def _array(self, schema: Mapping[str, Any], path: str, inside: tuple[str, ...]) -> Schema:
        items = schema.get("items")
        if not isinstance(items, Mapping):
            return self._wrong(path, 'an array needs items with one schema, such as "items": {"type": "string"}')
        return {"items": self.node(items, f"{path}/items", inside)}


def _with_plain_bounds(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """OpenAPI 3.0 and draft 4 say ``exclusiveMinimum: true`` beside the bound itself."""
    plain = dict(schema)
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        is_exclusive = plain.get(exclusive)
        if isinstance(is_exclusive, bool):
            del plain[exclusive]
            if is_exclusive and bound in plain:
                plain[exclusive] = plain.pop(bound)
    return plain


def _type_of(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def _values_of(name: str, values: list[Any]) -> list[Any]:
    """The values that have the type ``name``; an integer is a number too."""
    allowed = {"integer", "number"} if name == "number" else {name}
    return [value for value in values if _type_of(value) in allowed]


def _types_of(schema: Mapping[str, Any]) -> list[str]:
    types = schema.get("type", [])
    return [types] if isinstance(types, str) else list(types)


def _nullable(schema: Schema) -> Schema:
    """``schema`` or null; a description stays where the model reads it first."""
    if "null" in flat_types(schema):
        return schema
    branches = schema["anyOf"] if set(schema) <= {"anyOf", "description"} else None
    described = {"description": schema["description"]} if "description" in schema else {}
    bare = {word: value for word, value in schema.items() if word != "description"}
    return {**described, "anyOf": [*(branches or [bare]), _NULL]}


def _or_null(schema: Schema) -> Schema:
    """As :func:`_nullable`, within the type where possible: error messages then name the inner place."""
    if "type" not in schema or schema.keys() & {"not", "if"}:
        return _nullable(schema)
    types = list(dict.fromkeys([*_types_of(schema), "null"]))
    values = {"enum": [*schema["enum"], *([] if None in schema["enum"] else [None])]} if "enum" in schema else {}
    return {**schema, "type": types, **values}


def flat_types(schema: Mapping[str, Any]) -> set[str]:
    """All types a value may have, through anyOf; "object" and "array" included, "null" too."""
    found = set(_types_of(schema))
    for branch in schema.get("anyOf", ()):
        found |= flat_types(branch)
    return found


def without_null(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema besides null of a nullable schema; any different schema unchanged."""
    branches = [branch for branch in schema.get("anyOf", ()) if branch != _NULL]
    if len(branches) == 1:
        return without_null(branches[0])
    if branches:
        return {"anyOf": branches}
    return schema


def _stated_limits(schema: Mapping[str, Any]) -> str | None:
    limits = [f"{word}: {json.dumps(schema[word], ensure_ascii=False)}" for word in _STATED if word in schema]
    parts = [str(schema["description"])] if "description" in schema else []
    if limits:
        parts.append(f"({', '.join(limits)})")
    return " ".join(parts) or None


def as_sent(schema: Mapping[str, Any]) -> Schema:
    """An expanded schema in the portable subset."""
    described = {"description": text} if (text := _stated_limits(schema)) else {}
    if "anyOf" in schema:
        return {**described, "anyOf": _flat([as_sent(branch) for branch in schema["anyOf"]])}
    types = _types_of(schema)
    if len(types) > 1:
        return {**described, "anyOf": [_of_type(schema, name) for name in types]}
    return {**_of_type(schema, types[0]), **described}


def _flat(branches: list[Schema]) -> list[Schema]:
    """Branches that are nothing but a choice themselves are opened; null is named once."""
    opened = [inner for branch in branches for inner in (branch["anyOf"] if set(branch) == {"anyOf"} else [branch])]
    return [b for i, b in enumerate(opened) if b not in opened[:i]]


def _of_type(schema: Mapping[str, Any], name: str) -> Schema:
    result: Schema = {"type": name}
    if "enum" in schema and name != "null":
        result["enum"] = _values_of(name, schema["enum"])
    if name == "object":
        properties = {
            key: as_sent(child) if key in schema["required"] else _nullable(as_sent(child))
            for key, child in schema["properties"].items()
        }
        result |= {"properties": properties, "required": list(properties), "additionalProperties": False}
    if name == "array":
        result["items"] = as_sent(schema["items"])
    return result


def as_checked(schema: Mapping[str, Any]) -> Schema:
    """An expanded schema with the user's own limits; an optional property may be absent or null."""
    result = {word: value for word, value in schema.items() if word != "description"}
    if "anyOf" in schema:
        result["anyOf"] = [as_checked(branch) for branch in schema["anyOf"]]
    if "properties" in schema:
        result["properties"] = {
            key: as_checked(child) if key in schema["required"] else _or_null(as_checked(child))
            for key, child in schema["properties"].items()
        }
        result["additionalProperties"] = False
    if "items" in schema:
        result["items"] = as_checked(schema["items"])
    return result
