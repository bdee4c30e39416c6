"""Decode the body of an answer (JSON, or a stream of server-sent events) and read values of unknown shape.

Nothing here raises. Closed JSON is a whole answer, even if the connection was cut after it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, NamedTuple

from batchvision.prompt import is_deeper

#: Characters of a provider's text in a message.
_MOST_SHOWN = 300

#: Hidden in messages: image bytes, signatures of URLs, keys that a provider quotes.
_HIDDEN = (
    (re.compile(r"data:[\w/.+;=-]{0,80}base64,[A-Za-z0-9+/=_-]*"), "data:..."),
    (re.compile(r"(https?://[^\s?\"'<>]{1,300})\?[^\s\"'<>]*"), r"\1?..."),
    (re.compile(r"\b((?:sk|xai|gsk|pk)-)[A-Za-z0-9_-]{8,}"), r"\1***"),
)

_SSE_FIELD = re.compile(r"(?:data|event|id|retry)\s*:")
#: Blank lines and keep-alive comments.
_BEFORE_DOCUMENT = re.compile(r"(?:[ \t\r\n\ufeff]++|:[^\n]*+)*+")
_HTML = re.compile(r"\s*<(?:!doctype|html|head|body|\?xml)", re.IGNORECASE)
_LINE_END = re.compile(r"\r\n|\n|\r")
_DONE = "[DONE]"
#: A field of the JSON itself: inside a text its quotes would be escaped.
_REASON = re.compile(rb'"finish_reason"\s{0,8}:')
_GIVEN_REASON = re.compile(rb'"finish_reason"\s{0,8}:\s{0,8}"')

#: Fields of a chunk that hold for the whole answer; the last chunk with the field decides.
_FACTS = ("id", "model", "provider", "system_fingerprint", "service_tier", "usage")


class Document(NamedTuple):
    """A decoded body. ``value``: its JSON; for a stream, the chat completion assembled from the events that arrived.

    ``problem``: why the document is not whole. ``text``: the body where it is not JSON.
    """

    value: Any = None
    problem: str | None = None
    text: str = ""


def parse(text: str, start: int = 0) -> tuple[Any, str | None]:
    """The JSON value at ``start`` and ``None``, or ``None`` and the problem. Numbers with a point are exact decimals.

    The last of two equal keys counts. NaN and infinities are null. Text after a closed value is ignored.
    """
    if is_deeper(text, start=start):
        return None, "JSON nested too deep"
    for decoder in (_DECODER, _DECODER_OF_ANY_NUMBER):
        try:
            value, _end = decoder.raw_decode(text, start)
        except RecursionError:
            return None, "JSON nested too deep"
        except (json.JSONDecodeError, ArithmeticError):
            break
        except ValueError:  # an integer of thousands of digits
            continue
        return value, None
    return None, "JSON that breaks off" if text[start : start + 1] in ("{", "[") else "no JSON"


def _exact(number: str) -> Decimal | None:
    try:
        value = Decimal(number)
    except InvalidOperation:
        return None
    return value if value.is_finite() and abs(value.adjusted()) < 400 else None


def _integer(number: str) -> int | None:
    return int(number) if len(number) <= 40 else None


def _no_number(_name: str) -> None:
    return None


_DECODER = json.JSONDecoder(parse_float=_exact, parse_constant=_no_number)
_DECODER_OF_ANY_NUMBER = json.JSONDecoder(parse_float=_exact, parse_int=_integer, parse_constant=_no_number)


# ---------------------------------------------------------------------------------- documents


def document_of(body: bytes) -> Document:
    """The document in ``body``: JSON after any blank or comment lines, or server-sent events."""
    is_plain = body[:1] == b"{" and body[1:2] != b"\x00"  # UTF-8; detect_encoding agrees
    text = body.decode("utf-8" if is_plain else json.detect_encoding(body), "replace")
    before = _BEFORE_DOCUMENT.match(text)
    start = before.end() if before else 0
    if start == len(text):
        return Document(problem="an empty body")
    if _SSE_FIELD.match(text, start):
        return _assembled(text)
    value, problem = parse(text, start)
    if problem is None:
        return Document(value)
    return Document(problem="an HTML page" if _HTML.match(text, start) else problem, text=text[start : start + 4000])


# ---------------------------------------------------------------------------------- streams


def _assembled(text: str) -> Document:
    """One chat completion of the events that arrived. Comment lines and unknown fields are skipped.

    A stream is whole if it holds ``[DONE]``, a finish reason or an error.
    """
    pieces = _Pieces()
    for data in _events(text):
        if data.strip() == _DONE:
            pieces.is_ended = True
            break
        chunk, problem = parse(data.lstrip())
        if problem is None:
            pieces.add(mapping(chunk))
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
    if len(lines) > 1 and parse(lines[0].lstrip())[1] is None:
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
    choices = sequence(mapping(chunk).get("choices"))
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
        for choice in sequence(chunk.get("choices")):
            if isinstance(choice, dict) and choice.get("index") in (0, None):
                self._add_choice(choice)

    def _add_choice(self, choice: dict[str, Any]) -> None:
        self.has_choice = True
        delta = mapping(choice.get("delta") or choice.get("message"))
        self.content.extend(_text_of(delta.get("content")))
        self.refusal.extend(_text_of(delta.get("refusal")))
        self.reasoning.extend(_text_of(delta.get("reasoning_content") or delta.get("reasoning")))
        if choice.get("finish_reason"):
            self.finish_reason = choice["finish_reason"]
            self.is_ended = True
        if choice.get("error"):
            self.choice_error = choice["error"]
            self.is_ended = True

    def document(self) -> Document:
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
            return Document(body)
        return Document(body, "a stream that breaks off")


def _text_of(content: Any) -> Iterator[str]:
    """Content is text, or a list of parts with text in them."""
    for part in content if isinstance(content, list) else [content]:
        text = part.get("text") if isinstance(part, dict) else part
        if isinstance(text, str):
            yield text


# ---------------------------------------------------------------------------------- values of unknown shape


def mapping(value: Any) -> Mapping[str, Any]:
    """``value`` if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> list[Any]:
    """``value`` if it is a JSON array, else an empty one."""
    return value if isinstance(value, list) else []


def count(value: Any) -> int | None:
    """``value`` if it is a count (of tokens, of ticks): an integer from 0, of at most 63 bits."""
    if type(value) is int:
        return value if 0 <= value < 2**63 else None
    if type(value) is Decimal and value == value.to_integral_value() and value.adjusted() < 19:
        return count(int(value))
    return None


def text(value: Any, most: int = 256) -> str | None:
    """``value`` as a name or an id, on one line; ``None`` if it is no text or empty."""
    if not isinstance(value, str):
        return None
    return _name(value[:most])


@lru_cache(maxsize=256)  # answers repeat the same model and finish reason
def _name(value: str) -> str | None:
    return _on_one_line(value) or None


def storable(value: str) -> str:
    """``value`` as UTF-8 can hold it: JSON may escape lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def presentable(given: str, most: int = _MOST_SHOWN) -> str:
    """A provider's text for a message: shortened to one line, without image bytes, signatures and keys."""
    line = given[: 64 * most]
    for pattern, shown in _HIDDEN:
        line = pattern.sub(shown, line)
    line = _on_one_line(line)
    return line if len(line) <= most else line[: most - 3] + "..."


def _on_one_line(given: str) -> str:
    """``given`` without control characters and line ends."""
    if given.isprintable() and "  " not in given:
        return given.strip()
    return " ".join("".join(char if char.isprintable() else " " for char in given).split())


def strings(value: Any) -> Iterator[str]:
    """The texts in ``value``, which is a text or an array."""
    for member in value if isinstance(value, list) else [value]:
        if isinstance(member, str):
            yield member
