"""The emulator's files and batches on the OpenAI and the xAI face, over loopback, with a clock that the tests move."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import httpx
import pytest
from emulated_batches import BatchCalls, answer_text, chat_body, line

from batchvision.emulator import Face, RunningEmulator, start_in_thread

DEFAULTS = {
    "batch_validation_seconds": 0.0,
    "batch_seconds": 0.0,
    "batch_life_seconds": 86_400.0,
    "batch_max_bytes": 200 * 1024 * 1024,
    "batch_max_lines": 50_000,
    "batch_max_open": None,
    "batch_max_enqueued_tokens": None,
    "batch_creates_per_second": None,
    "fault_rates": {},
}


@pytest.fixture(scope="module")
def shared() -> Iterator[RunningEmulator]:
    with start_in_thread(slow_seconds=0.02) as running:
        yield running


@pytest.fixture
def emulator(shared: RunningEmulator) -> RunningEmulator:
    shared.reset()
    shared.configure(**DEFAULTS)
    return shared


@pytest.fixture
def openai(emulator: RunningEmulator) -> Iterator[BatchCalls]:
    calls = BatchCalls(emulator, Face.OPENAI)
    with calls.http:
        yield calls


@pytest.fixture
def xai(emulator: RunningEmulator) -> Iterator[BatchCalls]:
    calls = BatchCalls(emulator, Face.XAI)
    with calls.http:
        yield calls


def added(*ids: str, text: str = "") -> dict[str, object]:
    return {
        "batch_requests": [
            {"batch_request_id": each, "batch_request": {"chat_get_completion": chat_body(f"[[echo:{each}]]{text}")}}
            for each in ids
        ]
    }


# ---------------------------------------------------------------------------------- OpenAI's face


def test_openai_states_follow_the_clock(openai: BatchCalls, emulator: RunningEmulator) -> None:
    emulator.configure(batch_validation_seconds=100, batch_seconds=1000)
    batch = openai.create(openai.upload(line(f"r{n}") for n in range(10)), metadata={"run": "7"})
    assert (batch["status"], batch["request_counts"]["total"]) == ("validating", 0)
    emulator.advance(101)
    assert openai.get(f"/batches/{batch['id']}")["status"] == "in_progress"
    emulator.advance(460)
    half = openai.get(f"/batches/{batch['id']}")
    assert (half["status"], half["request_counts"]) == ("in_progress", {"total": 10, "completed": 5, "failed": 0})
    assert half["output_file_id"] is None
    emulator.advance(460)
    assert openai.get(f"/batches/{batch['id']}")["status"] == "finalizing"
    emulator.advance(100)
    done = openai.get(f"/batches/{batch['id']}")
    assert (done["status"], done["metadata"], done["error_file_id"]) == ("completed", {"run": "7"}, None)
    assert done["request_counts"] == {"total": 10, "completed": 10, "failed": 0}


def test_answers_come_in_another_order_and_join_by_custom_id(openai: BatchCalls) -> None:
    ids = [f"r{n}" for n in range(20)]
    batch = openai.create(openai.upload(map(line, ids)))
    lines = openai.lines_of(openai.get(f"/batches/{batch['id']}")["output_file_id"])
    assert [each["custom_id"] for each in lines] != ids
    assert sorted(each["custom_id"] for each in lines) == sorted(ids)
    for each in lines:
        assert (each["error"], each["response"]["status_code"]) == (None, 200)
        assert answer_text(each["response"]["body"]).endswith(f"[[echo:{each['custom_id']}]]")


def test_a_batch_costs_half_and_is_billed_once_however_often_it_is_read(
    openai: BatchCalls, emulator: RunningEmulator
) -> None:
    body = chat_body("[[echo:a]]")
    openai.post("/chat/completions", body)
    usual = emulator.bill().ticks
    batch = openai.create(openai.upload([line("a", chat_body("[[echo:b]]"))]))
    output = openai.get(f"/batches/{batch['id']}")["output_file_id"]
    assert emulator.bill().ticks_delivered == usual
    for _ in range(3):
        openai.lines_of(output)
    bill = emulator.bill()
    assert bill.ticks - usual == usual // 2
    assert (bill.ticks_delivered, bill.delivered, bill.generated_again, bill.ids_again) == (bill.ticks, 2, 0, 0)
    assert (bill.batches, bill.uploads, bill.entries[-1].lane, bill.entries[-1].custom_id) == (1, 1, "batch", "a")


def test_a_row_and_an_id_that_are_sent_twice_are_counted(openai: BatchCalls, emulator: RunningEmulator) -> None:
    for ids in (("a", "b"), ("b", "c")):
        batch = openai.create(openai.upload(map(line, ids)))
        openai.get(f"/batches/{batch['id']}")
    bill = emulator.bill()
    assert (bill.generated, bill.generated_again, bill.ids_again) == (4, 1, 1)


def test_refused_requests_are_in_the_error_file_alone(openai: BatchCalls, emulator: RunningEmulator) -> None:
    lines = [line("good"), line("bad", chat_body("[[fault:rejected]]")), line("image", chat_body(url="data:x"))]
    done = openai.get(f"/batches/{openai.create(openai.upload(lines))['id']}")
    assert done["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
    assert [each["custom_id"] for each in openai.lines_of(done["output_file_id"])] == ["good"]
    errors = {each["custom_id"]: each["response"] for each in openai.lines_of(done["error_file_id"])}
    assert {name: each["status_code"] for name, each in errors.items()} == {"bad": 400, "image": 400}
    assert "error" in errors["bad"]["body"]
    assert emulator.bill().generated == 1


def test_a_rate_of_failures_hits_the_same_requests_each_time(openai: BatchCalls, emulator: RunningEmulator) -> None:
    failed = []
    for _ in range(2):
        emulator.reset()
        emulator.configure(fault_rates={"server_error": 0.1, "line_missing": 0.05})
        done = openai.get(f"/batches/{openai.create(openai.upload(line(f'r{n}') for n in range(200)))['id']}")
        failed.append({each["custom_id"] for each in openai.lines_of(done["error_file_id"])})
        answered = {each["custom_id"] for each in openai.lines_of(done["output_file_id"])}
        assert 180 < len(answered | failed[-1]) < 200
        assert len(answered) == emulator.bill().generated == done["request_counts"]["completed"]
    assert failed[0] == failed[1]
    assert 8 < len(failed[0]) < 40


def test_garbled_and_missing_lines_leave_the_others(openai: BatchCalls, emulator: RunningEmulator) -> None:
    lines = [
        line("good"),
        line("garbled", chat_body("[[fault:line_garbled]]")),
        line("missing", chat_body("[[fault:line_missing]]")),
    ]
    done = openai.get(f"/batches/{openai.create(openai.upload(lines))['id']}")
    text = openai.http.get(f"/files/{done['output_file_id']}/content").text
    assert len(text.splitlines()) == 2
    assert [each["custom_id"] for each in openai.lines_of(done["output_file_id"])] == ["good"]
    bill = emulator.bill()
    assert (bill.generated, bill.delivered) == (2, 1)


@pytest.mark.parametrize(
    ("bad", "code", "number"),
    [
        (line("a"), "duplicate_custom_id", 2),
        ("{not json", "invalid_json_line", 2),
        (line("b", url="/v1/embeddings"), "mismatched_endpoint", 2),
        (line("b", method="GET"), "invalid_method", 2),
        (line("b", custom_id=None), "missing_required_parameter", 2),
        (line("b", {"messages": []}), "missing_required_parameter", 2),
        (line("b", chat_body(model="grok-4.20-0309-reasoning")), "mismatched_model", 2),
        (line("b", chat_body(model="grok-4.5")), "model_not_found", 2),
        (line("b", chat_body("[[fault:bad_line]]")), "invalid_request", 2),
    ],
)
def test_one_bad_line_fails_the_batch_and_names_its_number(
    openai: BatchCalls, emulator: RunningEmulator, bad: str, code: str, number: int
) -> None:
    batch = openai.create(openai.upload([line("a"), bad, line("z")]))
    failed = openai.get(f"/batches/{batch['id']}")
    assert (failed["status"], failed["output_file_id"], failed["error_file_id"]) == ("failed", None, None)
    assert [(each["code"], each["line"]) for each in failed["errors"]["data"]] == [(code, number)]
    assert emulator.bill().generated == 0


def test_a_bad_line_that_ends_after_one_batch(openai: BatchCalls) -> None:
    lines = [line("a", chat_body("[[fault:bad_line:1]]"))]
    states = [openai.get(f"/batches/{openai.create(openai.upload(lines))['id']}")["status"] for _ in range(2)]
    assert states == ["failed", "completed"]


@pytest.mark.parametrize(
    ("option", "code"), [("batch_max_lines", "too_many_tasks"), ("batch_max_bytes", "file_too_large")]
)
def test_a_file_that_is_too_large_fails_its_batch(
    openai: BatchCalls, emulator: RunningEmulator, option: str, code: str
) -> None:
    emulator.configure(**{option: 2})
    failed = openai.get(f"/batches/{openai.create(openai.upload(line(f'r{n}') for n in range(3)))['id']}")
    assert (failed["status"], failed["errors"]["data"][0]["code"]) == ("failed", code)


def test_enqueued_tokens_are_limited_until_another_batch_has_ended(
    openai: BatchCalls, emulator: RunningEmulator
) -> None:
    emulator.configure(batch_max_enqueued_tokens=600, batch_seconds=100)
    first = openai.create(openai.upload([line("a")]))
    second = openai.create(openai.upload([line("b")]))
    assert openai.get(f"/batches/{first['id']}")["status"] == "in_progress"
    error = openai.get(f"/batches/{second['id']}")["errors"]["data"][0]
    assert (error["code"], error["line"]) == ("token_limit_exceeded", None)
    assert "Limit: 600 enqueued tokens" in error["message"]
    emulator.advance(101)
    third = openai.create(openai.upload([line("c")]))
    assert openai.get(f"/batches/{third['id']}")["status"] == "in_progress"


def test_a_cancelled_batch_gives_what_was_finished(openai: BatchCalls, emulator: RunningEmulator) -> None:
    emulator.configure(batch_seconds=1000)
    batch = openai.create(openai.upload(line(f"r{n}") for n in range(10)))
    openai.get(f"/batches/{batch['id']}")
    emulator.advance(455)
    cancelled = openai.post(f"/batches/{batch['id']}/cancel")
    assert cancelled["status"] == "cancelled"
    assert len(openai.lines_of(cancelled["output_file_id"])) == cancelled["request_counts"]["completed"] == 5
    emulator.advance(1000)
    assert openai.get(f"/batches/{batch['id']}")["request_counts"]["completed"] == 5
    assert emulator.bill().generated == 5


def test_cancelling_takes_as_long_as_a_validation(openai: BatchCalls, emulator: RunningEmulator) -> None:
    emulator.configure(batch_validation_seconds=50, batch_seconds=1000)
    batch = openai.create(openai.upload([line("b")]))
    emulator.advance(60)
    assert openai.post(f"/batches/{batch['id']}/cancel")["status"] == "cancelling"
    emulator.advance(51)
    assert openai.get(f"/batches/{batch['id']}")["status"] == "cancelled"
    assert openai.http.post(f"/batches/{batch['id']}/cancel").status_code == 409


def test_an_expired_batch_gives_its_answers_and_an_error_for_each_other_request(
    openai: BatchCalls, emulator: RunningEmulator
) -> None:
    emulator.configure(batch_seconds=1000, batch_life_seconds=455)
    batch = openai.create(openai.upload(line(f"r{n}") for n in range(10)))
    openai.get(f"/batches/{batch['id']}")
    emulator.advance(456)
    expired = openai.get(f"/batches/{batch['id']}")
    assert (expired["status"], expired["request_counts"]) == ("expired", {"total": 10, "completed": 5, "failed": 5})
    assert len(openai.lines_of(expired["output_file_id"])) == 5
    errors = openai.lines_of(expired["error_file_id"])
    assert {each["error"]["code"] for each in errors} == {"batch_expired"}
    assert len(errors) == 5


def test_batches_are_listed_in_pages_newest_first(openai: BatchCalls) -> None:
    file = openai.upload([line("a")])
    ids = [openai.create(file, metadata={"n": str(n)})["id"] for n in range(5)]
    first = openai.get("/batches", limit=3)
    rest = openai.get("/batches", limit=3, after=first["last_id"])
    assert [each["id"] for each in first["data"] + rest["data"]] == ids[::-1]
    assert (first["has_more"], rest["has_more"]) == (True, False)


def test_files_expire_and_can_be_deleted(openai: BatchCalls, emulator: RunningEmulator) -> None:
    hour = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    short, long = openai.upload([line("a")], **hour), openai.upload([line("b")])
    assert openai.http.get(f"/files/{short}/content").text == line("a")
    emulator.advance(3601)
    assert openai.http.get(f"/files/{short}").status_code == 404
    assert openai.http.delete(f"/files/{long}").json() == {"id": long, "object": "file", "deleted": True}
    assert openai.http.get(f"/files/{long}").status_code == 404
    wrong = openai.http.post("/files", data={"purpose": "vision"}, files={"file": ("a", b"x")})
    assert wrong.status_code == 400


def test_creates_and_open_batches_are_throttled(openai: BatchCalls, emulator: RunningEmulator) -> None:
    emulator.configure(batch_creates_per_second=2, batch_seconds=1000)
    file = openai.upload([line("a")])
    statuses = [openai.http.post("/batches", json=creation(file)).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    emulator.configure(batch_creates_per_second=None, batch_max_open=2)
    assert openai.http.post("/batches", json=creation(file)).status_code == 429
    emulator.advance(2000)
    assert openai.http.post("/batches", json=creation(file)).status_code == 200


def creation(file: str) -> dict[str, str]:
    return {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}


def test_a_call_is_done_and_its_answer_is_lost(openai: BatchCalls, emulator: RunningEmulator) -> None:
    with pytest.raises(httpx.TransportError):
        openai.upload([line("a")], name="[[fault:upload_reset:1]].jsonl")
    assert openai.get("/files")["data"][0]["filename"] == "[[fault:upload_reset:1]].jsonl"
    file = openai.upload([line("a")], name="[[fault:upload_reset:1]].jsonl")
    with pytest.raises(httpx.TransportError):
        openai.create(file, metadata={"mark": "[[fault:create_reset:1]]"})
    assert openai.get("/batches")["data"][0]["metadata"] == {"mark": "[[fault:create_reset:1]]"}
    bill = emulator.bill()
    assert (bill.batches, bill.by_fault) == (1, {"create_reset": 1, "upload_reset": 1})


@pytest.mark.parametrize(("fault", "status"), [("call_error", 503), ("call_throttled", 429)])
def test_a_call_that_fails_does_nothing(openai: BatchCalls, emulator: RunningEmulator, fault: str, status: int) -> None:
    name = f"[[fault:{fault}:1]]"
    response = openai.http.post("/files", data={"purpose": "batch"}, files={"file": (name, b"x")})
    assert (response.status_code, emulator.bill().uploads, openai.get("/files")["data"]) == (status, 0, [])
    emulator.configure(fault_rates={fault: 1.0})
    assert openai.http.post("/files", data={"purpose": "batch"}, files={"file": ("x", b"x")}).status_code == status


def test_results_that_break_off_are_billed_when_they_arrive_whole(
    openai: BatchCalls, emulator: RunningEmulator
) -> None:
    batch = openai.create(openai.upload([line("a")]), metadata={"mark": "[[fault:results_cut:1]]"})
    output = openai.get(f"/batches/{batch['id']}")["output_file_id"]
    with pytest.raises(httpx.RemoteProtocolError):
        openai.lines_of(output)
    assert emulator.bill().delivered == 0
    assert len(openai.lines_of(output)) == 1
    assert emulator.bill().delivered == 1


def test_a_file_of_another_face_or_without_a_key_is_refused(
    openai: BatchCalls, xai: BatchCalls, emulator: RunningEmulator
) -> None:
    file = openai.upload([line("a")])
    assert xai.http.post("/batches", json={"name": "x", "input_file_id": file}).status_code == 404
    refused = httpx.get(f"{emulator.base_url('openai')}/batches")
    assert refused.status_code == 401


# ---------------------------------------------------------------------------------- xAI's face


def test_xai_adds_answer_null_and_counters_move(xai: BatchCalls, emulator: RunningEmulator) -> None:
    emulator.configure(batch_seconds=1000)
    batch = xai.post("/batches", {"name": "night"})["batch_id"]
    assert xai.get(f"/batches/{batch}")["state"]["num_requests"] == 0
    assert xai.post(f"/batches/{batch}/requests", added(*(f"r{n}" for n in range(10)))) is None
    emulator.advance(455)
    state = xai.get(f"/batches/{batch}")["state"]
    assert state == {"num_requests": 10, "num_pending": 5, "num_success": 5, "num_error": 0, "num_cancelled": 0}
    emulator.advance(500)
    assert xai.get(f"/batches/{batch}")["state"]["num_pending"] == 0
    xai.post(f"/batches/{batch}/requests", added("late"))
    assert xai.get(f"/batches/{batch}")["state"]["num_requests"] == 11


def test_xai_timestamps_are_dates(xai: BatchCalls) -> None:
    batch = xai.post("/batches", {"name": "night"})
    assert date.fromisoformat(batch["create_time"]) <= date.fromisoformat(batch["expire_time"])
    assert (batch["cancel_time"], batch["cancel_by_xai_message"]) == (None, None)


def test_xai_results_are_paged_partial_and_repeatable(xai: BatchCalls, emulator: RunningEmulator) -> None:
    emulator.configure(batch_seconds=1000)
    batch = xai.post("/batches", {"name": "night"})["batch_id"]
    xai.post(f"/batches/{batch}/requests", added(*(f"r{n}" for n in range(10))))
    emulator.advance(455)
    early = xai.get(f"/batches/{batch}/results")
    assert (len(early["results"]), early["pagination_token"]) == (5, None)
    emulator.advance(500)
    for _ in range(2):
        seen, token = [], None
        while True:
            page = xai.get(f"/batches/{batch}/results", limit=4, **({"pagination_token": token} if token else {}))
            seen += page["results"]
            token = page["pagination_token"]
            if token is None:
                break
        assert sorted(each["batch_request_id"] for each in seen) == sorted(f"r{n}" for n in range(10))
    for each in seen:
        body = each["batch_result"]["response"]["chat_get_completion"]
        assert answer_text(body).endswith(f"[[echo:{each['batch_request_id']}]]")
    bill = emulator.bill()
    assert (bill.generated, bill.delivered, bill.ids_again) == (10, 10, 0)
    assert bill.ticks == sum(
        each["batch_result"]["response"]["chat_get_completion"]["usage"]["cost_in_usd_ticks"] for each in seen
    )
    assert xai.get(f"/batches/{batch}")["cost_breakdown"]["total_cost_usd_ticks"] == bill.ticks


def test_xai_charges_80_percent(xai: BatchCalls, emulator: RunningEmulator) -> None:
    xai.post("/chat/completions", chat_body("[[echo:a]]"))
    usual = emulator.bill().ticks
    batch = xai.post("/batches", {"name": "night"})["batch_id"]
    xai.post(f"/batches/{batch}/requests", added("b"))
    xai.get(f"/batches/{batch}/results")
    assert emulator.bill().ticks - usual == usual * 80 // 100


def test_xai_refuses_a_replayed_add_whole(xai: BatchCalls) -> None:
    batch = xai.post("/batches", {"name": "night"})["batch_id"]
    xai.post(f"/batches/{batch}/requests", added("a"))
    replay = xai.http.post(f"/batches/{batch}/requests", json=added("b", "a"))
    assert (replay.status_code, "exists in the batch already" in replay.text) == (400, True)
    assert xai.get(f"/batches/{batch}")["state"]["num_requests"] == 1


def test_an_add_whose_answer_is_lost_is_seen_in_the_list_of_requests(
    xai: BatchCalls, emulator: RunningEmulator
) -> None:
    emulator.configure(batch_seconds=1000)
    batch = xai.post("/batches", {"name": "[[fault:add_reset:1]]"})["batch_id"]
    with pytest.raises(httpx.TransportError):
        xai.post(f"/batches/{batch}/requests", added("a", "b", "c"))
    first = xai.get(f"/batches/{batch}/requests", limit=2)
    rest = xai.get(f"/batches/{batch}/requests", limit=2, pagination_token=first["pagination_token"])
    listed = first["batch_request_metadata"] + rest["batch_request_metadata"]
    assert [(each["batch_request_id"], each["state"]) for each in listed] == [(each, "pending") for each in "abc"]
    assert rest["pagination_token"] is None


def test_an_xai_file_batch_is_sealed_and_shows_no_requests_until_it_is_validated(
    xai: BatchCalls, emulator: RunningEmulator
) -> None:
    emulator.configure(batch_validation_seconds=50)
    batch = xai.create(xai.upload([line("a"), line("b")], expires_after="3600"))["batch_id"]
    state = xai.get(f"/batches/{batch}")["state"]
    assert (state["num_requests"], state["num_pending"]) == (0, 0)
    emulator.advance(51)
    assert xai.get(f"/batches/{batch}")["state"]["num_success"] == 2
    refused = xai.http.post(f"/batches/{batch}/requests", json=added("c"))
    assert (refused.status_code, "takes no requests" in refused.text) == (400, True)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (line("b", chat_body(model="grok-4.5")), "Model grok-4.5 is not supported for batch processing."),
        ("{not json", "line 2: This line is not parseable as valid JSON."),
        (line("a"), "line 2: The custom_id for this request is a duplicate of another request: a."),
    ],
)
def test_xai_cancels_a_file_with_a_bad_line_whole(xai: BatchCalls, bad: str, words: str) -> None:
    batch = xai.get(f"/batches/{xai.create(xai.upload([line('a'), bad]))['batch_id']}")
    assert batch["cancel_by_xai_message"] == f"JSONL file validation failed: {words}"
    assert batch["cancel_time"] is not None
    assert batch["state"]["num_requests"] == 0


def test_a_batch_whose_input_file_was_deleted_fails(
    openai: BatchCalls, xai: BatchCalls, emulator: RunningEmulator
) -> None:
    for calls in (openai, xai):
        file = calls.upload([line("a")])
        emulator.configure(batch_validation_seconds=50)
        created = calls.create(file)
        calls.http.delete(f"/files/{file}").raise_for_status()
        emulator.advance(51)
        batch = calls.get(f"/batches/{created.get('id') or created['batch_id']}")
        told = batch.get("cancel_by_xai_message") or batch["errors"]["data"][0]["message"]
        assert f"No such File object: {file}" in told


def test_xai_refuses_an_add_for_a_model_without_batches(xai: BatchCalls) -> None:
    batch = xai.post("/batches", {"name": "probe"})["batch_id"]
    request = {"batch_request_id": "a", "batch_request": {"chat_get_completion": chat_body(model="grok-4.5")}}
    refused = xai.http.post(f"/batches/{batch}/requests", json={"batch_requests": [request]})
    assert refused.status_code == 400
    assert refused.json()["error"] == "Model grok-4.5 is not supported for batch processing."


def test_an_error_of_xai_is_in_one_of_three_places(xai: BatchCalls) -> None:
    batch = xai.post("/batches", {"name": "night"})["batch_id"]
    xai.post(f"/batches/{batch}/requests", added(*(f"r{n}" for n in range(12)), text="[[fault:rejected]]"))
    places = set()
    for each in xai.get(f"/batches/{batch}/results")["results"]:
        result = each["batch_result"]
        places.add((each.get("error_message") is not None, "error" in result, "response" in result))
    assert places == {(True, True, False), (False, True, False), (False, False, True)}
    assert xai.get(f"/batches/{batch}")["state"]["num_error"] == 12


def test_a_cancelled_xai_batch_keeps_its_results_and_takes_no_adds(xai: BatchCalls, emulator: RunningEmulator) -> None:
    emulator.configure(batch_seconds=1000)
    batch = xai.post("/batches", {"name": "night"})["batch_id"]
    xai.post(f"/batches/{batch}/requests", added(*(f"r{n}" for n in range(10))))
    emulator.advance(455)
    cancelled = xai.post(f"/batches/{batch}:cancel", {})
    assert date.fromisoformat(cancelled["cancel_time"]) >= date.fromisoformat(cancelled["create_time"])
    assert (cancelled["state"]["num_success"], cancelled["state"]["num_cancelled"]) == (5, 5)
    assert len(xai.get(f"/batches/{batch}/results")["results"]) == 5
    assert xai.http.post(f"/batches/{batch}/requests", json=added("late")).status_code == 400


def test_xai_results_are_gone_when_the_batch_has_expired(xai: BatchCalls, emulator: RunningEmulator) -> None:
    batch = xai.post("/batches", {"name": "night"})["batch_id"]
    xai.post(f"/batches/{batch}/requests", added("a"))
    emulator.advance(86_401)
    assert xai.http.get(f"/batches/{batch}/results").status_code == 404


def test_xai_takes_the_lifetime_of_a_file_before_the_file(xai: BatchCalls) -> None:
    content = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n'
        b'--b\r\nContent-Disposition: form-data; name="expires_after"\r\n\r\n3600\r\n--b--\r\n'
    )
    late = xai.http.post("/files", content=content, headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert (late.status_code, "before the file" in late.text) == (400, True)
    assert xai.http.post("/files", data={"expires_after": "5"}, files={"file": ("a", b"x")}).status_code == 400


def test_xai_batches_are_found_by_name_in_pages(xai: BatchCalls) -> None:
    for number in range(5):
        xai.post("/batches", {"name": f"night-{number}"})
    first = xai.get("/batches", limit=3)
    rest = xai.get("/batches", limit=3, pagination_token=first["pagination_token"])
    assert [each["name"] for each in first["batches"] + rest["batches"]] == [f"night-{n}" for n in (4, 3, 2, 1, 0)]
    assert rest["pagination_token"] is None


def test_a_responses_request_is_answered_in_chat_form(xai: BatchCalls) -> None:
    body = {"model": "grok-4.3", "input": [{"role": "user", "content": [{"type": "input_text", "text": "[[echo:q]]"}]}]}
    batch = xai.create(xai.upload([line("q", body, url="/v1/responses")]))["batch_id"]
    result = xai.get(f"/batches/{batch}/results")["results"][0]["batch_result"]["response"]["chat_get_completion"]
    assert answer_text(result).endswith("[[echo:q]]")


# ---------------------------------------------------------------------------------- the emulator's own pages


def test_the_clock_is_moved_over_http(emulator: RunningEmulator) -> None:
    before = httpx.post(f"{emulator.url}/_emulator/advance", json={"seconds": 0}).json()["now"]
    after = httpx.post(f"{emulator.url}/_emulator/advance", json={"seconds": 1000}).json()["now"]
    assert after - before >= 1000
    assert httpx.post(f"{emulator.url}/_emulator/advance", json={"seconds": -1}).status_code == 400
    assert httpx.post(f"{emulator.url}/_emulator/advance", json={}).status_code == 400


def test_a_reset_forgets_batches_and_files(openai: BatchCalls, emulator: RunningEmulator) -> None:
    file = openai.upload([line("a")])
    openai.create(file)
    emulator.reset()
    assert (openai.get("/batches")["data"], openai.get("/files")["data"]) == ([], [])
