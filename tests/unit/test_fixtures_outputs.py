"""Outputs that the first edition has written, opened by the code of today: nothing paid is lost, bought again or moved.

These tests hold what users have on their disks. Where one fails, mend the code, never the fixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from stored_outputs import NAMES, StoredOutput, rows_asked, ticket_desk

from batchvision.checkpoint import compact
from batchvision.emulator import RunningEmulator, start_in_thread

CUT_OFF = {"killed", "killed-sweep", "two-segments", "torn-tail", "tickets-killed", "shards", "every-record"}


@pytest.fixture(scope="module")
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(slow_seconds=0.0) as running:
        yield running


@pytest.fixture(params=NAMES)
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> StoredOutput:
    return StoredOutput.unpack(request.param, tmp_path)


def test_there_is_an_output_of_each_kind() -> None:
    assert len(NAMES) == 15
    assert set(NAMES) > CUT_OFF


def test_it_is_read_as_it_was(stored: StoredOutput) -> None:
    """Standing, ``verify``, ``status`` and ``show``, as the version saw it that wrote it."""
    expected = stored.expected
    assert stored.row_index() == expected["standing"]
    assert [topic for topic, mark in stored.findings() if mark == "wrong"] == []
    assert stored.status() == expected["status"]
    assert stored.shown() == expected["shown"]
    assert stored.answers() == expected["answers"]


def test_a_resumed_run_buys_nothing_again(stored: StoredOutput, emulator: RunningEmulator) -> None:
    expected, before = stored.expected, stored.answers()
    emulator.reset()
    with ticket_desk(stored.ticket_bodies, emulator) as base_url:
        summary = stored.resume(base_url)
        assert rows_asked(emulator) == expected["resumed"]["asked"]
        after = stored.answers()
        assert [each for each in before if each not in after] == []
        assert [row[:2] for row in after] == expected["answers after"]
        ended = {name: getattr(summary, name) for name in expected["resumed"] if name != "asked"}
        assert ended == {name: value for name, value in expected["resumed"].items() if name != "asked"}
        assert stored.is_right()

        emulator.reset()
        stored.resume(base_url)
        assert rows_asked(emulator) == []
    assert stored.answers() == after


def test_compacting_it_keeps_every_answer(stored: StoredOutput) -> None:
    before, shown = stored.answers(), stored.shown()
    compact(stored.output)
    assert stored.answers() == before
    assert stored.shown() == shown
    assert stored.status() == stored.expected["status"]
    assert stored.is_right()
