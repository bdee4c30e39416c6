"""The commands around a run, as a user types them: what they print, where, and how they exit."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Workbench

from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


@pytest.fixture(scope="module")
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions()) as running:
        yield running


def to(emulator: RunningEmulator) -> list[str]:
    return ["--provider", "xai", "--base-url", f"{emulator.url}/xai/v1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, emulator: RunningEmulator) -> Workbench:
    """An output with 10 answers and 2 failures, of which one came with its image missing."""
    bench = Workbench(tmp_path_factory.mktemp("finished"))
    rows = bench.rows(12, faults={3: "rejected"})
    rows[5]["image"] = "images/missing.png"
    rows[7]["title"] = "=1+1 \x1b[2J\u202eevil"
    bench.run(bench.job(bench.manifest(rows)), *to(emulator), expect=3)
    return bench


# ---------------------------------------------------------------------------------- run


def test_the_closing_lines_name_failures_and_next_commands(bench: Workbench, emulator: RunningEmulator) -> None:
    job = bench.job(bench.manifest(bench.rows(4, faults={1: "rejected"})))
    done = bench.call("run", job.name, *to(emulator))
    assert done.returncode == 3
    assert done.stdout == ""
    assert "3 of 4 rows have answers, 1 failed" in done.stderr
    assert "1 request_rejected" in done.stderr
    assert "batchvision show out --status failed" in done.stderr
    assert (
        f"batchvision run {job.name} {' '.join(to(emulator))} --log-format text   (asks failed rows again"
        in done.stderr
    )


def test_progress_on_a_pipe_is_a_first_and_a_last_line(bench: Workbench, emulator: RunningEmulator) -> None:
    done = bench.call("run", bench.job(bench.manifest(bench.rows(3))), *to(emulator))
    told = [line for line in done.stderr.splitlines() if " rows done," in line]
    assert len(told) == 2
    assert "3 of 3 rows done" in told[-1]


def test_quiet_prints_nothing_and_json_goes_to_stdout(bench: Workbench, emulator: RunningEmulator) -> None:
    done = bench.call("run", bench.job(bench.manifest(bench.rows(3))), *to(emulator), "--quiet", "--json")
    assert done.stderr == ""
    assert json.loads(done.stdout)["rows_completed"] == 3


def test_json_logs_are_one_object_a_line(bench: Workbench, emulator: RunningEmulator) -> None:
    done = bench.call("run", bench.job(bench.manifest(bench.rows(3))), *to(emulator), "--log-format", "json")
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event["event"] for event in events] == ["log", "progress", "progress", "finished"]
    assert "is reached directly" in events[0]["message"]
    assert events[-1]["exit_code"] == 0


def test_limit_and_retry_failed_choose_rows(bench: Workbench, emulator: RunningEmulator) -> None:
    job = bench.job(bench.manifest(bench.rows(6, faults={0: "rejected:1", 1: "refusal:1"})))
    first = bench.run(job, *to(emulator), "--limit", "4", expect=3)
    assert (first["rows_completed"], first["rows_failed"], first["rows_pending"]) == (2, 2, 2)
    unpaid = bench.run(job, *to(emulator), expect=3)
    assert (unpaid["rows_completed"], unpaid["failures_by_kind"]) == (5, {"refused": 1})
    assert bench.run(job, *to(emulator), "--no-retry-failed", expect=3)["requests_sent"] == 0
    assert bench.run(job, *to(emulator), "--retry-failed=empty", expect=3)["requests_sent"] == 0
    assert bench.run("--retry-failed", job, *to(emulator))["requests_sent"] == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing.toml"], "there is no job file"),
        (["job.toml", "--manifest", "nothing.csv"], "there is no manifest at"),
        (["job.toml", "--set", "manifest.id=nmae"], "title"),
        (["job.toml", "--provider", "xia"], "xai"),
        (["job.toml", "--set", "limits.concurency=3"], "concurrency"),
        (["job.toml", "--set", "nonsense"], "KEY=VALUE"),
        (["job.toml", "--shard", "4/4"], "--shard 0/4"),
        (["job.toml", "--retry-failed", "--no-retry-failed"], "contradict"),
    ],
)
def test_a_usage_mistake_ends_with_a_next_step(bench: Workbench, arguments: list[str], says: str) -> None:
    bench.job(bench.manifest(bench.rows(2)))
    done = bench.call("run", *arguments)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (bench.folder / "out" / "results").exists()


def test_a_missing_key_names_the_variable_to_set(bench: Workbench) -> None:
    job = bench.job(bench.manifest(bench.rows(2)))
    bench.key = ""
    done = bench.call("run", job)
    assert done.returncode == 2
    assert "export XAI_API_KEY=" in done.stderr


# ---------------------------------------------------------------------------------- plan and check


def test_plan_counts_the_rows_of_a_run_and_sends_nothing(bench: Workbench, emulator: RunningEmulator) -> None:
    rows = bench.rows(5)
    rows[1]["image"] = ""
    rows[2]["image"] = "images/missing.png"
    before = emulator.bill().requests
    done = bench.call("plan", bench.job(bench.manifest(rows)), *to(emulator), "--json")
    plan = json.loads(done.stdout)
    assert done.returncode == 0
    assert {name: plan["rows"][name] for name in ("total", "done", "to_do", "failed_before", "invalid")} == {
        "total": 5,
        "done": 0,
        "to_do": 3,
        "failed_before": 0,
        "invalid": 2,
    }
    assert plan["images"]["by_format"] == {"png": 3}
    assert [row["row_id"] for row in plan["invalid"]] == ["row-00001", "row-00002"]
    assert plan["requests"] == 3
    assert plan["cost_usd"].keys() == {"expected", "low", "high", "source"}
    assert emulator.bill().requests == before
    assert not (bench.folder / "out").exists()


def test_plan_counts_rows_of_earlier_runs_as_done(finished: Workbench, emulator: RunningEmulator) -> None:
    before = finished.fingerprint()
    plan = json.loads(finished.call("plan", "job.toml", *to(emulator), "--json").stdout)
    assert (plan["rows"]["done"], plan["rows"]["failed_before"]) == (10, 2)
    assert finished.fingerprint() == before


def test_plan_shows_the_request_with_its_base64_shortened(bench: Workbench) -> None:
    done = bench.call("plan", bench.job(bench.manifest(bench.rows(2))), "--show-request", "1")
    assert '"model": "grok-4.3"' in done.stdout
    assert "data:image/png;base64,iVBORw0KGgo" in done.stdout
    assert "characters)" in done.stdout
    request = done.stdout[done.stdout.index("{") :]  # what stands before it are sentences, as long as they are
    assert max(len(line) for line in request.splitlines() if '"' in line) < 160


def test_check_is_content_with_a_good_job(bench: Workbench, emulator: RunningEmulator) -> None:
    job = bench.job(bench.manifest(bench.rows(2)))
    before = emulator.bill().requests
    done = bench.call("check", job, *to(emulator), "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"]) == (0, True)
    assert {finding["topic"] for finding in report["findings"]} >= {"manifest", "images", "output", "key", "model"}
    assert emulator.bill().ticks == 0 or emulator.bill().requests == before


@pytest.mark.parametrize(
    ("key", "arguments", "code", "says"),
    [
        ("bad-key", [], 5, "key"),
        ("emulator-key", ["--model", "grok-4.33"], 5, "grok-4.3,"),
        ("", [], 2, "export XAI_API_KEY="),
        ("emulator-key", ["--set", "manifest.id=sqk"], 2, "sku"),
    ],
)
def test_check_finds_problems_that_stop_a_run(
    bench: Workbench, emulator: RunningEmulator, key: str, arguments: list[str], code: int, says: str
) -> None:
    job = bench.job(bench.manifest(bench.rows(2)))
    bench.key = key
    done = bench.call("check", job, *to(emulator), *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert says in done.stdout


# ---------------------------------------------------------------------------------- status and show


def test_status_adds_up_tables_and_ledger(finished: Workbench) -> None:
    status = json.loads(finished.call("status", "out", "--json").stdout)
    attempts = finished.table("attempts")
    assert (status["rows_answered"], status["rows_failed"]) == (10, 2)
    assert status["failures_by_kind"] == {"image_unreadable": 1, "request_rejected": 1}
    assert status["cost_ticks"] == sum(row["cost_ticks"] or 0 for row in attempts)
    assert status["last_run"]["exit_code"] == 3
    assert finished.call("status", "job.toml").stdout.startswith("out\n")


def test_status_of_a_missing_output_names_the_command_that_makes_one(bench: Workbench) -> None:
    done = bench.call("status", "nowhere")
    assert done.returncode == 2
    assert "batchvision run JOB" in done.stderr


def test_show_prints_a_table_that_nothing_in_a_cell_can_disturb(finished: Workbench) -> None:
    done = finished.call("show", "out")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].split() == ["row_id", "title", "output_text", "cost_usd"]
    assert "\\x1b[2J" in done.stdout
    assert not {"\x1b", "\u202e"} & set(done.stdout)
    assert max(len(line) for line in done.stdout.splitlines()) <= 100


def test_show_csv_escapes_formulas_and_has_every_column(finished: Workbench) -> None:
    rows = list(csv.DictReader(io.StringIO(finished.call("show", "out", "--format", "csv").stdout)))
    assert len(rows) == 10
    assert rows[0].keys() >= {"row_id", "output_text", "cost_ticks", "title"}
    (formula,) = [row["title"] for row in rows if row["row_id"] == "row-00007"]
    assert formula.startswith("'=1+1")


def test_show_jsonl_keeps_every_value(finished: Workbench) -> None:
    shown = finished.call("show", "out", "--format", "jsonl", "--columns", "row_id,title")
    rows = {row["row_id"]: row["title"] for row in map(json.loads, shown.stdout.splitlines())}
    assert len(rows) == 10
    assert rows["row-00007"] == "=1+1 \x1b[2J\u202eevil"


def test_show_failed_prints_the_reasons(finished: Workbench) -> None:
    done = finished.call("show", "job.toml", "--status", "failed", "--format", "jsonl")
    kinds = {row["row_id"]: row["error_kind"] for row in map(json.loads, done.stdout.splitlines())}
    assert kinds == {"row-00003": "request_rejected", "row-00005": "image_unreadable"}


def test_show_of_a_column_that_is_not_there_names_those_that_are(finished: Workbench) -> None:
    done = finished.call("show", "out", "--columns", "tilte")
    assert done.returncode == 2
    assert "title" in done.stderr


def test_a_reader_that_closes_stdout_early_is_no_error(finished: Workbench) -> None:
    command = " ".join(finished.command("show", "out", "--format", "csv"))
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | true"],
        cwd=finished.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""


# ---------------------------------------------------------------------------------- the others


def test_config_show_prints_the_source_of_each_value(bench: Workbench) -> None:
    job = bench.job(bench.manifest(bench.rows(1)))
    shown = json.loads(bench.call("config", "show", job, "--max-attempts", "3", "--json").stdout)
    assert shown["config"]["limits"]["max_attempts"] == 3
    assert shown["origins"]["limits.max_attempts"] == "flag"
    assert shown["origins"]["provider.model"] == "job file"
    assert "limits.max_attempts" in bench.call("config", "show", job).stdout


def test_a_manifest_of_a_folder_runs_with_the_caption_job(bench: Workbench, emulator: RunningEmulator) -> None:
    bench.images(3)
    made = bench.call("manifest", "images", "-o", "images/manifest.csv")
    assert made.returncode == 0, made.stderr
    assert "3 images" in made.stderr
    jobs = Path(__file__).parents[2] / "jobs"
    summary = bench.run(jobs / "caption.toml", "--manifest", "images/manifest.csv", "--out", "mine", *to(emulator))
    assert summary["rows_completed"] == 3


def test_a_manifest_elsewhere_names_the_root_for_its_job(bench: Workbench, emulator: RunningEmulator) -> None:
    """What the command says is what the job file needs: as it stands the job runs no row, with that line every row."""
    bench.images(3)
    made = bench.call("manifest", "images", "-o", "tables/manifest.csv")
    assert made.returncode == 0, made.stderr
    said = re.search(r"`(root = .+)` under \[manifest\]", made.stderr)
    assert said, made.stderr
    job = bench.folder / "mine.toml"
    text = (Path(__file__).parents[2] / "jobs" / "caption.toml").read_text()
    job.write_text(text)
    refused = bench.call("run", job, "--manifest", "tables/manifest.csv", "--out", "mine", *to(emulator))
    assert "image_forbidden" in refused.stdout + refused.stderr
    job.write_text(text.replace("[manifest]", f"[manifest]\n{said[1]}"))
    summary = bench.run(job, "--manifest", "tables/manifest.csv", "--out", "whole", *to(emulator))
    assert summary["rows_completed"] == 3


def test_models_are_listed(bench: Workbench, emulator: RunningEmulator) -> None:
    base_url = f"{emulator.url}/xai/v1"
    listed = json.loads(bench.call("models", "--provider", "xai", "--base-url", base_url, "--json").stdout)
    assert "grok-4.3" in {model["name"] for model in listed["models"]}
    assert "grok-4.3" in bench.call("models", "--provider", "xai", "--base-url", base_url).stdout


def test_emulate_serves_until_it_is_stopped(bench: Workbench) -> None:
    job = bench.job(bench.manifest(bench.rows(2)))
    server = subprocess.Popen(
        bench.command("emulate", "--port", "0", "--latency", "0.01-0.02", "--fault", "server_error=0.5"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().split()[2]
        assert url.startswith("http://127.0.0.1:")
        assert bench.run(job, "--provider", "emulator", "--base-url", f"{url}/v1")["rows_completed"] == 2
    finally:
        server.send_signal(signal.SIGINT)
        _, said = server.communicate(timeout=30)
    assert server.returncode == 0
    assert "stopped after" in said


def test_a_taken_port_is_a_usage_error(bench: Workbench, emulator: RunningEmulator) -> None:
    port = emulator.url.rpartition(":")[2]
    done = bench.call("emulate", "--port", port)
    assert done.returncode == 2
    assert f"port {port} is in use" in done.stderr


def test_the_help_of_the_command_imports_nothing_heavy() -> None:
    program = (
        "import sys; from batchvision.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    heavy = {"pyarrow", "httpx", "aiohttp", "PIL", "pydantic", "tqdm", "anyio", "asyncio"}
    assert not heavy & set(done.stderr.split())


def test_a_run_that_sends_urls_imports_nothing_that_it_does_not_use(
    bench: Workbench, emulator: RunningEmulator
) -> None:
    rows = [{**row, "image": f"https://images.example.com/{row['sku']}.jpg"} for row in bench.rows(3)]
    job = bench.job(bench.manifest(rows, "urls.parquet"))
    program = (
        "import atexit, sys; from batchvision.cli import main\n"
        "loaded = lambda: print(*(name for name, module in sys.modules.items() if module), file=sys.stderr)\n"
        "atexit.register(loaded); main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", program, "run", job.name, *to(emulator), "--quiet"]
    done = subprocess.run(
        command, cwd=bench.folder, env=bench.environment(), capture_output=True, text=True, check=True
    )
    assert [row["output_text"] is None for row in bench.table("results")] == [False] * 3
    names = set(done.stderr.split())
    assert {"batchvision.runner.session", "pyarrow.parquet"} <= names
    packages = {"aiohttp", "httpcore", "jsonschema_rs", "jsonschema", "PIL", "tqdm", "multiprocessing", "pandas"}
    modules = {"numpy.ma", "pyarrow.dataset", "pyarrow.csv", "pyarrow.json"}
    assert sorted((packages | modules) & names) == []


def test_the_ledger_as_csv_can_be_held_against_the_providers_page(bench: Workbench, emulator: RunningEmulator) -> None:
    rows = [{**row, "sku": f"=row-{number}"} for number, row in enumerate(bench.rows(5, faults={3: "reset_after:1"}))]
    job = bench.job(bench.manifest(rows), provider=f'base_url = "{emulator.base_url()}"')
    emulator.reset()
    bench.run(job)
    printed = bench.call("status", "out", "--ledger-csv", "-").stdout
    assert bench.call("status", "out", "--ledger-csv", "ledger.csv").returncode == 0
    assert (bench.folder / "ledger.csv").read_text() == printed
    lines = list(csv.DictReader(printed.splitlines()))
    billed = {entry.request_id: entry.ticks for entry in emulator.bill().entries if entry.delivered_whole}
    assert {line["provider_request_id"]: int(line["cost_ticks"]) for line in lines if line["cost_ticks"]} == billed
    (unsure,) = [line for line in lines if line["state"] == "ambiguous"]
    assert (unsure["provider_request_id"], unsure["row_id"]) == ("", "'=row-3"), "no spreadsheet takes it for a formula"
    refused = bench.call("status", "out", "--ledger-csv", "nowhere/ledger.csv")
    assert refused.returncode != 0
    assert "cannot be written" in refused.stderr
