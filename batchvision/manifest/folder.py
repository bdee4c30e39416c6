"""A folder of images -> a manifest with the columns ``id`` and ``image``.

Rule: the same folder gives the same file, byte for byte. Images are recognised by their content, never by name.
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

from batchvision.errors import JobInvalid
from batchvision.images import ImageFormat, sniff
from batchvision.manifest.image_cells import named_image
from batchvision.manifest.inputs import LocalInput, unreadable
from batchvision.manifest.manifest import open_table
from batchvision.manifest.text_file import TableFormat, format_of
from batchvision.records import ImageKind

_HEAD_BYTES = 256


class ListedImage(NamedTuple):
    """One line of the manifest."""

    id: str
    image: str


def make_manifest(folder: Path, out: Path, skipped: Counter[str] | None = None) -> int:
    """Write ``out`` (.csv, .tsv, .jsonl or .parquet) with each image below ``folder``. Returns the number of images.

    ``id``: the image keeps the id that it has in ``out``. A new image gets its path within ``folder``, without the
    suffix if that is unique. ``image``: the path from the folder of ``out``, or the absolute path if the image lies
    outside (then set ``[manifest] root``). ``skipped``: counts the files that are no images, by suffix. Raises
    JobInvalid, also where ``out`` exists and is no manifest.
    """
    skipped = Counter() if skipped is None else skipped
    table_format, packing = format_of(out.name)
    if packing:
        raise JobInvalid(f"{out.name}: a new manifest is written without packing; leave out {out.suffix}.")
    if not folder.is_dir():
        raise JobInvalid(f"{folder} is no folder: name one that holds images.")
    try:
        found = [path.relative_to(folder) for path in sorted(_images(folder, skipped))]
    except OSError as error:
        raise unreadable(error.filename or folder, error) from error
    if not found:
        there = f" There are {in_words(skipped)}." if skipped else ""
        raise JobInvalid(f"no image was found in {folder}; looked for {', '.join(ImageFormat)}, by content.{there}")
    _reject_undecodable(found)
    cells = [_image_cell(folder / path, out) for path in found]
    known = _known_ids(out)
    ids = _ids(found, [known.get(cell) for cell in cells])
    _write_whole(out, table_format, [ListedImage(*row) for row in zip(ids, cells, strict=True)])
    return len(cells)


def in_words(skipped: Mapping[str, int]) -> str:
    """Files by their suffixes: ``3 .txt, 1 .pdf, 2 without a suffix``."""
    ordered = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {suffix or 'without a suffix'}" for suffix, count in ordered)


def _images(folder: Path, skipped: Counter[str]) -> Iterator[Path]:
    """Each image below ``folder``. Hidden files and folders are left out, and links to folders are not followed."""
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if not path.is_symlink():
                yield from _images(path, skipped)
        elif path.is_file():
            if _is_image(path):
                yield path
            else:
                skipped[path.suffix.lower()] += 1


def _is_image(path: Path) -> bool:
    with path.open("rb") as file:
        return sniff(file.read(_HEAD_BYTES)) is not None


def _reject_undecodable(paths: Sequence[Path]) -> None:
    """Raise JobInvalid for a name that is no UTF-8: a table of text cannot hold it."""
    for path in paths:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raw = str(path).encode(errors="surrogateescape")
            raise JobInvalid(f"the file name {raw!r} is not UTF-8: rename it.") from None


def _known_ids(out: Path) -> dict[str, str]:
    """Image cell -> id in the existing manifest. With a new id, an image's answers would be bought again.

    Raises JobInvalid where the existing file is no manifest.
    """
    if not out.exists() or (out.is_file() and out.stat().st_size == 0):
        return {}
    try:
        table = open_table(LocalInput(out), dict.fromkeys(ListedImage._fields, "a manifest of a folder"))
        pairs = [
            pair
            for batch in table.batches(list(ListedImage._fields))
            for pair in zip(*(column.to_pylist() for column in batch.columns), strict=True)
        ]
    except JobInvalid as error:
        raise JobInvalid(
            [*error.problems, f"{out} is there already and is not replaced: remove it, or name another file with -o."]
        ) from error
    known = [(row_id, image) for row_id, image in pairs if isinstance(row_id, str) and isinstance(image, str)]
    return {image: row_id for row_id, image in reversed(known)}


def _ids(paths: Sequence[Path], known: Sequence[str | None]) -> list[str]:
    """A unique id for each image. ``known`` ids stay."""
    whole = [path.as_posix() for path in paths]
    bare = [path.with_suffix("").as_posix() for path in paths]
    times = Counter(bare)
    ids = [stem if times[stem] == 1 else full for stem, full in zip(bare, whole, strict=True)]
    if len(set(ids)) < len(ids):
        ids = whole
    kept = [old for old in known if old is not None]
    taken = set(kept)
    if len(taken) < len(kept):
        raise JobInvalid("the manifest that is there has an id twice: give each image an id of its own, or remove it.")
    return [_free(taken, own, full) if old is None else old for old, own, full in zip(known, ids, whole, strict=True)]


def _free(taken: set[str], own: str, full: str) -> str:
    """The first free one of ``own``, ``full`` and ``full`` with a number. Adds it to ``taken``."""
    row_id = next(name for name in chain((own, full), (f"{full}-{number}" for number in count(2))) if name not in taken)
    taken.add(row_id)
    return row_id


def _image_cell(image: Path, out: Path) -> str:
    home = out.absolute().parent
    path = Path(os.path.normpath(image.absolute()))
    text = path.relative_to(home).as_posix() if path.is_relative_to(home) else path.as_posix()
    is_plain = named_image(text, "").kind is ImageKind.PATH and not text.startswith(("[", " ")) and text.strip()
    return text if is_plain else f"./{text}"


def _write_whole(out: Path, table_format: TableFormat, rows: Sequence[ListedImage]) -> None:
    """Write beside ``out`` and rename, so that a reader never sees half a manifest."""
    draft = out.with_name(f".{out.name}.new")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _write(draft, table_format, rows)
        draft.replace(out)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise JobInvalid(f"{out} cannot be written: {error.strerror or error}.") from error


def _write(path: Path, table_format: TableFormat, rows: Sequence[ListedImage]) -> None:
    if table_format is TableFormat.PARQUET:
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {"id": [row.id for row in rows], "image": [row.image for row in rows]}
        pq.write_table(pa.table(columns), path)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        if table_format is TableFormat.JSONL:
            file.writelines(json.dumps(row._asdict(), ensure_ascii=False) + "\n" for row in rows)
            return
        # csv leaves a lone CR unquoted when lines end in LF
        has_cr = any("\r" in row.image for row in rows)
        table = csv.writer(
            file,
            delimiter="\t" if table_format is TableFormat.TSV else ",",
            lineterminator="\n",
            quoting=csv.QUOTE_ALL if has_cr else csv.QUOTE_MINIMAL,
        )
        table.writerow(ListedImage._fields)
        table.writerows(rows)
