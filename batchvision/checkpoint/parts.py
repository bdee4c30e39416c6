"""Sealed Parquet files: written whole into memory, then to a hidden name, fsync, rename, fsync of the folder.

The rule: only this module writes or opens Parquet. Parquet's own writer swallows a full disk, so it never sees one.
Page checksums are written, and checked on every read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import file_digest, sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchvision.checkpoint.disk import Disk, hidden_name, replace_file
from batchvision.errors import CheckpointDamaged
from batchvision.records import PartFile

#: The tables that grow by parts, one folder for each date of a run's start.
DATED = ("results", "attempts")
FAILURES_TABLE = "failures"
#: In a padded part's metadata: the sha256 of the files it was before.
EARLIER = "batchvision.earlier_sha256"


def dated_path(table: str, shard: str, run_id: str, started_at: datetime, seq: int) -> str:
    """Where a part belongs, relative to the output. Named by what it was made of: a replay overwrites itself."""
    return f"{table}/run_date={started_at.astimezone(UTC):%Y-%m-%d}/part-{shard}-{run_id}-{seq:06d}.parquet"


def failures_path(shard: str) -> str:
    return f"{FAILURES_TABLE}/part-{shard}.parquet"


def part_paths(output: Path, table: str) -> list[Path]:
    """The sealed parts of a table, all shards and dates, in the order of their names."""
    pattern = "part-*.parquet" if table == FAILURES_TABLE else "run_date=*/part-*.parquet"
    return sorted((output / table).glob(pattern))


def seal(disk: Disk, output: Path, relative: str, table: pa.Table) -> PartFile:
    """Write a part; it is durable under its name when this returns. Raises OSError."""
    content = _parquet(table)
    replace_file(disk, output / relative, content)
    return PartFile(relative.split("/")[0], relative, table.num_rows, sha256(content).hexdigest())


def _parquet(table: pa.Table) -> memoryview:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True, store_schema=True)
    return memoryview(sink.getvalue())


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError) as fault:  # ValueError: a name that is no UTF-8
        output = path.parents[1] if path.parent.name == FAILURES_TABLE else path.parents[2]
        raise CheckpointDamaged(
            f"{path} does not hold what was written ({fault}). Nothing was sent. "
            f"Next: `batchvision verify {output}` says what is whole."
        ) from fault


def read_part(path: Path, names: Sequence[str] | None = None) -> pa.Table:
    """A part's table, or the columns of it that are named. Raises CheckpointDamaged."""
    with _whole(path), pq.ParquetFile(path, page_checksum_verification=True) as part:
        return part.read(columns=None if names is None else list(names))


def batches_of(path: Path, names: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """A part's rows, a batch at a time."""
    with _whole(path), pq.ParquetFile(path, page_checksum_verification=True) as part:
        yield from part.iter_batches(columns=None if names is None else list(names))


def part_file(output: Path, path: Path) -> PartFile:
    """A sealed part as it is now, to be listed. Raises CheckpointDamaged."""
    relative = str(path.relative_to(output))
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    return PartFile(relative.split("/")[0], relative, row_count(path), digest)


def row_count(path: Path) -> int:
    """How many rows a part has, by its footer alone."""
    with _whole(path), pq.ParquetFile(path) as part:
        return int(part.metadata.num_rows)


def pad_part(disk: Disk, path: Path, schema: pa.Schema) -> bool:
    """Give a part the columns of ``schema`` that it lacks, as nulls and in order. False: it had them all.

    A column that only the part has stays, at the end: nothing that was paid for is dropped.
    """
    names = schema_of(path).names
    if names[: len(schema.names)] == schema.names:
        return False
    table = read_part(path)
    for at, field in enumerate(schema):
        if field.name not in table.column_names:
            table = table.add_column(at, field, pa.nulls(table.num_rows, field.type))
    rest = [name for name in table.column_names if name not in schema.names]
    padded = table.select([*schema.names, *rest])
    before = [*earlier_sha256(path), sha256(path.read_bytes()).hexdigest()]
    replace_file(disk, path, _parquet(padded.replace_schema_metadata({EARLIER: " ".join(before)})))
    return True


def schema_of(path: Path) -> pa.Schema:
    """The columns of a part, by its footer alone. Raises CheckpointDamaged."""
    with _whole(path):
        return pq.read_schema(path)


def earlier_sha256(path: Path) -> list[str]:
    """Of what the part was before columns were added to it, oldest first: a summary may list it so."""
    metadata = schema_of(path).metadata or {}
    return list(metadata.get(EARLIER.encode(), b"").decode().split())


def remove_leftovers(disk: Disk, output: Path, shard: str) -> None:
    """Hidden files of this shard that never got their name: a crash left them."""
    hidden = hidden_name(Path(f"part-{shard}")).name.removesuffix(".tmp")
    patterns = [f"{table}/run_date=*/{hidden}-*.tmp" for table in DATED] + [f"{FAILURES_TABLE}/{hidden}.*tmp"]
    patterns += [f"{folder}/.*.json.{shard}.tmp" for folder in ("recipes", "runs")]
    for pattern in patterns:
        for path in output.glob(pattern):
            disk.remove(path)
