"""A damaged journal: a reader returns only written records, or raises CheckpointDamaged."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

from checkpoint_rows import START, a_completed, a_failed, an_answer, an_intent, classify, open_store

from batchvision.checkpoint.journal_records import (
    Accepted,
    Carry,
    Closed,
    ReadDoubts,
    Received,
    Record,
    RowFailed,
    SegmentHeader,
    Shared,
    Voided,
)
from batchvision.checkpoint.log_file import frame_group, read_log
from batchvision.checkpoint.record_json import encode
from batchvision.errors import CheckpointDamaged, JobInvalid
from batchvision.records import Answer, AttemptState, EndedWithout, RawAnswer

_HEADER = SegmentHeader("night", "run0", START, "0of1", 1)
_GROUPS: list[list[Record]] = [
    [_HEADER, Carry("row9", "key9", "skip9", 2, 30, 1, held=True, bound_ticks=100)],
    [an_intent(1, run_id="run0"), an_intent(2, run_id="run0", keep={"title": None, "price": 1.5, "x": "a\nb"})],
    [Accepted("x1", "ticket-1", START), an_intent(3, run_id="run0", bound_ticks=None)],
    [Received("x2", an_answer(b'{"a": "\xe2\x82\xac"}', etag="1"))],
    [Received("x3", RawAnswer(500, {}, b"\xff\x00not text", START, complete=False)), an_intent(4, run_id="run0")],
    [Closed("x4", AttemptState.RETRIED, Answer(), "timeout", "no", 9, EndedWithout("timeout", "no answer", START))],
    [an_intent(5, run_id="run0"), Voided("x5"), Shared(a_completed(an_intent(8, run_id="run0")))],
    [
        RowFailed(a_failed(an_intent(7), "row_invalid", request_key=None)),
        ReadDoubts("run0", ("x1",), run_has_ended=True),
    ],
    [an_intent(6, run_id="run0"), Received("x6", an_answer(b"no", 400))],
]


class Journals:
    """The first byte chooses: bytes as they are, or every checksum corrected, as after an edit by hand."""

    name = "journal"

    def __init__(self) -> None:
        memory = Path("/dev/shm")  # thousands of fsyncs would only slow the target down
        self._folder = Path(tempfile.mkdtemp(prefix="fuzz-journal-", dir=memory if memory.is_dir() else None))
        self._bodies = [[encode(entry, lambda text: text) for entry in group] for group in _GROUPS]
        self._written = self._whole(self._bodies)
        path = self._folder / "written.log"
        path.write_bytes(self._written)
        self._entries = [repr(entry) for entry in read_log(path).records]

    def seeds(self) -> Sequence[bytes]:
        partial = [self._whole(self._bodies[:number]) for number in range(1, len(self._bodies) + 1)]
        return [bytes([choice]) + content for content in partial for choice in (0, 1)]

    def tokens(self) -> Sequence[bytes]:
        words = [
            b'"kind":"intent"',
            b'"kind":"answer"',
            b'"kind":"void"',
            b'"kind":"carry"',
            b'"kind":"closed"',
            b'"kind":"row_failed"',
            b'"kind":"shared"',
            b'"kind":"doubts"',
            b'"last":1',
            b'"g":1,',
            b"x1",
        ]
        words += [
            b'"tries":[1,2]',
            b'"version":1',
            b'"body_base64":"!"',
            b'"at":"2026-13-01"',
            b"\n00000000 {}",
            b'"row1"',
        ]
        return [*words, *self._written.split(b"\n"), *(line[9:] for line in self._written.split(b"\n"))]

    def run(self, content: bytes) -> str:
        is_edited, raw = content[:1] == b"\1", content[1:]
        if is_edited:
            raw = b"\n".join(_summed(line) for line in raw.split(b"\n"))
        output = self._folder / "out"
        shutil.rmtree(output, ignore_errors=True)
        path = output / ".batchvision" / "0of1" / "journal-00000001.log"
        path.parent.mkdir(parents=True)
        path.write_bytes(raw)
        try:
            scan = read_log(path)
        except CheckpointDamaged as fault:
            assert "Next:" in str(fault)
            return "damaged: " + "".join(c for c in str(fault).partition("byte")[2] if c.isalpha())[:40]
        if not is_edited and raw.startswith(self._written[:50]):
            self._check_prefix([repr(entry) for entry in scan.records], raw)
        return f"{len(scan.records)} {'torn' if scan.torn_bytes else 'whole'} {self._recovered(output, path, raw)}"

    def _check_prefix(self, read: list[str], raw: bytes) -> None:
        """Without corrected checksums the journal may only end early."""
        lines = set(self._written.split(b"\n"))
        if all(line in lines for line in raw.split(b"\n")[: len(read) + 1]):
            assert read == self._entries[: len(read)], "something was read that was never written"

    def _recovered(self, output: Path, path: Path, raw: bytes) -> str:
        try:
            with open_store(output) as store:
                found = store.recover(classify)
                sentences = list(found.sentences())
                assert store.row_index("recipe") is not None
        except (CheckpointDamaged, JobInvalid) as fault:
            assert path.read_bytes() == raw, "damage was changed"
            return type(fault).__name__
        assert not path.exists(), "the old segment stayed"
        with open_store(output) as store:  # a second start must find the same state
            store.recover(classify)
        return f"{found.completed} {found.failed} {len(found.tickets)} {len(found.ambiguous)} {len(sentences)}"

    @staticmethod
    def _whole(groups: list[list[bytes]]) -> bytes:
        return b"".join(frame_group(number, bodies) for number, bodies in enumerate(groups))


def _summed(line: bytes) -> bytes:
    """The line with the checksum that its content has, if it looks like one of ours."""
    body = line[9:]
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return line
    return b"%08x %s" % (crc32(body), body)
