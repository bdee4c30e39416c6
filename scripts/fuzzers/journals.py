"""A damaged journal: a reader returns only written records, or raises CheckpointDamaged."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

from checkpoint_rows import START, an_answer, an_intent, classify, open_store

from batchvision.checkpoint.entries import Accepted, Carry, Ended, Entry, Received, SegmentHeader, Voided, encode
from batchvision.checkpoint.journal import frame_group, read_segment
from batchvision.errors import CheckpointDamaged, JobInvalid
from batchvision.records import EndedWithout, RawAnswer

_HEADER = SegmentHeader("night", "run0", START, "0of1", 7)
_GROUPS: list[list[Entry]] = [
    [_HEADER, Carry("row9", "key9", "skip9", 2, 30, 1, held=True, bound_ticks=100)],
    [an_intent(1, run_id="run0"), an_intent(2, run_id="run0", keep={"title": None, "price": 1.5, "x": "a\nb"})],
    [Accepted("x1", "ticket-1", START), an_intent(3, run_id="run0", bound_ticks=None)],
    [Received("x2", an_answer(b'{"a": "\xe2\x82\xac"}', etag="1"))],
    [Received("x3", RawAnswer(500, {}, b"\xff\x00not text", START, complete=False)), an_intent(4, run_id="run0")],
    [Ended("x4", EndedWithout("timeout", "no answer", START)), an_intent(5, run_id="run0")],
    [Voided("x5")],
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
        self._entries = [repr(entry) for entry in read_segment(path).entries]

    def seeds(self) -> Sequence[bytes]:
        partial = [self._whole(self._bodies[:number]) for number in range(1, len(self._bodies) + 1)]
        return [bytes([choice]) + content for content in partial for choice in (0, 1)]

    def tokens(self) -> Sequence[bytes]:
        words = [
            b'"kind":"intent"',
            b'"kind":"answer"',
            b'"kind":"void"',
            b'"kind":"carry"',
            b'"last":1',
            b'"g":1,',
            b"x1",
        ]
        words += [
            b'"tries":[1,2]',
            b'"version":2',
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
        path = output / ".batchvision" / "0of1" / "journal-00000007.log"
        path.parent.mkdir(parents=True)
        path.write_bytes(raw)
        try:
            scan = read_segment(path)
        except CheckpointDamaged as fault:
            assert "Next:" in str(fault)
            return "damaged: " + "".join(c for c in str(fault).partition("byte")[2] if c.isalpha())[:40]
        if not is_edited and raw.startswith(self._written[:50]):
            self._check_prefix([repr(entry) for entry in scan.entries], raw)
        return f"{len(scan.entries)} {'torn' if scan.torn_bytes else 'whole'} {self._recovered(output, path, raw)}"

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
