"""A provider of another package: installed beside batchvision, named in a job, and found by its entry point."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from fake_provider import Reply
from harness import Workbench
from scripted_server import Heard, ScriptedServer, scripted

PACKAGE = Path(__file__).parents[1] / "outside_provider"
SLOW_DOWN = Reply(420, {"fault": "calm down", "pause_ms": 20})


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    """A folder to run jobs in, with the package on the path as an installation leaves it."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    metadata = tmp_path / "site" / f"nimbus_batchvision-{project['version']}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    points = project["entry-points"]["batchvision.providers"].items()
    lines = ["[batchvision.providers]", *(f"{name} = {target}" for name, target in points)]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("PYTHONPATH", f"{metadata.parent}:{PACKAGE}")
    monkeypatch.setenv("NIMBUS_API_KEY", "nimbus-key-0123456789")
    return Workbench(tmp_path)


def _run(bench: Workbench, server: ScriptedServer) -> dict[str, object]:
    images = bench.images(3)
    rows = [{"sku": image, "image": image, "title": f"[[{image}]]", "hint": ""} for image in images]
    return bench.run(bench.job(bench.manifest(rows)), "--provider", "nimbus", "--base-url", server.url)


def test_its_header_and_its_key_are_sent_and_its_answers_are_stored(bench: Workbench) -> None:
    with scripted() as server:
        summary = _run(bench, server)

    assert summary["rows_completed"] == 3
    assert {heard.headers["x-nimbus-client"] for heard in server.heard} == {"batchvision"}
    assert {heard.headers["authorization"] for heard in server.heard} == {"Bearer nimbus-key-0123456789"}
    assert {row["provider"] for row in bench.table("results")} == {"nimbus"}


def test_its_own_error_has_the_meaning_that_its_dialect_gives(bench: Workbench) -> None:
    def refuse_once(heard: Heard) -> Reply | None:
        return SLOW_DOWN if heard.number == 1 else None

    with scripted(refuse_once) as server:
        summary = _run(bench, server)

    assert (summary["rows_completed"], len(server.heard)) == (3, 4)
    refused = [row for row in bench.table("attempts") if row["http_status"] == 420]
    assert [(row["state"], row["error_kind"]) for row in refused] == [("retried", "rate_limited")]
    assert "nimbus: calm down" in refused[0]["error_message"]


def test_a_name_that_no_package_has_is_refused_with_the_names_there_are(bench: Workbench) -> None:
    job = bench.job(bench.manifest(bench.rows(1)))
    done = bench.call("run", job, "--provider", "nimbo")

    assert done.returncode == 2
    assert "no provider 'nimbo'" in done.stderr
    assert "nimbus" in done.stderr
