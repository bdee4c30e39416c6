"""Make ``fixtures/``: the golden vectors and the stored outputs that later versions are held against.

Both were made by commit 5ce5b9b (version 0.1.0, the end of the first edition), in its own checkout:
``python tests/make_fixtures.py`` there. Making them anew with other code would defeat their purpose, so this script
refuses to overwrite what is there. A later version adds fixtures of its own under other names.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from golden_jobs import ENVIRON, JOBS, SWEEP, keys_of, lay_out, table_rows
from stored_outputs import FIXTURES, OUTPUTS, StoredOutput, rows_asked, ticket_desk

from batchvision import Job, run
from batchvision.checkpoint import Store, compact
from batchvision.checkpoint.journal import segment_paths
from batchvision.checkpoint.log_file import read_log
from batchvision.commands.pilot import pilot, settings
from batchvision.commands.reparse import reparse
from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread
from batchvision.job.recipe import recipe_document
from batchvision.records import EndedWithout, Exchange, Intent, Lane, Purpose, RawAnswer
from batchvision.runner.dependencies import RunDependencies
from batchvision.runner.feed import Selection, survey
from batchvision.runner.opening import open_store
from batchvision.runner.setup import RunSetup
from batchvision.runner.wiring import classifier_of

MADE_BY = "5ce5b9b"
ROWS = 12
#: Answered after ``SLOW_SECONDS``: the run is killed before. Where the output is opened again, answered at once.
SLOW = {3: "slow_start", 7: "slow_start"}
SLOW_SECONDS = 60.0
SETTINGS: dict[str, Any] = {
    "name": "stored",
    "manifest": {"path": "photos.csv", "id": "sku", "images": ["front", "back"], "keep": ["title"]},
    "prompt": {"user": "The front {image:front} of {title}, its back {image:back}. {hint}"},
    "provider": {"name": "xai", "model": "grok-4.3", "parameters": {"max_tokens": 500}},
    "answer": {"labels": ["red", "green", "blue"], "labels_fallback": "other"},
    "limits": {"concurrency": 4},
    "output": {"path": "out"},
}
FAULTS = {1: "refusal", 4: "invalid_answer", 5: "rejected", 6: "server_error:1", 8: "reset_before:1", 9: "length"}


@dataclass
class Making:
    """One output while it is made."""

    folder: Path
    emulator: RunningEmulator
    settings: dict[str, Any]

    def manifest(self, rows: int = ROWS, faults: Mapping[int, str] | None = None, more: str = "") -> None:
        lines = ["sku,front,back,title,hint"]
        for n in range(rows):
            fault = f" [[fault:{(faults or {})[n]}]]" if n in (faults or {}) else ""
            back = "" if n % 3 else "green.png"
            front = "red.png" if n % 2 else f"https://images.example/{n}.jpg"
            lines.append(f"r{n:02},{front},{back},thing {n}{more},[[echo:r{n:02}]]{fault}")
        (self.folder / "photos.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def set(self, section: str, **values: Any) -> None:
        self.settings = {**self.settings, section: {**self.settings.get(section, {}), **values}}

    def job(self, overrides: Mapping[str, object] | None = None) -> Job:
        base_url = self.emulator.base_url("xai")
        return Job.from_mapping(
            self.settings, self.folder, overrides={"provider.base_url": base_url, **(overrides or {})}
        )

    def run(self, selection: Selection | None = None, **overrides: object) -> Any:
        dotted = {name.replace("__", "."): value for name, value in overrides.items()}
        return run(self.job(dotted), selection=selection, environ=ENVIRON)

    def kill(self, is_time: Callable[[], bool], *flags: str) -> None:
        """A run in a process of its own, ended by SIGKILL when it is time."""
        (self.folder / "job.json").write_text(json.dumps(self.settings))
        self.emulator.configure(slow_seconds=SLOW_SECONDS)
        command = [sys.executable, __file__, "child", str(self.folder), self.emulator.base_url("xai"), *flags]
        process = subprocess.Popen(command, env={**os.environ, **ENVIRON})
        until = time.monotonic() + 60
        while not is_time():
            if process.poll() is not None or time.monotonic() > until:
                process.kill()
                raise AssertionError("the run ended, or never came so far")
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.emulator.configure(slow_seconds=0.0)

    def journalled(self, word: str, shard: str = "0of1") -> int:
        """How many records of a kind the newest segment has."""
        paths = sorted((self.folder / "out" / ".batchvision" / shard).glob("journal-*.log"))
        return paths[-1].read_text(errors="replace").count(f'"kind":"{word}"') if paths else 0


# ---------------------------------------------------------------------------------- the outputs


def several_runs(making: Making) -> None:
    """Three runs: a few rows, all with failures of every kind, a longer manifest with one more kept column."""
    making.manifest(faults=FAULTS)
    making.set("limits", quarantine_after_runs=2)
    making.run(Selection(limit=5))
    making.run()
    making.manifest(ROWS + 6, faults=FAULTS)
    making.set("manifest", keep=["title", "front"])
    making.run()


def two_recipes(making: Making) -> None:
    """All rows under one recipe, then half of the manifest under the next."""
    making.manifest()
    making.run()
    making.set("prompt", user="And now {image:front} of {title}, then {image:back}. {hint}")
    making.run(Selection(limit=6), output__on_recipe_change="redo")
    making.set("output", on_recipe_change="redo")


def compacted(making: Making) -> None:
    """Several runs whose parts were merged."""
    several_runs(making)
    compact(making.folder / "out")


def compacted_without_superseded(making: Making) -> None:
    """Two recipes, of which only current answers were kept."""
    two_recipes(making)
    making.run()
    making.manifest(ROWS + 2)
    making.run()
    compact(making.folder / "out", drop_superseded=True)


def reparsed(making: Making) -> None:
    """Answers read again under more labels."""
    making.manifest()
    making.run()
    making.set("answer", labels=["red", "green", "blue", "violet"])
    anyio.run(reparse, making.job())


def killed(making: Making) -> None:
    """Ten answers in the journal, two requests in flight."""
    making.manifest(faults={**SLOW, 6: "server_error:1", 8: "reset_before:1", 9: "refusal"})
    making.kill(lambda: making.journalled("answer") == 11 and making.journalled("intent") == 14)


def held(making: Making) -> None:
    """What was in flight at the kill is on hold."""
    making.set("limits", ambiguous="hold")
    making.manifest(faults=SLOW)
    making.kill(lambda: making.journalled("answer") == 10 and making.journalled("intent") == 12)
    making.run()


def two_segments(making: Making) -> None:
    """A second run was killed as it took the place of the first one's segment: both are there."""
    making.manifest(5)
    making.run()
    folder = making.folder / "out" / ".batchvision" / "0of1"
    old = [(path, path.read_bytes()) for path in folder.glob("journal-*.log")]
    making.manifest(faults={7: "slow_start"})
    making.kill(lambda: making.journalled("answer") == 6 and making.journalled("intent") == 7)
    for path, content in old:
        path.write_bytes(content)
    assert len(segment_paths(folder)) == 2


def torn_tail(making: Making) -> None:
    """The last record of a killed run was written by half."""
    killed(making)
    (path,) = (making.folder / "out" / ".batchvision" / "0of1").glob("journal-*.log")
    path.write_bytes(path.read_bytes() + b'0badc0de {"kind":"answer","exch')


def tickets(making: Making) -> None:
    """A deferred run that left, all of its tickets open but for rows that were done before."""
    making.manifest(4)
    making.run()
    making.set("delivery", lane="deferred", max_ticket_wait_seconds=1)
    making.emulator.configure(deferred_seconds=8.0)
    making.manifest()
    making.run()
    _collect(making)


def tickets_killed(making: Making) -> None:
    """A deferred run that was killed after its tickets were durable."""
    making.set("delivery", lane="deferred")
    making.emulator.configure(deferred_seconds=8.0)
    making.manifest()
    making.kill(lambda: making.journalled("ticket") == ROWS)
    _collect(making)


def _collect(making: Making) -> None:
    """Keep what the provider answers for the tickets, which a copy of the output collects."""
    with tempfile.TemporaryDirectory() as there:
        copy = Path(there) / "copy"
        shutil.copytree(making.folder, copy)
        time.sleep(8)
        collecting = Making(copy, making.emulator, making.settings)
        collecting.set("delivery", max_ticket_wait_seconds=600)
        assert collecting.run().exit_code == 0
        rows = table_rows(copy / "out", "attempts")
    bodies = {row["ticket"]: row["raw_answer"] for row in rows if row["ticket"] and row["raw_answer"]}
    (making.folder / "tickets.json").write_text(json.dumps(bodies))
    making.emulator.configure(deferred_seconds=0.2)


def sweeps(making: Making) -> None:
    """A pilot, and the same rows under other settings."""
    making.manifest()
    remake = lambda more: making.job(more)  # noqa: E731  a callback of one line
    anyio.run(
        partial(pilot, making.job(), 4, remake=remake, sweep=settings(["detail=low,high"]), environ=ENVIRON),
    )


def killed_sweep(making: Making) -> None:
    """A pilot was killed while it asked for its second setting; one request was in flight."""
    making.manifest()
    making.kill(lambda: making.journalled("answer") >= 2 and _is_sweep(making), "pilot")


def _is_sweep(making: Making) -> bool:
    paths = sorted((making.folder / "out" / ".batchvision" / "0of1").glob("journal-*.log"))
    return bool(paths) and "-sweep" in paths[-1].read_text(errors="replace")


def shards(making: Making) -> None:
    """One shard has ended, the other was killed and is to be continued."""
    making.manifest(2 * ROWS)
    first = making.run(Selection(shard=0, shards=2))
    rest = 2 * ROWS - first.rows_completed
    ids = Selection(shard=1, shards=2).own(f"r{n:02}" for n in range(2 * ROWS))
    making.manifest(2 * ROWS, faults={ids[0]: "slow_start"})
    making.kill(lambda: making.journalled("answer", "1of2") == rest - 1, "1/2")
    (making.folder / "shard").write_text("1/2")


def every_record(making: Making) -> None:
    """A journal with each kind of record, of a run and of a sweep, written record by record."""
    making.manifest(faults=dict.fromkeys(range(ROWS), "slow_start"))
    making.set("limits", concurrency=ROWS)
    making.kill(lambda: making.journalled("intent") == ROWS)
    folder = making.folder / "out" / ".batchvision" / "0of1"
    intents = {each.row_id: each for each in read_log(segment_paths(folder)[-1]).records if isinstance(each, Intent)}
    making.set("limits", concurrency=4)
    with tempfile.TemporaryDirectory() as there:
        copy = Path(there) / "copy"
        shutil.copytree(making.folder, copy)
        shutil.rmtree(copy / "out")
        making.emulator.reset()
        Making(copy, making.emulator, making.settings).run()
        bodies = {row["row_id"]: row["raw_answer"] for row in table_rows(copy / "out", "attempts")}
    shutil.rmtree(folder)
    anyio.run(_write_records, making, intents, bodies)
    (making.folder / "tickets.json").write_text(json.dumps({"ticket-2": bodies["r02"]}))


async def _write_records(making: Making, intents: Mapping[str, Intent], bodies: Mapping[str, str]) -> None:
    job = making.job()
    setup = RunSetup(job, Selection(), ENVIRON, RunDependencies(), Purpose.RUN)
    keep = survey(job).typed_keep
    classifier = classifier_of(job, setup.prices, lambda recipe_id: job.recipe)
    at = datetime.now(UTC)

    def raw(row: str, status: int = 200, body: bytes | None = None) -> RawAnswer:
        content = {"content-type": "application/json"}
        return RawAnswer(status, content, body if body is not None else bodies[row].encode(), at)

    def intent(row: str, exchange: str, **changes: Any) -> Intent:
        return intents[row]._replace(exchange_id=exchange, run_id=setup.run_id, sent_at=at, **changes)

    with Store.lock(job.output_path) as lock, open_store(setup, lock, keep) as store:  # a first run leaves a held row
        store.recover(classifier.classify, hold=True)
        store.row_index(job.recipe.recipe_id)
        await store.intent(held := intent("r00", "x0"))
        store.book("x0", classifier.classify(Exchange(held)), hold=True)
        await store.close(complete=False)
    setup.run_id = setup.run_id[:-6] + "ffffff"
    with Store.lock(job.output_path) as lock, open_store(setup, lock, keep) as store:
        store.recover(classifier.classify, hold=True)
        store.row_index(job.recipe.recipe_id)
        await store.intent(intent("r01", "x1"))
        await store.answer("x1", raw("r01"))
        await store.intent(intent("r02", "x2", lane=Lane.DEFERRED))
        await store.ticket("x2", "ticket-2", at)
        await store.intent(intent("r03", "x3", lane=Lane.DEFERRED))
        await store.ticket("x3", "ticket-3", at)
        await store.answer("x3", raw("r03"))
        await store.intent(intent("r04", "x4"))
        store.void("x4")
        await store.intent(cut := intent("r05", "x5"))
        ended = EndedWithout("connect_failed", "the connection was refused", at)
        store.book("x5", classifier.classify(Exchange(cut, ended=ended)))
        await store.intent(intent("r06", "x6"))
        await store.answer("x6", raw("r06", 500, b'{"error":{"message":"Internal error","type":"internal"}}'))
        await store.intent(intent("r07", "x7"))
        await store.answer("x7", raw("r07", 502, b"\xff\xfe no text \x00"))
        await store.intent(intent("r08", "x8")._replace(run_id=f"{setup.run_id}-sweep"))
        await store.answer("x8", raw("r08"))
        await store.intent(intent("r09", "x9")._replace(run_id=f"{setup.run_id}-sweep"))
        await store.intent(intent("r10", "x10"))
        store.write_recipe(job.recipe.recipe_id, recipe_document(job.recipe))
        await store.flush()


MADE: Mapping[str, Callable[[Making], None]] = {
    "several-runs": several_runs,
    "two-recipes": two_recipes,
    "compacted": compacted,
    "compacted-without-superseded": compacted_without_superseded,
    "reparsed": reparsed,
    "killed": killed,
    "held": held,
    "two-segments": two_segments,
    "torn-tail": torn_tail,
    "tickets": tickets,
    "tickets-killed": tickets_killed,
    "sweeps": sweeps,
    "killed-sweep": killed_sweep,
    "shards": shards,
    "every-record": every_record,
}


# ---------------------------------------------------------------------------------- archives


def store(name: str, emulator: RunningEmulator) -> None:
    """Make one output, look at it with the code that made it, and pack it."""
    with tempfile.TemporaryDirectory() as there:
        folder = Path(there) / name
        folder.mkdir()
        lay_out(folder)
        emulator.reset()
        making = Making(folder, emulator, dict(SETTINGS))
        MADE[name](making)
        (folder / "job.json").write_text(json.dumps(making.settings, indent=1))
        (folder / "made_at").write_text(datetime.now(UTC).isoformat())
        (folder / "made_by").write_text(MADE_BY + "\n")
        (folder / "expected.json").write_text(json.dumps(expected(folder, emulator), indent=1))
        _forget_this_machine(folder)
        with tarfile.open(OUTPUTS / f"{name}.tar.xz", "w:xz", preset=9) as archive:
            archive.add(folder, arcname=".", filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _forget_this_machine(folder: Path) -> None:
    """Summaries name the manifest and the output by their paths: those of a user who ran it elsewhere."""
    for path in folder.rglob("*.json"):
        text = path.read_text()
        if str(folder) in text:
            path.write_text(text.replace(str(folder), "/home/user/photos"))


def expected(folder: Path, emulator: RunningEmulator) -> dict[str, Any]:
    """How it is seen, and what one more run asks, on a copy."""
    stored = StoredOutput(folder)
    seen = {
        "standing": stored.row_index(),
        "findings": stored.findings(),
        "status": stored.status(),
        "shown": stored.shown(),
        "answers": stored.answers(),
    }
    with tempfile.TemporaryDirectory() as there:
        copy = StoredOutput(Path(shutil.copytree(folder, Path(there) / "copy")))
        emulator.reset()
        with ticket_desk(copy.ticket_bodies, emulator) as base_url:
            summary = copy.resume(base_url)
        ended = {
            name: getattr(summary, name) for name in ("exit_code", "rows_completed", "rows_failed", "rows_pending")
        }
        seen["resumed"] = {"asked": rows_asked(emulator), **ended}
        seen["answers after"] = [row[:2] for row in copy.answers()]
    return seen


def vectors(emulator: RunningEmulator) -> None:
    """The golden vectors of all jobs."""
    found = {}
    for name in (*JOBS, SWEEP):
        with tempfile.TemporaryDirectory() as folder:
            found[name] = keys_of(name, Path(folder), emulator.url)
    text = json.dumps({"made_by": MADE_BY, "keys": found}, ensure_ascii=False, indent=1)
    (FIXTURES / "identity.json").write_text(text + "\n", encoding="utf-8")


def child(folder: str, base_url: str, *flags: str) -> None:
    """The run that is killed."""
    document = json.loads((Path(folder) / "job.json").read_text())

    def remake(more: Mapping[str, object]) -> Job:
        return Job.from_mapping(document, Path(folder), overrides={"provider.base_url": base_url, **more})

    if flags == ("pilot",):
        sweep = settings(["detail=low,high"])
        anyio.run(partial(pilot, remake({}), 4, remake=remake, sweep=sweep, environ=ENVIRON))
        return
    shard, shards_ = map(int, flags[0].split("/")) if flags else (0, 1)
    run(remake({}), selection=Selection(shard=shard, shards=shards_), environ=ENVIRON)


def main(wanted: list[str]) -> None:
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    os.environ["BATCHVISION_CACHE_DIR"] = tempfile.mkdtemp()
    with start_in_thread(EmulatorOptions()) as emulator:
        if not (FIXTURES / "identity.json").exists():
            vectors(emulator)
        for name in wanted or MADE:
            if not (OUTPUTS / f"{name}.tar.xz").exists():
                store(name, emulator)


if __name__ == "__main__":
    child(*sys.argv[2:]) if sys.argv[1:2] == ["child"] else main(sys.argv[1:])
