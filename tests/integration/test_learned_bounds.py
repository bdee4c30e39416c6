"""A cap is kept by bounds that come down with what was learned: it refuses later, and still never overspends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pyarrow.parquet as pq
import pytest
from emulated_provider import EmulatedProvider
from PIL import Image
from virtual_time import VIRTUAL

from batchvision import Job
from batchvision.money import estimator
from batchvision.records import RunSummary
from batchvision.runner.session import run_async

ROWS = 60
MAX_TOKENS = 40
#: grok-4.3, ticks a token
PROMPT, OUTPUT = 12_500, 25_000


def run(folder: Path, provider: EmulatedProvider, cap_ticks: int, concurrency: int) -> RunSummary:
    folder.mkdir()
    lines = ["sku,image,hint"]
    for number, side in enumerate((100, 300, 440)):
        Image.new("RGB", (side, side), "red").save(folder / f"{number}.png")
    lines += [f"r{number},{number % 3}.png,[[echo:r{number}]]" for number in range(ROWS)]
    (folder / "photos.csv").write_text("\n".join(lines) + "\n")
    table: dict[str, Any] = {
        "name": "capped",
        "manifest": {"path": "photos.csv", "id": "sku"},
        "prompt": {"user": "Look. {hint}"},
        "provider": {"name": "xai", "model": "grok-4.3", "parameters": {"max_tokens": MAX_TOKENS}},
        "limits": {"concurrency": concurrency, "max_cost_usd": cap_ticks / 1e10, "max_failed": "100%"},
        "output": {"path": "out"},
    }
    job = Job.from_mapping(table, folder)

    async def session() -> RunSummary:
        return await run_async(job, environ={"XAI_API_KEY": "xai-secret-key-000"}, dependencies=provider.dependencies())

    return anyio.run(session, backend_options=VIRTUAL)


def spent(folder: Path) -> int:
    paths = sorted((folder / "out" / "attempts").rglob("part-*.parquet"))
    return sum(row["cost_ticks"] for path in paths for row in pq.ParquetFile(path).read(["cost_ticks"]).to_pylist())


@pytest.mark.parametrize("concurrency", [1, 7])
@pytest.mark.parametrize("cap_usd", [0.02, 0.0237])
def test_a_cap_lets_rows_go_that_what_is_left_covers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, concurrency: int, cap_usd: float
) -> None:
    cap_ticks = round(cap_usd * 1e10)
    left = {}
    for name, answers in (("learned", estimator.ANSWERS_BEFORE_TRUST), ("never learned", 10**9)):
        monkeypatch.setattr(estimator, "ANSWERS_BEFORE_TRUST", answers)
        provider = EmulatedProvider()
        summary = run(tmp_path / name, provider, cap_ticks, concurrency)
        assert summary.stop_reason == "spend_cap_reached"
        assert spent(tmp_path / name) == provider.billed_ticks <= cap_ticks
        left[name] = cap_ticks - provider.billed_ticks
    text = 2 * 30 + 40  # characters, two tokens each at most, and what stands around messages
    assert left["learned"] < (text + estimator.MARGIN * 512) * PROMPT + MAX_TOKENS * OUTPUT
    assert left["never learned"] >= 1792 * PROMPT - 512 * PROMPT, "by the first bound, money for rows would be left"


def test_an_image_dearer_than_anything_learned_counts_at_once_and_raises_the_bound(tmp_path: Path) -> None:
    """The rule changes under way: the cap may be passed by what one answer cost above its bound, and by no more."""
    provider = EmulatedProvider()
    provider.image_rule = lambda width, height: 512 if provider.requests.total() < 20 else 1700
    cap_ticks = 250_000_000
    summary = run(tmp_path / "turned", provider, cap_ticks, 1)

    assert summary.stop_reason == "spend_cap_reached"
    assert provider.billed_ticks <= cap_ticks + 1700 * PROMPT
