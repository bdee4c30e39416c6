"""The journal: records gather into groups (append, one write, one fdatasync, acknowledge), and groups into segments.

A segment closes at the end of a group. The next one begins before the closed one is sealed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from batchvision.checkpoint.disk import disk_failed
from batchvision.checkpoint.journal_records import Record, SegmentHeader
from batchvision.checkpoint.log_file import LogFile
from batchvision.checkpoint.record_json import encode
from batchvision.checkpoint.storage import JournalFiles
from batchvision.errors import DiskFailed, StopRun
from batchvision.eventloop import Wakeup, loop_time

#: A group is written so long after its first record. A slot on the wire waits for it.
GROUP_SECONDS = 0.001
#: A group of so many bytes is written at once.
GROUP_BYTES = 64 * 1024

# ---------------------------------------------------------------------------------- append, group, fsync, acknowledge


@dataclass(slots=True, eq=False)
class Group:
    """Records that become durable together, with one acknowledgement."""

    bodies: list[bytes] = field(default_factory=list)
    size_bytes: int = 0
    _failure: StopRun | None = None
    _is_hurried: bool = False
    _changed: Wakeup = field(default_factory=Wakeup)
    #: wakes its waiters in the order in which they came
    _settled: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, body: bytes) -> None:
        self.bodies.append(body)
        self.size_bytes += len(body)
        if len(self.bodies) == 1 or self.size_bytes >= GROUP_BYTES:
            self._changed.tell()

    async def filled(self, patience_seconds: float) -> None:
        """Return ``GROUP_SECONDS`` after the first record, at ``GROUP_BYTES``, or after ``patience_seconds``."""
        latest = loop_time() + patience_seconds
        while not self.bodies and not self._is_hurried and loop_time() < latest:
            await self._changed.wait(until=latest)
        latest = min(latest, loop_time() + GROUP_SECONDS)
        while self.size_bytes < GROUP_BYTES and not self._is_hurried and loop_time() < latest:
            await self._changed.wait(until=latest)

    def settle(self, failure: StopRun | None = None) -> None:
        """Acknowledge the group, or fail it. A second call changes nothing."""
        if not self._settled.is_set():
            self._failure = failure
            self._settled.set()
            self.hurry()

    def hurry(self) -> None:
        self._is_hurried = True
        self._changed.tell()

    async def durable(self) -> None:
        """Return when every record of the group is durable. Raises DiskFailed when that will never be."""
        await self._settled.wait()
        if self._failure is not None:
            raise self._failure


class Segment:
    """One file of the journal, open for appending. Its header names the parts that a seal makes of it."""

    def __init__(self, log: LogFile, header: SegmentHeader) -> None:
        self.log = log
        self.header = header

    @classmethod
    def create(
        cls,
        files: JournalFiles,
        folder: Path,
        header: SegmentHeader,
        records: Iterable[Record],
        mask: Callable[[str], str],
    ) -> Segment:
        """Make a segment that begins with ``records``. It is durable under its name when this returns."""
        return cls(LogFile.create(files, segment_path(folder, header.seq), (header, *records), mask), header)


class Journal:
    """The open segment and the gathering group. One caller at a time writes."""

    def __init__(self, segment: Segment, mask: Callable[[str], str]) -> None:
        self.segment = segment
        self.gathering = Group()
        self.failure: StopRun | None = None
        self._mask = mask

    def append(self, record: Record) -> Group:
        """Append a record. It is durable when the returned group is."""
        if self.failure is not None:
            raise self.failure
        self.gathering.add(encode(record, self._mask))
        return self.gathering

    def take(self) -> Group:
        """The gathered group. Later records gather for the next one."""
        if self.failure is not None:
            raise self.failure
        group, self.gathering = self.gathering, Group()
        return group

    @contextmanager
    def failing(self, doing: str, groups: Sequence[Group]) -> Iterator[None]:
        """Fail the groups, and every later record, after any error inside the block."""
        try:
            yield
        except OSError as fault:
            self.fail(disk_failed(doing, fault), groups)
            raise self.failure or fault from fault
        except StopRun as fault:
            self.fail(fault, groups)
            raise
        except BaseException as fault:
            self.fail(DiskFailed(f"{doing} was broken off: {fault!r}"), groups)
            raise

    def fail(self, failure: StopRun, groups: Sequence[Group] = ()) -> None:
        """Refuse every later record."""
        self.failure = failure
        for group in (*groups, self.gathering):
            group.settle(failure)


# ---------------------------------------------------------------------------------- files


def segment_path(folder: Path, seq: int) -> Path:
    return folder / f"journal-{seq:08d}.log"


def segment_seq(path: Path) -> int:
    return int(path.stem.removeprefix("journal-"))


def is_segment(path: Path) -> bool:
    return re.fullmatch(r"journal-\d{8,}\.log", path.name) is not None


def segment_paths(folder: Path) -> list[Path]:
    """The segments of a shard, oldest first."""
    return sorted(filter(is_segment, folder.glob("journal-*.log")), key=segment_seq)
