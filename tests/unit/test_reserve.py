"""The reserve: room for the answers in flight when the disk fills, given back once."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from checkpoint_rows import an_answer, an_intent, classify, open_store
from modelled_disk import ModelledDisk

from batchvision.checkpoint import LocalDisk, reserve_bytes
from batchvision.checkpoint.reserve import MOST_BYTES, RESERVE_NAME, Reserve
from batchvision.errors import DiskFailed
from batchvision.records import Exchange

pytestmark = pytest.mark.anyio


class SmallDisk(ModelledDisk):
    """Holds so many bytes; what is set aside counts."""

    def __init__(self, root: Path, room: int) -> None:
        super().__init__(root)
        self.room = room
        self._sizes: dict[Path, int] = {}

    def set_aside(self, path: Path, size_bytes: int) -> None:
        self._take(path, size_bytes)
        super().set_aside(path, size_bytes)
        self._sizes[path] = size_bytes

    def write(self, descriptor: int, content: bytes | memoryview) -> None:
        self._take(self._open[descriptor][0], len(content))
        super().write(descriptor, content)

    def _take(self, path: Path, size_bytes: int) -> None:
        if size_bytes > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        self.room -= size_bytes

    def remove(self, path: Path) -> None:
        super().remove(path)
        self.room += self._sizes.pop(path, 0)


def test_it_is_as_large_as_the_answers_in_flight_may_need_and_no_larger_than_8_mib() -> None:
    assert reserve_bytes(1) == 64 * 1024
    assert reserve_bytes(24) == 24 * 64 * 1024
    assert reserve_bytes(10_000) == MOST_BYTES == 8 * 1024 * 1024


def test_on_a_disk_of_this_machine_it_takes_real_room_and_leaves_nothing(tmp_path: Path) -> None:
    reserve = Reserve(LocalDisk(), tmp_path / RESERVE_NAME, 256 * 1024)
    reserve.claim()
    stat = (tmp_path / RESERVE_NAME).stat()
    assert (stat.st_size, stat.st_blocks * 512 >= 256 * 1024) == (256 * 1024, True)
    reserve.give_back()
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_half_way_leaves_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, real = LocalDisk(), os.write
    descriptor = disk.create(tmp_path / "file", 0o600)
    disk.write(descriptor, b"before ")

    def full_half_way(descriptor: int, content: memoryview) -> int:
        if len(content) < 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, content[:4])

    with monkeypatch.context() as full:
        full.setattr(os, "write", full_half_way)
        with pytest.raises(OSError, match="No space left"):
            disk.write(descriptor, b"too much")
    disk.write(descriptor, b"after")
    disk.close(descriptor)
    assert (tmp_path / "file").read_bytes() == b"before after"


async def test_a_run_does_not_start_where_there_is_no_room_for_the_reserve(tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path, room=5_000)
    with open_store(tmp_path, disk=disk, reserve_bytes=10_000) as store, pytest.raises(DiskFailed, match="room aside"):
        store.recover(classify)
    assert not (tmp_path / ".batchvision" / "0of1" / RESERVE_NAME).exists()


async def test_what_a_crash_left_of_it_is_given_back_before_the_recovery(tmp_path: Path) -> None:
    path = tmp_path / ".batchvision" / "0of1" / RESERVE_NAME
    with open_store(tmp_path) as store:
        store.recover(classify)
        await store.intent(an_intent(1))
    path.write_bytes(bytes(1_000))
    disk = ModelledDisk(tmp_path)
    with open_store(tmp_path, disk=disk, reserve_bytes=1_000) as store:
        store.recover(classify)
        names = [(each.name, each.path.name) for each in disk.operations]
        assert names[0] == ("remove", RESERVE_NAME)
        assert ("set_aside", RESERVE_NAME) in names
        assert path.exists()
    assert not path.exists()


async def test_answers_in_flight_are_written_when_the_disk_fills_and_nothing_new_begins(tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path, room=60_000)
    with open_store(tmp_path, disk=disk, reserve_bytes=20_000) as store:
        store.recover(classify)
        for number in range(6):
            await store.intent(an_intent(number))
        disk.room = 100
        for number in range(6):
            raw = await store.answer(f"x{number}", an_answer(b"answer %d" % number))
            store.book(f"x{number}", classify(Exchange(an_intent(number), answer=raw)))
            with pytest.raises(DiskFailed, match="No space left"):
                await store.intent(an_intent(100 + number))
        with pytest.raises(DiskFailed, match="No space left"):
            await store.close(complete=True)
    disk = ModelledDisk(tmp_path)
    with open_store(tmp_path, run_id="run2", disk=disk) as store:
        recovery = store.recover(classify)
    assert (recovery.completed, recovery.ambiguous) == (6, ())
