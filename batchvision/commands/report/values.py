"""The values of a report, ready to be shown. No text here is HTML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from batchvision.commands.status import OutputStatus
from batchvision.records import RunSummary


class Asked(NamedTuple):
    """The question of the last run. ``labels``: value and description."""

    provider: str
    model: str
    system: str | None
    user: str
    labels: tuple[tuple[str, str | None], ...]
    schema: str | None
    examples: int


class LabelCount(NamedTuple):
    """``rows`` with this answer, and a share of all answered rows."""

    label: str
    rows: int
    share: float


class Card(NamedTuple):
    """A row in the gallery. ``thumbnail``: a data URI; without one ``no_thumbnail`` says why.

    ``answer``: the whole answer; a review names it. ``shown``: its beginning, or the message of a failure;
    empty for several properties, which are ``details``.
    ``expected``: the known answer, where the answer is wrong. ``details``: name and value of the other cells.
    """

    row_id: str
    is_failed: bool
    label: str
    answer: str
    shown: str
    expected: str | None
    details: tuple[tuple[str, str], ...]
    cost_usd: str
    image: str
    thumbnail: str | None
    no_thumbnail: str


class FailureKind(NamedTuple):
    """Failed rows of one kind, with the message of one of them."""

    kind: str
    rows: int
    advice: str
    example_id: str
    example: str


class TimeSpan(NamedTuple):
    """Attempts that ended in one span of the last run. Latencies in seconds; ``None`` without an answer."""

    begins_seconds: float
    length_seconds: float
    answers: int
    failed: int
    retried: int
    cost_ticks: int
    latency_median: float | None
    latency_95: float | None


class RunPoint(NamedTuple):
    """One run in the trend."""

    run_id: str
    started_at: datetime
    rows_completed: int
    rows_failed: int
    rows_pending: int
    exit_code: int
    stop_reason: str | None
    cost_ticks: int | None
    seconds: float


class SettingValue(NamedTuple):
    """A setting of the last run. ``source``: flag, environment, job file or default; empty where it is not known."""

    key: str
    value: str
    source: str


class WrongAnswer(NamedTuple):
    """A row whose answer is not the known one."""

    row_id: str
    expected: str
    answered: str


class Measured(NamedTuple):
    """The accuracy of one property. ``words``: a sentence. Without ``matrix`` the answers are text.

    ``labels``: name, expected and answered rows, precision, recall and F1. ``matrix``: a line for each expected label.
    """

    name: str
    words: str
    kappa: float | None
    macro_f1: float
    labels: tuple[Mapping[str, Any], ...]
    matrix: tuple[tuple[int, ...], ...]
    wrong: tuple[WrongAnswer, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that the page shows. ``cards`` are some of ``rows_known`` rows.

    ``timed``: the last run that sent a request. ``spans`` are of it.
    """

    status: OutputStatus
    made_at: datetime
    asked: Asked | None
    labels: tuple[LabelCount, ...]
    cards: tuple[Card, ...]
    rows_known: int
    failures: tuple[FailureKind, ...]
    accuracy: tuple[Measured, ...]
    timed: RunSummary | None
    spans: tuple[TimeSpan, ...]
    runs: tuple[RunPoint, ...]
    settings: tuple[SettingValue, ...]
    versions: Mapping[str, str]

    @property
    def latest(self) -> RunSummary | None:
        return self.status.latest

    @property
    def title(self) -> str:
        return Path(self.status.output).name if self.latest is None else self.latest.job
