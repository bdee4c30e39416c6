"""A folder of images -> a manifest with the columns ``id`` and ``image``.

Rule: the same folder gives the same file, byte for byte; images are told by their content, never by their names.
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from batchvision.errors import JobInvalid
from batchvision.images.formats import ImageFormat, sniff
from batchvision.manifest.image_cells import named_image
from batchvision.manifest.opening import Form, form_of, unreadable
from batchvision.records import ImageKind

_HEAD_BYTES = 256


class Listed(NamedTuple):
    """One line of the manifest."""

    id: str
    image: str


def make_manifest(folder: Path, out: Path) -> int:
    """Writes ``out`` (.csv, .tsv, .jsonl or .parquet) with every image below ``folder`` and gives their number.

    ``id``: the path within ``folder`` without its suffix, with it where two images differ in nothing else. ``image``:
    the path from ``out``'s own folder, or the absolute one where the images lie outside of it (then set
    ``[manifest] root``).
    """
    form, packing = form_of(out)
    if packing:
        raise JobInvalid(f"{out.name}: a new manifest is written without packing; leave out {out.suffix}.")
    if not folder.is_dir():
        raise JobInvalid(f"{folder} is no folder: name one that holds images.")
    try:
        found = [path.relative_to(folder) for path in sorted(_images(folder))]
    except OSError as error:
        raise unreadable(Path(error.filename or folder), error) from error
    if not found:
        raise JobInvalid(f"no image was found in {folder}; looked for {', '.join(ImageFormat)}, by content.")
    _reject_unspeakable(found)
    rows = [Listed(row_id, _image_cell(folder / path, out)) for row_id, path in zip(_ids(found), found, strict=True)]
    _write_whole(out, form, rows)
    return len(rows)


def _images(folder: Path) -> Iterator[Path]:
    """Every image below ``folder``; hidden files and folders are left out, links to folders not followed."""
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if not path.is_symlink():
                yield from _images(path)
        elif path.is_file() and _is_image(path):
            yield path


def _is_image(path: Path) -> bool:
    with path.open("rb") as file:
        return sniff(file.read(_HEAD_BYTES)) is not None


def _reject_unspeakable(paths: Sequence[Path]) -> None:
    """A name that is no text cannot be written into a table of text."""
    for path in paths:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raw = str(path).encode(errors="surrogateescape")
            raise JobInvalid(f"the file name {raw!r} is not UTF-8: rename it.") from None


def _ids(paths: Sequence[Path]) -> list[str]:
    whole = [path.as_posix() for path in paths]
    bare = [path.with_suffix("").as_posix() for path in paths]
    times = Counter(bare)
    ids = [stem if times[stem] == 1 else full for stem, full in zip(bare, whole, strict=True)]
    return ids if len(set(ids)) == len(ids) else whole


def _image_cell(image: Path, out: Path) -> str:
    home = out.absolute().parent
    path = Path(os.path.normpath(image.absolute()))
    text = path.relative_to(home).as_posix() if path.is_relative_to(home) else path.as_posix()
    is_plain = named_image(text, "").kind is ImageKind.PATH and not text.startswith(("[", " ")) and text.strip()
    return text if is_plain else f"./{text}"


def _write_whole(out: Path, form: Form, rows: Sequence[Listed]) -> None:
    """Writes beside ``out`` and renames, so that a reader never sees half a manifest."""
    draft = out.with_name(f".{out.name}.new")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _write(draft, form, rows)
        draft.replace(out)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise JobInvalid(f"{out} cannot be written: {error.strerror or error}.") from error


def _write(path: Path, form: Form, rows: Sequence[Listed]) -> None:
    if form is Form.PARQUET:
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {"id": [row.id for row in rows], "image": [row.image for row in rows]}
        pq.write_table(pa.table(columns), path)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        if form is Form.JSONL:
            file.writelines(json.dumps(row._asdict(), ensure_ascii=False) + "\n" for row in rows)
            return
        # csv leaves a lone CR unquoted when lines end in LF
        has_cr = any("\r" in row.image for row in rows)
        table = csv.writer(
            file,
            delimiter="\t" if form is Form.TSV else ",",
            lineterminator="\n",
            quoting=csv.QUOTE_ALL if has_cr else csv.QUOTE_MINIMAL,
        )
        table.writerow(Listed._fields)
        table.writerows(rows)
