"""The current wait of a run, in a small file beside its journal, for ``status``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from batchvision.checkpoint.disk import disk_failures
from batchvision.checkpoint.lock import STATE_FOLDER, Holder, lock_path
from batchvision.checkpoint.storage import PartStore
from batchvision.records import WaitNotice
from batchvision.secrets import Secrets

FILE_NAME = "waiting.json"


def write(parts: PartStore, folder: Path, notice: WaitNotice | None, secrets: Secrets) -> None:
    """Write the notice; without one, remove the file. Raises DiskFailed."""
    path = folder / FILE_NAME
    with disk_failures(f"writing {path}"):
        if notice is None:
            path.unlink(missing_ok=True)
            return
        document = {**notice._asdict(), "reason": secrets.mask(notice.reason), "until": notice.until.isoformat()}
        parts.put(path, json.dumps(document).encode() + b"\n")


def read(output: Path, now: datetime) -> Iterator[WaitNotice]:
    """Yield the waits of live runs on an output, of all shards. Files of killed runs are skipped."""
    for path in sorted((output / STATE_FOLDER).glob(f"*of*/{FILE_NAME}")):
        with suppress(OSError, ValueError, TypeError, KeyError):
            document = json.loads(path.read_text(encoding="utf-8"))
            notice = WaitNotice(
                str(document["reason"]), datetime.fromisoformat(document["until"]), bool(document["is_outage"])
            )
            holder = Holder.written_in(lock_path(output, path.parent.name))
            if notice.until > now and holder is not None and not holder.has_ended:
                yield notice
