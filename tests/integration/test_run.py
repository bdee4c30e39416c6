"""Whole runs in virtual time: outages, 429s, stops, and what a rerun finds."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import anyio
import pytest
from fake_provider import Asked, FakeProvider, Reply, chat, error

from batchvision.checkpoint.journal import GROUP_SECONDS
from batchvision.errors import ConnectFailed, ConnectionCut, RequestTimedOut
from batchvision.records import Counters, Request
from batchvision.runner.lanes.deferred import LAST_ROUND_SECONDS
from batchvision.runner.waiting_rows import RequestDeduplicator

START = 1_000.0  #: the virtual clock's beginning


def assert_all_completed(job_runs, summary, rows: int) -> None:
    assert (summary.rows_completed, summary.rows_failed, summary.rows_pending, summary.exit_code) == (rows, 0, 0, 0)
    assert len({row["row_id"] for row in job_runs.table("results")}) == len(job_runs.table("results")) == rows


def ledger_ticks(job_runs) -> int:
    return sum(row["cost_ticks"] or 0 for row in job_runs.table("attempts"))


# ---------------------------------------------------------------------------------- outages


@pytest.mark.parametrize("concurrency", [1, 4, 64])
@pytest.mark.parametrize(
    "outage", [error(503, "down", "unavailable"), ConnectFailed("refused"), RequestTimedOut("slow")]
)
def test_an_outage_of_an_hour_ends_with_no_failed_row(job_runs, concurrency, outage):
    job_runs.rows(100 + 5 * concurrency)

    def script(asked: Asked):
        return outage if START + 20 <= asked.at < START + 3_620 else None

    provider = FakeProvider(script)
    summary = job_runs.run(provider, limits__concurrency=concurrency)
    assert_all_completed(job_runs, summary, 100 + 5 * concurrency)
    during = [asked.at for asked in provider.asked if START + 20 <= asked.at < START + 3_620]
    assert len(during) <= 20 + 2 * concurrency + 70, "probes only, at growing intervals"


def test_a_row_that_always_fails_at_the_provider_is_tried_max_attempts_times(job_runs):
    job_runs.rows(200)
    bad = {"r3", "r77", "r199"}
    provider = FakeProvider(lambda asked: error(500, "boom") if asked.row in bad else None)
    summary = job_runs.run(provider, limits__max_attempts=4, limits__concurrency=8)
    assert {row["row_id"] for row in job_runs.table("failures")} == bad
    assert {row["error_kind"] for row in job_runs.table("failures")} == {"attempts_exhausted"}
    assert {row["last_error_kind"] for row in job_runs.table("failures")} == {"server_error"}
    assert [provider.tries_of(row) for row in sorted(bad)] == [4, 4, 4]
    assert (summary.exit_code, summary.rows_completed) == (3, 197)


def test_a_single_row_that_always_fails_ends_the_run_after_its_attempts(job_runs):
    job_runs.rows(1)
    provider = FakeProvider(lambda asked: error(500, "boom"))
    summary = job_runs.run(provider, limits__max_attempts=3)
    assert (summary.exit_code, summary.rows_failed, len(provider.asked)) == (3, 1, 3)


def test_requests_that_were_sent_again_are_counted_whatever_became_of_the_first(job_runs):
    job_runs.rows(12)
    first = {"r1": error(500, "boom"), "r2": ConnectionCut("cut"), "r3": error(429, "slow down", retry_after="1")}

    def script(asked: Asked):
        return first.get(asked.row) if asked.try_ == 1 else error(400, "no") if asked.row == "r2" else None

    provider = FakeProvider(script)
    summary = job_runs.run(provider, limits__concurrency=1)
    assert summary.requests_sent == len(provider.asked) == 15
    assert summary.retries == 3
    again = job_runs.run(FakeProvider(), limits__retry_failed="all")
    assert (again.requests_sent, again.retries) == (1, 0), "the first request of another run"


def test_rows_that_an_outage_let_go_are_counted_as_sent_again(job_runs):
    job_runs.rows(30)
    provider = FakeProvider(lambda asked: error(503, "down") if asked.at < START + 1_000 else None)
    summary = job_runs.run(provider, limits__concurrency=4)
    assert summary.rows_completed == 30
    assert summary.retries == summary.requests_sent - 30


def test_the_watch_sees_the_last_counts_also_of_answers_to_earlier_tickets(job_runs):
    job_runs.rows(6)
    seen: list[int] = []

    async def watch(counters: Counters) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            seen.append(counters.rows_completed)

    provider = FakeProvider(ticket_seconds=5_000)
    first = job_runs.run(provider, delivery__lane="deferred", delivery__max_ticket_wait_seconds=60, watch=watch)
    assert first.tickets_open == 6
    provider.tickets = {name: (0.0, body) for name, (_, body) in provider.tickets.items()}  # an hour goes by
    second = job_runs.run(provider, delivery__lane="deferred", watch=watch)
    assert seen == [0, 6] == [first.rows_completed, second.rows_completed]


def test_a_timeout_is_booked_as_ambiguous_with_its_bound_and_the_row_is_asked_again(job_runs):
    job_runs.rows(10)
    provider = FakeProvider(
        lambda asked: ConnectionCut("cut") if asked.row == "r5" and asked.try_ == 1 else None, latency_seconds=1
    )
    summary = job_runs.run(provider, provider__parameters={"max_tokens": 100})
    assert_all_completed(job_runs, summary, 10)
    (ambiguous,) = [row for row in job_runs.table("attempts") if row["state"] == "ambiguous"]
    assert ambiguous["row_id"] == "r5"
    assert ambiguous["cost_ticks"] is None
    assert ambiguous["bound_ticks"] > 0
    assert summary.rows_ambiguous == 1
    assert summary.ambiguous_ticks == ambiguous["bound_ticks"]
    (row,) = [row for row in job_runs.table("results") if row["row_id"] == "r5"]
    assert row["attempt_count"] == 2


# ---------------------------------------------------------------------------------- limits


def test_429s_spend_no_attempt_and_nobody_is_early(job_runs):
    job_runs.rows(50)
    storm_until = START + 300

    def script(asked: Asked):
        return (
            error(429, "Too many requests", "resource-exhausted", retry_after="20") if asked.at < storm_until else None
        )

    provider = FakeProvider(script, latency_seconds=0.5)
    summary = job_runs.run(provider, limits__max_attempts=1, limits__concurrency=10)
    assert_all_completed(job_runs, summary, 50)
    stormy = [asked.at for asked in provider.asked if asked.at < storm_until]
    assert len(stormy) >= 10
    assert all(later - earlier >= 20 for earlier, later in itertools.pairwise(stormy))


def test_the_first_request_travels_alone(job_runs):
    job_runs.rows(50)
    provider = FakeProvider(latency_seconds=5)
    job_runs.run(provider)
    first, second = provider.asked[0], provider.asked[1]
    assert second.at - first.at >= 5


def test_requests_a_minute_are_kept(job_runs):
    job_runs.rows(600)
    provider = FakeProvider()
    job_runs.run(provider, limits__requests_per_minute=600)
    times = [asked.at for asked in provider.asked]
    assert max(sum(1 for at in times if start <= at < start + 60) for start in times) <= 620
    assert times[-1] - times[0] <= 65


def test_no_more_than_concurrency_requests_are_on_the_wire(job_runs):
    job_runs.rows(100)
    provider = FakeProvider()
    job_runs.run(provider, limits__concurrency=7)
    assert provider.most_in_flight == 7


# ---------------------------------------------------------------------------------- stops


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (error(401, "no key"), "authentication_failed"),
        (error(400, "Incorrect API key provided: xai-..."), "authentication_failed"),
        (error(400, "Model not found: grok-99"), "model_not_found"),
        (
            error(403, "Your team has either used all available credits or reached its limit", "permission-denied"),
            "out_of_credit",
        ),
        (
            error(429, "Your team has either used all available credits or reached its limit", "exhausted"),
            "out_of_credit",
        ),
    ],
)
def test_a_key_a_model_or_credit_that_is_refused_costs_one_call(job_runs, reply, reason):
    job_runs.rows(300)
    provider = FakeProvider(lambda asked: reply)
    summary = job_runs.run(provider)
    assert len(provider.asked) == 1
    assert (summary.exit_code, summary.stop_reason, summary.rows_pending) == (5, reason, 300)
    assert job_runs.table("failures") == []
    assert_all_completed(job_runs, job_runs.run(FakeProvider()), 300)


def test_credit_that_ends_in_the_run_stops_after_what_is_in_flight_and_the_rerun_completes(job_runs):
    job_runs.rows(300)
    provider = FakeProvider(
        lambda asked: error(403, "used all available credits", "permission-denied") if asked.number > 100 else None
    )
    summary = job_runs.run(provider, limits__concurrency=16)
    assert (summary.exit_code, summary.rows_completed, summary.rows_pending) == (5, 100, 200)
    assert len(provider.asked) <= 100 + 16
    second = FakeProvider()
    assert_all_completed(job_runs, job_runs.run(second), 300)
    assert len(second.asked) == 200


def test_the_jobs_own_deadline_leaves_rows_pending_and_the_rerun_goes_on(job_runs):
    job_runs.rows(200)
    first = FakeProvider()
    summary = job_runs.run(first, limits__max_runtime_seconds=20, limits__concurrency=4)
    assert (summary.exit_code, summary.stop_reason) == (4, "deadline_reached")
    assert summary.rows_completed + summary.rows_pending == 200
    assert 0 < summary.rows_completed == len(first.asked)
    second = FakeProvider()
    assert_all_completed(job_runs, job_runs.run(second), 200)
    assert len(first.asked) + len(second.asked) == 200


def test_too_many_failures_stop_the_run(job_runs):
    job_runs.rows(500)
    provider = FakeProvider(lambda asked: error(400, "bad request") if asked.number % 2 else None)
    summary = job_runs.run(provider, limits__concurrency=5)
    assert (summary.exit_code, summary.stop_reason) == (4, "too_many_failures")
    assert 100 <= len(provider.asked) <= 110
    assert summary.rows_completed + summary.rows_failed + summary.rows_pending == 500


def test_a_cost_cap_is_never_exceeded_and_the_rest_stays_pending(job_runs):
    job_runs.rows(100)
    provider = FakeProvider(lambda asked: Reply(200, chat("x [[]]", ticks=5_000_000)))
    caps = {"limits__max_cost_usd": 0.02, "provider__parameters": {"max_tokens": 100}, "limits__concurrency": 4}
    summary = job_runs.run(provider, **caps)
    assert (summary.exit_code, summary.stop_reason) == (4, "spend_cap_reached")
    assert summary.stop_key == "limits.max_cost_usd"
    assert 0 < provider.billed_ticks <= 200_000_000
    again = job_runs.run(provider, **caps)
    assert again.exit_code == 4
    assert ledger_ticks(job_runs) == provider.billed_ticks <= 200_000_000


# ---------------------------------------------------------------------------------- answers


def test_a_truncated_answer_is_raised_once_when_the_job_says_so(job_runs):
    job_runs.rows(3)

    def script(asked: Asked):
        limit = asked.body.get("max_tokens")
        return Reply(200, chat("cut", finish="length")) if asked.row == "r1" and limit == 50 else None

    provider = FakeProvider(script)
    summary = job_runs.run(provider, provider__parameters={"max_tokens": 50}, answer__on_truncated="raise_once")
    assert_all_completed(job_runs, summary, 3)
    assert [asked.body["max_tokens"] for asked in provider.asked if asked.row == "r1"] == [50, 200]
    (row,) = [row for row in job_runs.table("results") if row["row_id"] == "r1"]
    assert row["row_cost_ticks"] == 2 * row["cost_ticks"]
    assert ledger_ticks(job_runs) == provider.billed_ticks


def test_a_truncated_answer_fails_with_its_text_kept_and_is_not_bought_again_unasked(job_runs):
    job_runs.rows(3)
    provider = FakeProvider(lambda asked: Reply(200, chat("half a", finish="length")) if asked.row == "r1" else None)
    assert job_runs.run(provider).exit_code == 3
    (failure,) = job_runs.table("failures")
    assert (failure["error_kind"], failure["last_output_text"]) == ("truncated", "half a")
    second = FakeProvider()
    assert job_runs.run(second).exit_code == 3
    assert second.asked == []


def test_an_empty_answer_is_asked_once_more(job_runs):
    job_runs.rows(2)
    provider = FakeProvider(lambda asked: Reply(200, chat("")) if asked.row == "r1" else None)
    job_runs.run(provider)
    assert provider.tries_of("r1") == 2
    assert [row["error_kind"] for row in job_runs.table("failures")] == ["empty"]


@pytest.mark.parametrize("body", [b"<html>busy</html>", b'{"choices": [{"mess', b""])
def test_a_200_that_is_no_whole_answer_is_asked_again_and_listed_as_ambiguous(job_runs, body):
    job_runs.rows(2)
    provider = FakeProvider(lambda asked: Reply(200, body) if asked.row == "r1" and asked.try_ == 1 else None)
    summary = job_runs.run(provider)
    assert_all_completed(job_runs, summary, 2)
    states = Counter(row["state"] for row in job_runs.table("attempts"))
    assert states == {"ok": 2, "ambiguous": 1}


# ---------------------------------------------------------------------------------- reruns


def test_added_removed_and_reordered_rows_pay_for_nothing_again(job_runs):
    job_runs.rows(100)
    job_runs.run(FakeProvider())
    path = job_runs.folder / "photos.csv"
    header, *lines = path.read_text().splitlines()
    changed = [*reversed(lines[10:]), "new,https://images.example/new.jpg,new thing"]
    path.write_text("\n".join([header, *changed]) + "\n")
    provider = FakeProvider()
    summary = job_runs.run(provider)
    assert [asked.row for asked in provider.asked] == ["new"]
    assert (summary.rows_total, summary.rows_completed, summary.exit_code) == (91, 91, 0)


def test_a_changed_cell_pays_only_for_its_row(job_runs):
    job_runs.rows(50)
    job_runs.run(FakeProvider())
    path = job_runs.folder / "photos.csv"
    path.write_text(path.read_text().replace("thing 7\n", "thing seven\n"))
    provider = FakeProvider()
    job_runs.run(provider)
    assert [asked.row for asked in provider.asked] == ["r7"]


def test_a_changed_recipe_is_refused_until_the_user_says_what_to_do(job_runs):
    from batchvision import JobInvalid

    job_runs.rows(20)
    job_runs.run(FakeProvider())
    provider = FakeProvider()
    with pytest.raises(JobInvalid, match=r"20 rows .*--on-recipe-change redo.* \$"):
        job_runs.run(provider, prompt__user="Name {title} [[{sku}]]")
    assert provider.asked == []
    kept = job_runs.run(provider, prompt__user="Name {title} [[{sku}]]", output__on_recipe_change="new_rows_only")
    assert (provider.asked, kept.exit_code, kept.rows_pending) == ([], 3, 20)
    job_runs.run(provider, prompt__user="Name {title} [[{sku}]]", output__on_recipe_change="redo")
    assert len(provider.asked) == 20
    job_runs.run(provider, prompt__user="Name {title} [[{sku}]]")
    assert len(provider.asked) == 20


def test_a_row_set_aside_after_so_many_runs_no_longer_makes_a_run_fail(job_runs):
    job_runs.rows(20)
    provider = FakeProvider(lambda asked: error(400, "bad request") if asked.row == "r1" else None)
    codes = [job_runs.run(provider, limits__quarantine_after_runs=3).exit_code for _ in range(4)]
    assert codes == [3, 3, 0, 0]
    assert provider.tries_of("r1") == 3
    assert job_runs.run(FakeProvider(), limits__quarantine_after_runs=3).rows_quarantined == 1


# ---------------------------------------------------------------------------------- deferred


DEFERRED = {"delivery__lane": "deferred"}


def test_deferred_answers_come_by_ticket_and_polls_keep_to_half_of_the_rate(job_runs):
    job_runs.rows(300)
    provider = FakeProvider(latency_seconds=0.2, ticket_seconds=120)
    summary = job_runs.run(provider, limits__requests_per_second=10, **DEFERRED)
    assert_all_completed(job_runs, summary, 300)
    assert len(provider.asked) == 300
    assert ledger_ticks(job_runs) == provider.billed_ticks
    assert max(sum(1 for at in provider.polls if start <= at < start + 10) for start in provider.polls) <= 60
    assert len(provider.polls) <= 300 * 12


def test_a_ticket_that_is_gone_young_is_lost_after_read_and_bought_again_only_when_asked(job_runs):
    job_runs.rows(10)

    class Forgetful(FakeProvider):
        async def _post(self, body):
            reply = await super()._post(body)
            ticket = reply.document["request_id"]
            if self.asked[int(ticket.removeprefix("ticket-")) - 1].row == "r4":
                self.tickets.pop(ticket)
            return reply

    provider = Forgetful()
    summary = job_runs.run(provider, **DEFERRED)
    assert (summary.exit_code, summary.failures_by_kind) == (3, {"lost_after_read": 1})
    (lost,) = [row for row in job_runs.table("attempts") if row["state"] == "lost_after_read"]
    assert lost["ticket"]
    second = FakeProvider()
    assert job_runs.run(second, **DEFERRED).exit_code == 3
    assert second.asked == []
    assert_all_completed(job_runs, job_runs.run(second, limits__retry_failed="lost_after_read", **DEFERRED), 10)
    assert len(second.asked) == 1


def test_tickets_still_open_after_the_wait_are_kept_and_the_next_run_collects_them(job_runs):
    job_runs.rows(30)
    provider = FakeProvider(ticket_seconds=3_000)
    summary = job_runs.run(provider, delivery__max_ticket_wait_seconds=600, **DEFERRED)
    assert (summary.exit_code, summary.stop_reason, summary.tickets_open) == (4, "deadline_reached", 30)
    assert summary.rows_pending == 30
    provider.tickets = {ticket: (0.0, answer) for ticket, (_, answer) in provider.tickets.items()}
    assert_all_completed(job_runs, job_runs.run(provider, **DEFERRED), 30)
    assert len(provider.asked) == 30


class SlowPolls(FakeProvider):
    """More tickets open than can be asked for in time: a poller is never without one that is due."""

    last_poll_at = START + 300 + LAST_ROUND_SECONDS + 10  #: a stop, the last round, and the polls then on the wire

    async def _poll(self, path):
        assert anyio.current_time() < self.last_poll_at, "polled after the end"
        await anyio.sleep(5)
        return await super()._poll(path)


def stop_while_pollers_are_busy(job_runs) -> None:
    job_runs.rows(1_000)
    summary = job_runs.run(SlowPolls(ticket_seconds=80_000), limits__max_runtime_seconds=300, **DEFERRED)
    assert (summary.exit_code, summary.stop_reason, summary.tickets_open) == (4, "deadline_reached", 1_000)


def test_a_stop_ends_polling_also_where_a_ticket_is_always_due(job_runs):
    stop_while_pollers_are_busy(job_runs)


def test_pollers_that_do_not_look_up_between_two_shields_are_caught(job_runs, monkeypatch):
    async def look_away() -> None:
        pass

    monkeypatch.setattr("batchvision.runner.exchange.checkpoint_if_cancelled", look_away)
    with pytest.raises(BaseExceptionGroup) as caught:
        stop_while_pollers_are_busy(job_runs)
    assert caught.group_contains(AssertionError, match="polled after the end")


def test_tickets_are_collected_also_by_an_online_run_and_for_rows_that_left_the_manifest(job_runs):
    job_runs.rows(30)
    provider = FakeProvider(ticket_seconds=3_000)
    job_runs.run(provider, delivery__max_ticket_wait_seconds=600, **DEFERRED)
    provider.tickets = {ticket: (0.0, answer) for ticket, (_, answer) in provider.tickets.items()}
    job_runs.rows(10, start=20)
    summary = job_runs.run(provider)
    assert len(provider.asked) == 30
    assert len(job_runs.table("results")) == 30
    assert (summary.rows_total, summary.rows_completed, summary.tickets_open) == (10, 10, 0)


def test_a_deferred_answer_that_asks_for_another_try_is_asked_again_in_the_same_run(job_runs):
    job_runs.rows(20)
    provider = FakeProvider(lambda asked: Reply(200, chat("")) if asked.row == "r2" and asked.try_ == 1 else None)
    summary = job_runs.run(provider, **DEFERRED)
    assert_all_completed(job_runs, summary, 20)
    assert provider.tries_of("r2") == 2


@pytest.mark.parametrize("then", [DEFERRED, {}])
def test_a_ticket_of_an_earlier_run_whose_answer_asks_for_another_try_is_asked_again(job_runs, then):
    job_runs.rows(20)
    provider = FakeProvider(lambda asked: Reply(200, chat("")) if asked.row == "r2" and asked.try_ == 1 else None)
    provider._ticket_seconds = 3_000
    assert job_runs.run(provider, delivery__max_ticket_wait_seconds=600, **DEFERRED).tickets_open == 20
    provider.tickets = {ticket: (0.0, answer) for ticket, (_, answer) in provider.tickets.items()}
    provider._ticket_seconds = 60
    assert job_runs.run(provider, **then).exit_code == 0
    assert {row["row_id"] for row in job_runs.table("results")} == {f"r{number}" for number in range(20)}
    assert (provider.tries_of("r2"), len(provider.asked)) == (2, 21)


def test_open_tickets_are_bounded_by_the_job(job_runs):
    job_runs.rows(400)
    provider = FakeProvider(latency_seconds=0.1, ticket_seconds=500)
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, len(provider.tickets))
            await anyio.sleep(1)

    summary = job_runs.run(provider, beside=watch, delivery__max_open_tickets=100, **DEFERRED)
    assert_all_completed(job_runs, summary, 400)
    assert 90 <= most <= 100


def test_nothing_leaves_after_a_stop_not_even_what_waited_out_a_pause(job_runs):
    job_runs.rows(200)

    def script(asked: Asked):
        if asked.number == 30:
            return error(429, "Too many requests", "resource-exhausted", retry_after="300")
        return error(403, "used all available credits", "permission-denied") if asked.number == 33 else None

    provider = FakeProvider(script, latency_seconds=3)
    summary = job_runs.run(provider, limits__concurrency=8)
    assert (summary.exit_code, summary.stop_reason) == (5, "out_of_credit")
    read_at = provider.asked[32].at + 3 + 2 * GROUP_SECONDS  # an answer is durable before it is read (P3)
    assert max(asked.at for asked in provider.asked) <= read_at
    assert summary.duration_seconds < 300
    assert_all_completed(job_runs, job_runs.run(FakeProvider()), 200)


def test_an_image_that_moves_to_another_place_in_the_prompt_is_another_question(job_runs):
    job_runs.settings["manifest"] = {"path": "photos.csv", "id": "sku", "images": ["front", "back"]}
    job_runs.settings["prompt"] = {"user": "Front: {image:front} Back: {image:back} [[{sku}]]"}
    path = job_runs.folder / "photos.csv"
    path.write_text("sku,front,back\na,https://images.example/1.jpg,\nb,https://images.example/1.jpg,\n")
    job_runs.run(FakeProvider())
    path.write_text("sku,front,back\na,,https://images.example/1.jpg\nb,https://images.example/1.jpg,\n")
    provider = FakeProvider()
    job_runs.run(provider)
    assert [asked.row for asked in provider.asked] == ["a"]
    assert len({row["request_key"] for row in job_runs.table("results")}) == 3


# ---------------------------------------------------------------------------------- identical requests


def same(job_runs, count: int, contents: int) -> None:
    """Rows of few contents: the prompt and the image repeat, the ids do not."""
    job_runs.settings["prompt"] = {"user": "Describe {title}"}
    lines = [f"r{n},https://images.example/{n % contents}.jpg,thing {n % contents}" for n in range(count)]
    (job_runs.folder / "photos.csv").write_text("\n".join(["sku,image,title", *lines]) + "\n")


@pytest.mark.parametrize("lane", ["online", "deferred"])
def test_a_thousand_rows_of_ten_contents_are_ten_requests_and_a_thousand_results(job_runs, lane):
    same(job_runs, 1_000, 10)
    provider = FakeProvider(ticket_seconds=20)
    summary = job_runs.run(provider, delivery__lane=lane)
    assert_all_completed(job_runs, summary, 1_000)
    assert len(provider.asked) == 10
    results = job_runs.table("results")
    assert sum(row["cost_ticks"] for row in results) == ledger_ticks(job_runs) == provider.billed_ticks
    assert Counter(row["cost_source"] for row in results) == {"reported": 10, "shared": 990}
    by_key = {row["request_key"]: row["output_text"] for row in results}
    assert all(row["output_text"] == by_key[row["request_key"]] for row in results)
    assert {row["title"] for row in results} == {f"thing {n}" for n in range(10)}
    assert job_runs.run(provider, delivery__lane=lane).requests_sent == 0


@pytest.mark.parametrize("lane", ["online", "deferred"])
def test_more_rows_than_may_wait_for_one_slow_request_come_after_it_and_share_its_answer(job_runs, monkeypatch, lane):
    monkeypatch.setattr("batchvision.runner.waiting_rows.MOST_FOLLOWERS", 5)
    most: list[int] = []
    wait = RequestDeduplicator.answer_for

    def watched(sharing: RequestDeduplicator, request: Request) -> Any:
        answer = wait(sharing, request)
        most.append(sum(len(leader.followers) for leader in sharing._leaders.values()))
        return answer

    monkeypatch.setattr(RequestDeduplicator, "answer_for", watched)
    same(job_runs, 300, 2)
    provider = FakeProvider(latency_seconds=500, ticket_seconds=3_000)
    summary = job_runs.run(provider, delivery__lane=lane)
    assert_all_completed(job_runs, summary, 300)
    assert len(provider.asked) == 2
    assert max(most) == 5
    assert job_runs.run(provider, delivery__lane=lane).requests_sent == 0


def test_a_row_added_later_that_asks_the_same_is_answered_from_the_output(job_runs):
    same(job_runs, 20, 20)
    job_runs.run(FakeProvider())
    same(job_runs, 30, 20)
    provider = FakeProvider()
    assert_all_completed(job_runs, job_runs.run(provider), 30)
    assert provider.asked == []


def test_each_row_is_asked_where_the_job_says_so(job_runs):
    same(job_runs, 40, 10)
    provider = FakeProvider()
    assert_all_completed(job_runs, job_runs.run(provider, limits__deduplicate=False), 40)
    assert len(provider.asked) == 40


def test_a_refusal_is_shared_and_a_failing_server_is_not_blamed_on_the_others(job_runs):
    same(job_runs, 40, 2)
    refused = error(403, "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO", "permission-denied")

    def script(asked: Asked):
        return refused if "thing 0" in str(asked.body) else None

    provider = FakeProvider(script)
    summary = job_runs.run(provider)
    assert (summary.rows_completed, summary.failures_by_kind) == (20, {"refused": 20})
    assert len(provider.asked) == 2


def test_after_a_stop_those_who_waited_for_the_same_answer_stay_pending(job_runs):
    same(job_runs, 100, 2)
    provider = FakeProvider(lambda asked: error(403, "used all available credits", "permission-denied"))
    summary = job_runs.run(provider)
    assert (summary.exit_code, summary.rows_pending) == (5, 100)
    assert_all_completed(job_runs, job_runs.run(FakeProvider()), 100)
