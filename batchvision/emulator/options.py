"""What an emulator is told: one frozen value, checked when made. No I/O.

Rule: an option that is wrong raises ValueError with a sentence that says what would be right.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from batchvision.emulator.faults import FaultKind

DEFAULT_PORT = 8765
DEFAULT_KEY = "emulator-key"

#: A fixed time, or (shortest, longest) of times drawn evenly between them.
Seconds = float | tuple[float, float]


class Face(StrEnum):
    """Whose dialect is spoken; the path's prefix chooses it."""

    XAI = "xai"  #: /v1 and /xai/v1
    OPENROUTER = "openrouter"  #: /openrouter/api/v1
    OPENAI = "openai"  #: /openai/v1

    @property
    def path(self) -> str:
        """The prefix under which ``chat/completions`` is found."""
        return {"xai": "/xai/v1", "openrouter": "/openrouter/api/v1", "openai": "/openai/v1"}[self.value]


#: Every prefix served, the default one last so that the longer ones are tried first.
PREFIXES: tuple[tuple[str, Face], ...] = (*((face.path, face) for face in Face), ("/v1", Face.XAI))


@dataclass(frozen=True, slots=True)
class EmulatorOptions:
    """How the emulator behaves; every field has a default that gives a quick and faultless provider.

    ``key``: the one key that is accepted; None accepts any but those that start with "bad".
    ``requests_per_minute`` with ``burst`` (default: one second's worth), ``tokens_per_minute``: 429 above them.
    ``polls_count``: polls of deferred tickets take from the request rate too.
    ``fault_rates``: kind -> probability, drawn for each try from ``seed`` and the request's content, so that the same
    run meets the same faults in whatever order its requests travel.
    ``fail_image_urls``: http(s) images are answered with a download error; they are never fetched either way.
    ``reasoning_tokens``: thinking that a reasoning model adds to each answer (not with ``reasoning_effort: none``).
    ``ledger_entries``: how many of the newest requests the bill lists one by one; its sums are always complete.
    """

    port: int = 0
    key: str | None = None
    seed: int = 0
    latency_seconds: Seconds = 0.0
    deferred_seconds: Seconds = 0.2
    ticket_life_seconds: float = 86_400.0
    requests_per_minute: float | None = None
    burst: int | None = None
    tokens_per_minute: float | None = None
    rate_headers: bool = True
    polls_count: bool = True
    retry_after: bool = False
    retry_after_seconds: float = 1.0
    slow_seconds: float = 1.0
    fault_rates: Mapping[str, float] = field(default_factory=dict)
    fail_image_urls: bool = False
    max_image_bytes: int = 20 * 1024 * 1024
    max_body_bytes: int = 64 * 1024 * 1024
    reasoning_tokens: int = 32
    ledger_entries: int = 10_000

    def __post_init__(self) -> None:
        rates = {str(FaultKind.named(kind)): float(rate) for kind, rate in self.fault_rates.items()}
        for kind, rate in rates.items():
            if not 0.0 <= rate <= 1.0:
                raise ValueError(f"the rate of fault {kind} is {rate}: give a probability from 0 to 1")
        if sum(rates.values()) > 1.0:
            raise ValueError("the fault rates add up to more than 1: no request could be answered")
        object.__setattr__(self, "fault_rates", MappingProxyType(rates))
        for name in ("latency_seconds", "deferred_seconds"):
            object.__setattr__(self, name, _seconds(name, getattr(self, name)))
        for name in ("requests_per_minute", "tokens_per_minute", "burst"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}: give a number above 0, or leave it out for no limit")

    def changed(self, changes: Mapping[str, Any]) -> EmulatorOptions:
        """These options with ``changes``; the port a server already listens on cannot change."""
        names = [each.name for each in fields(self) if each.name != "port"]
        for name in changes:
            if name not in names:
                near = difflib.get_close_matches(name, names, 1)
                hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names)}"
                raise ValueError(f"{name} is no option that can be changed; {hint}")
        return replace(self, **changes)


def _seconds(name: str, value: object) -> Seconds:
    """One number or a pair; JSON brings pairs as lists."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    if isinstance(value, tuple | list) and len(value) == 2:
        low, high = float(value[0]), float(value[1])
        if 0 <= low <= high:
            return (low, high)
    raise ValueError(f"{name} is {value!r}: give seconds, or (shortest, longest)")
