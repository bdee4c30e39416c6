"""The provider's caches in whole runs: what is sent for them, and how what they give is booked."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fake_provider import FakeProvider, error
from PIL import Image

from batchvision.commands.plan import plan
from batchvision.commands.run import run
from batchvision.commands.status import look
from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread
from batchvision.job import Job
from batchvision.records import RunSummary

SYSTEM = "You label photos of products for a shop. " * 40


def job_of(folder: Path, url: str, rows: int, provider: dict[str, Any], **sections: Any) -> Job:
    Image.new("RGB", (40, 30), "red").save(folder / "red.png")
    lines = [f"r{number},red.png,thing {number} [[echo:r{number}]]" for number in range(rows)]
    (folder / "photos.csv").write_text("\n".join(["id,image,title", *lines]) + "\n", encoding="utf-8")
    settings: dict[str, Any] = {
        "name": "caches",
        "manifest": {"path": "photos.csv", "id": "id"},
        "prompt": {"system": SYSTEM, "user": "Describe {title}."},
        "provider": {"model": "grok-4.3", "base_url": url, **provider},
        "output": {"path": "out"},
        **sections,
    }
    return Job.from_mapping(settings, folder)


# ---------------------------------------------------------------------------------- prompts


def test_grok_is_told_which_requests_begin_alike(job_runs) -> None:
    job_runs.rows(300)
    flaky = FakeProvider(lambda asked: error(500, "boom") if asked.try_ == 1 and asked.number % 10 == 0 else None)
    assert job_runs.run(flaky, limits__concurrency=64).exit_code == 0
    by_row: dict[str, set[str]] = {}
    for asked in flaky.asked:
        by_row.setdefault(asked.row, set()).add(asked.headers["x-grok-conv-id"])
    assert all(len(ids) == 1 for ids in by_row.values()), "a retry goes where the first try went"
    counts = Counter(next(iter(ids)) for ids in by_row.values())
    assert len(counts) == 4
    assert min(counts.values()) > 40


def test_off_sends_nothing(job_runs) -> None:
    job_runs.rows(20)
    provider = FakeProvider()
    job_runs.run(provider, provider__prompt_cache="off")
    assert not any(asked.headers for asked in provider.asked)


@pytest.mark.anyio
async def test_the_plan_and_the_summary_count_what_comes_from_the_prompt_cache(tmp_path: Path) -> None:
    with start_in_thread(EmulatorOptions()) as emulator:
        job = job_of(
            tmp_path,
            emulator.base_url(),
            50,
            {"name": "emulator", "base_url": f"{emulator.url}/v1", "parameters": {"max_tokens": 200}},
        )
        expected = (await plan(job)).cost.likely_ticks
        off = Job.from_mapping(job.config(), tmp_path, {"provider.prompt_cache": "off"})
        without = (await plan(off)).cost.likely_ticks
        summary = run(job, environ={})
    assert expected is not None
    assert without is not None
    assert without - expected == 50 * 384 * (12_500 - 2_000), "three blocks of 128 tokens are read from the cache"
    share = summary.cached_tokens / summary.prompt_tokens
    assert 49 * 384 <= summary.cached_tokens <= 50 * 384
    seen = look(job.output_path)
    assert (seen.tokens.prompt, seen.tokens.cached) == (summary.prompt_tokens, summary.cached_tokens)
    assert 0 < share < 1


# ---------------------------------------------------------------------------------- answers


@pytest.fixture
def router() -> Any:
    with start_in_thread(EmulatorOptions()) as emulator:
        yield emulator


def ask(folder: Path, router: RunningEmulator, out: str, **sections: Any) -> tuple[RunSummary, Job]:
    provider = {"name": "openrouter", "model": "x-ai/grok-4.3", "response_cache": True}
    url = router.base_url("openrouter")
    job = job_of(folder, url, 20, provider, output={"path": out}, **sections)
    return run(job, environ={"OPENROUTER_API_KEY": router.key}), job


def test_an_answer_from_the_cache_is_free_marked_and_leaves_the_first_cost_alone(
    tmp_path: Path, router: RunningEmulator
) -> None:
    first, job = ask(tmp_path, router, "first")
    again, other = ask(tmp_path, router, "again")
    bill = router.bill()
    assert (bill.generated, bill.repeated, bill.requests) == (20, 20, 40)
    assert first.cost_ticks == bill.ticks > 0
    assert (again.cost_ticks, again.rows_completed, again.prompt_tokens) == (0, 20, 0)
    assert look(job.output_path).spent_ticks == bill.ticks
    assert {row["cost_source"] for row in rows(other, "results")} == {"cached"}
    assert {row["cost_source"] for row in rows(job, "results")} == {"reported"}
    assert {row["cost_ticks"] for row in rows(other, "attempts")} == {0}
    ids = {row["provider_request_id"] for each in (job, other) for row in rows(each, "attempts")}
    assert len(ids) == 40, "an answer from the cache has an id of its own"


def test_an_answer_that_was_cut_off_comes_from_the_cache_and_its_cost_is_listed_as_unclear(
    tmp_path: Path, router: RunningEmulator
) -> None:
    router.configure(fault_rates={"reset_after": 0.5})
    summary, _ = ask(tmp_path, router, "out", limits={"max_attempts": 20})
    bill = router.bill()
    assert summary.exit_code == 0
    assert bill.generated_again == 0, "nothing was generated, and paid for, twice"
    assert summary.rows_ambiguous == bill.repeated > 0
    assert summary.cost_ticks == bill.ticks_delivered


def test_an_empty_answer_is_not_taken_from_the_cache_again(tmp_path: Path, router: RunningEmulator) -> None:
    router.configure(fault_rates={"empty": 0.4})
    summary, _ = ask(tmp_path, router, "out")
    bill = router.bill()
    assert bill.repeated == 0
    assert bill.generated_again == summary.retries > 0


def rows(job: Job, table: str) -> list[dict[str, Any]]:
    from batchvision.checkpoint import OutputView

    return [row for batch in OutputView(job.output_path).rows(table) for row in batch.to_pylist()]
