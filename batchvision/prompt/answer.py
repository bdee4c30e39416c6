"""The answer a job asks for: schema and labels become one AnswerSpec, and the spec names the answer columns.

All of this happens once per job. ``check.py`` checks each answer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from batchvision.prompt.portable import SchemaProblem, as_checked, as_sent, expand, flat_types, unwrapped, without_null
from batchvision.records import AnswerSpec, JsonObject, Label

LABEL = "label"
CONFIDENCE = "label_confidence"
REASONING_COLUMN = "reasoning_text"  #: the column of exposed thoughts (``output.keep_reasoning``)
MAX_NAME = 63
_MAX_MESSAGE = 300

_SCALARS = {"string": "string", "integer": "int64", "number": "float64", "boolean": "bool"}


class SpecInvalid(ValueError):
    """The schema or the labels cannot be used. ``problems``: one sentence each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


class AnswerColumn(NamedTuple):
    """A typed column of the results: ``name`` in the table, ``property`` in the answer.

    ``type_name`` is string, int64, float64, bool, list<string>, list<int64>, list<float64>, list<bool> or json (JSON
    as text).
    """

    name: str
    property: str
    type_name: str


def column_name(text: str) -> str:
    """``text`` as a column name that every warehouse takes: [a-z0-9_], at most 63 characters; "" if nothing is left."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    kept = "".join(c for c in plain if not unicodedata.combining(c))
    return re.sub(r"[^a-z0-9_]+", "_", kept).strip("_ ")[:MAX_NAME] if re.search(r"[a-z0-9]", kept) else ""


def response_format(spec: AnswerSpec, form: str = "json_schema") -> dict[str, Any] | None:
    """The ``response_format`` of a chat request; ``None`` for plain text, and where only the prompt states the schema.

    ``form``: json_schema | json_object | prompt.
    """
    if spec.schema is None or form == "prompt":
        return None
    if form == "json_object":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": dict(spec.schema)}}


def build_answer_spec(
    schema: JsonObject | None = None,
    labels: Sequence[Label] = (),
    many: bool = False,
    confidence: bool = False,
    fallback: str | None = None,
) -> AnswerSpec:
    """The spec of a user's schema and labels. Raises :class:`SpecInvalid` (a ValueError) with every problem found.

    ``schema`` of the spec is the portable form that is sent; ``check_schema`` keeps the user's own limits.
    """
    problems = _label_problems(labels, many, confidence, fallback)
    expanded: dict[str, Any] | None = None
    if schema is not None:
        try:
            expanded = expand(unwrapped(schema))
            problems += _root_problems(expanded, bool(labels), confidence)
        except SchemaProblem as problem:
            problems += problem.problems
    if problems:
        raise SpecInvalid(problems)
    if expanded is None and not labels:
        return AnswerSpec()
    values = [label.value for label in labels]
    sent = _with_labels(expanded and as_sent(expanded), values, many, confidence)
    # a fallback outside the labels is not offered to the model, and is still a valid answer
    allowed = [*values, *([fallback] if fallback is not None and fallback not in values else [])]
    checked = _with_labels(expanded and as_checked(expanded), allowed, many, confidence)
    spec = AnswerSpec(sent, tuple(labels), many, confidence, fallback, checked)
    problems = _clashes(answer_columns(spec))
    try:
        compile_schema(checked)
    except ValueError as error:
        problems.append(f"the schema is not valid: {str(error).splitlines()[0]}")
    if problems:
        raise SpecInvalid(problems)
    return spec


#: Finds the first problem of a value, as a sentence; ``None`` for a valid value.
Validator = Callable[[Any], str | None]


def compile_schema(schema: Mapping[str, Any]) -> Validator:
    """Compile draft 2020-12 with formats asserted. Raises ValueError for an invalid schema (a bad pattern)."""
    import jsonschema_rs  # the native library loads only where answers are checked

    validator = jsonschema_rs.Draft202012Validator(dict(schema), validate_formats=True)

    def first_error(value: Any) -> str | None:
        try:
            for error in validator.iter_errors(value):
                place = ".".join(str(step) for step in error.instance_path)
                message = error.message if len(error.message) <= _MAX_MESSAGE else error.message[:_MAX_MESSAGE] + "..."
                return f"at {place}: {message}" if place else message
        except ValueError as error:  # a value that the library refuses, for example a list nested hundreds deep
            return f"it cannot be checked: {error}"
        return None

    return first_error


def _label_problems(labels: Sequence[Label], many: bool, confidence: bool, fallback: str | None) -> list[str]:
    if not labels:
        asked = {"labels_many": many, "labels_confidence": confidence, "labels_fallback": fallback is not None}
        return [f"{key} is set but there are no labels; add labels or remove it" for key, on in asked.items() if on]
    problems = []
    values = [label.value for label in labels]
    if any(not value.strip() for value in values):
        problems.append("a label is empty; remove it or name it")
    repeated = sorted({value for value in values if values.count(value) > 1}) if len(set(values)) < len(values) else []
    problems += [f"the label {value!r} is there more than once; each label must be unique" for value in repeated]
    return problems


def _root_problems(root: Mapping[str, Any], labelled: bool, confidence: bool) -> list[str]:
    if root.get("type") != "object":
        return ['the schema\'s root must be an object; wrap it: {"type": "object", "properties": {"answer": ...}}']
    names = root["properties"]
    added = [LABEL, *([CONFIDENCE] if confidence else [])] if labelled else []
    return [
        f"the schema has a property {name!r}, which the labels add themselves; rename yours"
        for name in added
        if name in names
    ]


def _with_labels(schema: dict[str, Any] | None, values: Sequence[str], many: bool, confidence: bool) -> dict[str, Any]:
    """``schema`` with the label as the last property, after properties that may argue for it."""
    if schema is None:
        schema = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    added: dict[str, Any] = {}
    if values:
        one = {"type": "string", "enum": list(values)}
        added[LABEL] = {"type": "array", "items": one} if many else one
        if confidence:
            added[CONFIDENCE] = {"type": "number", "description": "How sure you are of the label, from 0 to 1."}
    properties = {**schema["properties"], **added}
    return {**schema, "properties": properties, "required": [*schema["required"], *added]}


def answer_columns(spec: AnswerSpec) -> tuple[AnswerColumn, ...]:
    """The answer columns, in order of the properties' first appearance."""
    if spec.schema is None:
        return ()
    return tuple(
        AnswerColumn(column_name(f"answer_{name}"), name, _type_name(schema))
        for name, schema in spec.schema["properties"].items()
    )


def _clashes(columns: Sequence[AnswerColumn]) -> list[str]:
    problems, taken = [], dict[str, str]()
    for column in columns:
        if column.name == "answer":
            problems.append(f"the property {column.property!r} gives no column name; use letters a-z and digits")
        elif column.name in taken:
            problems.append(
                f"the properties {taken[column.name]!r} and {column.property!r} both give the column {column.name}; "
                "rename one"
            )
        taken.setdefault(column.name, column.property)
    return problems


def _type_name(schema: Mapping[str, Any]) -> str:
    """The column type of one property of a schema as sent."""
    schema = without_null(schema)
    if schema.get("type") == "array":
        item = _type_name(schema["items"])
        return f"list<{item}>" if item in _SCALARS.values() else "json"
    types = flat_types(schema)
    if types == {"integer", "number"}:
        return "float64"
    return _SCALARS.get(next(iter(types)), "json") if len(types) == 1 else "json"
