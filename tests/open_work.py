"""Runs that hold much open work, on a disk that counts bytes, for ``test_seal_costs`` and ``scripts/bench seals``.

A first run leaves open tickets and failed rows. A second run answers other rows meanwhile. Both stop like a killed
process. The provider keeps no memory: a ticket names its row.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import anyio
from fake_provider import NIGHTFALL, chat, inline, virtual_now
from provider_transports import InMemoryProvider
from virtual_time import VIRTUAL

from batchvision import Job
from batchvision.checkpoint.disk import LocalDisk
from batchvision.records import Counters, RawAnswer
from batchvision.runner.dependencies import RunDependencies
from batchvision.runner.session import Watch, run_async

REFUSED_EVERY = 50  #: One in so many answered rows fails, so that each seal has new failures.
AWAY = "https://away.example/v1"  #: Runs with this base URL leave the tickets of the other one open, without polls.
_MARK = re.compile(rb"\[\[(.*?)\]\]")
_JSON = {"content-type": "application/json"}
_SEGMENT = re.compile(r"journal-\d+\.log")


class SealCost(NamedTuple):
    written_bytes: int
    reads: int


class CountingDisk(LocalDisk):
    """Count written bytes. No sync waits for the disk.

    ``sealed_bytes``: all bytes but the records that are appended to a segment. ``reads``: files read back through the
    disk. ``seals`` holds both at each new part of ``results``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sealed_bytes = self.reads = 0
        self.seals: list[SealCost] = []
        self._paths: dict[int, Path] = {}

    def sync(self, descriptor: int) -> None:
        pass

    def sync_folder(self, path: Path) -> None:
        pass

    def create(self, path: Path, mode: int) -> int:
        descriptor = super().create(path, mode)
        self._paths[descriptor] = path
        return descriptor

    def write(self, descriptor: int, content: bytes | memoryview) -> None:
        super().write(descriptor, content)
        if not _SEGMENT.fullmatch(self._paths[descriptor].name):
            self.sealed_bytes += len(content)

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        self._paths = {descriptor: new if path == old else path for descriptor, path in self._paths.items()}
        if "results" in new.parts:
            self.seals.append(SealCost(self.sealed_bytes, self.reads))

    def close(self, descriptor: int) -> None:
        super().close(descriptor)
        del self._paths[descriptor]

    def get(self, path: Path) -> bytes | None:
        self.reads += 1
        return super().get(path)

    def largest_seal(self) -> SealCost:
        """The most that was written and read from one part of ``results`` to the next."""
        pairs = list(pairwise(self.seals))
        return SealCost(
            max(later.written_bytes - earlier.written_bytes for earlier, later in pairs),
            max(later.reads - earlier.reads for earlier, later in pairs),
        )


class TicketsWithoutMemory(InMemoryProvider):
    """Answers online requests. A deferred request gets a ticket without an answer."""

    async def send(
        self, method: str, path: str, body: bytes, timeout_seconds: float, headers: Mapping[str, str]
    ) -> RawAnswer:
        await anyio.sleep(0.05)
        if method == "GET":
            return RawAnswer(202, _JSON, b"", virtual_now())
        row = _MARK.search(body)[1].decode()  # type: ignore[index]
        if b'"deferred":true' in body:
            return _raw({"request_id": f"ticket-{row}"})
        finish = "stop" if int(row.removeprefix("answered")) % REFUSED_EVERY else "content_filter"
        return _raw({**chat(f"an answer for {row}", finish=finish), "id": row})


def _raw(document: Any) -> RawAnswer:
    return RawAnswer(200, _JSON, json.dumps(document).encode(), virtual_now())


class Enough(Exception):
    """The run has come as far as it is needed."""


@dataclass(frozen=True)
class OpenWork:
    """An output with ``tickets`` open tickets and ``failed`` failed rows, and runs beside them."""

    folder: Path
    tickets: int = 0
    failed: int = 0

    def leave(self, watch: Callable[[Counters], None] = lambda counters: None) -> None:
        """Fail the rows without an image, then submit the others until all tickets are open.

        ``watch`` is called now and then, and may raise :class:`Enough`.
        """

        def is_enough(counters: Counters) -> bool:
            watch(counters)
            return counters.tickets_open >= self.tickets

        if self.failed:
            self._write(failed=self.failed)
            self._play(self._job("online", 2_000), CountingDisk(), lambda counters: False)
        if self.tickets:
            self._write(open=self.tickets)
            self._play(self._job("deferred", 500), CountingDisk(), is_enough)

    def answer(self, rows: int) -> SealCost:
        """Answer ``rows`` rows online while the tickets are open, and return the cost of the largest seal."""
        disk = CountingDisk()
        self._write(answered=2 * rows)  # the run stops in the middle of its manifest: failed rows do not leave it
        self._play(self._job("online", 200, AWAY), disk, lambda counters: counters.rows_completed >= rows)
        return disk.largest_seal()

    def stalls(self, rows: int, per_second: int) -> list[float]:
        """Answer ``rows`` rows in real time on the real disk. Return by how many seconds each timer of a millisecond
        was late, after the first tenth of the rows."""
        self._write(answered=2 * rows)
        late: list[float] = []

        async def watch(counters: Counters) -> None:
            while counters.rows_completed < rows:
                due = anyio.current_time() + 0.001
                await anyio.sleep(0.001)
                if counters.rows_completed > rows / 10:
                    late.append(anyio.current_time() - due)
            raise Enough

        began = monotonic()
        dependencies = RunDependencies(
            now=lambda: NIGHTFALL + timedelta(hours=1, seconds=monotonic() - began),  # the tickets have not expired
            transport=TicketsWithoutMemory(),
        )
        self._run(self._job("online", per_second, AWAY), dependencies, watch, {})
        return late

    def _job(self, lane: str, per_second: int, base_url: str = "https://here.example/v1") -> Job:
        settings: dict[str, Any] = {
            "name": "night",
            "manifest": {"path": "photos.csv", "id": "sku", "keep": ["title"]},
            "prompt": {"user": "Describe {title} [[{sku}]]"},
            "provider": {"name": "xai", "model": "grok-4.3", "base_url": base_url},
            "delivery": {"lane": lane, "max_open_tickets": 1_000_000},
            "limits": {"requests_per_second": per_second, "concurrency": per_second // 16, "max_failed": "100%"},
            "output": {"path": "out"},
        }
        return Job.from_mapping(settings, self.folder, {})

    def _write(self, **counts: int) -> None:
        rows = [
            f"{kind}{n},{'' if kind == 'failed' else f'https://images.example/{kind}{n}.jpg'},thing {n}"
            for kind, count in counts.items()
            for n in range(count)
        ]
        (self.folder / "photos.csv").write_text("\n".join(["sku,image,title", *rows]) + "\n")

    def _play(self, job: Job, disk: CountingDisk, is_enough: Callable[[Counters], bool]) -> None:
        """In virtual time."""
        dependencies = RunDependencies(
            now=virtual_now, rng=random.Random(), offload=inline, transport=TicketsWithoutMemory(), disk=disk
        )  # each run has its own seed: all of them begin in the same second

        async def watch(counters: Counters) -> None:
            while not is_enough(counters):
                await anyio.sleep(0.2)
            raise Enough

        self._run(job, dependencies, watch, VIRTUAL)

    def _run(self, job: Job, dependencies: RunDependencies, watch: Watch, options: Mapping[str, Any]) -> None:
        async def run() -> None:
            await run_async(job, environ={"XAI_API_KEY": "xai-secret-key-000"}, dependencies=dependencies, watch=watch)

        try:
            anyio.run(run, backend_options=dict(options))
        except* Enough:
            pass
