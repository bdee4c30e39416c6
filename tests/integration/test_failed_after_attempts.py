"""A row that fails here after it was asked: its record says how often it was asked and what that cost."""

from __future__ import annotations

import pytest
from fake_provider import Asked, FakeProvider, Reply, chat, error

from batchvision.errors import ImageUnreachable
from batchvision.records import Request, Row
from batchvision.runner.prepare import Preparer

PRICE = 700


@pytest.fixture
def nothing_to_inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The image hosts do not answer here either."""

    async def inlined(preparer: Preparer, row: Row, request: Request) -> Request:
        raise ImageUnreachable(f"{request.image_ref[0]} did not answer")

    monkeypatch.setattr(Preparer, "inlined", inlined)


def cannot_download(asked: Asked) -> Reply:
    return error(400, "Failed to download image from URL", code="image_download_failed")


def paid_then_cannot_download(asked: Asked) -> Reply:
    """An empty answer that is billed, and then the image cannot be fetched any more."""
    return Reply(200, chat("", ticks=PRICE)) if asked.try_ == 1 else cannot_download(asked)


@pytest.mark.usefixtures("nothing_to_inline")
@pytest.mark.parametrize("lane", ["online", "deferred"])
@pytest.mark.parametrize(
    ("script", "attempts", "cost"), [(cannot_download, 2, 0), (paid_then_cannot_download, 3, PRICE)]
)
def test_a_row_whose_image_cannot_be_inlined_reports_its_attempts_and_their_cost(
    job_runs, lane, script, attempts, cost
):
    job_runs.rows(4)
    provider = FakeProvider(script)
    summary = job_runs.run(provider, delivery__lane=lane)
    assert (summary.exit_code, summary.rows_failed, summary.failures_by_kind) == (3, 4, {"image_unreachable": 4})
    failures, ledger = job_runs.table("failures"), job_runs.table("attempts")
    assert {(row["attempt_count"], row["row_cost_ticks"], row["runs_failed"]) for row in failures} == {
        (attempts, cost, 1)
    }
    assert len(provider.asked) == len(ledger) == 4 * attempts
    assert {row["request_key"] for row in failures} == {row["request_key"] for row in ledger}
    assert summary.cost_ticks == 4 * cost

    job_runs.run(provider, delivery__lane=lane)
    again = job_runs.table("failures")
    assert {row["runs_failed"] for row in again} == {2}
    tries = [(row["row_id"], row["attempt"]) for row in job_runs.table("attempts")]
    assert len(tries) == len(set(tries)), "an attempt's number stands twice"
    assert {row["attempt_count"] for row in again} == {max(number for _, number in tries)}
    assert all(row["row_cost_ticks"] >= cost for row in again)


def test_attempts_of_earlier_runs_stay_with_a_row_that_now_fails_before_it_is_sent(job_runs, tmp_path):
    """A paid failure, then the image is away for a run, then it is back and answered: all attempts are the row's."""
    from PIL import Image

    for name in ("0.png", "1.png", "2.png"):  # the other images stay: most of the images of a run must be found
        Image.new("RGB", (32, 32), "red").save(tmp_path / name)
    (tmp_path / "photos.csv").write_text("sku,image,title\nr0,0.png,thing\nr1,1.png,a\nr2,2.png,b\n")
    retried = {"limits__retry_failed": "all", "manifest__image_identity": "ref"}
    refusing = FakeProvider(lambda asked: Reply(200, chat("cut", finish="length", ticks=PRICE)))
    assert job_runs.run(refusing, **retried).failures_by_kind == {"truncated": 3}
    (tmp_path / "0.png").rename(tmp_path / "away.png")
    assert job_runs.run(refusing, **retried).failures_by_kind == {"image_unreadable": 1, "truncated": 2}
    (row,) = [row for row in job_runs.table("failures") if row["row_id"] == "r0"]
    assert (row["attempt_count"], row["row_cost_ticks"], row["runs_failed"]) == (1, PRICE, 2)
    (tmp_path / "away.png").rename(tmp_path / "0.png")
    assert job_runs.run(FakeProvider(), **retried).rows_completed == 3
    (row,) = [row for row in job_runs.table("results") if row["row_id"] == "r0"]
    assert (row["attempt_count"], row["row_cost_ticks"]) == (2, PRICE + 1_000)
