"""What a dialect is: how one provider is asked and how its answers are read. Sans-IO: bytes in, bytes out, no clock.

Every server here speaks OpenAI's chat completions; a dialect says where it differs, mostly as class attributes.
The reading itself is done by the modules beside this one: ``decode`` (bytes to document), ``chat`` (document to
answer), ``faults`` (error to its class), ``signs`` (headers to rates).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from datetime import timedelta
from enum import Enum
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self

from batchvision.errors import AnswerCutShort, BatchvisionError, ModelNotFound, RateLimited, RowFault
from batchvision.prompt import response_format, told_schema, with_last_words
from batchvision.providers import chat, decode, faults, signs, wire
from batchvision.providers.forms import ResponseForm
from batchvision.providers.signs import RateSigns
from batchvision.records import Answer, Lane, RawAnswer, Recipe
from batchvision.secrets import Secret
from batchvision.ticks import Prices

__all__ = ["Dialect", "Gone", "ModelListing", "NotReady", "RateSigns", "Reading", "SendOptions", "TicketEnd"]

#: Raising a truncated answer's limit multiplies it; without a limit in the recipe this one is set.
RAISE_FACTOR = 4
RAISED_WITHOUT_LIMIT = 16_384

_MAX_TOKENS_NAMES = ("max_completion_tokens", "max_tokens")
_KEPT_TAILS = 16

#: Statuses of gateways on the way, and of providers that are away: they say nothing of a ticket's work.
_OF_GATEWAYS = frozenset({502, 503, 504})


class SendOptions(NamedTuple):
    """What is no part of the recipe but changes the body. ``max_tokens`` overrides the recipe's own."""

    deferred: bool = False
    stream: bool = False
    max_tokens: int | None = None
    form: ResponseForm = ResponseForm()


class Reading(NamedTuple):
    """A body, read. ``error`` set: it is no usable answer, and ``answer`` holds what is known all the same."""

    answer: Answer
    error: BatchvisionError | None


class NotReady(NamedTuple):
    """The ticket's answer is not ready."""

    retry_after_seconds: float | None = None


class Gone(NamedTuple):
    """The provider does not know the ticket (any more): read before, discarded, or never accepted."""

    message: str


class TicketEnd(Enum):
    """Whether a poll ends its ticket."""

    NO = "no"  #: the ticket is asked again
    YES = "yes"  #: the answer, or the word that there is none
    IF_IT_STAYS = "if_it_stays"  #: the provider says that the work failed, and may say otherwise later


class ModelListing(NamedTuple):
    """One model as the provider lists it. None: it does not say."""

    name: str
    aliases: tuple[str, ...] = ()
    prices: Prices | None = None
    takes_images: bool | None = None
    context_tokens: int | None = None
    max_output_tokens: int | None = None


def listed_name(entry: Mapping[str, Any]) -> str:
    """A listed model's name: llama.cpp and Ollama may say ``name`` or ``model`` where OpenAI says ``id``."""
    return next((found for name in ("id", "name", "model") if (found := wire.text(entry.get(name)))), "")


def listed_aliases(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Names that mean the same model; Gemini's compatible face lists ``models/NAME`` and is asked for ``NAME``."""
    aliases = tuple(alias for alias in wire.sequence(entry.get("aliases")) if isinstance(alias, str))
    name = listed_name(entry)
    return (*aliases, name.removeprefix("models/")) if name.startswith("models/") else aliases


def output_limit(recipe: Recipe) -> int | None:
    """The recipe's own limit of output tokens, if it has one."""
    given = (recipe.parameters.get(name) for name in _MAX_TOKENS_NAMES)
    return max((limit for limit in given if isinstance(limit, int) and not isinstance(limit, bool)), default=None)


class Dialect:
    """The common dialect, to be subclassed; instances hold no state but a cache, and may be shared.

    An entry point of the group ``batchvision.providers`` names a subclass (or an instance of one).
    """

    name: ClassVar[str]
    default_base_url: ClassVar[str]
    default_key_env: ClassVar[str | None]
    #: Where its user adds credit, for messages.
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
    #: Names that ``[provider.parameters]`` must not hold, and why.
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
    #: The name sent when the recipe has none and a limit must be set.
    max_tokens_name: ClassVar[str] = "max_tokens"
    #: What usage means here (see ``chat.UsageRule``).
    usage_rule: ClassVar[chat.UsageRule] = chat.UsageRule()
    #: Whether the cost is always told in the body, if at all. Gateways before other servers tell it in a header.
    tells_cost_in_body: ClassVar[bool] = False
    #: Whether ``provider.response_cache`` means anything here.
    has_response_cache: ClassVar[bool] = False
    #: The smallest image it takes: pixels of each side, and pixels in all.
    least_image: ClassVar[tuple[int, int]] = (1, 1)
    #: Response headers that name the request, best first; then the body's ``id``.
    request_id_headers: ClassVar[tuple[str, ...]] = ("x-request-id",)

    def __init__(self) -> None:
        self._tails: dict[tuple[int, SendOptions], tuple[Recipe, bytes, bytes]] = {}

    # ------------------------------------------------------------------------------ asking

    def headers(self, key: Secret | None, extra: Mapping[str, str]) -> dict[str, str]:
        """The request headers; ``extra`` (``provider.headers``) wins, whatever its case."""
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
        """Headers that only this provider asks for."""
        return {}

    def routing_headers(self, conversation: str) -> dict[str, str]:
        """Headers of one request that bring those of the same ``conversation`` to a server that has their common
        prefix in its cache."""
        return {}

    def response_cache_headers(self, ttl_seconds: int | None, *, is_wanted: bool) -> dict[str, str]:
        """Headers of one request that let the provider answer it, or not, with what it answered before."""
        return {}

    def body(self, recipe: Recipe, messages: bytes, options: SendOptions) -> bytes:
        """The JSON body. ``messages`` (megabytes of base64) go in as they are; what surrounds them is encoded once a
        recipe.

        The order of keys never changes, as providers cache by the bytes of a body.
        """
        known = self._tails.get((id(recipe), options))
        if known is None or known[0] is not recipe:
            known = (recipe, *self._around_messages(recipe, options))
            if len(self._tails) >= _KEPT_TAILS:
                self._tails.clear()
            self._tails[id(recipe), options] = known
        if told := told_schema(recipe.answer, options.form.response_format):
            messages = with_last_words(messages, told)
        return b"%b%b%b" % (known[1], messages, known[2])

    def _around_messages(self, recipe: Recipe, options: SendOptions) -> tuple[bytes, bytes]:
        head = _dumps({"model": recipe.model})[:-1] + b',"messages":'
        rest = self.fields(recipe, options)
        return head, b"," + _dumps(rest)[1:] if rest else b"}"

    def fields(self, recipe: Recipe, options: SendOptions) -> dict[str, Any]:
        """All of the body but model and messages, in the order sent."""
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
        """The limit for the one retry of a truncated answer."""
        limit = output_limit(recipe)
        return RAISED_WITHOUT_LIMIT if limit is None else limit * RAISE_FACTOR

    def ticket_path(self, ticket: str) -> str:
        """Where a ticket's answer is polled."""
        raise NotImplementedError(f"{self.name} has no deferred lane")

    # ------------------------------------------------------------------------------ reading

    def read(self, raw: RawAnswer) -> Reading:
        """The answer in ``raw``, or the error it is. Any bytes at all are read; nothing raises."""
        document = decode.document(raw.body)
        parts = chat.parts_of(document)
        facts = chat.facts(parts, raw.headers, self.usage_rule, self.request_id_headers)
        if not 200 <= raw.status < 300:
            return Reading(facts, faults.from_answer(raw, document, self.voice))
        return Reading(*chat.read(raw, document, parts, facts, self.voice))

    def read_ticket(self, raw: RawAnswer) -> str | BatchvisionError:
        """The ticket that a deferred POST was given, or the error it met instead."""
        document = decode.document(raw.body)
        ticket = document.value.get("request_id") if isinstance(document.value, dict) else None
        if 200 <= raw.status < 300 and isinstance(ticket, str) and ticket.isprintable() and 0 < len(ticket) <= 256:
            return ticket
        error = self.read(raw).error
        return error or AnswerCutShort(f"{self.name} took the request and gave no request_id for it")

    def read_poll(self, raw: RawAnswer) -> NotReady | Gone | Reading:
        """What a poll says. A Reading with a Transient error leaves the ticket as it was: it is polled again."""
        if raw.status == 202:
            return NotReady(signs.retry_after_seconds(raw))
        if raw.status in (404, 410):
            return Gone(faults.said(decode.document(raw.body)) or f"{self.name} does not know the ticket")
        return self.read(raw)

    def ticket_end(self, raw: RawAnswer) -> TicketEnd:
        """Whether a poll ends its ticket. A 200 that was cut on its way counts if it says all; otherwise the ticket is
        asked again, and a 404 will tell that this was the one read (P4).

        An error in the provider's own shape is about the work: of the row (4xx), or of a failure that stays (5xx).
        """
        if raw.status in (404, 410):
            return TicketEnd.YES
        if raw.status == 200:
            return TicketEnd.YES if raw.complete or self.read(raw).error is None else TicketEnd.NO
        if raw.status < 400 or raw.status in _OF_GATEWAYS or not faults.is_own_shape(decode.document(raw.body)):
            return TicketEnd.NO
        error = self.read(raw).error
        if raw.status >= 500:
            return TicketEnd.NO if isinstance(error, RateLimited) else TicketEnd.IF_IT_STAYS
        is_of_the_work = isinstance(error, ModelNotFound) and raw.status in (400, 422)
        return TicketEnd.YES if isinstance(error, RowFault) or is_of_the_work else TicketEnd.NO

    def limits(self, raw: RawAnswer) -> RateSigns:
        """What the headers (for a 429 the body too) say of the account's limits."""
        return signs.read(raw)

    def read_models(self, raw: RawAnswer) -> tuple[ModelListing, ...]:
        """The models of ``models_path``. Raises the error that the answer is."""
        document = decode.document(raw.body)
        if not 200 <= raw.status < 300:
            raise faults.from_answer(raw, document, self.voice)
        rows = wire.mapping(document.value)
        listed = wire.sequence(rows.get("data")) or wire.sequence(rows.get("models")) or wire.sequence(document.value)
        entries = [self.listing(entry) for entry in listed if isinstance(entry, dict)]
        return tuple(sorted((entry for entry in entries if entry.name), key=lambda entry: entry.name))

    def listing(self, entry: Mapping[str, Any]) -> ModelListing:
        """One entry of the models' list."""
        return ModelListing(name=listed_name(entry), aliases=listed_aliases(entry))

    @cached_property
    def voice(self) -> faults.Voice:
        """How this provider is named in messages."""
        return faults.Voice(self.name, self.default_key_env, self.account_url)

    def with_key_from(self, key_source: str | None) -> Self:
        """The same dialect, for a job whose key comes from there: messages about a key name it."""
        mine = copy.copy(self)
        mine.__dict__["voice"] = self.voice._replace(key_source=key_source)
        mine._tails = {}
        return mine


def _dumps(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
