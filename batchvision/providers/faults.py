"""Turn a provider's error into an exception: read the facts in any known shape, classify them, write the message.

``rules`` decides the class. The message holds the provider's words and, where the run stops, the next step.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from batchvision.errors import (
    AuthenticationFailed,
    BatchvisionError,
    ImageTooLarge,
    ModelNotFound,
    OutOfCredit,
    ProviderRefuses,
    QuotaReached,
    RateLimited,
    RequestRejected,
    Transient,
)
from batchvision.providers import signs, wire
from batchvision.providers.rules import FLEX_CAPACITY, GRPC_NAMES, ZERO_LIMIT, Facts, classify
from batchvision.records import RawAnswer

#: Characters of an error text that are read.
_MOST_TEXT = 4000


class Voice(NamedTuple):
    """The provider's name in messages, and the places of the key and the account.

    ``key_source``: the variable, file or command that the job's key comes from.
    """

    name: str
    key_source: str | None = None
    account_url: str | None = None


# ---------------------------------------------------------------------------------- from any shape


def from_answer(raw: RawAnswer, document: wire.Document, voice: Voice) -> BatchvisionError:
    """The error of an answer whose status is not 2xx."""
    error = _error_object(document)
    return _error(_facts(raw, raw.status, error, error_text(document)), raw, voice, is_own_shape(document))


def from_document(raw: RawAnswer, document: wire.Document, voice: Voice) -> BatchvisionError:
    """The error in a 2xx body; its own code stands for the status."""
    error = _error_object(document)
    return _error(_facts(raw, _status_in(error), error, error_text(document)), raw, voice, is_own_shape(document))


def unwrapped(value: Any) -> Any:
    """``value`` without the list of one that Gemini wraps around errors."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def is_own_shape(document: wire.Document) -> bool:
    """Whether a body is an error as providers write it. Firewalls and gateways write pages, or ``{"message": ...}``
    alone."""
    body = wire.mapping(unwrapped(document.value))
    error = body.get("error")
    if isinstance(error, dict):
        return any(isinstance(error.get(name), str) for name in ("message", "code", "type", "status"))
    has_code = isinstance(body.get("code"), str | int)
    return (isinstance(error, str) and has_code) or body.get("object") == "error" or (has_code and "message" in body)


def error_text(document: wire.Document) -> str:
    """The error text of a body."""
    value = unwrapped(document.value)
    if not isinstance(value, dict):
        return document.problem if document.problem == "an HTML page" else document.text or _brief_json(value or "")
    error = value.get("error")
    nested = wire.mapping(error)
    words = [
        place for place in (nested.get("message"), error, value.get("message"), value.get("error_message")) if place
    ]
    first = next((place for place in words if isinstance(place, str)), None)
    if first is None:
        detail = value.get("detail") or error or value
        first = detail if isinstance(detail, str) else _brief_json(detail)
    upstream = wire.mapping(nested.get("metadata")).get("raw")
    return f"{first[:_MOST_TEXT]} ({_brief_json(upstream)[:_MOST_TEXT]})" if upstream else first[:_MOST_TEXT]


def _brief_json(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, default=str, ensure_ascii=False)[:2000]
    except RecursionError:
        return "an error nested too deep"


def _error_object(document: wire.Document) -> dict[str, Any]:
    """The error as one object, for ``{"code", "error": "text"}`` and ``{"code", "message"}`` too."""
    value = unwrapped(document.value)
    body = value if isinstance(value, dict) else {}
    error = body.get("error")
    if isinstance(error, dict):
        return {"code": body.get("code"), **error}
    return body


def _facts(raw: RawAnswer, status: int | None, error: dict[str, Any], message: str) -> Facts:
    availability = wire.mapping(error.get("availability"))
    retryable = availability.get("retryable")
    codes = {*_codes(error)}
    if raw.status == 429 and (_ZERO.search(message) or signs.names_zero_limit(raw)):
        codes.add(ZERO_LIMIT)
    return Facts(
        status=status,
        codes=frozenset(codes),
        message=message,
        retryable=retryable if isinstance(retryable, bool) else None,
        retry_after_seconds=signs.retry_after_seconds(raw, error) or signs.body_retry_seconds(error, raw.received_at),
    )


def _codes(error: dict[str, Any]) -> Iterator[str]:
    """Every code in an error. OpenRouter adds ``metadata.error_type``, the upstream's code, and moderation flags."""
    metadata = wire.mapping(error.get("metadata"))
    named = (error.get("code"), error.get("type"), error.get("status"), metadata.get("error_type"))
    for code in (*named, metadata.get("provider_code"), wire.mapping(error.get("availability")).get("code")):
        if isinstance(code, str):
            yield re.sub(r"[^a-z0-9]+", "_", code[:100].lower()).strip("_")
        elif isinstance(code, int) and 0 < code < len(GRPC_NAMES):
            yield GRPC_NAMES[code]
    if metadata.get("flagged_input") or metadata.get("reasons"):
        yield "flagged"
    for detail in wire.sequence(error.get("details")):
        if "retryDelay" in wire.mapping(detail):
            yield "quota_per_minute"
        for violation in wire.sequence(wire.mapping(detail).get("violations")):
            is_of_a_day = "PerDay" in str(wire.mapping(violation).get("quotaId"))
            yield "quota_per_day" if is_of_a_day else "quota_per_minute"


#: "limit: 0" as Gemini and OpenAI write it, "(actual/limit): 5/0" as xAI does.
_ZERO = re.compile(r"\blimit:? ?0(?![\d.,]*\d)|\(actual/limit\):\s*[\d.,]+\s*/\s*0(?![\d.,]*\d)", re.IGNORECASE)


def _status_in(error: Mapping[str, Any]) -> int | None:
    code = error.get("code")
    if isinstance(code, str) and re.fullmatch(r"[345]\d\d", code):
        return int(code)
    return code if isinstance(code, int) and 300 <= code < 600 else None


# ---------------------------------------------------------------------------------- the message

#: Key, credit, and a proxy that wants a password: these never concern one row.
_ALWAYS_OF_THE_RUN = frozenset({401, 402, 407})

_QUOTA_STEP = "run again when the quota is renewed: open rows are still pending"
_NEXT_STEP: dict[type[BatchvisionError], str] = {
    AuthenticationFailed: "check {key}; `batchvision check JOB` tests it",
    OutOfCredit: "add credit or raise the spending limit{account}, then run the job again: open rows are still pending",
    ModelNotFound: "check provider.model and provider.base_url; `batchvision models --provider {name}` lists models",
    ImageTooLarge: "lower images.max_bytes or images.max_side",
    QuotaReached: _QUOTA_STEP,
}
_ZERO_STEP = (
    "the account may send nothing to this model: choose another model, or raise the account's limit{account}, then run "
    "the job again"
)


def _error(facts: Facts, raw: RawAnswer, voice: Voice, is_own_shape: bool) -> BatchvisionError:
    of, by_words = classify(facts)
    what, step = _message(of, facts, raw, voice)
    if issubclass(of, ProviderRefuses):
        is_believed = by_words and is_own_shape and raw.status < 500
        return of(what, next_step=step, is_certain=is_believed or raw.status in _ALWAYS_OF_THE_RUN)
    if issubclass(of, RateLimited):
        per_second, tokens_per_minute = stated_limits(facts.message)
        wait, words = facts.retry_after_seconds, " ".join((facts.message, *facts.codes))
        if wait is None and _OF_A_LONG_TIME.search(facts.message):
            return QuotaReached(what, next_step=_QUOTA_STEP)
        if wait is not None and wait >= _LONG_WAIT_SECONDS:
            what += f"; it asks to wait until {raw.received_at + timedelta(seconds=wait):%Y-%m-%d %H:%M} UTC"
        return RateLimited(
            what,
            retry_after_seconds=facts.retry_after_seconds,
            limit_per_second=per_second,
            limit_tokens_per_minute=tokens_per_minute,
            is_capacity=raw.status == FLEX_CAPACITY or _OF_CAPACITY.search(words) is not None,
        )
    if issubclass(of, Transient):
        return of(what, retry_after_seconds=facts.retry_after_seconds)
    return of(what, next_step=step)


#: Names of the field, of its values, and of the features behind it. OpenRouter names no field: with a schema, the
#: request asks for providers that take all parameters.
_OF_RESPONSE_FORMAT = re.compile(
    r"response[_ ]?format|json[_ ]?schema|json[_ ]?object|json[_ ]mode|structured[_ ]?(?:output|generation)"
    r"|guided[_ ](?:json|decoding|generation)|\bgrammar|(?:handle|support) the requested parameters",
    re.IGNORECASE,
)


def names_response_format(words: str) -> bool:
    """Whether an error is about ``response_format``."""
    return _OF_RESPONSE_FORMAT.search(words) is not None


#: Quotas of a day and longer: waiting a minute does not renew them.
_OF_A_LONG_TIME = re.compile(
    r"\bper[ -](?:day|week|month)\b|\bRPD\b|\bTPD\b|\b(?:daily|weekly|monthly)\b", re.IGNORECASE
)
#: OpenAI's 429 under ``service_tier = "flex"``, and words of gateways for it.
_OF_CAPACITY = re.compile(
    r"\bresource[ _]unavailable|\bflex\b.{0,60}?\bcapacity|\bcapacity\b.{0,60}?\bflex\b", re.IGNORECASE
)
#: Waits from this length on are named in the message.
_LONG_WAIT_SECONDS = 60.0


def _message(of: type[BatchvisionError], facts: Facts, raw: RawAnswer, voice: Voice) -> tuple[str, str | None]:
    """The provider's words, and the next step."""
    words = wire.presentable(facts.message) or "no reason given"
    what = f"{voice.name} answered {raw.status}: {words}"
    step = _ZERO_STEP if ZERO_LIMIT in facts.codes and of is OutOfCredit else _NEXT_STEP.get(of)
    if 300 <= raw.status < 400:
        target = wire.presentable(raw.headers.get("location", ""))
        what = f"{voice.name} answered {raw.status}, a redirect" + (f" to {target}" if target else "")
        step = "check provider.base_url (https? does it end in /v1?)"
    if issubclass(of, RequestRejected) and names_response_format(words):
        step = "set provider.response_format to another form"
    if step is None:
        return what, None
    key = voice.key_source or "the key"
    account = f" at {voice.account_url}" if voice.account_url else ""
    what = what if what.endswith("...") else what.rstrip(".")
    return what, step.format(key=key, account=account, name=voice.name)


_ACTUAL_AND_LIMIT = re.compile(
    r"(requests|tokens) per (second|minute|hour)\s*\(actual/limit\):\s*[\d.,]{1,20}\s*/\s*([\d.,]{1,20})",
    re.IGNORECASE,
)
_OPENAI_LIMIT = re.compile(
    r"\bon (requests|tokens) per (second|minute|min|hour)\b[^:]{0,40}:\s*limit:?\s*([\d.,]{1,20})", re.IGNORECASE
)
_SECONDS = {"second": 1, "min": 60, "minute": 60, "hour": 3600}


def stated_limits(message: str) -> tuple[float | None, float | None]:
    """The limits in the text of a 429: requests a second, tokens a minute."""
    per_second: float | None = None
    tokens_per_minute: float | None = None
    for pattern in (_ACTUAL_AND_LIMIT, _OPENAI_LIMIT):
        for counted, unit, number in pattern.findall(message):
            limit = _number(number)
            if limit and counted.lower() == "requests":
                per_second = limit / _SECONDS[unit.lower()]
            elif limit:
                tokens_per_minute = limit * 60 / _SECONDS[unit.lower()]
    return per_second, tokens_per_minute


def _number(text: str) -> float:
    digits = text.replace(",", "").rstrip(".")
    return float(digits) if re.fullmatch(r"\d{1,15}(?:\.\d{0,6})?", digits) else 0.0
