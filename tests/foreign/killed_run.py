"""Run 40 rows on a foreign server, kill the run with SIGKILL, rerun it, and check the output."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from foreign.kinds import Started
from foreign.relay import Relay

ROWS = 40
IN_FLIGHT = 4
ANSWERS_BEFORE_THE_KILL = 8
COMMAND_SECONDS = 300

ANSWERS: Mapping[str, str] = {
    "text": "",
    "stream": "",
    "labels": '[answer]\nlabels = ["red", "green", "blue", "other"]\nlabels_fallback = "other"\n',
    "schema": '[answer]\nschema = "answer.schema.json"\n',
}
SCHEMA = {
    "name": "answer",
    "strict": True,
    "schema": {
        "type": "object",
        "properties": {"colour": {"type": "string"}, "sure": {"type": "boolean", "nullable": True}},
        "required": ["colour"],
    },
}
#: The allowed failures: a random model answers nonsense, answers nothing, or does not end.
KINDS_OF_FAILURE = {"truncated", "empty", "invalid_answer"}


class NotSo(AssertionError):
    """A check has failed."""


def must(holds: object, says: str) -> None:
    if not holds:
        raise NotSo(says)


@dataclass(slots=True)
class ServerJob:
    """A job in ``folder`` that sends its requests to ``relay``."""

    folder: Path
    relay: Relay
    server: Started
    mode: str
    texts: list[str] = field(default_factory=list)  #: stderr of every command

    def prepare(self) -> None:
        self.folder.mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (32 + number, 24), (60 * number, 90, 120)).save(self.folder / f"{number}.png")
        with (self.folder / "rows.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "image"])
            writer.writerows([f"r{number}", f"{number % 4}.png"] for number in range(ROWS))
        (self.folder / "answer.schema.json").write_text(json.dumps(SCHEMA))
        (self.folder / "job.toml").write_text(self._job())

    def _job(self) -> str:
        return (
            f'name = "{self.mode}"\n'
            '[manifest]\npath = "rows.csv"\nid = "id"\n'
            '[prompt]\nuser = "What colour is it? [{id}]"\n'
            f"{ANSWERS[self.mode]}"
            f'[provider]\nname = "openai"\nmodel = {json.dumps(self.server.model)}\nbase_url = "{self.relay.url}/v1"\n'
            f"[provider.parameters]\nmax_tokens = {self.server.max_tokens}\ntemperature = 1.0\n"
            f"[delivery]\nstream = {str(self.mode == 'stream').lower()}\n"
            f"[limits]\nconcurrency = {IN_FLIGHT}\n"
            'max_failed = "100%"\nrequest_timeout_seconds = 60\nmax_runtime_seconds = 240\n'
            '[output]\npath = "out"\n'
        )

    # ------------------------------------------------------------------------------ commands

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "batchvision", *arguments]

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BATCHVISION_")}
        kept = {name: value for name, value in kept.items() if not name.lower().endswith("_proxy")}
        return {**kept, "OPENAI_API_KEY": self.server.key, "BATCHVISION_CACHE_DIR": str(self.folder / "cache")}

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        self.texts.append(done.stderr)
        return done

    def killed_run(self) -> None:
        """A run that is killed after some answers, before all."""
        with (self.folder / "killed.log").open("w") as log:
            run = subprocess.Popen(
                self.command("run", "job.toml", "--json"),
                cwd=self.folder,
                env=self.environment(),
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + COMMAND_SECONDS
        while run.poll() is None and self.relay.delivered < ANSWERS_BEFORE_THE_KILL and time.monotonic() < until:
            time.sleep(0.01)
        is_alive = run.poll() is None
        run.kill()
        run.wait()
        said = (self.folder / "killed.log").read_text(encoding="utf-8", errors="replace")
        self.texts.append(said)
        must(is_alive, f"the run ended before it could be killed: {said[-500:]}")
        must(self.relay.delivered < ROWS, "all rows were answered before the kill")

    def summary_of(self, done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
        must(done.returncode in (0, 3), f"exit {done.returncode}: {done.stderr[-800:]}")
        summary: dict[str, Any] = json.loads(done.stdout)
        must(summary["exit_code"] == done.returncode, "the summary tells another exit code")
        return summary

    def table(self, name: str) -> list[dict[str, Any]]:
        paths = sorted((self.folder / "out" / name).rglob("part-*.parquet"))
        return [row for path in paths for row in pq.ParquetFile(path).read().to_pylist()]

    def bytes_of_tables(self) -> dict[str, bytes]:
        found = sorted((self.folder / "out").rglob("part-*.parquet"))
        return {str(path): path.read_bytes() for path in found}


def kill_and_rerun(job: ServerJob) -> str:
    """Run, kill, rerun and check. Returns one line for the report; raises NotSo."""
    job.prepare()
    job.killed_run()
    rerun = job.summary_of(job.call("run", "job.toml", "--json"))
    results, failures, ledger = job.table("results"), job.table("failures"), job.table("attempts")

    every_row_ends(job, rerun, results, failures)
    answers_are_what_was_asked_for(job, results)
    nothing_is_bought_twice(job, ledger)
    costs_are_those_of_the_answers(rerun, ledger)

    before = job.bytes_of_tables()
    again = job.call("run", "job.toml", "--json", "--set", "limits.retry_failed=none")
    must(job.summary_of(again)["requests_sent"] == 0, "a run with nothing to do has sent something")
    must(job.bytes_of_tables() == before, "a run with nothing to do has changed a table")
    verified = job.call("verify", "out")
    must(verified.returncode == 0, f"verify: {verified.stdout[-500:]} {verified.stderr[-500:]}")
    for text in job.texts:
        must("Traceback" not in text and "fault in batchvision" not in text, f"a crash of ours: {text[-1500:]}")
    return _line(job, rerun, ledger)


def every_row_ends(
    job: ServerJob, summary: Mapping[str, Any], results: list[dict[str, Any]], failures: list[dict[str, Any]]
) -> None:
    done, failed = [row["row_id"] for row in results], [row["row_id"] for row in failures]
    must(sorted([*done, *failed]) == sorted(f"r{number}" for number in range(ROWS)), "a row is missing, or there twice")
    counted = (summary["rows_completed"], summary["rows_failed"], summary["rows_pending"], summary["rows_total"])
    must(counted == (len(done), len(failed), 0, ROWS), f"the summary counts {counted}")
    kinds = {row["error_kind"] for row in failures}
    must(kinds <= KINDS_OF_FAILURE, f"rows failed as {kinds - KINDS_OF_FAILURE}: {failures[:2]}")
    must(summary["exit_code"] == (3 if failed else 0), f"exit {summary['exit_code']} with {len(failed)} failed rows")


def answers_are_what_was_asked_for(job: ServerJob, results: list[dict[str, Any]]) -> None:
    for row in results:
        must(row["finish_reason"] not in (None, "length"), f"{row['row_id']} is no whole answer, and completed")
        if job.mode == "labels":
            must(row["answer_label"] in ("red", "green", "blue", "other"), f"label {row['answer_label']!r}")
        elif job.mode == "schema":
            must(isinstance(row["answer_colour"], str), f"colour {row['answer_colour']!r}")
        else:
            must(row["output_text"].strip() and row["output_json"] is None, f"text {row['output_text']!r}")


def nothing_is_bought_twice(job: ServerJob, ledger: list[dict[str, Any]]) -> None:
    """A row is bought twice only after an empty answer, or if it was in flight at the kill and is listed."""
    unsure = {row["row_id"] for row in ledger if row["state"] == "ambiguous"}
    silent = {row["row_id"] for row in ledger if row["error_kind"] == "empty"}
    must(len(unsure) <= IN_FLIGHT, f"{len(unsure)} rows are ambiguous, and {IN_FLIGHT} were in flight")
    for row_id, times in job.relay.bought().items():
        most = 1 + (row_id in unsure) + (row_id in silent)
        mine = [
            (row["attempt"], row["state"], row["error_kind"], row["run_id"])
            for row in ledger
            if row["row_id"] == row_id
        ]
        must(times <= most, f"{row_id} was bought {times} times, {most} at most is right: {sorted(mine)}")
    whole = [row for row in ledger if row["http_status"] == 200 and row["state"] != "ambiguous"]
    booked = Counter(row["row_id"] for row in whole)
    bought = job.relay.bought()
    must(set(booked) == {f"r{number}" for number in range(ROWS)}, "a row has no answer in the ledger")
    must(all(booked[row] <= bought[row] for row in booked), "the ledger has answers that were never made")
    missing = sum(bought.values()) - sum(booked.values())
    must(
        missing <= len(unsure), f"{missing} answers were made and are not in the ledger, {len(unsure)} rows are listed"
    )


def costs_are_those_of_the_answers(summary: Mapping[str, Any], ledger: list[dict[str, Any]]) -> None:
    """A cost is in the ledger only if the server reported it, because the job has no prices."""
    for row in ledger:
        if row["cost_ticks"] is not None:
            must(row["cost_source"] == "reported", f"a cost of {row['cost_ticks']} ticks from {row['cost_source']}")


def _line(job: ServerJob, summary: Mapping[str, Any], ledger: list[dict[str, Any]]) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in summary["failures_by_kind"].items()) or "none failed"
    unsure = sum(row["state"] == "ambiguous" for row in ledger)
    told = sum(row["cost_source"] == "reported" for row in ledger)
    bought, refused, broken = sum(job.relay.bought().values()), job.relay.refused(), job.relay.broken()
    return (
        f"{summary['rows_completed']} completed, {kinds}; {bought} answers bought for {ROWS} rows, {unsure} in flight "
        f"at the kill, {refused} requests refused, {broken} answers broken off, {told} costs reported"
    )
