"""Hours of deferred tickets at a steady rate in virtual time: the disk that the journal takes, against the open work.

``scripts/simulate tickets`` plays it at full length.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter

import anyio
from fake_provider import chat, inline, virtual_now
from open_work import CountingDisk, Enough
from provider_transports import InMemoryProvider
from virtual_time import VIRTUAL

from batchvision import Job
from batchvision.records import Counters, RawAnswer
from batchvision.runner.dependencies import RunDependencies
from batchvision.runner.session import run_async

MOST_OF_LIVE_WORK = 3.0
_MARK = re.compile(rb"\[\[(.*?)\]\]")
_JSON = {"content-type": "application/json"}


class JournalSize(CountingDisk):
    """Compares the size of all files of the journal with the live work: rows with a ticket and without an answer.

    The journal's size at the first answer shows the bytes of one live row.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live_rows = self.most_live_rows = 0
        self.bytes_of_a_row = 0.0
        self.journal_bytes = self.most_journal_bytes = 0
        self.most_of_live_work = 0.0
        self._sizes: dict[Path, int] = {}

    def row_is_answered(self) -> None:
        self.bytes_of_a_row = self.bytes_of_a_row or self.journal_bytes / self.live_rows
        self.most_live_rows = max(self.most_live_rows, self.live_rows)
        self.live_rows -= 1

    def _resize(self, path: Path, size_bytes: int) -> None:
        if ".batchvision" in path.parts:
            self.journal_bytes += size_bytes - self._sizes.pop(path, 0)
            if size_bytes:
                self._sizes[path] = size_bytes
            if self.bytes_of_a_row:
                self.most_journal_bytes = max(self.most_journal_bytes, self.journal_bytes)
                share = self.journal_bytes / (self.live_rows * self.bytes_of_a_row)
                self.most_of_live_work = max(self.most_of_live_work, share)

    def create(self, path: Path, mode: int) -> int:
        self._resize(path, 0)
        return super().create(path, mode)

    def write(self, descriptor: int, content: bytes | memoryview) -> None:
        super().write(descriptor, content)
        path = self._paths[descriptor]
        self._resize(path, self._sizes.get(path, 0) + len(content))

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        size_bytes = self._sizes.get(old, 0)
        self._resize(old, 0)
        self._resize(new, size_bytes)

    def remove(self, path: Path) -> None:
        super().remove(path)
        self._resize(path, 0)


class TicketStream(InMemoryProvider):
    """Each ticket names its row and the time of its answer, so the provider keeps no memory of it."""

    def __init__(self, disk: JournalSize, ticket_seconds: float) -> None:
        self._disk = disk
        self._ticket_seconds = ticket_seconds

    async def send(
        self, method: str, path: str, body: bytes, timeout_seconds: float, headers: Mapping[str, str]
    ) -> RawAnswer:
        await anyio.sleep(0.05)
        now = anyio.current_time()
        if method == "POST":
            row = _MARK.search(body)[1].decode()  # type: ignore[index]
            self._disk.live_rows += 1
            return _raw({"request_id": f"{row}_{now + self._ticket_seconds:.3f}"})
        row, _, ready_at = path.rsplit("/", 1)[1].rpartition("_")
        if now < float(ready_at):
            return RawAnswer(202, _JSON, b"", virtual_now())
        self._disk.row_is_answered()
        return _raw({**chat(f"an answer for {row}"), "id": row})


def _raw(document: Mapping[str, object]) -> RawAnswer:
    return RawAnswer(200, _JSON, json.dumps(document).encode(), virtual_now())


def play(folder: Path, seconds: float, per_second: float, ticket_seconds: float) -> JournalSize:
    """Submit ``per_second`` rows a second for ``seconds``, then stop like a killed process."""
    with (folder / "photos.csv").open("w") as file:
        file.write("sku,image,title\n")
        file.writelines(f"r{n},https://images.example/{n}.jpg,thing {n}\n" for n in range(round(seconds * per_second)))
    settings = {
        "name": "stream",
        "manifest": {"path": "photos.csv", "id": "sku", "keep": ["title"]},
        "prompt": {"user": "Describe {title} [[{sku}]]"},
        "provider": {"name": "xai", "model": "grok-4.3"},
        "delivery": {"lane": "deferred", "max_open_tickets": 10_000_000},
        "limits": {"requests_per_second": 2 * per_second, "concurrency": 64},  # polls take the other half
        "output": {"path": "out"},
    }
    job, disk = Job.from_mapping(settings, folder, {}), JournalSize()
    dependencies = RunDependencies(
        now=virtual_now,
        rng=random.Random(0),
        offload=inline,
        transport=TicketStream(disk, ticket_seconds),
        disk=disk,
    )

    async def watch(counters: Counters) -> None:
        await anyio.sleep(seconds * 0.9)  # the manifest does not end before
        raise Enough

    async def run() -> None:
        await run_async(job, environ={"XAI_API_KEY": "xai-secret-key-000"}, dependencies=dependencies, watch=watch)

    try:
        anyio.run(run, backend_options=VIRTUAL)
    except* Enough:
        pass
    return disk


def main(arguments: Sequence[str] | None = None) -> int:
    """Play a stream of deferred tickets and print its figures. Exit 1 if the journal takes too much."""
    parser = argparse.ArgumentParser(prog="scripts/simulate tickets", description=main.__doc__)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--rows-per-second", type=float, default=200.0)
    parser.add_argument("--ticket-seconds", type=float, default=600.0)
    chosen = parser.parse_args(arguments)
    began = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        disk = play(Path(folder), chosen.hours * 3600, chosen.rows_per_second, chosen.ticket_seconds)
    for name, value in (
        ("seals", f"{len(disk.seals):,}"),
        ("most rows with a ticket", f"{disk.most_live_rows:,}"),
        ("bytes of such a row", f"{disk.bytes_of_a_row:,.0f}"),
        ("most bytes of the journal", f"{disk.most_journal_bytes:,}"),
        ("of live work, at most", f"{disk.most_of_live_work:.2f} (allowed: {MOST_OF_LIVE_WORK:g})"),
        ("wall seconds", f"{perf_counter() - began:.1f}"),
    ):
        sys.stdout.write(f"{name:30} {value}\n")
    return 1 if disk.most_of_live_work >= MOST_OF_LIVE_WORK else 0


if __name__ == "__main__":
    sys.exit(main())
