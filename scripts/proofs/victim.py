"""The command line in a process that dies, or has a failing disk, at a planned operation.

``python -m proofs.victim '{"die": "write:3"}' run JOB ...`` is ``batchvision run JOB ...`` with that plan. Methods are
replaced in this process: the product has no switch for it.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial, wraps
from pathlib import Path
from typing import Any

import anyio

from batchvision import cli
from batchvision.checkpoint import compact, journal, store, writer
from batchvision.checkpoint.disk import LocalDisk
from batchvision.checkpoint.journal_records import Accepted, Received
from batchvision.checkpoint.record_json import masked_answer
from batchvision.http import ProviderClient
from batchvision.records import RawAnswer
from batchvision.runner import exchange
from batchvision.runner.classify import Classifier

#: The steps that a plan may name: operations of the disk, before a POST, after an answer, before a poll, before a read.
DISK = ("make_folder", "create", "write", "sync", "close", "rename", "remove", "sync_folder")
MOMENTS = ("post", "answered", "poll", "parse")
SABOTAGES = ("no-fsync", "no-dirsync", "parse-before-journal", "poll-before-ticket", "no-shield")


@dataclass(frozen=True)
class Plan:
    """``die``: the operation or moment, and which one of its kind, e.g. ``rename:2``. ``fail``: the same and an errno's
    name, e.g. ``write:3:ENOSPC``; with ``+`` behind, every later one too. ``stop``: as ``die``, but by SIGSTOP.
    ``seal_after``: attempts in a part; after the run the parts are compacted. ``count``: where to write how many there
    were of each kind. ``told``: where to write each answer and ticket as the store acknowledges it, and each poll as it
    leaves."""

    die: str | None = None
    stop: str | None = None
    fail: str | None = None
    sabotage: str | None = None
    seal_after: int | None = None
    count: str | None = None
    told: str | None = None

    def argument(self) -> str:
        return json.dumps({name: value for name, value in asdict(self).items() if value is not None})


def replace(owner: Any, name: str, value: Any) -> None:
    """Put something else in the place of a method or a name."""
    setattr(owner, name, value)


# ---------------------------------------------------------------------------------- where it dies


class Fate:
    """Counts what happens, and ends the process, or fails the operation, at the planned one."""

    def __init__(self, plan: Plan) -> None:
        self.seen: Counter[str] = Counter()
        self._die, self._stop = _parsed(plan.die), _parsed(plan.stop)
        kind, _, rest = (plan.fail or "").partition(":")
        number, _, error = rest.partition(":")
        self._fail = (kind, int(number or 0))
        self._error = getattr(errno, error.rstrip("+"), 0)
        self._fails_on = error.endswith("+")

    def meets(self, kind: str, *, last_words: str = "", half: Callable[[], None] = lambda: None) -> None:
        """One more of ``kind``. ``half``: the part of the operation before the death."""
        self.seen[kind] += 1
        if self._die == (kind, self.seen[kind]):
            half()
            os.write(2, f"victim: died at {kind}:{self.seen[kind]} {last_words}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
        if self._stop == (kind, self.seen[kind]):
            os.kill(os.getpid(), signal.SIGSTOP)
        name, number = self._fail
        if name == kind and (self.seen[kind] == number or (self._fails_on and self.seen[kind] > number)):
            raise OSError(self._error, os.strerror(self._error))


def _parsed(place: str | None) -> tuple[str, int] | None:
    if place is None:
        return None
    kind, _, number = place.partition(":")
    return kind, int(number)


def haunt_the_disk(fate: Fate) -> None:
    for name in DISK:
        replace(LocalDisk, name, _haunted(fate, name, getattr(LocalDisk, name)))


def _haunted(fate: Fate, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(real)
    def operation(disk: LocalDisk, *arguments: Any) -> Any:
        def half() -> None:
            if name == "write":
                descriptor, content = arguments
                os.write(descriptor, content[: len(content) // 2])

        fate.meets(name, last_words=str(arguments[0]), half=half)
        return real(disk, *arguments)

    return operation


def haunt_the_wire(fate: Fate) -> None:
    send, classify = ProviderClient.send, Classifier.classify

    @wraps(send)
    async def sending(self: ProviderClient, method: str, *arguments: Any) -> RawAnswer:
        fate.meets("post" if method == "POST" else "poll", last_words=str(arguments[0]))
        raw = await send(self, method, *arguments)
        fate.meets("answered")
        return raw

    @wraps(classify)
    def classifying(self: Classifier, asked: Any, *arguments: Any) -> Any:
        if asked.answer is not None and asked.intent.run_id == Lives.run_id:
            fate.meets("parse", last_words=f"row={asked.intent.row_id}")
        return classify(self, asked, *arguments)

    replace(ProviderClient, "send", sending)
    replace(Classifier, "classify", classifying)


class Lives:
    """The id and the output of this run. Records of an earlier run that it replays have another id."""

    run_id = ""
    output: Path | None = None

    @classmethod
    def remember(cls) -> None:
        opened = store.Store.open

        def opening(*arguments: Any, **named: Any) -> store.Store:
            lock, settings = arguments[:2]
            cls.output, cls.run_id = lock.output, settings.run_id
            return opened(*arguments, **named)

        replace(store.Store, "open", staticmethod(opening))


def tell(path: Path) -> None:
    """Record each acknowledgement of the store and each poll in a file outside of the output."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    answer, ticket = store.Store.answer, store.Store.ticket

    async def answered(self: store.Store, exchange_id: str, raw: RawAnswer) -> RawAnswer:
        written = await answer(self, exchange_id, raw)
        with suppress(ValueError, KeyError):
            os.write(descriptor, f"answer {json.loads(raw.body)['id']}\n".encode())
        return written

    async def accepted(self: store.Store, exchange_id: str, name: str, at: datetime) -> None:
        await ticket(self, exchange_id, name, at)
        os.write(descriptor, f"ticket {name}\n".encode())

    send = ProviderClient.send

    async def sending(self: ProviderClient, method: str, *arguments: Any) -> RawAnswer:
        if method == "GET":
            os.write(descriptor, b"poll\n")
        return await send(self, method, *arguments)

    replace(ProviderClient, "send", sending)
    replace(store.Store, "answer", answered)
    replace(store.Store, "ticket", accepted)


# ---------------------------------------------------------------------------------- sabotage


def sabotage(kind: str) -> None:
    """Break one promise, as a careless change would."""
    {
        "no-fsync": lambda: replace(LocalDisk, "sync", lambda self, descriptor: None),
        "no-dirsync": lambda: replace(LocalDisk, "sync_folder", lambda self, path: None),
        "parse-before-journal": _parse_before_journal,
        "poll-before-ticket": _poll_before_ticket,
        "no-shield": _no_shield,
    }[kind]()


def _parse_before_journal() -> None:
    """The answer is handed on at once, and written when there is time."""

    async def answer(self: store.Store, exchange_id: str, raw: RawAnswer) -> RawAnswer:
        written = masked_answer(raw, self._secrets)
        opened = self._writer.journal
        entry = Received(exchange_id, written)
        self._run_state.apply(entry)
        asyncio.get_running_loop().call_soon(partial(journal.Journal.append, opened, entry))
        return written

    replace(store.Store, "answer", answer)


def _poll_before_ticket() -> None:
    """The ticket stays in memory until it has been asked for."""
    append, answer = journal.Journal.append, store.Store.answer
    kept: dict[str, Accepted] = {}

    async def ticket(self: store.Store, exchange_id: str, name: str, at: datetime) -> None:
        kept[exchange_id] = Accepted(exchange_id, name, at)
        self._run_state.apply(kept[exchange_id])

    async def answered(self: store.Store, exchange_id: str, raw: RawAnswer) -> RawAnswer:
        if exchange_id in kept:
            append(self._writer.journal, kept.pop(exchange_id))
        return await answer(self, exchange_id, raw)

    replace(store.Store, "ticket", ticket)
    replace(store.Store, "answer", answered)


class _Unshielded:
    """anyio, but nothing is shielded."""

    def __getattr__(self, name: str) -> Any:
        return getattr(anyio, name)

    @staticmethod
    def CancelScope(**named: Any) -> anyio.CancelScope:
        return anyio.CancelScope()


def _no_shield() -> None:
    replace(exchange, "anyio", _Unshielded())


# ---------------------------------------------------------------------------------- the process


def run(plan: Plan, arguments: Sequence[str]) -> int:
    fate = Fate(plan)
    haunt_the_disk(fate)
    haunt_the_wire(fate)
    Lives.remember()
    if plan.told:
        tell(Path(plan.told))
    if plan.sabotage:
        sabotage(plan.sabotage)
    if plan.seal_after:
        replace(writer, "SealAfter", partial(writer.SealAfter, attempts=plan.seal_after))
    try:
        code = cli.main(list(arguments))
        if plan.seal_after and Lives.output is not None and code in (0, 3):
            compact(Lives.output)
        return code
    finally:
        if plan.count:
            Path(plan.count).write_text(json.dumps(fate.seen))


if __name__ == "__main__":
    sys.exit(run(Plan(**json.loads(sys.argv[1])), sys.argv[2:]))
