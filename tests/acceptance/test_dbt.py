"""The dbt project in ``jobs/dbt`` builds on a loaded database: ``scripts/test --with dbt``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from changing_output import ChangingOutput
from foreign.installed import INSTALL_SECONDS, Venv

from batchvision.commands.load import LoadPlace, load, open_destination

pytestmark = [pytest.mark.heavy("dbt"), pytest.mark.timeout(INSTALL_SECONDS)]

PROJECT = Path(__file__).parents[2] / "jobs" / "dbt"


def dbt(project: Path, warehouse: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    venv = Venv(Path(sys.prefix) / "dbt", ["dbt-core>=1.10.5,<1.11", "dbt-duckdb>=1.9,<1.11"])
    return subprocess.run(
        [venv.bin / "dbt", "--no-send-anonymous-usage-stats", *arguments, "--profiles-dir", str(project)],
        cwd=project,
        env={**os.environ, "WAREHOUSE": str(warehouse), "DO_NOT_TRACK": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def results(project: Path) -> dict[str, str]:
    document = json.loads((project / "target" / "run_results.json").read_text())
    return {each["unique_id"].split(".")[2]: each["status"] for each in document["results"]}


def test_the_project_builds_and_its_tests_pass_and_find_a_fault(tmp_path: Path) -> None:
    import duckdb

    project, warehouse = tmp_path / "dbt", tmp_path / "warehouse.db"
    shutil.copytree(PROJECT, project)
    output = ChangingOutput(tmp_path / "out").run(range(5, 20), failing=[3, 4])
    load(output.path, open_destination(LoadPlace(f"duckdb:///{warehouse}", tmp_path)))
    built = dbt(project, warehouse, "build")
    assert built.returncode == 0, built.stdout
    assert "eprecat" not in built.stdout
    statuses = results(project)
    assert set(statuses.values()) == {"success", "pass"}
    assert len(statuses) >= 10
    fresh = dbt(project, warehouse, "source", "freshness")
    assert "freshness of batchvision.batchvision_results" in fresh.stdout
    with duckdb.connect(str(warehouse)) as connection:
        answers = connection.execute("select count(*), count(distinct row_id) from answers").fetchall()
        assert answers == [(15, 15)]
        assert connection.execute("select sum(attempts) > 0 from cost_by_day").fetchall() == [(True,)]
        connection.execute("update batchvision_failures set error_kind = 'unknown kind'")
    assert dbt(project, warehouse, "build").returncode == 1
