"""Append-only log files: the segments of the journal, and ``open.log``.

A file is text, one record a line: ``crc32hex SP json LF``. Each record has its group's number ``g``. The last record of
a group has the group's length (``"last":3``). A group is written only after the fdatasync of the group before returned.
So a bad record without a later group behind it is a torn tail, which was never acknowledged. A bad record with a later
group behind it is damage. A failed write or fsync is never tried again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from batchvision.checkpoint.disk import PRIVATE, OpenedFile, start_file
from batchvision.checkpoint.journal_records import VERSION, Record, SegmentHeader
from batchvision.checkpoint.record_json import decode, encode
from batchvision.checkpoint.storage import JournalFiles
from batchvision.errors import CheckpointDamaged

#: A group is written in pieces of at least so many bytes.
PIECE_BYTES = 1024 * 1024


class LogFile:
    """One file, open for appending."""

    def __init__(self, files: JournalFiles, path: Path, descriptor: int) -> None:
        self.path = path
        self.file = OpenedFile.at(path, descriptor)
        self.appended_bytes = 0  #: without the records that it began with
        self._files = files
        self._descriptor: int | None = descriptor
        self._groups = 1

    @classmethod
    def create(cls, files: JournalFiles, path: Path, records: Iterable[Record], mask: Callable[[str], str]) -> LogFile:
        """Make a file of one group. It is durable under its name when this returns, and replaces an older one."""
        pieces = _pieces(0, (encode(record, mask) for record in records))
        return cls(files, path, start_file(files, path, pieces, PRIVATE))

    def append(self, bodies: Iterable[bytes]) -> None:
        """Write one group of encoded records, at least one. It is durable when this returns."""
        if self._descriptor is None:
            raise RuntimeError(f"{self.path} is closed")
        for piece in _pieces(self._groups, bodies):
            self._files.write(self._descriptor, piece)
            self.appended_bytes += len(piece)
        self._files.sync(self._descriptor)
        self._groups += 1

    def close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            self._files.close(descriptor)


def frame_group(number: int, bodies: Iterable[bytes]) -> bytes:
    """The lines of one group."""
    return b"".join(_pieces(number, bodies))


def _pieces(number: int, bodies: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a group, as they are written. A large group is never in memory as a whole."""
    lines, size_bytes, rest = list[bytes](), 0, iter(bodies)
    body, at = next(rest, None), 1
    while body is not None:
        following = next(rest, None)
        last = b"" if following is not None else b'"last":%d,' % at
        content = b'{"g":%d,%s%s' % (number, last, body[1:])
        lines.append(b"%08x %s\n" % (crc32(content), content))
        size_bytes += len(lines[-1])
        if size_bytes >= PIECE_BYTES:
            yield b"".join(lines)
            lines, size_bytes = [], 0
        body, at = following, at + 1
    if lines:
        yield b"".join(lines)


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
    """The content of a log file. ``torn_bytes`` at its end were never acknowledged, and are cut off."""

    header: SegmentHeader
    records: list[Record]
    torn_bytes: int


def read_log(path: Path, *, whole_groups: bool = False) -> Scan:
    """Read a segment or ``open.log``, and check its checksums. Raises CheckpointDamaged, FileNotFoundError.

    ``whole_groups``: the records of an incomplete last group belong to the torn tail.
    """
    raw = path.read_bytes()
    frames, torn_bytes = scan(raw, path)
    while whole_groups and not frames[-1].last:
        torn_bytes = len(raw) - frames.pop().offset
    records = [_record(frame, path) for frame in frames]
    header = records[0]
    if not isinstance(header, SegmentHeader):
        raise damaged(path, 0, "it does not begin with a segment header")
    return Scan(header, records[1:], torn_bytes)


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


def _record(frame: Frame, path: Path) -> Record:
    try:
        record = decode(frame.document)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as fault:
        raise damaged(path, frame.offset, f"a record cannot be read ({fault})") from fault
    if isinstance(record, SegmentHeader) and record.version > VERSION:
        raise CheckpointDamaged(
            f"{path} was written by a later batchvision (journal version {record.version}, this one reads {VERSION})",
            next_step="upgrade with `pip install -U batchvision`, then run again",
        )
    return record


def damaged(path: Path, offset: int, what: str) -> CheckpointDamaged:
    """The error for a log file, which lies in ``<output>/.batchvision/<shard>/``."""
    output = path.parents[2] if len(path.parents) > 2 else "OUT"
    return CheckpointDamaged(
        f"{path} is damaged at byte {offset}: {what}",
        next_step=f"copy the folder, then `batchvision verify {output}` lists what is whole",
    )
