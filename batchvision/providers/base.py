"""A dialect: how requests to one provider are written and its answers read. Sans-IO: bytes in, bytes out, no clock.

Each supported server offers OpenAI's chat completions; a dialect states the differences, mostly as class attributes.
The modules beside this one read: ``wire`` (bytes to document), ``chat`` (document to answer), ``faults`` (error to
exception), ``signs`` (headers to rate limits).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from hashlib import sha256
from typing import Any, ClassVar, NamedTuple, Self
from uuid import UUID
from zlib import crc32

from batchvision.errors import AnswerCutShort, BatchvisionError, ModelNotFound, RateLimited, RowFault
from batchvision.prompt import response_format, schema_instruction, with_final_text
from batchvision.providers import chat, faults, signs, wire
from batchvision.providers.forms import ResponseForm
from batchvision.providers.signs import RateSigns
from batchvision.records import Answer, Lane, RawAnswer, Recipe, Tries
from batchvision.secrets import Secret
from batchvision.ticks import Prices

__all__ = ["Caching", "Dialect", "Gone", "ModelListing", "NotReady", "RateSigns", "Reading", "SendOptions", "TicketEnd"]

#: The retry of a truncated answer multiplies its limit of output tokens by this.
RAISE_FACTOR = 4
#: The limit of that retry where the recipe has no limit.
RAISED_WITHOUT_LIMIT = 16_384
#: Requests in flight that share one conversation id.
REQUESTS_A_CONVERSATION = 16
#: From this try on a cached answer is known to be unusable.
FRESH_FROM_TRY = 3

_MAX_TOKENS_NAMES = ("max_completion_tokens", "max_tokens")
#: Recipes and options whose constant part of the body is kept.
_KEPT_FRAMES = 16

#: Statuses of gateways and of unavailable providers: they leave the state of a ticket unknown.
_OF_GATEWAYS = frozenset({502, 503, 504})


class SendOptions(NamedTuple):
    """Options outside the recipe that change the body. ``max_tokens`` overrides the recipe's own."""

    deferred: bool = False
    stream: bool = False
    max_tokens: int | None = None
    form: ResponseForm = ResponseForm()


class Reading(NamedTuple):
    """A parsed body. With an ``error``, ``answer`` holds the facts that are known anyway (usage, model, ids)."""

    answer: Answer
    error: BatchvisionError | None


class NotReady(NamedTuple):
    """The ticket's answer is not ready."""

    retry_after_seconds: float | None = None


class Gone(NamedTuple):
    """The provider does not know the ticket: it was read before, discarded, or never accepted."""

    message: str


class TicketEnd(Enum):
    """Whether a poll ends its ticket."""

    NO = "no"  #: poll again
    YES = "yes"  #: the answer, or a final error
    IF_IT_STAYS = "if_it_stays"  #: an error of the work that may pass: final if later polls repeat it


class ModelListing(NamedTuple):
    """One model as the provider lists it; ``None`` where the list is silent."""

    name: str
    aliases: tuple[str, ...] = ()
    prices: Prices | None = None
    takes_images: bool | None = None
    context_tokens: int | None = None
    max_output_tokens: int | None = None


def listed_name(entry: Mapping[str, Any]) -> str:
    """A listed model's name. OpenAI's field is ``id``; llama.cpp and Ollama may use ``name`` or ``model``."""
    return next((found for name in ("id", "name", "model") if (found := wire.text(entry.get(name)))), "")


def listed_aliases(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Other names of the same model. Gemini lists ``models/NAME`` and expects ``NAME`` in requests."""
    aliases = tuple(alias for alias in wire.sequence(entry.get("aliases")) if isinstance(alias, str))
    name = listed_name(entry)
    return (*aliases, name.removeprefix("models/")) if name.startswith("models/") else aliases


def output_limit(recipe: Recipe) -> int | None:
    """The recipe's own limit of output tokens, if it has one."""
    given = (recipe.parameters.get(name) for name in _MAX_TOKENS_NAMES)
    return max((limit for limit in given if isinstance(limit, int) and not isinstance(limit, bool)), default=None)


class Dialect:
    """The common dialect, to be subclassed. Instances hold a cache and no other state, and may be shared.

    An entry point of the group ``batchvision.providers`` names a subclass (or an instance of one).
    """

    name: ClassVar[str]
    default_base_url: ClassVar[str]
    default_key_env: ClassVar[str | None]
    #: The page for adding credit, for messages.
    account_url: ClassVar[str | None] = None
    lanes: ClassVar[frozenset[Lane]] = frozenset({Lane.ONLINE})
    #: How long the provider keeps the answer of a ticket.
    ticket_lifetime: ClassVar[timedelta] = timedelta(hours=24)
    #: The deadline of one poll, which is a short GET.
    poll_timeout_seconds: ClassVar[float] = 60.0
    #: The wait before a ticket's first poll, until the latency of answers is known.
    first_poll_seconds: ClassVar[float] = 1.0
    #: The longest wait between two polls of a ticket.
    longest_poll_wait_seconds: ClassVar[float] = 30.0
    #: Polls a second of all open tickets together.
    most_polls_per_second: ClassVar[float] = 300.0
    #: Names that ``[provider.parameters]`` must not hold, each with the reason.
    reserved_parameters: ClassVar[Mapping[str, str]] = {
        "model": "set provider.model instead",
        "messages": "they are made from [prompt] and the manifest",
        "n": "a row has one answer: more choices would be paid for and dropped",
        "stream": "set delivery.stream instead",
        "stream_options": "it is sent with delivery.stream",
        "deferred": 'set delivery.lane = "deferred" instead',
        "response_format": "it is made from answer.schema and answer.labels; provider.response_format names its form",
    }
    chat_path: ClassVar[str] = "/chat/completions"
    models_path: ClassVar[str] = "/models"
    #: The parameter for a limit of output tokens, where the recipe has no such parameter.
    max_tokens_name: ClassVar[str] = "max_tokens"
    #: The meaning of the fields in ``usage``.
    usage_rule: ClassVar[chat.UsageRule] = chat.UsageRule()
    #: Whether the body holds the cost. Gateways may add a header with the cost.
    has_cost_in_body: ClassVar[bool] = False
    #: Whether the provider supports ``provider.response_cache``.
    has_response_cache: ClassVar[bool] = False
    #: The header with the id of a conversation: its requests reach the server that caches their common prefix.
    conversation_header: ClassVar[str | None] = None
    #: The smallest accepted image: pixels of each side, and pixels in all.
    least_image: ClassVar[tuple[int, int]] = (1, 1)
    #: The form of the provider's batches: ``openai`` or ``xai``; ``None``: no batches, for the reason ``no_batches``.
    batch_form: ClassVar[str | None] = None
    no_batches: ClassVar[str] = "its dialect describes no batches"
    #: Response headers that name the request, best first; then the body's ``id``.
    request_id_headers: ClassVar[tuple[str, ...]] = ("x-request-id",)

    def __init__(self) -> None:
        #: The provider's names in messages.
        self.voice = faults.Voice(self.name, self.default_key_env, self.account_url)
        self._frames: dict[tuple[int, SendOptions], tuple[Recipe, bytes, str | None, bytes]] = {}

    # ------------------------------------------------------------------------------ asking

    def headers(self, key: Secret | None, extra: Mapping[str, str]) -> dict[str, str]:
        """The request headers. ``extra`` (``provider.headers``) wins; case does not matter."""
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            **self.own_headers(),
        }
        if key is not None:
            headers["Authorization"] = f"Bearer {key.reveal()}"
        replaced = {name.lower() for name in extra}
        return {name: value for name, value in headers.items() if name.lower() not in replaced} | dict(extra)

    def own_headers(self) -> dict[str, str]:
        """Further headers that this provider needs."""
        return {}

    def response_cache_headers(self, ttl_seconds: int | None, *, is_wanted: bool) -> dict[str, str]:
        """Headers that allow or forbid the provider to repeat an earlier answer."""
        return {}

    def body(self, recipe: Recipe, messages: bytes, options: SendOptions) -> bytes:
        """The JSON body. ``messages`` (megabytes of base64) are inserted unchanged.

        The order of keys never changes: providers cache by the bytes of a body.
        """
        known = self._frames.get((id(recipe), options))
        if known is None or known[0] is not recipe:
            fields = self.fields(recipe, options)
            known = (
                recipe,
                _dumps({"model": recipe.model})[:-1] + b',"messages":',
                schema_instruction(recipe.answer, options.form.response_format),
                b"," + _dumps(fields)[1:] if fields else b"}",
            )
            if len(self._frames) >= _KEPT_FRAMES:
                self._frames.clear()
            self._frames[id(recipe), options] = known
        _, head, instruction, rest = known
        if instruction is not None:
            messages = with_final_text(messages, instruction)
        return b"%b%b%b" % (head, messages, rest)

    def fields(self, recipe: Recipe, options: SendOptions) -> dict[str, Any]:
        """The fields of the body after model and messages, in the order sent."""
        fields: dict[str, Any] = dict(recipe.parameters)
        if options.max_tokens is not None:
            given = [name for name in _MAX_TOKENS_NAMES if name in fields]
            fields.update(dict.fromkeys(given or [self.max_tokens_name], options.max_tokens))
        wanted = response_format(recipe.answer, options.form.response_format)
        if wanted is not None:
            fields["response_format"] = wanted
        if options.stream:
            fields["stream"] = True
            if options.form.stream_options:
                fields["stream_options"] = {"include_usage": True}
        if options.deferred:
            fields["deferred"] = True
        return fields

    def raised_max_tokens(self, recipe: Recipe) -> int:
        """The limit of output tokens for the retry of a truncated answer."""
        limit = output_limit(recipe)
        return RAISED_WITHOUT_LIMIT if limit is None else limit * RAISE_FACTOR

    def ticket_path(self, ticket: str) -> str:
        """The path for polling a ticket."""
        raise NotImplementedError(f"{self.name} has no deferred lane")

    def batch_refusal(self) -> str:
        """The message for a provider without batches: the reason and the way out."""
        return (
            f'delivery.lane = "batch" is not possible with {self.name}: {self.no_batches}. Set delivery.lane = '
            '"online" (with provider.parameters = { service_tier = "flex" } where the model offers half the price for '
            "slower answers), or use a provider with batches: xai or openai"
        )

    # ------------------------------------------------------------------------------ reading

    def read(self, raw: RawAnswer) -> Reading:
        """The answer or the error in ``raw``. Nothing raises, for any bytes."""
        return Reading(*chat.read(raw, self.usage_rule, self.request_id_headers, self.voice))

    def read_ticket(self, raw: RawAnswer) -> str | BatchvisionError:
        """The ticket in the answer to a deferred POST, or the error."""
        document = wire.document_of(raw.body)
        ticket = document.value.get("request_id") if isinstance(document.value, dict) else None
        if 200 <= raw.status < 300 and isinstance(ticket, str) and ticket.isprintable() and 0 < len(ticket) <= 256:
            return ticket
        error = self.read(raw).error
        return error or AnswerCutShort(f"{self.name} took the request and gave no request_id for it")

    def read_poll(self, raw: RawAnswer) -> NotReady | Gone | Reading:
        """The result of a poll. After a Reading with a Transient error the ticket is polled again."""
        if raw.status == 202:
            return NotReady(signs.retry_after_seconds(raw, {}))
        if raw.status in (404, 410):
            return Gone(faults.error_text(wire.document_of(raw.body)) or f"{self.name} does not know the ticket")
        return self.read(raw)

    def ticket_end(self, raw: RawAnswer) -> TicketEnd:
        """Whether a poll ends its ticket.

        A 200 that was cut short ends it if the answer is whole. Otherwise the next poll decides: a 404 then means that
        the one allowed read is spent (P4). An error in the provider's own shape is about the work: it concerns the row
        (4xx), or is a failure that may stay (5xx).
        """
        if raw.status in (404, 410):
            return TicketEnd.YES
        if raw.status == 200:
            return TicketEnd.YES if raw.complete or self.read(raw).error is None else TicketEnd.NO
        if raw.status < 400 or raw.status in _OF_GATEWAYS or not faults.is_own_shape(wire.document_of(raw.body)):
            return TicketEnd.NO
        error = self.read(raw).error
        if raw.status >= 500:
            return TicketEnd.NO if isinstance(error, RateLimited) else TicketEnd.IF_IT_STAYS
        is_of_the_work = isinstance(error, ModelNotFound) and raw.status in (400, 422)
        return TicketEnd.YES if isinstance(error, RowFault) or is_of_the_work else TicketEnd.NO

    def limits(self, raw: RawAnswer) -> RateSigns:
        """The account's limits, by the headers; for a 429 by the body too."""
        return signs.read(raw)

    def read_models(self, raw: RawAnswer) -> tuple[ModelListing, ...]:
        """The models in the answer of ``models_path``. Raises the answer's error."""
        document = wire.document_of(raw.body)
        if not 200 <= raw.status < 300:
            raise faults.from_answer(raw, document, self.voice)
        rows = wire.mapping(document.value)
        listed = wire.sequence(rows.get("data")) or wire.sequence(rows.get("models")) or wire.sequence(document.value)
        entries = [self.listing(entry) for entry in listed if isinstance(entry, dict)]
        return tuple(sorted((entry for entry in entries if entry.name), key=lambda entry: entry.name))

    def listing(self, entry: Mapping[str, Any]) -> ModelListing:
        """Read one entry of the list of models."""
        return ModelListing(name=listed_name(entry), aliases=listed_aliases(entry))

    def with_key_from(self, key_source: str | None) -> Self:
        """A copy for a job with that source of its key; messages about the key name the source."""
        mine = copy.copy(self)
        mine.voice = self.voice._replace(key_source=key_source)
        mine._frames = {}
        return mine


# ---------------------------------------------------------------------------------- caches


@dataclass(frozen=True, slots=True)
class Caching:
    """Request headers for the provider's caches.

    ``conversations``: ids of the prompt cache; empty: send no id. An id brings requests with a common prefix to the
    same server. A run uses several ids, to use several servers. A request keeps its id in each try and each run.

    ``answers``: use the answer cache (OpenRouter): an identical body gets the earlier answer free of charge. It serves
    answers that were cut off, not answers that arrived and were unusable.
    """

    dialect: Dialect
    conversations: tuple[str, ...] = ()
    answers: bool = False
    answers_ttl_seconds: int | None = None

    def headers(self, request_key: str, tries: Tries, runs_failed: int) -> dict[str, str]:
        """The headers of one request. ``runs_failed``: earlier runs in which its row failed."""
        headers: dict[str, str] = {}
        if self.conversations and (name := self.dialect.conversation_header):
            headers[name] = self.conversations[crc32(request_key.encode()) % len(self.conversations)]
        if self.answers:
            is_spoilt = tries.empties > 0 or tries.spent >= FRESH_FROM_TRY or runs_failed > 0
            headers |= self.dialect.response_cache_headers(self.answers_ttl_seconds, is_wanted=not is_spoilt)
        return headers


def conversations(recipe_id: str, concurrency: int) -> tuple[str, ...]:
    """The conversation ids for ``concurrency`` requests in flight, the same in each run of a recipe."""
    count = max(1, concurrency // REQUESTS_A_CONVERSATION)
    seeds = (f"{recipe_id}/{number}" for number in range(count))
    return tuple(str(UUID(bytes=sha256(seed.encode()).digest()[:16], version=4)) for seed in seeds)


def caching(
    dialect: Dialect,
    recipe_id: str,
    concurrency: int,
    *,
    prompt_cache: bool,
    answers: bool,
    answers_ttl_seconds: int | None,
    own_headers: Mapping[str, str],
) -> Caching:
    """The caches of a job. ``own_headers`` (``provider.headers``) win over the headers of a cache."""
    given = {name.lower() for name in own_headers}
    ids = conversations(recipe_id, concurrency) if prompt_cache else ()
    if dialect.conversation_header is None or dialect.conversation_header.lower() in given:
        ids = ()
    if given & {name.lower() for name in dialect.response_cache_headers(None, is_wanted=True)}:
        answers = False
    return Caching(dialect, ids, answers, answers_ttl_seconds)


def _dumps(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
