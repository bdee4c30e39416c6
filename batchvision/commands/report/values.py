"""The values of a report, ready to be shown. No text here is HTML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from batchvision.commands.status import FailureKind, OutputStatus
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


class Change(StrEnum):
    """A row compared with the other output."""

    SAME = "same"  #: the same answer in both
    CHANGED = "changed"  #: another answer
    LOST = "lost"  #: answered in the other output, failed here
    NEW = "new"  #: answered here only
    FAILED = "failed"  #: failed here, no answer in the other output

    @property
    def is_different(self) -> bool:
        """Whether an answer of the other output is not the answer here."""
        return self in (Change.CHANGED, Change.LOST)


class Beside(NamedTuple):
    """The answer of the other output to a row: its label, its whole text and its cost."""

    change: Change
    label: str = ""
    answer: str | None = None
    cost_ticks: int | None = None


class LabelAgreement(NamedTuple):
    """``rows`` have this label in the other output; ``same`` of them have it here.

    ``instead``: the most frequent other labels here, with their rows.
    """

    label: str
    rows: int
    same: int
    instead: tuple[tuple[str, int], ...]


class PropertyAgreement(NamedTuple):
    """``same`` of ``rows`` have an equal value of this property in both outputs."""

    name: str
    rows: int
    same: int


class Comparison(NamedTuple):
    """An output beside another one. ``rows`` have an answer in both: the ``same`` or a ``changed`` one.

    ``only_there`` includes rows that failed here. Costs are of ``cost_rows``: answered in both, at a known cost.
    ``accuracy``: sentences about the other output.
    """

    name: str
    model: str
    rows: int
    same: int
    changed: int
    only_here: int
    only_there: int
    kappa: float | None
    labels: tuple[LabelAgreement, ...]
    properties: tuple[PropertyAgreement, ...]
    cost_rows: int
    cost_ticks: int
    other_cost_ticks: int
    accuracy: tuple[str, ...]


class Card(NamedTuple):
    """A row in the gallery. ``thumbnail``: a data URI, or ``None`` with the reason in ``no_thumbnail``.

    ``answer``: the whole answer; a review names it. ``shown``: its beginning, or the message of a failure;
    empty for several properties, which are ``details``.
    ``expected``: the known answer, where the answer is wrong. ``details``: name and value of the other cells.
    ``beside``: the answer of the other output, where the report compares two.
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
    beside: Beside | None = None


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
    """A row with a wrong answer."""

    row_id: str
    expected: str
    answered: str


class Measured(NamedTuple):
    """The accuracy of one property, a share. ``words``: a sentence. Without ``matrix`` the answers are text.

    ``labels``: name, expected and answered rows, precision, recall and F1. ``matrix``: a line for each expected label.
    """

    name: str
    accuracy: float
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
    comparison: Comparison | None = None

    @property
    def latest(self) -> RunSummary | None:
        return self.status.latest

    @property
    def title(self) -> str:
        return Path(self.status.output).name if self.latest is None else self.latest.job

    def document(self) -> dict[str, Any]:
        """JSON content: the values of the page without thumbnails and settings."""
        rows = [{name: value for name, value in card._asdict().items() if name != "thumbnail"} for card in self.cards]
        return {
            **self.status.document(),
            "made_at": self.made_at.isoformat(),
            "rows_known": self.rows_known,
            "asked": _plain(self.asked),
            "labels": _plain(self.labels),
            "failures": _plain(self.failures),
            "accuracy": _plain(self.accuracy),
            "comparison": _plain(self.comparison),
            "spans": _plain(self.spans),
            "runs": _plain(self.runs),
            "rows": _plain(rows),
        }


def _plain(value: Any) -> Any:
    """The value with each named tuple as an object."""
    match value:
        case tuple() if hasattr(value, "_asdict"):
            return _plain(value._asdict())
        case Mapping():
            return {name: _plain(each) for name, each in value.items()}
        case tuple() | list():
            return list(map(_plain, value))
        case datetime():
            return value.isoformat()
        case _:
            return value
