"""The column registry of an output, ``.batchvision/columns.json``. It only grows.

The registry is durable before the first part that needs it. Older parts are padded with new columns, each by one
rename, before a new part is sealed. After a crash in between the next start finishes the padding.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
from pyarrow import types

from batchvision.checkpoint.cells import name_of, storable, type_of
from batchvision.checkpoint.disk import PUBLIC, hidden_name, make_folders
from batchvision.checkpoint.lock import STATE_FOLDER
from batchvision.checkpoint.parts import batches_of, is_number, pad_part, part_paths, schema_of
from batchvision.checkpoint.schema import TABLE_VERSION, Columns, attempts_schema, results_schema
from batchvision.checkpoint.storage import Disk, PartStore
from batchvision.errors import CheckpointDamaged, JobInvalid

Named = tuple[tuple[str, pa.DataType], ...]


def registry_path(output: Path) -> Path:
    return output / STATE_FOLDER / "columns.json"


def register(
    disk: Disk, output: Path, job_name: str, wanted: Columns, padded: Callable[[Path], None] = lambda path: None
) -> Columns:
    """Register the columns of ``wanted``, pad every part to have all columns, and return them.

    ``padded`` is called with each part that was changed. Raises JobInvalid where the output belongs to another job or a
    column would change its type.
    """
    path = registry_path(output)
    make_folders(disk, path.parent)
    with _alone(output):
        if hidden_name(path).exists():
            disk.remove(hidden_name(path))  # a crash left it
        while True:
            stored = disk.get(path)
            known = _parsed(output, stored, job_name)
            columns = _grown(output, known or Columns(), wanted)
            if known is not None:
                _check_widened(output, known, columns)
            id_of_output = _id_in(stored)
            if columns == known and id_of_output is not None:
                break
            if disk.replace_if(path, _document(job_name, columns, id_of_output or uuid4().hex), stored):
                break
        for part in _pad_all(disk, output, columns):
            padded(part)
    return columns


def read_registry(output: Path, job_name: str | None = None) -> Columns | None:
    """Return the registered columns. A new output has ``None``.

    With ``job_name``: raises JobInvalid where the output belongs to another job.
    """
    path = registry_path(output)
    return _parsed(output, path.read_bytes() if path.exists() else None, job_name)


def registered_job(output: Path) -> str | None:
    """Return the name of the job that the output belongs to. A new output has ``None``."""
    path = registry_path(output)
    return None if read_registry(output) is None else str(json.loads(path.read_bytes())["job"])


def output_id(output: Path) -> str | None:
    """Return the random id of the output, which its copies share. Outputs of older versions get one with a run."""
    path = registry_path(output)
    return _id_in(path.read_bytes()) if path.exists() else None


def _id_in(stored: bytes | None) -> str | None:
    return None if stored is None else json.loads(stored).get("output_id")


def _parsed(output: Path, stored: bytes | None, job_name: str | None) -> Columns | None:
    if stored is None:
        return None
    path = registry_path(output)
    try:
        document = json.loads(stored)
        columns = Columns(_named(document["keep"]), _named(document["answers"]))
        owner, version = document["job"], document["table_version"]
    except (ValueError, KeyError, TypeError) as fault:
        raise CheckpointDamaged(
            f"{path} is damaged ({fault})", next_step=f"`batchvision verify {output}` lists what is whole"
        ) from fault
    if version > TABLE_VERSION:
        raise CheckpointDamaged(
            f"{output} was written by a later batchvision (tables of version {version})",
            next_step="upgrade with `pip install -U batchvision`, then run again",
        )
    if job_name is not None and owner != job_name:
        raise JobInvalid(
            f"{output} belongs to the job {owner!r}, and this job is {job_name!r}: one output belongs to one job name. "
            f'Set output.path to another folder, or name = "{owner}" again.'
        )
    return columns


def _named(document: list[list[str]]) -> Named:
    return tuple((name, type_of(type_name)) for name, type_name in document)


def _document(job_name: str, columns: Columns, id_of_output: str) -> bytes:
    document: dict[str, Any] = {
        "table_version": TABLE_VERSION,
        "job": job_name,
        "output_id": id_of_output,
        "keep": [[name, name_of(arrow)] for name, arrow in columns.keep],
        "answers": [[name, name_of(arrow)] for name, arrow in columns.answers],
    }
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def _grown(output: Path, known: Columns, wanted: Columns) -> Columns:
    problems: list[str] = []
    keep = _merged(known.keep, wanted.keep, KEPT, known.answers, problems)
    answers = _merged(known.answers, wanted.answers, ANSWER, known.keep, problems)
    if problems:
        raise JobInvalid([f"{output}: {problem}" for problem in problems])
    return Columns(keep, answers)


def _merged(known: Named, wanted: Named, what: str, other: Named, problems: list[str]) -> Named:
    have = dict(known)
    taken = {name for name, _ in other}
    for name, arrow in ((name, storable(arrow)) for name, arrow in wanted):
        if name in taken:
            problems.append(
                f"the {what} {name!r} has the name of a column of another sort in this output. Rename it in the job, "
                "or set output.path to another folder."
            )
        elif name not in have:
            have[name] = arrow
        elif what == KEPT and (wider := _wider(have[name], arrow)) is not None:
            have[name] = wider
        elif name_of(have[name]) != name_of(arrow):
            problems.append(
                f"the {what} {name!r} is {name_of(have[name])} in this output and would become {name_of(arrow)}. "
                f"{_NEXT[what]}"
            )
    return tuple(have.items())


KEPT, ANSWER = "kept column", "answer column"
_NEXT = {
    KEPT: "Give it another name in the job, or set output.path to another folder.",
    ANSWER: "Give it another name in the schema. Or keep what is paid: copy attempts/ and recipes/ of this output into "
    "a new folder, set output.path to it, and type `batchvision reparse JOB`: it reads the stored answers again and "
    "sends nothing.",
}


def _wider(known: pa.DataType, given: pa.DataType) -> pa.DataType | None:
    """The type that holds the cells of both types, if there is one. Integers widen to longer ones and to floats."""
    if types.is_integer(known) and types.is_integer(given):
        return max(known, given, key=lambda arrow: int(arrow.bit_width))
    if known != given and is_number(known) and is_number(given):
        return pa.float64()
    return None


def _check_widened(output: Path, known: Columns, columns: Columns) -> None:
    """Raise JobInvalid where a stored integer is too large for a float. Nothing has changed yet."""
    before = dict(known.keep)
    widened = [(name, arrow) for name, arrow in columns.keep if before.get(name, arrow) != arrow]
    for path in [path for table in SCHEMAS for path in part_paths(output, table)] if widened else []:
        there = schema_of(path).names
        for name, arrow in widened:
            try:
                for batch in batches_of(path, (name,)) if name in there else ():
                    batch[name].cast(arrow)
            except pa.ArrowInvalid as fault:
                raise JobInvalid(
                    f"{output}: the {KEPT} {name!r} would become {name_of(arrow)}, and it holds whole numbers that are "
                    f"too large for that ({fault}). {_NEXT[KEPT]}"
                ) from fault


#: Schema of each dated table with an output's columns.
SCHEMAS: Mapping[str, Callable[[Columns], pa.Schema]] = {"results": results_schema, "attempts": attempts_schema}


def _pad_all(store: PartStore, output: Path, columns: Columns) -> Iterator[Path]:
    for table, columns_of in SCHEMAS.items():
        schema = columns_of(columns)
        for path in part_paths(output, table):
            if pad_part(store, path, schema):
                yield path


def _alone(output: Path) -> AbstractContextManager[None]:
    """Exclude every other shard of the output from the registry."""
    return _locked(output, fcntl.LOCK_EX)


def padding_held(output: Path) -> AbstractContextManager[None]:
    """Keep parts from being padded while they are merged. Several merges may hold this at once."""
    return _locked(output, fcntl.LOCK_SH)


@contextmanager
def _locked(output: Path, kind: int) -> Iterator[None]:
    path = registry_path(output).with_name("columns.lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PUBLIC)
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)
