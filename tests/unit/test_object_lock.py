"""The lock of an output in an object store: taking over, renewing and losing it, with a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from obstore.store import MemoryStore

from batchvision.checkpoint import object_lock
from batchvision.checkpoint.object_lock import EXPIRY_SECONDS, SURE_SECONDS, FoundLock, ObjectLock, wait_for_expiry
from batchvision.checkpoint.objects import ObjectFolder
from batchvision.checkpoint.storage import StoreFault
from batchvision.errors import OutputHeld


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
