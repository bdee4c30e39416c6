"""Make text safe for a terminal: a manifest or a model must not move the cursor or change the text direction.

All cells and messages of the command line pass :func:`safe_text` or :func:`safe_json`, which also mask the key and the
credentials of signed URLs.
"""

from __future__ import annotations

import re
import shutil
import unicodedata
from collections.abc import Iterator
from typing import TextIO

from batchvision.secrets import Secrets
from batchvision.wording import FORMULA_STARTS

#: Masked in each line of the command. The command passes them to a run, which adds its key.
HIDDEN = Secrets()

#: Control characters (C0 without tab and newline, DEL, C1), line separators, and bidi controls.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def safe_text(text: str) -> str:
    """``text`` with unsafe characters as escapes (``\\x1b``)."""
    return _UNSAFE.sub(_spell, HIDDEN.mask(text))


def safe_line(text: str) -> str:
    """As :func:`safe_text`, on one line."""
    return safe_text(text).replace("\n", "\\n")


def safe_json(text: str) -> str:
    """JSON text with unsafe characters as JSON escapes. The value stays the same."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match.group()):04x}", HIDDEN.mask(text))


def safe_csv_cell(text: str) -> str:
    """A CSV cell without control characters and formulas."""
    cell = safe_text(text)
    return f"'{cell}" if cell.startswith(FORMULA_STARTS) else cell


def _spell(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def cell_width(text: str) -> int:
    """The terminal columns of ``text``. Wide characters take two, combining characters take no column."""
    if text.isascii():
        return len(text)
    return sum(_character_width(character) for character in text)


def _character_width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def cut_to_width(text: str, columns: int) -> str:
    """The beginning of ``text`` that fits in ``columns``."""
    used = 0
    for index, character in enumerate(text):
        used += _character_width(character)
        if used > columns:
            return text[:index]
    return text


#: A command to copy. It must not be broken into lines.
_COMMAND = re.compile(r"(?:  next +|   +)?(?:batchvision|export|python|scripts)[ /]")


def wrapped(line: str, stream: TextIO | None) -> str:
    """The line wrapped for a terminal. For files and pipes it is unchanged.

    A command to copy stays whole. Its explanation in brackets moves to the next line.
    """
    columns = terminal_columns()
    if stream is None or not stream.isatty() or cell_width(line) <= columns:
        return line
    if _COMMAND.match(line):
        command, bracket, explanation = line.partition("   (")
        return "\n".join([command, *_broken(f"{' ' * 14}({explanation}", columns)]) if bracket else line
    return "\n".join(_broken(line, columns))


def _broken(line: str, columns: int) -> Iterator[str]:
    indent = " " * _text_begins(line)
    at = len(indent)
    left, words = line[:at], line[at:].split(" ")
    is_empty = True
    for word in words:
        joined = f"{left}{word}" if is_empty else f"{left} {word}"
        if is_empty or cell_width(joined) <= columns:
            left, is_empty = joined, False
            continue
        yield left
        left = indent + word
    yield left


def _text_begins(line: str) -> int:
    """The column where the text after the topic begins; 0 without a topic."""
    begins = [found.end() for found in re.finditer(r"^ *(?:ok|NO|-) +|^(?:info|warning): | {2,}", line[:16])]
    return begins[-1] if begins else 0


def terminal_columns() -> int:
    """The width of the terminal or ``COLUMNS``, otherwise 100."""
    return max(40, shutil.get_terminal_size((100, 24)).columns)
