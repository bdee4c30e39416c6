"""Nimbus speaks OpenAI's chat completions with two differences: a header of its own, and status 420 as its 429."""

from __future__ import annotations

import json
from typing import ClassVar

from batchvision.errors import RateLimited
from batchvision.providers import Dialect, Reading
from batchvision.records import RawAnswer


class NimbusDialect(Dialect):
    """An invented provider."""

    name: ClassVar[str] = "nimbus"
    default_base_url: ClassVar[str] = "https://nimbus.invalid/v1"
    default_key_env: ClassVar[str | None] = "NIMBUS_API_KEY"

    def own_headers(self) -> dict[str, str]:
        return {"X-Nimbus-Client": "batchvision"}

    def read(self, raw: RawAnswer) -> Reading:
        """A 420 holds ``{"fault": TEXT, "pause_ms": NUMBER}``."""
        reading = super().read(raw)
        if raw.status != 420:
            return reading
        document = json.loads(raw.body)
        wait = document["pause_ms"] / 1000
        return reading._replace(error=RateLimited(f"nimbus: {document['fault']}", retry_after_seconds=wait))
