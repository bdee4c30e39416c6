"""A recipe's messages as bytes: the prefix (system, examples) is serialised once, each row adds its text and images.

Rule: in pieces. The small JSON is encoded, an image is a piece of its own: its base64 holds no character that JSON
would escape.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

from batchvision.prompt.template import MARK, Template
from batchvision.records import Base64, Label, Payload, Pieces, Recipe, joined

_quoted = json.JSONEncoder(ensure_ascii=False).encode


def _json(value: str) -> bytes:
    try:
        return _quoted(value).encode()
    except UnicodeEncodeError:  # a lone surrogate travels as its escape
        return json.dumps(value).encode()


@lru_cache(maxsize=4)  # most jobs ask the same of every image
def _text_part(text: str) -> bytes:
    return b'{"type":"text","text":' + _json(text) + b"}"


def _order(text: str, payloads: Sequence[Payload], images_first: bool) -> list[str | Payload]:
    """Text and images in the order they are sent: each marker takes its images, the others follow (or lead)."""
    if text and MARK not in text:
        return [*payloads, text] if images_first else [text, *payloads]
    pieces = text.split(MARK)
    named = set(pieces[1::2]) - {""}
    waiting = [p for p in payloads if p.slot in named]  # kept for the marker that names their slot
    free = [p for p in payloads if p.slot not in named]
    ordered: list[str | Payload] = []
    for number, piece in enumerate(pieces):
        if number % 2 == 0:
            if piece and (len(pieces) == 1 or not piece.isspace()):
                ordered.append(piece)
        elif piece == "":
            ordered += free[:1]
            del free[:1]
        else:
            ordered += [p for p in waiting if p.slot == piece]
            waiting = [p for p in waiting if p.slot != piece]
    return [*free, *ordered] if images_first else [*ordered, *free]


def _content(text: str, payloads: Sequence[Payload], images_first: bool, detail: bytes) -> list[bytes | Base64]:
    """A JSON list of content parts, the bytes of an image in a piece of their own; never empty: providers refuse a
    message without content."""
    pieces: list[bytes | Base64] = []
    said, between = b"[", b""
    for part in _order(text, payloads, images_first) or [""]:
        said += between
        between = b","
        if isinstance(part, str):
            said += _text_part(part)
        elif part.inline is None:
            said += b'{"type":"image_url","image_url":{"url":' + _json(part.url or "") + detail
        else:
            kind = (part.media_type or "image/jpeg").encode()
            pieces += [said + b'{"type":"image_url","image_url":{"url":"data:' + kind + b";base64,", part.inline]
            for page in part.more:
                between = b'"' + detail + b',{"type":"image_url","image_url":{"url":"data:image/jpeg;base64,'
                pieces += [between, page.inline]
            said, between = b'"' + detail, b","
    return [*pieces, said + b"]"]


def with_last_words(messages: Pieces, text: str) -> Pieces:
    """``messages``, as :class:`Conversation` makes them, with ``text`` as the last part of the last message."""
    *before, content, end = messages
    if not isinstance(content, bytes) or not content.endswith(b"]"):
        raise RuntimeError("the last message does not end with its list of parts")
    return (*before, content[:-1] + b"," + _text_part(text) + b"]", end)


def _described(labels: Sequence[Label]) -> str:
    lines = [f"- {label.value}: {label.description}" if label.description else f"- {label.value}" for label in labels]
    return "The labels:\n" + "\n".join(lines)


def system_text(recipe: Recipe) -> str | None:
    """The system message as sent: the job's own and, where labels have descriptions, the list of them.

    Labels without any description are in the schema already and are not sent twice.
    """
    labels = recipe.answer.labels
    if not any(label.description for label in labels):
        return recipe.system
    return "\n\n".join(part for part in (recipe.system, _described(labels)) if part)


class Conversation:
    """Makes the messages of every row of one recipe. ``example_payloads``: the examples' images, in order."""

    __slots__ = ("_detail", "_images_first", "_prefix")

    def __init__(self, recipe: Recipe, example_payloads: Sequence[Payload] = ()) -> None:
        wanted = sum(len(example.images) for example in recipe.examples)
        if len(example_payloads) != wanted:
            raise ValueError(f"the examples have {wanted} images, not {len(example_payloads)}")
        self._images_first = recipe.images_first
        self._detail = b',"detail":' + _json(recipe.detail) + b"}}"
        self._prefix = joined(self._turns(recipe, list(example_payloads)))

    def _turns(self, recipe: Recipe, payloads: list[Payload]) -> list[bytes | Base64]:
        pieces: list[bytes | Base64] = [b"["]
        system = system_text(recipe)
        if system:
            pieces += [b'{"role":"system","content":', _json(system), b"},"]
        for example in recipe.examples:
            own, payloads = payloads[: len(example.images)], payloads[len(example.images) :]
            text = Template.parse(example.user).render({})
            pieces.append(b'{"role":"user","content":')
            pieces += _content(text, own, self._images_first, self._detail)
            pieces += [b'},{"role":"assistant","content":', _json(example.answer), b"},"]
        pieces.append(b'{"role":"user","content":')
        return pieces

    def messages(self, text: str, payloads: Sequence[Payload]) -> Pieces:
        """The JSON array of chat messages for one row. ``text`` is rendered, with markers where images belong."""
        return (self._prefix, *_content(text, payloads, self._images_first, self._detail), b"}]")
