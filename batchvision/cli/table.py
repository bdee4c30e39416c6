"""Format a table for a terminal: narrow columns keep their width, wide columns share the rest and wrap. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from batchvision.cli.terminal import cell_width, cut_to_width, safe_text

GAP = "  "
MIN_COLUMN = 6
#: A longer cell is cut and ends in an ellipsis.
MAX_LINES = 6


class TextColumn(NamedTuple):
    """One column. Numbers are aligned to the right."""

    title: str
    right: bool = False


def table_lines(columns: Sequence[TextColumn], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Header, rule and rows, at most ``width`` wide. A blank line separates rows if a cell wraps."""
    if not columns:
        return []
    cells = [[_one_paragraph(cell) for cell in row] for row in rows]
    widths = _fit([_natural(column, [row[i] for row in cells]) for i, column in enumerate(columns)], width)
    blocks = [[_wrap(cell, widths[i]) for i, cell in enumerate(row)] for row in cells]
    airy = any(len(lines) > 1 for block in blocks for lines in block)
    out = _block([[cut_to_width(safe_text(c.title), w)] for c, w in zip(columns, widths, strict=True)], columns, widths)
    out.append(GAP.join("─" * w for w in widths))
    for number, block in enumerate(blocks):
        if airy and number:
            out.append("")
        out += _block(block, columns, widths)
    return out


def _one_paragraph(cell: str) -> str:
    return safe_text(" ".join(cell.split()))


def _natural(column: TextColumn, cells: Sequence[str]) -> int:
    return max([cell_width(column.title), *(cell_width(cell) for cell in cells)])


def _fit(natural: Sequence[int], width: int) -> list[int]:
    """Column widths with a sum of at most ``width``. The widest columns shrink first."""
    room = width - len(GAP) * (len(natural) - 1)
    widths = list(natural)
    while sum(widths) > room:
        widest = max(widths)
        if widest <= MIN_COLUMN:
            break
        second = max([w for w in widths if w < widest], default=MIN_COLUMN)
        tied = [i for i, w in enumerate(widths) if w == widest]
        step = min(widest - max(second, MIN_COLUMN), -(-(sum(widths) - room) // len(tied)))
        for i in tied:
            widths[i] -= max(1, step)
    return widths


def _wrap(cell: str, width: int) -> list[str]:
    """The cell in lines of at most ``width``, broken at spaces if possible."""
    lines: list[str] = []
    line = ""
    for word in cell.split(" "):
        joined = f"{line} {word}" if line else word
        if cell_width(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        while cell_width(word) > width:
            head = cut_to_width(word, width) or word[0]
            lines.append(head)
            word = word[len(head) :]
        line = word
    lines.append(line)
    if len(lines) > MAX_LINES:
        lines = [*lines[: MAX_LINES - 1], cut_to_width(lines[MAX_LINES - 1], width - 1) + "…"]
    return lines


def _block(cells: Sequence[Sequence[str]], columns: Sequence[TextColumn], widths: Sequence[int]) -> list[str]:
    """The lines of one row."""
    height = max(len(lines) for lines in cells)
    out = []
    for number in range(height):
        texts = [lines[number] if number < len(lines) else "" for lines in cells]
        padded = [_pad(text, w, column.right) for text, column, w in zip(texts, columns, widths, strict=True)]
        out.append(GAP.join(padded).rstrip())
    return out


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * max(0, width - cell_width(text))
    return space + text if right else text + space
