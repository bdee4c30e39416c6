"""Manifests, images and outputs to measure with; made in a process of its own (``client.py material``)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from io import BytesIO
from math import sqrt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benches.loops import Spec, url_of

ROWS_AT_ONCE = 100_000
PHOTO_BYTES = 240 * 1024
SMALL_PHOTO_BYTES = 30 * 1024
#: Tokens of the images in the tokens-a-minute case; a token stands for 750 pixels.
IMAGE_TOKENS = (200, 400, 800, 1_200, 2_000, 3_000, 4_500, 6_000)


def make(spec: Spec) -> Mapping[str, Any]:
    """``spec["make"]`` says what."""
    folder = Path(spec["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    match spec["make"]:
        case "urls":
            _write(folder / spec["manifest"], (_url_rows(first, spec["rows"]) for first in _firsts(spec["rows"])))
        case "photos":
            return {"files": _photos(folder, spec)}
        case "small photos":
            _small_photos(folder, spec)
        case "sizes":
            _sizes(folder, spec)
        case "done":
            _done_output(spec)
        case "jobs":
            from benches.batchvision_runs import job_file

            return {"jobs": [str(job_file({**spec, "output": output})) for output in spec["outputs"]]}
    return {}


def _firsts(rows: int) -> range:
    return range(0, rows, ROWS_AT_ONCE)


def _table(numbers: range, images: list[str], **more: list[Any]) -> pa.Table:
    columns = {"sku": [f"sku-{n:08d}" for n in numbers], "image": images, "title": [f"Thing {n}" for n in numbers]}
    return pa.table({**columns, **more})


def _url_rows(first: int, rows: int) -> pa.Table:
    numbers = range(first, min(first + ROWS_AT_ONCE, rows))
    return _table(numbers, [url_of(n) for n in numbers])


def _write(path: Path, tables: Iterator[pa.Table]) -> None:
    writer: pq.ParquetWriter | None = None
    for table in tables:
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


# ---------------------------------------------------------------------------------- images


def _photos(folder: Path, spec: Spec) -> list[str]:
    """Different JPEG files of 240 KB each, and a manifest that names them over and over."""
    from PIL import Image

    noise = Image.effect_noise((820, 620), 60).convert("RGB")
    content = b""
    for quality in range(60, 100):
        sink = BytesIO()
        noise.save(sink, "JPEG", quality=quality)
        content = sink.getvalue()
        if len(content) > PHOTO_BYTES * 0.9:
            break
    (folder / "photos").mkdir(exist_ok=True)
    names = []
    for number in range(min(spec["rows"], spec.get("files", 256))):
        comment = b"%010d" % number + b"." * max(0, min(65_000, PHOTO_BYTES - len(content) - 14))
        path = folder / "photos" / f"{number:04d}.jpg"
        path.write_bytes(_with_comment(content, comment))
        names.append(f"photos/{path.name}")
    numbers = range(spec["rows"])
    _write(folder / spec["manifest"], iter([_table(numbers, [names[n % len(names)] for n in numbers])]))
    return [str(folder / name) for name in names]


def _small_photos(folder: Path, spec: Spec) -> None:
    """Different JPEGs of 30 kB with a manifest that names them, in the folder and in the bucket ``spec["bucket"]``."""
    import obstore
    from PIL import Image

    from batchvision.object_store import open_store

    photo = BytesIO()
    Image.effect_noise((240, 180), 60).convert("RGB").save(photo, "JPEG", quality=90)
    padding = b"." * max(0, SMALL_PHOTO_BYTES - photo.tell() - 14)
    store, names = open_store(spec["bucket"]), [f"photos/{number:05}.jpg" for number in range(spec["rows"])]
    (folder / "photos").mkdir()
    for number, name in enumerate(names):
        (folder / name).write_bytes(_with_comment(photo.getvalue(), b"%010d" % number + padding))
        obstore.put(store, name, folder / name)
    _write(folder / spec["manifest"], iter([_table(range(spec["rows"]), names)]))
    obstore.put(store, spec["manifest"], folder / spec["manifest"])


def _with_comment(jpeg: bytes, comment: bytes) -> bytes:
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def _sizes(folder: Path, spec: Spec) -> None:
    """Images of a few sizes, each row saying how many tokens the server counts for it."""
    from PIL import Image

    draw = random.Random(0)
    for tokens in IMAGE_TOKENS:
        side = round(sqrt(tokens * 750))
        Image.new("RGB", (side, side), "teal").save(folder / f"{tokens}.png")
    drawn = [draw.choice(IMAGE_TOKENS) for _ in range(spec["rows"])]
    images = [f"{tokens}.png" for tokens in drawn]
    _write(folder / spec["manifest"], iter([_table(range(spec["rows"]), images, tokens=drawn)]))


# ---------------------------------------------------------------------------------- an output with most rows done


def _done_output(spec: Spec) -> None:
    """Answers for a share of the manifest, as parts like those of a real run, made after one that a real run sealed."""
    from benches.batchvision_runs import session, stubbed

    _write(Path(spec["folder"]) / spec["manifest"], (_url_rows(first, spec["rows"]) for first in _firsts(spec["rows"])))
    session({**spec, "limit": 2}, dependencies=stubbed())
    output = Path(spec["folder"]) / spec["output"]
    templates = {name: next((output / name).rglob("part-*.parquet")) for name in ("results", "attempts")}
    tables = {name: pq.ParquetFile(path).read().slice(0, 1) for name, path in templates.items()}
    for number, (ids, keys) in enumerate(_done_rows(spec), start=1000):
        for name, path in templates.items():
            stem = path.stem.rpartition("-")[0]
            pq.write_table(
                _like(tables[name], ids, keys, number),
                path.with_name(f"{stem}-{number:06d}.parquet"),
                compression="zstd",
                write_page_checksum=True,
            )


def _done_rows(spec: Spec) -> Iterator[tuple[list[str], list[str]]]:
    """Ids and skip_keys of the rows that shall be done, a part's worth at a time."""
    from batchvision.runner.feed import Selection, feed, survey
    from batchvision.runner.feed.work import NoKnownRows
    from benches.batchvision_runs import job_of

    job, draw = job_of(spec), random.Random(0)
    ids: list[str] = []
    keys: list[str] = []
    for batch in feed(job, survey(job, Selection()), NoKnownRows()):
        for row in batch.rows:
            if draw.random() < spec["done_share"]:
                ids.append(row.row_id)
                keys.append(row.skip_key)
        while len(ids) >= spec["part_rows"]:
            yield ids[: spec["part_rows"]], keys[: spec["part_rows"]]
            del ids[: spec["part_rows"]], keys[: spec["part_rows"]]
    if ids:
        yield ids, keys


def _like(one: pa.Table, ids: list[str], keys: list[str], number: int) -> pa.Table:
    """``one`` row, as many times as there are ids, with ids and keys of their own."""
    table = one.take(pa.array([0] * len(ids)))
    asked = [blake2b(b"%d:%d" % (number, place), digest_size=16).hexdigest() for place in range(len(ids))]
    for name, values in {"row_id": ids, "skip_key": keys, "request_key": asked}.items():
        place = table.schema.get_field_index(name)
        if place >= 0:
            table = table.set_column(place, table.schema.field(place), pa.array(values, pa.string()))
    return table
