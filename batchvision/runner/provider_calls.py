"""The calls of a run to its provider: requests and polls, in the current response form and under the current key."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import BinaryIO, NamedTuple

import anyio

from batchvision.errors import AuthenticationFailed, JobInvalid
from batchvision.eventloop import Offload
from batchvision.http import FileUpload, ProviderClient
from batchvision.providers import Caching, Dialect, ResponseForm, ResponseForms, SendOptions
from batchvision.records import Intent, Lane, Purpose, RawAnswer, Recipe, Tries
from batchvision.runner.dependencies import utc_now
from batchvision.secrets import Secret, Secrets

log = logging.getLogger(__name__)


@dataclass(eq=False, repr=False, slots=True)
class KeyRenewal:
    """The key of a run. Its command is asked again after a 401 that follows answers.

    Rule: the old key and each new one are hidden by the run's secrets before a request is sent with them.
    """

    key: Secret | None
    ask: Callable[[], Secret | None] | None  #: returns the key again; ``None``: the key never changes
    headers_of: Callable[[Secret], Mapping[str, str]]  #: the request headers of a key
    secrets: Secrets
    offload: Offload
    generation: int = 0  #: counts the keys: a request under an older key does not ask again
    headers: Mapping[str, str] = field(default_factory=dict)  #: of each request, over those of the first key
    _answered_generation: int = field(init=False, default=-1)
    _failed: AuthenticationFailed | None = field(init=False, default=None)
    _one_at_a_time: anyio.Lock = field(init=False, default_factory=anyio.Lock)

    def answered(self, generation: int) -> None:
        """A request under the key of ``generation`` was answered."""
        self._answered_generation = max(self._answered_generation, generation)

    async def renew(self, generation: int, error: AuthenticationFailed) -> bool:
        """After a request under the key of ``generation`` was refused. True: there is a newer key to ask with.

        Raises AuthenticationFailed if the command prints the same key or no key, or if the new key is refused too.
        """
        if self.ask is None or self._answered_generation < 0:
            return False
        async with self._one_at_a_time:
            if self._failed is not None:
                raise self._failed
            if generation < self.generation:
                return True
            key = await self._asked(error)
            self.secrets.add(key)
            self.key, self.headers = key, self.headers_of(key)
            self.generation += 1
            log.warning("the key has expired: going on with a new one from provider.api_key_command")
            return True

    async def _asked(self, error: AuthenticationFailed) -> Secret:
        if self._answered_generation < self.generation:
            raise self._no_more(f"{error.what}; the new key that provider.api_key_command printed is refused too")
        try:
            key = None if self.ask is None else await self.offload(self.ask)
        except JobInvalid as problem:
            raise self._no_more(f"{error.what}; asked for a new key: {problem}") from None
        if key is None or (self.key is not None and key.reveal() == self.key.reveal()):
            raise self._no_more(
                f"{error.what}; asked again, provider.api_key_command printed the same key: see to it that it prints "
                "a key that is valid, then run again"
            )
        return key

    def _no_more(self, message: str) -> AuthenticationFailed:
        self._failed = AuthenticationFailed(message)
        return self._failed


@dataclass(frozen=True, slots=True)
class Terms:
    """Settings that are the same for every exchange of a run."""

    run_id: str
    recipe: Recipe
    keep_names: tuple[str, ...]
    timeout_seconds: float
    stream: bool = False
    raised_max_tokens: int | None = None
    quarantine_after_runs: int = 5
    holds: bool = False  #: ``ambiguous = "hold"``: a row that may have been billed stays pending
    caching: Caching | None = None
    prices: Mapping[str, int] = field(default_factory=dict)  #: recorded in each intent
    now: Callable[[], datetime] = utc_now
    purpose: Purpose = Purpose.RUN

    @property
    def is_trial(self) -> bool:
        """Nothing of this run is published."""
        return self.purpose is Purpose.SWEEP


class SentAs(NamedTuple):
    """The response form and the key's generation of one request."""

    form: ResponseForm
    generation: int


class ProviderCalls:
    """``dialect``, ``forms`` and ``key`` are read by the exchanges."""

    def __init__(
        self,
        terms: Terms,
        client: ProviderClient,
        dialect: Dialect,
        forms: ResponseForms,
        key: KeyRenewal,
    ) -> None:
        self.dialect = dialect
        self.forms = forms
        self.key = key
        self.now = terms.now
        self._terms = terms
        self._client = client

    async def send(self, intent: Intent, messages: bytes, form: ResponseForm) -> RawAnswer:
        """POST a request. Raises Transient, NoWayToProvider."""
        terms = self._terms
        headers = self.key.headers
        if terms.caching is not None:
            headers = {**terms.caching.headers(intent.request_key, intent.tries, intent.runs_failed), **headers}
        return await self._client.send(
            "POST",
            self.dialect.chat_path,
            self.body(messages, form, intent.lane, intent.tries),
            terms.timeout_seconds,
            headers,
        )

    def body(self, messages: bytes, form: ResponseForm, lane: Lane, tries: Tries) -> bytes:
        """The body of a request, as JSON on one line."""
        terms = self._terms
        options = SendOptions(
            deferred=lane is Lane.DEFERRED,
            stream=terms.stream and lane is Lane.ONLINE,
            max_tokens=terms.raised_max_tokens if tries.raised else None,
            form=form,
        )
        return self.dialect.body(terms.recipe, messages, options)

    async def call(
        self,
        method: str,
        path: str,
        body: bytes | FileUpload | None,
        headers: Mapping[str, str],
        timeout_seconds: float | None = None,
        into: BinaryIO | None = None,
    ) -> RawAnswer:
        """Make another call than a request. ``into`` takes the body of a success. Raises Transient, NoWayToProvider."""
        seconds = timeout_seconds or self.dialect.poll_timeout_seconds
        return await self._client.send(method, path, body, seconds, {**headers, **self.key.headers}, into)

    async def poll(self, ticket: str) -> RawAnswer:
        """GET the answer of a ticket. Raises Transient."""
        path, timeout_seconds = self.dialect.ticket_path(ticket), self.dialect.poll_timeout_seconds
        return await self._client.send("GET", path, None, timeout_seconds, self.key.headers)
