"""Promise P7 over whole runs, with crashes and resumes: the cap holds at every step, and stops nothing it need not.

A miser's provider bills each request as it arrives, whether or not its answer gets through; a power cut ends a run
between two operations of the disk; the next run goes on from what is on it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pyarrow.parquet as pq
import pytest
from fake_provider import Asked, FakeProvider, Reply, chat, error, inline, virtual_now
from hypothesis import example, given, settings
from hypothesis import strategies as st
from simulated_run import UnsyncedDisk
from virtual_time import VIRTUAL

from batchvision import Job
from batchvision.errors import ConnectionCut, SpendCapReached
from batchvision.limits import Permits, SpendCaps
from batchvision.records import RunSummary
from batchvision.runner.dependencies import RunDependencies
from batchvision.runner.session import run_async
from batchvision.runner.wiring import estimator_of, prices_of

UNSURE = ("ambiguous", "lost_after_read")


class PowerCut(BaseException):
    """The machine is gone."""


class CutDisk(UnsyncedDisk):
    """Takes nothing more from ``cut_at`` on, on the virtual clock."""

    def __init__(self, cut_at: float | None) -> None:
        self._cut_at = cut_at

    def _has_power(self) -> None:
        if self._cut_at is not None and anyio.current_time() >= self._cut_at:
            raise PowerCut

    def create(self, path: Path, mode: int) -> int:
        self._has_power()
        return super().create(path, mode)

    def write(self, descriptor: int, content: bytes | memoryview) -> None:
        self._has_power()
        super().write(descriptor, content)

    def rename(self, old: Path, new: Path) -> None:
        self._has_power()
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        self._has_power()
        super().remove(path)


@dataclass(frozen=True)
class Story:
    """What happens: shares of the bound that requests cost, faults, the cap in bounds, and when the power goes."""

    rows: int
    concurrency: int
    shares: tuple[int, ...]  #: percent of a row's smallest bound, drawn in turn
    fates: tuple[str, ...]  #: ok, cut (billed, not seen), error (not billed); drawn in turn
    cap_percent: int  #: of one bound
    cuts: tuple[float, ...]  #: virtual seconds into each run; the last run is whole
    period: str = ""


STORIES = st.builds(
    Story,
    rows=st.integers(1, 30),
    concurrency=st.integers(1, 12),
    shares=st.lists(st.integers(0, 100), min_size=1, max_size=7).map(tuple),
    fates=st.lists(st.sampled_from(["ok", "ok", "ok", "cut", "error"]), min_size=1, max_size=11)
    .filter(lambda fates: set(fates) != {"error"})  # a provider that never comes back is waited for, for ever
    .map(tuple),
    cap_percent=st.integers(50, 2_500),
    cuts=st.lists(st.floats(0.5, 40.0), max_size=2).map(tuple),
    period=st.sampled_from(["", "_per_day", "_per_month"]),
)


class Miser(FakeProvider):
    """Bills what arrives. ``bound_ticks``: no request costs more."""

    def __init__(self, story: Story, bound_ticks: int) -> None:
        super().__init__()
        self._story, self._bound = story, bound_ticks
        self.billed_in_all = 0

    async def _post(self, body: bytes) -> Reply:
        """The answer takes its time; its bill does not."""
        asked = self._note(body)
        reply = self._reply(asked)
        await anyio.sleep(0.3 + asked.number % 5)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _reply(self, asked: Asked) -> Reply | Exception:
        fates, shares = self._story.fates, self._story.shares
        fate = fates[asked.number % len(fates)]
        if fate == "error":
            return error(500, "boom", "internal")
        ticks = self._bound * shares[asked.number % len(shares)] // 100
        self.billed_in_all += ticks
        return ConnectionCut("cut") if fate == "cut" else Reply(200, chat(f"answer {asked.row}", ticks=ticks))


@dataclass
class Watched:
    """What was asked of the caps, and what they refused for good. ``now``: the caps of the run under way."""

    steps: int = 0
    refused: list[tuple[int, int]] = field(default_factory=list)  #: bound, and what was left


@contextmanager
def watching(watched: Watched) -> Iterator[None]:
    """Every step of the caps is checked as it is made."""
    real = {name: getattr(SpendCaps, name) for name in ("reserve", "commit", "settle", "release")}
    reached = Permits._cap_reached

    def checked(name: str) -> Any:
        def step(self: SpendCaps, *arguments: Any) -> Any:
            result = real[name](self, *arguments)
            watched.steps += 1
            for cap in self._caps:
                assert cap.cap_ticks is None or cap.spent_ticks + cap.reserved_ticks <= cap.cap_ticks, f"{name}: {cap}"
            return result

        return step

    def refusing(self: Permits, bound: int | None) -> SpendCapReached:
        watched.refused.append((bound or 0, self._cap.left_ticks or 0))
        return reached(self, bound)

    with pytest.MonkeyPatch.context() as patch:
        for name in real:
            patch.setattr(SpendCaps, name, checked(name))
        patch.setattr(Permits, "_cap_reached", refusing)
        yield


@dataclass
class Thrift:
    """One job, run after run on one output."""

    folder: Path
    story: Story
    job_runs: int = 0

    def job(self, cap_ticks: int) -> Job:
        lines = [f"r{n},https://images.example/{n}.jpg,thing {n}" for n in range(self.story.rows)]
        (self.folder / "photos.csv").write_text("\n".join(["sku,image,title", *lines]) + "\n")
        limits: Mapping[str, Any] = {
            "concurrency": self.story.concurrency,
            "max_attempts": 4,
            "max_failed": "100%",
            "quarantine_after_runs": 99,
            f"max_cost_usd{self.story.period}": Decimal(cap_ticks).scaleb(-10),
        }
        settings: dict[str, Any] = {
            "name": "thrift",
            "manifest": {"path": "photos.csv", "id": "sku"},
            "prompt": {"user": "Describe {title} [[{sku}]]"},
            "provider": {
                "name": "xai",
                "model": "grok-4.3",
                "prices": {"input": 1, "cached": 1, "output": 10},
                "parameters": {"max_tokens": 100},
            },
            "limits": limits,
            "output": {"path": "out"},
        }
        return Job.from_mapping(settings, self.folder)

    def run(self, job: Job, provider: Miser, cut_at_seconds: float | None) -> RunSummary | None:
        """None: the power went."""
        self.job_runs += 1
        disk = CutDisk(None if cut_at_seconds is None else 1_000.0 + cut_at_seconds)
        seed = random.Random(self.job_runs)

        async def session() -> RunSummary:
            dependencies = RunDependencies(now=virtual_now, rng=seed, offload=inline, transport=provider, disk=disk)
            return await run_async(job, environ={"XAI_API_KEY": "xai-secret-key-000"}, dependencies=dependencies)

        try:
            return anyio.run(session, backend_options=VIRTUAL)
        except BaseException as fault:
            if not _is_power_cut(fault):
                raise
            return None

    def ledger(self) -> list[dict[str, Any]]:
        paths = sorted((self.folder / "out" / "attempts").rglob("part-*.parquet"))
        return [row for path in paths for row in pq.ParquetFile(path).read().to_pylist()]


def _is_power_cut(fault: BaseException) -> bool:
    if isinstance(fault, BaseExceptionGroup):
        return any(_is_power_cut(each) for each in fault.exceptions)
    return isinstance(fault, PowerCut)


@given(story=STORIES)
@settings(max_examples=60)
@example(Story(20, 8, (100,), ("ok", "cut"), 1_000, (3.0, 2.0)))
@example(Story(30, 12, (1,), ("ok",), 150, ()))
@example(Story(5, 1, (100,), ("ok",), 500, (), "_per_day"))
@example(Story(5, 3, (100,), ("ok",), 499, (1.5,), "_per_month"))
def test_the_cap_holds_at_every_step_and_refuses_nothing_that_it_covers(
    tmp_path_factory: pytest.TempPathFactory, story: Story
) -> None:
    thrift = Thrift(tmp_path_factory.mktemp("thrift"), story)
    smallest, largest = _bounds(thrift)
    cap_ticks = largest * story.cap_percent // 100
    job, provider, watched = thrift.job(cap_ticks), Miser(story, smallest), Watched()
    with watching(watched):
        for cut in story.cuts:
            thrift.run(job, provider, cut)
            assert provider.billed_in_all <= cap_ticks
        watched.refused.clear()
        summary = thrift.run(job, provider, None)
    assert summary is not None
    ledger = thrift.ledger()
    spent = sum(row["cost_ticks"] or 0 for row in ledger)
    unsure = sum(row["bound_ticks"] for row in ledger if row["state"] in UNSURE)
    assert spent <= provider.billed_in_all <= spent + unsure <= cap_ticks
    assert watched.steps > 0
    if summary.stop_reason == "spend_cap_reached":
        ((bound, left), *_) = watched.refused
        assert summary.rows_pending > 0
        assert bound > left
        assert left == cap_ticks - spent - unsure, "at the refusal nothing was on the wire that might have come back"
    else:
        assert summary.rows_pending == 0
        assert not watched.refused


def _bounds(thrift: Thrift) -> tuple[int, int]:
    """A bound that no row's is below, and one that none's is above."""
    job = thrift.job(10**12)
    estimator = estimator_of(job, prices_of(job))
    sizes = [(None, None)]
    small, large = estimator.estimate(0, sizes, 1).bound_ticks, estimator.estimate(200, sizes).bound_ticks
    assert small is not None
    assert large is not None
    return small, large
