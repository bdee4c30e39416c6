"""The lock: one run an output, held by the kernel and not by a file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchvision.checkpoint import Holder, OutputLock, OutputView
from batchvision.checkpoint.lock import lock_path
from batchvision.errors import DiskFailed, OutputHeld

TAKE = """
import sys
from pathlib import Path
from batchvision.checkpoint.lock import OutputLock
from batchvision.errors import OutputHeld
try:
    OutputLock.take(Path(sys.argv[1]))
except OutputHeld as held:
    print(held.exit_code)
else:
    print("taken")
"""


def taken_by_another_process(output: Path) -> str:
    done = subprocess.run([sys.executable, "-c", TAKE, str(output)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_second_process_is_told_at_once_who_holds_the_output(tmp_path: Path) -> None:
    with OutputLock.take(tmp_path):
        assert taken_by_another_process(tmp_path) == "11"
        with pytest.raises(OutputHeld) as caught:
            OutputLock.take(tmp_path)
    assert f"process {os.getpid()} on {Holder.this_process().host}" in caught.value.message
    assert "output.path" in caught.value.message


def test_a_lock_that_was_released_can_be_taken_again(tmp_path: Path) -> None:
    with OutputLock.take(tmp_path) as lock:
        assert lock.is_held
    assert not lock.is_held
    lock.release()
    assert taken_by_another_process(tmp_path) == "taken"


def test_the_shards_of_an_output_do_not_hold_each_other(tmp_path: Path) -> None:
    with OutputLock.take(tmp_path, "0of2") as first, OutputLock.take(tmp_path, "1of2") as second:
        assert first.folder != second.folder
        with pytest.raises(OutputHeld):
            OutputLock.take(tmp_path, "1of2")


@pytest.mark.parametrize("content", ["", "not json", '{"host": "elsewhere", "pid": 1, "boot_id": "x"}', '{"pid": []}'])
def test_a_stale_file_holds_nothing_whatever_is_in_it(tmp_path: Path, content: str) -> None:
    path = lock_path(tmp_path, "0of1")
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with OutputLock.take(tmp_path):
        assert OutputView(tmp_path).holder() == Holder.this_process()


def test_a_process_that_died_holds_nothing(tmp_path: Path) -> None:
    script = TAKE + "import os; os.kill(os.getpid(), 9)"
    died = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, check=False)
    assert died.returncode == -9
    holder = Holder.written_in(lock_path(tmp_path, "0of1"))
    assert holder is not None
    assert holder.pid != os.getpid()
    OutputLock.take(tmp_path).release()


FORK = """
import os, sys
from pathlib import Path
from batchvision.checkpoint.lock import OutputLock
from batchvision.errors import OutputHeld
output = Path(sys.argv[1])
lock = OutputLock.take(output)
ready, go = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    os.write(ready[1], b"held" if lock.is_held else b"free")
    os.read(go[0], 1)
    os._exit(0)
print(os.read(ready[0], 4).decode(), lock.is_held)
try:
    OutputLock.take(output)
except OutputHeld:
    print("parent still holds it")
lock.release()  # the child lives on, and must not keep it
OutputLock.take(output)
print("taken again")
os.write(go[1], b"x")
os.waitpid(child, 0)
"""


def test_a_forked_child_keeps_nothing_and_takes_nothing_from_its_parent(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FORK, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["free True", "parent still holds it", "taken again"]


def test_a_spawned_child_never_gets_it(tmp_path: Path) -> None:
    lock = OutputLock.take(tmp_path)
    script = "print('running', flush=True); input()"
    sleeper = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False
    )
    assert sleeper.stdout is not None
    try:
        assert sleeper.stdout.readline() == b"running\n"
        lock.release()
        OutputLock.take(tmp_path).release()
    finally:
        sleeper.communicate(b"\n")


def test_an_output_that_cannot_be_made_is_a_disk_fault_with_its_path(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(DiskFailed, match="file"):
        OutputLock.take(blocked / "out")


def test_nobody_has_held_a_new_output(tmp_path: Path) -> None:
    assert OutputView(tmp_path).holder() is None
