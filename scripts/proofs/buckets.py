"""Lost machines: kill runs whose output is in an object store, and go on from the store alone.

``scripts/buckets --kills 50`` kills at random times and at random writes to the store, in both lanes. After
each kill the state folder is removed. The store must hold each answer that was acknowledged more than ``sync_seconds``
before, and each ticket that was polled. At the end each row has one answer.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from job_runs import JobRuns
from s3_server import BUCKET, S3Server, s3_server

from batchvision.checkpoint import read_shard
from batchvision.checkpoint.local_copy import LocalCopy, StoreListing
from batchvision.checkpoint.objects import ObjectFolder
from batchvision.checkpoint.view import OutputView
from batchvision.commands.verify import Mark, verify
from batchvision.emulator import start_in_thread
from batchvision.errors import CheckpointDamaged
from proofs.bucket_victim import Life

SYNC_SECONDS = 1.0
ROOT = Path(__file__).parents[2]


@dataclass
class Tally:
    kills: int = 0
    acknowledged: int = 0  #: answers before the kills
    lost: int = 0  #: acknowledged answers that the store did not have
    oldest_lost_seconds: float = 0.0  #: before its kill
    lost_tickets: int = 0  #: acknowledged, never polled, and not in the store
    in_flight: int = 0  #: requests without an acknowledgement at the kills, and polled tickets without one
    polled: int = 0
    generated: int = 0
    bought_again: int = 0
    faults: list[str] = field(default_factory=list)

    def plus(self, other: Tally) -> None:
        self.kills += other.kills
        self.acknowledged += other.acknowledged
        self.lost += other.lost
        self.oldest_lost_seconds = max(self.oldest_lost_seconds, other.oldest_lost_seconds)
        self.lost_tickets += other.lost_tickets
        self.in_flight += other.in_flight
        self.polled += other.polled
        self.generated += other.generated
        self.bought_again += other.bought_again
        self.faults += other.faults


class Bucket:
    """One job whose output is in the store. Each life of it is a machine of its own."""

    def __init__(self, folder: Path, server: S3Server, runs: JobRuns, sync_seconds: float = SYNC_SECONDS) -> None:
        self.url = f"s3://{BUCKET}/{folder.name}/captions"
        self.tally = Tally()
        self._folder = folder
        self._runs = runs
        self._lives = 0
        self._sync_seconds = sync_seconds
        self._environ: Mapping[str, str] = {
            **os.environ,
            **server.environ,
            "XAI_API_KEY": runs.key,
            "BATCHVISION_CACHE_DIR": str(folder / "cache"),
            "PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in (".", "scripts", "tests")),
        }
        runs.settings["output.path"] = self.url
        runs.settings["output.sync_seconds"] = sync_seconds
        runs.write_manifest()
        self._job = runs.job_file()

    def state(self) -> Path:
        return self._folder / f"machine-{self._lives}"

    def told(self) -> Path:
        return self._folder / f"told-{self._lives}"

    def start(self, *flags: str, is_new_machine: bool = True, **life: object) -> subprocess.Popen[bytes]:
        self._lives += is_new_machine
        argument = Life(told=str(self.told()), **life).argument()  # type: ignore[arg-type]  # its fields
        return subprocess.Popen(
            [sys.executable, "-m", "proofs.bucket_victim", argument, "run", str(self._job), *flags],
            cwd=self._folder,
            env={**self._environ, "BATCHVISION_STATE_DIR": str(self.state())},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    @property
    def requests(self) -> int:
        return self._runs.emulator.bill().requests

    def wait_for(self, kind: str, running: subprocess.Popen[bytes]) -> None:
        """Return when this life has noted a record of the kind, or has ended."""
        until = time.monotonic() + 120
        while running.poll() is None and time.monotonic() < until:
            if self.told().exists() and f" {kind} " in self.told().read_text():
                return
            time.sleep(0.02)

    def kill(self, luck: random.Random, **life: object) -> None:
        """Lose a machine at the planned operation, or at a random time, and look at the store."""
        running = self.start(**life)
        if "die" not in life:
            self.wait_for("post", running)
            time.sleep(luck.uniform(0, 3 * self._sync_seconds))
            running.kill()
        _, errors = running.communicate(timeout=240)
        killed_at = time.monotonic()
        shutil.rmtree(self.state(), ignore_errors=True)
        if running.returncode == -signal.SIGKILL:
            self.tally.kills += 1
            try:
                self.look(killed_at)
            except CheckpointDamaged as damage:
                self.tally.faults.append(str(damage))
        elif running.returncode not in (0, 3):
            self.tally.faults.append(f"exit {running.returncode}: {errors.decode()[-600:]}")

    def look(self, killed_at: float) -> None:
        """Compare what the store has with what the run acknowledged before its machine was lost."""
        answers, tickets = self.stored()
        told = self.told().read_text().splitlines() if self.told().exists() else []
        seen = Counter(line.split(" ")[1] for line in told)
        polled = {line.split(" ")[2] for line in told if line.split(" ")[1] == "poll"} - {"models"}
        is_deferred = self._runs.settings["delivery.lane"] == "deferred"
        self.tally.in_flight += seen["post"] - seen["ticket" if is_deferred else "answer"]
        self.tally.in_flight += max(0, len(polled) - seen["answer"])
        self.tally.acknowledged += seen["answer"]
        self.tally.polled += len(polled)
        missing = [line.split(" ") for line in told if line.split(" ")[2] not in answers | tickets]
        for at, kind, name in missing:
            age = killed_at - float(at)
            if kind in ("answer", "ticket"):
                self.tally.lost += kind == "answer"
                self.tally.lost_tickets += kind == "ticket"
                self.tally.oldest_lost_seconds = max(self.tally.oldest_lost_seconds, age)
                if age > self._sync_seconds:
                    self.tally.faults.append(f"an {kind} of {age:.2f} s before the kill is not in the store")
            if name in polled:
                self.tally.faults.append(f"the ticket {name} was polled and is not in the store")

    def stored(self) -> tuple[set[str], set[str]]:
        """Ids of the answers, and tickets, that another machine would find."""
        copy = LocalCopy(self._folder / "look" / "captions")
        shutil.rmtree(self._folder / "look", ignore_errors=True)
        objects = ObjectFolder.at(self.url)
        copy.fetch(objects, StoreListing.of(objects))
        answers, tickets = set[str](), set[str]()
        view = OutputView(copy.output)
        for batch in view.rows("attempts", ("provider_request_id", "ticket")):
            answers |= set(batch["provider_request_id"].to_pylist())
            tickets |= set(batch["ticket"].to_pylist())
        if (copy.output / ".batchvision" / "0of1").is_dir():
            for each in read_shard(copy.output, "0of1").run_state.open.values():
                tickets.add(each.ticket or "")
                if each.answer is not None:
                    answers.add(_id_of(each.answer.body))
        return answers, tickets

    def finish(self, *, is_new_machine: bool = True) -> Tally:
        """Run to the end, and compare with the bill.

        A ticket gives its answer once. So an answer that a lost machine had read is bought again where that is asked.
        """
        for flags in ((), ("--retry-failed=lost_after_read",)):
            running = self.start(*flags, is_new_machine=is_new_machine)
            _, errors = running.communicate(timeout=240)
            if running.returncode != 3:
                break
        if running.returncode != 0:
            self.tally.faults.append(f"the last run: exit {running.returncode}: {errors.decode()[-600:]}")
        try:
            self.stored()
        except CheckpointDamaged as damage:
            self.tally.faults.append(str(damage))
            return self.tally
        output = self._folder / "look" / "captions"
        rows = Counter(
            row for batch in OutputView(output).rows("results", ("row_id",)) for row in batch["row_id"].to_pylist()
        )
        if set(rows) != set(self._runs.cells) or set(rows.values()) != {1}:
            self.tally.faults.append(
                f"rows with other than one answer: {(rows - Counter(self._runs.cells.keys())) or rows}"
            )
        report = anyio.run(verify, output)
        self.tally.faults += [f"verify: {each.text}" for each in report.findings if each.mark is Mark.WRONG]
        bill = self._runs.emulator.bill()
        tally = self.tally
        tally.generated, tally.bought_again = bill.generated, bill.generated_again
        if tally.bought_again > tally.lost + tally.lost_tickets + tally.in_flight:
            tally.faults.append(f"{tally.bought_again} answers were bought again, more than were lost or in flight")
        return self.tally


def _id_of(body: bytes | str) -> str:
    try:
        return str(json.loads(body)["id"])
    except (ValueError, KeyError, TypeError):
        return ""


@contextmanager
def a_bucket(
    folder: Path, server: S3Server, lane: str = "online", rows: int = 60, sync_seconds: float = SYNC_SECONDS
) -> Iterator[Bucket]:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"delivery.lane": lane, "limits.concurrency": 4, "limits.max_attempts": 60}
    with start_in_thread(latency_seconds=(0.05, 0.4), deferred_seconds=(0.1, 1.0)) as emulator:
        runs = JobRuns(folder, emulator, settings=settings)
        runs.rows("red shoe", *(f"row-{number}" for number in range(rows)))
        yield Bucket(folder, server, runs, sync_seconds)


def lost_machines(bucket: Bucket, luck: random.Random, *lives: Mapping[str, object]) -> Tally:
    """Kill one machine after the other as planned (``{}``: at a random time), and finish on one more."""
    for life in lives:
        bucket.kill(luck, **life)
    return bucket.finish()


def drawn(luck: random.Random) -> Mapping[str, object]:
    """A kill at a random time, or at a random write to the store."""
    if luck.random() < 0.5:
        return {}
    return {"die": f"{luck.choice(('put', 'put', 'put', 'delete'))}:{luck.randint(1, 9)}"}


def same_machine(bucket: Bucket) -> tuple[int, int]:
    """Kill a run before its first sync, and go on with its copy. Returns answers before it, and those bought again."""
    running = bucket.start(die="post:25", seal_after=1000)
    running.communicate(timeout=240)
    before = bucket.told().read_text().count(" answer ")
    return before, bucket.finish(is_new_machine=False).bought_again


def paused_holder(bucket: Bucket, sabotage: str | None = None) -> tuple[int, int, Tally]:
    """Stop a run, let another machine take its lock and finish, and let the first one go on.

    Returns the first one's exit code, and the requests that it sent after that.
    """
    first = bucket.start(sabotage=sabotage)
    bucket.wait_for("answer", first)
    first.send_signal(signal.SIGSTOP)
    bucket.look(time.monotonic())
    tally = bucket.finish()
    before = bucket.requests
    first.send_signal(signal.SIGCONT)
    first.communicate(timeout=240)
    return first.returncode, bucket.requests - before, tally


def second_at_once(bucket: Bucket) -> tuple[int, int]:
    """Exit codes of a run, and of another machine that starts meanwhile."""
    first = bucket.start()
    bucket.wait_for("answer", first)
    second = bucket.start()
    second.communicate(timeout=240)
    first.communicate(timeout=240)
    return first.returncode, second.returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    luck, total, number = random.Random(chosen.seed), Tally(), 0
    with s3_server() as server, tempfile.TemporaryDirectory(prefix="batchvision-buckets-") as folder:
        os.environ.update(server.environ)
        while total.kills < chosen.kills and not total.faults:
            lane = ("online", "deferred")[number % 2]
            with a_bucket(Path(folder) / f"{lane}-{number}", server, lane) as bucket:
                tally = lost_machines(bucket, luck, *(drawn(luck) for _ in range(5)))
            total.plus(tally)
            number += 1
            print(f"{lane}: {tally}", flush=True)
    print(total)
    return 1 if total.faults else 0


if __name__ == "__main__":
    sys.exit(main())
