"""Pages larger than a batch are read value by value: the same cells as pyarrow's, and no page in memory."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchvision.errors import JobInvalid
from batchvision.manifest import parquet
from batchvision.manifest.parquet import ParquetManifest
from batchvision.manifest.snappy import WINDOW_BYTES, unpacked

RNG = random.Random(5)
#: Images of all lengths, one twice, an empty one, one that packs well, and rows without.
IMAGES = [
    *(RNG.randbytes(RNG.choice((10, 900, 5_000, 70_000))) for _ in range(40)),
    None,
    b"",
    b"well packed " * 40_000,
    *(RNG.randbytes(3_000) for _ in range(10)),
    None,
]
IMAGES += IMAGES[:3]
ROWS = len(IMAGES)
HF = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
BARE = pa.struct([("bytes", pa.binary())])


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "BATCH_BYTES", 20_000)


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The columns that were read value by value."""
    found: list[str] = []
    large = parquet.large_leaves

    def noted(*arguments: Any) -> list[Any]:
        leaves = large(*arguments)
        found.extend(leaf.chunk.path for leaf in leaves)
        return leaves

    monkeypatch.setattr(parquet, "large_leaves", noted)
    return found


def columns_of(kind: str) -> dict[str, pa.Array]:
    ids = pa.array([f"r{number}" for number in range(ROWS)])
    match kind:
        case "bytes":
            image = pa.array(IMAGES, pa.binary())
        case "text":
            image = pa.array([None if each is None else each.hex() for each in IMAGES], pa.string())
        case "large text":
            image = pa.array([None if each is None else each.hex() for each in IMAGES], pa.large_string())
        case "struct":
            cells = [{"bytes": each, "path": f"{place}.jpg"} for place, each in enumerate(IMAGES)]
            image = pa.array([None if place % 7 == 3 else cell for place, cell in enumerate(cells)], HF)
        case "bare struct":
            cells = [{"bytes": each} for each in IMAGES]
            image = pa.array([None if place % 7 == 3 else cell for place, cell in enumerate(cells)], BARE)
        case _:
            image = pa.array([each or b"x" for each in IMAGES], pa.binary())
    return {"id": ids, "image": image, "title": pa.array([None, "t"] * (ROWS // 2) + ["last"] * (ROWS % 2))}


def batches(path: Path, *columns: str) -> Iterator[pa.RecordBatch]:
    return ParquetManifest(path, {}).batches(columns)


def write(path: Path, kind: str, **options: Any) -> pa.Table:
    table = pa.table(columns_of(kind))
    if kind == "required":
        table = table.cast(pa.schema([field.with_nullable(field.name != "image") for field in table.schema]))
    pq.write_table(table, path, **{"row_group_size": 1000, "write_page_checksum": True, **options})
    return table


@pytest.mark.parametrize("kind", ["bytes", "text", "large text", "struct", "bare struct", "required"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [True, False])
@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "zstd", "brotli"])
def test_cells_are_the_same_as_pyarrows(
    tmp_path: Path, streamed: list[str], kind: str, version: str, dictionary: bool, codec: str
) -> None:
    path = tmp_path / "m.parquet"
    table = write(path, kind, compression=codec, data_page_version=version, use_dictionary=dictionary)
    found = list(batches(path, "title", "image", "id"))
    for name in ("id", "image", "title"):
        assert [cell for batch in found for cell in batch.column(name).to_pylist()] == table[name].to_pylist()
    assert streamed == ["image.bytes" if "struct" in kind else "image"]
    assert max(batch.num_rows for batch in found) < ROWS // 2
    assert [cell for batch in batches(path, "image") for cell in batch.column("image").to_pylist()] == table[
        "image"
    ].to_pylist()


def test_several_row_groups_and_several_large_columns_stay_in_step(tmp_path: Path, streamed: list[str]) -> None:
    table = pa.table({**columns_of("bytes"), "back": columns_of("text")["image"]})
    pq.write_table(table, tmp_path / "m.parquet", row_group_size=25)
    found = list(batches(tmp_path / "m.parquet", "id", "image", "back"))
    for name in ("id", "image", "back"):
        assert [cell for batch in found for cell in batch.column(name).to_pylist()] == table[name].to_pylist()
    assert {"image", "back"} == set(streamed)


def test_a_batch_is_bounded_by_its_bytes_and_not_by_the_pages(tmp_path: Path) -> None:
    write(tmp_path / "m.parquet", "bytes")
    sizes = [batch.column("image").nbytes for batch in batches(tmp_path / "m.parquet", "id", "image")]
    largest = max(len(each or b"") for each in IMAGES)
    assert max(sizes) <= 20_000 + largest + 8 * ROWS


def test_lists_are_still_pyarrows_to_read(tmp_path: Path, streamed: list[str]) -> None:
    table = pa.table({"image": pa.array([[each, None] for each in IMAGES], pa.list_(pa.binary()))})
    pq.write_table(table, tmp_path / "m.parquet")
    found = [cell for batch in batches(tmp_path / "m.parquet", "image") for cell in batch.column("image").to_pylist()]
    assert found == table["image"].to_pylist()
    assert not streamed


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "zstd", "brotli"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_a_flipped_byte_is_damage(tmp_path: Path, codec: str, dictionary: bool) -> None:
    path = tmp_path / "m.parquet"
    write(path, "bytes", compression=codec, use_dictionary=dictionary)
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(1)
    start = chunk.dictionary_page_offset if dictionary else chunk.data_page_offset
    content = bytearray(path.read_bytes())
    for at in (start + 200, start + chunk.total_compressed_size // 2):
        content[at] ^= 0x10
        path.write_bytes(bytes(content))
        with pytest.raises(JobInvalid, match=r"m\.parquet is damaged"):
            list(batches(path, "image"))
        content[at] ^= 0x10


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "zstd", "brotli"])
def test_damage_without_checksums_is_told_or_read_and_never_anything_else(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "m.parquet"
    write(path, "bytes", compression=codec, write_page_checksum=False)
    content, rng = path.read_bytes(), random.Random(7)
    for _ in range(40):
        damaged = bytearray(content)
        for _ in range(rng.choice((1, 8))):
            damaged[rng.randrange(4, len(content) * 9 // 10)] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(damaged))
        try:
            assert sum(batch.num_rows for batch in batches(path, "id", "image")) == ROWS
        except JobInvalid as fault:
            assert "m.parquet" in str(fault)


def test_text_that_is_not_utf_8_is_damage(tmp_path: Path) -> None:
    table = pa.table({"image": pa.array([b"\xff" * 30_000] * 3, pa.binary())})
    pq.write_table(table, tmp_path / "m.parquet", store_schema=False)
    assert len(list(batches(tmp_path / "m.parquet", "image"))) == 3
    text = pa.table({"image": table["image"].combine_chunks().view(pa.string())})
    pq.write_table(text, tmp_path / "t.parquet")
    with pytest.raises(JobInvalid, match="damaged"):
        list(batches(tmp_path / "t.parquet", "image"))


def test_a_page_of_two_hundred_megabytes_is_not_held(tmp_path: Path) -> None:
    """In a process of its own, for its peak. Held whole, the page takes twice its size, packed and unpacked."""
    path = tmp_path / "m.parquet"
    images = pa.array([RNG.randbytes(200_000) for _ in range(1_000)], pa.binary())
    pq.write_table(pa.table({"image": images}), path)
    program = (
        "import re, sys\nfrom pathlib import Path\nfrom batchvision.manifest.parquet import ParquetManifest\n"
        "def peak():\n"
        "    status = Path('/proc/self/status').read_text()\n"
        "    return int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) // 1024\n"
        "manifest, before = ParquetManifest(Path(sys.argv[1]), {}), peak()\n"
        "rows = sum(batch.num_rows for batch in manifest.batches(['image']))\nprint(rows, peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    rows, mebibytes = map(int, done.stdout.split())
    assert rows == 1_000
    assert 0 < mebibytes < 260


# ---------------------------------------------------------------------------------- snappy


def unpack(content: bytes, size: int) -> bytes:
    at = 0

    def read(count: int) -> bytes:
        nonlocal at
        if at + count > len(content):
            raise ValueError("ends early")
        at += count
        return content[at - count : at]

    return b"".join(unpacked(read, size))


@given(st.lists(st.tuples(st.binary(max_size=300), st.integers(1, 400)), max_size=30))
def test_what_snappy_packs_is_unpacked(parts: list[tuple[bytes, int]]) -> None:
    content = b"".join(part * times for part, times in parts)
    assert unpack(pa.compress(content, codec="snappy", asbytes=True), len(content)) == content


def test_pieces_are_small_however_large_the_content() -> None:
    content = RNG.randbytes(3_000_000) + b"ab" * 1_000_000
    packed = pa.compress(content, codec="snappy", asbytes=True)
    at = 0

    def read(count: int) -> bytes:
        nonlocal at
        at += count
        return packed[at - count : at]

    pieces = list(unpacked(read, len(content)))
    assert b"".join(pieces) == content
    assert max(map(len, pieces)) <= 8 * WINDOW_BYTES


@given(st.binary(max_size=200), st.integers(0, 100_000))
def test_no_bytes_unpack_to_more_than_was_named(content: bytes, size: int) -> None:
    with suppress(ValueError):
        assert len(unpack(content, size)) == size
