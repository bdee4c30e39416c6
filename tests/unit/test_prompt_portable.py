"""A user's schema in the form that every provider takes, and in the form that answers are checked against."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchvision.prompt import build_answer_spec
from batchvision.prompt.answer import compile_schema
from batchvision.prompt.portable import SchemaProblem, as_checked, as_sent, expand, unwrapped


def sent(schema: dict[str, Any]) -> dict[str, Any]:
    return as_sent(expand(schema))


def an_object(required: list[str] | None = None, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required or []}


def test_every_object_is_closed_and_every_property_required() -> None:
    result = sent(an_object(["a"], a={"type": "string"}, b=an_object(c={"type": "integer"})))
    assert result["additionalProperties"] is False
    assert result["required"] == ["a", "b"]
    inner = result["properties"]["b"]["anyOf"][0]
    assert inner["additionalProperties"] is False
    assert inner["required"] == ["c"]


def test_an_optional_property_is_asked_for_as_nullable() -> None:
    properties = sent(an_object(["a"], a={"type": "string"}, b={"type": "string", "description": "why"}))["properties"]
    assert properties["a"] == {"type": "string"}
    assert properties["b"] == {"description": "why", "anyOf": [{"type": "string"}, {"type": "null"}]}


def test_what_is_nullable_already_is_not_wrapped_again() -> None:
    nullable = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    assert sent(an_object(a=nullable))["properties"]["a"] == nullable
    assert sent(an_object(a={"type": ["string", "null"]}))["properties"]["a"] == nullable


def test_the_description_states_limits_and_the_schema_leaves_them_out() -> None:
    price = {"type": "number", "minimum": 0, "maximum": 10, "description": "In USD."}
    assert sent(an_object(["p"], p=price))["properties"]["p"] == {
        "type": "number",
        "description": "In USD. (minimum: 0, maximum: 10)",
    }


def test_limits_are_checked_on_arrival() -> None:
    schema = an_object(["p"], p={"type": "number", "minimum": 0, "description": "d"}, q={"type": "string"})
    checked = as_checked(expand(schema))
    assert checked["properties"]["p"] == {"minimum": 0, "type": "number"}
    assert checked["required"] == ["p"]
    assert checked["properties"]["q"] == {"type": ["string", "null"]}


def test_what_is_optional_may_arrive_as_null() -> None:
    checked = as_checked(expand(an_object(e={"enum": ["x"]}, n={"type": "string", "not": {"enum": ["bad", None]}})))
    assert checked["properties"]["e"] == {"type": ["string", "null"], "enum": ["x", None]}
    assert checked["properties"]["n"]["anyOf"][1] == {"type": "null"}


def test_references_are_copied_in_with_what_stands_beside_them() -> None:
    schema = {
        **an_object(["size"], size={"$ref": "#/$defs/size", "description": "Of the shoe."}),
        "$defs": {"size": {"type": "string", "enum": ["S", "L"]}},
    }
    assert sent(schema)["properties"]["size"] == {
        "type": "string",
        "enum": ["S", "L"],
        "description": "Of the shoe.",
    }
    assert "$defs" not in sent(schema)


def test_definitions_of_draft_7_and_escaped_names_are_found() -> None:
    schema = {**an_object(["a"], a={"$ref": "#/definitions/x~1y%20z"}), "definitions": {"x/y z": {"type": "boolean"}}}
    assert sent(schema)["properties"]["a"] == {"type": "boolean"}


def test_the_root_may_be_a_reference_and_a_single_all_of_is_merged() -> None:
    schema = {"$ref": "#/$defs/item", "$defs": {"item": an_object(["a"], a={"allOf": [{"type": "string"}]})}}
    assert sent(schema)["properties"] == {"a": {"type": "string"}}


def test_one_of_is_sent_as_any_of_and_const_as_an_enum_of_one() -> None:
    schema = an_object(["a"], a={"oneOf": [{"const": "x"}, {"type": "integer"}]})
    assert sent(schema)["properties"]["a"] == {"anyOf": [{"type": "string", "enum": ["x"]}, {"type": "integer"}]}


def test_an_enum_of_several_types_becomes_a_choice_of_enums() -> None:
    assert sent(an_object(["a"], a={"enum": ["x", 1, None]}))["properties"]["a"] == {
        "anyOf": [{"type": "string", "enum": ["x"]}, {"type": "integer", "enum": [1]}, {"type": "null"}]
    }


def test_null_is_no_value_of_an_enum_that_does_not_hold_it() -> None:
    result = sent(an_object(["a"], a={"type": ["string", "null"], "enum": ["x"]}))
    assert result["properties"]["a"] == {"type": "string", "enum": ["x"]}


def test_the_order_of_properties_stays() -> None:
    assert list(sent(an_object(["z"], b={"type": "string"}, z={"type": "string"}))["properties"]) == ["b", "z"]


def test_a_schema_made_by_pydantic_is_taken_as_it_is() -> None:
    from typing import Literal

    from pydantic import BaseModel, Field

    class Part(BaseModel):
        name: str
        count: int = Field(ge=1)

    class Product(BaseModel):
        colour: Literal["red", "blue"] | None = None
        parts: list[Part]
        main: Part

    result = sent(Product.model_json_schema())
    assert list(result["properties"]) == ["colour", "parts", "main"]
    assert result["properties"]["parts"]["items"]["properties"]["count"]["type"] == "integer"
    assert "title" not in json.dumps(result)


def test_a_tagged_union_of_pydantic_is_a_choice() -> None:
    from typing import Annotated, Literal

    from pydantic import BaseModel, Field

    class Cat(BaseModel):
        kind: Literal["cat"]
        lives: int

    class Dog(BaseModel):
        kind: Literal["dog"]
        breed: str | None = Field(None, examples=["pug"], json_schema_extra={"example": "pug", "x-order": 3})

    class Pet(BaseModel):
        model_config = {"json_schema_extra": {"example": {"pet": {"kind": "cat", "lives": 9}}}}
        pet: Annotated[Cat | Dog, Field(discriminator="kind")]
        birth: Annotated[int, Field(gt=1900)]

    result = sent(Pet.model_json_schema())
    cat, dog = result["properties"]["pet"]["anyOf"]
    assert cat["properties"] == {"kind": {"type": "string", "enum": ["cat"]}, "lives": {"type": "integer"}}
    assert dog["properties"]["breed"] == {"anyOf": [{"type": "string"}, {"type": "null"}]}
    assert not re.search("discriminator|example|x-order|title", json.dumps(result))


@pytest.mark.parametrize(
    ("openapi", "as_json_schema"),
    [
        ({"type": "string", "nullable": True}, {"type": ["string", "null"]}),
        ({"type": "string", "nullable": False}, {"type": "string"}),
        ({"enum": ["a"], "nullable": True}, {"enum": ["a", None]}),
        ({"enum": ["a", None], "nullable": True}, {"enum": ["a", None]}),
        (
            {**an_object(["n"], n={"type": "integer"}), "nullable": True},
            {"anyOf": [an_object(["n"], n={"type": "integer"}), {"type": "null"}]},
        ),
        (
            {"oneOf": [{"type": "string"}, {"type": "integer"}], "nullable": True},
            {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]},
        ),
        ({"allOf": [{"$ref": "#/components/schemas/a"}], "nullable": True}, {"type": ["string", "null"]}),
        ({"$ref": "#/components/schemas/a", "nullable": True}, {"type": ["string", "null"]}),
        ({"$ref": "#/components/schemas/b"}, {"type": ["string", "null"]}),
        (
            {"type": "array", "items": {"type": "string", "nullable": True}},
            {"type": "array", "items": {"type": ["string", "null"]}},
        ),
        ({"type": "number", "minimum": 0, "exclusiveMinimum": True}, {"type": "number", "exclusiveMinimum": 0}),
        ({"type": "number", "maximum": 9, "exclusiveMaximum": False}, {"type": "number", "maximum": 9}),
    ],
)
def test_openapis_nullable_and_its_bounds_are_read(openapi: dict[str, Any], as_json_schema: dict[str, Any]) -> None:
    components = {"schemas": {"a": {"type": "string", "xml": {}}, "b": {"type": "string", "nullable": True}}}
    given = expand({**an_object(["p"], p=openapi), "components": components})
    plain = expand(an_object(["p"], p=as_json_schema))
    assert as_sent(given) == as_sent(plain)
    for value in (None, "a", "b", 0, 1, 9, {"n": 1}, ["a", None]):
        is_valid = compile_schema(as_checked(given))({"p": value}) is None
        assert is_valid == (compile_schema(as_checked(plain))({"p": value}) is None)


INNER = an_object(["schema"], schema={"type": "string"}, name={"type": "string"})


@pytest.mark.parametrize(
    "wrapped",
    [
        INNER,
        {"name": "answer", "strict": True, "schema": INNER},
        {"name": "answer", "description": "d", "strict": None, "schema": INNER},
        {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": INNER}},
        {"type": "json_schema", "name": "answer", "schema": INNER, "strict": True},
        {"text": {"format": {"type": "json_schema", "name": "answer", "schema": INNER}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": INNER}}},
        {"type": "function", "function": {"name": "answer", "strict": True, "parameters": INNER}},
        {"name": "answer", "input_schema": INNER},
        {"name": "answer", "strict": True, **INNER},
    ],
)
def test_a_schema_is_taken_out_of_its_wrapper(wrapped: dict[str, Any]) -> None:
    assert unwrapped(wrapped) == INNER
    assert build_answer_spec(wrapped) == build_answer_spec(INNER)


def test_what_is_no_wrapper_stays_as_it_is() -> None:
    for schema in ({}, {"title": "x"}, {"schema": "answer.json"}, {"type": ["object", "null"], "format": "x"}):
        assert unwrapped(schema) == schema


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "string", "nullable": "yes"}, "nullable is true or false"),
        ({"type": "string", "minimun": 1}, "minimun is not understood"),
        ({"type": "string", "patternProperties": {}}, "patternProperties is not understood"),
        (an_object(a=True), "true or false is no type"),
        (an_object(a={}), "says no type"),
        (an_object(a={"type": "strin"}), "'strin' is no JSON type"),
        (an_object(a={"type": "array"}), "needs items"),
        (an_object(a={"type": "array", "items": [{"type": "string"}]}), "needs items"),
        (an_object(a={"type": "object"}), "needs properties"),
        (an_object(a={"enum": []}), "enum is empty"),
        (an_object(a={"type": "integer", "enum": ["x"]}), "no value of the enum has the type"),
        (an_object(a={"anyOf": []}), "anyOf is empty"),
        (an_object(a={"anyOf": [{"type": "null"}], "enum": [1]}), "move it into the branches"),
        (an_object(a={"allOf": [{"type": "string"}, {"maxLength": 1}]}), "merge it"),
        ({**an_object(a={"type": "string"}), "additionalProperties": True}, "additionalProperties must be false"),
        (an_object(["b"], a={"type": "string"}), "required names 'b'"),
        (an_object(a={"$ref": "#/$defs/no"}), "is not in this file"),
        (an_object(a={"$ref": "https://example.com/s.json"}), "is not in this file"),
    ],
)
def test_what_no_provider_takes_is_a_sentence_with_its_place(schema: dict[str, Any], says: str) -> None:
    with pytest.raises(SchemaProblem, match=says) as caught:
        expand(schema)
    assert str(caught.value).startswith("schema #")


def test_a_schema_that_holds_itself_is_refused() -> None:
    tree = an_object(child={"$ref": "#/$defs/tree"})
    with pytest.raises(SchemaProblem, match="refers to itself"):
        expand({**tree, "$defs": {"tree": tree}})
    with pytest.raises(SchemaProblem, match="refers to itself"):
        expand(an_object(child={"$ref": "#"}))


def test_a_schema_that_explodes_by_its_references_is_refused() -> None:
    defs: dict[str, Any] = {"d0": {"type": "string"}}
    for level in range(1, 40):
        below = {"$ref": f"#/$defs/d{level - 1}"}
        defs[f"d{level}"] = an_object(a=below, b=below)
    with pytest.raises(SchemaProblem, match="more than"):
        expand({"$ref": "#/$defs/d39", "$defs": defs})


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(SchemaProblem) as caught:
        expand(an_object(a={}, b={"type": "array"}))
    assert len(caught.value.problems) == 2


scalars = st.sampled_from([{"type": "string"}, {"type": "integer", "minimum": 1}, {"enum": ["a", None]}])
schemas = st.recursive(
    scalars,
    lambda children: (
        st.builds(lambda item: {"type": "array", "items": item}, children)
        | st.builds(lambda a, b: an_object(["a"], a=a, b=b), children, children)
        | st.builds(lambda a, b: {"anyOf": [a, b]}, children, children)
    ),
    max_leaves=6,
)

PORTABLE = {"type", "enum", "anyOf", "properties", "required", "additionalProperties", "items", "description"}


def words(schema: dict[str, Any]) -> set[str]:
    below = [*schema.get("anyOf", ()), *schema.get("properties", {}).values()]
    below += [schema["items"]] if "items" in schema else []
    return set(schema).union(*(words(child) for child in below))


@given(schemas)
def test_what_is_sent_has_only_words_that_all_providers_know(schema: dict[str, Any]) -> None:
    once = sent(an_object(["x"], x=schema))
    assert words(once) <= PORTABLE
    assert sent(once) == once, "what is portable stays as it is"
