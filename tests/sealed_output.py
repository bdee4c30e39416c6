"""A finished output to be damaged: made once by a real run, copied for each test."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from batchvision.commands.run import run
from batchvision.commands.verify import VerifyReport, verify
from batchvision.job import Job

ROWS = 24


class Output:
    """One output folder, the job that wrote it, and hands to change what is in it."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.settings = settings
        self.path = folder / "out"

    def job(self, **overrides: Any) -> Job:
        dotted = {name.replace("__", "."): value for name, value in overrides.items()}
        return Job.from_mapping(self.settings, self.folder, overrides=dotted)

    def run(self, **overrides: Any) -> Any:
        return run(self.job(**overrides), environ={})

    def verify(self) -> VerifyReport:
        return anyio.run(verify, self.path)

    def copy(self, folder: Path) -> Output:
        """Manifest, images and output, all of them elsewhere; the summaries name the manifest that is there."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        for path in (folder / "out" / "runs").glob("*.json"):
            path.write_text(path.read_text().replace(str(self.folder), str(folder)))
        return Output(folder, self.settings)

    # ---------------------------------------------------------------------------- parts

    def parts(self, table: str) -> list[Path]:
        return sorted((self.path / table).rglob("part-*.parquet"))

    def rows(self, table: str) -> list[dict[str, Any]]:
        return [row for path in self.parts(table) for row in pq.ParquetFile(path).read().to_pylist()]

    def rewrite(self, table: str, change: Callable[[list[dict[str, Any]]], Any]) -> None:
        """Change the rows of a table's first part; the new file is whole, and listed nowhere."""
        path = self.parts(table)[0]
        before = pq.ParquetFile(path).read()
        rows = before.to_pylist()
        change(rows)
        pq.write_table(pa.Table.from_pylist(rows, schema=before.schema), path, write_page_checksum=True)
        self.unlist()

    def unlist(self) -> None:
        """As if no summary had listed a part: what is wrong must be found by other means."""
        for path in (self.path / "runs").glob("*.json"):
            document = json.loads(path.read_text())
            path.write_text(json.dumps({**document, "parts": []}))

    def journal(self) -> Path:
        return max((self.path / ".batchvision" / "0of1").glob("journal-*.log"))


def a_manifest(folder: Path, lines: list[str]) -> None:
    (folder / "photos.csv").write_text("\n".join(["id,image,title", *lines]) + "\n", encoding="utf-8")


def an_output(folder: Path, base_url: str, **sections: Any) -> Output:
    """24 rows, one refused, one that was tried twice."""
    Image.new("RGB", (40, 30), "red").save(folder / "red.png")
    Image.new("RGB", (40, 30), "blue").save(folder / "blue.png")
    faults = {5: "[[fault:refusal]]", 7: "[[fault:server_error:1]]"}
    images = ("red.png", "blue.png")
    a_manifest(folder, [f"r{n:02},{images[n % 2]},thing {n} {faults.get(n, '')}" for n in range(ROWS)])
    settings = {
        "name": "sealed",
        "manifest": {"path": "photos.csv", "id": "id", "keep": "title"},
        "prompt": {"user": "Describe {title}."},
        "provider": {"name": "emulator", "model": "grok-4.3", "base_url": f"{base_url}/v1"},
        "output": {"path": "out"},
        **sections,
    }
    return Output(folder, settings)
