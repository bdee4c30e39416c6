"""``run --redo``: completed rows are asked again, and the newer answer supersedes the older one."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import duckdb
import pyarrow.parquet as pq
import pytest
from job_runs import DEFERRED, JobRuns, RunResult, make_ready
from killed_disk import KilledDisk

from batchvision import read
from batchvision.checkpoint import Closed, OutputView, RowIndex, RunState, compact, journal_records, record_json
from batchvision.checkpoint import store as stores
from batchvision.checkpoint.journal_records import BookedEnd
from batchvision.commands.redo import digests_of, named_rows, quote_redo
from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread
from batchvision.errors import JobInvalid
from batchvision.providers import Dialect
from batchvision.records import Completed, Exchange, Purpose
from batchvision.runner.feed import Selection

FOUR = ("r1", "r2", "r3", "r4")


@pytest.fixture
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions()) as running:
        yield running


@pytest.fixture
def job(tmp_path: Path, emulator: RunningEmulator) -> JobRuns:
    job_runs = JobRuns(tmp_path, emulator)
    for row in FOUR:  # no two rows ask the same
        job_runs.rows(f"shoe {row}", row)
    return job_runs


def redo(job: JobRuns, *rows: str, **more: Any) -> RunResult:
    return job.run(selection=Selection(redo=digests_of(rows)), **more)


def wrong(job: JobRuns) -> list[str]:
    """What ``verify`` finds wrong."""
    return [each.text for each in job.verify().findings if each.mark == "wrong"]


def asked(*rows: str) -> Counter[tuple[str, str]]:
    return Counter((row, f"shoe {row}") for row in rows)


def answers(job: JobRuns) -> dict[str, str]:
    """By row: the id of its current answer."""
    return {row["row_id"]: row["provider_request_id"] for batch in read(job.output) for row in batch.to_pylist()}


def stored(job: JobRuns) -> Counter[str]:
    """How many answers each row has."""
    return Counter(row["row_id"] for batch in OutputView(job.output).rows("results") for row in batch.to_pylist())


def changed(job: JobRuns, before: dict[str, str]) -> set[str]:
    """The rows with another current answer than before."""
    now = answers(job)
    assert now.keys() == before.keys()
    return {row for row, name in now.items() if name != before[row]}


# ---------------------------------------------------------------------------------- completed redos


def test_only_the_named_rows_are_asked_again_and_their_newer_answer_is_current(job):
    job.run()
    before = answers(job)
    redone = redo(job, "r1", "r3")
    assert (redone.exit_code, redone.counts, redone.billed) == (0, (4, 0, 0), asked("r1", "r3"))
    assert redone.summary is not None
    summary = redone.summary
    assert (summary.rows_to_redo, summary.rows_redone, summary.rows_redo_failed) == (2, 2, 0)
    assert (summary.command, summary.is_trial) == ("redo", True)
    assert changed(job, before) == {"r1", "r3"}
    assert stored(job) == {"r1": 2, "r2": 1, "r3": 2, "r4": 1}
    assert len(job.table("attempts")) == 6
    assert wrong(job) == []
    assert job.is_right()


def test_a_run_after_a_redo_sends_nothing_and_changes_no_byte(job):
    job.run()
    redo(job, "r1")
    before = files(job)
    again = job.run()
    assert (again.exit_code, again.counts, again.billed) == (0, (4, 0, 0), Counter())
    assert files(job) == before


def files(job: JobRuns) -> dict[Path, bytes]:
    tables = ("results", "failures", "attempts")
    return {path: path.read_bytes() for table in tables for path in (job.output / table).rglob("part-*")}


def test_a_row_is_redone_as_often_as_it_is_named(job):
    job.run()
    names = {answers(job)["r1"]}
    for number in range(2, 4):
        redo(job, "r1")
        names.add(answers(job)["r1"])
        assert (len(names), stored(job)["r1"]) == (number, number)
    assert wrong(job) == []
    assert job.is_right()


def test_the_newer_answer_is_current_although_the_clock_was_set_back(job):
    job.run()
    before = answers(job)
    job.ahead = timedelta(hours=-9)
    redo(job, "r1")
    assert changed(job, before) == {"r1"}
    job.run()
    assert changed(job, before) == {"r1"}
    assert compact(job.output, drop_superseded=True).superseded == 1
    assert changed(job, before) == {"r1"}


def test_a_compaction_drops_the_superseded_answer_and_keeps_both_without_consent(job):
    job.run()
    before = answers(job)
    redo(job, "r1", "r2")
    compact(job.output)
    assert stored(job) == {"r1": 2, "r2": 2, "r3": 1, "r4": 1}
    assert changed(job, before) == {"r1", "r2"}
    assert wrong(job) == []
    assert job.is_right()
    assert compact(job.output, drop_superseded=True).superseded == 2
    assert stored(job) == dict.fromkeys(FOUR, 1)
    assert changed(job, before) == {"r1", "r2"}
    assert wrong(job) == []
    assert job.is_right()
    assert job.run().billed == Counter()


def test_a_load_replaces_the_row_in_the_database(job):
    job.settings |= {"load.to": "duckdb:///warehouse.db", "output.snapshot": "current.parquet"}
    job.run()
    before = answers(job)
    assert loaded(job) == before
    redo(job, "r2")
    assert changed(job, before) == {"r2"}
    assert loaded(job) == answers(job)
    snapshot = pq.read_table(job.output / "current.parquet", columns=["row_id", "provider_request_id"]).to_pylist()
    assert {row["row_id"]: row["provider_request_id"] for row in snapshot} == answers(job)


def loaded(job: JobRuns) -> dict[str, str]:
    with duckdb.connect(str(job.folder / "warehouse.db")) as connection:
        rows = connection.execute("SELECT row_id, provider_request_id FROM batchvision_results").fetchall()
    assert len(rows) == len(dict(rows)), "a row is loaded twice"
    return dict(rows)


def test_a_touched_image_does_not_hide_a_row_from_a_redo(job):
    job.run()
    before = answers(job)
    image = job.folder / "images" / "r1.png"
    content = image.read_bytes()
    image.unlink()
    image.write_bytes(content)
    redone = redo(job, "r1")
    assert (redone.counts, redone.billed) == ((4, 0, 0), asked("r1"))
    assert changed(job, before) == {"r1"}


def test_a_redo_asks_no_row_without_an_answer(job):
    job.run(manifest={row: f"shoe {row}" for row in ("r1", "r2")})
    job.cells["r2"] = "another cell"
    redone = redo(job, "r1", "r2", "r3")
    assert (redone.exit_code, redone.counts, redone.billed) == (0, (1, 0, 3), asked("r1"))
    assert wrong(job) == []
    assert job.is_right()
    assert job.run({"manifest.max_changed": "100%"}).billed == asked("r3", "r4") + Counter([("r2", "another cell")])


# ---------------------------------------------------------------------------------- shared answers


@pytest.fixture
def twins(job: JobRuns) -> JobRuns:
    """r1 and r2 ask the same: same cell, same image, and no marker with their ids."""
    job.settings["prompt.user"] = "Describe {title}"
    job.rows("one shoe", "r1", "r2")
    job.write_manifest()
    shutil.copy(job.folder / "images" / "r1.png", job.folder / "images" / "r2.png")
    return job


def requests(result: RunResult) -> int:
    return result.billed.total()


def test_of_two_rows_that_share_an_answer_only_the_named_one_gets_another(twins):
    assert requests(twins.run()) == 3
    before = answers(twins)
    assert requests(redo(twins, "r2")) == 1
    assert changed(twins, before) == {"r2"}
    assert twins.is_right()


def test_two_named_rows_that_ask_the_same_are_asked_once(twins):
    twins.run()
    before = answers(twins)
    redone = redo(twins, "r1", "r2")
    assert (requests(redone), redone.counts) == (1, (4, 0, 0))
    assert redone.summary is not None and redone.summary.rows_redone == 2
    assert changed(twins, before) == {"r1", "r2"}
    assert len(set(answers(twins).values())) == 3
    assert twins.is_right()


def test_a_new_row_shares_the_newer_answer(twins):
    twins.run()
    redo(twins, "r1")
    twins.rows("one shoe", "r5")
    twins.write_manifest()
    shutil.copy(twins.folder / "images" / "r1.png", twins.folder / "images" / "r5.png")
    shared = twins.run()
    assert (requests(shared), shared.counts) == (0, (5, 0, 0))
    assert answers(twins)["r5"] == answers(twins)["r1"]


# ---------------------------------------------------------------------------------- redos that fail


def test_a_redo_that_fails_is_in_the_ledger_and_the_older_answer_stays(job, emulator):
    job.run()
    before = answers(job)
    with refusing(job):
        failed = redo(job, "r1", "r2")
    assert (failed.exit_code, failed.counts) == (3, (4, 0, 0))
    assert failed.summary is not None
    assert (failed.summary.rows_redone, failed.summary.rows_redo_failed) == (0, 2)
    assert Counter(line["error_kind"] for line in job.table("attempts"))["refused"] == 2
    assert changed(job, before) == set()
    assert job.show("failed") == {}
    assert wrong(job) == []
    assert job.is_right()
    again = job.run()
    assert (again.exit_code, again.counts, again.billed) == (0, (4, 0, 0), Counter())
    assert redo(job, "r1").exit_code == 0
    assert changed(job, before) == {"r1"}


class refusing:
    """The emulator refuses each request meanwhile, and bills it."""

    def __init__(self, job: JobRuns) -> None:
        self._emulator = job.emulator

    def __enter__(self) -> None:
        self._emulator.configure(fault_rates={"refusal": 1.0})

    def __exit__(self, *_: object) -> None:
        self._emulator.configure(fault_rates={})


def test_a_redo_whose_image_is_gone_changes_nothing(job):
    job.run()
    before = answers(job)
    (job.folder / "images" / "r1.png").unlink()
    failed = redo(job, "r1", "r2", manifest=job.folder / "photos.csv")
    assert (failed.exit_code, failed.counts, failed.billed) == (3, (4, 0, 0), asked("r2"))
    assert changed(job, before) == {"r2"}
    assert job.show("failed") == {}
    assert wrong(job) == []
    assert job.is_right()


def test_a_spend_cap_stops_a_redo_and_no_row_is_lost(job):
    job.run({"provider.parameters": {"max_tokens": 60}})
    before = answers(job)
    stopped = redo(
        job, *FOUR, settings={"limits.max_cost_usd_per_run": 0.000001, "provider.parameters": {"max_tokens": 60}}
    )
    assert (stopped.exit_code, stopped.counts, stopped.billed) == (4, (4, 0, 0), Counter())
    assert changed(job, before) == set()
    assert wrong(job) == []
    assert job.is_right()


# ---------------------------------------------------------------------------------- tickets


def test_the_next_run_collects_the_ticket_of_a_redo_as_a_redo(job, emulator):
    job.run()
    before = answers(job)
    emulator.configure(deferred_seconds=3_600.0)
    left = redo(job, "r1", settings=DEFERRED)
    assert (left.exit_code, left.counts, left.billed) == (4, (4, 0, 0), asked("r1"))
    again = redo(job, "r1", settings=DEFERRED)
    assert (again.exit_code, again.billed) == (4, Counter()), "a row with an open redo is not bought again"
    assert changed(job, before) == set()
    emulator.configure(deferred_seconds=0.0)
    make_ready(emulator)
    collected = job.run(DEFERRED)
    assert (collected.exit_code, collected.counts, collected.billed) == (0, (4, 0, 0), Counter())
    assert collected.summary is not None and collected.summary.rows_redone == 1
    assert changed(job, before) == {"r1"}
    assert wrong(job) == []
    assert job.is_right()


def test_a_touched_row_stays_done_while_the_ticket_of_its_redo_is_open(job, emulator):
    job.run()
    before = answers(job)
    for image in (job.folder / "images").iterdir():
        content = image.read_bytes()
        image.unlink()
        image.write_bytes(content)
    emulator.configure(deferred_seconds=3_600.0)
    assert redo(job, "r1", settings=DEFERRED).billed == asked("r1")
    assert job.run(DEFERRED).counts == (4, 0, 0)
    emulator.configure(deferred_seconds=0.0)
    make_ready(emulator)
    collected = job.run(DEFERRED)
    assert (collected.counts, collected.billed) == ((4, 0, 0), Counter())
    assert changed(job, before) == {"r1"}


def test_a_redo_whose_ticket_fails_is_not_bought_again_by_the_next_run(job, emulator):
    job.run()
    before = answers(job)
    emulator.configure(deferred_seconds=3_600.0)
    redo(job, "r1", settings=DEFERRED)
    job.ahead = timedelta(hours=25)
    emulator._inside(emulator._emulator._tickets._waiting.clear)
    ended = job.run(DEFERRED)
    assert (ended.exit_code, ended.billed, ended.counts) == (3, Counter(), (4, 0, 0))
    assert ended.summary is not None and ended.summary.rows_redo_failed == 1
    assert changed(job, before) == set()
    assert job.run().exit_code == 0
    assert wrong(job) == []
    assert job.is_right()


# ---------------------------------------------------------------------------------- shards


def test_a_shard_redoes_its_own_rows(job):
    job.run()
    before = answers(job)
    billed = Counter[tuple[str, str]]()
    for shard in range(2):
        redone = job.run(selection=Selection(redo=digests_of(FOUR[:3]), shard=shard, shards=2))
        assert redone.exit_code == 0
        billed += redone.billed
    assert billed == asked(*FOUR[:3])
    assert changed(job, before) == set(FOUR[:3])
    assert wrong(job) == []


# ---------------------------------------------------------------------------------- crashes

LANES = {"online": {}, "deferred": {"delivery.lane": "deferred", "delivery.max_ticket_wait_seconds": 60}}


class KilledRedos:
    """A redo of two rows that is killed before each operation of its disk in turn. A plain run follows each time."""

    def __init__(self, job: JobRuns, lane: str) -> None:
        self.seen = Counter[str]()  #: what the kills left, by the state of the redo
        self._job = job
        self._settings = LANES[lane]

    def sweep(self) -> None:
        """Raises AssertionError with the number of the operation."""
        job, at = self._job, 0
        while True:
            folder = job.folder.with_name(f"{job.folder.name}-{at}")
            shutil.copytree(job.folder, folder)
            copy = replace(job, folder=folder)
            disk, before, first_bill = KilledDisk(at), answers(copy), len(names_of_bill(copy))
            try:
                redo(copy, "r1", "r2", settings=self._settings, disk=disk)
            except BaseException:
                if not disk.is_killed:
                    raise
            self._check(copy, before, names_of_bill(copy)[first_bill:], f"killed before operation {at}")
            shutil.rmtree(copy.folder)
            if not disk.is_killed:
                return
            at += 1

    def _check(self, job: JobRuns, before: dict[str, str], bought: list[str], when: str) -> None:
        assert answers(job).keys() == before.keys(), f"{when}: the answer of a row is hidden"
        after = job.run(self._settings)
        assert after.summary is not None, f"{when}: {after.message}"
        assert after.billed == Counter(), f"{when}: the run after it has bought {after.billed}"
        assert after.counts == (4, 0, 0), f"{when}: {after.counts}"
        assert job.show("failed") == {}, f"{when}: a row with an answer is failed"
        lines = [line for line in job.table("attempts") if line["provider_request_id"] not in before.values()]
        paid = {line["provider_request_id"]: line["row_id"] for line in lines if line["state"] == "ok"}
        unclear = [line for line in lines if line["state"] in ("ambiguous", "lost_after_read")]
        unlisted = set(bought) - {line["provider_request_id"] for line in lines}
        assert len(unlisted) <= len(unclear), f"{when}: bought, and neither kept nor listed"
        now = answers(job)
        expected = before | {row: name for name, row in paid.items()}
        assert now == expected, f"{when}: {now} is shown, not {expected}"
        kept = Counter([*before, *paid.values()])
        assert stored(job) == kept, f"{when}: {stored(job)} answers are stored, not {kept}"
        assert job.is_right(), f"{when}: {wrong(job)}"
        refused = sum(line["error_kind"] == "refused" for line in lines)
        self.seen += Counter(redone=len(paid), refused=refused, unclear=len(unclear), unsent=not bought)


def names_of_bill(job: JobRuns) -> list[str]:
    return [entry.request_id for entry in job.emulator.bill().entries]


@pytest.fixture(autouse=True)
def polled_soon(monkeypatch):
    monkeypatch.setattr(Dialect, "first_poll_seconds", 0.01)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("lane", LANES)
def test_a_redo_that_is_killed_anywhere_loses_no_answer_and_buys_none_twice(job, emulator, lane):
    emulator.configure(deferred_seconds=0.0)
    job.run()
    killed = KilledRedos(job, lane)
    killed.sweep()
    assert min(killed.seen[name] for name in ("redone", "unclear", "unsent")) > 2, killed.seen


@pytest.mark.timeout(600)
def test_a_redo_that_fails_and_is_killed_anywhere_hides_no_answer(job):
    job.run()
    killed = KilledRedos(job, "online")
    with refusing(job):
        killed.sweep()
    assert min(killed.seen[name] for name in ("refused", "unclear", "unsent")) > 2, killed.seen


def is_caught(job: JobRuns, words: str, lane: str = "online") -> bool:
    with pytest.raises(AssertionError) as fault:
        KilledRedos(job, lane).sweep()
    return words in str(fault.value)


def test_a_paid_redo_without_a_result_row_is_caught(job, monkeypatch):
    """Sabotage: the journal marks a redo as a repeat."""
    marked = journal_records.closed

    def as_repeat(end: BookedEnd, *, is_held: bool = False, is_repeat: bool = False) -> Closed:
        return replace(marked(end, is_held=is_held), is_repeat=is_repeat)

    monkeypatch.setattr(stores, "closed", as_repeat)
    job.run()
    assert is_caught(job, "is shown, not")


def test_an_intent_that_forgets_its_purpose_is_caught(job, emulator, monkeypatch):
    """Sabotage: after a crash the ticket of a redo is that of a plain request."""
    emulator.configure(deferred_seconds=0.0)
    monkeypatch.setattr(record_json, "_intent_document", lambda intent: intent._asdict() | {"purpose": Purpose.RUN})
    job.run()
    assert is_caught(job, "is shown, not", "deferred")


def test_a_redo_that_a_segment_drops_is_caught(job, monkeypatch):
    """Sabotage: a request with an answer gets no second one in a segment."""
    publish = RunState._publish

    def once(state: RunState, completed: Completed, **how: bool) -> None:
        if not completed.intent.is_redo:
            publish(state, completed, **how)

    monkeypatch.setattr(RunState, "_publish", once)
    job.run()
    assert is_caught(job, "is shown, not")


def test_a_failed_redo_that_becomes_a_failed_row_is_caught(job, emulator, monkeypatch):
    """Sabotage: the row of a failed redo goes to ``failures``, and hides its older answer."""
    close = RunState._close

    def failing(state: RunState, record: Closed, exchange: Exchange) -> None:
        close(state, record, exchange)
        if record.failed is not None:
            state._fail(record.failed)

    monkeypatch.setattr(RunState, "_close", failing)
    job.run()
    with refusing(job):
        assert is_caught(job, "is hidden")


def test_a_redo_whose_result_is_written_twice_is_caught(job):
    """Sabotage: a part with a redo is copied. Two rows of one redo are no redo."""
    job.run()
    redo(job, "r1")
    assert wrong(job) == []
    part = max((job.output / "results").rglob("part-*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    shutil.copy(part, part.with_name(part.name.replace("part-", "part-0", 1)))
    assert any("1 answer in results/ more than once: r1" in text for text in wrong(job)), wrong(job)


def test_a_plain_run_that_answers_a_row_again_is_caught(job, monkeypatch):
    """Sabotage: each row looks new, and the run publishes a second answer that nobody asked for."""
    job.run()
    monkeypatch.setattr(RowIndex, "is_done", lambda index, row_id, key: False)
    monkeypatch.setattr(RowIndex, "not_done", lambda index, ids, keys: list(range(len(ids))))
    job.settings["limits.deduplicate"] = False
    job.run()
    monkeypatch.undo()
    assert any("4 answers in results/ more than once" in text for text in wrong(job)), wrong(job)


# ---------------------------------------------------------------------------------- naming and quoting rows


def test_rows_are_named_one_after_another_or_in_a_file(tmp_path):
    plain, table, review = tmp_path / "ids", tmp_path / "rows.csv", tmp_path / "review.csv"
    plain.write_text("r1\n\nr 2, and more\nr1\n", encoding="utf-8")
    table.write_text('\ufefftitle,row_id\nshoe,"r,1"\nbag,r2\n', encoding="utf-8")
    review.write_bytes(
        b'row_id,answer,verdict,given\r\n"r1","shoe","right","shoe"\r\n"r2","","wrong","shoe\nor bag"\r\n'
    )
    assert named_rows("r1, r2,r1") == ("r1", "r2")
    assert named_rows(str(plain)) == ("r1", "r 2, and more")
    assert named_rows(str(table)) == ("r,1", "r2")
    assert named_rows(str(review)) == ("r2",)


@pytest.mark.parametrize("text", ["", " , ", "missing.csv"])
def test_a_name_of_no_row_is_refused(text):
    with pytest.raises(JobInvalid, match="--redo"):
        named_rows(text)


def test_a_review_without_a_wrong_row_is_refused(tmp_path):
    path = tmp_path / "review.csv"
    path.write_text("row_id,answer,verdict,given\nr1,shoe,right,shoe\n", encoding="utf-8")
    with pytest.raises(JobInvalid, match="names no row that is marked wrong"):
        named_rows(str(path))


def test_the_quote_counts_answered_rows_and_their_requests(job):
    job.run(manifest={row: job.cells[row] for row in ("r1", "r2")})
    job.write_manifest()
    quoted = anyio.run(quote_redo, job.job(), ("r1", "r2", "r3"), Selection())
    assert (quoted.named, quoted.rows, quoted.requests) == (3, 2, 2)
    assert quoted.ticks is not None and quoted.ticks > 0
    assert "1 named row without an answer left to a run without --redo" in str(quoted)
    with pytest.raises(JobInvalid, match="none of the 1 named row has an answer"):
        anyio.run(quote_redo, job.job(), ("r3",), Selection())


def test_an_unknown_row_is_refused_before_anything_is_sent(job):
    job.run()
    with pytest.raises(JobInvalid, match=r"--redo names 2 rows that .*photos.csv does not have: r9, x"):
        anyio.run(quote_redo, job.job(), ("r1", "r9", "x"), Selection())


def test_the_command_says_the_cost_off_a_terminal_and_goes_on(job):
    job.run()
    before, bill = answers(job), len(job.emulator.bill().entries)
    review = job.folder / "review.csv"
    review.write_text("row_id,answer,verdict,given\nr1,,wrong,x\nr2,x,right,x\n", encoding="utf-8")
    done = job.command("run", job.job_file(), "--redo", "review.csv", "--json")
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stderr.splitlines()]
    assert said[0]["event"] == "redo"
    assert said[0]["message"].startswith("1 answered row asked again: 1 request for about $")
    assert json.loads(done.stdout)["rows_redone"] == 1
    assert changed(job, before) == {"r1"}
    assert len(job.emulator.bill().entries) == bill + 1
    unknown = job.command("run", job.job_file(), "--redo", "r9")
    assert unknown.returncode == 2
    assert "photos.csv does not have: r9" in unknown.stderr
    both = job.command("run", job.job_file(), "--redo", "r1", "--limit", "1")
    assert (both.returncode, "leave --limit out" in both.stderr) == (2, True)
    assert len(job.emulator.bill().entries) == bill + 1


def at_a_terminal(job: JobRuns, answer: str, *arguments: str) -> tuple[int, str]:
    """Run the command at a terminal of its own. Returns its exit code, and the text of stdin and stderr."""
    master, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "batchvision", "run", job.job_file(), "--redo", "r1,r2", *arguments],
        cwd=job.folder,
        env={**os.environ, "XAI_API_KEY": job.key, "BATCHVISION_CACHE_DIR": str(job.folder / "cache")},
        stdin=terminal,
        stdout=subprocess.DEVNULL,
        stderr=terminal,
    ) as process:
        os.close(terminal)
        os.write(master, answer.encode())
        shown = b""
        with suppress(OSError):  # the terminal ends with the process
            while content := os.read(master, 65_536):
                shown += content
        os.close(master)
    return process.returncode, shown.decode()


def test_on_a_terminal_the_command_asks_once_and_sends_nothing_without_consent(job):
    job.run()
    before = answers(job)
    code, shown = at_a_terminal(job, "n\n")
    assert (code, changed(job, before)) == (0, set())
    assert "2 answered rows asked again: 2 requests for about $" in shown
    assert "Nothing was sent." in shown
    code, shown = at_a_terminal(job, "y\n")
    assert "2 of 2 rows were asked again and have a new answer" in shown
    assert (code, changed(job, before), shown.count("Go on?")) == (0, {"r1", "r2"}, 1)
    before = answers(job)
    code, shown = at_a_terminal(job, "", "--yes")
    assert (code, changed(job, before), "Go on?" in shown) == (0, {"r1", "r2"}, False)
