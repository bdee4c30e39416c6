"""ENOSPC and EIO at each operation of the disk in turn, once or for good, and a disk that is really full.

After each fault the run ends with exit 7 and its own message, and sends nothing new. Every acknowledged answer is on
the disk. The rerun pays twice only for requests that it lists as ambiguous.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from fake_provider import FakeProvider

from batchvision.checkpoint import reserve_bytes
from batchvision.errors import DiskFailed
from batchvision.runner.lanes import POLLERS, rows_at_once
from proofs.bench import Bench
from proofs.kills import settled, verify_says
from proofs.modelled import CONCURRENCY, RecordedRun, in_memory, job_of, listening, provider_of, run_over
from proofs.power import call
from proofs.reckoning import Reckoner, Tally, read_table
from proofs.recorded_disk import RecordedDisk

DISK_FAILED = 7
#: Operations that find no room on a full disk; all other operations need none.
NEED_ROOM = ("make_folder", "create", "write", "rename")


@dataclass(frozen=True)
class Fault:
    """``for_good``: every later operation fails too."""

    place: int
    error: int
    for_good: bool = False

    def __str__(self) -> str:
        return f"{errno.errorcode[self.error]}{' for good' if self.for_good else ''} at operation {self.place}"


class FailingDisk(RecordedDisk):
    """Fails as told. A disk that is full for good still takes what the room set aside has held."""

    def __init__(self, root: Path, fault: Fault, provider: FakeProvider) -> None:
        super().__init__(root)
        self._fault = fault
        self._provider = provider
        self.failed_at: str | None = None  #: the operation that failed first
        self.asked_before = 0

    def _note(self, name: str, path: Path, file: int = -1, content: bytes = b"") -> None:
        super()._note(name, path, file, content)
        at = self.places - 1
        if at == self._fault.place or (self._fault.for_good and at > self._fault.place):
            if self.failed_at is None:
                self.failed_at, self.asked_before = name, len(self._provider.asked)
            raise OSError(self._fault.error, os.strerror(self._fault.error), str(path))

    @property
    def is_late(self) -> bool:
        """Whether everything was sealed, and only summary and reserve were left to write."""
        path = self.operations[self._fault.place].path
        return "runs" in path.parts or path.name == "reserve"


def places_of(folder: Path, lane: str, seed: int) -> int:
    """How many operations a run has."""
    output = folder / "out"
    job = job_of(folder, lane)
    output.mkdir()
    session = RecordedRun(job, RecordedDisk(output))
    with listening(session):
        run_over(job, provider_of(seed), session.disk, seed)
    return session.disk.places


def one_fault(folder: Path, lane: str, seed: int, fault: Fault) -> Tally:
    """A run on a disk that fails, and one on the same disk mended."""
    job, provider, output = job_of(folder, lane), provider_of(seed), folder / "out"
    output.mkdir()
    disk = FailingDisk(output, fault, provider)
    session, tally = RecordedRun(job, disk), Tally(outputs=1)
    with listening(session):
        told = _code_and_message(job, provider, disk, seed)
        sent = len(provider.asked) - disk.asked_before
        tally.faults += [f"{fault}: {said}" for said in verify_says(output)]
        summary = run_over(job, provider, RecordedDisk(output), seed + 1)
    if disk.failed_at is None:
        tally.not_reached = 1
        return tally
    _check_end(tally, fault, told, sent, disk.is_late)
    if summary.rows_pending or summary.exit_code not in (0, 3):
        tally.faults.append(f"{fault}: the rerun left with exit {summary.exit_code}, {summary.rows_pending} pending")
    tally.faults += [f"{fault}, after the rerun: {said}" for said in verify_says(output)]
    _check_ledger(tally, fault, session, disk, provider)
    shutil.rmtree(folder)
    return tally


def _code_and_message(job: object, provider: FakeProvider, disk: RecordedDisk, seed: int) -> tuple[int, str]:
    try:
        summary = run_over(job, provider, disk, seed)  # type: ignore[arg-type]
    except DiskFailed as reason:
        return reason.exit_code, reason.message
    return summary.exit_code, summary.message or ""


def _check_end(tally: Tally, fault: Fault, told: tuple[int, str], sent: int, is_late: bool) -> None:
    code, message = told
    if is_late and code in (0, 3):
        return
    if code != DISK_FAILED or os.strerror(fault.error) not in message:
        tally.faults.append(f"{fault}: exit {code}, and it said: {message!r}")
    if sent > CONCURRENCY:
        tally.faults.append(f"{fault}: {sent} requests were sent after it")


def _check_ledger(tally: Tally, fault: Fault, session: RecordedRun, disk: FailingDisk, provider: FakeProvider) -> None:
    ledger = read_table(disk.root, "attempts")
    states = {(row["row_id"], row["attempt"]): row["state"] for row in ledger}
    for each in session.told:
        if each.what == "answer":
            tally.acknowledged += 1
            if states.get(session.attempts[each.exchange_id]) in (None, "ambiguous"):
                tally.lost += 1
                tally.faults.append(f"{fault}: the answer of {each.exchange_id} was acknowledged and is lost")
    cut_off = Counter(row["row_id"] for row in ledger if row["error_kind"] == "interrupted")
    read_in_vain = sum(row["state"] == "lost_after_read" for row in ledger)
    tally.ambiguous += cut_off.total()
    tally.lost_after_read += read_in_vain
    tally.most_in_flight = max(tally.most_in_flight, cut_off.total())
    is_full = fault.error == errno.ENOSPC and disk.failed_at in NEED_ROOM and not fault.for_good
    if cut_off.total() > (0 if is_full else CONCURRENCY) or read_in_vain > (0 if is_full else POLLERS):
        kept = f"{cut_off.total()} answers in flight were not kept, {read_in_vain} one-time reads"
        tally.faults.append(f"{fault} ({disk.failed_at}): {kept}")
    booked = sum(row["cost_ticks"] or 0 for row in ledger)
    if booked != provider.billed_ticks and not cut_off and not read_in_vain:
        tally.faults.append(f"{fault}: the ledger says {booked} ticks, the bill {provider.billed_ticks}")


def each_in_turn(folder: Path, lane: str, seed: int, step: int = 1) -> Tally:
    """Every ``step``-th operation, with every error, once and for good."""
    tally, folder = Tally(), in_memory(folder)
    places = places_of(folder / "count", lane, seed)
    kinds: Iterable[tuple[int, bool]] = [(e, good) for e in (errno.ENOSPC, errno.EIO) for good in (False, True)]
    logging.disable()
    try:
        for number, (place, (error, for_good)) in enumerate(product(range(seed % step, places, step), kinds)):
            tally.add(one_fault(folder / str(number), lane, seed, Fault(place, error, for_good)))
    finally:
        logging.disable(logging.NOTSET)
        shutil.rmtree(folder, ignore_errors=True)
    return tally


# ---------------------------------------------------------------------------------- a disk that is really full

FREE_BYTES = 24 * 1024
CONCURRENT = 8
RESERVED_BYTES = reserve_bytes(rows_at_once(CONCURRENT) + POLLERS)


def full_tmpfs(folder: Path, lane: str) -> Tally:
    """The real command on a small tmpfs that fills up half-way; then something is deleted, and it runs again."""
    mount = folder / "small"
    mount.mkdir(parents=True)
    call("mount", "-t", "tmpfs", "-o", f"size={RESERVED_BYTES + 512 * 1024}", "none", mount)
    try:
        with Bench(folder, lane, 60, CONCURRENT, out=mount / "out") as bench:
            return _fill_up(bench, mount)
    finally:
        call("umount", "-l", mount)


def _fill_up(bench: Bench, mount: Path) -> Tally:
    reckoner = Reckoner(bench.output, bench.concurrency)
    free = shutil.disk_usage(mount).free
    (mount / "filler").write_bytes(bytes(free - RESERVED_BYTES - FREE_BYTES))
    ended = bench.start().wait()
    faults, generated = reckoner.tally.faults, bench.emulator.bill().generated
    if ended.code != DISK_FAILED or "No space left" not in ended.stderr:
        faults.append(f"a full disk ended the run with exit {ended.code}: {ended.stderr[-400:]}")
    if not 0 < generated < len(bench.manifest):
        faults.append(f"{generated} answers had come when the disk was full: this proves nothing")
    starved = bench.start().wait()
    if starved.code != DISK_FAILED or bench.emulator.bill().generated != generated:
        faults.append(f"a start without room left with exit {starved.code}: {starved.stderr[-400:]}")
    (mount / "filler").unlink()
    tally = settled(bench, reckoner)
    tally.acknowledged = generated
    if tally.ambiguous or tally.paid_twice:
        faults.append(f"{tally.ambiguous} answers in flight were not kept, {tally.paid_twice} were paid for twice")
    return tally
