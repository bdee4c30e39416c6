"""An answer's text against its spec: JSON, schema, labels, then typed columns.

Rule: for any text at all it returns or raises InvalidAnswer; nothing else. The schema is compiled once per spec.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from batchvision.errors import InvalidAnswer
from batchvision.prompt.answer import LABEL, AnswerColumn, answer_columns
from batchvision.prompt.nesting import MOST_DEPTH, is_deeper
from batchvision.prompt.validator import compile_schema
from batchvision.records import AnswerSpec

_FENCE = re.compile(r"```[A-Za-z]*[ \t]*\r?\n(.*?)\s*```", re.DOTALL)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_MAX_COMPILED = 64


class CheckedAnswer(NamedTuple):
    """A valid answer: its JSON as text (None for plain text) and the values of the answer columns."""

    output_json: str | None
    columns: Mapping[str, Any]


def check_answer(spec: AnswerSpec, text: str) -> CheckedAnswer:
    """``text`` as the spec wants it. Leading blank lines and a Markdown fence are forgiven. Raises InvalidAnswer."""
    if spec.schema is None:
        return CheckedAnswer(None, {})
    try:
        return _compiled(spec)(text)
    except RecursionError:
        raise InvalidAnswer("the answer is nested too deeply") from None


# ---------------------------------------------------------------------------------- JSON


def _unfenced(text: str) -> str:
    body = text.strip().removeprefix("\ufeff").strip()
    fenced = _FENCE.fullmatch(body)
    return fenced[1].strip() if fenced else body


def _no_constant(name: str) -> Any:
    raise InvalidAnswer(f"{name} is no JSON value")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise InvalidAnswer(f"the number {text[:40]} is too large")
    return number


def _whole_number(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= (number := int(text)) < 2**63:
        raise InvalidAnswer(f"the number {text[:40]} does not fit 64 bits")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidAnswer(f"the key {twice[:80]!r} is there twice")
    return result


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_int=_whole_number, parse_constant=_no_constant
)


def _loads(body: str) -> Any:
    if is_deeper(body):
        raise InvalidAnswer(f"the answer is nested more than {MOST_DEPTH} deep")
    try:
        return _DECODER.decode(body)
    except json.JSONDecodeError as error:
        raise InvalidAnswer(f"the answer is not JSON: {error}") from None


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _sound(text: str) -> str:
    """Without lone surrogates, which no table can store."""
    return _LONE_SURROGATE.sub("\ufffd", text)


def _read(body: str) -> tuple[str, Any]:
    """The JSON text as it will be stored, and its value."""
    body = _sound(body)
    value = _loads(body)
    if _SURROGATE_ESCAPE.search(body):  # half an emoji, escaped; whole ones come back unharmed
        body = _sound(_dumps(value))
        value = _loads(body)
    return body, value


# ---------------------------------------------------------------------------------- columns


def _whole(value: Any) -> int:
    number = int(value)
    if not -(2**63) <= number < 2**63:
        raise OverflowError
    return number


_SCALARS: dict[str, Callable[[Any], Any]] = {"string": str, "int64": _whole, "float64": float, "bool": bool}


def _cast(type_name: str, value: Any) -> Any:
    if value is None:
        return None
    if type_name == "json":
        return _dumps(value)
    if type_name.startswith("list<"):
        inner = _SCALARS[type_name[5:-1]]
        return [None if one is None else inner(one) for one in value]
    return _SCALARS[type_name](value)


def _cell(column: AnswerColumn, value: Mapping[str, Any]) -> Any:
    try:
        return _cast(column.type_name, value.get(column.property))
    except OverflowError:
        raise InvalidAnswer(f"at {column.property}: the number does not fit the column {column.name}") from None


# ---------------------------------------------------------------------------------- one spec


class _Check:
    """One spec's compiled check."""

    __slots__ = ("_columns", "_fallback", "_labels", "_labels_only", "_many", "_validate")

    def __init__(self, spec: AnswerSpec) -> None:
        self._columns = answer_columns(spec)
        self._labels = frozenset(label.value for label in spec.labels)
        self._labels_only = bool(spec.labels) and [column.property for column in self._columns] == [LABEL]
        self._many = spec.labels_many
        self._fallback = spec.labels_fallback
        self._validate = compile_schema(spec.check_schema or spec.schema or {})

    def __call__(self, text: str) -> CheckedAnswer:
        body, value = self._read(_unfenced(text))
        mended = self._mended(value)
        if problem := self._validate(mended):
            raise InvalidAnswer(problem)
        columns = {column.name: _cell(column, mended) for column in self._columns}
        return CheckedAnswer(body if mended is value else _dumps(mended), columns)

    def _read(self, body: str) -> tuple[str, Any]:
        try:
            return _read(body)
        except InvalidAnswer:
            if self._labels_only and (body in self._labels or self._fallback is not None):
                return "", body  # a bare word where only a label is asked for
            raise

    def _mended(self, value: Any) -> Any:
        """``value`` itself, or a copy: a bare label in its place, the fallback where none of the labels is named."""
        if self._labels_only and isinstance(value, str):
            value = {LABEL: [value] if self._many else value}
        if self._fallback is None or not isinstance(value, dict):
            return value
        given = value.get(LABEL)
        answers = given if isinstance(given, list) else [given]
        named = [one for one in answers if isinstance(one, str) and one in self._labels]
        if named and named == answers and isinstance(given, list) == self._many:
            return value
        if self._many:
            return {**value, LABEL: named or [self._fallback]}
        return {**value, LABEL: self._fallback}


#: By identity: a spec holds dicts and has no hash. The spec is kept beside, so that its id is not used again.
_known: dict[int, tuple[AnswerSpec, _Check]] = {}


def _compiled(spec: AnswerSpec) -> _Check:
    found = _known.get(id(spec))
    if found is None:
        if len(_known) >= _MAX_COMPILED:
            _known.clear()
        found = _known[id(spec)] = (spec, _Check(spec))
    return found[1]
