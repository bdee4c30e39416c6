"""The budget that processes of this machine share (``limits.share``): its file, and the membership of a run."""

from __future__ import annotations

import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from batchvision.checkpoint import shared_type
from batchvision.errors import JobInvalid
from batchvision.eventloop import loop_time
from batchvision.job import Job
from batchvision.limits import BudgetFile, FileMember, Member, Membership, MemberUse, Offer, Spendings, day_of, month_of
from batchvision.records import Shard

log = logging.getLogger(__name__)

#: The folder of bare names lies below the first writable one. No variable decides, so cron finds the same file.
FOLDERS = (Path("/var/tmp"), Path("/tmp"))
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def shared_budget_path(job: Job) -> Path | None:
    """The file of ``limits.share``. Makes the folder of bare names. Raises JobInvalid."""
    share = job.limits.share
    if share is None:
        return None
    path = job.file(share) if "/" in share else None
    if path is None:
        if not _NAME.fullmatch(share):
            raise JobInvalid(
                f"limits.share = {share!r}: give a name of letters, digits, dots and dashes, or the path of a file"
            )
        path = own_folder() / share
    if (kind := shared_type(path.parent)) is not None:
        raise JobInvalid(
            f"limits.share: {path} lies on a file system that machines share ({kind}), where locks may hold on one "
            "machine only. Name a file on a local disk, and give each machine its part of the limits."
        )
    return path.resolve()


def own_folder() -> Path:
    """The folder of bare names, with mode 700. Raises JobInvalid if it is not this user's alone."""
    base = next((each for each in FOLDERS if os.access(each, os.W_OK | os.X_OK)), FOLDERS[-1])
    folder = base / f"batchvision-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as fault:
        raise JobInvalid(f"limits.share: {folder} cannot be used ({fault.strerror}): name the path of a file") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise JobInvalid(
            f"limits.share: {folder} must be a folder of this user with mode 700 (`chmod 700 {folder}`). If another "
            "user made it, name the path of a file in limits.share."
        )
    return folder


def member_name(job: Job, shard: Shard) -> str:
    return f"{job.output_url or job.output_path}|{shard.name}"


#: Ticks by shard of each cap in the job file.
SpentByKey = Mapping[str, Mapping[Shard, int]]


@contextmanager
def membership_of(
    job: Job,
    path: Path,
    caps: Mapping[str, int],
    spent: SpentByKey,
    now: Callable[[], datetime],
    shard: Shard,
    open_ticks: int = 0,
) -> Iterator[Membership]:
    """Be a member of the budget at ``path``. ``caps``: ticks by key. Raises JobInvalid if the file cannot be used."""
    limits, zone = job.limits, ZoneInfo(job.timezone)
    day, month = day_of(now, zone), month_of(now, zone)

    def periods() -> Mapping[str, str]:
        return {"max_cost_usd": "", "max_cost_usd_per_day": day(), "max_cost_usd_per_month": month()}

    per_second = [limits.requests_per_second, limits.requests_per_minute and limits.requests_per_minute / 60]
    rate = min((each for each in per_second if each is not None), default=None)
    offer = Offer(rate, limits.tokens_per_minute, caps)
    name = member_name(job, shard)
    ledger: Spendings = {name: {}}
    for key, period in periods().items():
        for each, ticks in spent.get(key, {}).items():
            ledger.setdefault(member_name(job, each), {})[key] = (period, ticks)
    try:
        access = FileMember(
            BudgetFile(path),
            Member(name, os.getpid(), offer, held_ticks=open_ticks, may_be_sent_ticks=open_ticks),
            ledger,
            loop_time(),
        )
    except OSError as fault:
        raise JobInvalid(f"limits.share: {path} cannot be used ({fault.strerror}): name another file") from None
    membership = Membership(access, periods, open_ticks)
    try:
        yield membership
    finally:
        try:
            membership.leave()
        except OSError as fault:
            log.warning("%s was not told the end of this run (%s): other runs find it out", path, fault.strerror)


def shared_uses(output: Path | str, share: str | None) -> tuple[MemberUse, ...]:
    """The use of each member of an output's shared budget; empty without one. ``share``: of the last run's job.

    While the first run is at work, the budgets with bare names are searched for a member of the output.
    """
    files = [Path(share)] if share and "/" in share else []
    for folder in FOLDERS:
        own = folder / f"batchvision-{os.getuid()}"
        files += [own / share] if share and not files else [*own.glob("*")] if not share else []
    for path in files:
        uses = BudgetFile(path).uses(time.monotonic()) if path.is_file() else ()
        if uses and (share or any(use.name.rpartition("|")[0] == str(output) for use in uses)):
            return uses
    return ()
