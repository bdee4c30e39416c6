"""``scripts/bench`` runs and prints its tables; what the figures are is said by ``scripts/bench.md``, not by a test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("openai")

REPOSITORY = Path(__file__).parents[2]


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [REPOSITORY / "scripts" / "bench", *arguments, "--rounds", "1", "--folder", str(folder)],
        env={**os.environ, "BENCH_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def _printed(folder: Path, *arguments: str) -> str:
    done = _run(folder, *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def _figures(printed: str, line: str) -> list[str]:
    """The cells of the first table line that begins with ``line``."""
    found = next(text for text in printed.splitlines() if text.startswith(f"| {line}"))
    return [cell.strip() for cell in found.strip("|").split("|")][1:]


@pytest.mark.parametrize(
    ("arguments", "ours"),
    [
        (("throughput", "--rows", "300", "--only", "0"), "batchvision "),
        (("throughput", "--rows", "240", "--only", "0.3"), "batchvision "),
        (("images", "--rows", "100"), "batchvision "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_table_sets_batchvision_beside_a_bare_loop(tmp_path: Path, arguments: tuple[str, ...], ours: str) -> None:
    printed = _printed(tmp_path, *arguments)
    assert all(float(_figures(printed, line)[0]) > 0 for line in ("aiohttp loop", ours, "openai SDK loop", "httpx"))


def test_limits_print_a_share_of_the_allowed_rate_for_each_case(tmp_path: Path) -> None:
    printed = _printed(tmp_path, "limits", "--seconds", "3", "--only", "given")
    assert float(_figures(printed, "limits given")[1]) > 0
    printed = _printed(tmp_path, "limits", "--seconds", "2", "--only", "storm")
    assert _figures(printed, "batchvision")[0].isdigit()


def test_resume_prints_how_fast_done_rows_are_passed_over(tmp_path: Path) -> None:
    printed = _printed(tmp_path, "resume", "--rows", "5000")
    assert int(_figures(printed, "plan")[0].replace(",", "")) > 0
    assert float(_figures(printed, "run of 5,000 rows")[2]) > 0


def test_tickets_print_how_often_and_how_late_they_are_asked_for(tmp_path: Path) -> None:
    printed = _printed(tmp_path, "tickets", "--rows", "100", "--seconds", "3")
    assert all(float(_figures(printed, limit)[1]) > 0 for limit in ("200 requests", "1,000 requests"))


def test_seals_print_their_bytes_the_memory_of_tickets_and_the_longest_stall(tmp_path: Path) -> None:
    printed = _printed(tmp_path, "seals", "--rows", "500")
    assert int(_figures(printed, "500 tickets and 2,000 failed rows")[0].replace(",", "")) > 0
    assert float(_figures(printed, "batchvision")[1]) > 0
    assert float(_figures(printed, "without seals")[0]) > 0


def test_load_prints_its_rate_beside_the_bulk_load_and_its_memory(tmp_path: Path) -> None:
    for only in ("duckdb", "postgres"):
        printed = _printed(tmp_path, "load", "--rows", "2000", "--only", only)
        assert all(int(_figures(printed, line)[0].replace(",", "")) > 0 for line in ("bulk load", "load", "load again"))
    printed = _printed(tmp_path, "load", "--rows", "2000", "--only", "memory")
    assert float(_figures(printed, "load again")[1]) > 0


def test_s3_prints_a_run_in_a_bucket_beside_a_local_one_and_a_bare_loop(tmp_path: Path) -> None:
    printed = _printed(tmp_path, "s3", "--rows", "60", "--only", "16")
    lines = ("local disk", "all on S3", "loop that reads the images")
    assert all(int(_figures(printed, line)[0].replace(",", "")) > 0 for line in lines)


def test_startup_prints_the_time_to_the_first_request(tmp_path: Path) -> None:
    printed = _printed(tmp_path, "startup", "--rows", "300")
    assert float(_figures(printed, "batchvision run")[0]) > 0


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="loops of idle priority are Linux's")
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed (apt install chromium)")
def test_a_report_is_measured_beside_an_empty_page(tmp_path: Path) -> None:
    printed = _printed(tmp_path, "report", "--rows", "60")
    usable, search = _figures(printed, "report")
    assert float(usable) > 0 and float(search) > 80  # the page waits 80 ms before it searches
    assert float(_figures(printed, "empty page of the same size")[0]) > 0


def test_what_keeps_the_cores_awake_gives_way_to_all_else_and_ends_with_a_bench_that_is_killed() -> None:
    bench = "import time; from benches.awake import kept_awake\nwith kept_awake(): print(flush=True); time.sleep(60)"
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY / "scripts")}
    with subprocess.Popen([sys.executable, "-c", bench], stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        loops = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(loops) == len(os.sched_getaffinity(0))
        _wait_until(lambda: all(os.sched_getscheduler(int(loop)) == os.SCHED_IDLE for loop in loops))
        process.kill()
    _wait_until(lambda: not any(_runs(loop) for loop in loops))


def _runs(pid: str) -> bool:
    """A process that has ended may wait, as a zombie, for whoever took it over."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("throughput", "--only", "0.5"), "--only 0.5: the parts of throughput are 0, 0.3, 5\n"),
        (("resume", "limits", "--only", "skip"), "--only skip: the parts of limits are given, burst-1, headers,"),
        (("images", "--only", "given"), "--only given: the parts of images are not to be had alone\n"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_part_that_is_not_there_is_refused_with_those_that_are(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = _run(tmp_path, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""
