"""``status --watch`` reads only the figures that the run at work wrote since the last look, and takes no lock."""

from __future__ import annotations

import io
import json
import shutil
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from fake_provider import Asked, FakeProvider, Reply, error
from open_work import CountingDisk
from virtual_time import VIRTUAL

from batchvision.checkpoint import LocalDisk, RunningFiles, SealAfter
from batchvision.checkpoint import writer as writer_module
from batchvision.cli.watching import Lines, Panel, end_words, run_lines, watch
from batchvision.commands.status import look
from batchvision.records import RunFigures, RunSummary
from batchvision.runner.session import run_async

ROWS = 120
RATE_PER_SECOND = 4


class WrittenBytes(CountingDisk):
    """Count the bytes of the journal and of the figures."""

    def __init__(self) -> None:
        super().__init__()
        self.written_bytes = self.notes = 0

    def write(self, descriptor: int, content: bytes | memoryview) -> None:
        super().write(descriptor, content)
        self.written_bytes += len(content)

    def note(self, path: Path, content: bytes) -> None:
        super().note(path, content)
        self.written_bytes += len(content)
        self.notes += 1


class ReadBytes(LocalDisk):
    """Count the bytes that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.read_bytes = 0

    def get(self, path: Path) -> bytes | None:
        content = super().get(path)
        self.read_bytes += len(content or b"")
        return content


class OpenedFiles:
    """The files below a folder that this process opens or locks between :meth:`begin` and :meth:`end`."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._found: list[str] | None = None
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._found is None:
            return
        if event == "open" and str(arguments[0]).startswith(self._folder):
            self._found.append(Path(str(arguments[0])).name)
        elif event.startswith("fcntl."):
            self._found.append(event)

    def begin(self) -> None:
        self._found = []

    def end(self) -> list[str]:
        found, self._found = self._found or [], None
        return found


def refuse_some(asked: Asked) -> Reply | None:
    """Every tenth row is refused for good; one 429 comes early."""
    if asked.number == 5:
        return error(429, "slow down", retry_after="1")
    return error(400, "bad image", "invalid") if int(asked.row.removeprefix("r")) % 10 == 3 else None


def run_beside(job_runs, watcher, disk: LocalDisk, **overrides: Any) -> RunSummary:
    provider = FakeProvider(refuse_some, latency_seconds=0.5)

    async def session() -> RunSummary:
        return await run_async(
            job_runs.job(limits__requests_per_second=RATE_PER_SECOND, **overrides),
            environ={"XAI_API_KEY": "xai-secret-key-000"},
            dependencies=replace(provider.dependencies(), disk=disk),
            watch=watcher,
        )

    return anyio.run(session, backend_options=VIRTUAL)


def test_each_look_reads_at_most_the_bytes_written_since_the_look_before_and_opens_nothing_else(job_runs, monkeypatch):
    monkeypatch.setattr(writer_module, "SealAfter", lambda: SealAfter(attempts=20))
    job_runs.rows(ROWS)
    written, read = WrittenBytes(), ReadBytes()
    files = RunningFiles(job_runs.folder / "out", read)
    opened = OpenedFiles(job_runs.folder)
    looks: list[tuple[int, int, list[str], tuple[RunFigures, ...]]] = []

    async def look_each_second(counters: object) -> None:
        before = (0, 0)
        while True:
            opened.begin()
            running = files.look()
            found = opened.end()
            looks.append((read.read_bytes - before[0], written.written_bytes - before[1], found, running))
            before = (read.read_bytes, written.written_bytes)
            await anyio.sleep(0.4)

    summary = run_beside(job_runs, look_each_second, written)
    assert len(written.seals) >= 4
    assert summary.rows_failed == ROWS // 10
    assert all(read_bytes <= written_bytes for read_bytes, written_bytes, _, _ in looks)
    assert {name for _, _, found, _ in looks for name in found} == {"running.json"}
    assert [found for _, _, found, _ in looks if len(found) > 1] == []
    assert any(not found for _, _, found, _ in looks), "an unchanged file is not read again"
    assert sum(read_bytes for read_bytes, _, _, _ in looks) > 0
    assert written.notes <= summary.duration_seconds + 3, "at most once a second"
    figures = looks[-1][3][0]
    assert figures.progress.rows_answered + figures.progress.rows_failed > ROWS * 0.8
    assert figures.rate.limit_per_second == pytest.approx(RATE_PER_SECOND, rel=0.3)
    assert 0 < figures.rate.per_second <= RATE_PER_SECOND * 1.3
    assert figures.rate.rate_limited == 1
    assert figures.failures_by_kind == {"request_rejected": figures.progress.rows_failed}
    assert figures.examples["request_rejected"].row_id == "r3"
    assert "bad image" in figures.examples["request_rejected"].message
    assert files.look() == ()


def test_status_shows_the_figures_of_the_run_and_json_has_the_same_values(job_runs):
    job_runs.rows(40)
    seen: list[tuple[dict[str, Any], list[str]]] = []

    async def look_at_5_seconds(counters: object) -> None:
        await anyio.sleep(5)
        status = look(job_runs.folder / "out")
        figures = status.running[0]
        seen.append((status.document(), list(run_lines(figures, figures.started_at + timedelta(seconds=5)))))
        await anyio.sleep_forever()

    run_beside(job_runs, look_at_5_seconds, LocalDisk())
    document, lines = seen[0]
    json.dumps(document)
    running = document["running"][0]
    answered, failed = running["rows_answered"], running["rows_failed"]
    assert 10 <= answered <= 20
    assert document["rows_answered"] >= answered
    assert failed == sum(each["rows"] for each in running["failures"]) >= 1
    assert running["failures"][0]["example_id"] == "r3"
    assert running["failures"][0]["advice"].startswith("read one message")
    assert document["failures"][0]["kind"] == "request_rejected"
    assert document["rows_pending"] == running["rows_left"] == 40 - answered - failed
    assert running["projected_usd"] > running["cost_usd"] > 0
    assert lines[0].endswith("for 5s")
    assert lines[1] == (
        f"  rows      {answered} of 40 answered, {failed} failed, {running['rows_left']} pending, "
        f"{running['in_flight']} in flight"
    )
    assert "answers 429" in lines[2]
    assert " left" in lines[-1]


def test_tickets_are_shown_with_the_age_of_the_oldest(job_runs):
    job_runs.rows(4)
    ages: list[str] = []

    async def look_at_90_seconds(counters: object) -> None:
        await anyio.sleep(90)
        status = look(job_runs.folder / "out")
        figures = status.running[0]
        assert status.oldest_ticket_at == figures.oldest_ticket_at is not None
        ages.extend(run_lines(figures, figures.oldest_ticket_at + timedelta(seconds=90)))
        await anyio.sleep_forever()

    provider = FakeProvider(ticket_seconds=300)
    job_runs.run(provider, watch=look_at_90_seconds, delivery__lane="deferred")
    assert "  tickets   4 open, the oldest for 1m 30s" in ages


def test_the_figures_of_an_output_in_an_object_store_are_read_from_the_local_copy(job_runs, tmp_path):
    job_runs.rows(20)
    local_copy, fetched = job_runs.folder / "out", tmp_path / "readers" / "out"
    found: list[tuple[RunFigures, ...]] = []

    async def look_at_2_seconds(counters: object) -> None:
        await anyio.sleep(2)
        shutil.copytree(local_copy, fetched, ignore=shutil.ignore_patterns("running.json"))
        found.extend((look(fetched).running, look(fetched, local_copy).running))
        await anyio.sleep_forever()

    run_beside(job_runs, look_at_2_seconds, LocalDisk())
    assert found[0] == ()
    assert found[1][0].progress.rows_answered > 0


# ---------------------------------------------------------------------------------- displays


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def figures(job_runs) -> list[tuple[RunFigures, ...]]:
    """The figures of a run, at each second of it."""
    job_runs.rows(60)
    files = RunningFiles(job_runs.folder / "out", LocalDisk())
    looks: list[tuple[RunFigures, ...]] = []

    async def look_each_second(counters: object) -> None:
        while True:
            await anyio.sleep(1)
            looks.append(files.look())

    run_beside(job_runs, look_each_second, LocalDisk())
    return looks


@pytest.mark.parametrize("columns", [80, 200])
def test_the_panel_overwrites_its_own_lines_and_fits_the_terminal(figures, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", "24")
    stream = Terminal()
    panel = Panel(stream)
    panel.show(figures[5])
    first = stream.getvalue()
    assert first.startswith("\r\x1b[J")
    lines = first.removeprefix("\r\x1b[J").splitlines()
    assert all(len(line) <= columns for line in lines)
    panel.show(figures[6])
    assert stream.getvalue()[len(first) :].startswith(f"\x1b[{len(lines)}A\r\x1b[J")


def test_a_panel_counts_the_lines_that_a_narrower_terminal_has_broken(figures, monkeypatch):
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("COLUMNS", "200")
    stream = Terminal()
    panel = Panel(stream)
    panel.show(figures[5])
    first = stream.getvalue()
    lines = first.removeprefix("\r\x1b[J").splitlines()
    monkeypatch.setenv("COLUMNS", "80")
    panel.show(figures[6])
    broken = sum(max(1, -(-len(line) // 80)) for line in lines)
    assert broken > len(lines)
    assert stream.getvalue()[len(first) :].startswith(f"\x1b[{broken}A")


def test_elsewhere_a_line_comes_at_most_every_10_seconds_and_after_a_change(figures):
    stream, time_ = io.StringIO(), iter([0.0, 5.0, 9.9, 10.0, 25.0, 26.0])
    lines = Lines(stream, as_json=False, clock=lambda: next(time_))
    for running in (figures[1], figures[2], figures[3], figures[4], figures[4], figures[5]):
        lines.show(running)
    shown = stream.getvalue().splitlines()
    assert [line.split(" rows done")[0].split()[1] for line in shown] == [
        f"{running[0].progress.rows_answered}" for running in (figures[1], figures[4], figures[5])
    ]
    assert all("requests/s" in line and "\x1b" not in line for line in shown)


def test_figures_that_did_not_change_for_a_while_are_shown_with_their_age(figures):
    now = figures[5][0]
    assert "nothing new" not in next(run_lines(now, now.progress.at + timedelta(seconds=4)))
    assert next(run_lines(now, now.progress.at + timedelta(seconds=70))).endswith(", nothing new for 1m 10s")


def test_json_lines_hold_the_figures(figures):
    stream = io.StringIO()
    Lines(stream, as_json=True).show(figures[4])
    document = json.loads(stream.getvalue())
    assert document["run_id"] == figures[4][0].run_id
    assert document["rows_answered"] == figures[4][0].progress.rows_answered


def test_a_watch_ends_when_no_run_is_at_work_and_says_how_the_runs_ended(job_runs, figures, monkeypatch):
    looks = iter([*figures[:3], ()])
    files = RunningFiles(job_runs.folder / "out", LocalDisk())
    monkeypatch.setattr(files, "look", lambda: next(looks))
    slept: list[float] = []
    (run_id,) = watch(files, Lines(io.StringIO(), as_json=False), slept.append)
    assert slept == [1.0, 1.0, 1.0]
    words = end_words(job_runs.folder / "out", run_id)
    assert words.startswith(f"{run_id} ended with exit 3: 54 of 60 rows completed, 6 failed, 0 pending, $")
    assert "without a summary" in end_words(job_runs.folder / "out", "another")
