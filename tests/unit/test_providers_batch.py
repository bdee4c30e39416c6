"""Batch dialects: calls, states, refusals, chunks and results, from answers as the providers write them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchvision.errors import AnswerCutShort, Expired, JobInvalid, RateLimited, RequestRejected, ServerError
from batchvision.providers import (
    BatchCounts,
    BatchDialect,
    BatchLook,
    BatchRefusal,
    BatchRefusalKind,
    BatchResult,
    BatchState,
    Chunk,
    LineSize,
    ResultsReader,
    batch_dialect,
    chunks,
    dialect,
)
from batchvision.records import RawAnswer

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
OPENAI, XAI = batch_dialect(dialect("openai")), batch_dialect(dialect("xai"))
BODY = '{"model":"m","messages":[{"role":"user","content":"é"}]}'.encode()
ANSWER = {
    "id": "chatcmpl-1",
    "model": "grok-4.3",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "A shoe."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13, "cost_in_usd_ticks": 7_240_000},
}


def raw(document: Any, status: int = 200, complete: bool = True, **headers: str) -> RawAnswer:
    return RawAnswer(status, headers, json.dumps(document).encode(), NOW, complete)


def look(batches: BatchDialect, document: Any) -> BatchLook:
    found = batches.read_look(raw(document))
    assert isinstance(found, BatchLook)
    return found


def refusal(found: object) -> BatchRefusal:
    assert isinstance(found, BatchRefusal)
    return found


def results(reader: ResultsReader, pieces: Iterable[bytes]) -> dict[str, BatchResult]:
    found: dict[str, BatchResult] = {}
    for piece in pieces:
        found.update({each.our_id: each for each in reader.feed(piece)})
    found.update({each.our_id: each for each in reader.end()})
    return found


# ---------------------------------------------------------------------------------- who has batches


def test_openrouter_is_refused_with_the_reason_and_the_way_out() -> None:
    with pytest.raises(JobInvalid) as refused:
        batch_dialect(dialect("openrouter"))
    assert "data URIs" in refused.value.message
    assert 'delivery.lane = "online"' in refused.value.message
    assert 'service_tier = "flex"' in refused.value.message


def test_the_emulator_has_the_batches_of_xai() -> None:
    assert type(batch_dialect(dialect("emulator"))) is type(XAI)


@pytest.mark.parametrize(
    ("base_url", "most"),
    [
        ("https://api.openai.com/v1", 200_000_000),
        ("https://api.together.xyz/v1", 100_000_000),
        ("https://api.groq.com/openai/v1", 100_000_000),
        ("https://together.xyz.example.com/v1", 200_000_000),
    ],
)
def test_limits_follow_the_server(base_url: str, most: int) -> None:
    assert OPENAI.limits(base_url).max_bytes == most


def test_limits_are_settings() -> None:
    limits = XAI.limits("https://api.x.ai/v1")
    assert (limits.max_lines, limits.creates_per_second) == (50_000, 2.0)
    assert limits._replace(max_lines=10, max_enqueued_tokens=900_000).max_enqueued_tokens == 900_000


# ---------------------------------------------------------------------------------- calls


def test_a_line_holds_the_body_byte_for_byte() -> None:
    line = OPENAI.line("run-1_7", BODY)
    assert line.endswith(b"\n")
    assert BODY in line
    document = json.loads(line)
    assert {name: document[name] for name in ("custom_id", "method", "url")} == {
        "custom_id": "run-1_7",
        "method": "POST",
        "url": "/v1/chat/completions",
    }


@pytest.mark.parametrize("our_id", ["", "a" * 65, "row 1", "ä", 'a"b', "a\n"])
def test_an_id_that_a_provider_refuses_is_an_error(our_id: str) -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        OPENAI.line(our_id, BODY)
    with pytest.raises(ValueError, match="1 to 64"):
        XAI.add("batch_1", [(our_id, BODY)])


def test_a_body_with_a_line_end_is_an_error() -> None:
    with pytest.raises(ValueError, match="line end"):
        OPENAI.line("a", b'{\n"model":"m"}')


def test_openai_calls() -> None:
    assert OPENAI.create("run-1.2", "file-9")[:2] == ("POST", "/batches")
    assert json.loads(OPENAI.create("run-1.2", "file-9").json or b"") == {
        "input_file_id": "file-9",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": {"batchvision": "run-1.2"},
    }
    assert OPENAI.look("batch_1")[:2] == ("GET", "/batches/batch_1")
    assert OPENAI.cancel("batch/1")[:2] == ("POST", "/batches/batch%2F1/cancel")
    assert OPENAI.list_batches().path == "/batches?limit=100"
    assert OPENAI.list_batches("batch_1").path == "/batches?limit=100&after=batch_1"
    assert OPENAI.list_requests("batch_1") is None
    assert OPENAI.delete_file("file-9")[:2] == ("DELETE", "/files/file-9")
    with pytest.raises(ValueError, match="uploaded file"):
        OPENAI.create("run-1.2")
    with pytest.raises(NotImplementedError):
        OPENAI.add("batch_1", [])


def test_xai_calls() -> None:
    assert json.loads(XAI.create("run-1.2").json or b"") == {"name": "run-1.2"}
    assert json.loads(XAI.create("run-1.2", "file-9").json or b"") == {"name": "run-1.2", "input_file_id": "file-9"}
    added = XAI.add("batch_1", [("a", BODY), ("b", BODY)])
    assert added[:2] == ("POST", "/batches/batch_1/requests")
    assert json.loads(added.json or b"") == {
        "batch_requests": [
            {"batch_request_id": each, "batch_request": {"chat_get_completion": json.loads(BODY)}} for each in "ab"
        ]
    }
    assert XAI.cancel("batch_1")[:3] == ("POST", "/batches/batch_1:cancel", b"{}")
    assert XAI.list_batches("a=b").path == "/batches?limit=100&pagination_token=a%3Db"
    listed = XAI.list_requests("batch_1", "t")
    assert listed is not None
    assert listed.path == "/batches/batch_1/requests?limit=100&pagination_token=t"


@pytest.mark.parametrize(
    ("batches", "fields"),
    [
        (OPENAI, {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "86400"}),
        (XAI, {"expires_after": "86400"}),
    ],
)
def test_an_upload_is_multipart_with_the_fields_before_the_file(batches: BatchDialect, fields: dict[str, str]) -> None:
    file = batches.upload("rows.jsonl", timedelta(days=1)).file
    assert file is not None
    mail = message_from_bytes(f"Content-Type: {file.content_type}\r\n\r\n".encode() + file.head + b"{}\n" + file.tail)
    parts = {part.get_param("name", header="content-disposition"): part.get_payload() for part in mail.get_payload()}
    assert list(parts) == [*fields, "file"]
    assert parts == {**fields, "file": "{}\n"}


# ---------------------------------------------------------------------------------- chunks


def test_chunks_are_cut_by_bytes_lines_tokens_and_model() -> None:
    sizes = [
        LineSize(40, 10, "a"),
        LineSize(60, 10, "a"),
        LineSize(1, 10, "a"),
        LineSize(1, 90, "a"),
        LineSize(1, 1, "b"),
    ]
    assert list(chunks(sizes, max_bytes=100, max_lines=10, max_tokens=100)) == [
        Chunk(0, 2, 100, 20, "a"),
        Chunk(2, 2, 2, 100, "a"),
        Chunk(4, 1, 1, 1, "b"),
    ]
    assert [each.lines for each in chunks(sizes[:3], max_bytes=1000, max_lines=2)] == [2, 1]
    assert list(chunks([], 1, 1)) == []


@given(
    st.lists(st.builds(LineSize, st.integers(1, 120), st.integers(0, 120), st.sampled_from("ab"))),
    st.integers(1, 5),
)
def test_chunks_hold_each_line_once_and_only_a_single_line_is_above_a_limit(sizes: list[LineSize], lines: int) -> None:
    cut = list(chunks(sizes, 100, lines, 100))
    assert [number for each in cut for number in range(each.first, each.first + each.lines)] == list(range(len(sizes)))
    for each in cut:
        members = sizes[each.first : each.first + each.lines]
        assert (each.size_bytes, each.tokens) == (sum(m.size_bytes for m in members), sum(m.tokens for m in members))
        assert {member.model for member in members} == {each.model}
        assert each.lines == 1 or (each.lines <= lines and each.size_bytes <= 100 and each.tokens <= 100)


# ---------------------------------------------------------------------------------- states


def openai_batch(status: str, **fields: Any) -> dict[str, Any]:
    return {"id": "batch_1", "object": "batch", "status": status, "created_at": 1_763_640_000, **fields}


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("validating", BatchState.PREPARING),
        ("queued", BatchState.WAITING),
        ("in_progress", BatchState.RUNNING),
        ("finalizing", BatchState.RUNNING),
        ("cancelling", BatchState.RUNNING),
        ("completed", BatchState.ENDED),
        ("expired", BatchState.EXPIRED),
        ("cancelled", BatchState.CANCELLED),
        ("failed", BatchState.FAILED),
    ],
)
def test_openai_states(status: str, state: BatchState) -> None:
    found = look(OPENAI, openai_batch(status))
    assert found.state is state
    assert state.is_final == (status in ("completed", "expired", "cancelled", "failed"))


def test_an_openai_batch_in_full() -> None:
    found = look(
        OPENAI,
        openai_batch(
            "completed",
            metadata={"batchvision": "run-1.2"},
            input_file_id="file-in",
            output_file_id="file-out",
            error_file_id="file-err",
            expires_at=1_763_726_400,
            request_counts={"total": 5, "completed": 3, "failed": 1},
        ),
    )
    assert (found.name, found.input_file, found.counts.pending) == ("run-1.2", "file-in", 1)
    assert found.created_at == datetime(2025, 11, 20, 12, 0, tzinfo=UTC)
    assert [call.path for call in OPENAI.results(found)] == ["/files/file-out/content", "/files/file-err/content"]


def test_errors_that_live_only_in_the_error_file_are_read() -> None:
    found = look(OPENAI, openai_batch("completed", output_file_id=None, error_file_id="file-err"))
    assert [call.path for call in OPENAI.results(found)] == ["/files/file-err/content"]


def xai_batch(requests: int = 0, pending: int = 0, success: int = 0, error: int = 0, **fields: Any) -> dict[str, Any]:
    state = {
        "num_requests": requests,
        "num_pending": pending,
        "num_success": success,
        "num_error": error,
        "num_cancelled": requests - pending - success - error,
    }
    return {"batch_id": "batch_1", "name": "run-1.2", "state": state, **fields}


@pytest.mark.parametrize(
    ("document", "state"),
    [
        (xai_batch(), BatchState.PREPARING),
        (xai_batch(input_file_id="file-1"), BatchState.PREPARING),
        (xai_batch(10, 10), BatchState.WAITING),
        (xai_batch(10, 4, 6), BatchState.RUNNING),
        (xai_batch(10, 0, 9, 1), BatchState.ENDED),
        (xai_batch(10, 4, 6, cancel_time="2026-11-20"), BatchState.CANCELLED),
        (xai_batch(cancel_time="2026-11-20", cancel_by_xai_message="line 3: no JSON"), BatchState.FAILED),
        (xai_batch(10, 0, 6, cancel_by_xai_message="stopped by an operator"), BatchState.CANCELLED),
        (xai_batch(10, 4, 6, expire_time="2026-11-19"), BatchState.EXPIRED),
        (xai_batch(10, 4, 6, expire_time="2026-11-20"), BatchState.RUNNING),
        (xai_batch(10, 4, 6, expires_at="2026-11-20T11:59:00Z"), BatchState.EXPIRED),
        ({"batch_id": "batch_1", "state": None}, BatchState.PREPARING),
    ],
)
def test_xai_states_are_derived_from_counters(document: dict[str, Any], state: BatchState) -> None:
    assert look(XAI, document).state is state


def test_a_date_of_expiry_means_the_end_of_its_day() -> None:
    found = look(XAI, xai_batch(create_time="2026-11-19", expire_time="2026-11-20"))
    assert found.created_at == datetime(2026, 11, 19, tzinfo=UTC)
    assert found.expires_at == datetime(2026, 11, 20, 23, 59, 59, 999_999, tzinfo=UTC)


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "soon", "", 7.5, None, 10**30])
def test_a_time_that_is_none_is_left_out(text: object) -> None:
    found = look(XAI, xai_batch(10, 4, 6, create_time=text, expire_time=text))
    assert (found.created_at, found.expires_at, found.state) == (None, None, BatchState.RUNNING)


def test_results_of_xai_are_asked_for_as_soon_as_there_are_some() -> None:
    assert XAI.results(look(XAI, xai_batch(10, 10))) == ()
    running = look(XAI, xai_batch(10, 4, 6, cost_breakdown={"total_cost_usd_ticks": 77}))
    assert [call.path for call in XAI.results(running)] == ["/batches/batch_1/results?limit=500"]
    assert [call.path for call in XAI.results(running, "t+1")] == [
        "/batches/batch_1/results?limit=500&pagination_token=t%2B1"
    ]
    assert (running.cost_ticks, running.counts) == (77, BatchCounts(10, 6))


# ---------------------------------------------------------------------------------- listings


def test_a_batch_that_was_never_acknowledged_is_found_by_its_name() -> None:
    mine = {"batchvision": "run-1.2"}
    data = [openai_batch("validating"), openai_batch("validating", id="batch_2", metadata=mine)]
    listing = OPENAI.read_listing(raw({"data": data, "has_more": True, "last_id": "batch_2"}))
    assert not isinstance(listing, BatchRefusal)
    assert [each.batch_id for each in listing.named("run-1.2")] == ["batch_2"]
    assert listing.next_page == "batch_2"
    pages = XAI.read_listing(raw({"batches": [xai_batch(), xai_batch(name="other")], "pagination_token": "t"}))
    assert not isinstance(pages, BatchRefusal)
    assert (len(pages.named("run-1.2")), pages.named("run-9"), pages.next_page) == (1, (), "t")


@pytest.mark.parametrize("document", [{"batches": None}, {}])
def test_an_empty_list_of_xai_may_be_null(document: dict[str, Any]) -> None:
    listing = XAI.read_listing(raw(document))
    assert not isinstance(listing, BatchRefusal)
    assert (listing.looks, listing.next_page) == ((), None)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"batches":[', b'{"batches":{}}', b'{"status":"ok"}'])
def test_a_list_that_cannot_be_read_is_never_an_empty_list(body: bytes) -> None:
    answer = RawAnswer(200, {}, body, NOW)
    assert refusal(XAI.read_listing(answer)).kind is BatchRefusalKind.AGAIN
    assert refusal(OPENAI.read_listing(answer)).kind is BatchRefusalKind.AGAIN
    if b"status" not in body:
        assert refusal(XAI.read_requests(answer._replace(body=body.replace(b"batches", b"batch_request_metadata"))))
    assert refusal(OPENAI.read_listing(raw({"data": []}, complete=False)))


def test_requests_that_xai_has_are_listed() -> None:
    metadata = [{"batch_request_id": "a", "state": "pending"}, {"batch_request_id": "b", "state": "succeeded"}, 7]
    listing = XAI.read_requests(raw({"batch_request_metadata": metadata, "pagination_token": "t"}))
    assert listing == (("a", "b"), "t")
    assert XAI.read_requests(raw({"batch_request_metadata": None})) == ((), None)
    with pytest.raises(NotImplementedError):
        OPENAI.read_requests(raw({}))


# ---------------------------------------------------------------------------------- refusals


def test_a_successful_call_is_read() -> None:
    assert OPENAI.read_uploaded(raw({"id": "file-1"})) == "file-1"
    created = XAI.read_created(raw({"batch_id": "batch_1"}))
    assert isinstance(created, BatchLook)
    assert XAI.read_added(raw(None)) is None
    assert OPENAI.read_deleted(raw({}, 404)) is None


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (raw({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, 429), BatchRefusalKind.AGAIN),
        (raw({"error": {"message": "oops"}}, 503), BatchRefusalKind.AGAIN),
        (raw({}), BatchRefusalKind.AGAIN),
        (raw({"id": "batch_1", "status": "validating"}, complete=False), BatchRefusalKind.AGAIN),
        (raw({"error": {"message": "Too many open batches: 10 of 10."}}, 429), BatchRefusalKind.QUOTA),
        (
            raw({"code": "invalid-argument", "error": "Model grok-4.5 is not supported for batch processing."}, 400),
            BatchRefusalKind.NOT_OFFERED,
        ),
        (raw({"error": {"message": "Not implemented"}}, 501), BatchRefusalKind.NOT_OFFERED),
        (raw({"error": {"message": "no route"}}, 404), BatchRefusalKind.NOT_OFFERED),
        (raw({"error": {"message": "No such File object: file-1"}}, 404), BatchRefusalKind.GONE),
        (raw({"error": {"message": "bad key", "code": "invalid_api_key"}}, 401), BatchRefusalKind.STOP),
        (raw({"error": {"message": "completion_window is wrong"}}, 400), BatchRefusalKind.REJECTED),
    ],
)
def test_the_refusal_of_a_create(answer: RawAnswer, kind: BatchRefusalKind) -> None:
    assert refusal(OPENAI.read_created(answer)).kind is kind


def test_refusals_of_later_calls() -> None:
    gone = refusal(XAI.read_look(raw({"error": {"code": 404, "message": "No batch found"}}, 404)))
    assert gone.kind is BatchRefusalKind.GONE
    twice = refusal(XAI.read_added(raw({"code": "x", "error": "batch_request_id a exists in the batch already."}, 400)))
    assert twice.kind is BatchRefusalKind.DUPLICATE
    late = refusal(OPENAI.read_look(raw({"error": {"message": "Cannot cancel a completed batch"}}, 409)))
    assert late.kind is BatchRefusalKind.REJECTED
    throttled = refusal(XAI.read_added(raw({"code": "x", "error": "slow"}, 429, **{"retry-after": "7"})))
    assert (throttled.kind, throttled.retry_after_seconds) == (BatchRefusalKind.AGAIN, 7.0)
    assert isinstance(throttled.error, RateLimited)


def failed(*errors: dict[str, Any]) -> BatchRefusal:
    found = look(OPENAI, openai_batch("failed", errors={"object": "list", "data": list(errors)}))
    assert found.refusal is not None
    return found.refusal


def test_a_batch_beyond_the_enqueued_tokens_waits_and_names_the_limit() -> None:
    found = failed(
        {
            "code": "token_limit_exceeded",
            "message": "Enqueued token limit reached for gpt-4o in organization o. Limit: 900,000 enqueued tokens. "
            "Please try again once some in_progress batches have been completed.",
            "line": None,
        }
    )
    assert (found.kind, found.max_enqueued_tokens) == (BatchRefusalKind.QUOTA, 900_000)


def test_bad_lines_are_named_by_their_index() -> None:
    found = failed(
        {"code": "invalid_json_line", "message": "not JSON", "line": 7},
        {"code": "duplicate_custom_id", "message": "custom_id x is a duplicate", "line": 1},
    )
    assert (found.kind, found.lines) == (BatchRefusalKind.LINES, (0, 6))
    assert failed({"code": "other", "message": "?", "line": None}).kind is BatchRefusalKind.REJECTED
    assert failed().message == "the batch failed, and the provider gives no reason"


def test_a_model_without_batches_fails_the_batch_whatever_line_it_names() -> None:
    found = failed({"code": "model_not_found", "message": "The provided model 'x' is not supported.", "line": 1})
    assert found.kind is BatchRefusalKind.NOT_OFFERED
    message = "JSONL file validation failed: Model grok-4.5 is not supported for batch processing."
    cancelled = look(XAI, xai_batch(cancel_time="2026-11-20", cancel_by_xai_message=message)).refusal
    assert cancelled is not None
    assert (cancelled.kind, cancelled.message) == (BatchRefusalKind.NOT_OFFERED, message)


@pytest.mark.parametrize(
    ("words", "kind", "lines"),
    [
        ("JSONL file validation failed: line 12: invalid JSON", BatchRefusalKind.LINES, (11,)),
        ("JSONL file validation failed", BatchRefusalKind.REJECTED, ()),
    ],
)
def test_xai_names_a_line_or_none(words: str, kind: BatchRefusalKind, lines: tuple[int, ...]) -> None:
    found = look(XAI, xai_batch(cancel_by_xai_message=words)).refusal
    assert found is not None
    assert (found.kind, found.lines) == (kind, lines)


# ---------------------------------------------------------------------------------- results


def output_line(our_id: str, **fields: Any) -> bytes:
    response = {"status_code": 200, "request_id": f"req-{our_id}", "body": ANSWER}
    return json.dumps({"id": "b", "custom_id": our_id, "response": response, "error": None, **fields}).encode() + b"\n"


def answer_of(result: BatchResult) -> RawAnswer:
    assert result.answer is not None
    assert result.error is None
    return result.answer


def test_an_output_file_is_read_in_pieces_of_any_size() -> None:
    content = output_line("a") + b"\n" + output_line("b")[:-1]
    for size in (1, 7, 100_000):
        pieces = [content[at : at + size] for at in range(0, len(content), size)]
        found = results(OPENAI.results_reader(NOW), pieces)
        assert list(found) == ["a", "b"]
        reading = dialect("openai").read(answer_of(found["b"]))
        assert (reading.error, reading.answer.text) == (None, "A shoe.")
        assert reading.answer.provider_request_id == "req-b"


def test_one_undecodable_line_costs_its_own_request_only() -> None:
    reader = OPENAI.results_reader(NOW)
    found = results(reader, [output_line("a"), output_line("b")[:80] + b"\n", b"\xff{garbage\n", output_line("c")])
    assert sorted(found) == ["a", "b", "c"]
    assert isinstance(found["b"].error, AnswerCutShort)
    assert found["b"].error.maybe_billed
    assert reader.undecodable == 1


def test_errors_of_lines_become_answers_with_their_status() -> None:
    refused = {
        "status_code": 400,
        "request_id": None,
        "body": {"error": {"message": "bad image", "code": "invalid_image"}},
    }
    gateway = {"status_code": 502, "request_id": None, "body": "<html>Bad gateway</html>"}
    expired = {"code": "batch_expired", "message": "This request could not be executed."}
    lines = [
        output_line("refused", response=refused),
        output_line("expired", response=None, error=expired),
        output_line("failed", response=None, error={"code": "server_error", "message": "sorry"}),
        output_line("gateway", response=gateway),
        output_line("no-body", response={"status_code": 500, "body": None}),
        output_line("nothing", response=None),
    ]
    found = results(OPENAI.results_reader(NOW), lines)
    read = dialect("openai").read
    assert isinstance(read(answer_of(found["refused"])).error, RequestRejected)
    for name in ("failed", "gateway", "no-body"):
        assert isinstance(read(answer_of(found[name])).error, ServerError)
    assert isinstance(found["expired"].error, Expired)
    assert isinstance(found["nothing"].error, AnswerCutShort)


def page(*entries: dict[str, Any], token: str | None = None) -> bytes:
    return json.dumps({"results": list(entries), "pagination_token": token}).encode()


def test_a_page_of_xai_has_answers_and_errors_in_three_places() -> None:
    rejected = {"code": 3, "message": "bad image"}
    entries = (
        {"batch_request_id": "a", "batch_result": {"response": {"chat_get_completion": ANSWER}}},
        {"batch_request_id": "any-key", "batch_result": {"response": {"responses": ANSWER}, "error": {"code": 0}}},
        {"batch_request_id": "top", "batch_result": {"error": rejected}, "error_message": "bad image"},
        {"batch_request_id": "only-top", "batch_result": None, "error_message": "bad image"},
        {"batch_request_id": "inner", "batch_result": {"error": rejected}},
        {
            "batch_request_id": "in-body",
            "batch_result": {"response": {"chat_get_completion": {"code": "invalid-argument", "error": "bad image"}}},
        },
        {"batch_request_id": "cancelled", "batch_result": {"error": {"code": 1, "message": "cancelled"}}},
        {"batch_request_id": "nothing", "batch_result": None},
    )
    reader = XAI.results_reader(NOW)
    content = page(*entries, token="next")
    found = results(reader, [content[:50], content[50:]])
    assert (len(found), reader.next_page, reader.problem) == (8, "next", None)
    read = dialect("xai").read
    for name in ("a", "any-key"):
        reading = read(answer_of(found[name]))
        assert (reading.error, reading.answer.usage.cost_ticks) == (None, 7_240_000)
    for name in ("top", "inner", "in-body"):
        error = read(answer_of(found[name])).error
        assert isinstance(error, RequestRejected)
        assert "bad image" in error.what
    assert "bad image" in str(read(answer_of(found["only-top"])).error)
    assert isinstance(found["cancelled"].error, Expired)
    assert isinstance(found["nothing"].error, AnswerCutShort)


@pytest.mark.parametrize("content", [b"", b"<html>", b'{"results":[{"batch_request_id":"a"', b'{"results":7}', b"[]"])
def test_a_page_that_cannot_be_read_is_a_problem_and_not_the_end(content: bytes) -> None:
    reader = XAI.results_reader(NOW)
    assert results(reader, [content]) == {}
    assert reader.problem is not None


def test_an_empty_page_is_the_end() -> None:
    reader = XAI.results_reader(NOW)
    assert results(reader, [b'{"results":null,"pagination_token":"again"}']) == {}
    assert (reader.problem, reader.next_page) == (None, None)


@given(
    st.binary(max_size=400)
    | st.lists(st.sampled_from([output_line("a"), b'{"custom_id":"b"', b"[[[", b"\n"])).map(b"".join)
)
def test_results_of_any_bytes_never_raise(content: bytes) -> None:
    for batches in (OPENAI, XAI):
        results(batches.results_reader(NOW), [content])
        answer = RawAnswer(200, {}, content, NOW)
        for read in (batches.read_uploaded, batches.read_created, batches.read_look, batches.read_listing):
            read(answer)
            read(answer._replace(status=500))
    XAI.read_requests(RawAnswer(200, {}, content, NOW))


def test_a_request_without_a_result_has_an_error_by_the_end_of_its_batch() -> None:
    cases = (
        (openai_batch("expired"), Expired, "expired before"),
        (openai_batch("cancelled"), Expired, "was cancelled"),
        (openai_batch("completed"), AnswerCutShort, "do not hold this request"),
        (openai_batch("failed"), ServerError, "failed before any request was answered"),
    )
    for document, kind, words in cases:
        error = OPENAI.unanswered(look(OPENAI, document))
        assert isinstance(error, kind)
        assert words in error.what
