"""The recipe as a document: it is hashed into recipe_id and stored as ``recipes/<recipe_id>.json``.

The shape of a document never changes. The fields of version 1 are always written, so that a changed default is a
changed recipe. A later field is written only if it is set, so that old recipes keep their id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from batchvision import keys
from batchvision.records import AnswerSpec, Example, ImagePreparation, JsonObject, Label, Recipe


def with_id(recipe: Recipe) -> Recipe:
    """``recipe`` with its recipe_id filled in."""
    return replace(recipe, recipe_id=keys.recipe_id(recipe_document(recipe)))


def recipe_document(recipe: Recipe) -> dict[str, Any]:
    """JSON content; equal recipes have equal documents. Schemas are text, because the order of properties matters."""
    return {
        "provider": recipe.provider,
        "model": recipe.model,
        "system": recipe.system,
        "user": recipe.user,
        "user_column": recipe.user_column,
        "parameters": dict(recipe.parameters),
        "examples": _examples(recipe),
        "answer": _answer(recipe.answer),
        "images_first": recipe.images_first,
        "detail": recipe.detail,
        "images": _images(recipe.images),
    }


#: Later fields of [images], absent from documents of old recipes.
_LATER_IMAGE_FIELDS = ("background", "page")


def _images(preparation: ImagePreparation) -> dict[str, Any]:
    default = ImagePreparation()
    unset = {name for name in _LATER_IMAGE_FIELDS if getattr(preparation, name) == getattr(default, name)}
    return {name: value for name, value in asdict(preparation).items() if name not in unset}


def _examples(recipe: Recipe) -> list[dict[str, Any]]:
    """Examples with the hashes of their images: moving the files changes no answer."""
    sha256 = iter(recipe.example_image_sha256)
    return [
        {"user": example.user, "images": [next(sha256) for _ in example.images], "answer": example.answer}
        for example in recipe.examples
    ]


def _schema_text(schema: JsonObject | None) -> str | None:
    return None if schema is None else json.dumps(schema, ensure_ascii=False, separators=(",", ":"))


def _answer(spec: AnswerSpec) -> dict[str, Any]:
    return {
        "schema": _schema_text(spec.schema),
        "check_schema": _schema_text(spec.check_schema),
        "labels": [[label.value, label.description] for label in spec.labels],
        "labels_many": spec.labels_many,
        "labels_confidence": spec.labels_confidence,
        "labels_fallback": spec.labels_fallback,
    }


def recipe_from_document(document: Mapping[str, Any]) -> Recipe:
    """The recipe of a document, with its recipe_id; an example's images are their sha256."""
    examples = document["examples"]
    return with_id(
        Recipe(
            provider=document["provider"],
            model=document["model"],
            system=document["system"],
            user=document["user"],
            user_column=document["user_column"],
            parameters=dict(document["parameters"]),
            examples=tuple(Example(e["user"], tuple(e["images"]), e["answer"]) for e in examples),
            example_image_sha256=tuple(image for e in examples for image in e["images"]),
            answer=_answer_spec(document["answer"]),
            images_first=document["images_first"],
            detail=document["detail"],
            images=ImagePreparation(**document["images"]),
        )
    )


def _answer_spec(document: Mapping[str, Any]) -> AnswerSpec:
    def schema(name: str) -> JsonObject | None:
        text = document[name]
        return None if text is None else json.loads(text)

    return AnswerSpec(
        schema=schema("schema"),
        labels=tuple(Label(value, description) for value, description in document["labels"]),
        labels_many=document["labels_many"],
        labels_confidence=document["labels_confidence"],
        labels_fallback=document["labels_fallback"],
        check_schema=schema("check_schema"),
    )


# ---------------------------------------------------------------------------------- changes

#: The key of the job file by the name in the document, where the two differ.
_KEYS = {
    "provider": "provider.name",
    "model": "provider.model",
    "system": "prompt.system",
    "user": "prompt.user",
    "user_column": "prompt.column",
    "examples": "prompt.example",
    "images_first": "prompt.images_first",
    "detail": "provider.detail",
    "parameters": "provider.parameters",
}
#: In [answer]: a schema is stored in its sent and its checked form, both with the labels.
_ANSWER_KEYS = {"schema": "answer.schema", "check_schema": "answer.schema"}


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys of the job file in which two recipe documents differ, sorted."""
    found: set[str] = set()
    for name in before.keys() | now.keys():
        then, current = before.get(name), now.get(name)
        if then == current:
            continue
        if name == "answer":
            found |= _changed_in_answer(then or {}, current or {})
        elif isinstance(then, Mapping) and isinstance(current, Mapping):
            prefix = _KEYS.get(name, name)
            found |= {f"{prefix}.{key}" for key in then.keys() | current.keys() if then.get(key) != current.get(key)}
        else:
            found.add(_KEYS.get(name, name))
    return tuple(sorted(found))


def _changed_in_answer(then: Mapping[str, Any], now: Mapping[str, Any]) -> set[str]:
    names = {name for name in then.keys() | now.keys() if then.get(name) != now.get(name)}
    keys = {_ANSWER_KEYS.get(name, f"answer.{name}") for name in names}
    labels = {key for key in keys if key.startswith("answer.labels")}
    return labels or keys  # the sent schema includes the labels
