"""The file operations of a seal: write the parts, commit in ``open.log``, remove the segments.

They block, and run off the event loop, one seal at a time. A crash before the commit leaves the segments: the next
start makes the same parts again, byte for byte. After the commit the segments no longer count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from batchvision.checkpoint.disk import hidden_name
from batchvision.checkpoint.journal import Segment, segment_paths, segment_seq
from batchvision.checkpoint.journal_records import Record, SegmentHeader
from batchvision.checkpoint.lock import OutputLock
from batchvision.checkpoint.manifest_index import INDEX_NAME
from batchvision.checkpoint.open_log import OPEN_LOG_NAME, OpenLog
from batchvision.checkpoint.parts import (
    FAILURES_TABLE,
    dated_path,
    failures_path,
    part_file,
    seal,
    sha256_of,
)
from batchvision.checkpoint.run_state import Cut, RunState
from batchvision.checkpoint.schema import TableSchemas
from batchvision.checkpoint.storage import Disk
from batchvision.records import Failed, PartFile


class ClosedSegment(NamedTuple):
    """The header of a segment that takes no more records, and the cut of the state at its end."""

    header: SegmentHeader
    cut: Cut


def part_path(table: str, header: SegmentHeader) -> str:
    """The path of the part that a seal makes of a segment, inside the output."""
    return dated_path(table, header.shard, header.run_id, header.started_at, header.seq)


class Sealer:
    """Writes the parts, the segments and ``open.log`` of one run in one output (and shard)."""

    def __init__(self, lock: OutputLock, header: SegmentHeader, tables: TableSchemas, disk: Disk) -> None:
        self.parts: dict[str, PartFile] = {}  #: parts of this run by path, and ``failures`` as it is now
        self.found: dict[str, PartFile] = {}  #: parts of other runs that this run's summary lists
        self.tables = tables
        self._header = header
        self._output = lock.output
        self._folder = lock.folder
        self._disk = disk
        self._open_log = OpenLog(disk, lock.folder, header, tables.mask)

    def cut(self, run_state: RunState, *, with_failures: bool) -> Cut:
        """Cut the state at the end of a segment. ``open.log`` is written anew only beside the table ``failures``."""
        is_whole = self._open_log.is_due(run_state.live_records)
        return run_state.cut(with_failures=with_failures or is_whole, is_whole=is_whole)

    def seal(self, closed: ClosedSegment) -> None:
        """Seal a closed segment. The same again, after an error, makes the same files. Raises OSError.

        This run lists a part only after the commit: until then a later start may make it again with more rows.
        """
        header, cut = closed
        dated = {
            **self._dated("results", header, cut.results),
            **self._dated("attempts", header, cut.attempts),
        }
        has_failures = (self._output / failures_path(header.shard)).exists()
        if cut.failures is not None or (dated and not has_failures):
            self._write_failures(header.shard, cut.failures or ())
        self._open_log.write(cut.open_records(), header.seq, is_whole=cut.is_whole)
        (self.parts if header.run_id == self._header.run_id else self.found).update(dated)
        self._remove_segments(header.seq)

    def _dated(self, table: str, header: SegmentHeader, rows: Sequence[pa.Table]) -> dict[str, PartFile]:
        if not rows:
            return {}
        path = part_path(table, header)
        return {path: seal(self._disk, self._output, path, pa.concat_tables(rows))}

    def _write_failures(self, shard: str, failures: Iterable[Failed]) -> None:
        path = failures_path(shard)
        rows = sorted(failures, key=lambda failed: failed.row_id)
        self.parts[path] = seal(self._disk, self._output, path, self.tables.failures(rows))

    def header_of(self, seq: int) -> SegmentHeader:
        """The header of a segment of this run."""
        return replace(self._header, seq=seq)

    def begin(self, seq: int, records: Iterable[Record] = ()) -> Segment:
        """Make a segment of this run."""
        return Segment.create(self._disk, self._folder, self.header_of(seq), records, self.tables.mask)

    def _remove_segments(self, sealed: int) -> None:
        paths = [path for path in segment_paths(self._folder) if segment_seq(path) <= sealed]
        for path in paths:
            self._disk.remove(path)
        if paths:
            self._disk.sync_folder(self._folder)

    def clean(self, sealed: int) -> None:
        """Remove segments that are sealed, and incomplete files that a crash has left."""
        self._remove_segments(sealed)
        for name in ("journal-*.log", INDEX_NAME, OPEN_LOG_NAME):
            for path in self._folder.glob(hidden_name(Path(name)).name):
                self._disk.remove(path)

    def close(self) -> None:
        """Close ``open.log``."""
        self._open_log.close()

    # ---------------------------------------------------------------------------- the summary's list

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
