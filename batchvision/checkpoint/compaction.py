"""Many small parts made into few: a start reads files, and a warehouse lists them.

A merge writes one part from neighbours of one table, date and shard, a row group at a time, in their order; its rename
is the moment from which they count no more (``lineage.py``), so that a crash before or after it loses no row and shows
none twice. What it was made of is removed only when the new part is durable; the next start removes what is left.

The rule: only parts that no journal can make again are touched, and only by who holds their shard's lock.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from batchvision.checkpoint import lineage
from batchvision.checkpoint.current import Places, superseded
from batchvision.checkpoint.disk import Disk, GrowingFile, LocalDisk, disk_failures
from batchvision.checkpoint.journal import read_segment, segment_paths
from batchvision.checkpoint.lineage import Ancestor, Name
from batchvision.checkpoint.lock import STATE_FOLDER
from batchvision.checkpoint.manifest_index import is_up_to_date
from batchvision.checkpoint.parts import (
    DATED,
    ancestors_of,
    batches_of,
    earlier_sha256,
    part_paths,
    remove_leftovers,
    replaced,
    row_count,
    schema_of,
    sha256_of,
    write_batches,
)
from batchvision.checkpoint.registry import SCHEMAS, nobody_pads, read_registry
from batchvision.checkpoint.shards import all_locked
from batchvision.errors import CheckpointDamaged
from batchvision.records import PartFile

log = logging.getLogger(__name__)

#: A merged part has no more than this: readers that take a column of it whole stay small, too.
PART_ROWS = 256 * 1024
PART_BYTES = 256 * 1024 * 1024
#: So many parts of a table, sealed by one run on one date, are left as they are at its end.
FEW_PARTS = 8
_FULL = (errno.ENOSPC, errno.EDQUOT)


#: A batch and its first row's place in its part; gives a batch with as many rows.
Altered = Callable[[pa.RecordBatch, int], pa.RecordBatch]


class _NotNow(Exception):
    """The merge was given up; nothing has changed."""


# ---------------------------------------------------------------------------------- one part of several


def merge(
    disk: Disk,
    output: Path,
    sources: Sequence[Path],
    dropped: Mapping[Path, Places] | None = None,
    goes_on: Callable[[], bool] = lambda: True,
    altered: Altered = lambda batch, at: batch,
) -> PartFile:
    """Put one part in the place of ``sources``, which are neighbours in one folder, in order; ``dropped``: without
    these of their rows. ``altered`` makes of each batch of a source the one that is written. Raises OSError,
    CheckpointDamaged; then nothing is lost, and nothing stands twice."""
    dropped, folder = dropped or {}, sources[0].parent
    table = folder.parent.name
    with nobody_pads(output):
        first = lineage.first_of(sources[0].name)
        ancestors = tuple(_ancestors(sources, dropped))
        schema = _schema(output, table, sources).with_metadata({lineage.MADE_OF: lineage.written(ancestors)})
        with GrowingFile(disk, folder / f"{first}-merging.parquet") as file:
            write_batches(file, schema, _kept(sources, dropped, goes_on, altered))
            path = folder / lineage.merged_name(first, file.sha256)
            file.publish(path)
    remove(disk, folder, sources)
    return PartFile(table, str(path.relative_to(output)), ancestors[-1].stop, file.sha256)


def remove(disk: Disk, folder: Path, paths: Iterable[Path]) -> None:
    """Names that count no more."""
    for path in paths:
        disk.remove(path)
    disk.sync_folder(folder)


def _ancestors(sources: Sequence[Path], dropped: Mapping[Path, Places]) -> Iterator[Ancestor]:
    """The sources, each behind what it was made of itself, and where their rows will be."""
    at = 0
    for path in sources:
        gone, rows = dropped.get(path, _NONE), row_count(path)

        def now(place: int, at: int = at, gone: Places = gone) -> int:
            return at + place - int(np.searchsorted(gone, place))

        for ancestor in ancestors_of(path):
            yield ancestor._replace(start=now(ancestor.start), stop=now(ancestor.stop))
        yield Ancestor(path.name, rows, (*earlier_sha256(path), sha256_of(path)), at, now(rows))
        at = now(rows)


_NONE: Places = np.array([], np.int64)


def _schema(output: Path, table: str, sources: Sequence[Path]) -> pa.Schema:
    """The registered columns, then those that only a part has: nothing is dropped."""
    registered = read_registry(output)
    schemas = [(path, schema_of(path).remove_metadata()) for path in sources]
    fields = dict[str, pa.Field]()
    for field_ in SCHEMAS[table](registered) if registered else ():
        fields[field_.name] = field_
    for path, schema in schemas:
        for field_ in schema:
            known = fields.setdefault(field_.name, field_)
            if known.type != field_.type:
                raise CheckpointDamaged(
                    f"{path}: the column {field_.name} is {field_.type}, and {known.type} in other parts",
                    next_step=f"`batchvision verify {output}` lists what is whole",
                )
    return pa.schema(list(fields.values()))


def _kept(
    sources: Sequence[Path], dropped: Mapping[Path, Places], goes_on: Callable[[], bool], altered: Altered
) -> Iterator[pa.RecordBatch]:
    for path in sources:
        gone, at = dropped.get(path, _NONE), 0
        for batch in batches_of(path):
            if not goes_on():
                raise _NotNow
            whole = altered(batch, at)
            yield _without(whole, gone, at) if len(gone) else whole
            at += batch.num_rows


def _without(batch: pa.RecordBatch, gone: Places, at: int) -> pa.RecordBatch:
    here = gone[np.searchsorted(gone, at) : np.searchsorted(gone, at + batch.num_rows)] - at
    stays = np.ones(batch.num_rows, np.bool_)
    stays[here] = False
    return batch.filter(pa.array(stays))


# ---------------------------------------------------------------------------------- what a crash left


def finish(disk: Disk, output: Path, shard: str) -> None:
    """Remove what was merged and is still there: a crash left it. Whoever calls this holds the shard."""
    for table in DATED:
        paths = sorted((output / table).glob(f"run_date=*/part-{shard}-*.parquet"))
        for folder, left in groupby(sorted(replaced(paths)), lambda path: path.parent):
            if all(_is_whole(path) for path in paths if path.parent == folder and lineage.is_merged(path.name)):
                remove(disk, folder, left)


def _is_whole(path: Path) -> bool:
    """Byte for byte what was merged, by the hash in its name: only then what it was made of may go."""
    name = Name.of(path.name)
    return name is not None and name.agrees([*earlier_sha256(path), sha256_of(path)])


# ---------------------------------------------------------------------------------- at the end of a run


def merge_sealed(
    disk: Disk, output: Path, parts: MutableMapping[str, PartFile], goes_on: Callable[[], bool] = lambda: True
) -> None:
    """Merge what a run has sealed, where that is more than a few, and put it in the place of the old ones in ``parts``:
    no summary has told of them yet. Stops where ``goes_on`` says no, or the disk has no room for a copy."""
    sealed = sorted((part for part in parts.values() if part.table in DATED), key=lambda part: part.path)
    for _, of_folder in groupby(sealed, lambda part: part.path.rpartition("/")[0]):
        neighbours = list(of_folder)
        if len(neighbours) <= FEW_PARTS:
            continue
        for group in _groups([_Sized.of(output / part.path, part.rows) for part in neighbours]):
            if len(group) > 1 and not _merge_into(disk, output, parts, group, goes_on):
                return


def _merge_into(
    disk: Disk, output: Path, parts: MutableMapping[str, PartFile], group: Sequence[Path], goes_on: Callable[[], bool]
) -> bool:
    try:
        merged = merge(disk, output, group, goes_on=goes_on)
    except _NotNow:
        return False
    except OSError as fault:
        if fault.errno not in _FULL:
            raise
        log.warning("the parts of %s stay as they are: there is no room to merge them", group[0].parent)
        return False
    for path in group:
        del parts[str(path.relative_to(output))]
    parts[merged.path] = merged
    return True


class _Sized(NamedTuple):
    path: Path
    rows: int
    size_bytes: int

    @classmethod
    def of(cls, path: Path, rows: int) -> _Sized:
        return cls(path, rows, path.stat().st_size)


def _groups(parts: Iterable[_Sized]) -> Iterator[list[Path]]:
    """Neighbours that make one part of bounded size."""
    group: list[Path] = []
    rows = size_bytes = 0
    for part in parts:
        if group and (rows + part.rows > PART_ROWS or size_bytes + part.size_bytes > PART_BYTES):
            yield group
            group, rows, size_bytes = [], 0, 0
        group.append(part.path)
        rows, size_bytes = rows + part.rows, size_bytes + part.size_bytes
    if group:
        yield group


# ---------------------------------------------------------------------------------- a whole output


@dataclass(slots=True)
class Compacted:
    """What became of the dated parts of an output; ``rows`` and ``files`` by table."""

    files_before: dict[str, int] = field(default_factory=dict)
    files_after: dict[str, int] = field(default_factory=dict)
    bytes_before: int = 0
    bytes_after: int = 0
    rows: dict[str, int] = field(default_factory=dict)  #: after
    superseded: int = 0  #: answers that were dropped
    is_index_missing: bool = False  #: nothing was dropped: which answers are current is not known
    waiting: int = 0  #: parts that a run which was cut off has still to seal


def compact(output: Path, *, drop_superseded: bool = False, disk: Disk | None = None) -> Compacted:
    """Merge the small parts of all runs of an output; with ``drop_superseded`` leave out the answers of rows whose
    current answer is another one, by the index of the manifest. The ledger keeps every attempt.

    Holds the locks of all shards. Raises OutputHeld, CheckpointDamaged, DiskFailed.
    """
    disk, compacted = disk or LocalDisk(), Compacted()
    with all_locked(output, disk) as locks, disk_failures(f"compacting {output}"):
        for lock in locks:
            remove_leftovers(disk, output, lock.shard)
            finish(disk, output, lock.shard)
        final = _Final({lock.shard: _newest(lock.folder) for lock in locks})
        compacted.is_index_missing = drop_superseded and not is_up_to_date(output)
        is_dropping = drop_superseded and not compacted.is_index_missing
        dropped = superseded(output, final.parts(output, "results")) if is_dropping else {}
        for table in DATED:
            _compact_table(disk, output, table, final, dropped, compacted)
    compacted.superseded = sum(map(len, dropped.values()))
    return compacted


def _compact_table(
    disk: Disk, output: Path, table: str, final: _Final, dropped: Mapping[Path, Places], compacted: Compacted
) -> None:
    before, parts = part_paths(output, table), final.parts(output, table)
    compacted.files_before[table] = len(before)
    compacted.bytes_before += sum(path.stat().st_size for path in before)
    compacted.waiting += len(before) - len(parts)
    for _, of_shard in groupby(parts, lambda path: (path.parent, Name.of(path.name).shard)):  # type: ignore[union-attr]
        for group in _groups(_Sized.of(path, row_count(path)) for path in of_shard):
            if len(group) > 1 or group[0] in dropped:
                merge(disk, output, group, dropped)
    after = part_paths(output, table)
    compacted.files_after[table] = len(after)
    compacted.bytes_after += sum(path.stat().st_size for path in after)
    compacted.rows[table] = sum(map(row_count, after))


def final_parts(output: Path, table: str) -> list[Path]:
    """The parts of all shards that will never be sealed again. Needs the locks of all shards."""
    folders = sorted((output / STATE_FOLDER).glob("*of*"))
    return _Final({folder.name: _newest(folder) for folder in folders}).parts(output, table)


class _Final:
    """Which parts will never be sealed again: not those of a shard's newest segment, which the next run makes anew."""

    def __init__(self, newest: Mapping[str, tuple[str, int] | None]) -> None:
        self._newest = newest  #: run_id and number of each shard's newest segment

    def parts(self, output: Path, table: str) -> list[Path]:
        return [path for path in part_paths(output, table) if self._has(Name.of(path.name))]

    def _has(self, name: Name | None) -> bool:
        if name is None or name.shard not in self._newest:
            return False
        newest = self._newest[name.shard]
        return newest is None or name.digest is not None or name.run_id != newest[0] or name.seq < newest[1]


def _newest(folder: Path) -> tuple[str, int] | None:
    segments = segment_paths(folder)
    if not segments:
        return None
    header = read_segment(segments[-1]).header
    return header.run_id, header.seq
