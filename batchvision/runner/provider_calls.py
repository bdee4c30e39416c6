"""The calls of a run to its provider: requests and polls, in the current response form and under the current key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from batchvision.http import ProviderClient
from batchvision.providers import Caching, Dialect, ResponseForm, ResponseForms, SendOptions
from batchvision.records import Intent, Lane, Purpose, RawAnswer, Recipe
from batchvision.runner.dependencies import utc_now
from batchvision.runner.key_renewal import KeyRenewal


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

    @property
    def current(self) -> SentAs:
        return SentAs(self.forms.current, self.key.generation)

    async def send(self, intent: Intent, messages: bytes, form: ResponseForm) -> RawAnswer:
        """POST a request. Raises Transient, NoWayToProvider."""
        terms = self._terms
        options = SendOptions(
            deferred=intent.lane is Lane.DEFERRED,
            stream=terms.stream and intent.lane is Lane.ONLINE,
            max_tokens=terms.raised_max_tokens if intent.tries.raised else None,
            form=form,
        )
        headers = self.key.headers
        if terms.caching is not None:
            headers = {**terms.caching.headers(intent.request_key, intent.tries, intent.runs_failed), **headers}
        return await self._client.send(
            "POST",
            self.dialect.chat_path,
            self.dialect.body(terms.recipe, messages, options),
            terms.timeout_seconds,
            headers,
        )

    async def poll(self, ticket: str) -> RawAnswer:
        """GET the answer of a ticket. Raises Transient."""
        path, timeout_seconds = self.dialect.ticket_path(ticket), self.dialect.poll_timeout_seconds
        return await self._client.send("GET", path, None, timeout_seconds, self.key.headers)
