"""The command line on a machine that is lost, with an output in an object store.

``python -m proofs.bucket_victim '{"die": "put:3"}' run JOB ...`` dies before its third write to the store. Acknowledged
answers and tickets, and polls, are noted with the time of the system's monotonic clock.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial, wraps
from pathlib import Path
from typing import Any

from batchvision import cli
from batchvision.checkpoint import object_lock, sealing, store, writer
from batchvision.checkpoint.objects import ObjectFolder
from batchvision.http import ProviderClient
from batchvision.records import RawAnswer
from proofs.victim import Fate, Plan, replace

SABOTAGES = ("segment-before-open-log", "poll-before-sync", "no-fencing")


@dataclass(frozen=True)
class Life:
    """``die``: ``put:3``, ``delete:1``, ``poll:2`` or ``post:5``. ``seconds``: of the lock's beat; it is sure for three
    of them, and expires after four."""

    told: str
    die: str | None = None
    stop: str | None = None
    sabotage: str | None = None
    seconds: float = 0.5
    seal_after: int = 9

    def argument(self) -> str:
        return json.dumps({name: value for name, value in asdict(self).items() if value is not None})


def quicken_the_lock(seconds: float) -> None:
    replace(object_lock, "BEAT_SECONDS", seconds)
    replace(object_lock, "SURE_SECONDS", 3 * seconds)
    replace(object_lock, "EXPIRY_SECONDS", 4 * seconds)
    replace(object_lock, "LOOK_SECONDS", seconds / 5)


def haunt_the_store(fate: Fate) -> None:
    for name in ("put", "delete"):
        replace(ObjectFolder, name, _haunted(fate, name, getattr(ObjectFolder, name)))


def _haunted(fate: Fate, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(real)
    def operation(objects: ObjectFolder, key: Any, *arguments: Any) -> Any:
        if key != object_lock.LOCK_KEY:
            fate.meets(name, last_words=str(key))
        return real(objects, key, *arguments)

    return operation


def tell(path: Path, fate: Fate) -> None:
    """Note acknowledgements of the checkpoint, and requests and polls before they leave."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    answer, ticket, send = store.Store.answer, store.Store.ticket, ProviderClient.send

    def note(kind: str, name: str) -> None:
        os.write(descriptor, f"{time.monotonic()} {kind} {name}\n".encode())

    async def answered(self: store.Store, exchange_id: str, raw: RawAnswer) -> RawAnswer:
        written = await answer(self, exchange_id, raw)
        with suppress(ValueError, KeyError):
            note("answer", json.loads(raw.body)["id"])
        return written

    async def accepted(self: store.Store, exchange_id: str, name: str, at: datetime) -> None:
        await ticket(self, exchange_id, name, at)
        note("ticket", name)

    async def sending(self: ProviderClient, method: str, place: str, *arguments: Any) -> RawAnswer:
        kind = "post" if method == "POST" else "poll"
        note(kind, place.rpartition("/")[2])
        fate.meets(kind)
        return await send(self, method, place, *arguments)

    replace(store.Store, "answer", answered)
    replace(store.Store, "ticket", accepted)
    replace(ProviderClient, "send", sending)


# ---------------------------------------------------------------------------------- sabotage


def sabotage(kind: str) -> None:
    """Break one rule, as a careless change would."""
    if kind == "segment-before-open-log":
        seal = sealing.Sealer.seal

        def careless(self: sealing.Sealer, closed: sealing.ClosedSegment) -> None:
            self._remove_segments(closed.header.seq)
            seal(self, closed)

        replace(sealing.Sealer, "seal", careless)
    elif kind == "poll-before-sync":

        async def at_once(self: store.Store, exchange_id: str) -> None:
            """Nothing is awaited."""

        replace(store.Store, "outlasts", at_once)
    else:
        replace(object_lock.ObjectLock, "is_held", property(lambda self: True))


def run(life: Life, arguments: Sequence[str]) -> int:
    fate = Fate(Plan(die=life.die, stop=life.stop))
    quicken_the_lock(life.seconds)
    haunt_the_store(fate)
    tell(Path(life.told), fate)
    if life.sabotage:
        sabotage(life.sabotage)
    replace(writer, "SealAfter", partial(writer.SealAfter, attempts=life.seal_after))
    return cli.main(list(arguments))


if __name__ == "__main__":
    sys.exit(run(Life(**json.loads(sys.argv[1])), sys.argv[2:]))
