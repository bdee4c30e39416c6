"""A submission of the batch lane: the requests of one batch, and their input file until the provider has it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from batchvision.checkpoint import disk_failed
from batchvision.providers import BatchLimits
from batchvision.runner.batch_exchanges import Enrolled


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """``waits`` False: the run ends when everything is submitted, and a later run collects."""

    limits: BatchLimits
    folder: Path  #: of the input files
    run_id: str
    max_wait_seconds: float
    waits: bool = True


@dataclass(slots=True)
class OpenSubmission:
    """``members``: the exchange_ids without an end, in the order of their lines."""

    submission_id: str
    members: dict[str, None] = field(default_factory=dict)
    size_bytes: int = 0
    tokens: float = 0.0
    retries: int = 0
    file: Path | None = None  #: the input file, of a submission of this run
    is_unclear: bool = False  #: its batch was perhaps created

    @property
    def lines(self) -> list[str]:
        """The exchange_ids of all lines, where no member has ended yet."""
        return sorted(self.members, key=_number)

    def has_room_for(self, size_bytes: int, tokens: float, limits: BatchLimits) -> bool:
        most_tokens = limits.max_enqueued_tokens
        return not self.members or (
            len(self.members) < limits.max_lines
            and self.size_bytes + size_bytes <= limits.max_bytes
            and (most_tokens is None or self.tokens + tokens <= most_tokens)
        )

    def add(self, enrolled: Enrolled, tokens: float) -> None:
        """Write the request's line to the input file. Raises DiskFailed."""
        if self.file is None:
            raise RuntimeError("a request was added to a submission of an earlier run")
        self.members[enrolled.exchange_id] = None
        try:
            descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(enrolled.line)
        except OSError as fault:
            raise disk_failed(f"writing {self.file}", fault) from fault
        self.size_bytes += len(enrolled.line)
        self.tokens += tokens
        self.retries += enrolled.is_retry

    def remove_file(self) -> None:
        if self.file is not None:
            self.file.unlink(missing_ok=True)


def _number(exchange_id: str) -> int:
    """The number of the exchange in its run: lines are written in this order."""
    return int(exchange_id.rpartition("-")[2])


def empty_folder(folder: Path) -> None:
    """Remove the input files of a killed run: their rows are pending, or the provider has them. Raises DiskFailed."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
    except OSError as fault:
        raise disk_failed(f"making {folder}", fault) from fault
