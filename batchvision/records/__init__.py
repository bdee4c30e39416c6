"""The nouns of batchvision: frozen values that pass between rooms. No I/O, no behaviour beyond what is derived.

In the order of a row's night: Row -> Request -> Intent (durable) -> RawAnswer (durable) -> Answer -> Attempt, Outcome.
Times are aware UTC datetimes; money is integer ticks (1 USD = 10^10 ticks); tokens are integers or None (unknown).
"""

from __future__ import annotations

from batchvision.records.answered import Answer, Attempt, AttemptState, Completed, Failed, Outcome, Usage
from batchvision.records.asked import (
    TICKS_PER_USD,
    AnswerSpec,
    Cell,
    Estimate,
    Example,
    ImageKind,
    ImagePreparation,
    ImageRef,
    ImageSize,
    ImageSlot,
    JsonObject,
    Label,
    Lane,
    Page,
    Payload,
    Prompt,
    Purpose,
    Recipe,
    Request,
    Row,
    Tries,
)
from batchvision.records.durable import EndedWithout, Exchange, Intent, RawAnswer
from batchvision.records.shard import Shard
from batchvision.records.told import Counters, PartFile, RunSummary, WaitNotice

__all__ = [
    "TICKS_PER_USD",
    "Answer",
    "AnswerSpec",
    "Attempt",
    "AttemptState",
    "Cell",
    "Completed",
    "Counters",
    "EndedWithout",
    "Estimate",
    "Example",
    "Exchange",
    "Failed",
    "ImageKind",
    "ImagePreparation",
    "ImageRef",
    "ImageSize",
    "ImageSlot",
    "Intent",
    "JsonObject",
    "Label",
    "Lane",
    "Outcome",
    "Page",
    "PartFile",
    "Payload",
    "Prompt",
    "Purpose",
    "RawAnswer",
    "Recipe",
    "Request",
    "Row",
    "RunSummary",
    "Shard",
    "Tries",
    "Usage",
    "WaitNotice",
]
