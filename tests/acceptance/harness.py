"""What the acceptance tests share: a manifest of many rows, a job file, the command, and a look at its tables."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

COLORS = ["red", "green", "blue", "yellow", "purple", "orange", "brown", "gray", "white", "black"]


@dataclass
class Workbench:
    """A folder with images, manifests and jobs, and the command line to run them with."""

    folder: Path
    key: str = "emulator-key"

    def images(self, count: int = 20) -> list[str]:
        folder = self.folder / "images"
        folder.mkdir(exist_ok=True)
        names = []
        for number in range(count):
            name = f"images/{number:03d}.png"
            Image.new("RGB", (16 + number, 12), COLORS[number % len(COLORS)]).save(self.folder / name)
            names.append(name)
        return names

    def rows(self, count: int, *, faults: Mapping[int, str] | None = None) -> list[dict[str, str]]:
        """Rows whose prompt echoes the row's own id, so that an answer shows whose it is."""
        images = self.images()
        faults = faults or {}
        return [
            {
                "sku": f"row-{number:05d}",
                "image": images[number % len(images)],
                "title": f"thing {number}",
                "hint": f"[[echo:row-{number:05d}]]" + (f" [[fault:{faults[number]}]]" if number in faults else ""),
            }
            for number in range(count)
        ]

    def manifest(self, rows: Sequence[Mapping[str, str]], name: str = "photos.csv") -> Path:
        path = self.folder / name
        if name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path, row_group_size=500)
        else:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(rows[0]) if rows else ["sku", "image", "title", "hint"])
                writer.writeheader()
                writer.writerows(rows)
        return path

    def job(self, manifest: Path, name: str = "job.toml", **sections: str) -> Path:
        """A job over the manifest; ``sections``: more lines for [provider], [answer] ..., by section name."""
        parts = {
            "manifest": f'path = "{manifest.name}"\nid = "sku"\nkeep = ["title"]',
            "prompt": 'user = "Describe {title}. {hint}"',
            "provider": 'name = "xai"\nmodel = "grok-4.3"',
            "output": 'path = "out"',
        }
        for section, lines in sections.items():
            parts[section] = f"{parts[section]}\n{lines}" if section in parts else lines
        text = 'name = "acceptance"\n' + "".join(f"[{name}]\n{lines}\n" for name, lines in parts.items())
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path

    # ---------------------------------------------------------------------------- the command

    def command(self, *arguments: str | Path) -> list[str]:
        """The words of a command. The log lines of ``run`` are text unless the test names a format."""
        words = [str(each) for each in arguments]
        if words[:1] == ["run"] and "--log-format" not in words:
            words += ["--log-format", "text"]
        return [sys.executable, "-m", "batchvision", *words]

    def environment(self) -> dict[str, str]:
        keys = {"XAI_API_KEY": self.key, "OPENROUTER_API_KEY": self.key, "OPENAI_API_KEY": self.key}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BATCHVISION_")}
        return {**kept, **keys, "BATCHVISION_CACHE_DIR": str(self.folder / "cache")}

    def call(self, *arguments: str | Path, timeout: float = 110) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def run(self, *arguments: str | Path, expect: int = 0) -> dict[str, Any]:
        """``batchvision run ... --json``: its summary, after its exit code was the one expected."""
        done = self.call("run", *arguments, "--json")
        assert done.returncode == expect, f"exit {done.returncode}, not {expect}\n{done.stderr}\n{done.stdout}"
        summary = json.loads(done.stdout)
        assert summary["exit_code"] == expect
        return summary

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """The same, left running."""
        return subprocess.Popen(
            self.command("run", *arguments, "--json"),
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    # ---------------------------------------------------------------------------- the tables

    def table(self, name: str, out: str = "out") -> list[dict[str, Any]]:
        folder = self.folder / out / name
        return [
            row for path in sorted(folder.rglob("part-*.parquet")) for row in pq.ParquetFile(path).read().to_pylist()
        ]

    def fingerprint(self, out: str = "out") -> dict[str, str]:
        """Path and sha256 of every file of results/, failures/ and attempts/."""
        folder = self.folder / out
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for table in ("results", "failures", "attempts")
            for path in sorted((folder / table).rglob("*"))
            if path.is_file()
        }


def assert_every_row_once(results: Iterable[Mapping[str, Any]], rows: Sequence[Mapping[str, str]]) -> None:
    ids = [row["row_id"] for row in results]
    assert len(ids) == len(set(ids)), "a row stands twice in results/"
    assert set(ids) == {row["sku"] for row in rows}


def assert_answers_belong_to_their_rows(results: Iterable[Mapping[str, Any]]) -> None:
    for row in results:
        assert row["row_id"] in row["output_text"], f"{row['row_id']} has the answer {row['output_text'][:200]!r}"


def ticks_of(attempts: Iterable[Mapping[str, Any]]) -> int:
    return sum(row["cost_ticks"] or 0 for row in attempts)
