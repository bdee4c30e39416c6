"""``service_tier = "flex"``: each answer costs the price of the tier that it names; a lack of capacity is a wait."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from batchvision.commands.plan import plan
from batchvision.emulator import Face, RunningEmulator, start_in_thread
from batchvision.job import Job
from batchvision.runner.session import run_async

pytestmark = pytest.mark.anyio

ROWS = 24
JOB = """
[manifest]
path = "photos.csv"
[prompt]
user = "{text}"
[provider]
name = "openai"
model = "grok-4.3"
api_key_env = "KEY"
prices = { input = 1.25, cached = 0.2, output = 2.5, flex_percent = 50 }
parameters = { service_tier = "flex", max_tokens = 2000 }
[limits]
concurrency = 8
[output]
path = "out"
"""


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "emulator-key")


@pytest.fixture
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread() as running:
        yield running


def job_of(folder: Path, emulator: RunningEmulator, face: Face, texts: list[str], **changes: Any) -> Job:
    Image.new("RGB", (64, 48), "red").save(folder / "a.png")
    rows = "".join(f'{number},a.png,"{text}"\n' for number, text in enumerate(texts))
    (folder / "photos.csv").write_text(f"id,image,text\n{rows}")
    (folder / "job.toml").write_text(JOB)
    given = {"provider.base_url": emulator.base_url(face), "provider.name": face.value, "manifest.id": "id", **changes}
    return Job.load(folder / "job.toml", given)


def tiers_of(folder: Path) -> dict[str, str]:
    table = pq.read_table(folder / "out" / "attempts")
    rows = zip(table["row_id"].to_pylist(), table["service_tier"].to_pylist(), table["state"].to_pylist(), strict=True)
    return {row_id: tier for row_id, tier, state in rows if state == "ok"}


@pytest.mark.parametrize("face", [Face.OPENAI, Face.OPENROUTER])
async def test_each_answer_costs_the_price_of_the_tier_that_it_names(
    tmp_path: Path, emulator: RunningEmulator, face: Face
) -> None:
    texts = [f"What is it? {n} {'[[fault:tier_default]]' if n % 4 == 0 else ''}" for n in range(ROWS)]
    summary = await run_async(job_of(tmp_path, emulator, face, texts))
    bill = emulator.bill()
    assert (summary.exit_code, summary.rows_completed) == (0, ROWS)
    assert summary.cost_ticks == bill.ticks_delivered == bill.ticks
    assert sorted(tiers_of(tmp_path).values()) == ["default"] * 6 + ["flex"] * 18


async def test_no_capacity_is_a_wait_that_spends_no_attempt(tmp_path: Path, emulator: RunningEmulator) -> None:
    texts = [f"What is it? {n} [[fault:resource_unavailable:{n % 4}]]" for n in range(ROWS)]
    job = job_of(
        tmp_path, emulator, Face.OPENAI, texts, **{"limits.max_attempts": 1, "limits.requests_per_second": 200}
    )
    summary = await run_async(job)
    assert (summary.exit_code, summary.rows_completed) == (0, ROWS)
    assert emulator.bill().by_status == {200: ROWS, 429: sum(n % 4 for n in range(ROWS))}


async def test_a_plan_has_the_price_of_the_tier_and_its_highest_cost_the_usual_one(
    tmp_path: Path, emulator: RunningEmulator
) -> None:
    texts = [f"What is it? {n}" for n in range(ROWS)]
    flex = await plan(job_of(tmp_path, emulator, Face.OPENAI, texts))
    usual = await plan(job_of(tmp_path, emulator, Face.OPENAI, texts, **{"provider.parameters": {"max_tokens": 2000}}))
    assert flex.cost.likely_ticks is not None
    assert flex.cost.likely_ticks == (usual.cost.likely_ticks or 0) // 2
    assert flex.cost.bound_ticks == usual.cost.bound_ticks
    assert emulator.bill().requests == 0


async def test_xai_has_no_flex(tmp_path: Path, emulator: RunningEmulator) -> None:
    summary = await run_async(job_of(tmp_path, emulator, Face.XAI, ["What is it?"]))
    assert (summary.rows_completed, emulator.bill().generated) == (0, 0)
