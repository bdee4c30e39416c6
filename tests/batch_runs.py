"""Jobs of the batch lane for tests: a folder with a job for one face of an emulator, and a look at its bill."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pyarrow.parquet as pq
from PIL import Image

from batchvision import run
from batchvision.commands.verify import VerifyReport, verify
from batchvision.emulator import Face, RunningEmulator
from batchvision.job import Job
from batchvision.records import RunSummary

VICTIM = Path(__file__).parent / "batch_victim.py"
ENVIRON = {"XAI_API_KEY": "emulator-key", "OPENAI_API_KEY": "emulator-key"}
#: As the emulator bills the answers of its face without a reported cost.
PRICES = "{ input = 1.25, cached = 0.2, output = 2.5, batch_percent = 50 }"


@dataclass
class BatchRuns:
    folder: Path
    emulator: RunningEmulator
    face: Face
    rows: int = 8
    faults: dict[int, str] = field(default_factory=dict)
    delivery: str = ""
    provider: str = ""

    def __post_init__(self) -> None:
        Image.new("RGB", (40, 30), "red").save(self.folder / "red.png")

    @property
    def output(self) -> Path:
        return self.folder / "out"

    def write(self) -> Path:
        lines = [f"r{number},red.png,{self.faults.get(number, '')}" for number in range(self.rows)]
        (self.folder / "photos.csv").write_text("\n".join(["id,image,note", *lines]) + "\n")
        job = self.folder / "job.toml"
        job.write_text(
            f'name = "batches"\n'
            f'[manifest]\npath = "photos.csv"\nid = "id"\nimages = ["image"]\n'
            f'[prompt]\nuser = "What is it? [[echo:{{id}}]] {{note}}"\n'
            f'[provider]\nname = "{self.face.value}"\nmodel = "grok-4.3"\n'
            f'base_url = "{self.emulator.base_url(self.face)}"\n'
            f"prices = {PRICES}\nparameters = {{ max_tokens = 100 }}\n{self.provider}\n"
            f'[delivery]\nlane = "batch"\n{self.delivery}\n'
            f'[output]\npath = "out"\n'
        )
        return job

    def run(self, settings: dict[str, Any] | None = None) -> RunSummary:
        """A run in this process. ``settings``: dotted keys."""
        return run(Job.load(self.write(), settings, ENVIRON), environ=ENVIRON)

    def killed(self, call: int, when: str) -> bool:
        """Run until the call kills it. False: it ended before."""
        command = [sys.executable, str(VICTIM), str(self.write()), str(call), when]
        done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
        assert done.returncode in (0, -9), done.stderr
        return done.returncode == -9

    # ---------------------------------------------------------------------------- after the runs

    def table(self, name: str) -> list[dict[str, Any]]:
        paths = sorted((self.output / name).rglob("part-*.parquet"))
        return [row for path in paths for row in pq.read_table(path).to_pylist()]

    def verify(self) -> VerifyReport:
        return anyio.run(verify, self.output)

    def assert_right(self) -> None:
        """Every row once with its own answer, nothing paid twice, and the ledger is the bill to the tick."""
        results, bill = self.table("results"), self.emulator.bill()
        assert Counter(row["row_id"] for row in results) == Counter({f"r{number}": 1 for number in range(self.rows)})
        assert all(f"[[echo:{row['row_id']}]]" in row["output_text"] for row in results)
        assert (bill.generated_again, bill.ids_again) == (0, 0)
        assert sum(row["cost_ticks"] or 0 for row in self.table("attempts")) == bill.ticks
        report = self.verify()
        assert report.is_right, [finding.text for finding in report.findings]

    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.output / "runs" / "latest.json").read_text())
        return found
