"""The lease: on a shared file system one machine holds an output, and a stale lease holds nothing for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from checkpoint_rows import an_answer, an_intent, classify, open_store

from batchvision.checkpoint import OutputLock, lease, lock
from batchvision.checkpoint.lease import BEAT_SECONDS, LEASE_NAME, SETTLE_SECONDS, STALE_SECONDS, Lease, is_shared
from batchvision.errors import OutputHeld

HERE = {"host": "here", "pid": os.getpid(), "boot_id": "boot-here"}
THERE = {"host": "there", "pid": 4711, "boot_id": "boot-there"}


class Clock:
    """The machine's clock; sleeping moves it."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.slept = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "out" / ".batchvision" / "0of1"
    folder.mkdir(parents=True)
    return folder / LEASE_NAME


def take(path: Path, holder: dict[str, Any] = HERE, clock: Clock | None = None) -> Lease:
    clock = clock or Clock()
    return Lease.take(path, holder, clock=clock, sleep=clock.sleep)


def grow_old(path: Path, seconds: float) -> None:
    """As the file server sees it."""
    at = path.stat().st_mtime - seconds
    os.utime(path, (at, at))


def left(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir())


# ---------------------------------------------------------------------------------- taking


def test_a_fresh_lease_of_another_machine_is_respected_and_told_with_its_holder(path: Path) -> None:
    first = take(path, THERE)
    grow_old(path, STALE_SECONDS - 5)
    with pytest.raises(OutputHeld, match=r"process 4711 on there.*ends in [1-5] s"):
        take(path, HERE)
    assert first.is_held
    assert left(path) == [LEASE_NAME]


def test_a_lease_that_was_given_back_can_be_taken_at_once(path: Path) -> None:
    take(path, THERE).release()
    clock = Clock()
    assert take(path, HERE, clock).is_held
    assert clock.slept == 0


def test_a_stale_lease_is_taken_over_after_a_look_whether_another_thought_the_same(path: Path) -> None:
    gone = take(path, THERE)
    grow_old(path, STALE_SECONDS + 1)
    clock = Clock()
    taken = take(path, HERE, clock)
    assert taken.is_held
    assert clock.slept == SETTLE_SECONDS
    assert left(path) == [LEASE_NAME]
    gone.renew()
    assert not gone.is_held, "a machine that comes back finds its lease gone"
    gone.release()
    assert taken.is_held
    assert path.exists(), "and does not take away what is not its own"


def test_of_two_who_take_over_at_once_one_gets_it(path: Path) -> None:
    take(path, THERE)
    grow_old(path, STALE_SECONDS + 1)
    clock, others = Clock(), []

    def other_is_faster(seconds: float) -> None:
        path.unlink()
        others.append(take(path, {**THERE, "host": "third"}))

    with pytest.raises(OutputHeld, match="on third"):
        Lease.take(path, HERE, clock=clock, sleep=other_is_faster)
    assert others[0].is_held


def test_a_lease_that_is_new_by_the_time_it_is_removed_is_put_back(path: Path) -> None:
    take(path, THERE)
    late = Lease(path, HERE, Clock())
    stale = json.loads(path.read_text())
    path.unlink()
    new = take(path, {**THERE, "host": "third"})
    with pytest.raises(OutputHeld, match="on third"):
        late._remove_stale(stale)
    new.renew()
    assert new.is_held
    assert left(path) == [LEASE_NAME]


def test_a_lease_of_a_process_of_this_machine_that_is_no_more_is_stale_at_once(path: Path) -> None:
    died = subprocess.Popen([sys.executable, "-c", ""])
    died.wait()
    take(path, {**HERE, "pid": died.pid})
    assert take(path, HERE).is_held


def test_a_container_that_was_started_again_is_not_kept_out_by_its_own_number(path: Path) -> None:
    take(path, HERE)
    assert take(path, HERE).is_held


def test_a_process_of_this_machine_that_lives_is_respected(path: Path) -> None:
    take(path, {**HERE, "pid": os.getppid()})
    with pytest.raises(OutputHeld):
        take(path, HERE)


@pytest.mark.parametrize("content", [b"", b"not json", b"[]", b'{"pid": "x"}'])
def test_a_damaged_lease_is_respected_until_it_is_stale(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(OutputHeld, match="another machine"):
        take(path)
    grow_old(path, STALE_SECONDS + 1)
    assert take(path).is_held


# ---------------------------------------------------------------------------------- keeping


def test_a_beat_renews_it_and_without_beats_it_is_lost_before_another_may_take_it(path: Path) -> None:
    clock = Clock()
    mine = take(path, HERE, clock)
    for _ in range(20):
        clock.sleep(BEAT_SECONDS)
        mine.renew()
        assert mine.is_held
    clock.sleep(STALE_SECONDS - BEAT_SECONDS)
    assert not mine.is_held, "a machine that slept knows before its lease is anybody else's"
    before = path.read_bytes()
    mine.renew()
    assert not mine.is_held, "and does not renew what another may be taking over"
    assert path.read_bytes() == before


def test_a_server_that_is_away_for_a_moment_costs_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    mine = take(path, HERE, clock)
    with monkeypatch.context() as away:
        away.setattr(lease, "_read", lambda path: (_ for _ in ()).throw(TimeoutError()))
        clock.sleep(3 * BEAT_SECONDS)
        mine.renew()
        assert mine.is_held
    mine.renew()
    clock.sleep(STALE_SECONDS / 2)
    assert mine.is_held


def test_a_forked_child_forgets_it_and_leaves_the_parents_alone(path: Path) -> None:
    mine = take(path)
    child = os.fork()
    if child == 0:
        mine.release()
        os._exit(1 if mine.is_held or not path.exists() else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert mine.is_held


# ---------------------------------------------------------------------------------- where one is needed

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:50 / /data rw,relatime - nfs4 server:/export rw,vers=4.2
31 30 0:51 / /data/local\\040disk rw - xfs /dev/sdb rw
32 22 0:52 / /gcs rw - fuse.gcsfuse bucket rw
33 22 8:2 / /usb rw - fuseblk /dev/sdc1 rw
34 22 0:53 / /lustre rw - lustre mds:/x rw
"""


@pytest.mark.parametrize(
    ("place", "shared"),
    [("/home/me", False), ("/data", True), ("/data/out/x", True), ("/database", False), ("/data/local disk/out", False),
     ("/gcs/out", True), ("/usb/out", False), ("/lustre/a", True)],
)  # fmt: skip
def test_file_systems_of_many_machines_are_told_by_their_mount(tmp_path: Path, place: str, shared: bool) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert is_shared(Path(place), mounts) is shared


def test_where_nobody_tells_the_flock_alone_decides(tmp_path: Path) -> None:
    assert not is_shared(tmp_path, tmp_path / "no such file")
    assert not is_shared(tmp_path)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "is_shared", lambda path: True)


@pytest.mark.usefixtures("shared")
def test_an_output_on_a_shared_file_system_has_both_and_gives_both_back(tmp_path: Path) -> None:
    with OutputLock.take(tmp_path) as held:
        path = held.folder / LEASE_NAME
        assert json.loads(path.read_text())["pid"] == os.getpid()
        assert held.is_held
        with pytest.raises(OutputHeld):
            OutputLock.take(tmp_path)
        assert path.exists()
    assert not path.exists()


@pytest.mark.usefixtures("shared")
def test_who_has_lost_the_lease_sends_nothing_and_writes_nothing_more(tmp_path: Path) -> None:
    async def session() -> None:
        with open_store(tmp_path) as store:
            store.recover(classify)
            await store.intent(an_intent(1))
            path = tmp_path / ".batchvision" / "0of1" / LEASE_NAME
            path.write_text(json.dumps({**THERE, "token": "another's"}))
            (lease,) = store._lock._holds
            assert isinstance(lease, Lease)
            lease.renew()
            before = {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()}
            with pytest.raises(OutputHeld):
                await store.answer("x1", an_answer())
            with pytest.raises(OutputHeld):
                await store.intent(an_intent(2))
            await store.close(complete=True)
            assert {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()} == before
        assert path.exists()

    anyio.run(session)
