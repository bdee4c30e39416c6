"""Parts: the sealed Parquet files of an output. Only this module writes or opens Parquet.

Sealed parts are written whole from memory, and merged ones a row group at a time. Parquet's own writer hides a full
disk, so it never writes to one. Page checksums are written, and checked at each read. A reader finds the rows of a part
that was merged meanwhile in the merged part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchvision.checkpoint import lineage
from batchvision.checkpoint.disk import hidden_name
from batchvision.checkpoint.storage import Disk, NewFile, PartStore
from batchvision.errors import CheckpointDamaged
from batchvision.records import PartFile

#: Tables with one folder for each date of a run's start.
DATED = ("results", "attempts")
FAILURES_TABLE = "failures"
#: Metadata key of a padded part: the sha256 values of its earlier files.
EARLIER = b"batchvision.earlier_sha256"
#: Limits of a merged part's row group and of every batch, so that a reader needs little memory.
GROUP_ROWS = 4_000
GROUP_BYTES = 16 * 1024 * 1024
_BUFFER_BYTES = 1024 * 1024
#: Text columns with short cells: ids, keys and words of closed sets.
_SHORT_TEXTS = {"job", "row_id", "request_key", "skip_key", "recipe_id", "run_id", "lane", "state", "error_kind"}
_SHORT_BYTES = 64  #: A short cell takes about so many bytes.
#: Rows of a sealed part's row group. Its pages are in memory until the group is whole.
SEALED_GROUP_ROWS = 1_024


def dated_path(table: str, shard: str, run_id: str, started_at: datetime, seq: int) -> str:
    """The path of a part inside the output. It follows from the segment, so that a replay overwrites itself."""
    return f"{table}/run_date={started_at.astimezone(UTC):%Y-%m-%d}/part-{shard}-{run_id}-{seq:06d}.parquet"


def failures_path(shard: str) -> str:
    return f"{FAILURES_TABLE}/part-{shard}.parquet"


def part_paths(output: Path, table: str) -> list[Path]:
    """The parts of a table, of all shards and dates, in the order of their names, without merged sources."""
    if table == FAILURES_TABLE:
        return sorted((output / table).glob("part-*.parquet"))
    for _ in range(LOOKS):
        paths = _listed(output / table, "run_date=*/part-*.parquet")
        with suppress(FileNotFoundError):  # a part was merged since: list again
            gone = replaced(paths)
            return [path for path in paths if path not in gone]
    raise _unsteady(output / table)


def _unsteady(where: Path) -> CheckpointDamaged:
    return CheckpointDamaged(
        f"{where} names a merged part that does not exist",
        next_step="remove broken links from this folder",
    )


def _listed(folder: Path, pattern: str) -> list[Path]:
    """List until two lists agree: while parts are merged, one list may miss the new name and an old one."""
    paths, before = sorted(folder.glob(pattern)), None
    while paths != before:
        paths, before = sorted(folder.glob(pattern)), paths
    return paths


def replaced(paths: Sequence[Path]) -> set[Path]:
    """The sources of merged parts among ``paths``. A damaged part replaces nothing here; its reader reports it."""
    found: set[Path] = set()
    neighbours = Counter(map(_whose, paths))
    for path in paths:
        if neighbours[_whose(path)] > 1 and lineage.is_merged(path.name):
            with suppress(CheckpointDamaged):
                found.update(path.with_name(ancestor.name) for ancestor in ancestors_of(path))
    return found.intersection(paths)


def _whose(path: Path) -> tuple[Path, str | None]:
    name = lineage.Name.of(path.name)
    return path.parent, name and name.shard


class Encoded:
    """A part as Parquet in memory: much smaller than as a table."""

    def __init__(self) -> None:
        self.rows = 0
        self._sink = pa.BufferOutputStream()
        self._writer: pq.ParquetWriter | None = None

    @classmethod
    def of(cls, table: pa.Table) -> Encoded:
        encoded = cls()
        encoded.add(table)
        return encoded

    def add(self, table: pa.Table) -> None:
        """Add a table as its own row groups. Each but the last has a multiple of ``SEALED_GROUP_ROWS`` rows.

        Long texts make smaller row groups, so that a reader holds at most ``GROUP_BYTES`` of text.
        """
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._sink, table.schema, **_written(table.schema))
        for start in range(0, max(1, table.num_rows), SEALED_GROUP_ROWS):  # an empty part has one row group
            rows = table.slice(start, SEALED_GROUP_ROWS)
            self._writer.write_table(rows, row_group_size=_rows_of_a_group(rows))
        self.rows += table.num_rows

    def content(self) -> memoryview:
        """Finish the file and return it."""
        if self._writer is not None:
            self._writer.close()
        return memoryview(self._sink.getvalue())


def _rows_of_a_group(table: pa.Table) -> int:
    """Depends on text lengths only, so that the same rows make the same groups."""
    texts = [column for column in table.columns if pa.types.is_string(column.type)]
    size_bytes: int = sum(pc.sum(pc.binary_length(column)).as_py() or 0 for column in texts)
    rows: int = table.num_rows
    return max(1, min(SEALED_GROUP_ROWS, GROUP_BYTES * rows // max(1, size_bytes)))


def seal(store: PartStore, output: Path, relative: str, rows: pa.Table | Encoded) -> PartFile:
    """Write a part. It is durable under its name when this returns. Raises OSError."""
    encoded = rows if isinstance(rows, Encoded) else Encoded.of(rows)
    content = encoded.content()
    store.put(output / relative, content)
    return PartFile(relative.split("/")[0], relative, encoded.rows, sha256(content).hexdigest())


#: A reader looks so often for a part that is being merged.
LOOKS = 100
#: Columns with mostly distinct values. A dictionary there would take time and memory, and slow down reading.
_UNALIKE = frozenset({"row_id", "request_key", "skip_key", "provider_request_id", "ticket"}) | {
    *("output_text", "output_json", "raw_answer", "image_ref", "image_sha256"),
    *("started_at", "finished_at", "updated_at", "failed_at", "sent_at", "received_at"),
}


def _written(schema: pa.Schema) -> dict[str, Any]:
    """How all parts are written."""
    alike = [field for field in schema if field.name not in _UNALIKE]
    names = [f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name for field in alike]
    return {"compression": "zstd", "write_page_checksum": True, "store_schema": True, "use_dictionary": names}


def write_batches(file: NewFile, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """A part, a row group at a time; columns that a batch lacks are null. Raises OSError, or what ``batches`` does."""
    with pq.ParquetWriter(file, schema, **_written(schema)) as writer:
        for group in _groups(fitted(batch, schema) for batch in batches):
            writer.write_table(group, row_group_size=max(1, group.num_rows))


def fitted(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with exactly these columns: wider number types, and nulls for columns that it lacks."""
    return pa.RecordBatch.from_arrays([_column(batch, field) for field in schema], schema=schema)


def _column(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    if field.name not in batch.schema.names:
        return pa.nulls(batch.num_rows, field.type)
    column = batch[field.name]
    return column.cast(field.type) if _is_widened(column.type, field.type) else column


def _groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    gathered: list[pa.RecordBatch] = []
    rows = size_bytes = 0
    for batch in batches:
        if gathered and (rows + batch.num_rows > GROUP_ROWS or size_bytes + batch.nbytes > GROUP_BYTES):
            yield pa.Table.from_batches(gathered)
            gathered, rows, size_bytes = [], 0, 0
        gathered.append(batch)
        rows, size_bytes = rows + batch.num_rows, size_bytes + batch.nbytes
    if gathered:
        yield pa.Table.from_batches(gathered)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError) as fault:  # ValueError: a name that is no UTF-8
        output = path.parents[1] if path.parent.name == FAILURES_TABLE else path.parents[2]
        raise CheckpointDamaged(
            f"{path} does not hold what was written ({fault})",
            next_step=f"`batchvision verify {output}` lists what is whole",
        ) from fault


class _Opened(NamedTuple):
    """A part, or the merged part that holds its rows from ``start`` to ``stop``."""

    part: pq.ParquetFile
    start: int
    stop: int

    def batches(self, names: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        at, columns = 0, None if names is None else list(names)
        for rows, groups in _portions(self.part, names):  # one reader keeps every chunk that it has read
            for batch in self.part.iter_batches(rows, groups, columns):
                first, last = max(self.start - at, 0), min(self.stop - at, batch.num_rows)
                if first < last:
                    yield batch.slice(first, last - first)
                at += batch.num_rows


def _portions(part: pq.ParquetFile, names: Sequence[str] | None) -> Iterator[tuple[int, list[int]]]:
    """Row groups to read together, each with the number of rows that fit into ``GROUP_BYTES``.

    pyarrow aborts at the size of a column chunk in a damaged footer, so that size is not read.
    """
    footer, are_short = part.metadata, names is not None and _are_short(part.schema_arrow, names)
    gathered: list[int] = []
    rows = size_bytes = 0
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        group_rows = group.num_rows
        group_bytes = group_rows * _SHORT_BYTES * len(names or ()) if are_short else group.total_byte_size
        if gathered and (rows + group_rows > GROUP_ROWS or size_bytes + group_bytes > GROUP_BYTES):
            yield _rows_at_once(rows, size_bytes), gathered
            gathered, rows, size_bytes = [], 0, 0
        gathered.append(number)
        rows, size_bytes = rows + group_rows, size_bytes + group_bytes
    if gathered:
        yield _rows_at_once(rows, size_bytes), gathered


def _rows_at_once(rows: int, size_bytes: int) -> int:
    return max(1, min(GROUP_ROWS, GROUP_BYTES * rows // max(1, size_bytes)))


def _are_short(schema: pa.Schema, names: Sequence[str]) -> bool:
    """Whether every cell of the columns is short."""
    found = [schema.field(name) for name in names if name in schema.names]
    return all(field.name in _SHORT_TEXTS or pa.types.is_primitive(field.type) for field in found)


@contextmanager
def _open(path: Path) -> Iterator[_Opened]:
    """Raises FileNotFoundError, and CheckpointDamaged also for damage found while reading."""
    with _whole(path):
        opened = _found(path)
        with opened.part:
            yield opened


def _found(path: Path) -> _Opened:
    for _ in range(LOOKS):
        try:
            part = _parquet(path)
            return _Opened(part, 0, part.metadata.num_rows)
        except FileNotFoundError:
            if (opened := _merged_into(path)) is not None:
                return opened
    raise _unsteady(path.parent)


def _parquet(path: Path) -> pq.ParquetFile:
    """Open a file. Column chunks of a large row group are read a buffer at a time, and small ones whole."""
    part = pq.ParquetFile(path, page_checksum_verification=True)
    if _largest_group_bytes(part.metadata) <= GROUP_BYTES:
        return part
    with part:
        footer = part.metadata
    return pq.ParquetFile(path, metadata=footer, page_checksum_verification=True, buffer_size=_BUFFER_BYTES)


def _largest_group_bytes(footer: pq.FileMetaData) -> int:
    """Size before compression."""
    return max((footer.row_group(number).total_byte_size for number in range(footer.num_row_groups)), default=0)


def _merged_into(path: Path) -> _Opened | None:
    """Nothing where the merged part was itself merged at this moment. Raises FileNotFoundError."""
    for heir in filter(lambda heir: lineage.is_merged(heir.name), _listed(path.parent, "part-*.parquet")):
        try:
            own = next((each for each in ancestors_of(heir) if each.name == path.name), None)
            if own is not None:
                return _Opened(_parquet(heir), own.start, own.stop)
        except FileNotFoundError:
            return None
        except CheckpointDamaged:
            continue  # its own reader reports the damage
    raise FileNotFoundError(path)


def read_part(path: Path, names: Sequence[str] | None = None) -> pa.Table:
    """A part's table, or its named columns. Raises CheckpointDamaged."""
    with _open(path) as (part, start, stop):
        table = part.read(columns=None if names is None else list(names))
        return table if table.num_rows == stop - start else table.slice(start, stop - start)


def batches_of(path: Path, names: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """A part's rows, a batch at a time."""
    with _open(path) as opened:
        yield from opened.batches(names)


def rows_with(path: Path, name: str, values: pa.Array) -> Iterator[pa.Table]:
    """The rows of a part with one of ``values`` in the column ``name``. Other row groups are not read."""
    with _open(path) as (part, start, stop):
        at = 0
        for number in range(part.num_row_groups):
            cells = part.read_row_group(number, columns=[name])[name]
            places = pc.indices_nonzero(pc.is_in(cells, value_set=values)).to_pylist()
            own = [place for place in places if start <= at + place < stop]
            if own:
                yield part.read_row_group(number).take(pa.array(own))
            at += len(cells)


def part_file(output: Path, path: Path) -> PartFile:
    """A sealed part as it is now, to be listed. Raises CheckpointDamaged."""
    relative = str(path.relative_to(output))
    return PartFile(relative.split("/")[0], relative, row_count(path), sha256_of(path))


def row_count(path: Path) -> int:
    """How many rows a part has, by its footer alone."""
    with _open(path) as (_, start, stop):
        return stop - start


def pad_part(store: PartStore, path: Path, schema: pa.Schema) -> bool:
    """Give a part the missing columns of ``schema``, filled with nulls, and wider number types.

    False: the part had them already. A column that only the part has stays, at the end.
    """
    there = schema_of(path)
    has_all = there.names[: len(schema.names)] == schema.names
    if has_all and not any(_is_widened(there.field(each.name).type, each.type) for each in schema):
        return False
    fields = [*schema, *(field for field in there if field.name not in schema.names)]
    before = " ".join([*earlier_sha256(path), sha256_of(path)])
    padded = pa.schema(fields, metadata={**(there.metadata or {}), EARLIER: before})
    with store.growing(path) as file:
        write_batches(file, padded, batches_of(path))
        file.publish(path)
    return True


def is_number(arrow: pa.DataType) -> bool:
    """Whether a column of this type may become one of a wider type."""
    return bool(pa.types.is_integer(arrow) or pa.types.is_floating(arrow))


def _is_widened(there: pa.DataType, wanted: pa.DataType) -> bool:
    return there != wanted and is_number(there) and is_number(wanted)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def schema_of(path: Path) -> pa.Schema:
    """The columns of a part, by its footer alone. Raises CheckpointDamaged."""
    with _whole(path):
        return pq.read_schema(path)


def earlier_sha256(path: Path) -> list[str]:
    """The sha256 values of a part before it was padded, oldest first. A summary may list one."""
    metadata = schema_of(path).metadata or {}
    return list(metadata.get(EARLIER, b"").decode().split())


def ancestors_of(path: Path) -> tuple[lineage.Ancestor, ...]:
    """The files that a merged part was made of, and nothing for a sealed one. Raises CheckpointDamaged."""
    with _whole(path):
        return lineage.read(pq.read_schema(path).metadata)


def remove_leftovers(disk: Disk, output: Path, shard: str) -> None:
    """Remove incomplete files of this shard that a crash has left."""
    hidden = hidden_name(Path(f"part-{shard}")).name.removesuffix(".tmp")
    patterns = [f"{table}/run_date=*/{hidden}-*.tmp" for table in DATED] + [f"{FAILURES_TABLE}/{hidden}.*tmp"]
    patterns += [f"{folder}/.*.json.{shard}.tmp" for folder in ("recipes", "runs")]
    for pattern in patterns:
        for path in disk.list(output, pattern):
            disk.remove(path)
