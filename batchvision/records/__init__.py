"""The values that pass between packages. They are frozen, do no I/O, and derive further values only.

In the order of a row: Row -> Request -> Intent (durable) -> RawAnswer (durable) -> Answer -> Attempt, Outcome.
Times are aware UTC datetimes. Money is integer ticks (1 USD = 10^10 ticks). Tokens are integers; ``None``: unknown.
"""

from __future__ import annotations

from batchvision.records.exchanges import (
    Answer,
    Attempt,
    AttemptState,
    Completed,
    EndedWithout,
    Exchange,
    Failed,
    Intent,
    Outcome,
    RawAnswer,
    Usage,
)
from batchvision.records.progress import FailureExample, Progress, RunFigures, SendRate, progress_of
from batchvision.records.requests import (
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
from batchvision.records.shard import Shard
from batchvision.records.summaries import Counters, PartFile, RateSample, RunSummary, WaitNotice

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
    "FailureExample",
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
    "Progress",
    "Prompt",
    "Purpose",
    "RateSample",
    "RawAnswer",
    "Recipe",
    "Request",
    "Row",
    "RunFigures",
    "RunSummary",
    "SendRate",
    "Shard",
    "Tries",
    "Usage",
    "WaitNotice",
    "progress_of",
]
