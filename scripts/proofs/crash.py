"""``scripts/crash``: interrupt runs in every way, and check that no answer is lost or paid for twice.

Exit codes: 0 every proof held, 1 a proof failed (expected with ``--sabotage``), 2 usage.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import power_cuts

from proofs import cancelling, disk_faults, kills, lockout, modelled, power, signals
from proofs.reckoning import Tally
from proofs.victim import SABOTAGES

LANES = ("online", "deferred")
Proof = Callable[[Path], Tally]


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/crash", description=__doc__)
    parser.add_argument("--cycles", type=int, default=20, help="outputs a lane that are killed at random times")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lane", choices=LANES, help="default: both")
    parser.add_argument("--deep", action="store_true", help="every operation in turn, 100,000 states of the disk")
    parser.add_argument("--states", type=int, help="crash states of the modelled disk; default 2,000, deep 100,000")
    parser.add_argument("--pairs", type=int, help="times two processes meet on one output; default 5, deep 100")
    parser.add_argument("--only", default="", metavar="WORDS", help="only proofs whose name has these words")
    parser.add_argument("--sabotage", choices=SABOTAGES, help="break a promise first: the proof must then fail")
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args(arguments)
    chosen.states = chosen.states or (100_000 if chosen.deep else 2_000)
    chosen.pairs = chosen.pairs or (100 if chosen.deep else 5)
    return chosen


# ---------------------------------------------------------------------------------- the proofs, by name


def random_kills(chosen: argparse.Namespace, lane: str) -> Iterator[Proof]:
    """Each output: a kill at a random time, often another one, and one in three times one during a recovery."""
    luck = random.Random(f"{chosen.seed}-{lane}")
    for _ in range(chosen.cycles):
        plans = kills.random_plans(luck, luck.randint(1, 2), chosen.sabotage)
        if luck.random() < 0.33:
            plans.append(kills.recovery_plan(luck, chosen.sabotage))
        yield partial(kills.one_output, lane=lane, plans=plans, luck=random.Random(luck.random()))


def targeted_kills(chosen: argparse.Namespace, lane: str, folder: Path) -> Iterator[Proof]:
    """A death at the N-th operation of each kind: all of them when deep, otherwise some."""
    luck = random.Random(f"{chosen.seed}-{lane}-targeted")
    plans = kills.targeted_plans(kills.count_places(folder / f"count-{lane}", lane), chosen.sabotage)
    if not chosen.deep:
        plans = luck.sample(plans, min(len(plans), chosen.cycles))
    for plan in plans:
        second = [kills.recovery_plan(luck, chosen.sabotage)] if luck.random() < 0.5 else []
        yield partial(kills.one_output, lane=lane, plans=[plan, *second], luck=luck)


def cut_kills(chosen: argparse.Namespace, lane: str) -> Iterator[Proof]:
    luck = random.Random(f"{chosen.seed}-{lane}-cuts")
    for _ in range(chosen.cycles):
        yield partial(kills.other_cuts, lane=lane, plans=kills.random_cuts(luck), luck=random.Random(luck.random()))


def syscall_kills(chosen: argparse.Namespace, lane: str) -> Iterator[Proof]:
    places = list(kills.strace_places())
    luck = random.Random(f"{chosen.seed}-{lane}-strace")
    if not chosen.deep:
        places = luck.sample(places, min(len(places), chosen.cycles // 2))
    for place in places:
        yield partial(kills.by_strace, lane=lane, places=[place, luck.choice(list(kills.strace_places()))])


def proofs(chosen: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Iterator[Proof] | str]]:
    """Every proof that is asked for; one that cannot be made here is named with the reason."""
    for lane in [chosen.lane] if chosen.lane else LANES:
        yield f"kill -9 at random times, {lane}", random_kills(chosen, lane)
        yield f"kill -9 at the N-th operation, {lane}", targeted_kills(chosen, lane, folder)
        yield f"kill -9 of a shard, continued under another cut, {lane}", cut_kills(chosen, lane)
        by_strace = syscall_kills(chosen, lane) if kills.strace_works() else "strace or ptrace is missing"
        yield f"kill -9 at the N-th system call (strace), {lane}", by_strace
    if chosen.lane != "online":
        yield "two signals during one-time reads, deferred", iter([signals.interrupted_reads])
    for lane in [chosen.lane] if chosen.lane else LANES:
        yield f"a full tmpfs, {lane}", power.why_not_mount() or iter([partial(disk_faults.full_tmpfs, lane=lane)])
    step = 1 if chosen.deep else 7
    for lane in [chosen.lane] if chosen.lane else LANES:
        faults = partial(disk_faults.each_in_turn, lane=lane, seed=chosen.seed, step=step)
        yield f"ENOSPC and EIO at the N-th operation, {lane}", iter([faults])
    for lane in [chosen.lane] if chosen.lane else LANES:
        cancelled = partial(cancelling.at_each_step, lane=lane, step=step)
        yield f"cancelled at the N-th step of the event loop, {lane}", iter([cancelled])
    for lane in [chosen.lane] if chosen.lane else LANES:
        cut = partial(power_cuts.sweep, lane=lane, variations=8 if chosen.deep else 2)
        yield f"power cut before the N-th operation, in memory, {lane}", iter([cut])
    yield "modelled disk", iter([partial(modelled.search, states=chosen.states, seed=chosen.seed)])
    yield "power cut on an ext4 image", power.why_not() or iter([partial(power.cuts, count=8, seed=chosen.seed)])
    yield "two processes on one output", iter([partial(lockout.meet, times=chosen.pairs)])


def sabotaged_proofs(chosen: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Iterator[Proof] | str]]:
    """The proof that must notice. A kill cannot show a missing sync: the kernel lives on, so the disk is modelled."""
    deaths = {"parse-before-journal": ("online", "parse"), "poll-before-ticket": ("deferred", "poll")}
    if chosen.sabotage in modelled.FORGETS:
        search = partial(modelled.search, states=500, seed=chosen.seed, sabotage=chosen.sabotage)
        yield "modelled disk", iter([search])
        if chosen.sabotage == "no-fsync":
            cuts = partial(power.cuts, count=6, seed=chosen.seed, sabotage=chosen.sabotage)
            yield "power cut on an ext4 image", power.why_not() or iter([cuts])
    elif chosen.sabotage == "no-shield":
        yield "two signals during one-time reads", iter([partial(signals.interrupted_reads, sabotage=chosen.sabotage)])
    else:
        lane, moment = deaths[chosen.sabotage]
        plans = kills.targeted_plans({moment: 12}, chosen.sabotage)[2::4]
        yield (
            f"kill -9 at the N-th {moment}, {lane}",
            (partial(kills.one_output, lane=lane, plans=[plan], luck=random.Random(0)) for plan in plans),
        )


# ---------------------------------------------------------------------------------- running them


def prove(name: str, tasks: Iterator[Proof] | str, folder: Path, workers: int) -> Tally | None:
    """Run one proof and print its result. None: this machine cannot run it."""
    if isinstance(tasks, str):
        print(f"\n{name}: skipped: {tasks}", flush=True)
        return None
    started, tally = time.monotonic(), Tally()
    logging.disable()  # what runs in this process warns of each cut
    with ThreadPoolExecutor(workers) as pool:
        numbers, word = itertools.count(), "".join(letter if letter.isalnum() else "-" for letter in name)
        for found in pool.map(lambda task: task(folder / f"{word}-{next(numbers)}"), tasks):
            tally.add(found)
    if tally.outputs and tally.acknowledged == 0 and not tally.faults:
        tally.faults.append("nothing had been acknowledged: this proves nothing")
    print(f"\n{name}: {'FAILED' if tally.faults else 'held'} ({time.monotonic() - started:.0f} s)")
    print("\n".join([*tally.lines(), *(f"  ! {fault}" for fault in tally.faults[:20])]), flush=True)
    return tally


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = options(arguments)
    with tempfile.TemporaryDirectory(prefix="batchvision-crash-") as name:
        chosen_proofs = sabotaged_proofs if chosen.sabotage else proofs
        offered = list(chosen_proofs(chosen, Path(name)))
        named = [proof for proof in offered if chosen.only in proof[0]]
        if not named:
            print(f"no proof is named like that; there are: {'; '.join(proof[0] for proof in offered)}")
            return 2
        tallies = [prove(*proof, Path(name), chosen.workers) for proof in named]
    failed = [tally for tally in tallies if tally is not None and tally.faults]
    if chosen.sabotage:
        print(f"\n{chosen.sabotage}: {'caught' if failed else 'NOT caught: the proof proves nothing'}")
    else:
        print(f"\n{'FAILED' if failed else 'everything held'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
