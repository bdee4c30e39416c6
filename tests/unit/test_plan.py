"""A plan counts the requests of a run by the run's own survey and feed, and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from batchvision.checkpoint import KeySet, PaidRows, RowIndex
from batchvision.checkpoint.row_index import LedgerSums
from batchvision.checkpoint.run_state import RunState
from batchvision.commands.plan import plan, shortened
from batchvision.job import Job
from batchvision.keys import key_bytes
from batchvision.records import Estimate, Row
from batchvision.runner import CountedRequest
from batchvision.runner.counting import DuplicateRequests


def make_job(folder: Path, rows: str, **overrides: Any) -> Job:
    """A job over a CSV of id, image, title; images red.png, big.png and odd.webp lie beside it."""
    Image.new("RGB", (40, 30), "red").save(folder / "red.png")
    Image.new("RGB", (400, 300), "blue").save(folder / "big.png")
    Image.new("RGB", (20, 20), "green").save(folder / "odd.webp")
    Image.new("RGB", (2000, 1500), "green").save(folder / "huge.png")
    (folder / "photos.csv").write_text("id,image,title\n" + rows, encoding="utf-8")
    settings: Mapping[str, Any] = {
        "name": "planned",
        "manifest": {"path": "photos.csv", "id": "id", "images": "image"},
        "prompt": {"user": "Describe {title}."},
        "provider": {"name": "xai", "model": "grok-4.3", "parameters": {"max_tokens": 100}},
        "output": {"path": "out"},
    }
    return Job.from_mapping(settings, folder, overrides=overrides)


@pytest.mark.anyio
async def test_every_row_is_in_one_count(tmp_path: Path) -> None:
    job = make_job(tmp_path, "a,red.png,x\nb,,x\nc,missing.png,x\na,red.png,x\nd,odd.webp,x\n")
    document = (await plan(job)).document()
    assert document["rows"]["total"] == 5
    assert document["rows"]["to_do"] == document["requests"] == 2
    assert document["rows"]["invalid"] == 3
    reasons = {row["row_id"]: row["reason"] for row in document["invalid"]}
    assert "no image" in reasons["b"]
    assert "image_unreadable" in reasons["c"]
    assert "first in row 1" in reasons["a#2"]


@pytest.mark.anyio
async def test_images_are_counted_by_format_and_size(tmp_path: Path) -> None:
    job = make_job(tmp_path, "a,red.png,x\nb,odd.webp,x\nc,big.png,x\nd,https://example.com/a.jpg,x\n")
    images = (await plan(job)).document()["images"]
    assert images["count"] == 4
    assert images["by_format"] == {"png": 2, "webp": 1, "url": 1}
    assert images["to_convert"] == 1
    assert images["by_side"] == {"512": 3}
    assert images["bytes"] == sum((tmp_path / name).stat().st_size for name in ("red.png", "odd.webp", "big.png"))


@pytest.mark.anyio
async def test_an_image_over_max_side_will_be_converted(tmp_path: Path) -> None:
    job = make_job(tmp_path, "a,red.png,x\nc,big.png,x\n", **{"images.max_side": 100})
    assert (await plan(job)).images.to_convert == 1


@pytest.mark.anyio
async def test_cost_has_a_bound_where_max_tokens_gives_one(tmp_path: Path) -> None:
    bounded = (await plan(make_job(tmp_path, "a,red.png,x\n"))).document()["cost_usd"]
    assert 0 < bounded["expected"] <= bounded["high"]
    assert bounded["source"] == "estimate"
    unbounded = await plan(make_job(tmp_path, "a,red.png,x\n", **{"provider.parameters": {}}))
    assert unbounded.document()["cost_usd"]["high"] is None


@pytest.mark.anyio
async def test_a_model_without_prices_has_no_cost(tmp_path: Path) -> None:
    job = make_job(tmp_path, "a,red.png,x\n", **{"provider.model": "nobody-knows"})
    assert (await plan(job)).document()["cost_usd"] == {"expected": None, "low": None, "high": None, "source": None}


@pytest.mark.anyio
async def test_time_follows_from_the_jobs_own_rate(tmp_path: Path) -> None:
    rows = "".join(f"{number},red.png,{number}\n" for number in range(10))
    job = make_job(tmp_path, rows, **{"limits.requests_per_minute": 60, "limits.requests_per_second": 5})
    assert (await plan(job)).document()["duration_seconds"]["expected"] == 10.0
    assert (await plan(make_job(tmp_path, rows))).document()["duration_seconds"]["expected"] is None


@pytest.mark.anyio
async def test_each_lane_takes_its_own_time(tmp_path: Path) -> None:
    rows = "".join(f"{number},red.png,{number}\n" for number in range(10))
    job = make_job(tmp_path, rows, **{"limits.requests_per_second": 5})
    seconds = (await plan(job)).document()["duration_seconds"]
    assert seconds["by_lane"] == {"online": 2.0, "deferred": 4.0}, "each ticket is polled at least once"
    slow = await plan(make_job(tmp_path, rows, **{"limits.tokens_per_minute": 60, "delivery.lane": "deferred"}))
    assert slow.seconds_at_limit == slow.cost.tokens


@pytest.mark.anyio
async def test_rows_that_ask_the_same_are_one_request(tmp_path: Path) -> None:
    rows = "a,red.png,x\nb,red.png,x\nc,red.png,y\n"
    document = (await plan(make_job(tmp_path, rows))).document()
    assert (document["rows"]["to_do"], document["requests"]) == (3, 2)
    each = (await plan(make_job(tmp_path, rows, **{"limits.deduplicate": False}))).document()
    assert each["requests"] == 3
    assert each["cost_usd"]["expected"] == pytest.approx(1.5 * document["cost_usd"]["expected"], rel=0.01)


def test_each_distinct_request_is_counted_once_across_batches() -> None:
    """Beside it, in a stretch before, or answered by an earlier run."""
    answered = KeySet([key_bytes("old")])
    row_index = RowIndex(RunState(), KeySet(), lambda: PaidRows("r"), LedgerSums(0, 0), answered)
    duplicates = DuplicateRequests(row_index)
    asked = [["b", "a", "b", "old", "a"], ["a", "c", "old", "c", "d"], []]
    firsts = [[each.row.row_id for each in duplicates.removed_from(_seen(*keys))] for keys in asked]
    assert firsts == [["0 b", "1 a"], ["1 c", "4 d"], []]


def _seen(*request_keys: str) -> list[CountedRequest]:
    rows = [Row(place, f"{place} {key}", (), (), (), "") for place, key in enumerate(request_keys)]
    return [CountedRequest(row, (), key, Estimate(1, 1, 1)) for row, key in zip(rows, request_keys, strict=True)]


@pytest.mark.anyio
async def test_an_image_counts_as_large_as_it_is_sent(tmp_path: Path) -> None:
    (whole,) = [(await plan(make_job(tmp_path, "c,huge.png,x\n"))).cost]
    (small,) = [(await plan(make_job(tmp_path, "c,huge.png,x\n", **{"images.max_side": 400}))).cost]
    (low,) = [(await plan(make_job(tmp_path, "c,huge.png,x\n", **{"provider.detail": "low"}))).cost]
    assert whole.prompt_tokens - small.prompt_tokens == 1792 - 512
    assert whole.prompt_tokens - low.prompt_tokens == 1792 - 256


@pytest.mark.anyio
async def test_a_bad_image_is_left_out_if_the_job_allows_it(tmp_path: Path) -> None:
    settings = {"manifest.image_separator": ";", "manifest.on_bad_image": "skip_image"}
    drawn = await plan(make_job(tmp_path, "a,red.png;missing.png,x\nb,missing.png,x\n", **settings))
    assert (drawn.rows.to_do, drawn.rows.invalid) == (1, 1)


@pytest.mark.anyio
async def test_the_cached_share_of_prompts_is_counted(tmp_path: Path) -> None:
    job = make_job(tmp_path, "a,red.png,x\nb,red.png,y\n", **{"prompt.system": "word " * 1000})
    cached = await plan(job)
    plain = await plan(make_job(tmp_path, "", **{"prompt.system": "word " * 1000, "provider.prompt_cache": "off"}))
    assert cached.document()["tokens"]["cached"] == 2 * (1250 // 128 * 128)
    assert plain.cost.cached_tokens == 0


@pytest.mark.anyio
async def test_prices_older_than_thirty_days_give_a_warning(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text('as_of = 2020-01-01\n["grok-4.3"]\ninput = 1\noutput = 2\n')
    job = make_job(tmp_path, "a,red.png,x\n", **{"provider.prices_file": "prices.toml"})
    assert "days old" in (await plan(job)).document()["warning"]
    own = {"provider.prices": {"input": 1, "output": 2}}
    assert "warning" not in (await plan(make_job(tmp_path, "a,red.png,x\n", **own))).document()


@pytest.mark.anyio
async def test_a_shown_request_is_the_body_with_its_base64_cut(tmp_path: Path) -> None:
    drawn = await plan(make_job(tmp_path, "a,red.png,shoes\nb,red.png,x\n"), show_requests=1)
    (shown,) = drawn.document()["request_bodies"]
    assert shown["row_id"] == "a"
    assert shown["body"]["model"] == "grok-4.3"
    assert shown["body"]["max_tokens"] == 100
    assert "Describe shoes." in json.dumps(shown)
    assert len(json.dumps(shown)) < 1000


@pytest.mark.anyio
async def test_a_request_that_needs_a_download_is_not_shown(tmp_path: Path) -> None:
    job = make_job(tmp_path, "a,https://example.com/a.jpg,x\n", **{"provider.image_mode": "inline"})
    (shown,) = (await plan(job, show_requests=1)).requests_shown
    assert "downloads nothing" in shown["cannot_be_made"]


@pytest.mark.anyio
async def test_nothing_is_written(tmp_path: Path) -> None:
    job = make_job(tmp_path, "a,red.png,x\n")
    before = sorted(tmp_path.rglob("*"))
    await plan(job)
    assert sorted(tmp_path.rglob("*")) == before


def test_only_base64_is_shortened() -> None:
    uri = "data:image/png;base64," + "A" * 1000
    document = {"text": "A" * 1000, "parts": [{"url": uri}, {"url": "https://example.com/" + "A" * 100}]}
    cut = shortened(document)
    assert cut["text"] == document["text"]
    assert cut["parts"][0]["url"] == "data:image/png;base64," + "A" * 24 + "... (1,000 characters)"
    assert cut["parts"][1] == document["parts"][1]


@pytest.mark.anyio
async def test_the_reason_of_an_invalid_row_names_its_bad_image(tmp_path: Path) -> None:
    planned = await plan(make_job(tmp_path, "a,red.png;missing.png,x\n", **{"manifest.image_separator": ";"}))
    ((row_id, reason),) = planned.reasons
    assert row_id == "a"
    assert reason.startswith("image_unreadable: image 2 of 2")
    assert "missing.png" in reason
