"""A job over a manifest of URLs, for runs in virtual time."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pyarrow.parquet as pq
import pytest
from fake_provider import FakeProvider
from s3_server import S3Server, s3_server
from virtual_time import VIRTUAL

from batchvision import Job
from batchvision.object_store import open_store
from batchvision.records import RunSummary
from batchvision.runner.feed import Selection
from batchvision.runner.session import Watch, run_async


class JobRuns:
    """Runs one job run after run, each in virtual time, on one output."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs_made = 0
        self.settings: dict[str, Any] = {
            "name": "night",
            "manifest": {"path": "photos.csv", "id": "sku", "keep": ["title"]},
            "prompt": {"user": "Describe {title} [[{sku}]]"},
            "provider": {"name": "xai", "model": "grok-4.3"},
            "output": {"path": "out"},
        }

    def rows(self, count: int, start: int = 0) -> None:
        lines = [f"r{n},https://images.example/{n}.jpg,thing {n}" for n in range(start, start + count)]
        (self.folder / "photos.csv").write_text("\n".join(["sku,image,title", *lines]) + "\n")

    def job(self, **overrides: Any) -> Job:
        dotted = {name.replace("__", "."): value for name, value in overrides.items()}
        return Job.from_mapping(self.settings, self.folder, dotted)

    def run(
        self,
        provider: FakeProvider,
        *,
        selection: Selection | None = None,
        beside: Callable[[], Any] | None = None,
        watch: Watch | None = None,
        **overrides: Any,
    ) -> RunSummary:
        self.runs_made += 1  # each has its own seed: all of them begin in the same second

        async def session() -> RunSummary:
            return await run_async(
                self.job(**overrides),
                selection=selection,
                environ={"XAI_API_KEY": "xai-secret-key-000"},
                dependencies=provider.dependencies(self.runs_made),
                watch=watch if beside is None else (lambda counters: beside()),
            )

        return anyio.run(session, backend_options=VIRTUAL)

    def table(self, name: str) -> list[dict[str, Any]]:
        paths = sorted((self.folder / "out" / name).rglob("part-*.parquet"))
        return [row for path in paths for row in pq.ParquetFile(path).read().to_pylist()]


@pytest.fixture(autouse=True, scope="module")
def collected_once() -> Iterator[None]:
    """Report unclosed resources in the module that left them open."""
    yield
    gc.collect()


@pytest.fixture
def job_runs(tmp_path: Path) -> JobRuns:
    return JobRuns(tmp_path)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The store of ``s3://bucket``, which the environment leads to."""
    for name, value in s3.environ.items():
        monkeypatch.setenv(name, value)
    return open_store("s3://bucket")
