"""Manifests of every form: rows or JobInvalid, every row counted, no cell that gets out of the prompt."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from batchvision.checkpoint import Columns
from batchvision.checkpoint.cells import storable
from batchvision.errors import JobInvalid
from batchvision.images import redact_reference
from batchvision.job import Job
from batchvision.manifest import parquet, parquet_reader
from batchvision.manifest.parquet_reader import ParquetReader
from batchvision.prompt import Conversation
from batchvision.providers import SendOptions, dialect
from batchvision.records import Row
from batchvision.runner.feed import NoKnownRows, feed, survey
from fuzzers.tables import parquet_files

_PROMPTS = ({"user": "Say {title} of {{x}} {image}"}, {"column": "title"}, {"user": "{title}{title}{image:image}"})
_NAMES = ("m.csv", "m.tsv", "m.jsonl", "m.parquet", "m.csv.gz", "m.jsonl.zst", "m.csv", "m.jsonl")
_IDS = ("id", None, ["id", "title"])


_IDLE: list[_LastingReader] = []


class _LastingReader(ParquetReader):
    """A reader that is used for many inputs: to start one takes longer than to read a small file."""

    def __init__(self) -> None:
        super().__init__()
        self._end, self._is_idle = self.close, True
        self.close = self._give_back  # type: ignore[assignment]  # a function in place of a finalizer

    def _replies(self, *arguments: Any) -> Iterator[tuple[dict[str, Any], pa.RecordBatch | None]]:
        self._is_idle = False
        try:
            yield from super()._replies(*arguments)
            self._is_idle = True
        except Exception as fault:
            self._is_idle = fault.__cause__ is None  # the child itself has refused the file, and waits for the next
            raise

    def _give_back(self) -> None:
        if self._is_idle:
            _IDLE.append(self)
        else:
            self._end()


def _reader() -> ParquetReader:
    return _IDLE.pop() if _IDLE else _LastingReader()


class Manifests:
    """The first byte of an input chooses the form, the id and the prompt; the rest is the file (unpacked)."""

    name = "manifest"

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="fuzz-manifest-"))
        (self._folder / "a.jpg").write_bytes(b"no image")
        for module in (parquet, parquet_reader):
            module.ParquetReader = _reader  # type: ignore[attr-defined]  # of this process alone

    def seeds(self) -> Sequence[bytes]:
        csv = b'id,image,title\n007,a.jpg,Boot\n8,https://h/b.jpg,\n"9""x","a.jpg","two\nlines"\n'
        jsonl = b'{"id": 1, "image": "a.jpg", "title": "t"}\n{"id": 2.50, "image": [{"path": "b"}], "title": null}\n'
        jsonl += b'{"id": 3, "title": {"a": [1e400, true]}}\n{"id": 1e2, "image": [], "title": -0.0}\n'
        texts = {0: csv, 1: csv.replace(b",", b"\t"), 2: jsonl, 4: csv, 5: jsonl, 6: csv, 7: jsonl}
        seeds = [bytes([number + 8 * choice]) + body for number, body in texts.items() for choice in range(9)]
        return seeds + [bytes([3 + 8 * choice]) + body for body in parquet_files() for choice in (0, 4, 8)]

    def tokens(self) -> Sequence[bytes]:
        words = [
            "id",
            "image",
            "title",
            "a.jpg",
            "\x00title\x00",
            "{title}",
            "{image:image}",
            "data:image/png;base64,AAAA",
        ]
        words += ['"bytes"', '"path"', "https://u:p@h/a.jpg?X-Amz-Signature=s", "file:///etc/passwd", "||", "\\|", "#2"]
        words += ['{"id":1,"image":"a.jpg","title":"x"}\n', "1,a.jpg,x\n", "2026-11-20T00:00:00Z", "PAR1", "\x1f\x8b"]
        return [word.encode() for word in words]

    def run(self, content: bytes) -> str:
        choice, body = (content[0], content[1:]) if content else (0, b"")
        name = _NAMES[choice % 8]
        if name.endswith(".gz"):
            body = gzip.compress(body, 1)
        elif name.endswith(".zst"):
            body = pa.compress(body, "zstd", asbytes=True)
        path = self._folder / name
        path.write_bytes(body)
        try:
            return self._read(self._job(name, choice // 8))
        except JobInvalid as fault:
            assert fault.problems and all(problem.strip() for problem in fault.problems)
            return "".join(c for c in fault.problems[0].partition(":")[2][:40] if c.isalpha() or c == " ")

    def _job(self, name: str, choice: int) -> Job:
        table = {
            "name": "fuzz",
            "manifest": {"path": name, "keep": ["title"], "image_identity": "ref"},
            "prompt": dict(_PROMPTS[choice % 3]),
            "provider": {"name": "emulator", "model": "m"},
        }
        if _IDS[choice // 3 % 3] is not None:
            table["manifest"]["id"] = _IDS[choice // 3 % 3]  # type: ignore[index]
        return Job.from_mapping(table, self._folder)

    def _read(self, job: Job) -> str:
        found = survey(job)
        rows, counted = list[Row](), 0
        for batch in feed(job, found, NoKnownRows()):
            rows += batch.rows
            counts = batch.counts
            counted += len(batch.rows) + counts.done + counts.failed_kept + counts.awaiting + counts.held + counts.left
        assert counted == found.rows, f"{counted} rows of {found.rows}"
        assert len({row.row_id for row in rows}) == len(rows), "two rows of one name"
        columns = Columns(keep=found.keep_types)
        for row in rows:
            _check(job, row, columns)
        kinds = {row.problem.partition("'")[0] if row.problem else f"{len(row.images)} images" for row in rows}
        return f"{min(len(rows), 3)} rows: {', '.join(sorted(kinds))[:80]}"


def _check(job: Job, row: Row, columns: Columns) -> None:
    json.dumps(row.keep, allow_nan=False).encode()
    row.row_id.encode()
    assert "\x00" not in row.row_id and not any("\x00" in cell for cell in row.keep if isinstance(cell, str))
    for _, kept in columns.keep:
        assert storable(kept) == kept, kept
    for ref in row.images:
        shown = redact_reference(ref)
        assert "X-Amz-Signature" not in shown or "X-Amz-Signature" in shown.partition("?")[0]
    if row.problem is None:
        _check_body(job, row)


def _check_body(job: Job, row: Row) -> None:
    """A cell ends inside the text of the one user message."""
    speaks = dialect("emulator")
    messages = Conversation(job.recipe, ()).messages(row.prompt, ())
    body = json.loads(speaks.body(job.recipe, messages, SendOptions()))
    assert set(body) == {"model", "messages"} and body["model"] == "m", body.keys()
    (message,) = body["messages"]
    assert set(message) == {"role", "content"} and message["role"] == "user"
    parts = (
        message["content"] if isinstance(message["content"], list) else [{"type": "text", "text": message["content"]}]
    )
    assert all(part["type"] == "text" and set(part) == {"type", "text"} for part in parts)
