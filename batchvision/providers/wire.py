"""JSON of any kind to values, and values of unknown shape to known ones. Nothing here raises, whatever the text is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, NamedTuple

from batchvision.prompt import is_deeper

#: A provider's text beyond this is not looked at for messages.
_MOST_SAID = 300

#: What must not be shown: image bytes, signatures of URLs, keys that a provider quotes.
_HIDDEN = (
    (re.compile(r"data:[\w/.+;=-]{0,80}base64,[A-Za-z0-9+/=_-]*"), "data:..."),
    (re.compile(r"(https?://[^\s?\"'<>]{1,300})\?[^\s\"'<>]*"), r"\1?..."),
    (re.compile(r"\b((?:sk|xai|gsk|pk)-)[A-Za-z0-9_-]{8,}"), r"\1***"),
)


class Document(NamedTuple):
    """A body, decoded. ``value`` is its JSON; for a stream, the chat completion put together, as far as it came.

    ``problem`` set: it is no whole document, for that reason. ``text`` is the body where it is no JSON.
    """

    value: Any = None
    problem: str | None = None
    text: str = ""


def parse(text: str, start: int = 0) -> tuple[Any, str | None]:
    """The JSON value at ``start`` and None, or None and what is wrong. Numbers with a point are exact decimals.

    Of a key given twice the last counts; NaN and infinities are null; what follows a closed value is ignored.
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
    """``value`` if it is a number of tokens, ticks or the like: an integer from 0, of 63 bits."""
    if type(value) is int:
        return value if 0 <= value < 2**63 else None
    if type(value) is Decimal and value == value.to_integral_value() and value.adjusted() < 19:
        return count(int(value))
    return None


def text(value: Any, most: int = 256) -> str | None:
    """``value`` if it is a name or an id: text with something in it, on one line."""
    if not isinstance(value, str):
        return None
    return _name(value[:most])


@lru_cache(maxsize=256)  # answer after answer names the same model and reason
def _name(said: str) -> str | None:
    return _on_one_line(said) or None


def storable(value: str) -> str:
    """``value`` as it can be written in UTF-8: JSON may escape halves of characters, no file can hold them."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def presentable(said: str, most: int = _MOST_SAID) -> str:
    """What a provider said, for a message: on one line, without image bytes, signatures and keys, shortened."""
    line = said[: 64 * most]
    for pattern, shown in _HIDDEN:
        line = pattern.sub(shown, line)
    line = _on_one_line(line)
    return line if len(line) <= most else line[: most - 3] + "..."


def _on_one_line(said: str) -> str:
    """Without control characters, line ends and what else cannot be shown."""
    if said.isprintable() and "  " not in said:
        return said.strip()
    return " ".join("".join(char if char.isprintable() else " " for char in said).split())


def strings(value: Any) -> Iterator[str]:
    """The text in ``value``: itself, or that of an array's members."""
    for member in value if isinstance(value, list) else [value]:
        if isinstance(member, str):
            yield member
