"""Decode the body of an answer: JSON, or a stream of server-sent events. Nothing here raises.

Closed JSON is a whole answer, even if the connection was cut after it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from batchvision.prompt import is_deeper
from batchvision.providers import wire

_SSE_FIELD = re.compile(r"(?:data|event|id|retry)\s*:")
_HTML = re.compile(r"\s*<(?:!doctype|html|head|body|\?xml)", re.IGNORECASE)
_LINE_END = re.compile(r"\r\n|\n|\r")
_DONE = "[DONE]"
#: A field of the JSON itself: inside a text its quotes would be escaped.
_REASON = re.compile(rb'"finish_reason"\s{0,8}:')
_GIVEN_REASON = re.compile(rb'"finish_reason"\s{0,8}:\s{0,8}"')

#: Fields of a chunk that hold for the whole answer; the last chunk with the field decides.
_FACTS = ("id", "model", "provider", "system_fingerprint", "service_tier", "usage")


def document_of(body: bytes) -> wire.Document:
    """The document in ``body``: JSON after any blank or comment lines, or server-sent events."""
    is_plain = body[:1] == b"{" and body[1:2] != b"\x00"  # UTF-8; detect_encoding agrees
    text = body.decode("utf-8" if is_plain else json.detect_encoding(body), "replace")
    start = _content_start(text)
    if start == len(text):
        return wire.Document(problem="an empty body")
    if _SSE_FIELD.match(text, start):
        return _assembled(text)
    value, problem = wire.parse(text, start)
    if problem is None:
        return wire.Document(value)
    return wire.Document(
        problem="an HTML page" if _HTML.match(text, start) else problem, text=text[start : start + 4000]
    )


def _content_start(text: str) -> int:
    """The start of the document: after blank lines and keep-alive comments."""
    start = 0
    while True:
        while start < len(text) and text[start] in " \t\r\n\ufeff":
            start += 1
        if not text.startswith(":", start):
            return start
        line_end = text.find("\n", start)
        start = len(text) if line_end < 0 else line_end


# ---------------------------------------------------------------------------------- streams


def _assembled(text: str) -> wire.Document:
    """One chat completion of the events that arrived. Comment lines and unknown fields are skipped.

    A stream is whole if it holds ``[DONE]``, a finish reason or an error.
    """
    pieces = _Pieces()
    for data in _events(text):
        if data.strip() == _DONE:
            pieces.is_ended = True
            break
        chunk, problem = wire.parse(data.lstrip())
        if problem is None:
            pieces.add(wire.mapping(chunk))
    return pieces.document()


def _events(text: str) -> Iterator[str]:
    """The data of each event. Some servers omit the blank lines between events: then each line of JSON is an event."""
    lines: list[str] = []
    for line in _LINE_END.split(text):
        if line.startswith("data:"):
            lines.append(line[5:].removeprefix(" "))
        elif not line:
            yield from _joined(lines)
            lines = []
    yield from _joined(lines)


def _joined(lines: list[str]) -> Iterator[str]:
    whole = "\n".join(lines)
    if len(lines) > 1 and wire.parse(lines[0].lstrip())[1] is None:
        yield from lines
    elif whole:
        yield whole


# ---------------------------------------------------------------------------------- secrets


def is_stream(body: bytes) -> bool:
    """Whether a body has events with data in them."""
    return body.startswith(b"data:") or b"\ndata:" in body


def is_aborted_stream(body: bytes) -> bool:
    """Whether ``finish_reason`` stays null to the end of a stream: the server aborted the answer.

    A stream without the field, or with an empty reason, was not aborted.
    """
    return is_stream(body) and _REASON.search(body) is not None and _GIVEN_REASON.search(body) is None


def masked_stream(body: bytes, mask: Callable[[str], str]) -> bytes:
    """The stream with secrets masked, also secrets that are split between events.

    If the joined text holds a secret, the first event holds the whole masked text and the later ones hold "".
    """
    lines = body.split(b"\n")
    deltas: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(lines):
        if line.startswith(b"data:") and (delta := _delta(_json(line[5:]))):
            deltas[number] = delta
    for name in dict.fromkeys(name for delta in deltas.values() for name in delta):
        places = [number for number, delta in deltas.items() if isinstance(delta.get(name), str)]
        whole = "".join(deltas[number][name] for number in places)
        if (hidden := mask(whole)) == whole:
            continue
        for number in places:
            document = _json(lines[number][5:])
            _delta(document)[name] = hidden
            lines[number] = b"data: " + json.dumps(document).encode()
            hidden = ""
    return b"\n".join(lines)


def _json(data: bytes) -> Any:
    try:
        text = data.decode()
        return None if is_deeper(text) else json.loads(text)
    except (ValueError, RecursionError):
        return None


def _delta(chunk: Any) -> dict[str, Any]:
    """The part of a chunk that holds the first choice's text; not a copy."""
    choices = wire.sequence(wire.mapping(chunk).get("choices"))
    choice = next((each for each in choices if isinstance(each, dict) and each.get("index") in (0, None)), {})
    delta = choice.get("delta") or choice.get("message")
    return delta if isinstance(delta, dict) else {}


@dataclass(slots=True)
class _Pieces:
    """The content of the events so far. Only the first choice is kept."""

    facts: dict[str, Any] = field(default_factory=dict)
    content: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    finish_reason: Any = None
    error: Any = None
    error_code: Any = None
    choice_error: Any = None
    has_choice: bool = False
    is_ended: bool = False

    def add(self, chunk: Any) -> None:
        self.facts.update({name: chunk[name] for name in _FACTS if chunk.get(name) is not None})
        if chunk.get("error") and self.error is None:
            self.error, self.error_code = chunk["error"], chunk.get("code")
            self.is_ended = True
        if self.has_choice and chunk.get("usage") and chunk.get("choices") == []:
            self.is_ended = True  # usage comes last; some servers send no [DONE] after it
        for choice in wire.sequence(chunk.get("choices")):
            if isinstance(choice, dict) and choice.get("index") in (0, None):
                self._add_choice(choice)

    def _add_choice(self, choice: dict[str, Any]) -> None:
        self.has_choice = True
        delta = wire.mapping(choice.get("delta") or choice.get("message"))
        self.content.extend(_text_of(delta.get("content")))
        self.refusal.extend(_text_of(delta.get("refusal")))
        self.reasoning.extend(_text_of(delta.get("reasoning_content") or delta.get("reasoning")))
        if choice.get("finish_reason"):
            self.finish_reason = choice["finish_reason"]
            self.is_ended = True
        if choice.get("error"):
            self.choice_error = choice["error"]
            self.is_ended = True

    def document(self) -> wire.Document:
        body: dict[str, Any] = dict(self.facts)
        if self.has_choice or self.is_ended:
            message = {
                "content": "".join(self.content),
                "refusal": "".join(self.refusal) or None,
                "reasoning_content": "".join(self.reasoning) or None,
            }
            choice = {"index": 0, "message": message, "finish_reason": self.finish_reason, "error": self.choice_error}
            body["choices"] = [choice]
        if self.error is not None:
            body |= {"error": self.error, "code": self.error_code}
        if self.is_ended:
            return wire.Document(body)
        return wire.Document(body, "a stream that breaks off")


def _text_of(content: Any) -> Iterator[str]:
    """Content is text, or a list of parts with text in them."""
    for part in content if isinstance(content, list) else [content]:
        text = part.get("text") if isinstance(part, dict) else part
        if isinstance(text, str):
            yield text
