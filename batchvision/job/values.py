"""The kinds of values that the keys of a job file take: text, counts, amounts, shares, names.

Rule: a kind judges one value alone and raises ValueError with the forms there are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import time
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Annotated, NamedTuple
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from batchvision.errors import ROW_FAULTS


class Section(BaseModel):
    """Base of all sections: frozen, and a key that is not known is a problem."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class RowLimit(NamedTuple):
    """A number of rows, or a share of them: ``50`` or ``"20%"``."""

    rows: int | None
    part: Fraction | None

    @classmethod
    def parse(cls, value: object) -> RowLimit:
        """Raises ValueError with the forms there are."""
        if isinstance(value, RowLimit):
            return value
        text = str(value).strip()
        try:
            if isinstance(value, str) and text.endswith("%"):
                percent = Decimal(text.removesuffix("%").strip())
                if percent.is_finite() and 0 <= percent <= 100:
                    return cls(None, Fraction(percent) / 100)
            elif isinstance(value, int | str) and not isinstance(value, bool) and int(text) >= 0:
                return cls(int(text), None)
        except (InvalidOperation, ValueError):
            pass
        raise ValueError('write a number of rows (50) or a part of them ("20%")')

    def allows(self, failed: int, of: int) -> bool:
        """Whether ``failed`` of ``of`` rows are within the limit."""
        if self.part is None:
            return failed <= (self.rows or 0)
        return failed <= self.part * of

    def __str__(self) -> str:
        if self.part is None:
            return str(self.rows)
        percent = self.part * 100
        return f"{percent.numerator if percent.denominator == 1 else float(percent)}%"


# ---------------------------------------------------------------------------------- kinds of values


def no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("write a number, not true or false")
    return value


def one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty; give it a value or remove it")
    if "\x00" in text:
        raise ValueError("it holds a NUL character; remove it")
    return text


def page_choice(value: object) -> object:
    """``first``, ``all``, or the number of a page from 1. Raises ValueError."""
    if isinstance(value, str) and value.isdecimal() and value.isascii():
        value = int(value[:9])  # from the environment or a flag
    if value in ("first", "all") or (isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31):
        return value
    raise ValueError('write "first", "all" or the number of a page, counted from 1')


Text = Annotated[str, Field(min_length=1), BeforeValidator(lambda v: _filled(v) if isinstance(v, str) else v)]
Names = Annotated[tuple[Text, ...], BeforeValidator(one_or_many)]
Flag = Annotated[bool, Field(strict=True)]
Count = Annotated[int, BeforeValidator(no_bool), Field(gt=0)]
Amount = Annotated[float, BeforeValidator(no_bool), Field(gt=0, allow_inf_nan=False)]
Money = Annotated[
    Decimal,
    BeforeValidator(no_bool),
    Field(ge=0, allow_inf_nan=False),
    PlainSerializer(float, when_used="json"),
]
RowShare = Annotated[RowLimit, BeforeValidator(RowLimit.parse), PlainSerializer(str, when_used="json")]


def _part_of_rows(value: object) -> RowLimit:
    limit = RowLimit.parse(value) if isinstance(value, str | RowLimit) else RowLimit(None, None)
    if limit.part is None:
        raise ValueError('write a share of the rows, as in "90%"')
    return limit


RowPart = Annotated[RowLimit, BeforeValidator(_part_of_rows), PlainSerializer(str, when_used="json")]


def kinds(value: object) -> object:
    """``unpaid``, ``all``, ``none``, or kinds as a list or as text with commas."""
    if isinstance(value, str) and value not in ("unpaid", "all", "none"):
        value = [part.strip() for part in value.split(",")]
    if isinstance(value, list | tuple):
        for kind in value:
            if not isinstance(kind, str) or kind not in ROW_FAULTS:
                raise ValueError(
                    f"{kind!r} is no kind of failure; there are unpaid, all, none and {', '.join(ROW_FAULTS)}"
                )
        return tuple(value)
    return value


def zone(name: str) -> str:
    """``name`` if it is a time zone. Raises ValueError."""
    if name == "UTC":  # known without a time zone database
        return name
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError("it is no time zone; write a name such as UTC or Europe/Zurich") from None
    return name


def local_time(value: object) -> str:
    """A time of day as ``HH:MM``, also of a TOML time. Raises ValueError."""
    text = f"{value:%H:%M}" if isinstance(value, time) else str(value).strip()
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", text, re.ASCII):
        raise ValueError('write a time of day from "00:00" to "23:59", such as "07:00"')
    return text


def job_name(name: str) -> str:
    """``name`` if it can stand in a column and in a message. Raises ValueError."""
    if not name.isprintable() or len(name) > 200:
        raise ValueError("a job's name is one line of at most 200 characters")
    return name


JobName = Annotated[Text, BeforeValidator(lambda v: job_name(v) if isinstance(v, str) else v)]
LocalTime = Annotated[str, BeforeValidator(local_time)]
Zone = Annotated[Text, BeforeValidator(lambda v: zone(v) if isinstance(v, str) else v)]


def not_json(value: object) -> str | None:
    match value:
        case None | bool() | int() | str():
            return None
        case float():
            return None if math.isfinite(value) else str(value)
        case list() | tuple():
            return next((wrong for one in value if (wrong := not_json(one))), None)
        case Mapping():
            return next((wrong for one in value.values() if (wrong := not_json(one))), None)
    return f"a {type(value).__name__}"
