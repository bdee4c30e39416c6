"""A run in poor surroundings: few file descriptors, no time zone database."""

from __future__ import annotations

import subprocess

import pytest
from harness import Workbench, assert_every_row_once
from scripted_server import scripted
from test_refusals import job_at


@pytest.fixture
def bench(tmp_path):
    return Workbench(tmp_path)


@pytest.mark.parametrize(("limit", "is_lowered"), [("ulimit -n 256", True), ("ulimit -S -n 256", False)])
def test_with_256_files_256_requests_are_asked_for_and_every_row_is_done(bench, limit, is_lowered):
    with scripted(latency_seconds=0.5) as server:
        job = job_at(bench, server.url, 500, limits="concurrency = 256")
        command = bench.command("run", job, "--json")
        done = subprocess.run(
            ["sh", "-c", f'{limit}; exec "$@"', "sh", *command],
            cwd=bench.folder,
            env=bench.environment(),
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        results = bench.table("results")
        assert_every_row_once(results, [{"sku": f"row-{number:05d}"} for number in range(500)])
        assert bench.table("failures") == []
        assert len(server.heard) == 500
        assert done.stderr.count("limits.concurrency is lowered from 256") == is_lowered
        assert "Free space" not in done.stderr


def test_a_time_zone_is_known_without_the_systems_database(bench):
    with scripted() as server:
        job = job_at(bench, server.url, 2)
        text = job.read_text().replace('name = "acceptance"', 'name = "acceptance"\ntimezone = "Europe/Zurich"')
        job.write_text(text)
        done = subprocess.run(
            bench.command("run", job),
            cwd=bench.folder,
            env={**bench.environment(), "PYTHONTZPATH": ""},
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "2 of 2 rows have answers" in done.stderr


def test_the_zone_comes_from_a_package_that_batchvision_depends_on():
    from importlib.metadata import requires

    assert any(line.startswith("tzdata") and "extra" not in line for line in requires("batchvision") or ())
