"""A small run, a provider that records every request, and the promises that hold after any interruption.

``SmallRun.run`` runs a few rows in virtual time on a disk of choice. The provider stays the same from run to run.
``broken_promises`` reads the output as a user would and compares it with the provider's records.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pyarrow.parquet as pq
from fake_provider import Asked, FakeProvider, Reply, chat, error, inline, virtual_now
from stepped_time import SteppedLoop

from batchvision import Job
from batchvision.checkpoint import Disk
from batchvision.checkpoint.disk import LocalDisk
from batchvision.errors import ConnectionCut
from batchvision.records import RawAnswer, RunSummary
from batchvision.runner.dependencies import RunDependencies
from batchvision.runner.session import run_async

LANES = ("online", "deferred")
EVERY_SO_MANY = 8  #: of the cases of a sweep, one is also asked whether a further run does nothing


class UnsyncedDisk(LocalDisk):
    """Sync nothing: the machine does not fail in these tests."""

    def sync(self, descriptor: int) -> None:
        pass

    def sync_folder(self, path: Path) -> None:
        pass


def some_trouble(asked: Asked) -> Reply | ConnectionCut | None:
    """A row that fails once, one whose connection is cut once, one that fails at last."""
    if asked.row == "r1" and asked.try_ == 1:
        return error(500, "Internal error", "internal")
    if asked.row == "r2" and asked.try_ == 1:
        return ConnectionCut("the connection was reset")
    return None


class RecordingProvider(FakeProvider):
    """A provider that gives each answer an id. ``delivered`` holds the row of each id that arrived."""

    def __init__(self, trouble: Callable[[Asked], Any] = some_trouble) -> None:
        super().__init__(self._reply, latency_seconds=2.0, ticket_seconds=3.0)
        self.delivered: dict[str, str] = {}
        self.tickets_given: dict[str, str] = {}  #: the row of each ticket that arrived
        self.tickets_polled: set[str] = set()
        self.reads_on_the_wire: set[str] = set()  #: tickets whose answer may be on its way
        self.unpaid: Counter[str] = Counter()  #: POSTs that cost nothing
        self.check_power: Callable[[], None] = lambda: None  #: raises after a power cut
        self._trouble = trouble

    def _reply(self, asked: Asked) -> Any:
        document = {**chat(f"an answer for [[{asked.row}]]"), "id": f"chat-{asked.number}"}
        return self._trouble(asked) or Reply(200, document)

    async def send(
        self, method: str, path: str, body: bytes, timeout_seconds: float, headers: Mapping[str, str]
    ) -> RawAnswer:
        self.check_power()
        number, ticket = len(self.asked), path.rsplit("/", 1)[1]  # of this POST, less one: it is noted at once
        if method == "GET":
            self.tickets_polled.add(ticket)
            self.reads_on_the_wire.add(ticket)
        raw = await super().send(method, path, body, timeout_seconds, headers)
        self.check_power()
        self.reads_on_the_wire.discard(ticket)
        self._remember(method, number, path, raw)
        return raw

    def _remember(self, method: str, number: int, path: str, raw: RawAnswer) -> None:
        ticket = path.rsplit("/", 1)[1]
        if method == "GET":
            number = int(ticket.removeprefix("ticket-")) - 1
        row = self.asked[number].row
        if raw.status != 200:
            self.unpaid[row] += method == "POST"
        elif b"choices" in raw.body:
            self.delivered[f"chat-{number + 1}"] = row
        else:
            self.tickets_given[f"ticket-{number + 1}"] = row

    @property
    def rows_asked(self) -> Counter[str]:
        return Counter(asked.row for asked in self.asked)

    def most_paid(self, row: str) -> int:
        """How often the row may have been paid for: each request that was not refused."""
        return self.rows_asked[row] - self.unpaid[row]


class SmallRun:
    """One job of a few rows, run after run on one output."""

    def __init__(self, folder: Path, lane: str, rows: int = 4, concurrency: int = 2) -> None:
        self.folder = folder
        self.output = folder / "out"
        self.rows = [f"r{n}" for n in range(rows)]
        self.provider = RecordingProvider()
        self.runs = 0
        self.everything: anyio.CancelScope | None = None
        folder.mkdir(exist_ok=True)
        lines = [f"{row},https://images.example/{row}.jpg,thing" for row in self.rows]
        (folder / "photos.csv").write_text("\n".join(["sku,image,title", *lines]) + "\n")
        settings: dict[str, Any] = {
            "name": "night",
            "manifest": {"path": "photos.csv", "id": "sku", "keep": ["title"]},
            "prompt": {"user": "Describe {title} [[{sku}]]"},
            "provider": {"name": "xai", "model": "grok-4.3", "parameters": {"max_tokens": 100}},
            "delivery": {"lane": lane},
            "limits": {"concurrency": concurrency},
            "output": {"path": "out"},
        }
        self.job = Job.from_mapping(settings, folder, {})

    def run(self, loop: SteppedLoop | None = None, disk: Disk | None = None) -> RunSummary | None:
        """One run, an hour after the one before. Returns None after a cancellation."""
        self.runs += 1
        hours = timedelta(hours=self.runs)
        dependencies = RunDependencies(
            now=lambda: virtual_now() + hours,
            rng=random.Random(self.runs),
            disk=disk or UnsyncedDisk(),
            offload=inline,
            transport=self.provider,
        )
        stepped = loop or SteppedLoop()

        async def run() -> RunSummary | None:
            with anyio.CancelScope() as scope:
                self.everything = scope
                return await run_async(
                    self.job, environ={"XAI_API_KEY": "xai-secret-key-000"}, dependencies=dependencies
                )
            return None

        return anyio.run(run, backend_options={"loop_factory": lambda: stepped})

    def table(self, name: str) -> list[dict[str, Any]]:
        paths = sorted((self.output / name).rglob("part-*.parquet"))
        return [row for path in paths for row in pq.ParquetFile(path).read().to_pylist()]

    def bytes_of_tables(self) -> dict[str, bytes]:
        return {
            str(path): path.read_bytes()
            for table in ("results", "failures", "attempts")
            for path in sorted((self.output / table).rglob("part-*.parquet"))
        }


# ---------------------------------------------------------------------------------- promises


def broken_promises(session: SmallRun, summary: RunSummary) -> list[str]:
    """The broken promises after an interrupted run and a whole one."""
    ledger = session.table("attempts")
    return [
        *_broken_of_rows(session, summary),
        *_broken_of_answers(session, ledger),
        *_broken_of_money(session, ledger),
    ]


def _broken_of_rows(session: SmallRun, summary: RunSummary) -> Iterator[str]:
    """P8, P9."""
    done = sorted(row["row_id"] for row in session.table("results"))
    if done != session.rows:
        yield f"results are {done}"
    if summary.exit_code or summary.rows_completed != len(session.rows):
        yield f"the last run ends with {summary.exit_code}, {summary.rows_completed} completed"


def _broken_of_answers(session: SmallRun, ledger: list[dict[str, Any]]) -> Iterator[str]:
    """P3, P4: each answer that arrived is in the ledger once."""
    booked = Counter(line["provider_request_id"] for line in ledger if line["cost_ticks"] is not None)
    for name, row in session.provider.delivered.items():
        if booked[name] != 1:
            yield f"answer {name} of {row} reached us and is {booked[name]} times in the ledger"
    if lost := [line["row_id"] for line in ledger if line["state"] == "lost_after_read"]:
        yield f"one-time answers of {lost} were read and lost"


def _broken_of_money(session: SmallRun, ledger: list[dict[str, Any]]) -> Iterator[str]:
    """P6: every request is in the ledger, and a second payment is listed as ambiguous."""
    ticks = sum(line["cost_ticks"] or 0 for line in ledger)
    if ticks != session.provider.billed_ticks:
        yield f"the ledger has {ticks} ticks, the bill {session.provider.billed_ticks}"
    yield from unlisted_payments(session, ledger)


def unlisted_payments(session: SmallRun, ledger: list[dict[str, Any]]) -> Iterator[str]:
    """P2, P5."""
    lines = Counter(line["row_id"] for line in ledger)
    ambiguous = Counter(line["row_id"] for line in ledger if line["state"] == "ambiguous")
    for row in session.rows:
        if lines[row] < session.provider.rows_asked[row]:
            yield f"{row} was asked {session.provider.rows_asked[row]} times and has {lines[row]} lines in the ledger"
        if session.provider.most_paid(row) - 1 > ambiguous[row]:
            yield f"{row} may have been paid {session.provider.most_paid(row)} times, {ambiguous[row]} ambiguous"
    if any(line["bound_ticks"] is None for line in ledger if line["state"] == "ambiguous"):
        yield "an ambiguous attempt has no bound"


def unwanted_activity(session: SmallRun) -> Iterator[str]:
    """P9: a run with nothing to do sends nothing and changes nothing."""
    asked, before = len(session.provider.asked), session.bytes_of_tables()
    session.run()
    if len(session.provider.asked) != asked:
        yield "a run with nothing to do asked again"
    if session.bytes_of_tables() != before:
        yield "a run with nothing to do changed a table"
