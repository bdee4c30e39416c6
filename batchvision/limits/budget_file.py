"""A shared budget in a file: processes of one machine change it one after the other, under a lock of the kernel.

The file holds the budget as JSON in two halves. A change goes to the older half. Then one write of eight bytes, the
number of the change, makes that half the current one, so a killed process leaves the budget whole. Each member holds
the lock of a file of its own; the kernel releases it when the process dies.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

from batchvision.errors import JobInvalid
from batchvision.limits.budget import Budget, Grant, Member, MemberReport, MemberUse, Offer, Spendings
from batchvision.limits.controller import Meter, RateController, RateState
from batchvision.limits.pacing import LearnedRate
from batchvision.limits.tokens import TokenBucket

log = logging.getLogger(__name__)

FORMAT = 1
LOOK_SECONDS = 2.0  #: Members look for dead ones at most once in this time.
_HALF_BYTES = 1 << 20
_NUMBER = struct.Struct("<Q")  #: at the start of the file
_HEAD = struct.Struct("<IQ")  #: of a half: checksum and length
_FIRST_HALF = 4096

T = TypeVar("T")


class BudgetFile:
    """The file at ``path``, for one member or for a reader."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._number = -1  #: of the last change that this process has seen
        self._budget = Budget()
        self._looked_at = float("-inf")

    def change(self, do: Callable[[Budget], T], *, waits: bool) -> T | None:
        """Apply ``do`` to the budget, and store it. ``None`` at once if another process is at work, unless ``waits``.

        Raises OSError, JobInvalid.
        """
        with self._locked(waits=waits) as file:
            if file is None:
                return None
            self._read(file)
            number, self._number = self._number, -1  # an error must not leave a budget that is not stored
            found = do(self._budget)
            self._write(file, number + 1)
            return found

    def uses(self, now: float) -> tuple[MemberUse, ...]:
        """The use of each member. Changes nothing; empty without a file."""
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return ()
        try:
            fcntl.flock(file, fcntl.LOCK_SH)
            self._read(file)
        finally:
            os.close(file)
        living = {member_id for member_id in self._budget.members if not _has_died(self._member_path(member_id))}
        uses = zip(self._budget.members, self._budget.uses(now), strict=True)
        return tuple(use for member_id, use in uses if member_id in living)

    def forget_dead(self, budget: Budget, now: float) -> None:
        """Remove the members of dead processes."""
        if abs(now - self._looked_at) < LOOK_SECONDS:
            return
        self._looked_at = now
        for member_id in list(budget.members):
            path = self._member_path(member_id)
            if _has_died(path):
                budget.leave(member_id, now)
                path.unlink(missing_ok=True)

    def _member_path(self, member_id: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{member_id}")

    # ---------------------------------------------------------------- the file

    @contextmanager
    def _locked(self, *, waits: bool) -> Iterator[int | None]:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(file)
            yield None
            return
        try:
            yield file
        finally:
            os.close(file)

    def _read(self, file: int) -> None:
        """Read the budget, unless this process has written it. A half that cannot be read gives a new budget."""
        head = os.pread(file, _NUMBER.size, 0)
        number = _NUMBER.unpack(head)[0] if len(head) == _NUMBER.size else 0
        if number == self._number:
            return
        self._number, self._budget = number, Budget()
        if not number:
            return
        begin = _FIRST_HALF + number % 2 * _HALF_BYTES
        checksum, length = _HEAD.unpack(os.pread(file, _HEAD.size, begin).ljust(_HEAD.size, b"\0"))
        content = os.pread(file, min(length, _HALF_BYTES), begin + _HEAD.size)
        if zlib.crc32(content) != checksum:
            return  # a power cut: the ledgers of the outputs have the spending
        document = json.loads(content)
        if document["format"] != FORMAT:
            raise JobInvalid(
                f"{self.path} is of another version of batchvision: use one version for all jobs with this "
                "limits.share, or remove the file while none of them runs"
            )
        self._budget = budget_of(document)

    def _write(self, file: int, number: int) -> None:
        content = json.dumps(document_of(self._budget)).encode()
        begin = _FIRST_HALF + number % 2 * _HALF_BYTES
        os.pwrite(file, _HEAD.pack(zlib.crc32(content), len(content)) + content, begin)
        os.pwrite(file, _NUMBER.pack(number), 0)
        self._number = number


class FileMember:
    """The membership of this process in the budget of a file, as a :class:`BudgetAccess`."""

    def __init__(self, file: BudgetFile, member: Member, ledger: Spendings, now: float) -> None:
        """Join. Raises OSError, JobInvalid."""
        self._file, self._member = file, member
        self._id = secrets.token_hex(8)
        self._path = file._member_path(self._id)
        self._lock: int | None = None
        self._is_failing = False
        self._take_lock()
        _members.add(self)

        def join(budget: Budget) -> None:
            file.forget_dead(budget, now)
            budget.join(self._id, member, ledger, now)

        file.change(join, waits=True)

    def exchange(self, report: MemberReport, now: float) -> Grant | None:
        def take(budget: Budget) -> Grant:
            self._file.forget_dead(budget, now)
            self._join_again(budget, now)
            return budget.exchange(self._id, report, now)

        try:
            grant = self._file.change(take, waits=False)
        except OSError as fault:
            if not self._is_failing:
                log.warning("%s cannot be used (%s): no request is sent until it can", self._file.path, fault.strerror)
            self._is_failing = True
            return None
        self._is_failing = False
        return grant

    def leave(self, report: MemberReport, now: float) -> None:
        def take(budget: Budget) -> None:
            self._join_again(budget, now)
            budget.exchange(self._id, report, now)
            budget.leave(self._id, now)

        self._file.change(take, waits=True)
        self._path.unlink(missing_ok=True)
        self.let_go()

    def _join_again(self, budget: Budget, now: float) -> None:
        """The file of the budget, or of this member, was removed meanwhile: begin a new one."""
        if self._id not in budget.members:
            self._take_lock()
            budget.join(self._id, self._member, {}, now)

    def _take_lock(self) -> None:
        self.let_go()
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def let_go(self) -> None:
        """Close the member's file. In a forked child the parent keeps the lock."""
        if self._lock is not None:
            lock, self._lock = self._lock, None
            os.close(lock)


#: Members of this process. Global, because a forked child must close the descriptors that it inherits.
_members: WeakSet[FileMember] = WeakSet()


def _let_go_in_child() -> None:
    for member in list(_members):
        member.let_go()


os.register_at_fork(after_in_child=_let_go_in_child)


def _has_died(path: Path) -> bool:
    """Whether no process holds the lock of a member's file."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True


# ---------------------------------------------------------------------------------- the budget as JSON


def _boot_id() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def document_of(budget: Budget) -> dict[str, Any]:
    """The budget as JSON content, with infinite numbers."""
    learned = {**vars(budget.learned), "controller": _controller_document(budget.learned.controller)}
    if budget.learned.token_bucket is not None:
        learned["token_bucket"] = vars(budget.learned.token_bucket)
    members = {
        member_id: {**vars(member), "offer": [*member.offer[:2], dict(member.offer.caps)]}
        for member_id, member in budget.members.items()
    }
    return {**vars(budget), "learned": learned, "members": members, "format": FORMAT, "boot": _boot_id()}


def budget_of(document: dict[str, Any]) -> Budget:
    """The budget again. After a boot times have no meaning, and only the money stays."""
    budget = Budget()
    budget.spent = {
        name: {key: (period, ticks) for key, (period, ticks) in pots.items()}
        for name, pots in document["spent"].items()
    }
    for member_id, each in document["members"].items():
        budget.members[member_id] = Member(**{**each, "offer": Offer(*each["offer"])})
    if document["boot"] != _boot_id():
        for member_id in list(budget.members):
            budget.leave(member_id, 0.0)
        return budget
    budget.next_at, budget.paused_until, budget.used_at = (
        document[name] for name in ("next_at", "paused_until", "used_at")
    )
    learned = document["learned"]
    budget.learned = LearnedRate(None, None)
    vars(budget.learned).update(learned, controller=_controller_of(learned["controller"]))
    if learned["token_bucket"] is not None:
        budget.learned.token_bucket = TokenBucket(1.0, 0.0)
        vars(budget.learned.token_bucket).update(learned["token_bucket"])
    return budget


_STATES, _METER = ("state", "_state_after"), "_meter"


def _controller_document(controller: RateController) -> dict[str, Any]:
    document = dict(vars(controller))
    meter: Meter = document.pop(_METER)
    states = {name: document[name].name for name in _STATES}
    return {**document, **states, _METER: {"_since": meter._since, "_tenths": list(meter._tenths)}}


def _controller_of(document: dict[str, Any]) -> RateController:
    controller, meter = RateController(), Meter(document[_METER]["_since"])
    meter._tenths = deque(document[_METER]["_tenths"])
    states = {name: RateState[document[name]] for name in _STATES}
    vars(controller).update(document, **states, _meter=meter, _strays=tuple(document["_strays"]))
    return controller
