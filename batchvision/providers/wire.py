"""Parse JSON from a provider and read values of unknown shape. Nothing here raises."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
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
