"""Check an answer's text against its spec: JSON, schema, labels; then make typed columns.

Any text returns or raises InvalidAnswer, in linear time. An unreadable answer is invalid and never becomes the fallback
label.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from batchvision.errors import InvalidAnswer
from batchvision.prompt.answer import LABEL, AnswerColumn, answer_columns, column_name, compile_schema
from batchvision.prompt.spoken import bare_word, unfenced, unwrapped, without_thoughts
from batchvision.prompt.whole_values import whole_values
from batchvision.records import AnswerSpec

#: No schema that is sent allows a deeper answer.
MOST_DEPTH = 64

_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_LABEL_COLUMN = column_name(f"answer_{LABEL}")
_MAX_COMPILED = 64
#: Characters of fence and markup that an answer may have beside the longest label.
_MOST_WRAPPING = 200
_NAMED = re.compile(r"[\"'*_`]{0,4}label[\"'*_`]{0,4}\s*[:=]\s*[\"'*_`]{0,4}\s*(.+)", re.DOTALL)


class CheckedAnswer(NamedTuple):
    """A valid answer: its JSON as text (``None`` for plain text) and the values of the answer columns."""

    output_json: str | None
    columns: Mapping[str, Any]


def names_fallback(spec: AnswerSpec, columns: Mapping[str, Any]) -> bool:
    """Whether the columns of a valid answer hold the fallback label."""
    if spec.labels_fallback is None:
        return False
    label = columns.get(_LABEL_COLUMN)
    return spec.labels_fallback in label if isinstance(label, list) else label == spec.labels_fallback


def check_answer(spec: AnswerSpec, text: str) -> CheckedAnswer:
    """The valid answer in ``text``. Raises InvalidAnswer.

    Candidates are, in this order: the whole text; the text after the model's thoughts; its last whole JSON object that
    satisfies the spec. One wrapper (a list of one, an object with one property) is forgiven.
    """
    if spec.schema is None:
        return CheckedAnswer(None, {})
    try:
        return _compiled(spec)(text)
    except RecursionError:
        raise InvalidAnswer("the answer is nested too deeply") from None


# ---------------------------------------------------------------------------------- JSON


def is_deeper(text: str, most: int = MOST_DEPTH, start: int = 0) -> bool:
    """Whether arrays and objects are nested more than ``most`` deep. Checked before any recursive code runs."""
    if text.count("[", start) + text.count("{", start) <= most:
        return False
    depth = 0
    for found in _BRACKETS.finditer(text, start):
        match text[found.start()]:
            case "[" | "{":
                depth += 1
                if depth > most:
                    return True
            case "]" | "}":
                depth -= 1
                if depth <= 0:  # text after a closed value is not read
                    return False
    return False


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
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
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
    """``text`` without lone surrogates, which no table can store."""
    return _LONE_SURROGATE.sub("\ufffd", text)


def _read(body: str) -> tuple[str, Any]:
    """The JSON text as stored, and its value."""
    body = _sound(body)
    value = _loads(body)
    if _SURROGATE_ESCAPE.search(body):  # an escaped lone surrogate; pairs survive
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


# ---------------------------------------------------------------------------------- labels


class Labels:
    """The labels of one job. A label is the whole answer, never a word in a sentence.

    Differences in case, blanks, final punctuation and wrapping are forgiven only if exactly one label fits.
    """

    __slots__ = ("_by_bare_word", "_exact", "_most_characters")

    def __init__(self, values: Iterable[str]) -> None:
        self._exact = frozenset(values)
        self._most_characters = max(map(len, self._exact), default=0) + _MOST_WRAPPING
        by_word: dict[str, set[str]] = {}
        for value in self._exact:
            by_word.setdefault(bare_word(value), set()).add(value)
        self._by_bare_word = {word: found.pop() for word, found in by_word.items() if word and len(found) == 1}

    def find(self, text: str) -> str | None:
        """The label that ``text`` names; ``None`` where no label fits, or several do."""
        if text in self._exact:
            return text
        body = text.strip()
        if body in self._exact:
            return body
        if not body or body[0] == "{" or len(body) > self._most_characters:
            return None
        if (inner := unwrapped(body)) in self._exact:
            return inner
        word = bare_word(body)
        found = self._by_bare_word.get(word)
        if found is None and (named := _NAMED.fullmatch(word)):
            return self._by_bare_word.get(bare_word(named[1]))
        return found


# ---------------------------------------------------------------------------------- one spec


class _Check:
    """One spec's compiled check."""

    __slots__ = ("_columns", "_fallback", "_is_labelled", "_labels", "_labels_only", "_many", "_validate")

    def __init__(self, spec: AnswerSpec) -> None:
        self._columns = answer_columns(spec)
        self._fallback = spec.labels_fallback
        offered = [label.value for label in spec.labels]
        self._labels = Labels([*offered, *([] if self._fallback is None else [self._fallback])])
        self._is_labelled = bool(spec.labels)
        self._labels_only = self._is_labelled and [column.property for column in self._columns] == [LABEL]
        self._many = spec.labels_many
        self._validate = compile_schema(spec.check_schema or spec.schema or {})

    def __call__(self, text: str) -> CheckedAnswer:
        spoken = without_thoughts(text)
        if spoken != text:
            with suppress(InvalidAnswer):  # JSON with a tag in one of its strings
                return self._checked(*_read(unfenced(text)))
            if not spoken.strip():
                raise InvalidAnswer("nothing follows the model's thoughts")
        body = unfenced(spoken)
        try:
            label = self._labels.find(body) if self._labels_only else None
            return self._checked("", label) if label is not None else self._checked(*_read(body))
        except InvalidAnswer as problem:
            return self._of_last_object(spoken, problem)

    def _of_last_object(self, spoken: str, problem: InvalidAnswer) -> CheckedAnswer:
        """The last object in ``spoken`` that satisfies the spec. Raises the problem of the very last object."""
        last_problem: InvalidAnswer | None = None
        for span in reversed(whole_values(spoken)):
            try:
                body, value = _read(spoken[span.start : span.end])
                if isinstance(value, dict) or isinstance(_inside(value), dict):
                    return self._checked(body, value, is_whole=False)
            except InvalidAnswer as error:
                last_problem = last_problem or error
        raise last_problem or problem

    # -------------------------------------------------------------------------- one value

    def _checked(self, body: str, value: Any, *, is_whole: bool = True) -> CheckedAnswer:
        """The valid answer in ``value`` or inside its wrapper. ``body`` is the JSON text of ``value``."""
        problem = ""
        for held in (value, _inside(value)):
            is_all = is_whole and held is value
            if not is_all and not (held and (is_whole or isinstance(held, dict))):
                continue  # no wrapper, or an empty object inside a longer text
            mended = self._mended(held)
            found = self._validate(mended)
            if found is None:
                columns = {column.name: _cell(column, mended) for column in self._columns}
                return CheckedAnswer(body if mended is value else _dumps(mended), columns)
            problem = problem or found
        raise InvalidAnswer(problem or self._validate(value) or "the answer is no object")

    def _mended(self, value: Any) -> Any:
        """``value``, or a copy with the label in its property and in the job's spelling."""
        if self._labels_only and isinstance(value, str | list):
            value = {LABEL: value}
        if not self._is_labelled or not isinstance(value, dict) or LABEL not in value:
            return value
        given = value[LABEL]
        if self._many:
            chosen = [given] if isinstance(given, str) else given
            if chosen == [] and self._fallback is not None:  # the model chose no label
                chosen = [self._fallback]
            label = [self._named(one) for one in chosen] if isinstance(chosen, list) else given
        else:
            label = self._named(given[0] if isinstance(given, list) and len(given) == 1 else given)
        return value if label == given else {**value, LABEL: label}

    def _named(self, given: Any) -> Any:
        found = self._labels.find(given) if isinstance(given, str) else None
        return given if found is None else found


def _inside(value: Any) -> Any:
    """The content of a wrapper: a list of one, or an object with one property. ``None``: no wrapper."""
    if isinstance(value, list | dict) and len(value) == 1:
        return value[0] if isinstance(value, list) else next(iter(value.values()))
    return None


#: A cache of compiled checks by the spec's id, as a spec has no hash. Keeping the spec keeps its id unique.
_known: dict[int, tuple[AnswerSpec, _Check]] = {}


def _compiled(spec: AnswerSpec) -> _Check:
    found = _known.get(id(spec))
    if found is None:
        if len(_known) >= _MAX_COMPILED:
            _known.clear()
        found = _known[id(spec)] = (spec, _Check(spec))
    return found[1]
