"""OpenAI, and every server with its API (vLLM, Groq, Together, Gemini's compatible API ...)."""

from __future__ import annotations

from typing import ClassVar

from batchvision.providers.base import Dialect
from batchvision.records import Lane


class OpenAIDialect(Dialect):
    """The common dialect under its own name."""

    name: ClassVar[str] = "openai"
    default_base_url: ClassVar[str] = "https://api.openai.com/v1"
    default_key_env: ClassVar[str | None] = "OPENAI_API_KEY"
    lanes: ClassVar[frozenset[Lane]] = frozenset({Lane.ONLINE, Lane.BATCH})
    batch_form: ClassVar[str | None] = "openai"
    account_url: ClassVar[str | None] = "https://platform.openai.com/settings/organization/billing"
