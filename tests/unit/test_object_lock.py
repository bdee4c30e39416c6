"""The lock of an output in an object store: taking over, renewing and losing it, with a clock that the test moves."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore import exceptions as refusals
from obstore.store import MemoryStore

from batchvision.checkpoint import object_lock
from batchvision.checkpoint import objects as objects_module
from batchvision.checkpoint.local_copy import LocalCopy
from batchvision.checkpoint.mirror import MirroredDisk
from batchvision.checkpoint.object_lock import EXPIRY_SECONDS, SURE_SECONDS, FoundLock, ObjectLock, wait_for_expiry
from batchvision.checkpoint.objects import PATIENCE_SECONDS, ObjectFolder
from batchvision.checkpoint.storage import StoreFault
from batchvision.errors import OutputHeld

JOURNAL = b"the beginning of a segment"


class Clock:
    """The time of the waiting process. ``beside`` is called at each look at the lock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.beside: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.beside()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(object_lock, "time_with_sleep", lambda: clock.now)
    monkeypatch.setattr(object_lock.time, "sleep", clock.sleep)
    monkeypatch.setattr(object_lock, "BEAT_SECONDS", 3600.0)  # the test renews
    return clock


@pytest.fixture
def objects() -> ObjectFolder:
    return ObjectFolder("memory://bucket/out", MemoryStore())


@pytest.fixture
def held(objects: ObjectFolder, clock: Clock) -> Iterator[ObjectLock]:
    lock = ObjectLock.take(objects, None, "first", 5.0)
    yield lock
    lock.end(releases=False)


def found(objects: ObjectFolder) -> FoundLock:
    lock = FoundLock.of(objects)
    assert lock is not None
    return lock


def test_a_lock_that_is_renewed_is_held_at_the_first_renewal(
    objects: ObjectFolder, held: ObjectLock, clock: Clock
) -> None:
    began = clock.now
    clock.beside = held.renew
    with pytest.raises(OutputHeld, match="is in use by process"):
        wait_for_expiry(objects, found(objects))
    assert clock.now == began + object_lock.LOOK_SECONDS


def test_a_lock_without_renewal_is_free_after_the_expiry_and_its_holder_stopped_before(
    objects: ObjectFolder, held: ObjectLock, clock: Clock
) -> None:
    began, seen = clock.now, list[float]()
    clock.beside = lambda: seen.append(clock.now) if held.is_held else None
    free = wait_for_expiry(objects, found(objects))
    assert free == found(objects)
    assert clock.now - began == EXPIRY_SECONDS
    assert max(seen) - began < SURE_SECONDS < EXPIRY_SECONDS


def test_a_lock_that_was_taken_over_is_lost_at_the_next_renewal(objects: ObjectFolder, held: ObjectLock) -> None:
    second = ObjectLock.take(objects, found(objects), "second", 5.0)
    held.renew()
    assert not held.is_held
    assert second.is_held
    second.end(releases=True)
    assert found(objects).content.is_released
    assert found(objects).content.token == "second"


def test_of_two_processes_that_take_over_only_one_has_it(objects: ObjectFolder, held: ObjectLock) -> None:
    seen = found(objects)
    second = ObjectLock.take(objects, seen, "second", 5.0)
    with pytest.raises(OutputHeld):
        ObjectLock.take(objects, seen, "third", 5.0)
    assert found(objects).content.token == "second"
    second.end(releases=False)


def test_a_holder_whose_renewal_is_too_old_does_not_renew_again(
    objects: ObjectFolder, held: ObjectLock, clock: Clock
) -> None:
    before = found(objects).version
    clock.now += SURE_SECONDS
    held.renew()
    assert not held.is_held
    assert found(objects).version == before


def test_a_store_that_is_away_loses_the_lock_only_when_that_lasts(
    objects: ObjectFolder, held: ObjectLock, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*arguments: object) -> None:
        raise StoreFault("the store is away")

    with monkeypatch.context() as patched:
        patched.setattr(ObjectFolder, "put", away)
        held.renew()
    assert held.is_held
    clock.now += SURE_SECONDS - 1
    held.renew()
    clock.now += SURE_SECONDS - 1
    assert held.is_held


def test_the_time_whose_answers_may_be_bought_again_is_stated(
    objects: ObjectFolder, held: ObjectLock, clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    objects.put(".batchvision/0of1/journal-00000001.log/000000000000", JOURNAL, None)
    disk = MirroredDisk(objects, LocalCopy(tmp_path / "captions"), 5.0)
    (tmp_path / "captions").mkdir()
    disk.hold(tmp_path / "captions")
    disk.release()
    assert clock.now >= 1000 + EXPIRY_SECONDS
    (stated,) = [record.message for record in caplog.records if "did not end here" in record.message]
    assert re.search(r"has its records until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", stated)
    assert "Answers of at most 5 s after these records are not known here: their rows may be bought again" in stated


def test_a_store_that_is_away_is_tried_again_within_bounds(
    objects: ObjectFolder, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects_module.time, "monotonic", lambda: clock.now)
    real, tries = obstore.put, list[float]()

    def put(*arguments: Any, **named: Any) -> Any:
        tries.append(clock.now)
        if clock.now < back_at:
            raise refusals.GenericError("HTTP 503")
        return real(*arguments, **named)

    monkeypatch.setattr(objects_module.obstore, "put", put)
    began, back_at = clock.now, clock.now + PATIENCE_SECONDS / 2
    objects.put("a", b"content", None)
    assert clock.now - began < PATIENCE_SECONDS
    began, back_at = clock.now, clock.now + 2 * PATIENCE_SECONDS
    tries.clear()
    with pytest.raises(StoreFault, match=r"memory://bucket/out did not write b for 45 s \(HTTP 503\)"):
        objects.put("b", b"content", None)
    assert 5 < len(tries) < 20
    assert clock.now - began <= PATIENCE_SECONDS
