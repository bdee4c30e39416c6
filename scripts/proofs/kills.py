"""Kill -9: at random times, at every operation of the disk in turn, at system calls, and again during recovery."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import anyio

from batchvision.commands.verify import Mark, verify
from proofs.bench import Bench, Killed
from proofs.reckoning import Reckoner, Tally
from proofs.victim import Plan

SEAL_AFTER = 9  #: attempts in a part: small, so that a short run seals and turns its journal several times
#: Cuts of which most have rows in common; a run is killed under one and continued under another.
CUTS = ("0/1", "0/2", "1/2", "0/4", "2/4", "0/3")
FOLDERS = ("make_folder", "close")  #: nothing can be lost at these; they are left to the modelled disk
#: How far to count each system call. strace counts each thread by itself, so the numbers stay small.
SYSCALLS = {"fdatasync": 20, "rename": 5, "unlink": 1, "write": 20, "fsync": 11}


def one_output(folder: Path, lane: str, plans: Sequence[Plan | None], luck: random.Random, rows: int = 40) -> Tally:
    """Kill each run as planned (None: at a random time), finish, and compare."""
    with Bench(folder, lane, rows) as bench:
        reckoner = Reckoner(bench.output, bench.concurrency)
        for plan in plans:
            is_planned = plan is not None and plan.die is not None
            ended = bench.start(plan).wait() if is_planned else bench.kill_at_random(luck, plan)
            _note(bench, reckoner, ended)
        return settled(bench, reckoner)


def other_cuts(folder: Path, lane: str, plans: Sequence[tuple[str, Plan | None]], luck: random.Random) -> Tally:
    """Kill one shard after the other as planned, each of another cut of the manifest, finish as a whole, and reckon."""
    with Bench(folder, lane, row_count=80) as bench:
        reckoner = Reckoner(bench.output, bench.concurrency)
        for cut, plan in plans:
            flags = ["--shard", cut]
            is_planned = plan is not None and plan.die is not None
            ended = bench.start(plan, flags=flags).wait() if is_planned else bench.kill_at_random(luck, plan, flags)
            _note(bench, reckoner, ended)
        return settled(bench, reckoner)


def _note(bench: Bench, reckoner: Reckoner, ended: Killed) -> None:
    if ended.was_killed:
        reckoner.killed(bench.emulator.bill(), ended.last_words)
        reckoner.tally.faults += verify_says(bench.output)
    elif ended.code in (0, 3):
        reckoner.tally.not_reached += 1
    else:
        reckoner.tally.faults.append(f"a run left with exit {ended.code}: {ended.stderr[-400:]}")


def settled(bench: Bench, reckoner: Reckoner) -> Tally:
    """Run to the end, and hold the output against the bill."""
    try:
        summary = bench.finish()
    except AssertionError as fault:
        reckoner.tally.faults.append(str(fault))
        return reckoner.tally
    reckoner.tally.faults += verify_says(bench.output)
    return reckoner.settle(bench.emulator.bill(), summary, [row["sku"] for row in bench.manifest])


def verify_says(output: Path) -> list[str]:
    """The faults that ``batchvision verify`` reports. There must be none, also right after a kill."""
    if not (output / ".batchvision").is_dir():  # killed before there was anything
        return []
    return [f"verify: {each.text}" for each in anyio.run(verify, output).findings if each.mark is Mark.WRONG]


# ---------------------------------------------------------------------------------- which kills


def random_plans(luck: random.Random, kills: int, sabotage: str | None = None) -> list[Plan | None]:
    """The kills of one output: half of them on small parts."""
    small = Plan(sabotage=sabotage, seal_after=SEAL_AFTER)
    plain = Plan(sabotage=sabotage) if sabotage else None
    return [small if luck.random() < 0.5 else plain for _ in range(kills)]


def random_cuts(luck: random.Random) -> list[tuple[str, Plan | None]]:
    """A kill at a random time, one while what it left is taken over under another cut, and perhaps one more."""
    cuts = [luck.choice(CUTS) for _ in range(luck.randint(2, 3))]
    small = Plan(seal_after=SEAL_AFTER)
    return [(cut, small if at == 0 else recovery_plan(luck)) for at, cut in enumerate(cuts)]


def count_places(folder: Path, lane: str, rows: int = 40) -> dict[str, int]:
    """How many operations of each kind a whole run makes."""
    with Bench(folder, lane, rows) as bench:
        told = folder / "counts.json"
        bench.finish(Plan(seal_after=SEAL_AFTER, count=str(told)))
        counts: dict[str, int] = json.loads(told.read_text())
    return {kind: number for kind, number in counts.items() if kind not in FOLDERS}


def targeted_plans(places: dict[str, int], sabotage: str | None = None) -> list[Plan]:
    """A death at every operation and moment that a whole run has."""
    return [
        Plan(die=f"{kind}:{number}", seal_after=SEAL_AFTER, sabotage=sabotage)
        for kind, count in sorted(places.items())
        for number in range(1, count + 1)
    ]


def recovery_plan(luck: random.Random, sabotage: str | None = None) -> Plan:
    """A death among the first operations of a start: the recovery of the run before."""
    kind, most = luck.choice([("create", 5), ("write", 6), ("sync", 6), ("rename", 5), ("remove", 1)])
    return Plan(die=f"{kind}:{luck.randint(1, most)}", seal_after=SEAL_AFTER, sabotage=sabotage)


# ---------------------------------------------------------------------------------- by strace


@cache
def strace_works() -> bool:
    """Whether it is installed and ptrace is allowed here."""
    if shutil.which("strace") is None:
        return False
    tried = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "true"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


def strace_kill(call: str, number: int) -> list[str]:
    """The arguments under which a process dies as it enters the ``number``-th such call of one of its threads."""
    inject = f"inject={call}:signal=SIGKILL:when={number}"
    return ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject]


def strace_places() -> Iterator[tuple[str, int]]:
    for call, most in SYSCALLS.items():
        for number in range(1, most + 1):
            yield call, number


def by_strace(folder: Path, lane: str, places: Sequence[tuple[str, int]], rows: int = 40) -> Tally:
    """The real command, killed by the kernel at the given calls, one start after the other."""
    with Bench(folder, lane, rows) as bench:
        reckoner = Reckoner(bench.output, bench.concurrency)
        for call, number in places:
            _note(bench, reckoner, bench.start(strace=strace_kill(call, number)).wait())
        return settled(bench, reckoner)
