"""Faults on demand: the kinds of faults, and the choice of a fault for a request. No I/O.

A fault depends only on markers, content, the number of the try and the seed. Time and the order of requests do not
matter, so a rehearsal can be repeated.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, TypeVar

_Key = TypeVar("_Key")


class Stage(StrEnum):
    """The stage of a request that a fault hits. A deferred request meets REQUEST and SUBMIT at submission, POLL at each
    poll, ANSWER and BYTES at the poll that collects the answer."""

    REQUEST = "request"  #: refused before generation, not billed
    ANSWER = "answer"  #: generated and billed, with an unusable answer
    BYTES = "bytes"  #: generated and billed, but broken on the way
    STREAM = "stream"  #: like BYTES, for streams only
    SUBMIT = "submit"  #: deferred requests only: the ticket
    POLL = "poll"  #: deferred requests only: each poll, ready or not
    VALIDATION = "validation"  #: requests of a batch only: their line in the input file
    LINE = "line"  #: requests of a batch only: their line in the results
    CALL = "call"  #: calls about files and batches; the marker is in the file's name or the batch's name or metadata


class FaultKind(StrEnum):
    """A fault: its word in markers and options, its stage, and what happens."""

    stage: Stage
    sentence: str

    def __new__(cls, word: str, stage: Stage, sentence: str) -> FaultKind:
        member = str.__new__(cls, word)
        member._value_ = word
        member.stage = stage
        member.sentence = sentence
        return member

    # refused, not billed
    REJECTED = "rejected", Stage.REQUEST, "400: the request is wrong for good."
    BAD_KEY = "bad_key", Stage.REQUEST, "The key is refused: 400 at xAI, 401 elsewhere."
    UNAUTHORIZED = "unauthorized", Stage.REQUEST, "401: no valid authorization."
    FORBIDDEN = "forbidden", Stage.REQUEST, "403: the key lacks the permission."
    SAFETY = "safety", Stage.REQUEST, "403 for this row's content (OpenAI: 400), found before generation."
    CREDIT = "credit", Stage.REQUEST, "No credit left: 403 at xAI, 402 at OpenRouter, 429 at OpenAI."
    CREDIT_429 = "credit_429", Stage.REQUEST, "No credit left, sent as 429 with the text of xAI's 403."
    PAYMENT_REQUIRED = "payment_required", Stage.REQUEST, "402: no credit left."
    MODEL_NOT_FOUND = "model_not_found", Stage.REQUEST, "Unknown model: 400 at xAI and OpenRouter, 404 at OpenAI."
    NOT_FOUND = "not_found", Stage.REQUEST, "404: nothing is served here."
    REQUEST_TIMEOUT = "request_timeout", Stage.REQUEST, "408: the server waited too long for the request."
    CONFLICT = "conflict", Stage.REQUEST, "409: something else is being done with the same thing."
    PAYLOAD_TOO_LARGE = "payload_too_large", Stage.REQUEST, "413: the body is too large."
    UNPROCESSABLE = "unprocessable", Stage.REQUEST, "422: a field has the wrong type."
    CONTEXT_TOO_LONG = "context_too_long", Stage.REQUEST, "400: more tokens than the model's context holds."
    INVALID_IMAGE = "invalid_image", Stage.REQUEST, "400: the image cannot be decoded."
    IMAGE_DOWNLOAD_FAILED = (
        "image_download_failed",
        Stage.REQUEST,
        "400: an image URL could not be fetched; only hits requests that hand over URLs.",
    )
    RATE_LIMITED = "rate_limited", Stage.REQUEST, "429 with xAI's (actual/limit) text and no Retry-After."
    RATE_LIMITED_SECONDS = "rate_limited_seconds", Stage.REQUEST, "429 with Retry-After in seconds."
    RATE_LIMITED_MS = "rate_limited_ms", Stage.REQUEST, "429 with retry-after-ms."
    RATE_LIMITED_DATE = "rate_limited_date", Stage.REQUEST, "429 with Retry-After as an HTTP date."
    TOKENS_LIMITED = "tokens_limited", Stage.REQUEST, "429: tokens a minute, with xAI's (actual/limit) text."
    RESOURCE_UNAVAILABLE = (
        "resource_unavailable",
        Stage.REQUEST,
        "429: no capacity for the service tier; only hits requests with a tier.",
    )
    SERVER_ERROR = "server_error", Stage.REQUEST, "500."
    BAD_GATEWAY = "bad_gateway", Stage.REQUEST, "502: the upstream provider failed."
    UNAVAILABLE = "unavailable", Stage.REQUEST, "503: overloaded."
    GATEWAY_TIMEOUT = "gateway_timeout", Stage.REQUEST, "504: the upstream provider was too slow."
    ORIGIN_TIMEOUT = "origin_timeout", Stage.REQUEST, "524 as a proxy says it: an HTML page."
    OVERLOADED = "overloaded", Stage.REQUEST, "529: overloaded."
    ERROR_IN_200 = "error_in_200", Stage.REQUEST, "200 whose body is an error and no answer."
    RESET_BEFORE = "reset_before", Stage.REQUEST, "The connection is reset before anything was generated."
    # billed, with an unusable answer
    CHOICE_ERROR = "choice_error", Stage.ANSWER, "200 with choices[0].error beside partial content; free of charge."
    EMPTY = "empty", Stage.ANSWER, "The content is an empty text."
    WHITESPACE = "whitespace", Stage.ANSWER, "The content is blank."
    REASONING_ONLY = "reasoning_only", Stage.ANSWER, "The content is null, all tokens went into reasoning."
    LENGTH = "length", Stage.ANSWER, "Cut at half with finish_reason length."
    CONTENT_FILTER = "content_filter", Stage.ANSWER, "Cut short with finish_reason content_filter."
    REFUSAL = "refusal", Stage.ANSWER, "message.refusal instead of content."
    FINISH_MISSING = "finish_missing", Stage.ANSWER, "A whole answer whose finish_reason is an empty text."
    LEADING_BLANK_LINES = "leading_blank_lines", Stage.ANSWER, "A good answer after a few blank lines."
    FENCED = "fenced", Stage.ANSWER, "A good answer inside a ```json fence."
    INVALID_ANSWER = "invalid_answer", Stage.ANSWER, "Valid JSON that does not fit the schema."
    NOT_JSON = "not_json", Stage.ANSWER, "Prose where JSON was asked for."
    TIER_DEFAULT = "tier_default", Stage.ANSWER, "Answered and billed under the tier default, whatever tier was asked."
    NO_USAGE = "no_usage", Stage.ANSWER, "A good answer without usage; billed all the same."
    # billed, but broken on the way
    HTML = "html", Stage.BYTES, "200 with a proxy's HTML page in place of the answer."
    HALF_BODY = "half_body", Stage.BYTES, "Content-Length announces the whole body, the connection closes at half."
    CUT_CHUNKED = "cut_chunked", Stage.BYTES, "A chunked body whose connection closes without the last chunk."
    SILENT_CUT = "silent_cut", Stage.BYTES, "Half a body that ends with the connection: no length, no chunks, no sign."
    RESET_AFTER = "reset_after", Stage.BYTES, "Reset when the answer is ready (deferred: at the poll)."
    SLOW_START = "slow_start", Stage.BYTES, "slow_seconds pass before the status line."
    SLOW_BODY = "slow_body", Stage.BYTES, "The body drips in over slow_seconds."
    HANG = "hang", Stage.BYTES, "Nothing ever comes back, until the client or the emulator leaves."
    STREAM_CUT = "stream_cut", Stage.STREAM, "The stream ends mid-way, without usage and [DONE]."
    STREAM_ERROR = "stream_error", Stage.STREAM, "An error chunk ends the stream mid-way."
    # deferred
    SUBMIT_RESET = "submit_reset", Stage.SUBMIT, "Accepted, but reset before the ticket is told."
    TICKET_SLOW = "ticket_slow", Stage.SUBMIT, "The ticket takes slow_seconds longer."
    POLL_ERROR = "poll_error", Stage.POLL, "A poll is answered 500; the ticket stays."
    POLL_RATE_LIMITED = "poll_rate_limited", Stage.POLL, "A poll is answered 429; the ticket stays."
    TICKET_LOST = "ticket_lost", Stage.POLL, "A poll is answered 404, the ticket is gone."
    TICKET_FAILED = "ticket_failed", Stage.POLL, "A poll is answered 400: the accepted work has failed."
    # batches
    BAD_LINE = "bad_line", Stage.VALIDATION, "The line is invalid, and so the whole batch fails validation."
    LINE_GARBLED = "line_garbled", Stage.LINE, "Generated and billed, but the line of the result is undecodable."
    LINE_MISSING = "line_missing", Stage.LINE, "Neither an answer nor an error comes back for the line."
    UPLOAD_RESET = "upload_reset", Stage.CALL, "The file is stored, but the connection is reset before its id is sent."
    CREATE_RESET = (
        "create_reset",
        Stage.CALL,
        "The batch is created, but the connection is reset before its id is sent.",
    )
    ADD_RESET = "add_reset", Stage.CALL, "The requests are added, but the connection is reset before the answer."
    RESULTS_CUT = "results_cut", Stage.CALL, "Results break off at half: Content-Length announces the whole."
    CALL_ERROR = "call_error", Stage.CALL, "503 before anything happened."
    CALL_THROTTLED = "call_throttled", Stage.CALL, "429 before anything happened."

    @classmethod
    def named(cls, word: str) -> FaultKind:
        """The kind of a word or an HTTP status. Raises ValueError with the most similar word."""
        plain = word.strip().lower().replace("-", "_")
        kinds = {str(kind): kind for kind in cls}
        kind = kinds.get(_BY_STATUS.get(plain, plain))
        if kind is None:
            near = difflib.get_close_matches(plain, kinds, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(kinds)}"
            raise ValueError(f"{word!r} is no fault the emulator knows; {hint}")
        return kind


_BY_STATUS = {
    "400": "rejected",
    "401": "unauthorized",
    "402": "payment_required",
    "403": "safety",
    "404": "not_found",
    "408": "request_timeout",
    "409": "conflict",
    "413": "payload_too_large",
    "422": "unprocessable",
    "429": "rate_limited",
    "500": "server_error",
    "502": "bad_gateway",
    "503": "unavailable",
    "504": "gateway_timeout",
    "524": "origin_timeout",
    "529": "overloaded",
}

#: Stages of a request by its kind.
ONLINE = frozenset({Stage.REQUEST, Stage.ANSWER, Stage.BYTES})
STREAMED = ONLINE | {Stage.STREAM}
SUBMITTED = ONLINE | {Stage.SUBMIT}
POLLED = frozenset({Stage.POLL})
VALIDATED = frozenset({Stage.VALIDATION})
BATCHED = frozenset({Stage.REQUEST, Stage.ANSWER, Stage.LINE})
CALLED = frozenset({Stage.CALL})

_MARKER = re.compile(r"\[\[fault:([A-Za-z0-9_-]+)(?::(\d+))?\]\]")
_ECHO = re.compile(r"\[\[echo:([^\[\]]*)\]\]")
#: Requests whose tries are counted. Beyond this number counting starts again.
_MEMORY = 1_000_000


class FaultMarker(NamedTuple):
    """``[[fault:KIND:N]]`` in a text. ``times`` is ``None`` without N."""

    kind: FaultKind
    times: int | None


def read_markers(text: str) -> tuple[FaultMarker, ...]:
    """All fault markers of a text, in order. Raises ValueError for an unknown kind."""
    return tuple(
        FaultMarker(FaultKind.named(word), int(times) if times else None) for word, times in _MARKER.findall(text)
    )


def read_echo(text: str) -> str:
    """The tokens of all echo markers, joined by spaces."""
    return " ".join(_ECHO.findall(text))


def without_markers(text: str) -> str:
    """The text without markers, with white space collapsed."""
    return " ".join(_ECHO.sub(" ", _MARKER.sub(" ", text)).split())


class FaultPicker:
    """Picks the fault of each try. Counts how often each marker applied and how often each request was tried."""

    def __init__(self, rates: Mapping[str, float], seed: int) -> None:
        self.rates = {FaultKind.named(word): rate for word, rate in rates.items()}
        self.seed = seed
        self._fired: dict[tuple[int, int], int] = {}
        self._throws: dict[tuple[int, bool], int] = {}

    def pick(
        self,
        content_hash: int,
        markers: Sequence[FaultMarker],
        stages: Collection[Stage],
        without: Collection[FaultKind] = (),
    ) -> FaultKind | None:
        """The fault of this try. A marker comes before the rates. With N it applies N times to one request."""
        for place, marker in enumerate(markers):
            if marker.kind.stage in stages and marker.kind not in without and self._fires(content_hash, place, marker):
                return marker.kind
        return self._thrown(content_hash, stages, without) if self.rates else None

    def _fires(self, content_hash: int, place: int, marker: FaultMarker) -> bool:
        if marker.times is None:
            return True
        fired = self._fired.get((content_hash, place), 0)
        if fired >= marker.times:
            return False
        _count(self._fired, (content_hash, place))
        return True

    def _thrown(self, content_hash: int, stages: Collection[Stage], without: Collection[FaultKind]) -> FaultKind | None:
        polled = Stage.POLL in stages
        throw = _count(self._throws, (content_hash, polled))
        dice = hashlib.blake2b(f"{self.seed}|{content_hash}|{polled}|{throw}".encode(), digest_size=8).digest()
        left = int.from_bytes(dice, "big") / 2**64
        for kind, rate in self.rates.items():
            if kind.stage in stages and kind not in without:
                left -= rate
                if left < 0:
                    return kind
        return None


def _count(counts: dict[_Key, int], key: _Key) -> int:
    if len(counts) >= _MEMORY and key not in counts:
        counts.clear()
    counts[key] = counts.get(key, 0) + 1
    return counts[key]
