"""The words and exit codes of load."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import duckdb
import pytest
from changing_output import ChangingOutput
from job_files import load, with_lines, write_job

from batchvision.cli import group
from batchvision.cli.exits import run_and_report


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return ChangingOutput(tmp_path / "out").run(range(3), failing=[3]).path


def test_the_counts_of_each_table_are_printed(output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = f"duckdb:///{tmp_path}/a.db"
    assert run_and_report(group, ["load", str(output), "--to", to, "--include", "results,runs"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"loaded into {to}",
        "  results   3 merged, 0 unchanged",
        "  runs      1 merged, 0 unchanged",
    ]


def test_the_same_as_json(output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = f"duckdb:///{tmp_path}/a.db"
    assert run_and_report(group, ["load", str(output), "--to", to, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["tables"]["results"] == {"merged": 3, "deleted": 0, "unchanged": 0}
    assert first["destination"] == to
    assert run_and_report(group, ["load", str(output), "--to", to, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert list(again["tables"]) == ["results", "failures", "attempts", "runs"]
    assert again["tables"]["attempts"] == {"merged": 0, "deleted": 0, "unchanged": 4}


def test_a_relative_url_starts_at_the_working_folder(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_and_report(group, ["load", str(output), "--to", "duckdb:///here.db"]) == 0
    with duckdb.connect(str(tmp_path / "here.db")) as connection:
        assert connection.execute("SELECT count(*) FROM batchvision_results").fetchall() == [(3,)]


def test_a_destination_that_cannot_be_had_is_exit_8(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_and_report(group, ["load", str(output), "--to", f"duckdb:///{tmp_path}/nowhere/a.db"]) == 8
    assert "check that its folder exists" in capsys.readouterr().err
    (tmp_path / "text.db").write_text("no database\n" * 1000)
    assert run_and_report(group, ["load", str(output), "--to", f"duckdb:///{tmp_path}/text.db"]) == 8
    assert "not a valid DuckDB database file" in capsys.readouterr().err


@pytest.mark.parametrize("to", ["mysql://h/db", "env:NOT_SET_ANYWHERE", "postgresql://me:hunter2secret@h/db"])
def test_a_bad_url_is_exit_2(to: str, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_and_report(group, ["load", str(output), "--to", to]) == 2
    assert "hunter2" not in capsys.readouterr().err


def test_a_table_that_is_none_is_exit_2(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_and_report(group, ["load", str(output), "--to", "duckdb:///a.db", "--include", "results,answers"]) == 2
    assert "there is no table answers; there are: results, failures, attempts, runs" in capsys.readouterr().err


def test_a_missing_extra_is_exit_2_with_the_command_that_installs_it(
    output: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "batchvision.commands.load.duckdb", raising=False)
    monkeypatch.setitem(sys.modules, "duckdb", None)
    assert run_and_report(group, ["load", str(output), "--to", "duckdb:///a.db"]) == 2
    assert "pip install 'batchvision[duckdb]'" in capsys.readouterr().err


# ---------------------------------------------------------------------------------- [load] of a job


def a_job(folder: Path, load: str) -> Path:
    lines = with_lines(load=load, output='path = "out"')
    return write_job(folder, lines)


def test_the_job_names_the_destination_beside_it_and_its_tables(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = a_job(tmp_path, 'to = "duckdb:///beside.db"\ntable_prefix = "bv_"\ndb_schema = "night"\ninclude = "results"')
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert run_and_report(group, ["load", str(job)]) == 0
    with duckdb.connect(str(tmp_path / "beside.db")) as connection:
        assert connection.execute("SELECT count(*) FROM night.bv_results").fetchall() == [(3,)]
    assert run_and_report(group, ["load", str(job), "--to", "duckdb:///here.db", "--table-prefix", ""]) == 0
    with duckdb.connect(str(elsewhere / "here.db")) as connection:
        assert connection.execute("SELECT count(*) FROM night.results").fetchall() == [(3,)]


def test_an_output_or_job_without_a_destination_is_exit_2(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in (output, a_job(tmp_path, 'table_prefix = "bv_"')):
        assert run_and_report(group, ["load", str(place)]) == 2
        assert "Name the destination: --to URL" in capsys.readouterr().err


def test_a_password_in_the_job_is_refused_and_not_repeated(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = a_job(tmp_path, 'to = "postgresql://me:hunter2secret@host/db"')
    assert run_and_report(group, ["load", str(job)]) == 2
    refused = capsys.readouterr().err
    assert "[load]: `to` holds a password" in refused
    assert "hunter2" not in refused


def test_the_destination_is_no_part_of_the_recipe(tmp_path: Path) -> None:
    plain, loading = load(tmp_path), load(tmp_path, with_lines(load='to = "env:WAREHOUSE_URL"'))
    assert loading.recipe == plain.recipe
    assert loading.config()["load"]["to"] == "env:WAREHOUSE_URL"
