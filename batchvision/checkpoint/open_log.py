"""``open.log``: what outlives the segments of a shard. Open exchanges, carries, and failures newer than their table.

A seal appends one group: how the open work differs from the seal before, and ``sealed N``. That group is the commit
point of the seal. From then on the segments up to N count no more. The file is written anew when less than half of it
is live.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from batchvision.checkpoint.journal_records import Record, Sealed, SegmentHeader
from batchvision.checkpoint.log_file import LogFile, read_log
from batchvision.checkpoint.record_json import encode
from batchvision.checkpoint.storage import JournalFiles

OPEN_LOG_NAME = "open.log"
#: A file of up to so many records is not worth writing anew.
FEW_RECORDS = 10_000


class OpenWorkRead(NamedTuple):
    """The content of ``open.log``. Segments up to ``sealed`` are in the parts and in ``records``."""

    records: Sequence[Record] = ()
    sealed: int = 0
    exists: bool = False


def read_open_log(folder: Path) -> OpenWorkRead:
    """Read a shard's file, if there is one. Raises CheckpointDamaged."""
    try:
        scan = read_log(folder / OPEN_LOG_NAME, whole_groups=True)
    except FileNotFoundError:
        return OpenWorkRead()
    sealed = max((record.seq for record in scan.records if isinstance(record, Sealed)), default=0)
    return OpenWorkRead(scan.records, sealed, exists=True)


class OpenLog:
    """Writes the file of one shard. A run's first write makes the file anew, so that no torn tail stays."""

    def __init__(self, files: JournalFiles, folder: Path, header: SegmentHeader, mask: Callable[[str], str]) -> None:
        self._files = files
        self._path = folder / OPEN_LOG_NAME
        self._header = replace(header, seq=0)
        self._mask = mask
        self._log: LogFile | None = None
        self._has_begun = False
        self._records = 0  # in the file

    def is_due(self, live: int) -> bool:
        """Whether the next write must be of everything that is live, at most so many records."""
        return not self._has_begun or self._records > FEW_RECORDS + 2 * live

    def write(self, records: Iterable[Record], seq: int, *, is_whole: bool) -> None:
        """Commit the seal of segment ``seq``. ``is_whole``: ``records`` are everything that is live. Raises OSError."""
        group = chain(records, (Sealed(seq),))
        if is_whole:
            self._begin(group)
        elif self._log is None:  # after a failed write: never again to the same file
            self._begin(chain(read_open_log(self._path.parent).records, group))
        else:
            try:
                self._log.append(encode(record, self._mask) for record in self._counted(group))
            except OSError:
                self.close()
                raise

    def _begin(self, records: Iterable[Record]) -> None:
        self.close()
        self._records = 0
        group = chain((self._header,), self._counted(records))
        self._log = LogFile.create(self._files, self._path, group, self._mask)
        self._has_begun = True

    def _counted(self, records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            self._records += 1
            yield record

    def close(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None
