"""A whole run in virtual time: played in seconds, checked to the tick, and shown in a table (``scripts/simulate``)."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any

import anyio
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fault_schedule import FaultSchedule
from faulty_provider import FaultyProvider
from virtual_time import VIRTUAL

from batchvision import Job
from batchvision.checkpoint.disk import LocalDisk
from batchvision.records import RunSummary
from batchvision.runner.session import run_async

ROWS_AN_HOUR = 12_500  #: 100,000 rows make a run of eight hours
ROWS_A_MINUTE_ALLOWED = 260  #: the job's own limit: what the storms cost must be caught up with
MOST_SENDS_A_ROW = 1.15  #: beside 429s


class UnsyncedDisk(LocalDisk):
    """Waits for no disk: these runs have no power cut (``test_crash_in_memory`` has)."""

    def sync(self, descriptor: int) -> None:
        pass

    def sync_folder(self, path: Path) -> None:
        pass


@dataclass(frozen=True)
class SimulatedRun:
    """One job on one output, and the runs it is run in."""

    folder: Path
    rows: int
    seed: int
    lane: str = "online"

    def write_manifest(self) -> None:
        lines = [f"r{n},https://images.example/{n}.jpg,thing {n}" for n in range(self.rows)]
        (self.folder / "photos.csv").write_text("\n".join(["sku,image,title", *lines]) + "\n")

    def job(self) -> Job:
        settings: dict[str, Any] = {
            "name": "night",
            "manifest": {"path": "photos.csv", "id": "sku", "keep": ["title"]},
            "prompt": {"user": "Describe {title} [[{sku}]]"},
            "provider": {"name": "xai", "model": "grok-4.3", "parameters": {"max_tokens": 300}},
            "delivery": {"lane": self.lane},
            "limits": {"requests_per_minute": ROWS_A_MINUTE_ALLOWED, "concurrency": 128},
            "output": {"path": "out"},
        }
        return Job.from_mapping(settings, self.folder, {})

    @property
    def schedule(self) -> FaultSchedule:
        return FaultSchedule(self.seed, self.rows / ROWS_AN_HOUR * 3600)

    def play(self, provider: FaultyProvider, number: int = 1) -> RunSummary:
        """Run the job in the ``number``-th run of this seed."""
        job, dependencies = self.job(), provider.dependencies(self.seed * 1_000 + number, UnsyncedDisk())

        async def run() -> RunSummary:
            return await run_async(job, environ={"XAI_API_KEY": "xai-secret-key-000"}, dependencies=dependencies)

        return anyio.run(run, backend_options=VIRTUAL)

    # ---------------------------------------------------------------------------- what is on disk

    def table(self, name: str, *columns: str) -> pa.Table:
        paths = sorted((self.folder / "out" / name).rglob("part-*.parquet"))
        tables = [pq.ParquetFile(path).read(list(columns)) for path in paths]
        return pa.concat_tables(tables) if tables else pa.table({column: [] for column in columns})

    def digest(self) -> str:
        """Of every byte of the three tables, names included."""
        digest = sha256()
        for table in ("results", "failures", "attempts"):
            for path in sorted((self.folder / "out" / table).rglob("part-*.parquet")):
                digest.update(str(path.relative_to(self.folder)).encode())
                digest.update(path.read_bytes())
        return digest.hexdigest()


# ---------------------------------------------------------------------------------- what must be true of it


def faults(session: SimulatedRun, summary: RunSummary, *providers: FaultyProvider) -> list[str]:
    """In words, everything that is not as promised after runs with these providers; empty: all is well."""
    return [
        *_faults_of_rows(session, summary),
        *_faults_of_sends(session, providers),
        *_faults_of_money(session, summary, providers),
    ]


def _faults_of_rows(session: SimulatedRun, summary: RunSummary) -> Iterator[str]:
    """Each row is in one table, once, and the counts say so (P8, P9)."""
    done = session.table("results", "row_id")["row_id"].to_pylist()
    failed = session.table("failures", "row_id")["row_id"].to_pylist()
    if Counter([*done, *failed]) != Counter(f"r{n}" for n in range(session.rows)):
        yield f"{len(done)} results and {len(failed)} failures are not the {session.rows} rows, each once"
    counts = (summary.rows_completed, summary.rows_failed, summary.rows_pending)
    if counts != (len(done), len(failed), 0):
        yield f"the summary counts {counts}, the tables hold {(len(done), len(failed), 0)}"


def _faults_of_sends(session: SimulatedRun, providers: Sequence[FaultyProvider]) -> Iterator[str]:
    """Each request is a line of the ledger, few rows need several, and a done row is not sent again (P1)."""
    sends = sum((provider.sends for provider in providers), Counter[str]())
    beside_429s = sends.total() - sum(provider.rate_limited for provider in providers)
    if beside_429s > MOST_SENDS_A_ROW * session.rows:
        yield f"{beside_429s / session.rows:.3f} sends a row beside 429s"
    ledger = session.table("attempts", "row_id", "state", "attempt")
    lines = Counter(ledger["row_id"].to_pylist())
    if lines != sends:
        yield f"{lines.total()} lines in the ledger for {sends.total()} requests"
    done = ledger.filter(pc.equal(ledger["state"], "ok"))
    if any(lines[row] != at for row, at in zip(done["row_id"].to_pylist(), done["attempt"].to_pylist(), strict=True)):
        yield "a row was asked again after it was done"


def _faults_of_money(session: SimulatedRun, summary: RunSummary, providers: Sequence[FaultyProvider]) -> Iterator[str]:
    """The ledger is the bill (P6). Bills that were not seen are listed by row, within their bounds (P5)."""
    bill = {name: ticks for provider in providers for name, ticks in provider.delivered.items()}
    ledger = session.table("attempts", "row_id", "state", "provider_request_id", "cost_ticks", "bound_ticks")
    paid = ledger.filter(pc.is_valid(ledger["cost_ticks"]))
    booked = zip(paid["provider_request_id"].to_pylist(), paid["cost_ticks"].to_pylist(), strict=True)
    if sorted(booked) != sorted(bill.items()):
        yield f"the ledger's {pc.sum(paid['cost_ticks'])} ticks are not the bill's {sum(bill.values())}"
    unsure = ledger.filter(pc.is_in(ledger["state"], pa.array(["ambiguous", "lost_after_read"])))
    bounds: dict[str, list[int]] = {}
    for row, bound in zip(unsure["row_id"].to_pylist(), unsure["bound_ticks"].to_pylist(), strict=True):
        bounds.setdefault(row, []).append(bound)
    for provider in providers:
        for row, unseen in provider.unseen.items():
            if len(bounds.get(row, ())) < len(unseen) or sum(bounds[row]) < sum(unseen):
                yield f"{row} was billed {unseen} unseen, and the ledger bounds that by {bounds.get(row)}"


# ---------------------------------------------------------------------------------- the script


@dataclass(frozen=True)
class PlayedRun:
    """A run that was played, and how long that took."""

    session: SimulatedRun
    provider: FaultyProvider
    summary: RunSummary
    wall_seconds: float

    def lines(self) -> Iterator[tuple[str, str]]:
        summary, provider, rows = self.summary, self.provider, self.session.rows
        sends = provider.sends.total()
        ledger = self.session.table("attempts", "state", "cost_ticks", "bound_ticks")
        states = Counter(ledger["state"].to_pylist())
        yield "rows", f"{rows:,} ({self.session.lane}, seed {self.session.seed})"
        yield (
            "completed / failed / pending",
            f"{summary.rows_completed:,} / {summary.rows_failed:,} / {summary.rows_pending:,}",
        )
        yield "failures", ", ".join(f"{kind} {count}" for kind, count in summary.failures_by_kind.items()) or "none"
        yield "sends", f"{sends:,}, of them {provider.rate_limited:,} answered 429 and {provider.away:,} in the outage"
        yield "sends a row beside 429s", f"{(sends - provider.rate_limited) / rows:.4f}"
        yield "polls", f"{provider.polls:,}"
        yield "ledger", ", ".join(f"{state} {count:,}" for state, count in sorted(states.items()))
        yield "ledger, ticks", f"{pc.sum(ledger['cost_ticks']).as_py():,}"
        yield "provider's delivered bill", f"{sum(provider.delivered.values()):,}"
        yield "billed unseen, ticks", f"{sum(map(sum, provider.unseen.values())):,}"
        yield "ambiguous bounds, ticks", f"{pc.sum(ledger['bound_ticks']).as_py() or 0:,}"
        yield "virtual hours", f"{summary.duration_seconds / 3600:.2f}"
        yield "wall seconds", f"{self.wall_seconds:.1f}"
        yield "digest of the tables", self.session.digest()


def play(folder: Path, rows: int, seed: int, lane: str) -> PlayedRun:
    session = SimulatedRun(folder, rows, seed, lane)
    session.write_manifest()
    provider = FaultyProvider(session.schedule)
    began = perf_counter()
    summary = session.play(provider)
    return PlayedRun(session, provider, summary, perf_counter() - began)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play a run and print its figures. Exit 1 if a promise is broken."""
    parser = argparse.ArgumentParser(prog="scripts/simulate", description=main.__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lane", choices=("online", "deferred"), default="online")
    parser.add_argument("--replay", action="store_true", help="play it twice: both must be the same to the byte")
    chosen = parser.parse_args(arguments)
    digests, wrong = [], []
    for _ in range(1 + chosen.replay):
        with tempfile.TemporaryDirectory() as folder:
            played = play(Path(folder), chosen.rows, chosen.seed, chosen.lane)
            for name, value in played.lines():
                sys.stdout.write(f"{name:30} {value}\n")
            digests.append(played.session.digest())
            wrong += faults(played.session, played.summary, played.provider)
    if len(set(digests)) > 1:
        wrong.append("the replay is not the same")
    for sentence in wrong:
        sys.stdout.write(f"NOT AS PROMISED: {sentence}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
