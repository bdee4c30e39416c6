"""A caller interrupts a run: a cancelled task, a timeout, a signal beside a running loop. Nothing is bought twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from fake_provider import FakeProvider
from virtual_time import VIRTUAL

from batchvision import Job, run, run_async
from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread
from batchvision.records import RunSummary
from batchvision.runner.feed import survey

ROWS, IN_FLIGHT = 100, 8
Caller = Callable[[Any], Any]


async def by_wait_for(start: Caller) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(start(), 3.0)


async def by_cancel(start: Caller) -> None:
    task = asyncio.create_task(start())
    await anyio.sleep(3.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_a_scope(start: Caller) -> None:
    with anyio.move_on_after(3.0) as scope:
        await start()
    assert scope.cancelled_caught


async def by_a_failing_sibling(start: Caller) -> None:
    async def fail() -> None:
        await anyio.sleep(3.0)
        raise ValueError("the sibling")

    with pytest.raises(ExceptionGroup) as caught:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(start)
            tasks.start_soon(fail)
    assert caught.group_contains(ValueError, match="the sibling")


def latest(job_runs) -> dict[str, Any]:
    return json.loads((job_runs.folder / "out" / "runs" / "latest.json").read_text())


def play(job_runs, provider: FakeProvider, caller: Caller, drain_timeout_seconds: float = 25.0) -> None:
    def start() -> Any:
        return run_async(
            job_runs.job(limits__concurrency=IN_FLIGHT),
            environ={"XAI_API_KEY": "xai-secret-key-000"},
            dependencies=provider.dependencies(),
            drain_timeout_seconds=drain_timeout_seconds,
        )

    async def session() -> None:
        await caller(start)

    anyio.run(session, backend_options=VIRTUAL)


@pytest.mark.parametrize("caller", [by_wait_for, by_cancel, by_a_scope, by_a_failing_sibling])
def test_a_cancelled_run_drains_keeps_its_summary_and_the_rerun_buys_nothing_twice(job_runs, caller):
    job_runs.rows(ROWS)
    provider = FakeProvider(latency_seconds=2.0)  # at 3 s the second round is in flight
    play(job_runs, provider, caller)
    summary = latest(job_runs)
    assert (summary["stop_reason"], summary["exit_code"]) == ("interrupted", 130)
    assert summary["rows_completed"] == len(provider.asked) >= IN_FLIGHT
    assert summary["rows_completed"] + summary["rows_pending"] == ROWS
    assert summary["rows_ambiguous"] == 0

    assert job_runs.run(provider).exit_code == 0
    assert len(provider.asked) == ROWS
    assert sum(line["cost_ticks"] for line in job_runs.table("attempts")) == provider.billed_ticks


def test_a_cancelled_run_whose_answers_take_longer_than_the_drain_lists_them(job_runs):
    job_runs.rows(ROWS)
    provider = FakeProvider(latency_seconds=60.0)
    play(job_runs, provider, by_wait_for, drain_timeout_seconds=5.0)
    summary = latest(job_runs)
    assert (summary["stop_reason"], summary["rows_completed"]) == ("interrupted", 0)
    assert summary["rows_ambiguous"] == len(provider.asked) > 0


def test_a_second_cancellation_cuts_off_what_is_in_flight_and_lists_it(job_runs):
    job_runs.rows(ROWS)
    provider = FakeProvider(latency_seconds=60.0)
    ended_at: list[float] = []

    async def twice(start: Caller) -> None:
        task = asyncio.create_task(start())
        for _ in range(2):
            await anyio.sleep(3.0)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        ended_at.append(anyio.current_time() - 1_000.0)

    play(job_runs, provider, twice, drain_timeout_seconds=50.0)
    assert latest(job_runs)["rows_ambiguous"] == len(provider.asked) > 0
    assert ended_at[0] < 10.0, "seconds of virtual time"


def test_a_run_cancelled_before_anything_is_in_flight_sends_nothing(job_runs, monkeypatch):
    job_runs.rows(3)
    provider = FakeProvider()

    async def at_once(start: Caller) -> None:
        task = asyncio.create_task(start())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    play(job_runs, provider, at_once)
    assert provider.asked == []
    assert job_runs.run(provider).exit_code == 0


# ---------------------------------------------------------------------------------- beside a running loop


@pytest.fixture
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions(latency_seconds=0.1, ledger_entries=10_000)) as running:
        yield running


def job_of(folder: Path, url: str, **limits: Any) -> Job:
    lines = [f"r{number},https://images.example/{number}.jpg" for number in range(ROWS)]
    (folder / "photos.csv").write_text("\n".join(["sku,image", *lines]) + "\n")
    settings = {
        "name": "notebook",
        "manifest": {"path": "photos.csv", "id": "sku"},
        "prompt": {"user": "Describe {sku}."},
        "provider": {"name": "emulator", "model": "grok-4.3", "base_url": url, "api_key_env": "BV_KEY"},
        "limits": limits,
        "output": {"path": "out"},
    }
    return Job.from_mapping(settings, folder, {})


def in_a_notebook(job: Job) -> RunSummary:
    """A cell is code that runs while the kernel's loop is running."""

    async def cell() -> RunSummary:
        return run(job, environ={"BV_KEY": "emulator-key"})

    return asyncio.run(cell())


@contextmanager
def signal_at(emulator: RunningEmulator, requests: int, number: signal.Signals) -> Iterator[None]:
    """Sends the signal when so many requests have arrived at the provider."""
    has_ended = threading.Event()

    def send() -> None:
        while emulator.bill().requests < requests:
            if has_ended.wait(0.01):
                return
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        thread.join()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_in_a_notebook_is_interrupted_drains_and_returns_its_summary(tmp_path, emulator, number, code):
    job, before = job_of(tmp_path, emulator.base_url(), concurrency=IN_FLIGHT), signal.getsignal(number)
    with signal_at(emulator, 20, number):
        summary = in_a_notebook(job)
    assert (summary.exit_code, summary.stop_reason, summary.rows_ambiguous) == (code, "interrupted", 0)
    assert 20 <= summary.rows_completed == emulator.bill().requests < ROWS
    assert json.loads((tmp_path / "out" / "runs" / "latest.json").read_text())["exit_code"] == code
    assert signal.getsignal(number) == before, "the caller's handlers are back"

    assert in_a_notebook(job).exit_code == 0
    assert emulator.bill().requests == ROWS


def test_a_signal_before_anything_is_in_flight_ends_the_cell(tmp_path, emulator, monkeypatch):
    job = job_of(tmp_path, emulator.base_url())

    def interrupted(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return survey(*args)

    monkeypatch.setattr("batchvision.runner.session.survey", interrupted)
    with pytest.raises(KeyboardInterrupt):
        in_a_notebook(job)
    assert emulator.bill().requests == 0
