"""Parquet seed files: a column of every type with ordinary and extreme values, and images in every form of a cell."""

from __future__ import annotations

import io
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_MOST = 2**63 - 1
_INTEGERS = (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32())
_MOMENTS = (
    pa.timestamp("s"),
    pa.timestamp("ms", "UTC"),
    pa.timestamp("us", "Europe/Berlin"),
    pa.timestamp("ns"),
    pa.time64("ns"),
    pa.duration("us"),
    pa.date64(),
)


def parquet_files() -> list[bytes]:
    """Tables of the columns ``id``, ``image`` and ``title``."""
    tables = [pa.table({"id": ["1", "2"], "image": ["a.jpg", None], "title": cells}) for cells in _cells()]
    tables += [pa.table({"id": ["1", "2"], "image": cells, "title": ["x", "y"]}) for cells in _images()]
    tables += [pa.table({"id": cells, "image": ["a.jpg", "b"], "title": ["x", "y"]}) for cells in _cells()]
    files = [_written(table, compression="none") for table in tables]
    packed = pa.table({"id": ["1", "2"] * 50, "image": [["a.jpg"], None] * 50, "title": ["x", None] * 50})
    files += [_written(packed, compression=codec) for codec in ("snappy", "gzip", "zstd", "lz4", "brotli")]
    files += [_written(packed, compression="none", data_page_version="2.0", use_dictionary=False, data_page_size=64)]
    files += [_written(packed.slice(0, 0)), _written(pa.table({}))]
    return files


def _written(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, write_page_checksum=False, **options)
    return sink.getvalue()


def _cells() -> Iterator[pa.Array]:
    """Two cells of each type, the second null or extreme."""
    yield from (pa.array([1, None], kind) for kind in _INTEGERS)
    yield pa.array([True, None])
    yield pa.array([0, 2**64 - 1], pa.uint64())
    for kind in (pa.float16(), pa.float32(), pa.float64()):
        yield pa.array([0.1, float("nan")], pa.float64()).cast(kind)
    yield pa.array([-1.5e300, float("-inf")])
    yield pa.array([Decimal("1.50"), None], pa.decimal128(10, 2))
    yield pa.array([Decimal("9" * 60), None], pa.decimal256(63, 3))
    yield pa.array([1, 2**31 - 1], pa.int32()).cast(pa.date32())
    for kind in _MOMENTS:
        yield pa.array([0, 86_399_000_000_001 if pa.types.is_time(kind) else 1_795_212_000_123], pa.int64()).cast(kind)
    for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.timestamp("ns"), pa.timestamp("ms")):
        yield pa.array([-_MOST, _MOST], pa.int64()).cast(kind)
    yield pa.array([b"\xff\x00", None])
    yield pa.array([b"0123456789abcdef", None], pa.binary(16))
    yield pa.array(["x\u202e", None], pa.large_string())
    yield pa.array(["x", None]).dictionary_encode()
    yield pa.nulls(2)
    yield pa.array([["a", None], []])
    yield pa.array([[1.5], None], pa.large_list(pa.float32()))
    yield pa.array([{"a": [{"b": b"\xff"}], "c": None}, None])
    yield pa.array([[("k", Decimal(1))], []], pa.map_(pa.string(), pa.decimal128(5, 1)))
    far = pa.array([_MOST, -_MOST], pa.int64())
    yield pa.StructArray.from_arrays([far.cast(pa.timestamp("us")), far.cast(pa.timestamp("ns"))], ["u", "n"])
    days = pa.array([2**31 - 1, -(2**31)], pa.int32()).cast(pa.date32())
    yield pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), days)


def _images() -> Iterator[pa.Array]:
    yield pa.array([b"\x89PNG", None])
    yield pa.array(['["a.jpg", {"path": "b.jpg"}]', "[1].jpg"])
    yield pa.array([["a.jpg", "https://h/b.jpg?sig=x"], None])
    yield pa.array([{"bytes": b"x", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}])
    yield pa.array([[{"bytes": b"x", "path": None}], []])
    yield pa.array([1, 2])
    yield pa.nulls(2)
