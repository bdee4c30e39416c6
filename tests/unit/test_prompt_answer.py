from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchvision.prompt import (
    AnswerColumn,
    SpecInvalid,
    answer_columns,
    build_answer_spec,
    column_name,
    response_format,
)
from batchvision.records import AnswerSpec, Label

LABELS = (Label("shoe"), Label("bag"))


def types_of(**properties: Any) -> dict[str, str]:
    spec = build_answer_spec({"type": "object", "properties": properties, "required": list(properties)})
    return {column.property: column.type_name for column in answer_columns(spec)}


def test_without_schema_and_labels_the_answer_is_plain_text() -> None:
    spec = build_answer_spec()
    assert spec == AnswerSpec()
    assert response_format(spec) is None
    assert answer_columns(spec) == ()


def test_labels_ask_for_one_of_them() -> None:
    assert response_format(build_answer_spec(labels=LABELS)) == {
        "type": "json_schema",
        "json_schema": {
            "name": "answer",
            "strict": True,
            "schema": {
                "type": "object",
                "properties": {"label": {"type": "string", "enum": ["shoe", "bag"]}},
                "required": ["label"],
                "additionalProperties": False,
            },
        },
    }


def test_many_labels_with_confidence_are_a_list_and_a_number() -> None:
    spec = build_answer_spec(labels=LABELS, many=True, confidence=True)
    assert spec.schema is not None
    assert spec.schema["properties"]["label"] == {"type": "array", "items": {"type": "string", "enum": ["shoe", "bag"]}}
    assert answer_columns(spec) == (
        AnswerColumn("answer_label", "label", "list<string>"),
        AnswerColumn("answer_label_confidence", "label_confidence", "float64"),
    )


def test_labels_beside_a_schema_come_last() -> None:
    schema = {"type": "object", "properties": {"reason": {"type": "string"}}, "required": ["reason"]}
    spec = build_answer_spec(schema, LABELS)
    assert [column.name for column in answer_columns(spec)] == ["answer_reason", "answer_label"]


def test_a_fallback_that_is_no_label_is_not_offered_to_the_model() -> None:
    spec = build_answer_spec(labels=LABELS, fallback="other")
    assert spec.schema is not None
    assert spec.check_schema is not None
    assert spec.schema["properties"]["label"]["enum"] == ["shoe", "bag"]
    assert spec.check_schema["properties"]["label"]["enum"] == ["shoe", "bag", "other"]


def test_each_type_has_its_column() -> None:
    assert types_of(
        s={"type": "string"},
        i={"type": "integer"},
        f={"type": "number"},
        b={"type": "boolean"},
        e={"enum": ["x", "y"]},
        n={"type": ["integer", "null"]},
        m={"anyOf": [{"type": "integer"}, {"type": "number"}, {"type": "null"}]},
        ls={"type": "array", "items": {"type": "string"}},
        li={"type": "array", "items": {"type": "integer"}},
        lf={"type": "array", "items": {"type": "number"}},
        lb={"type": "array", "items": {"type": ["boolean", "null"]}},
        nl={"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
        ll={"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
        lo={"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
        o={"type": "object", "properties": {"a": {"type": "string"}}},
        u={"type": ["string", "integer"]},
        z={"type": "null"},
    ) == {
        "s": "string",
        "i": "int64",
        "f": "float64",
        "b": "bool",
        "e": "string",
        "n": "int64",
        "m": "float64",
        "ls": "list<string>",
        "li": "list<int64>",
        "lf": "list<float64>",
        "lb": "list<bool>",
        "nl": "list<string>",
        "ll": "json",
        "lo": "json",
        "o": "json",
        "u": "json",
        "z": "json",
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"labels": (Label("a"), Label("a"))}, "'a' is there more than once"),
        ({"labels": (Label("a"), Label(" "))}, "a label is empty"),
        ({"many": True}, "labels_many is set but there are no labels"),
        ({"confidence": True}, "labels_confidence is set"),
        ({"fallback": "x"}, "labels_fallback is set"),
        ({"schema": {"type": "string"}}, "root must be an object"),
        ({"schema": {"type": "object", "properties": {"a": {"type": "string", "pattern": "((("}}}}, "not valid"),
        ({"schema": {"type": "object", "properties": {"a": {"type": "string", "minLength": "x"}}}}, "not valid"),
        (
            {"schema": {"type": "object", "properties": {"label": {"type": "string"}}}, "labels": LABELS},
            "the labels add themselves",
        ),
        (
            {"schema": {"type": "object", "properties": {"A b": {"type": "string"}, "a_B": {"type": "string"}}}},
            "both give the column answer_a_b",
        ),
        ({"schema": {"type": "object", "properties": {"名前": {"type": "string"}}}}, "gives no column name"),
    ],
)
def test_what_cannot_be_asked_for_is_a_sentence(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecInvalid, match=re.escape(says)):
        build_answer_spec(**arguments)


def test_problems_of_labels_and_schema_are_named_together() -> None:
    with pytest.raises(SpecInvalid) as caught:
        build_answer_spec({"type": "string"}, (Label("a"), Label("a")))
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Product Name", "product_name"),
        ("Größe", "grosse"),
        ("prix (€)", "prix"),
        ("a--b", "a_b"),
        ("_hidden", "hidden"),
        ("x" * 80, "x" * 63),
        ("名前", ""),
        ("", ""),
    ],
)
def test_a_column_name_is_one_that_every_warehouse_takes(text: str, name: str) -> None:
    assert column_name(text) == name


@given(st.text())
def test_any_column_name_is_empty_or_safe_and_stays_as_it_is(text: str) -> None:
    name = column_name(text)
    assert re.fullmatch(r"[a-z0-9_]{0,63}", name)
    assert column_name(name) == name
