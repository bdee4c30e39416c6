"""Instances of schemas are valid, deterministic and made of image facts."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchvision.emulator.compose import Clue, compose, schema_problem

CLUE = Clue("A 64x48 PNG, mostly red. [[echo:7]]", "Which one: shoe, bag? It is a Bag.", ("red",), "PNG", 64, 48)


def made(schema: dict[str, Any], clue: Clue = CLUE) -> Any:
    return compose(schema, clue)


def test_text_holds_the_sentence_and_named_properties_hold_image_facts() -> None:
    names = ("caption", "main_colour", "format", "width", "height", "label_confidence", "count", "is_new")
    kinds = ("string", "string", "string", "integer", "number", "number", "integer", "boolean")
    properties = {name: {"type": kind} for name, kind in zip(names, kinds, strict=True)}
    answer = made({"type": "object", "properties": properties, "required": list(names)})
    assert list(answer) == list(names)
    assert answer["caption"] == CLUE.sentence
    assert (answer["main_colour"], answer["format"]) == ("red", "PNG")
    assert (answer["width"], answer["height"]) == (64, 48.0)
    assert 0.5 <= answer["label_confidence"] < 1
    assert type(answer["count"]) is int
    assert type(answer["is_new"]) is bool


def test_a_label_named_like_a_colour_seen_wins_then_the_one_spoken_of_most() -> None:
    assert made({"enum": ["blue shoe", "red_shoe", "bag"]}) == "red_shoe"
    assert made({"type": "string", "enum": ["shoe", "bag"]}) == "bag"
    assert made({"enum": ["JPEG", "PNG"]}) == "PNG"
    assert made({"enum": [None, "x"]}) == "x"


def test_labels_that_fit_equally_are_drawn_the_same_way_each_time() -> None:
    labels = [f"label {number}" for number in range(50)]
    first = made({"enum": labels})
    assert first == made({"enum": labels})
    assert first == made({"enum": labels[::-1]})
    others = {made({"enum": labels}, Clue(f"sentence {number}", "")) for number in range(40)}
    assert len(others) > 10


def test_lists_of_labels_are_distinct_and_hold_as_many_as_are_asked_for() -> None:
    two = Clue("s", "", ("red", "white"))
    schema = {"type": "array", "items": {"enum": ["red", "white", "blue"]}, "uniqueItems": True}
    assert sorted(made(schema, two)) == ["red", "white"]
    assert len(made({**schema, "minItems": 3}, two)) == 3
    assert len(made({**schema, "maxItems": 1}, two)) == 1


def test_unique_items_differ() -> None:
    for kind in ("string", "integer"):
        items = made({"type": "array", "items": {"type": kind}, "minItems": 3, "uniqueItems": True})
        assert len(items) == len({json.dumps(item) for item in items}) == 3


def test_nullable_and_alternative_schemas_take_the_part_with_content() -> None:
    assert made({"type": ["null", "string"]}) == CLUE.sentence
    assert made({"anyOf": [{"type": "null"}, {"const": 5}]}) == 5
    assert made({"oneOf": [{"type": "integer", "minimum": 3}]}) == 3
    assert made({"type": "null"}) is None


def test_references_are_followed_and_circles_end() -> None:
    node = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
        "required": ["name", "next"],
    }
    answer = made({"$defs": {"node": node}, "$ref": "#/$defs/node"})
    depth = 0
    while answer is not None:
        assert answer["name"] == CLUE.sentence
        answer, depth = answer["next"], depth + 1
    assert 1 < depth < 12
    tree = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}}
    assert "children" in made(tree)


def test_one_allof_is_merged() -> None:
    assert made({"allOf": [{"type": "integer"}], "minimum": 4}) == 4


@pytest.mark.parametrize(
    ("limits", "low", "high"),
    [
        ({"minimum": 10}, 10, 10),
        ({"maximum": -3}, -3, -3),
        ({"exclusiveMinimum": 1, "exclusiveMaximum": 3}, 2, 2),
        ({"minimum": 5, "multipleOf": 4}, 8, 8),
        ({"minimum": 0, "maximum": 1}, 0, 1),
        ({"minimum": -(10**17) - 3, "maximum": -(10**17) - 1}, -(10**17) - 3, -(10**17) - 1),
    ],
)
def test_numbers_keep_their_limits(limits: dict[str, float], low: int, high: int) -> None:
    value = made({"type": "integer", **limits})
    assert type(value) is int
    assert low <= value <= high
    assert low <= made({"type": "number", **limits}) <= high


@given(st.integers(-50, 50), st.integers(0, 50), st.booleans())
def test_numbers_between_any_limits_keep_them(low: int, width: int, exclusive: bool) -> None:
    if exclusive:
        value = made({"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": low + width + 2})
        assert low < value < low + width + 2
    else:
        assert low <= made({"type": "integer", "minimum": low, "maximum": low + width}) <= low + width


def test_texts_keep_their_lengths_formats_and_patterns_where_they_can() -> None:
    assert len(made({"type": "string", "maxLength": 9})) == 9
    assert len(made({"type": "string", "minLength": 90})) == 90
    assert made({"type": "string", "format": "date"}) == "2026-11-20"
    assert made({"type": "string", "pattern": "^[0-9]$"}) == "1"
    assert made({"type": "string", "pattern": "^SKU-", "examples": ["SKU-1"]}) == "SKU-1"
    assert made({"type": "string", "pattern": "("}) == CLUE.sentence


def test_a_tuple_and_a_schema_without_a_type() -> None:
    assert made({"prefixItems": [{"const": 1}, {"const": 2}], "items": False, "type": "array"}) == [1, 2]
    assert made({"properties": {"a": {}}}) == {"a": CLUE.sentence}
    assert made({"items": {"type": "integer"}}) == [1]


_LEAVES: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.sampled_from([{"type": kind} for kind in ("string", "integer", "number", "boolean", "null")]),
    st.lists(st.text(max_size=5), min_size=1, unique=True).map(lambda values: {"enum": values}),
    st.builds(lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more}, st.integers(), st.just(3)),
    st.builds(lambda size: {"type": "string", "maxLength": size}, st.integers(0, 40)),
    st.sampled_from(["date", "date-time", "email", "uuid", "ipv4", "ipv6", "uri"]).map(
        lambda form: {"type": "string", "format": form}
    ),
    st.just({"$ref": "#/$defs/again"}),
)


def _bigger(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        st.dictionaries(st.text(min_size=1, max_size=5), inner, max_size=4).map(
            lambda properties: {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            }
        ),
        st.builds(lambda item, least: {"type": "array", "items": item, "minItems": least}, inner, st.integers(0, 3)),
        st.lists(inner, min_size=1, max_size=3).map(lambda branches: {"anyOf": branches}),
    )


@given(st.recursive(_LEAVES, _bigger, max_leaves=12))
def test_any_schema_of_the_portable_subset_gets_a_valid_instance(schema: dict[str, Any]) -> None:
    root = {"type": "object", "properties": {"it": schema}, "required": ["it"]}
    root["$defs"] = {"again": {"type": ["object", "null"], "properties": {"deeper": {"$ref": "#/$defs/again"}}}}
    jsonschema_rs.Draft202012Validator(root, validate_formats=True).validate(made(root))


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"enum": []}, "schema: enum is empty"),
        ({"properties": {"a": {"anyOf": []}}}, "schema.a: anyOf is empty"),
        ({"properties": {"a": True}}, "must not be true or false"),
        ({"items": [{}]}, "items must be a schema"),
        ({"items": {"maxContains": 2}}, "schema.items: maxContains is not supported"),
        ({"$defs": {"x": {"$ref": "#/$defs/y"}}}, "refers to nothing"),
    ],
)
def test_schemas_that_xai_refuses_are_found_with_their_place(schema: dict[str, Any], words: str) -> None:
    assert words in (schema_problem(schema) or "")


def test_a_good_schema_has_no_problem() -> None:
    assert schema_problem({"type": "object", "properties": {"a": {"type": ["string", "null"]}}}) is None
