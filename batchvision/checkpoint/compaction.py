"""Merge many small parts into few: a start reads fewer files, and a warehouse lists fewer.

A merge writes one part from neighbours of one table, date and shard, in their order. Its rename is the commit point:
from then on readers ignore the source parts (``lineage.py``). Sources are removed only when the new part is durable.
The next start removes sources that a crash has left.

A merge needs the lock of the shard, and touches no part that a journal can make again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from batchvision.checkpoint import lineage
from batchvision.checkpoint.current import Places, superseded
from batchvision.checkpoint.disk import LocalDisk, disk_failures
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
from batchvision.checkpoint.recovery import read_unsealed
from batchvision.checkpoint.registry import SCHEMAS, padding_held, read_registry
from batchvision.checkpoint.shards import all_locked
from batchvision.checkpoint.storage import Disk, PartStore
from batchvision.errors import CheckpointDamaged
from batchvision.records import PartFile

#: Limits of a merged part, so that a reader can hold one of its columns.
PART_ROWS = 256 * 1024
PART_BYTES = 256 * 1024 * 1024

#: Makes a new batch of the same length from a batch and the place of its first row in its part.
Altered = Callable[[pa.RecordBatch, int], pa.RecordBatch]


# ---------------------------------------------------------------------------------- one part of several


def merge(
    store: PartStore,
    output: Path,
    sources: Sequence[Path],
    dropped: Mapping[Path, Places] | None = None,
    altered: Altered = lambda batch, at: batch,
) -> PartFile:
    """Replace ``sources``, neighbours in one folder and in order, by one part.

    ``dropped`` names rows to leave out. ``altered`` changes each batch before it is written. Raises OSError,
    CheckpointDamaged. After an error no row is lost or stored twice.
    """
    dropped, folder = dropped or {}, sources[0].parent
    table = folder.parent.name
    with padding_held(output):
        first = lineage.first_of(sources[0].name)
        ancestors = tuple(_ancestors(sources, dropped))
        schema = _schema(output, table, sources).with_metadata({lineage.MADE_OF: lineage.written(ancestors)})
        with store.growing(folder / f"{first}-merging.parquet") as file:
            write_batches(file, schema, _kept(sources, dropped, altered))
            path = folder / lineage.merged_name(first, file.sha256)
            file.publish(path)
    store.delete(sources)
    return PartFile(table, str(path.relative_to(output)), ancestors[-1].stop, file.sha256)


def _ancestors(sources: Sequence[Path], dropped: Mapping[Path, Places]) -> Iterator[Ancestor]:
    """The sources, each after its own ancestors, with the places of their rows in the new part."""
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
    """The registered columns, then columns that only one part has."""
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


def _kept(sources: Sequence[Path], dropped: Mapping[Path, Places], altered: Altered) -> Iterator[pa.RecordBatch]:
    for path in sources:
        gone, at = dropped.get(path, _NONE), 0
        for batch in batches_of(path):
            whole = altered(batch, at)
            yield _without(whole, gone, at) if len(gone) else whole
            at += batch.num_rows


def _without(batch: pa.RecordBatch, gone: Places, at: int) -> pa.RecordBatch:
    here = gone[np.searchsorted(gone, at) : np.searchsorted(gone, at + batch.num_rows)] - at
    stays = np.ones(batch.num_rows, np.bool_)
    stays[here] = False
    return batch.filter(pa.array(stays))


# ---------------------------------------------------------------------------------- sources that a crash has left


def finish(store: PartStore, output: Path, shard: str) -> None:
    """Remove merged sources that a crash has left. The caller holds the shard's lock."""
    for table in DATED:
        paths = store.list(output / table, f"run_date=*/part-{shard}-*.parquet")
        for folder, left in groupby(sorted(replaced(paths)), lambda path: path.parent):
            if all(_is_whole(path) for path in paths if path.parent == folder and lineage.is_merged(path.name)):
                store.delete(left)


def _is_whole(path: Path) -> bool:
    """Whether the part's bytes match the hash in its name. Only then its sources may be removed."""
    name = Name.of(path.name)
    return name is not None and name.agrees([*earlier_sha256(path), sha256_of(path)])


# ---------------------------------------------------------------------------------- a whole output


class _Sized(NamedTuple):
    path: Path
    rows: int
    size_bytes: int

    @classmethod
    def of(cls, path: Path, rows: int) -> _Sized:
        return cls(path, rows, path.stat().st_size)


def _groups(parts: Iterable[_Sized]) -> Iterator[list[Path]]:
    """Groups of neighbours that each make one part of bounded size."""
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


@dataclass(slots=True)
class Compacted:
    """Result of a compaction. Rows and files are counted by table."""

    files_before: dict[str, int] = field(default_factory=dict)
    files_after: dict[str, int] = field(default_factory=dict)
    bytes_before: int = 0
    bytes_after: int = 0
    rows: dict[str, int] = field(default_factory=dict)  #: rows after the compaction
    superseded: int = 0  #: dropped answers
    is_index_missing: bool = False  #: no answer was dropped: without the index no answer is known to be current
    waiting: int = 0  #: parts that the next run seals again


def compact(output: Path, *, drop_superseded: bool = False, disk: Disk | None = None) -> Compacted:
    """Merge the small parts of all runs of an output.

    ``drop_superseded`` leaves out answers that the index of the manifest supersedes. The ledger keeps every attempt.

    Holds the locks of all shards. Raises OutputHeld, CheckpointDamaged, DiskFailed.
    """
    disk, compacted = disk or LocalDisk(), Compacted()
    with all_locked(output, disk) as locks, disk_failures(f"compacting {output}"):
        for lock in locks:
            remove_leftovers(disk, output, lock.shard)
            finish(disk, output, lock.shard)
        compacted.is_index_missing = drop_superseded and not is_up_to_date(output)
        is_dropping = drop_superseded and not compacted.is_index_missing
        dropped = superseded(output, final_parts(output, "results")) if is_dropping else {}
        for table in DATED:
            _compact_table(disk, output, table, dropped, compacted)
    compacted.superseded = sum(map(len, dropped.values()))
    return compacted


def _compact_table(
    store: PartStore, output: Path, table: str, dropped: Mapping[Path, Places], compacted: Compacted
) -> None:
    before, parts = part_paths(output, table), final_parts(output, table)
    compacted.files_before[table] = len(before)
    compacted.bytes_before += sum(path.stat().st_size for path in before)
    compacted.waiting += len(before) - len(parts)
    for _, of_shard in groupby(parts, lambda path: (path.parent, Name.of(path.name).shard)):  # type: ignore[union-attr]
        for group in _groups(_Sized.of(path, row_count(path)) for path in of_shard):
            if len(group) > 1 or group[0] in dropped:
                merge(store, output, group, dropped)
    after = part_paths(output, table)
    compacted.files_after[table] = len(after)
    compacted.bytes_after += sum(path.stat().st_size for path in after)
    compacted.rows[table] = sum(map(row_count, after))


def final_parts(output: Path, table: str) -> list[Path]:
    """The parts of all shards that no run will seal again. Needs the locks of all shards."""
    folders = (output / STATE_FOLDER).glob("*of*")
    unsealed = {folder.name: read_unsealed(folder) for folder in folders if folder.is_dir()}

    def is_final(path: Path) -> bool:
        name = Name.of(path.name)
        if name is None or name.shard not in unsealed:
            return False
        return name.digest is not None or not unsealed[name.shard].is_making(name.run_id, name.seq)

    return [path for path in part_paths(output, table) if is_final(path)]
