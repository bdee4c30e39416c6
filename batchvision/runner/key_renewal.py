"""A key that expires during a run: its command is asked again after a 401 that follows answers.

Rule: the old key and each new one are hidden by the run's secrets before a request is sent with them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import anyio

from batchvision.errors import AuthenticationFailed, JobInvalid
from batchvision.offload import Offload, threads
from batchvision.secrets import Secret, Secrets

log = logging.getLogger(__name__)


class KeyRenewal:
    """The key of a run. ``ask`` returns the key again; without it the key never changes. ``headers_of`` maps a key to
    its request headers. ``generation`` counts the keys: a request under an older key does not ask again."""

    def __init__(
        self,
        key: Secret | None,
        ask: Callable[[], Secret | None] | None,
        headers_of: Callable[[Secret], Mapping[str, str]],
        secrets: Secrets,
        offload: Offload,
    ) -> None:
        self.generation = 0
        #: of each request, over those of the first key
        self.headers: Mapping[str, str] = {}
        self._key = key
        self._ask = ask
        self._headers_of = headers_of
        self._secrets = secrets
        self._offload = offload
        self._answered_generation = -1
        self._failed: AuthenticationFailed | None = None
        self._one_at_a_time = anyio.Lock()

    @classmethod
    def of_a_key_that_stays(cls) -> KeyRenewal:
        """A key without a command to renew it."""
        return cls(None, None, lambda key: {}, Secrets(), threads())

    def answered(self, generation: int) -> None:
        """A request under the key of ``generation`` was answered."""
        self._answered_generation = max(self._answered_generation, generation)

    async def renew(self, generation: int, error: AuthenticationFailed) -> bool:
        """After a request under the key of ``generation`` was refused. True: there is a newer key to ask with.

        Raises AuthenticationFailed if the command prints the same key or no key, or if the new key is refused too.
        """
        if self._ask is None or self._answered_generation < 0:
            return False
        async with self._one_at_a_time:
            if self._failed is not None:
                raise self._failed
            if generation < self.generation:
                return True
            key = await self._asked(error)
            self._secrets.add(key)
            self._key, self.headers = key, self._headers_of(key)
            self.generation += 1
            log.warning("the key has expired: going on with a new one from provider.api_key_command")
            return True

    async def _asked(self, error: AuthenticationFailed) -> Secret:
        if self._answered_generation < self.generation:
            raise self._no_more(f"{error.what}; the new key that provider.api_key_command printed is refused too")
        try:
            key = None if self._ask is None else await self._offload(self._ask)
        except JobInvalid as problem:
            raise self._no_more(f"{error.what}; asked for a new key: {problem}") from None
        if key is None or (self._key is not None and key.reveal() == self._key.reveal()):
            raise self._no_more(
                f"{error.what}; asked again, provider.api_key_command printed the same key: see to it that it prints "
                "a key that is valid, then run again"
            )
        return key

    def _no_more(self, message: str) -> AuthenticationFailed:
        self._failed = AuthenticationFailed(message)
        return self._failed
