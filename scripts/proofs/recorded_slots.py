"""Run batchvision's command, and append each slot that a shared budget grants to the file in RECORDED_SLOTS."""

from __future__ import annotations

import os
from pathlib import Path

from batchvision.cli.entry import main
from batchvision.limits import FileMember
from batchvision.limits.budget import Grant, MemberReport

_exchange = FileMember.exchange


def exchange(self: FileMember, report: MemberReport, now: float) -> Grant | None:
    grant = _exchange(self, report, now)
    if grant is not None and grant.slots:
        with Path(os.environ["RECORDED_SLOTS"]).open("a") as file:
            file.writelines(f"{max(at, now)!r}\n" for at in grant.slots)
    return grant


FileMember.exchange = exchange  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
