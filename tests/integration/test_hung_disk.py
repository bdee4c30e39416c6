"""A network mount that hangs holds up its own rows, and neither the deadline, a signal nor the rows beside it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from PIL import Image

from batchvision import Job, run, run_async
from batchvision.checkpoint import Store
from batchvision.emulator import RunningEmulator, start_in_thread
from batchvision.images import ImageFolder
from batchvision.records import Counters, RunSummary

ROWS = 8
HUNG = "r3.png"


@pytest.fixture
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread() as running:
        yield running


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Closed, as long as the mount hangs."""
    gate = threading.Event()
    yield gate
    gate.set()


@pytest.fixture
def hung_file(monkeypatch: pytest.MonkeyPatch, gate: threading.Event) -> None:
    read = ImageFolder.read

    def reading(folder: ImageFolder, name: str, max_bytes: int) -> bytes:
        if name == HUNG:
            gate.wait()
        return read(folder, name, max_bytes)

    monkeypatch.setattr(ImageFolder, "read", reading)


@pytest.fixture
def settings(tmp_path: Path, emulator: RunningEmulator) -> dict[str, Any]:
    for number in range(ROWS):
        Image.new("RGB", (20, 20 + number), "red").save(tmp_path / f"r{number}.png")
    lines = [f"r{number},r{number}.png" for number in range(ROWS)]
    (tmp_path / "photos.csv").write_text("\n".join(["sku,image", *lines]) + "\n")
    return {
        "name": "hung",
        "manifest": {"path": "photos.csv", "id": "sku"},
        "prompt": {"user": "Describe {sku}."},
        "provider": {
            "name": "emulator",
            "model": "grok-4.3",
            "base_url": emulator.base_url(),
            "api_key_env": "BV_KEY",
        },
        "output": {"path": "out"},
    }


def job_of(settings: dict[str, Any], folder: Path, **limits: Any) -> Job:
    return Job.from_mapping({**settings, "limits": limits}, folder, {})


def play(job: Job, **more: Any) -> RunSummary:
    return run(job, environ={"BV_KEY": "emulator-key"}, **more)


def test_a_hung_file_does_not_stop_the_deadline_or_the_rows_beside_it(tmp_path, settings, gate, hung_file):
    summary = play(job_of(settings, tmp_path, max_runtime_seconds=3.0))
    assert (summary.exit_code, summary.stop_reason) == (4, "deadline_reached")
    assert (summary.rows_completed, summary.rows_failed, summary.rows_pending) == (ROWS - 1, 0, 1)
    gate.set()
    assert play(job_of(settings, tmp_path)).rows_completed == ROWS


def test_a_hung_file_does_not_stop_a_signal(tmp_path, settings, hung_file):
    async def interrupt(counters: Counters) -> None:
        while counters.rows_completed < ROWS - 1:
            await anyio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    summary = play(job_of(settings, tmp_path), watch=interrupt)
    assert (summary.exit_code, summary.rows_completed, summary.rows_pending) == (143, ROWS - 1, 1)


def test_the_loop_goes_on_while_the_lock_and_the_columns_wait(tmp_path, settings, gate, monkeypatch):
    """A lease is settled for seconds, and all parts of an output are padded, before a run begins."""
    waited: list[str] = []

    def waits(name: str) -> None:
        work = getattr(Store, name)

        def waiting(*args: Any, **options: Any) -> Any:
            gate.wait(60)
            waited.append(name)
            return work(*args, **options)

        monkeypatch.setattr(Store, name, staticmethod(waiting))

    waits("lock")
    waits("open")

    async def beside() -> RunSummary:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, gate.wait)
            await anyio.sleep(0.05)
            tasks.start_soon(open_the_gate)
            return await run_async(job_of(settings, tmp_path), environ={"BV_KEY": "emulator-key"})
        raise AssertionError

    async def open_the_gate() -> None:
        assert not gate.is_set()
        gate.set()

    assert anyio.run(beside).exit_code == 0
    assert waited == ["lock", "open"]


def test_max_runtime_seconds_counts_the_life_of_the_process_before_the_run(tmp_path, settings, emulator):
    job = job_of(settings, tmp_path, max_runtime_seconds=3600)

    async def late() -> RunSummary:
        return await run_async(job, environ={"BV_KEY": "emulator-key"}, elapsed_seconds=3600.0)

    summary = anyio.run(late)
    assert (summary.exit_code, summary.stop_reason) == (4, "deadline_reached")
    assert emulator.bill().requests == 0
    assert play(job).exit_code == 0


def test_a_survey_counts_towards_max_runtime_seconds(job_runs, monkeypatch):
    """In virtual time: an hour goes by before the first row is streamed."""
    from fake_provider import FakeProvider, inline

    job_runs.rows(3)
    provider = FakeProvider()
    dependencies = provider.dependencies

    async def slow(work: Any, /, *args: Any) -> Any:
        await anyio.sleep(1200)
        return await inline(work, *args)

    monkeypatch.setattr("fake_provider.inline", slow)
    monkeypatch.setattr(provider, "dependencies", lambda seed: dependencies(seed))
    summary = job_runs.run(provider, limits__max_runtime_seconds=3_000)
    assert (summary.exit_code, provider.asked) == (4, [])
