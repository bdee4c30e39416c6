"""Make a recipe's messages as bytes: the prefix is serialised once, each row adds its text and images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

from batchvision.prompt.template import Template
from batchvision.records import AnswerSpec, ImageSlot, Payload, Prompt, Recipe

try:
    from pybase64 import b64encode  # three times as fast
except ImportError:
    from base64 import b64encode

_END = b"]}]"  #: the end of the content parts, of the row's message, and of the messages
_IMAGE_PART = b'{"type":"image_url","image_url":{"url":"data:%b;base64,%b"%b'
_quoted = json.JSONEncoder(ensure_ascii=False).encode


def _json(value: str) -> bytes:
    try:
        return _quoted(value).encode()
    except UnicodeEncodeError:  # a lone surrogate travels as its escape
        return json.dumps(value).encode()


@lru_cache(maxsize=4)  # in most jobs all rows have one text
def _text_part(text: str) -> bytes:
    return b'{"type":"text","text":' + _json(text) + b"}"


def _content(prompt: Prompt, payloads: Sequence[Payload], images_first: bool, detail: bytes) -> bytes:
    """The content parts, separated by commas; at least one, as providers refuse a message without content.

    Images without a slot come last, or first.
    """
    named = {part.name for part in prompt if isinstance(part, ImageSlot)} - {""}
    of_slots = [payload for payload in payloads if payload.slot in named]
    free = [payload for payload in payloads if payload.slot not in named]
    ordered: list[str | Payload] = []
    for part in prompt:
        match part:
            case str(text):
                if text and (len(prompt) == 1 or not text.isspace()):
                    ordered.append(text)
            case ImageSlot(""):
                ordered += free[:1]
                del free[:1]
            case ImageSlot(name):
                ordered += [payload for payload in of_slots if payload.slot == name]
                of_slots = [payload for payload in of_slots if payload.slot != name]
    ordered = [*free, *ordered] if images_first else [*ordered, *free]
    parts: list[bytes] = []
    for each in ordered or [""]:
        if isinstance(each, str):
            parts.append(_text_part(each))
        elif each.inline is None:
            parts.append(b'{"type":"image_url","image_url":{"url":' + _json(each.url or "") + detail)
        else:  # base64 needs no JSON escapes; each page of a file is a part
            pages = [(each.media_type or "image/jpeg", each.inline)]
            pages += [("image/jpeg", page.inline) for page in each.more]
            parts += [_IMAGE_PART % (kind.encode(), b64encode(content), detail) for kind, content in pages]
    return b",".join(parts)


def schema_instruction(spec: AnswerSpec, form: str) -> str | None:
    """The final text of a prompt that states the schema; ``None`` where ``response_format`` carries it."""
    if spec.schema is None or form == "json_schema":
        return None
    schema = json.dumps(spec.schema, ensure_ascii=False, separators=(",", ":"))
    return f"Answer with one JSON object and nothing else. It must satisfy this JSON schema:\n{schema}"


def with_final_text(messages: bytes, text: str) -> bytes:
    """``messages`` with ``text`` as the last part of the last message."""
    if not messages.endswith(_END):
        raise RuntimeError("the last message does not end with its list of parts")
    return b"%b,%b%b" % (messages[: -len(_END)], _text_part(text), _END)


def system_text(recipe: Recipe) -> str | None:
    """The system message: the job's own and, if labels have descriptions, the list of labels.

    Labels without descriptions are in the schema and are not sent twice.
    """
    labels = recipe.answer.labels
    if not any(label.description for label in labels):
        return recipe.system
    lines = [f"- {label.value}: {label.description}" if label.description else f"- {label.value}" for label in labels]
    described = "The labels:\n" + "\n".join(lines)
    return f"{recipe.system}\n\n{described}" if recipe.system else described


class Conversation:
    """Makes the messages of every row of one recipe. ``example_payloads``: the examples' images, in order."""

    __slots__ = ("_detail", "_images_first", "_prefix")

    def __init__(self, recipe: Recipe, example_payloads: Sequence[Payload] = ()) -> None:
        wanted = sum(len(example.images) for example in recipe.examples)
        if len(example_payloads) != wanted:
            raise ValueError(f"the examples have {wanted} images, not {len(example_payloads)}")
        self._images_first = recipe.images_first
        self._detail = b',"detail":' + _json(recipe.detail) + b"}}"
        self._prefix = self._turns(recipe, list(example_payloads))

    def _turns(self, recipe: Recipe, payloads: list[Payload]) -> bytes:
        """The messages before the content parts of a row."""
        turns = b"["
        system = system_text(recipe)
        if system:
            turns += b'{"role":"system","content":%b},' % _json(system)
        for example in recipe.examples:
            own, payloads = payloads[: len(example.images)], payloads[len(example.images) :]
            prompt = Template.parse(example.user).render({})
            content = _content(prompt, own, self._images_first, self._detail)
            turns += b'{"role":"user","content":[%b]},' % content
            turns += b'{"role":"assistant","content":%b},' % _json(example.answer)
        return turns + b'{"role":"user","content":['

    def messages(self, prompt: Prompt, payloads: Sequence[Payload]) -> bytes:
        """The JSON array of chat messages for one row."""
        return b"%b%b%b" % (self._prefix, _content(prompt, payloads, self._images_first, self._detail), _END)
