"""Outputs that an earlier version has written, opened with the code of today.

Each archive of ``fixtures/outputs`` holds a job (``job.json``), its manifest and images, the output, and
``expected.json``: how the version that wrote it saw it. ``make_fixtures.py`` makes them.
"""

from __future__ import annotations

import json
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import anyio
from golden_jobs import ENVIRON, table_rows

from batchvision import Job
from batchvision.commands.plan import plan
from batchvision.commands.show import rows_of
from batchvision.commands.status import look
from batchvision.commands.verify import verify
from batchvision.emulator import RunningEmulator
from batchvision.records import RunSummary
from batchvision.runner.dependencies import RunDependencies
from batchvision.runner.feed import Selection
from batchvision.runner.session import run_async

FIXTURES = Path(__file__).parent / "fixtures"
OUTPUTS = FIXTURES / "outputs"
NAMES = sorted(path.name.removesuffix(".tar.xz") for path in OUTPUTS.glob("*.tar.xz"))
#: Columns of an answer that a later version must show unchanged.
ANSWER_COLUMNS = ("row_id", "request_key", "recipe_id", "output_text", "cost_ticks", "row_cost_ticks", "run_id")


class StoredOutput:
    """An unpacked archive. The clock goes on an hour after it was made, so that its tickets are still young."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "out"
        self.settings: dict[str, Any] = json.loads((folder / "job.json").read_text())
        self._began = monotonic()

    @classmethod
    def unpack(cls, name: str, folder: Path) -> StoredOutput:
        with tarfile.open(OUTPUTS / f"{name}.tar.xz") as archive:
            archive.extractall(folder, filter="data")
        return cls(folder)

    @property
    def expected(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.folder / "expected.json").read_text())
        return document

    @property
    def ticket_bodies(self) -> dict[str, str]:
        """The answers that the provider gives for the open tickets, by ticket."""
        path = self.folder / "tickets.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def job(self, base_url: str = "http://127.0.0.1:9/v1", **overrides: object) -> Job:
        dotted = {name.replace("__", "."): value for name, value in overrides.items()}
        return Job.from_mapping(self.settings, self.folder, overrides={"provider.base_url": base_url, **dotted})

    def _now(self) -> datetime:
        made_at = datetime.fromisoformat((self.folder / "made_at").read_text())
        return made_at + timedelta(hours=1, seconds=monotonic() - self._began)

    def resume(self, base_url: str, **overrides: object) -> RunSummary:
        """One run more, of the same shard where the output is one shard's."""
        shard = self.folder / "shard"
        number, of = map(int, shard.read_text().split("/")) if shard.exists() else (0, 1)
        job = self.job(base_url, **overrides)
        selection = Selection(shard=number, shards=of, retry_failed=job.limits.retry_kinds)
        start = partial(
            run_async, job, selection=selection, environ=ENVIRON, dependencies=RunDependencies(now=self._now)
        )
        return anyio.run(start)

    # ---------------------------------------------------------------------------- how it is seen

    def row_index(self) -> dict[str, int]:
        """How its rows stand, as ``plan`` counts them."""
        rows = anyio.run(plan, self.job()).rows
        names = ("total", "done", "to_do", "failed_before", "failed_kept", "invalid", "awaiting", "held", "left")
        return {name: getattr(rows, name) for name in names}

    def findings(self) -> list[list[str]]:
        """What ``verify`` finds, but for its words."""
        return [[each.topic, each.mark.value] for each in anyio.run(verify, self.output).findings]

    def is_right(self) -> bool:
        return anyio.run(verify, self.output).is_right

    def status(self) -> dict[str, Any]:
        found = look(self.output).document()
        names = ("rows_answered", "answers", "rows_failed", "rows_quarantined", "rows_held", "failures_by_kind")
        more = ("in_flight", "tickets_open", "cost_ticks", "ambiguous_ticks")
        return {name: found[name] for name in (*names, *more)}

    def shown(self) -> list[list[Any]]:
        """The current answers, as ``show`` gives them."""
        found = rows_of(self.output, "completed")
        rows = [row for batch in found.batches for row in batch.to_pylist()]
        return sorted([row[name] for name in ANSWER_COLUMNS] for row in rows)

    def answers(self) -> list[list[Any]]:
        """All answers, those under earlier recipes too."""
        return sorted([row[name] for name in ANSWER_COLUMNS] for row in table_rows(self.output, "results"))


def rows_asked(emulator: RunningEmulator) -> list[str]:
    """The rows of all requests since the last reset, by the echo in their prompt."""
    return sorted(entry.echo for entry in emulator.bill().entries)


# ---------------------------------------------------------------------------------- open tickets


@contextmanager
def ticket_desk(bodies: Mapping[str, str], emulator: RunningEmulator) -> Iterator[str]:
    """A provider in front of the emulator that gives the stored answers for the stored tickets; gives its base URL."""

    class Desk(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = bodies.get(self.path.rsplit("/", 1)[1])
            self._say(404 if body is None else 200, (body or '{"error":"no such ticket"}').encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name: self.headers[name] for name in ("content-type", "authorization")}
            onward = Request(emulator.base_url("xai") + self.path.removeprefix("/v1"), body, headers)
            try:
                with urlopen(onward) as response:
                    self._say(response.status, response.read())
            except HTTPError as refused:
                self._say(refused.code, refused.read())
            except OSError:  # the emulator has cut the connection: so does this one
                self.close_connection = True

        def _say(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Desk)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
