"""The file operations of a seal, in this order: write parts, write the next segment, remove the old segment.

They block, and run off the event loop, one seal at a time. A crash between two steps leaves the old segment or the new
one whole. The newest segment holds every record that the parts lack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from batchvision.checkpoint.compaction import merge_sealed
from batchvision.checkpoint.disk import hidden_name
from batchvision.checkpoint.entries import Entry, SegmentHeader
from batchvision.checkpoint.journal import Segment
from batchvision.checkpoint.lock import OutputLock
from batchvision.checkpoint.manifest_index import INDEX_NAME
from batchvision.checkpoint.parts import (
    FAILURES_TABLE,
    dated_path,
    failures_path,
    part_file,
    seal,
    sha256_of,
)
from batchvision.checkpoint.run_state import Cut, Unsealed
from batchvision.checkpoint.schema import TableSchemas
from batchvision.checkpoint.storage import JournalFiles, PartStore
from batchvision.records import PartFile


class Sealer:
    """Writes the parts and segments of one run in one output (and shard)."""

    def __init__(
        self, lock: OutputLock, header: SegmentHeader, tables: TableSchemas, files: JournalFiles, store: PartStore
    ) -> None:
        self.parts: dict[str, PartFile] = {}  #: parts of this run by path, and ``failures`` as it is now
        self.found: dict[str, PartFile] = {}  #: parts of other runs that this run's summary lists
        self.header = header
        self._output = lock.output
        self._folder = lock.folder
        self._tables = tables
        self._files = files
        self._store = store

    def replace_segment(self, old: Segment, cut: Cut) -> Segment:
        """Seal ``cut`` under the old segment's name, and return a new segment that begins with the open records.

        Until the new segment exists, a later seal may write the same parts again. Only then does this run list them.
        """
        sealed = self.write_parts(old.header, cut)
        segment = self.begin(old.header.seq + 1, cut)
        self.parts |= sealed
        old.close()
        self.remove([old.path])
        return segment

    def write_parts(self, header: SegmentHeader, cut: Cut) -> dict[str, PartFile]:
        """Write the parts of a cut. Return the dated ones, which are listed when they are final."""
        if not cut.has_rows:
            return {}
        dated: dict[str, PartFile] = {}
        if cut.completed:
            dated |= self._dated("results", header, cut.completed)
        path = failures_path(header.shard)
        if cut.failures is not None or not (self._output / path).exists():
            self.parts[path] = self.failures(header.shard, cut)
        if cut.attempts:
            dated |= self._dated("attempts", header, cut.attempts)
        return dated

    def write_dated(self, header: SegmentHeader, cut: Cut) -> dict[str, PartFile]:
        """Write the dated parts of another shard's cut."""
        dated = self._dated("results", header, cut.completed) if cut.completed else {}
        return dated | (self._dated("attempts", header, cut.attempts) if cut.attempts else {})

    def failures(self, shard: str, cut: Cut) -> PartFile:
        return seal(self._store, self._output, failures_path(shard), self._tables.failures(cut.failures or ()))

    def _dated(self, table: str, header: SegmentHeader, rows: Unsealed[Any]) -> dict[str, PartFile]:
        path = dated_path(table, header.shard, header.run_id, header.started_at, header.seq)
        return {path: self._seal(path, rows)}

    def _seal(self, relative: str, rows: Unsealed[Any]) -> PartFile:
        return seal(self._store, self._output, relative, rows.encoded())

    def find(self, paths: Iterable[Path]) -> None:
        """Note parts that no summary lists as they are: of a killed run, or padded by this one."""
        for path in paths:
            part = part_file(self._output, path)
            self.found[part.path] = part

    def listed(self) -> dict[str, PartFile]:
        """The parts for this run's summary, without failures that another shard's run has replaced."""
        found = {
            path: part
            for path, part in self.found.items()
            if part.table != FAILURES_TABLE or sha256_of(self._output / path) == part.sha256
        }
        return {**found, **self.parts}

    def merge(self, goes_on: Callable[[], bool]) -> None:
        """Merge the parts of this run."""
        merge_sealed(self._store, self._output, self.parts, goes_on)

    def begin(self, seq: int, cut: Cut) -> Segment:
        header = replace(self.header, seq=seq)
        return Segment.create(self._files, self._folder, header, cut.entries(), self._tables.mask)

    def leave(self, folder: Path, shard: str, seq: int, entries: Iterable[Entry]) -> None:
        """Begin a segment of another shard with its open records, for the next run on that shard."""
        header = replace(self.header, shard=shard, seq=seq)
        Segment.create(self._files, folder, header, entries, self._tables.mask).close()

    def remove(self, segments: list[Path]) -> None:
        for path in segments:
            if path.exists():  # a seal that is made again may have removed it
                self._files.remove(path)
        if segments:
            self._files.sync_folder(segments[0].parent)


def leftovers(folder: Path) -> list[Path]:
    """Incomplete files that a crash has left in a shard's folder."""
    return [path for name in ("journal-*.log", INDEX_NAME) for path in folder.glob(hidden_name(Path(name)).name)]
