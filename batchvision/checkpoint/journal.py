"""The journal: an append-only log with group commit (append, one write, one fdatasync, acknowledge).

It is text, one record a line: ``crc32hex SP json LF``. Each record has its group's number ``g``. The last record of a
group has the group's length (``"last":3``). A group is written only after the fdatasync of the group before returned.
So a bad record without a later group behind it is a torn tail, which was never acknowledged. A bad record with a later
group behind it is damage. A failed write or fsync is never tried again.

One segment exists at a time. A new one appears whole, with every open record, before the old one is removed.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from batchvision.checkpoint.disk import PRIVATE, OpenedFile, disk_failed, start_file
from batchvision.checkpoint.entries import VERSION, Entry, SegmentHeader, decode, encode
from batchvision.checkpoint.storage import JournalFiles
from batchvision.errors import CheckpointDamaged, DiskFailed, StopRun
from batchvision.eventloop import Wakeup, loop_time
from batchvision.offload import Offload

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


class Journal:
    """The open segment and the gathering group. One caller at a time commits."""

    def __init__(
        self,
        segment: Segment,
        offload: Offload,
        mask: Callable[[str], str],
        check: Callable[[Segment], None] = lambda segment: None,
    ) -> None:
        """``check`` runs off the loop, after each write and before its acknowledgement. It raises StopRun."""
        self.segment = segment
        self._check = check
        self.gathering = Group()
        self.failure: StopRun | None = None
        self._offload = offload
        self._mask = mask

    def append(self, entry: Entry) -> Group:
        """Append a record. It is durable when the returned group is."""
        if self.failure is not None:
            raise self.failure
        self.gathering.add(encode(entry, self._mask))
        return self.gathering

    async def commit(self, rescue: Callable[[OSError], Awaitable[None]] | None = None) -> None:
        """Make the gathered records durable. Later records gather for the next group.

        ``rescue`` makes the same records durable elsewhere after a failed write, or raises OSError.
        """
        group, segment = self.take(), self.segment
        if group.bodies:
            with self.failing(f"writing the journal {segment.path}", group):
                try:
                    await self._offload(self._append, segment, group.bodies)
                except OSError as fault:
                    if rescue is None:
                        raise
                    await rescue(fault)
        group.settle()

    def _append(self, segment: Segment, bodies: list[bytes]) -> None:
        segment.append(bodies)
        self._check(segment)

    def take(self) -> Group:
        if self.failure is not None:
            raise self.failure
        group, self.gathering = self.gathering, Group()
        return group

    @contextmanager
    def failing(self, doing: str, *groups: Group) -> Iterator[None]:
        """Fail the groups, and every later record, after any error inside the block."""
        try:
            yield
        except OSError as fault:
            self._fail(disk_failed(doing, fault), groups)
            raise self.failure or fault from fault
        except StopRun as fault:
            self._fail(fault, groups)
            raise
        except BaseException as fault:
            self._fail(DiskFailed(f"{doing} was broken off: {fault!r}"), groups)
            raise

    def fail(self, failure: StopRun) -> None:
        """Refuse every later record."""
        self._fail(failure, ())

    def _fail(self, failure: StopRun, groups: Iterable[Group]) -> None:
        self.failure = failure
        for group in (*groups, self.gathering):
            group.settle(failure)


# ---------------------------------------------------------------------------------- segments


class Segment:
    """One file of the journal, open for appending."""

    def __init__(self, files: JournalFiles, path: Path, header: SegmentHeader, descriptor: int) -> None:
        self.path = path
        self.file = OpenedFile.at(path, descriptor)
        self.header = header
        self.appended_bytes = 0  #: without the records that it began with
        self._files = files
        self._descriptor: int | None = descriptor
        self._groups = 1

    @classmethod
    def create(
        cls,
        files: JournalFiles,
        folder: Path,
        header: SegmentHeader,
        entries: Iterable[Entry],
        mask: Callable[[str], str],
    ) -> Segment:
        """Make a segment that begins with ``entries``. It is durable under its name when this returns."""
        bodies = [encode(header, mask), *(encode(entry, mask) for entry in entries)]
        path = segment_path(folder, header.seq)
        return cls(files, path, header, start_file(files, path, frame_group(0, bodies), PRIVATE))

    def append(self, bodies: list[bytes]) -> None:
        """Write one group. It is durable when this returns."""
        if not bodies:
            return
        if self._descriptor is None:
            raise RuntimeError("the segment is closed")
        content = frame_group(self._groups, bodies)
        self._files.write(self._descriptor, content)
        self._files.sync(self._descriptor)
        self._groups += 1
        self.appended_bytes += len(content)

    def close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            self._files.close(descriptor)


def segment_path(folder: Path, seq: int) -> Path:
    return folder / f"journal-{seq:08d}.log"


def segment_paths(folder: Path) -> list[Path]:
    """All segments of a shard, oldest first. Only the newest counts: it was whole before an older one was removed."""
    named = re.compile(r"journal-\d{8,}\.log")
    found = [path for path in folder.glob("journal-*.log") if named.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.stem.removeprefix("journal-")))


def frame_group(number: int, bodies: list[bytes]) -> bytes:
    """The lines of one group."""
    lines = []
    for at, body in enumerate(bodies, start=1):
        last = b'"last":%d,' % at if at == len(bodies) else b""
        content = b'{"g":%d,%s%s' % (number, last, body[1:])
        lines.append(b"%08x %s\n" % (crc32(content), content))
    return b"".join(lines)


# ---------------------------------------------------------------------------------- reading back


class Frame(NamedTuple):
    """A line with a correct checksum."""

    offset: int
    group: int
    last: int  #: on a group's last record the length of the group, otherwise 0
    document: dict[str, Any]

    @property
    def next_group(self) -> int:
        """The group of the next record."""
        return self.group + 1 if self.last else self.group


class Scan(NamedTuple):
    """The content of a segment. ``torn_bytes`` at its end were never acknowledged, and are cut off."""

    header: SegmentHeader
    entries: list[Entry]
    torn_bytes: int


def read_segment(path: Path) -> Scan:
    """Read a segment and check its checksums. Raises CheckpointDamaged."""
    raw = path.read_bytes()
    frames, torn_bytes = scan(raw, path)
    entries = [_entry(frame, path) for frame in frames]
    header = entries[0]
    if not isinstance(header, SegmentHeader):
        raise damaged(path, 0, "it does not begin with a segment header")
    return Scan(header, entries[1:], torn_bytes)


def scan(raw: bytes, path: Path) -> tuple[list[Frame], int]:
    """Return the records before the torn tail, and its size. The first group was whole before it had a name."""
    whole: list[Frame] = []
    count = 0  #: records of this group so far
    lines = _lines(raw)
    for offset, frame in lines:
        if frame is None:
            if _is_torn_tail(whole, lines):
                return whole, len(raw) - offset
            raise damaged(path, offset, "a record is not what was written, and later ones are")
        count = 1 if not whole or whole[-1].last else count + 1
        if frame.group != (whole[-1].next_group if whole else 0) or frame.last not in (0, count):
            raise damaged(path, offset, "records are missing before it")
        whole.append(frame)
    if not whole or whole[-1].next_group == 0:
        raise damaged(path, len(raw), "its beginning is missing")
    return whole, 0


def _is_torn_tail(whole: list[Frame], rest: Iterator[tuple[int, Frame | None]]) -> bool:
    """Whether a bad record after ``whole`` belongs to the last group: no record of a later group follows."""
    if not whole:
        return False
    broken = whole[-1].next_group
    return broken > 0 and not any(frame is not None and frame.group > broken for _, frame in rest)


def _lines(raw: bytes) -> Iterator[tuple[int, Frame | None]]:
    """Each line with its offset, and ``None`` for a wrong checksum. Reading resumes after a newline."""
    offset = 0
    while offset < len(raw):
        end = raw.find(b"\n", offset)
        if end < 0:
            yield offset, None
            return
        yield offset, _checked(offset, raw[offset:end])
        offset = end + 1


def _checked(offset: int, line: bytes) -> Frame | None:
    content = line[9:]
    if line[:9] != b"%08x " % crc32(content):
        return None
    with suppress(ValueError, KeyError, TypeError, ArithmeticError):
        document = json.loads(content.decode("utf-8", "surrogatepass"))
        return Frame(offset, int(document["g"]), int(document.get("last", 0)), document)
    return None


def _entry(frame: Frame, path: Path) -> Entry:
    try:
        entry = decode(frame.document)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as fault:
        raise damaged(path, frame.offset, f"a record cannot be read ({fault})") from fault
    if isinstance(entry, SegmentHeader) and entry.version > VERSION:
        raise CheckpointDamaged(
            f"{path} was written by a later batchvision (journal version {entry.version}, this one reads {VERSION})",
            next_step="upgrade with `pip install -U batchvision`, then run again",
        )
    return entry


def damaged(path: Path, offset: int, what: str) -> CheckpointDamaged:
    """The error for a segment, which lies in ``<output>/.batchvision/<shard>/``."""
    output = path.parents[2] if len(path.parents) > 2 else "OUT"
    return CheckpointDamaged(
        f"{path} is damaged at byte {offset}: {what}",
        next_step=f"copy the folder, then `batchvision verify {output}` lists what is whole",
    )
