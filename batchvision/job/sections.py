"""The sections of a job file as they are written: names, types, ranges and defaults.

Rule: a section judges itself alone. What needs two sections, a file or a dialect is judged in ``checks.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Annotated, Any, Literal, NamedTuple, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, field_validator, model_validator

from batchvision.errors import PAID_FAILURES, ROW_FAULTS
from batchvision.records import Lane


class Share(NamedTuple):
    """So many rows, or such a part of them: ``50`` or ``"20%"``."""

    rows: int | None
    part: Fraction | None

    @classmethod
    def parse(cls, value: object) -> Share:
        """Raises ValueError with the forms there are."""
        if isinstance(value, Share):
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
        """Whether ``failed`` of ``of`` rows are no more than this."""
        if self.part is None:
            return failed <= (self.rows or 0)
        return failed <= self.part * of

    def __str__(self) -> str:
        if self.part is None:
            return str(self.rows)
        percent = self.part * 100
        return f"{percent.numerator if percent.denominator == 1 else float(percent)}%"


# ---------------------------------------------------------------------------------- kinds of values


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("write a number, not true or false")
    return value


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty; give it a value or remove it")
    if "\x00" in text:
        raise ValueError("it holds a NUL character; remove it")
    return text


def _page(value: object) -> object:
    """``first``, ``all``, or the number of a page from 1. Raises ValueError."""
    if isinstance(value, str) and value.isdecimal() and value.isascii():
        value = int(value[:9])  # from the environment or a flag
    if value in ("first", "all") or (isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31):
        return value
    raise ValueError('write "first", "all" or the number of a page, counted from 1')


def _as_number(value: Decimal) -> float:
    return float(value)


Text = Annotated[str, Field(min_length=1), BeforeValidator(lambda v: _filled(v) if isinstance(v, str) else v)]
Names = Annotated[tuple[Text, ...], BeforeValidator(_one_or_many)]
Flag = Annotated[bool, Field(strict=True)]
Count = Annotated[int, BeforeValidator(_no_bool), Field(gt=0)]
Amount = Annotated[float, BeforeValidator(_no_bool), Field(gt=0, allow_inf_nan=False)]
Money = Annotated[
    Decimal,
    BeforeValidator(_no_bool),
    Field(ge=0, allow_inf_nan=False),
    PlainSerializer(_as_number, when_used="json"),
]
RowShare = Annotated[Share, BeforeValidator(Share.parse), PlainSerializer(str, when_used="json")]


class Section(BaseModel):
    """Base of all sections: frozen, and a key that is not known is a problem."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


# ---------------------------------------------------------------------------------- the sections


class ManifestSection(Section):
    """Which table, which of its columns, and where its images may lie."""

    path: Text
    id: Names | None = None
    images: Names = ("image",)
    root: Text | None = None
    keep: Annotated[tuple[Text, ...] | dict[Text, Text], BeforeValidator(_one_or_many)] = ()
    image_separator: Annotated[str, Field(min_length=1)] | None = None
    image_identity: Literal["content", "ref"] = "content"
    image_version: Text | None = None
    on_bad_image: Literal["fail_row", "skip_image"] = "fail_row"
    max_changed: RowShare = Share(None, Fraction(1, 5))
    on_row_change: Literal["refuse", "redo", "keep"] = "refuse"
    ignore_url_parameters: Names = ()

    @field_validator("id", "images")
    @classmethod
    def _named_once(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is not None and not names:
            raise ValueError("it is empty; name at least one column")
        if names and len(set(names)) < len(names):
            raise ValueError("it names a column twice")
        return names


class ExampleSection(Section):
    """A few-shot turn. ``user`` absent: the prompt itself, where it reads no column."""

    user: Text | None = None
    images: Names = ()
    answer: Text | dict[str, Any]


class PromptSection(Section):
    """What is said to the model."""

    system: str | None = None
    system_file: Text | None = None
    user: Text | None = None
    user_file: Text | None = None
    column: Text | None = None
    images_first: Flag = False
    example: tuple[ExampleSection, ...] = ()

    @model_validator(mode="after")
    def _said_once(self) -> Self:
        if self.system is not None and self.system_file is not None:
            raise ValueError("system and system_file are both set; keep one")
        given = [name for name in ("user", "user_file", "column") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both set; keep one of user, user_file and column")
        if not given:
            raise ValueError('there is no prompt; set user = "...", user_file = "prompt.txt" or column = "prompt"')
        return self


class AnswerSection(Section):
    """What an answer looks like: labels, a schema, both, or (neither) plain text."""

    model_config = ConfigDict(populate_by_name=True)

    labels: tuple[str, ...] = ()
    labels_file: Text | None = None
    labels_many: Flag = False
    labels_fallback: Text | None = None
    labels_confidence: Flag = False
    #: a file, or the schema itself as a table; in the job file the key is ``schema``
    json_schema: Text | dict[str, Any] | None = Field(default=None, alias="schema")
    on_truncated: Literal["fail", "raise_once"] = "fail"

    @model_validator(mode="after")
    def _labelled_once(self) -> Self:
        if self.labels and self.labels_file is not None:
            raise ValueError("labels and labels_file are both set; keep one")
        return self


class PricesSection(Section):
    """USD per million tokens (``image``: per image); what is absent is as the provider lists it.

    From ``long_above_tokens`` prompt tokens on, all tokens of the request cost the ``long_`` prices. One that is absent
    is twice the short one.
    """

    input: Money | None = None
    cached: Money | None = None
    output: Money | None = None
    image: Money | None = None
    long_above_tokens: Count | None = None
    long_input: Money | None = None
    long_cached: Money | None = None
    long_output: Money | None = None

    @model_validator(mode="after")
    def _long_from_somewhere(self) -> Self:
        given = [name for name in ("long_input", "long_cached", "long_output") if getattr(self, name) is not None]
        if given and self.long_above_tokens is None:
            raise ValueError(f"{given[0]} needs long_above_tokens: from how many prompt tokens on it is the price")
        return self


class ProviderSection(Section):
    """Who answers, and how it is spoken to."""

    name: Text
    model: Text
    base_url: Text | None = None
    api_key_env: Text | None = None
    api_key_file: Text | None = None
    api_key_command: Text | tuple[Text, ...] | None = Field(default=None, repr=False)
    api_key_header: Text | None = None
    http: Literal["auto", "lean", "httpx"] = "auto"
    proxy: Text | None = Field(default=None, repr=False)
    ca_file: Text | None = None
    client_cert: Text | None = None
    detail: Literal["auto", "low", "high"] = "auto"
    image_mode: Literal["auto", "url", "inline"] = "auto"
    prompt_cache: Literal["auto", "off"] = "auto"
    response_format: Literal["auto", "json_schema", "json_object", "prompt"] = "auto"
    allow_plain_http: Flag = False
    headers: dict[str, str] = Field(default_factory=dict, repr=False)
    prices: PricesSection = PricesSection()
    prices_file: Text | None = None
    response_cache: Flag = False
    response_cache_ttl_seconds: Annotated[Count, Field(le=86_400)] | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)

    @field_validator("headers")
    @classmethod
    def _plain_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not _is_header_name(name):
                raise ValueError(f"{name!r} is no header name")
            if not value.isprintable():
                raise ValueError(f"the value of {name} holds a line break or a control character")
        return headers

    @field_validator("api_key_header")
    @classmethod
    def _header_name(cls, name: str | None) -> str | None:
        if name is not None and not _is_header_name(name):
            raise ValueError("it is no header name")
        return name

    @field_validator("parameters")
    @classmethod
    def _json_parameters(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        for name, value in parameters.items():
            if wrong := _not_json(value):
                raise ValueError(f"{name} holds {wrong}, which JSON cannot say; write it as text or as a number")
        return parameters

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        names = ("api_key_env", "api_key_file", "api_key_command")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both set; keep one")
        if self.http == "lean" and self.proxy not in (None, "none"):
            raise ValueError('http = "lean" uses no proxy; leave http out, or set proxy = "none"')
        return self


def _is_header_name(name: str) -> bool:
    return bool(name) and all(c.isascii() and (c.isalnum() or c in "!#$%&'*+-.^_`|~") for c in name)


def _not_json(value: object) -> str | None:
    match value:
        case None | bool() | int() | str():
            return None
        case float():
            return None if math.isfinite(value) else str(value)
        case list() | tuple():
            return next((wrong for one in value if (wrong := _not_json(one))), None)
        case Mapping():
            return next((wrong for one in value.values() if (wrong := _not_json(one))), None)
    return f"a {type(value).__name__}"


class ImagesSection(Section):
    """What an image may be, and what is done to it before it is sent."""

    max_bytes: Count = 10 * 1024 * 1024
    max_side: Count | None = None
    max_pixels: Count = 100_000_000
    strip_metadata: Flag = False
    allow_private_hosts: Flag = False
    background: Literal["auto", "white", "black"] = "auto"
    page: Annotated[Literal["first", "all"] | int, BeforeValidator(_page)] = "first"


class DeliverySection(Section):
    """How requests travel."""

    lane: Literal["online", "deferred", "batch", "auto"] = "online"
    stream: Flag = False
    max_ticket_wait_seconds: Amount = 86_400
    max_open_tickets: Count = 10_000

    @property
    def lane_used(self) -> Lane:
        """``auto`` is the online lane until there are prices and deadlines to choose by."""
        return Lane.ONLINE if self.lane == "auto" else Lane(self.lane)


def _kinds(value: object) -> object:
    """``unpaid``, ``all``, ``none``, or kinds as a list or as text with commas."""
    if isinstance(value, str) and value not in ("unpaid", "all", "none"):
        value = [part.strip() for part in value.split(",")]
    if isinstance(value, list | tuple):
        for kind in value:
            if not isinstance(kind, str) or kind not in ROW_FAULTS:
                raise ValueError(f"{kind!r} is no kind of failure; there are unpaid, all, none and {_all_kinds()}")
        return tuple(value)
    return value


def _all_kinds() -> str:
    return ", ".join(ROW_FAULTS)


class LimitsSection(Section):
    """How fast, how long, how dear, and how much may fail. Rates that are absent are learned from the provider."""

    requests_per_minute: Amount | None = None
    requests_per_second: Amount | None = None
    tokens_per_minute: Amount | None = None
    concurrency: Count = 256
    max_attempts: Count = 5
    request_timeout_seconds: Amount = 600
    max_runtime_seconds: Amount | None = None
    max_cost_usd: Money | None = None
    max_cost_usd_per_run: Money | None = None
    max_cost_usd_per_day: Money | None = None
    max_cost_usd_per_month: Money | None = None
    max_failed: RowShare = Share(None, Fraction(1, 5))
    failed_ok: RowShare = Share(None, Fraction(0))
    retry_failed: Annotated[Literal["unpaid", "all", "none"] | tuple[str, ...], BeforeValidator(_kinds)] = "unpaid"
    quarantine_after_runs: Count = 5
    ambiguous: Literal["retry", "hold"] = "retry"
    max_outage_seconds: Amount = 7_200
    deduplicate: Flag = True

    @property
    def retry_kinds(self) -> frozenset[str]:
        """The kinds of failed rows that a rerun tries again."""
        match self.retry_failed:
            case "unpaid":
                return frozenset(ROW_FAULTS) - PAID_FAILURES
            case "all":
                return frozenset(ROW_FAULTS)
            case "none":
                return frozenset()
            case kinds:
                return frozenset(kinds)


class OutputSection(Section):
    """Where answers go."""

    path: Text
    keep_raw_answers: Flag = True
    keep_reasoning: Flag = False
    on_recipe_change: Literal["refuse", "redo", "new_rows_only"] = "refuse"


def zone(name: str) -> str:
    """``name`` if it is a time zone. Raises ValueError."""
    if name == "UTC":  # known without a time zone database
        return name
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError("it is no time zone; write a name such as UTC or Europe/Zurich") from None
    return name


def job_name(name: str) -> str:
    """``name`` if it can stand in a column and in a message. Raises ValueError."""
    if not name.isprintable() or len(name) > 200:
        raise ValueError("a job's name is one line of at most 200 characters")
    return name


JobName = Annotated[Text, BeforeValidator(lambda v: job_name(v) if isinstance(v, str) else v)]
Zone = Annotated[Text, BeforeValidator(lambda v: zone(v) if isinstance(v, str) else v)]

SECTIONS: dict[str, type[Section]] = {
    "manifest": ManifestSection,
    "prompt": PromptSection,
    "answer": AnswerSection,
    "provider": ProviderSection,
    "images": ImagesSection,
    "delivery": DeliverySection,
    "limits": LimitsSection,
    "output": OutputSection,
}


def key_of(name: str, field: Any) -> str:
    """A field's name in the job file."""
    return field.alias or name


def keys_of(section: type[BaseModel]) -> tuple[str, ...]:
    return tuple(key_of(name, field) for name, field in section.model_fields.items())
