"""The options of an emulator: one frozen value, checked when it is made. No I/O.

A wrong option raises ValueError with a message that names a valid value.
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

#: A fixed time, or the bounds (shortest, longest) of a uniform draw.
Seconds = float | tuple[float, float]


class Face(StrEnum):
    """The provider dialect, chosen by the prefix of the path."""

    XAI = "xai"  #: /v1 and /xai/v1
    OPENROUTER = "openrouter"  #: /openrouter/api/v1
    OPENAI = "openai"  #: /openai/v1

    @property
    def path(self) -> str:
        """The prefix of ``chat/completions``."""
        return {"xai": "/xai/v1", "openrouter": "/openrouter/api/v1", "openai": "/openai/v1"}[self.value]


#: All prefixes. The default prefix comes last, because the longer ones begin like it.
PREFIXES: tuple[tuple[str, Face], ...] = (*((face.path, face) for face in Face), ("/v1", Face.XAI))


@dataclass(frozen=True, slots=True)
class EmulatorOptions:
    """How the emulator behaves. The defaults give a fast provider without faults or limits.

    - ``key``: the only key accepted. By default each key is, unless it starts with "bad".
    - ``requests_per_minute``, ``burst`` (default: the requests of one second), ``tokens_per_minute``: beyond them 429.
    - ``polls_count``: polls of deferred tickets count as requests.
    - ``fault_rates``: probability by kind of fault. The draw depends on ``seed``, content and number of the try,
      not on the order of requests.
    - ``fail_image_urls``: answer requests that hold http(s) images with a download error. They are never downloaded.
    - ``reasoning_tokens``: added to each answer of a reasoning model, if ``reasoning_effort`` allows it.
    - ``batch_validation_seconds``, ``batch_seconds``: from the creation of a batch to its first request, and from there
      to its last answer. ``batch_life_seconds``: unfinished requests expire after this time.
    - ``batch_max_bytes``, ``batch_max_lines``: of an input file. ``batch_max_open``: more unfinished batches get a 429.
    - ``batch_max_enqueued_tokens``: of unfinished batches of a model; a batch beyond it fails validation.
    - ``batch_creates_per_second``: beyond it 429.
    - ``ledger_entries``: number of newest requests that the bill lists. Its sums cover all requests.
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
    batch_validation_seconds: Seconds = 0.1
    batch_seconds: Seconds = 0.5
    batch_life_seconds: float = 86_400.0
    batch_max_bytes: int = 200 * 1024 * 1024
    batch_max_lines: int = 50_000
    batch_max_open: int | None = None
    batch_max_enqueued_tokens: int | None = None
    batch_creates_per_second: float | None = None
    ledger_entries: int = 10_000

    def __post_init__(self) -> None:
        rates = {str(FaultKind.named(kind)): float(rate) for kind, rate in self.fault_rates.items()}
        for kind, rate in rates.items():
            if not 0.0 <= rate <= 1.0:
                raise ValueError(f"the rate of fault {kind} is {rate}: give a probability from 0 to 1")
        if sum(rates.values()) > 1.0:
            raise ValueError("the fault rates add up to more than 1: no request could be answered")
        object.__setattr__(self, "fault_rates", MappingProxyType(rates))
        for name in ("latency_seconds", "deferred_seconds", "batch_validation_seconds", "batch_seconds"):
            object.__setattr__(self, name, _seconds(name, getattr(self, name)))
        of_batches = ("batch_max_open", "batch_max_enqueued_tokens", "batch_creates_per_second")
        for name in ("requests_per_minute", "tokens_per_minute", "burst", *of_batches):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}: give a number above 0, or leave it out for no limit")

    def changed(self, changes: Mapping[str, Any]) -> EmulatorOptions:
        """These options with ``changes``. The port of a listening server cannot change."""
        names = [each.name for each in fields(self) if each.name != "port"]
        for name in changes:
            if name not in names:
                near = difflib.get_close_matches(name, names, 1)
                hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names)}"
                raise ValueError(f"{name} is no option that can be changed; {hint}")
        return replace(self, **changes)


def _seconds(name: str, value: object) -> Seconds:
    """A number, or a pair (a list in JSON)."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    if isinstance(value, tuple | list) and len(value) == 2:
        low, high = float(value[0]), float(value[1])
        if 0 <= low <= high:
            return (low, high)
    raise ValueError(f"{name} is {value!r}: give seconds, or (shortest, longest)")
