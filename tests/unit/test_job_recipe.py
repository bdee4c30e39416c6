"""A recipe's document and its id, with golden vectors: an upgrade that changes one makes every user pay again."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from batchvision import keys
from batchvision.job.recipe import recipe_document, recipe_from_document, with_id
from batchvision.prompt import build_answer_spec
from batchvision.records import AnswerSpec, Example, ImagePreparation, Label, Recipe

PLAIN = Recipe(provider="xai", model="grok-4.3", system=None, user="Describe it.", user_column=None)
FULL = Recipe(
    provider="openrouter",
    model="x-ai/grok-4.3",
    system="You label product photos – briefly.",
    user="What is {title}? {image:front}",
    user_column=None,
    parameters={"temperature": 0, "provider": {"order": ["xai"]}, "max_tokens": 300},
    examples=(Example("A shoe?", ("a.png", "b.png"), '{"label": "shoe"}'), Example("And?", (), "no")),
    example_image_sha256=("aa", "bb"),
    answer=build_answer_spec(
        {
            "type": "object",
            "properties": {
                "size": {"$ref": "#/$defs/size"},
                "price": {"type": "number", "minimum": 0, "description": "In USD."},
                "tags": {"type": "array", "items": {"enum": ["new", "used"]}, "maxItems": 3},
            },
            "required": ["size"],
            "$defs": {"size": {"type": ["string", "null"], "enum": ["S", "L", None]}},
        },
        [Label("shoe", "worn on a foot"), Label("bag")],
        many=True,
        confidence=True,
        fallback="other",
    ),
    images_first=True,
    detail="high",
    images=ImagePreparation(max_bytes=1000, max_side=512, max_pixels=2000, strip_metadata=True),
)


def test_the_id_of_a_plain_recipe_never_changes() -> None:
    assert with_id(PLAIN).recipe_id == "bf8a093d30f67cd165ad779cfe3434b3"


def test_the_id_of_a_recipe_with_everything_never_changes() -> None:
    assert with_id(FULL).recipe_id == "064d2c15c78fe609fb2eee209852f3f9"


def test_the_document_of_a_plain_recipe_never_changes() -> None:
    assert recipe_document(PLAIN) == {
        "provider": "xai",
        "model": "grok-4.3",
        "system": None,
        "user": "Describe it.",
        "user_column": None,
        "parameters": {},
        "examples": [],
        "answer": {
            "schema": None,
            "check_schema": None,
            "labels": [],
            "labels_many": False,
            "labels_confidence": False,
            "labels_fallback": None,
        },
        "images_first": False,
        "detail": "auto",
        "images": {"max_bytes": 10485760, "max_side": None, "max_pixels": 100000000, "strip_metadata": False},
    }


@pytest.mark.parametrize("recipe", [PLAIN, FULL])
def test_a_recipe_comes_back_from_its_document(recipe: Recipe) -> None:
    text = json.dumps(recipe_document(recipe), sort_keys=True)
    back = recipe_from_document(json.loads(text))
    assert back.recipe_id == with_id(recipe).recipe_id
    assert recipe_document(back) == recipe_document(recipe)
    assert back.answer == recipe.answer
    assert back.images == recipe.images


def test_the_order_of_a_schemas_properties_survives_a_file_with_sorted_keys() -> None:
    schema = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "string"}}}
    recipe = replace(PLAIN, answer=build_answer_spec(schema))
    back = recipe_from_document(json.loads(keys.canonical_json(recipe_document(recipe))))
    assert back.answer.schema is not None
    assert list(back.answer.schema["properties"]) == ["z", "a"]


def test_another_order_of_properties_is_another_recipe() -> None:
    one, two = ({"type": "string"}, {"type": "integer"})
    ids = {
        with_id(replace(PLAIN, answer=build_answer_spec({"type": "object", "properties": properties}))).recipe_id
        for properties in ({"a": one, "b": two}, {"b": two, "a": one})
    }
    assert len(ids) == 2


def test_the_order_of_parameters_is_no_part_of_a_recipe() -> None:
    one = with_id(replace(PLAIN, parameters={"seed": 1, "temperature": 0}))
    two = with_id(replace(PLAIN, parameters={"temperature": 0, "seed": 1}))
    assert one.recipe_id == two.recipe_id


def test_moving_an_examples_image_changes_nothing_and_changing_it_does() -> None:
    moved = replace(FULL, examples=(replace(FULL.examples[0], images=("x/a.png", "x/b.png")), FULL.examples[1]))
    changed = replace(FULL, example_image_sha256=("aa", "cc"))
    assert with_id(moved).recipe_id == with_id(FULL).recipe_id
    assert with_id(changed).recipe_id != with_id(FULL).recipe_id


CHANGES: dict[str, Any] = {
    "provider": "emulator",
    "model": "grok-4.7",
    "system": "S",
    "user": "Describe it!",
    "user_column": "prompt",
    "parameters": {"temperature": 1},
    "examples": (Example("u", (), "a"),),
    "answer": AnswerSpec(labels=(Label("x"),)),
    "images_first": True,
    "detail": "low",
    "images": ImagePreparation(max_side=10),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_setting_that_decides_answers_decides_the_id(name: str) -> None:
    assert with_id(replace(PLAIN, **{name: CHANGES[name]})).recipe_id != with_id(PLAIN).recipe_id


def test_no_field_of_a_recipe_is_forgotten() -> None:
    assert {field.name for field in fields(Recipe)} == CHANGES.keys() | {"recipe_id", "example_image_sha256"}


def test_the_id_itself_is_no_part_of_the_document() -> None:
    assert with_id(with_id(PLAIN)) == with_id(PLAIN)


def test_a_key_of_images_that_came_later_is_in_the_document_only_where_it_is_set() -> None:
    plain = recipe_document(PLAIN)["images"]
    assert list(plain) == ["max_bytes", "max_side", "max_pixels", "strip_metadata"]
    for changed in ({"background": "black"}, {"page": 2}, {"page": "all"}):
        recipe = with_id(replace(PLAIN, images=ImagePreparation(**changed)))  # type: ignore[arg-type]
        assert recipe_document(recipe)["images"] == {**plain, **changed}
        assert recipe.recipe_id != with_id(PLAIN).recipe_id
        assert recipe_from_document(recipe_document(recipe)).images == recipe.images
    said = with_id(replace(PLAIN, images=ImagePreparation(background="auto", page="first")))
    assert said.recipe_id == with_id(PLAIN).recipe_id
