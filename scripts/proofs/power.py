"""A real power cut: an ext4 image, copied while its writer is stopped, and mounted as the machine would after it.

What the kernel has not written to the image by then is lost with it. Needs root and loop devices.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from proofs.bench import Bench, Running
from proofs.kills import SEAL_AFTER, settled
from proofs.reckoning import Reckoner, Tally, on_disk, read_table
from proofs.victim import Plan

IMAGE_BYTES = 48 * 1024 * 1024
NEEDED = ("mkfs.ext4", "mount", "umount")


def why_not_mount() -> str | None:
    """None, or the reason that nothing can be mounted here."""
    if os.geteuid() != 0:
        return "mounting needs root"
    with tempfile.TemporaryDirectory() as name:
        if subprocess.run(["mount", "-t", "tmpfs", "none", name], capture_output=True, check=False).returncode:
            return "mounting is not allowed here"
        call("umount", name)
    return None


def why_not() -> str | None:
    """The reason that this machine cannot run the proof, or None."""
    if reason := why_not_mount():
        return reason
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} is missing"
    return None if Path("/dev/loop-control").exists() else "there are no loop devices"


def call(*arguments: str | Path) -> None:
    subprocess.run([str(argument) for argument in arguments], check=True, capture_output=True)


@contextmanager
def mounted(image: Path, where: Path) -> Iterator[Path]:
    """``commit=600``: the kernel writes nothing because of elapsed time, only after a sync."""
    where.mkdir(exist_ok=True)
    call("mount", "-o", "loop,commit=600", image, where)
    try:
        yield where
    finally:
        call("umount", "-l", where)


def new_image(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    call("mkfs.ext4", "-q", "-F", path)
    return path


# ---------------------------------------------------------------------------------- one cut


def one_cut(folder: Path, lane: str, luck: random.Random, sabotage: str | None = None) -> Tally:
    """Run on the image, stop somewhere, copy, kill; then the rerun finds the copy where the image was."""
    folder.mkdir(parents=True)
    image, told = new_image(folder / "disk.img"), folder / "told.txt"
    told.touch()
    with Bench(folder, lane, out=folder / "mounted" / "out") as bench:
        reckoner = Reckoner(bench.output, bench.concurrency)
        plan = Plan(stop=_place(luck), seal_after=SEAL_AFTER, sabotage=sabotage, told=str(told))
        with mounted(image, folder / "mounted"):
            running = bench.start(plan)
            if _stopped(bench, running, luck):
                shutil.copyfile(image, folder / "after.img")
                acknowledged = told.read_text().split("\n")[:-1]
                running.process.kill()
            ended = running.wait()
        if not ended.was_killed:
            reckoner.tally.not_reached += 1
            return reckoner.tally
        with mounted(folder / "after.img", folder / "mounted"):
            try:
                reckoner.killed(bench.emulator.bill(), "")
                reckoner.tally.faults += missing(acknowledged, bench.output)
            except pa.ArrowException as fault:
                reckoner.tally.faults.append(f"a part that had its name is not whole: {fault}")
            if not reckoner.tally.faults:
                settled(bench, reckoner)
        reckoner.tally.acknowledged = len(acknowledged)
        return reckoner.tally


def _place(luck: random.Random) -> str | None:
    """Before one of the first operations of a kind, or at a random time (None)."""
    places = {"write": 40, "sync": 40, "sync_folder": 30, "rename": 15, "remove": 4}
    kind = luck.choice([None, *places])
    return None if kind is None else f"{kind}:{luck.randint(1, places[kind])}"


def _stopped(bench: Bench, running: Running, luck: random.Random) -> bool:
    """Stop it, if it has not stopped itself, and wait until every thread stands still. False: it has ended."""
    wanted = luck.randint(1, bench.row_count)
    if not running.wait_until(lambda: bench.emulator.bill().requests >= wanted or is_still(running.process.pid)):
        return False
    time.sleep(luck.uniform(0, 0.05))
    running.process.send_signal(signal.SIGSTOP)
    return running.wait_until(lambda: is_still(running.process.pid))


def is_still(pid: int) -> bool:
    """Whether every thread of a process is stopped outside of a system call."""
    try:
        stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return bool(stats) and all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)


def missing(acknowledged: list[str], output: Path) -> list[str]:
    """A sentence for each acknowledged answer that is not on the disk after the cut."""
    left, ledger = on_disk(output), read_table(output, "attempts")
    known = {
        "answer": {*left.answers.values(), *(row["provider_request_id"] for row in ledger)},
        "ticket": {*left.accepted, *(row["ticket"] for row in ledger)},
    }
    told = [line.split() for line in acknowledged if line != "poll"]
    gone = [" ".join(words) for words in told if words[1] not in known[words[0]]]
    return [f"{len(gone)} of {len(acknowledged)} acknowledged are gone: {', '.join(gone[:3])}"] if gone else []


def cuts(folder: Path, count: int, seed: int, sabotage: str | None = None) -> Tally:
    """So many power cuts, by turns online and deferred."""
    luck, tally = random.Random(seed), Tally()
    for number in range(count):
        lane = ("online", "deferred")[number % 2]
        tally.add(one_cut(folder / str(number), lane, luck, sabotage))
    return tally
