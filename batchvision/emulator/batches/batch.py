"""One batch: its requests, their results, and its state at a time. No I/O.

Times are seconds since 1970. ``settle_to`` moves a batch to a time: due requests are answered in the order of their
``ready_at``, and unfinished ones end when the batch expires or is cancelled.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from batchvision.emulator.batches.lines import BatchLine, LineProblem
from batchvision.emulator.checks import ParsedRequest
from batchvision.emulator.ledger import OpenEntry
from batchvision.emulator.options import Face

#: The part of the duration in which requests are answered. In the rest OpenAI's batch is ``finalizing``.
_ANSWERING = 0.9


class ItemState(StrEnum):
    """The state of one request, in xAI's words; ``expired`` is OpenAI's."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(slots=True)
class BatchItem:
    """One request of a batch. ``document``: the chat completion, or the error in the dialect of the face."""

    line: BatchLine
    added_at: float
    ready_at: float
    state: ItemState = ItemState.PENDING
    status: int = 0
    document: dict[str, Any] = field(default_factory=dict)
    entry: OpenEntry | None = None
    is_garbled: bool = False
    is_missing: bool = False
    finished_at: float | None = None


@dataclass(slots=True, eq=False)
class EmulatedBatch:
    """``is_sealed``: made of a file. ``validates_at``: when its file is read. ``name``: of xAI's batches."""

    id: str
    face: Face
    created_at: float
    expires_at: float
    validates_at: float
    duration_seconds: float
    seed: int
    name: str = ""
    metadata: dict[str, str] | None = None
    endpoint: str = ""
    input_file_id: str | None = None
    is_validated: bool = False
    problems: tuple[LineProblem, ...] = ()
    cancelled_at: float = math.inf
    cancel_takes_seconds: float = 0.0
    ended_at: float | None = None
    items: dict[str, BatchItem] = field(default_factory=dict)
    finished: list[BatchItem] = field(default_factory=list)  #: in the order of their answers
    result_files: set[str] = field(default_factory=set)  #: the kinds that were made
    _waiting: deque[BatchItem] = field(default_factory=deque)

    @property
    def is_sealed(self) -> bool:
        return self.input_file_id is not None

    @property
    def markers(self) -> str:
        """The text that may hold markers of faults."""
        return " ".join((self.name, *(self.metadata or {}).values()))

    def add(self, lines: Iterable[BatchLine], now: float) -> None:
        """Add requests. They are answered evenly over the duration, in a random order."""
        added = [BatchItem(line, now, 0.0) for line in lines]
        by_answer = random.Random(f"{self.seed}|{len(self.items)}|{len(added)}").sample(added, len(added))
        for place, item in enumerate(by_answer, 1):
            item.ready_at = now + self.duration_seconds * _ANSWERING * place / len(added)
        self.ended_at = None
        self.items.update({item.line.custom_id: item for item in added})
        self._waiting = deque(sorted((*self._waiting, *by_answer), key=lambda item: item.ready_at))

    def settle_to(self, now: float, answer: Callable[[EmulatedBatch, BatchItem], None], most: int) -> bool:
        """Answer at most ``most`` due requests; end the rest if the batch is over. Returns whether more are due."""
        stops_at = min(self.expires_at, self.cancelled_at)
        while self._waiting and self._waiting[0].ready_at <= min(now, stops_at):
            if not most:
                return True
            most -= 1
            item = self._waiting.popleft()
            answer(self, item)
            item.finished_at = item.ready_at
            self.finished.append(item)
        if now >= stops_at and self._waiting:
            is_expired = self.expires_at <= self.cancelled_at and self.face is Face.OPENAI
            for item in self._waiting:
                item.state = ItemState.EXPIRED if is_expired else ItemState.CANCELLED
            self._waiting.clear()
        if self.is_validated and not self._waiting and self.ended_at is None and self.items:
            last = max((item.ready_at for item in self.finished), default=self.validates_at)
            wait = self.duration_seconds * (1 - _ANSWERING) if self.is_sealed else 0.0
            self.ended_at = min(last + wait, stops_at)
        return False

    def count(self, *states: ItemState) -> int:
        return sum(item.state in states for item in self.items.values())

    def is_open(self, now: float) -> bool:
        """Whether it takes part of the quota."""
        is_over = self.problems or now >= min(self.expires_at, self.cancelled_at)
        return not is_over and not (self.is_validated and self.items and not self._waiting)

    def enqueued_tokens(self) -> dict[str, int]:
        """Prompt tokens of unanswered requests by model."""
        tokens: dict[str, int] = {}
        for item in self._waiting:
            asked = item.line.asked
            if isinstance(asked, ParsedRequest):
                tokens[asked.model] = tokens.get(asked.model, 0) + asked.text_tokens + asked.image_tokens
        return tokens

    def openai_status(self, now: float) -> str:
        """The status word of OpenAI's batches."""
        if not self.is_validated and self.cancelled_at == math.inf:
            return "validating"
        if self.problems:
            return "failed"
        if self.cancelled_at <= now:
            return "cancelling" if now < self.cancelled_at + self.cancel_takes_seconds else "cancelled"
        if self.count(ItemState.EXPIRED):
            return "expired"
        if self._waiting:
            return "in_progress"
        return "finalizing" if now < (self.ended_at or 0.0) else "completed"
