"""Run the real command over images against the emulator, and compare the end of each with its expected end.

The emulator hashes the images that it receives. Memory is that of the command and all its processes.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import Workbench
from hostile_images import Fate

from batchvision.emulator import BillEntry, EmulatorOptions, start_in_thread

MODEL, WORDS = "grok-4.3", "What is this?"


@dataclass
class Proof:
    """The ends of the files. ``wrong`` lists the unexpected ones."""

    fates: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    refused_by_provider: list[str] = field(default_factory=list)
    exit_code: int = 0
    seconds: float = 0.0
    peak_mib: float = 0.0


def prove(folder: Path, files: Mapping[str, tuple[bytes, Fate]], timeout: float = 110, images: str = "") -> Proof:
    """Run the command over ``files`` and compare the end of each with its fate."""
    bench = Workbench(folder)
    ids = _write(bench, files)
    rows = [{"sku": sku, "image": path} for sku, path in ids.values()]
    proof = Proof()
    with start_in_thread(EmulatorOptions(ledger_entries=100_000)) as emulator:
        job = _job(bench, rows, images)
        started = time.monotonic()
        run = bench.start(job, "--base-url", emulator.url + "/xai/v1")
        with _PeakMemory(run.pid) as memory:
            said, complained = run.communicate(timeout=timeout)
        proof.seconds, proof.peak_mib, proof.exit_code = time.monotonic() - started, memory.peak_mib, run.returncode
        entries = emulator.bill().entries
    if "Traceback" in complained or not said.startswith("{"):
        proof.wrong.append(f"the run ended with {run.returncode}: {complained[-2000:]}")
    done = {row["row_id"]: row for row in bench.table("results")}
    failed = {row["row_id"]: row for row in bench.table("failures")}
    asked = _by_echo(entries)
    for name, (content, fate) in files.items():
        _check_fate(proof, name, ids[name][0], content, fate, done, failed, asked)
    return proof


def _job(bench: Workbench, rows: Sequence[Mapping[str, str]], images: str) -> Path:
    path = bench.folder / "job.toml"
    path.write_text(
        f"""
        name = "hard-pictures"
        manifest = {{ path = "{bench.manifest(rows).name}", id = "sku" }}
        prompt = {{ user = "{WORDS} [[echo:{{sku}}]]" }}
        provider = {{ name = "xai", model = "{MODEL}" }}
        limits = {{ concurrency = 8, max_attempts = 1 }}
        output = {{ path = "out" }}
        images = {{ {images} }}
        """,
        encoding="utf-8",
    )
    return path


def _write(bench: Workbench, files: Mapping[str, tuple[bytes, Fate]]) -> dict[str, tuple[str, str]]:
    """Name -> (row id, path)."""
    (bench.folder / "images").mkdir(exist_ok=True)
    ids = {}
    for number, (name, (content, _)) in enumerate(files.items()):
        sku, path = f"r{number:05d}", f"images/{number:05d}-{name.replace('/', '-')[-80:]}"
        (bench.folder / path).write_bytes(content)
        ids[name] = (sku, path)
    return ids


def _by_echo(entries: Sequence[BillEntry]) -> dict[str, list[BillEntry]]:
    asked: dict[str, list[BillEntry]] = {}
    for entry in entries:
        asked.setdefault(sku_of(entry), []).append(entry)
    return asked


def sku_of(entry: BillEntry) -> str:
    """Whose request it was; refused ones too."""
    return entry.echo or entry.text.rpartition("[[echo:")[2].partition("]]")[0]


def _check_fate(
    proof: Proof,
    name: str,
    sku: str,
    content: bytes,
    fate: Fate,
    done: Mapping[str, Any],
    failed: Mapping[str, Any],
    asked: Mapping[str, list[BillEntry]],
) -> None:
    accepted = [entry for entry in asked.get(sku, []) if entry.status == 200]
    is_unchanged = any(entry.content_hash == sent_as(sku, content) for entry in accepted)
    if sku in done:
        came = Fate.UNCHANGED if is_unchanged else Fate.CONVERTED
    elif sku in failed:
        came = Fate.FAILED
        proof.kinds[failed[sku]["error_kind"]] += 1
        if failed[sku]["error_kind"] == "request_rejected":
            proof.refused_by_provider.append(name)
    else:
        proof.wrong.append(f"{name}: its row is in no table")
        return
    proof.fates[came.value] += 1
    if fate is Fate.ACCEPTED and came is not Fate.FAILED:
        return
    if fate is not Fate.ANY and came is not fate:
        why = f" ({failed[sku]['error_message']})" if came is Fate.FAILED else ""
        proof.wrong.append(f"{name}: {came.value}{why}; it should have been: {fate.value}")
    if (sku in done) != bool(accepted):
        proof.wrong.append(f"{name}: the emulator and the tables do not agree")


def sent_as(sku: str, content: bytes, more_words: str = "") -> str:
    """The emulator's hash of a request that holds these very bytes."""
    digest = hashlib.blake2b(MODEL.encode(), digest_size=8)
    digest.update(b"\0t" + f"{WORDS} [[echo:{sku}]]{more_words}".encode())
    digest.update(b"\0i" + hashlib.sha256(content).hexdigest().encode())
    return digest.hexdigest()


class _PeakMemory:
    """The most that a process and all its children held together, looked at 50 times a second (Linux)."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.peak_mib = 0.0

    def __enter__(self) -> _PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.peak_mib = max(self.peak_mib, sum(_resident_mib(pid) for pid in _family(self._pid)))


def _family(pid: int) -> Iterator[int]:
    yield pid
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _family(int(child))
    except OSError:
        return


def _resident_mib(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20
    except (OSError, IndexError):
        return 0.0
