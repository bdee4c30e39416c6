"""Refusals by the provider in whole runs: which stop the run, after how many requests, and what the next run does."""

from __future__ import annotations

import pytest
from fake_provider import Asked, FakeProvider, Reply, error

from batchvision.limits import FIRST_WINDOW

PAGE = b"<!DOCTYPE html><html><body>Sorry, you have been blocked</body></html>"
BLOCKED = {
    "page 403": Reply(403, PAGE, {"content-type": "text/html"}),
    "page 404": Reply(404, PAGE, {"content-type": "text/html"}),
    "page 405": Reply(405, PAGE, {"content-type": "text/html"}),
    "redirect": Reply(302, b"", {"location": "/blocked"}),
    "json 403": Reply(403, {"message": "Request blocked by policy"}),
    "own 403": Reply(403, {"error": {"message": "Forbidden", "type": "forbidden"}}),
    "key": error(401, "Incorrect API key provided"),
    "own key": error(400, "Incorrect API key provided"),
    "model": error(404, "Model not found: grok-4.3"),
    "no eyes": error(500, "image input is not supported"),
}
UNSURE = ("page 403", "page 404", "page 405", "redirect", "json 403", "own 403", "no eyes")


def blocking(reply: Reply, *rows: str) -> FakeProvider:
    return FakeProvider(lambda asked: reply if asked.row in rows else None)


def failed_rows(job_runs) -> set[str]:
    return {row["row_id"] for row in job_runs.table("failures")}


@pytest.mark.parametrize("reply", BLOCKED.values(), ids=BLOCKED)
def test_a_refusal_after_successes_fails_its_row_and_the_run_goes_on(job_runs, reply):
    job_runs.rows(20)
    summary = job_runs.run(blocking(reply, "r5"), limits__concurrency=1)
    assert (summary.exit_code, summary.rows_completed, summary.rows_failed, summary.rows_pending) == (3, 19, 1, 0)
    (row,) = job_runs.table("failures")
    assert (row["row_id"], row["error_kind"]) == ("r5", "request_rejected")
    assert row["last_error_kind"] in ("authentication_failed", "model_not_found")
    assert "this one is refused" in row["error_message"]
    assert "check XAI_API_KEY" not in row["error_message"]
    states = [row["state"] for row in job_runs.table("attempts")]
    assert sorted(states) == ["failed"] + ["ok"] * 19


@pytest.mark.parametrize("kind", UNSURE)
@pytest.mark.parametrize("concurrency", [1, 64])
def test_at_the_start_one_other_row_decides(job_runs, kind, concurrency):
    job_runs.rows(50)
    provider = FakeProvider(lambda asked: BLOCKED[kind])
    summary = job_runs.run(provider, limits__concurrency=concurrency)
    assert (summary.exit_code, summary.rows_failed, summary.rows_pending) == (5, 0, 50)
    assert len(provider.asked) == 2
    stopped_by = summary.stopped_by
    assert stopped_by == tuple(asked.row for asked in provider.asked)

    again = blocking(BLOCKED[kind], "r0")
    summary = job_runs.run(again, limits__concurrency=concurrency)
    assert again.asked[0].row not in stopped_by, "a rerun does not begin with the rows that stopped the last run"
    assert {asked.row for asked in again.asked[-2:]} == set(stopped_by)
    assert (summary.exit_code, failed_rows(job_runs), summary.rows_completed) == (3, {"r0"}, 49)


@pytest.mark.parametrize("kind", UNSURE)
def test_a_first_row_that_is_refused_by_itself_does_not_stop_the_run(job_runs, kind):
    job_runs.rows(30)
    summary = job_runs.run(blocking(BLOCKED[kind], "r0"))
    assert (summary.exit_code, failed_rows(job_runs), summary.rows_completed) == (3, {"r0"}, 29)


@pytest.mark.parametrize("kind", ["key", "own key", "model"])
def test_a_first_answer_about_key_or_model_stops_after_one_request(job_runs, kind):
    job_runs.rows(50)
    provider = FakeProvider(lambda asked: BLOCKED[kind])
    summary = job_runs.run(provider)
    assert (summary.exit_code, len(provider.asked), summary.rows_pending) == (5, 1, 50)


@pytest.mark.parametrize("reply", BLOCKED.values(), ids=BLOCKED)
def test_five_rows_in_a_row_stop_the_run_and_stay_pending(job_runs, reply):
    job_runs.rows(40)
    bad = {f"r{n}" for n in range(10, 40)}
    summary = job_runs.run(blocking(reply, *bad), limits__concurrency=1)
    assert (summary.exit_code, summary.rows_completed, summary.rows_failed, summary.rows_pending) == (5, 10, 0, 30)
    assert summary.stopped_by == ("r10", "r11", "r12", "r13", "r14")
    assert job_runs.table("failures") == []

    provider = FakeProvider()
    summary = job_runs.run(provider)
    assert provider.asked[0].row == "r15"
    assert (summary.exit_code, summary.rows_completed) == (0, 40)


def test_four_in_a_row_again_and_again_fail_their_rows(job_runs):
    job_runs.rows(40)
    bad = {f"r{n}" for n in range(5, 40) if n % 5}
    summary = job_runs.run(blocking(BLOCKED["page 403"], *bad), limits__concurrency=1, limits__max_failed=1000)
    assert (summary.exit_code, failed_rows(job_runs)) == (3, bad)


def test_rows_that_are_refused_run_after_run_never_stop_a_run(job_runs):
    """The last five rows of the manifest trip a firewall: the first run cannot know, all later ones do."""
    job_runs.rows(20)
    bad = {f"r{n}" for n in range(15, 20)}
    exits = [job_runs.run(blocking(BLOCKED["page 403"], *bad), limits__concurrency=1).exit_code for _ in range(4)]
    assert exits == [5, 3, 3, 3]
    assert failed_rows(job_runs) == bad


def test_a_row_refused_alone_stays_a_failed_row_in_reruns_that_ask_nothing_else(job_runs):
    job_runs.rows(10)
    exits = [job_runs.run(blocking(BLOCKED["page 403"], "r5")).exit_code for _ in range(4)]
    assert exits == [3, 3, 3, 3]


def test_another_model_or_place_is_proven_anew(job_runs):
    job_runs.rows(10)
    assert job_runs.run(blocking(BLOCKED["page 403"], "r5")).provider_answered
    summary = job_runs.run(blocking(BLOCKED["page 403"], "r5"), provider__base_url="https://other.example/v1")
    assert (summary.exit_code, summary.provider_answered, summary.stopped_by) == (5, False, ("r5",))


def test_a_manifest_of_one_row_that_is_refused_ends_with_the_providers_refusal(job_runs):
    job_runs.rows(1)
    summary = job_runs.run(FakeProvider(lambda asked: BLOCKED["page 403"]))
    assert (summary.exit_code, summary.rows_pending) == (5, 1)


# ---------------------------------------------------------------------------------- rejected alike

NO_DB = error(400, "Authentication Error, No connected db.")


@pytest.mark.parametrize("concurrency", [1, 64])
def test_ten_identical_rejections_from_the_start_stop_the_run(job_runs, concurrency):
    job_runs.rows(200)
    provider = FakeProvider(lambda asked: NO_DB)
    summary = job_runs.run(provider, limits__concurrency=concurrency)
    assert (summary.exit_code, summary.stop_reason, summary.rows_pending) == (5, "requests_rejected", 200)
    assert len(provider.asked) <= 10 + FIRST_WINDOW
    assert len(summary.stopped_by) == 10
    assert "No connected db." in (summary.message or "")

    again = FakeProvider()
    job_runs.run(again)
    assert again.asked[0].row not in summary.stopped_by


@pytest.mark.parametrize(
    "script",
    [
        lambda asked: NO_DB if asked.number <= 9 else None,
        lambda asked: error(400, "invalid image") if int(asked.row[1:]) < 30 else None,
        lambda asked: error(400, "no " + "z" * int(asked.row[1:])) if int(asked.row[1:]) < 30 else None,
    ],
    ids=["nine", "about an image", "each different"],
)
def test_other_rejections_fail_their_rows(job_runs, script):
    job_runs.rows(200)
    summary = job_runs.run(FakeProvider(script), limits__max_failed=1000)
    assert summary.exit_code == 3
    assert summary.rows_failed == (9 if summary.rows_failed < 10 else 30)
    assert summary.rows_completed == 200 - summary.rows_failed


def test_a_small_manifest_whose_rows_are_all_rejected_lists_them(job_runs):
    job_runs.rows(9)
    summary = job_runs.run(FakeProvider(lambda asked: NO_DB))
    assert (summary.exit_code, summary.rows_failed) == (3, 9)


def test_until_the_first_success_ten_requests_are_in_flight_at_most(job_runs):
    job_runs.rows(300)

    def script(asked: Asked) -> Reply | None:
        return error(400, "odd " + "z" * asked.number) if asked.number <= 60 else None

    provider = FakeProvider(script, latency_seconds=30)  # longer than the first request travels alone
    most_before: list[int] = []
    answered = provider._post

    async def watching(body: bytes) -> Reply:
        reply = await answered(body)
        if reply.status != 200 and not any(row.number > 70 for row in provider.asked):
            most_before.append(provider.most_in_flight)
        return reply

    provider._post = watching  # type: ignore[method-assign]
    job_runs.run(provider, limits__concurrency=256, limits__max_failed=1000)
    assert max(most_before) == FIRST_WINDOW
    assert provider.most_in_flight > 100


def test_in_the_deferred_lane_a_refused_submission_fails_its_row(job_runs):
    job_runs.rows(20)
    summary = job_runs.run(blocking(BLOCKED["page 403"], "r5"), delivery__lane="deferred")
    assert (summary.exit_code, failed_rows(job_runs), summary.rows_completed) == (3, {"r5"}, 19)
