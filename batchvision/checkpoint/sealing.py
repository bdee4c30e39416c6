"""What a seal does on the disk, in this order: parts, then the next segment, and only then the old one goes.

Blocking, and called off the loop, one seal at a time. A crash between any two steps leaves the old segment, or the new
one, whole; whichever is the newest tells all that the parts do not have yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from batchvision.checkpoint.compaction import merge_sealed
from batchvision.checkpoint.disk import Disk, hidden_name
from batchvision.checkpoint.entries import Entry, SegmentHeader
from batchvision.checkpoint.journal import Segment
from batchvision.checkpoint.manifest_index import INDEX_NAME
from batchvision.checkpoint.parts import (
    FAILURES_TABLE,
    dated_path,
    failures_path,
    part_file,
    seal,
    seal_encoded,
    sha256_of,
)
from batchvision.checkpoint.run_state import Cut
from batchvision.checkpoint.schema import TableSchemas
from batchvision.checkpoint.unsealed import Unsealed
from batchvision.records import PartFile


class Sealer:
    """Makes the files of one run in one output (and shard): its parts, and its segments in ``folder``."""

    def __init__(
        self,
        disk: Disk,
        output: Path,
        folder: Path,
        header: SegmentHeader,
        tables: TableSchemas,
        mask: Callable[[str], str],
    ) -> None:
        self.parts: dict[str, PartFile] = {}  #: sealed so far, by path; ``failures`` as it is now
        self.found: dict[str, PartFile] = {}  #: sealed by others, to be listed by this run's summary
        self._disk = disk
        self._output = output
        self._folder = folder
        self.header = header
        self._tables = tables
        self._mask = mask

    def turn(self, old: Segment, cut: Cut) -> Segment:
        """Seal ``cut`` under the old segment's name, and go on in a new one that begins with all that is open.

        Until that one is there the old one counts: its parts will be sealed again, with what still comes, so only then
        are they this run's to list.
        """
        sealed = self.write_parts(old.header, cut)
        segment = self.begin(old.header.seq + 1, cut)
        self.parts |= sealed
        old.close()
        self.remove([old.path])
        return segment

    def write_parts(self, header: SegmentHeader, cut: Cut) -> dict[str, PartFile]:
        """The parts of a cut; the dated ones are returned, to be listed when they are sure to stay as they are."""
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
        """The dated parts of another shard's cut."""
        dated = self._dated("results", header, cut.completed) if cut.completed else {}
        return dated | (self._dated("attempts", header, cut.attempts) if cut.attempts else {})

    def failures(self, shard: str, cut: Cut) -> PartFile:
        return seal(self._disk, self._output, failures_path(shard), self._tables.failures(cut.failures or ()))

    def _dated(self, table: str, header: SegmentHeader, rows: Unsealed[Any]) -> dict[str, PartFile]:
        path = dated_path(table, header.shard, header.run_id, header.started_at, header.seq)
        return {path: self._seal(path, rows)}

    def _seal(self, relative: str, rows: Unsealed[Any]) -> PartFile:
        return seal_encoded(self._disk, self._output, relative, rows.encoded())

    def find(self, paths: Iterable[Path]) -> None:
        """Parts that this run has not sealed and no summary lists as they are: of a killed run, or padded just now."""
        for path in paths:
            part = part_file(self._output, path)
            self.found[part.path] = part

    def listed(self) -> dict[str, PartFile]:
        """The parts for this run's summary. Failures of another shard count only as long as its own run has not
        replaced them."""
        found = {
            path: part
            for path, part in self.found.items()
            if part.table != FAILURES_TABLE or sha256_of(self._output / path) == part.sha256
        }
        return {**found, **self.parts}

    def merge(self, goes_on: Callable[[], bool]) -> None:
        """Few parts in the place of the many that this run has sealed."""
        merge_sealed(self._disk, self._output, self.parts, goes_on)

    def begin(self, seq: int, cut: Cut) -> Segment:
        header = replace(self.header, seq=seq)
        return Segment.create(self._disk, self._folder, header, cut.entries(), self._mask)

    def leave(self, folder: Path, shard: str, seq: int, entries: Iterable[Entry]) -> None:
        """Begin a segment of another shard, with what is still open in it, for the next run on that shard."""
        header = replace(self.header, shard=shard, seq=seq)
        Segment.create(self._disk, folder, header, entries, self._mask).close()

    def remove(self, segments: list[Path]) -> None:
        for path in segments:
            if path.exists():  # a seal that is made again may have removed it
                self._disk.remove(path)
        if segments:
            self._disk.sync_folder(segments[0].parent)


def leftovers(folder: Path) -> list[Path]:
    """Files in a shard's folder that never got their name: a crash left them."""
    return [path for name in ("journal-*.log", INDEX_NAME) for path in folder.glob(hidden_name(Path(name)).name)]
