"""The journal: what was acknowledged is read back, a torn tail is cut, damage is found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from math import isnan, nan
from pathlib import Path
from typing import Any

import anyio
import pytest
from checkpoint_rows import START, a_completed, a_failed, an_answer, an_intent, classify, open_store
from hypothesis import given, settings
from hypothesis import strategies as st
from modelled_disk import ModelledDisk

from batchvision.checkpoint import Store
from batchvision.checkpoint.disk import LocalDisk
from batchvision.checkpoint.journal import GROUP_BYTES, Group, Segment, segment_path, segment_paths
from batchvision.checkpoint.journal_records import (
    Accepted,
    Carry,
    CarryRemoved,
    Closed,
    Ended,
    ExchangeRemoved,
    FailureRemoved,
    ReadDoubts,
    Received,
    Record,
    RowAnswer,
    RowFailed,
    Sealed,
    SegmentHeader,
    Shared,
    Submission,
    SubmissionEnded,
    SubmissionStep,
    Voided,
)
from batchvision.checkpoint.log_file import Frame, frame_group, read_log, scan
from batchvision.checkpoint.record_json import decode, encode
from batchvision.errors import CheckpointDamaged, DiskFailed
from batchvision.records import Answer, AttemptState, Cell, EndedWithout, Intent, Purpose, RawAnswer, Usage
from batchvision.secrets import Secret, Secrets

HEADER = SegmentHeader("night", "run1", START, "0of1", 7)
RECORDS: list[Record] = [
    an_intent(1),
    an_intent(2, keep={"title": None, "price": 1.5, "café": "x\ny"}, bound_ticks=None),
    Accepted("x1", "ticket-1", START),
    Submission("s1", SubmissionStep.CREATING, START),
    Submission("s1", SubmissionStep.FILLING, START, "https://api.x.ai/v1", "batch-1", "file-1"),
    SubmissionEnded("s1"),
    Received("x1", an_answer(b'{"a": "\xe2\x82\xac\\n"}', etag="1")),
    Received("x2", RawAnswer(500, {}, b"\xff\x00not text", START, complete=False)),
    Ended("x3", EndedWithout("timeout", "no answer in 600 s", START)),
    Voided("x4"),
    Carry("row", "key", "skip", 2, 30, 1, held=True, bound_ticks=100),
    Closed("x1", AttemptState.RETRIED, Answer(), "timeout", "slow", 0, EndedWithout("timeout", "slow", START)),
    Closed(
        "x2",
        AttemptState.OK,
        Answer("an answer", "stop", Usage(10, 5, 0, 3, 1, 0, "reported"), "grok", reasoning_text="so"),
        completed=RowAnswer('{"a": 1.0}', {"answer_score": 1.0, "answer_tags": ["a", "b"], "answer_n": None}, 7, START),
        is_repeat=True,
    ),
    Closed("x3", AttemptState.FAILED, Answer(), "refused", "no", failed=a_failed(an_intent(3)), is_held=True),
    RowFailed(a_failed(an_intent(4), "row_invalid", request_key=None)),
    RowFailed(a_failed(an_intent(4)), is_correction=True),
    Shared(a_completed(an_intent(5), values={"answer_score": 0.5}, updated_at=START)),
    Shared(a_completed(an_intent(6, attempt=0), output_json="{}")),
    ExchangeRemoved("x1"),
    CarryRemoved("row", "key"),
    FailureRemoved("row"),
    ReadDoubts("run1", ("x1", "x2"), run_has_ended=True),
    ReadDoubts("run1", None, run_has_ended=False),
    Sealed(3),
]
PATH = Path("out/.batchvision/0of1/journal-00000007.log")


def as_it_is(text: str) -> str:
    return text


@contextmanager
def a_store(folder: Path, **options: Any) -> Iterator[Store]:
    with open_store(folder, **options) as store:
        store.recover(classify)
        yield store


def lines_of(*groups: list[bytes]) -> bytes:
    return b"".join(frame_group(number, bodies) for number, bodies in enumerate(groups))


def flipped(raw: bytes, bit: int) -> bytes:
    changed = bytearray(raw)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


# ---------------------------------------------------------------------------------- records


@pytest.mark.parametrize("entry", [HEADER, *RECORDS], ids=lambda record: type(record).__name__)
def test_a_record_is_read_back_as_it_was_written(entry: Record) -> None:
    (frame,), torn = scan(frame_group(0, [encode(entry, as_it_is)]), PATH)
    assert decode(frame.document) == entry
    assert torn == 0


@given(st.text(), st.text(alphabet=st.characters(codec=None)))
def test_any_text_survives_lone_surrogates_and_newlines_included(message: str, cell: str) -> None:
    entries: list[Record] = [
        Ended("x", EndedWithout("timeout", message, START)),
        an_intent(1, keep={"title": cell}),
    ]
    raw = frame_group(0, [encode(entry, as_it_is) for entry in entries])
    assert raw.count(b"\n") == 2
    assert [decode(frame.document) for frame in scan(raw, PATH)[0]] == entries


@given(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), st.booleans())
def test_any_cell_survives_as_what_it_is(cell: Cell, has_half_a_character: bool) -> None:
    entry = an_intent(1, keep={"cell": cell, "title": "\ud800" if has_half_a_character else "a"})
    (frame,), _ = scan(frame_group(0, [encode(entry, as_it_is)]), PATH)
    found = decode(frame.document)
    assert found == entry
    assert isinstance(found, Intent)
    assert type(found.keep["cell"]) is type(cell)


@pytest.mark.parametrize("title", ["a", "\ud800"])
def test_a_cell_that_is_no_number_survives(title: str) -> None:
    (frame,), _ = scan(frame_group(0, [encode(an_intent(1, keep={"nan": nan, "title": title}), as_it_is)]), PATH)
    found = decode(frame.document)
    assert isinstance(found, Intent)
    assert isnan(found.keep["nan"])


@given(st.binary(max_size=200))
def test_any_body_survives_byte_for_byte(body: bytes) -> None:
    entry = Received("x", an_answer(body))
    (frame,), _ = scan(frame_group(0, [encode(entry, as_it_is)]), PATH)
    assert decode(frame.document) == entry


def test_the_key_is_masked_in_every_text_of_a_record() -> None:
    secrets = Secrets(Secret("sk-very-secret"))
    intent = an_intent(1, keep={"title": "uses sk-very-secret"}, image_ref=("https://e.org/?k=sk-very-secret",))
    ended = Ended("x1", EndedWithout("timeout", "Bearer sk-very-secret timed out", START))
    for entry in (intent, ended):
        line = encode(entry, secrets.mask)
        assert b"sk-very-secret" not in line
        assert b"***" in line


def test_lines_can_be_read_with_grep_and_jq() -> None:
    line = frame_group(3, [encode(Voided("x1"), as_it_is)])
    assert line.endswith(b' {"g":3,"last":1,"kind":"void","exchange_id":"x1"}\n')
    assert len(line.split(b" ")[0]) == 8


def test_an_unknown_kind_of_record_is_refused() -> None:
    with pytest.raises(ValueError, match="compost"):
        decode({"kind": "compost"})


# ---------------------------------------------------------------------------------- torn tail or damage

BODIES = [[encode(HEADER, as_it_is)], [b'{"n":1}', b'{"n":2}'], [b'{"n":3}'], [b'{"n":4}', b'{"n":5}', b'{"n":6}']]
WHOLE = lines_of(*BODIES)
ENDS = [len(lines_of(*BODIES[: count + 1])) for count in range(len(BODIES))]


def records(frames: list[Frame]) -> list[int]:
    return [frame.document["n"] for frame in frames[1:]]


@pytest.mark.parametrize("cut", range(ENDS[0], len(WHOLE) + 1))
def test_wherever_it_is_cut_no_group_before_the_cut_is_lost(cut: int) -> None:
    frames, torn = scan(WHOLE[:cut], PATH)
    acknowledged = [
        n for bodies, end in zip(BODIES[1:], ENDS[1:], strict=True) if end <= cut for n in range(len(bodies))
    ]
    assert len(records(frames)) >= len(acknowledged)
    assert records(frames) == list(range(1, len(frames)))
    assert torn == cut - (WHOLE[:cut].rfind(b"\n") + 1)


@pytest.mark.parametrize("cut", [0, 5, ENDS[0] - 1])
def test_a_cut_in_the_first_group_is_damage_as_it_was_whole_before_it_had_a_name(cut: int) -> None:
    with pytest.raises(CheckpointDamaged):
        scan(WHOLE[:cut], PATH)


@pytest.mark.parametrize("zeros", [1, 100, 4096])
@pytest.mark.parametrize("kept", ENDS)
def test_a_tail_of_zeros_is_cut(kept: int, zeros: int) -> None:
    frames, torn = scan(WHOLE[:kept] + b"\0" * zeros, PATH)
    assert torn == zeros
    assert len(lines_of(*BODIES)[:kept].splitlines()) == len(frames)


def test_a_hole_in_the_last_group_is_a_torn_tail_even_if_its_end_was_written() -> None:
    start = ENDS[2]
    first_line_end = WHOLE.find(b"\n", start)
    holed = WHOLE[: start + 3] + b"\0" * (first_line_end - start - 3) + WHOLE[first_line_end:]
    frames, torn = scan(holed, PATH)
    assert records(frames) == [1, 2, 3]
    assert torn == len(holed) - start


@pytest.mark.parametrize("group", [0, 1, 2])
def test_a_bad_record_with_a_later_group_behind_it_is_damage_and_says_where(group: int) -> None:
    start = ENDS[group - 1] if group else 0
    with pytest.raises(CheckpointDamaged) as caught:
        scan(flipped(WHOLE, 8 * (start + 20)), PATH)
    assert f"byte {start}" in caught.value.message
    assert "`batchvision verify out`" in caught.value.message


def test_the_last_record_of_a_group_lost_before_a_later_group_is_damage() -> None:
    at = WHOLE.find(b'"n":2')
    with pytest.raises(CheckpointDamaged):
        scan(flipped(WHOLE, 8 * at), PATH)


def test_a_line_that_is_gone_without_a_trace_is_damage() -> None:
    lines = WHOLE.splitlines(keepends=True)
    for gone in range(len(lines) - 1):
        with pytest.raises(CheckpointDamaged):
            scan(b"".join(lines[:gone] + lines[gone + 1 :]), PATH)
    with pytest.raises(CheckpointDamaged):
        scan(b"".join([*lines, lines[-1]]), PATH)


def test_every_flipped_bit_of_a_journal_of_a_hundred_records_is_found() -> None:
    groups = [[encode(HEADER, as_it_is)]] + [[b'{"n":%d}' % (3 * at + k) for k in range(3)] for at in range(33)]
    raw = lines_of(*groups)
    torn_tails = damages = 0
    for bit in range(len(raw) * 8):
        try:
            _, torn = scan(flipped(raw, bit), PATH)
        except CheckpointDamaged:
            damages += 1
        else:
            assert torn > 0, f"bit {bit} went unseen"
            torn_tails += 1
    last_group = len(frame_group(33, groups[-1])) * 8
    assert torn_tails == last_group
    assert damages == len(raw) * 8 - last_group


@settings(max_examples=200)
@given(st.lists(st.lists(st.integers(), min_size=1, max_size=4), min_size=1, max_size=6), st.data())
def test_a_cut_and_garbage_behind_it_never_invent_or_reorder_records(groups: list[list[int]], data: Any) -> None:
    bodies = [[encode(HEADER, as_it_is)], *([b'{"n":%d}' % number for number in group] for group in groups)]
    raw = lines_of(*bodies)
    cut = data.draw(st.integers(len(frame_group(0, bodies[0])), len(raw)))
    garbage = data.draw(st.binary(max_size=50))
    frames, _ = scan(raw[:cut] + garbage, PATH)
    written = [number for group in groups for number in group]
    whole = len(raw[:cut].splitlines()) - (0 if raw[:cut].endswith(b"\n") else 1) - 1
    assert records(frames)[:whole] == written[:whole]
    assert records(frames) in (written[:whole], written[: whole + 1])


# ---------------------------------------------------------------------------------- segments


def test_the_newest_segment_is_found_by_number_and_hidden_ones_are_not_seen(tmp_path: Path) -> None:
    for seq in (2, 10, 123456789):
        segment_path(tmp_path, seq).touch()
    (tmp_path / ".journal-00000011.log.tmp").touch()
    (tmp_path / "journal-old.log").touch()
    assert [path.name for path in segment_paths(tmp_path)] == [
        "journal-00000002.log",
        "journal-00000010.log",
        "journal-123456789.log",
    ]


def test_a_segment_is_readable_by_its_owner_only_and_begins_with_its_first_records(tmp_path: Path) -> None:
    segment = Segment.create(LocalDisk(), tmp_path, HEADER, RECORDS, as_it_is)
    segment.log.append([encode(Voided("x9"), as_it_is)])
    segment.log.close()
    path = segment.log.path
    assert path.stat().st_mode & 0o777 == 0o600
    found = read_log(path)
    assert (found.header, found.records, found.torn_bytes) == (HEADER, [*RECORDS, Voided("x9")], 0)


def test_a_segment_has_its_name_only_when_it_is_durable(tmp_path: Path) -> None:
    disk = ModelledDisk(tmp_path)
    Segment.create(disk, tmp_path, HEADER, [], as_it_is).log.close()
    assert [operation.name for operation in disk.operations] == ["create", "write", "sync", "rename", "sync_folder"]


def test_a_segment_of_a_later_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    later = SegmentHeader("night", "run1", START, "0of1", 7, version=99)
    Segment.create(LocalDisk(), tmp_path, later, [], as_it_is).log.close()
    with pytest.raises(CheckpointDamaged, match="pip install -U"):
        read_log(segment_path(tmp_path, 7))


@pytest.mark.parametrize("body", [b'{"kind":"void"}', b'{"kind":"answer","exchange_id":"x","body":3}'])
def test_a_record_that_is_none_of_ours_is_damage(tmp_path: Path, body: bytes) -> None:
    segment = Segment.create(LocalDisk(), tmp_path, HEADER, [], as_it_is)
    segment.log.append([body])
    segment.log.close()
    with pytest.raises(CheckpointDamaged, match="cannot be read"):
        read_log(segment.log.path)


# ---------------------------------------------------------------------------------- group commit


@pytest.mark.anyio
async def test_an_acknowledgement_comes_after_the_sync_of_its_group(tmp_path: Path) -> None:
    disk = ModelledDisk(tmp_path)
    with a_store(tmp_path, disk=disk) as store:
        before = len(disk.operations)
        first, second = (store._writer.add(an_intent(number)) for number in (1, 2))
        assert first is second
        assert len(disk.operations) == before
        with anyio.move_on_after(0) as scope:
            await first.durable()
        assert scope.cancelled_caught
        await store._writer.commit()
        await first.durable()
        assert [operation.name for operation in disk.operations[before:]] == ["write", "sync"]
        assert read_log(segment_path(tmp_path / ".batchvision" / "0of1", 1)).records == [an_intent(1), an_intent(2)]


@pytest.mark.anyio
async def test_waiters_are_acknowledged_in_the_order_in_which_they_came_whatever_their_group(tmp_path: Path) -> None:
    """An answer (the account is empty) is acted on before the next request of its slot leaves (P5)."""
    acknowledged = list[int]()

    async def wait(group: Group, number: int) -> None:
        await group.durable()
        acknowledged.append(number)

    count = 40
    with a_store(tmp_path) as store:
        async with anyio.create_task_group() as waiters:
            for first in (0, count):
                group = store._writer.add(an_intent(first))
                for number in range(first, first + count):
                    waiters.start_soon(wait, group, number)
                await anyio.lowlevel.checkpoint()
                await store._writer.commit()
    assert acknowledged == list(range(2 * count))


@pytest.mark.anyio
async def test_a_record_that_comes_while_a_group_is_written_waits_for_the_next_group(tmp_path: Path) -> None:
    late: list[Any] = []

    async def slow(work: Callable[..., Any], /, *args: Any) -> Any:
        if work.__name__ == "_append":
            late.append(store._writer.add(an_intent(2)))
        return work(*args)

    with a_store(tmp_path, offload=slow) as store:
        early = store._writer.add(an_intent(1))
        await store._writer.commit()
        assert late[0] is not early
        assert read_log(segment_path(tmp_path / ".batchvision" / "0of1", 1)).records == [an_intent(1)]


@pytest.mark.anyio
async def test_a_full_group_does_not_wait_for_the_clock(tmp_path: Path) -> None:
    with a_store(tmp_path) as store:
        store._writer.add(an_intent(1, keep={"title": "a" * GROUP_BYTES}))
        assert store._writer.journal.gathering.size_bytes >= GROUP_BYTES
        await store._writer.journal.gathering.filled(3600)


@pytest.mark.anyio
async def test_an_empty_group_writes_nothing(tmp_path: Path) -> None:
    disk = ModelledDisk(tmp_path)
    with a_store(tmp_path, disk=disk) as store:
        before = list(disk.operations)
        await store._writer.commit()
        assert disk.operations == before


@pytest.mark.anyio
async def test_no_waiter_waits_for_ever_when_the_writer_breaks(tmp_path: Path) -> None:
    async def broken(work: Callable[..., Any], /, *args: Any) -> Any:
        raise RuntimeError("a bug")

    with a_store(tmp_path, offload=broken) as store:
        group = store._writer.add(an_intent(1))
        with pytest.raises(RuntimeError, match="a bug"):
            await store._writer.commit()
        with pytest.raises(DiskFailed, match="broken off"):
            await group.durable()


def test_times_keep_their_microseconds() -> None:
    at = datetime(2026, 11, 20, 1, 2, 3, 456789, tzinfo=UTC)
    (frame,), _ = scan(frame_group(0, [encode(Accepted("x", "t", at), as_it_is)]), PATH)
    assert decode(frame.document) == Accepted("x", "t", at)


# ---------------------------------------------------------------------------------- the purpose of an intent


@pytest.mark.parametrize("purpose", list(Purpose))
def test_an_intent_keeps_the_purpose_of_its_run(purpose: Purpose) -> None:
    intent = an_intent(1, purpose=purpose)
    assert decode(json.loads(encode(intent, str))) == intent


@pytest.mark.parametrize(
    ("run_id", "purpose"),
    [("r1", Purpose.RUN), ("r1-pilot", Purpose.PILOT), ("r1-sweep", Purpose.SWEEP), ("pilot", Purpose.RUN)],
)
def test_a_journal_without_purposes_tells_them_by_the_end_of_the_run_id(run_id: str, purpose: Purpose) -> None:
    document = json.loads(encode(an_intent(1, run_id=run_id, purpose=purpose), str))
    assert document.pop("purpose", "run") == purpose.value, "only earlier versions leave it out"
    intent = decode(document)
    assert isinstance(intent, Intent)
    assert intent.purpose is purpose
