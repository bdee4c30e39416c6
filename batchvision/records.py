"""The nouns of batchvision: frozen values that pass between rooms. No I/O, no behaviour beyond what is derived.

In the order of a row's night: Row -> Request -> Intent (durable) -> RawAnswer (durable) -> Answer -> Attempt, Outcome.
Times are aware UTC datetimes; money is integer ticks (1 USD = 10^10 ticks); tokens are integers or None (unknown).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from batchvision.secrets import Secret

TICKS_PER_USD = 10_000_000_000

#: A kept cell: what JSON can hold. Dates, decimals, binaries travel as text; the column's Arrow type tells.
Cell = str | int | float | bool | None
JsonObject = Mapping[str, Any]


class Lane(StrEnum):
    """How requests travel."""

    ONLINE = "online"  #: ask and wait for the answer
    DEFERRED = "deferred"  #: hand in, poll for the answer, read it once
    BATCH = "batch"  #: hand in thousands, read them when the provider is done


class Purpose(StrEnum):
    """Why a run asks. Another purpose than RUN ends the run's id, so that each line of the ledger tells it."""

    RUN = "run"  #: what is to do
    PILOT = "pilot"  #: rows of all sizes, to know what the rest will cost; kept like any others
    SWEEP = "sweep"  #: rows again under another setting, to compare: in the ledger, and nowhere else

    def mark(self, run_id: str) -> str:
        return run_id if self is Purpose.RUN else f"{run_id}-{self.value}"

    def has_made(self, run_id: str) -> bool:
        return run_id.endswith(f"-{self.value}")


class ImageKind(StrEnum):
    """Where the bytes of an image are."""

    PATH = "path"  #: a local file, relative to the manifest's root or absolute
    URL = "url"  #: http or https
    DATA = "data"  #: a data: URI in the cell
    BYTES = "bytes"  #: a binary cell
    UNSUPPORTED = "unsupported"  #: s3:// and other schemes: an error of that row


# ---------------------------------------------------------------------------------- what is asked


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One image as the manifest names it. ``reference``: path, URL or data URI (for BYTES: the struct's path, or "").

    ``slot`` is the column it came from, for ``{image:slot}``. ``version`` is the cell of ``image_version``, if any.
    """

    kind: ImageKind
    reference: str
    slot: str
    content: bytes | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One manifest row that is to be asked. ``text`` is the rendered user prompt; where an image is placed inside it
    stands ``\\x00slot\\x00`` (``\\x00\\x00`` for a plain ``{image}``): no cell can hold a NUL.

    ``problem`` set: the row is ``row_invalid`` for that reason and nothing of it is sent.
    ``position`` is the row's 1-based number in the manifest, for messages.
    """

    position: int
    row_id: str
    text: str
    images: tuple[ImageRef, ...]
    keep: tuple[Cell, ...]
    skip_key: str
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """A few-shot turn: what a user might ask, and the answer we would like."""

    user: str
    images: tuple[str, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Label:
    """One allowed answer, with the sentence that explains it to the model."""

    value: str
    description: str | None = None


@dataclass(frozen=True, slots=True)
class AnswerSpec:
    """What an answer must look like. ``schema`` is the JSON schema as sent (None: plain text)."""

    schema: JsonObject | None = None
    labels: tuple[Label, ...] = ()
    labels_many: bool = False
    labels_confidence: bool = False
    labels_fallback: str | None = None
    #: what arriving answers are checked against: ``schema`` with the user's own limits (None: ``schema`` itself)
    check_schema: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class ImagePreparation:
    """What is done to an image before it is sent (``[images]`` of the job)."""

    max_bytes: int = 10 * 1024 * 1024
    max_side: int | None = None
    max_pixels: int = 100_000_000
    strip_metadata: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """All of a job that decides its answers; ``recipe_id`` is the hash of :meth:`document`."""

    provider: str
    model: str
    system: str | None
    user: str | None  #: the template; None when ``user_column`` is sent verbatim
    user_column: str | None
    parameters: JsonObject = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    #: sha256 of the examples' image files, in order: their bytes decide answers too
    example_image_sha256: tuple[str, ...] = ()
    answer: AnswerSpec = field(default_factory=AnswerSpec)
    images_first: bool = False
    detail: str = "auto"
    images: ImagePreparation = field(default_factory=ImagePreparation)
    recipe_id: str = ""


#: Width and height in pixels, where known.
ImageSize = tuple[int | None, int | None]


class Estimate(NamedTuple):
    """What a request will probably, and at most, need. Ticks are None where no price is known.

    ``tokens`` are all; of them ``output_tokens`` are the answer's, and ``cached_tokens`` are read from the provider's
    cache. ``text_tokens`` and ``sizes`` (of its images) are what it was made of: an answer's usage is compared with it.
    """

    tokens: int
    likely_ticks: int | None
    bound_ticks: int | None
    output_tokens: int = 0
    cached_tokens: int = 0
    text_tokens: int = 0
    sizes: tuple[ImageSize, ...] = ()


@dataclass(frozen=True, slots=True)
class Payload:
    """One image ready to be placed in a request: either a URL handed over as is, or checked bytes.

    ``identity`` enters the request_key; ``sha256`` is of the source bytes (None for a URL handed over);
    ``reference`` is the image ref as it may be shown and stored (redacted, no data URIs, no signatures).
    """

    identity: str
    reference: str
    slot: str
    sha256: str | None
    url: str | None = None
    content: bytes | None = None
    media_type: str | None = None
    width: int | None = None
    height: int | None = None


class Tries(NamedTuple):
    """How often this request has been tried in this run, the attempt under way included."""

    spent: int = 1  #: attempts that count toward limits.max_attempts
    unspent: int = 0  #: 429s and failed connects before this one
    empties: int = 0  #: empty answers so far
    raised: bool = False  #: max_tokens has been raised once
    downloads: int = 0  #: image URLs the provider failed to download so far
    probe: bool = False  #: sent while the provider seems away: a failure on its side spends no attempt


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for one row, ready to travel: ``messages`` is the JSON array of chat messages, as bytes."""

    row_id: str
    request_key: str
    skip_key: str
    messages: bytes
    image_ref: tuple[str, ...]
    image_sha256: tuple[str | None, ...]
    keep: tuple[Cell, ...]
    estimate: Estimate
    attempts_before: int = 0  #: ledger attempts of this request in earlier runs
    cost_before_ticks: int = 0  #: what those cost
    runs_failed: int = 0  #: consecutive runs in which the row failed, before this one
    has_urls: bool = False  #: an image travels as a URL, so that inlining it is left to try
    raised_estimate: Estimate | None = None  #: for the one retry with a larger max_tokens, where the job allows it
    credentials: tuple[Secret, ...] = ()  #: of the image URLs handed over: masked in whatever comes back


# ---------------------------------------------------------------------------------- what is durable


@dataclass(frozen=True, slots=True)
class Intent:
    """Durable before a request is sent; carries all that its result row needs, without the image.

    ``exchange_id`` is unique in the output. ``attempt`` is the 1-based number in the ledger of this request_key.
    """

    exchange_id: str
    row_id: str
    request_key: str
    recipe_id: str
    skip_key: str
    run_id: str
    lane: Lane
    provider: str
    model_requested: str
    attempt: int
    tries: Tries
    bound_ticks: int | None
    cost_before_ticks: int
    runs_failed: int
    sent_at: datetime
    image_ref: tuple[str, ...]
    image_sha256: tuple[str | None, ...]
    keep: Mapping[str, Cell]  #: by output name, so that a later job with other kept columns can still file it
    has_urls: bool = False

    @property
    def is_trial(self) -> bool:
        """Asked to compare settings: it is booked, and its row stays where it is."""
        return Purpose.SWEEP.has_made(self.run_id)


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """What the provider sent, as it came (the key's bytes masked). ``headers``: lower-case names, only the useful ones.

    ``complete`` is False when the body ended before its announced or decodable end.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    received_at: datetime
    complete: bool = True


class EndedWithout(NamedTuple):
    """An exchange that ended without any answer: the ``kind`` of a Transient or RowFault, its message, and when."""

    kind: str
    message: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Exchange:
    """One attempt as the journal knows it. ``answer`` and ``ended`` both None: it is open, and after a crash its
    request may have been answered and billed. ``ticket`` set: the provider has accepted it and can be asked for the
    answer; ``ticket_at`` is when it did.
    """

    intent: Intent
    ticket: str | None = None
    ticket_at: datetime | None = None
    answer: RawAnswer | None = None
    ended: EndedWithout | None = None


# ---------------------------------------------------------------------------------- what came back


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and money of one answer, normalised: ``completion_tokens`` never includes ``reasoning_tokens``."""

    prompt_tokens: int | None = None
    image_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_ticks: int | None = None
    cost_source: str = "unknown"  #: reported | computed | shared | cached | unknown

    @property
    def total_tokens(self) -> int | None:
        """What counts toward a tokens-a-minute limit: prompt (images and cached included), completion, reasoning."""
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return self.prompt_tokens + self.completion_tokens + (self.reasoning_tokens or 0)


@dataclass(frozen=True, slots=True)
class Answer:
    """A provider's answer, read. ``text`` is the content verbatim ("" if there was none).

    Where reading ends in an error that still has an answer beside it (refused, truncated, a choice-level error), the
    facts known so far are kept here and the error travels beside it (see ``providers.base.Reading``).
    """

    text: str = ""
    finish_reason: str | None = None
    usage: Usage = field(default_factory=Usage)
    model: str | None = None
    upstream_provider: str | None = None
    provider_request_id: str | None = None
    system_fingerprint: str | None = None
    service_tier: str | None = None


class AttemptState(StrEnum):
    """How one attempt ended."""

    OK = "ok"  #: its answer completed the row
    RETRIED = "retried"  #: it failed and the row was, or will be, tried again
    FAILED = "failed"  #: it failed and the row with it
    AMBIGUOUS = "ambiguous"  #: its end is unknown; it may have been billed
    LOST_AFTER_READ = "lost_after_read"  #: a one-time answer was read and did not reach us


@dataclass(frozen=True, slots=True)
class Attempt:
    """One row of the attempts ledger."""

    row_id: str
    request_key: str
    recipe_id: str
    attempt: int
    lane: Lane
    state: AttemptState
    http_status: int | None
    error_kind: str | None
    error_message: str | None
    ticket: str | None
    provider: str
    answer: Answer
    bound_ticks: int | None  #: set where no cost is known of what may have been billed: what it cost at most
    sent_at: datetime
    received_at: datetime | None
    run_id: str
    raw_answer: str | None
    keep: Mapping[str, Cell]

    @property
    def latency_ms(self) -> int | None:
        if self.received_at is None:
            return None
        return max(0, round((self.received_at - self.sent_at).total_seconds() * 1000))


@dataclass(frozen=True, slots=True)
class Completed:
    """A row of ``results``. ``answer_columns``: the typed values by column name (``answer_label`` ...)."""

    row_id: str
    request_key: str
    recipe_id: str
    skip_key: str
    output_text: str
    output_json: str | None
    answer: Answer
    answer_columns: Mapping[str, Any]
    provider: str
    model_requested: str
    lane: Lane
    attempt_count: int
    row_cost_ticks: int
    image_ref: tuple[str, ...]
    image_sha256: tuple[str | None, ...]
    started_at: datetime
    finished_at: datetime
    run_id: str
    keep: Mapping[str, Cell]
    updated_at: datetime | None = None  #: None: when it finished; set where an older answer is read again


@dataclass(frozen=True, slots=True)
class Failed:
    """A row of ``failures``. Keys are None where the row never became a request."""

    row_id: str
    request_key: str | None
    skip_key: str
    recipe_id: str
    error_kind: str
    error_message: str
    last_error_kind: str | None
    attempt_count: int
    row_cost_ticks: int
    runs_failed: int
    quarantined: bool
    last_output_text: str | None
    failed_at: datetime
    run_id: str
    keep: Mapping[str, Cell]
    at_provider: bool = False  #: counts toward limits.max_failed (not stored)


Outcome = Completed | Failed


# ---------------------------------------------------------------------------------- what is told


@dataclass(slots=True)
class Counters:
    """What a run has done so far, for progress and the summary. The runner owns it; everybody else reads."""

    rows_total: int = 0
    rows_done_before: int = 0
    rows_completed: int = 0  #: in this run
    rows_failed: int = 0  #: failed now: found in this run, or kept from earlier ones
    rows_failed_at_provider: int = 0
    rows_quarantined: int = 0
    rows_sent: int = 0  #: rows that reached the provider in this run
    rows_to_do: int = 0
    requests_sent: int = 0
    in_flight: int = 0
    retries: int = 0
    tickets_open: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    image_tokens: int = 0
    cached_tokens: int = 0
    cost_ticks: int = 0
    ambiguous_ticks: int = 0
    rows_ambiguous: int = 0
    failures_by_kind: dict[str, int] = field(default_factory=dict)


class PartFile(NamedTuple):
    """One sealed Parquet file, as the summary lists it; ``path`` is relative to the output."""

    table: str
    path: str
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What one run did; written to ``runs/<run_id>.json`` and ``runs/latest.json`` and printed by ``run --json``."""

    run_id: str
    job: str
    recipe_id: str
    manifest: str
    rows_total: int
    rows_completed: int
    rows_failed: int
    rows_pending: int
    rows_ambiguous: int
    rows_quarantined: int
    tickets_open: int
    requests_sent: int
    retries: int
    failures_by_kind: Mapping[str, int]
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    image_tokens: int
    cached_tokens: int
    cost_usd: float  #: for people; cost_ticks is exact
    cost_ticks: int
    ambiguous_ticks: int
    started_at: str
    finished_at: str
    duration_seconds: float
    stop_reason: str | None
    exit_code: int
    parts: tuple[PartFile, ...]
    versions: Mapping[str, str]
    config: JsonObject
    message: str | None = None  #: what stopped the run and what to do next, for people
    command: str = "run"  #: or "reparse", which sends nothing; or another Purpose
    #: of this run: by_state, by_model, by_day, wasted; each name -> attempts, cost_ticks, bound_ticks
    spent: JsonObject = field(default_factory=dict)
