"""The emulator over real connections: the bytes on the wire, and the bill."""

from __future__ import annotations

import base64
import http.client
import io
import json
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from PIL import Image

from batchvision.emulator import EmulatorOptions, RunningEmulator, serve, start_in_thread

CHAT = "/xai/v1/chat/completions"


class Got(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return str(self.document["choices"][0]["message"]["content"])


@pytest.fixture(scope="module")
def shared() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions(deferred_seconds=0.0, slow_seconds=0.02)) as running:
        yield running


@pytest.fixture
def emulator(shared: RunningEmulator) -> RunningEmulator:
    """The one emulator of this file, as new."""
    shared.reset()
    return shared


def picture(colour: str = "red") -> str:
    target = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(target, "PNG")
    return "data:image/png;base64," + base64.b64encode(target.getvalue()).decode()


def question(text: str = "What is it?", **fields: Any) -> bytes:
    parts = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": picture()}}]
    return json.dumps({"model": "grok-4.3", "messages": [{"role": "user", "content": parts}], **fields}).encode()


def call(
    emulator: RunningEmulator,
    path: str,
    body: bytes | None = None,
    *,
    method: str | None = None,
    headers: dict[str, str] | None = None,
) -> Got:
    where = urlsplit(emulator.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=10)
    sent = {"Authorization": "Bearer emulator-key", "Content-Type": "application/json"} if headers is None else headers
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, sent)
        response = connection.getresponse()
        return Got(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    finally:
        connection.close()


# ---------------------------------------------------------------------------------- answers and the bill


@pytest.mark.parametrize("path", ["/v1", "/xai/v1", "/openrouter/api/v1", "/openai/v1"])
def test_each_face_answers_from_the_pixels_and_bills_it(emulator: RunningEmulator, path: str) -> None:
    got = call(emulator, f"{path}/chat/completions", question("What is it? [[echo:row-1]]"))
    assert got.status == 200
    assert got.text.startswith("A 64x48 PNG, mostly red [sha256 ")
    assert got.text.endswith("Prompt: What is it? [[echo:row-1]]")
    assert "no_model" in got.document["system_fingerprint"]
    bill = emulator.bill()
    assert (bill.requests, bill.generated, bill.delivered, bill.by_status) == (1, 1, 1, {200: 1})
    assert bill.ticks == bill.ticks_delivered > 0
    assert bill.by_echo() == {"row-1": 1}


def test_a_request_id_is_in_the_header_and_in_the_bill(emulator: RunningEmulator) -> None:
    routed = call(emulator, "/openrouter/api/v1/chat/completions", question())
    plain = call(emulator, CHAT, question())
    assert routed.headers["x-generation-id"] == routed.document["id"]
    assert routed.document["id"].startswith("gen-")
    assert plain.headers["x-request-id"] == plain.document["id"] == emulator.bill().entries[-1].request_id


def test_a_stream_arrives_whole(emulator: RunningEmulator) -> None:
    got = call(emulator, CHAT, question(stream=True))
    assert got.headers["content-type"] == "text/event-stream"
    assert got.body.endswith(b"data: [DONE]\n\n")
    assert emulator.bill().delivered == 1


def test_a_long_prefix_is_cached_from_the_second_request_on(emulator: RunningEmulator) -> None:
    messages = [{"role": "system", "content": "x" * 1200}, {"role": "user", "content": "hello"}]
    body = json.dumps({"model": "grok-4.3", "messages": messages}).encode()
    cached = [call(emulator, CHAT, body).document["usage"]["prompt_tokens_details"]["cached_tokens"] for _ in range(2)]
    assert cached == [0, 256]


def test_max_tokens_cuts_the_answer_and_the_price(emulator: RunningEmulator) -> None:
    got = call(emulator, CHAT, question(max_tokens=10))
    assert got.document["choices"][0]["finish_reason"] == "length"
    usage = got.document["usage"]
    assert usage["completion_tokens"] + usage["completion_tokens_details"]["reasoning_tokens"] == 10
    assert emulator.bill().ticks == usage["cost_in_usd_ticks"]


def test_a_large_image_does_not_block_other_requests(emulator: RunningEmulator) -> None:
    target = io.BytesIO()
    Image.effect_noise((900, 700), 90).convert("RGB").save(target, "PNG")
    url = "data:image/png;base64," + base64.b64encode(target.getvalue()).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}]
    body = json.dumps({"model": "grok-4.3", "messages": [{"role": "user", "content": parts}]}).encode()
    assert len(body) > 1_000_000
    assert call(emulator, CHAT, body).text.startswith("A 900x700 PNG")


def test_an_error_of_a_choice_is_free_of_charge(emulator: RunningEmulator) -> None:
    got = call(emulator, "/openrouter/api/v1/chat/completions", question("[[fault:choice_error]]"))
    assert got.document["choices"][0]["error"]["metadata"]["error_type"] == "provider_unavailable"
    assert got.document["usage"]["cost"] == 0
    assert emulator.bill().ticks == 0


# ---------------------------------------------------------------------------------- refusals


def test_keys_are_checked_and_only_the_default_address_goes_without(emulator: RunningEmulator) -> None:
    json_only = {"Content-Type": "application/json"}
    assert call(emulator, CHAT, question(), headers=json_only).status == 401
    assert call(emulator, "/v1/chat/completions", question(), headers=json_only).status == 200
    bad = call(emulator, CHAT, question(), headers={**json_only, "Authorization": "Bearer bad"})
    assert (bad.status, bad.document["code"]) == (400, "invalid-argument")
    assert bad.document["error"].startswith("Incorrect API key provided")


def test_a_wrong_content_type_path_or_method_is_refused_in_the_dialect_of_the_face(emulator: RunningEmulator) -> None:
    key = {"Authorization": "Bearer k"}
    assert call(emulator, CHAT, question(), headers=key).status == 415
    assert call(emulator, CHAT, method="PUT").status == 405
    assert call(emulator, "/chat/completions", question()).document["error"]["code"] == 404
    assert call(emulator, "/openai/v1/nothing").document["error"]["type"] == "invalid_request_error"


def test_a_body_above_the_limit_is_a_413() -> None:
    with start_in_thread(max_body_bytes=2000) as small:
        assert call(small, CHAT, question("x" * 3000)).status == 413


def test_a_refused_request_costs_nothing(emulator: RunningEmulator) -> None:
    statuses = {
        fault: call(emulator, CHAT, question(f"[[fault:{fault}]]")).status
        for fault in ("rejected", "safety", "credit", "402", "unprocessable", "429", "502", "529", "error_in_200")
    }
    assert list(statuses.values()) == [400, 403, 403, 402, 422, 429, 502, 529, 200]
    assert emulator.bill().generated == 0
    assert sum(emulator.bill().by_fault.values()) == len(statuses)


def test_a_proxy_speaks_html(emulator: RunningEmulator) -> None:
    timed_out = call(emulator, CHAT, question("[[fault:524]]"))
    page = call(emulator, CHAT, question("[[fault:html]]"))
    assert (timed_out.status, page.status) == (524, 200)
    assert timed_out.headers["content-type"] == page.headers["content-type"] == "text/html; charset=utf-8"
    assert emulator.bill().ticks > emulator.bill().ticks_delivered == 0


def test_a_counted_fault_ends_and_the_next_try_is_answered(emulator: RunningEmulator) -> None:
    body = question("[[fault:server_error:2]]")
    assert [call(emulator, CHAT, body).status for _ in range(3)] == [500, 500, 200]
    assert emulator.bill().generated_again == 0


def test_a_failed_download_only_hits_urls(emulator: RunningEmulator) -> None:
    parts = [
        {"type": "text", "text": "[[fault:image_download_failed]]"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.jpg"}},
    ]
    body = json.dumps({"model": "grok-4.3", "messages": [{"role": "user", "content": parts}]}).encode()
    assert "https://example.com/a.jpg" in call(emulator, CHAT, body).document["error"]
    assert call(emulator, CHAT, question("[[fault:image_download_failed]]")).status == 200


# ---------------------------------------------------------------------------------- broken deliveries


def test_half_a_body_is_shorter_than_announced(emulator: RunningEmulator) -> None:
    for fault in ("half_body", "cut_chunked"):
        with pytest.raises(http.client.IncompleteRead):
            call(emulator, CHAT, question(f"[[fault:{fault}]]"))
    bill = emulator.bill()
    assert (bill.generated, bill.delivered, bill.by_status) == (2, 0, {200: 2})


def test_a_silent_cut_gives_no_sign_but_broken_json(emulator: RunningEmulator) -> None:
    got = call(emulator, CHAT, question("[[fault:silent_cut]]"))
    assert got.status == 200
    with pytest.raises(json.JSONDecodeError):
        _ = got.document


@pytest.mark.parametrize(("fault", "generated"), [("reset_before", 0), ("reset_after", 1)])
def test_a_reset_before_generation_is_free_and_after_it_is_not(
    emulator: RunningEmulator, fault: str, generated: int
) -> None:
    with pytest.raises(ConnectionError):
        call(emulator, CHAT, question(f"[[fault:{fault}]]"))
    bill = emulator.bill()
    assert (bill.generated, bill.delivered, bill.by_status) == (generated, 0, {0: 1})


def test_slow_answers_arrive_whole(emulator: RunningEmulator) -> None:
    for fault in ("slow_body", "slow_start"):
        assert call(emulator, CHAT, question(f"[[fault:{fault}]]")).text.startswith("A 64x48")
    assert emulator.bill().delivered == 2


def test_a_hanging_answer_ends_when_its_client_leaves_or_the_server_stops() -> None:
    with start_in_thread() as running:
        where = urlsplit(running.url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=10)
        headers = {"Authorization": "Bearer k", "Content-Type": "application/json"}
        connection.request("POST", CHAT, question("[[fault:hang]]"), headers)
        while running.bill().generated == 0:
            threading.Event().wait(0.005)
        running.stop()
        with pytest.raises(ConnectionError):
            connection.getresponse()
        connection.close()
        assert running.bill().delivered == 0


@pytest.mark.parametrize("face", ["/xai/v1", "/openrouter/api/v1", "/openai/v1"])
def test_a_stream_can_end_early_or_in_an_error(emulator: RunningEmulator, face: str) -> None:
    for fault in ("stream_cut", "stream_error"):
        got = call(emulator, f"{face}/chat/completions", question(f"[[fault:{fault}]]", stream=True))
        assert b"[DONE]" not in got.body
        assert (b'"error"' in got.body) is (fault == "stream_error")
    assert emulator.bill().delivered == 0
    assert call(emulator, f"{face}/chat/completions", question("[[fault:stream_cut]]")).status == 200


def test_a_cut_hits_streams_too(emulator: RunningEmulator) -> None:
    with pytest.raises(http.client.IncompleteRead):
        call(emulator, CHAT, question("[[fault:cut_chunked]]", stream=True))


# ---------------------------------------------------------------------------------- deferred


def submit(emulator: RunningEmulator, text: str = "What is it?") -> str:
    got = call(emulator, CHAT, question(text, deferred=True))
    assert set(got.document) == {"request_id"}
    return f"/xai/v1/chat/deferred-completion/{got.document['request_id']}"


def test_a_deferred_answer_is_read_exactly_once(emulator: RunningEmulator) -> None:
    path = submit(emulator, "What is it? [[echo:9]]")
    assert emulator.bill().ticks_delivered == 0
    got = call(emulator, path)
    assert got.text.endswith("[[echo:9]]")
    assert call(emulator, path).status == 404
    bill = emulator.bill()
    assert (bill.requests, bill.polls, bill.generated, bill.delivered) == (1, 2, 1, 1)
    assert bill.ticks == bill.ticks_delivered == got.document["usage"]["cost_in_usd_ticks"]
    assert bill.entries[0].lane == "deferred"


def test_a_pending_ticket_is_an_empty_202(emulator: RunningEmulator) -> None:
    emulator.configure(deferred_seconds=60.0)
    try:
        got = call(emulator, submit(emulator))
    finally:
        emulator.configure(deferred_seconds=0.0)
    assert (got.status, got.body) == (202, b"")


def test_a_ticket_that_was_never_given_is_a_404(emulator: RunningEmulator) -> None:
    got = call(emulator, "/v1/chat/deferred-completion/nothing")
    assert (got.status, got.document["error"]["code"]) == (404, 404)


@pytest.mark.parametrize(
    ("fault", "statuses"),
    [
        ("poll_error:2", [500, 500, 200]),
        ("poll_rate_limited:1", [429, 200, 404]),
        ("ticket_lost", [404, 404, 404]),
        ("ticket_failed:1", [400, 404, 404]),
        ("empty", [200, 404, 404]),
    ],
)
def test_polls_meet_their_own_faults(emulator: RunningEmulator, fault: str, statuses: list[int]) -> None:
    path = submit(emulator, f"[[fault:{fault}]]")
    assert [call(emulator, path).status for _ in statuses] == statuses


def test_an_answer_cut_while_it_is_collected_is_lost_and_billed(emulator: RunningEmulator) -> None:
    path = submit(emulator, "[[fault:half_body]]")
    with pytest.raises(http.client.IncompleteRead):
        call(emulator, path)
    assert call(emulator, path).status == 404
    assert emulator.bill().ticks > emulator.bill().ticks_delivered == 0


def test_a_submission_can_be_accepted_without_returning_its_ticket(emulator: RunningEmulator) -> None:
    with pytest.raises(ConnectionError):
        call(emulator, CHAT, question("[[fault:submit_reset]]", deferred=True))
    assert emulator.bill().generated == 1


def test_a_slow_ticket_takes_longer(emulator: RunningEmulator) -> None:
    emulator.configure(slow_seconds=60.0)
    try:
        assert call(emulator, submit(emulator, "[[fault:ticket_slow]]")).status == 202
    finally:
        emulator.configure(slow_seconds=0.02)


# ---------------------------------------------------------------------------------- limits, lists, administration


def test_above_the_limit_is_a_429_and_polls_count_too() -> None:
    with start_in_thread(requests_per_minute=60, burst=2, deferred_seconds=0.0) as tight:
        path = submit(tight)
        first = call(tight, CHAT, question())
        assert first.headers["x-ratelimit-limit-requests"] == "60"
        refused = call(tight, CHAT, question())
        assert refused.status == call(tight, path).status == 429
        assert refused.document["error"].endswith("Requests per Second (actual/limit): 2/1")
        tight.configure(polls_count=False)
        assert call(tight, path).status == 200


def test_too_many_tokens_are_a_429() -> None:
    with start_in_thread(tokens_per_minute=100) as tight:
        assert [call(tight, CHAT, question()).status for _ in range(2)] == [200, 429]


def test_fault_rates_hit_the_same_requests_each_time() -> None:
    def run() -> list[int]:
        with start_in_thread(fault_rates={"server_error": 0.5}, seed=7) as unlucky:
            return [call(unlucky, CHAT, question(f"row {number}")).status for number in range(12)]

    first = run()
    assert sorted(set(first)) == [200, 500]
    assert run() == first


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/models", 200),
        ("/xai/v1/language-models", 200),
        ("/xai/v1/language-models/grok-4.3", 200),
        ("/xai/v1/language-models/grok-1", 404),
        ("/xai/v1/api-key", 200),
        ("/openrouter/api/v1/models", 200),
        ("/openrouter/api/v1/key", 200),
        ("/openai/v1/models", 200),
        ("/", 200),
    ],
)
def test_lists_and_pages_are_served(emulator: RunningEmulator, path: str, status: int) -> None:
    assert call(emulator, path).status == status
    assert emulator.bill().requests == 0


def test_lists_want_a_key_but_for_openrouters_models(emulator: RunningEmulator) -> None:
    paths = ("/xai/v1/models", "/openai/v1/models", "/openrouter/api/v1/key", "/openrouter/api/v1/models")
    assert [call(emulator, path, headers={}).status for path in paths] == [401, 401, 401, 200]


def test_the_start_page_lists_the_faults(emulator: RunningEmulator) -> None:
    text = call(emulator, "/").body.decode()
    assert "It is no model" in text
    assert "half_body" in text


def test_it_can_be_administered_over_http(emulator: RunningEmulator) -> None:
    call(emulator, CHAT, question())
    assert call(emulator, "/_emulator/bill").document["requests"] == 1
    assert "entries" not in call(emulator, "/_emulator/bill?entries=0").document
    assert call(emulator, "/_emulator/options", b'{"latency_seconds": [0, 0.001]}').status == 200
    wrong = call(emulator, "/_emulator/options", b'{"latencyseconds": 1}')
    assert (wrong.status, "did you mean latency_seconds" in wrong.document["error"]) == (400, True)
    assert call(emulator, "/_emulator/options", b"[1]").status == 400
    call(emulator, "/_emulator/reset", b"")
    assert emulator.bill().requests == 0


def test_a_stopped_emulator_keeps_its_bill_and_frees_its_port() -> None:
    running = start_in_thread()
    call(running, CHAT, question())
    running.stop()
    running.stop()
    assert running.bill().requests == 1
    assert repr(running).endswith("stopped>")
    port = urlsplit(running.url).port or 0
    with start_in_thread(EmulatorOptions(port=port)), pytest.raises(OSError, match="address already in use"):
        start_in_thread(EmulatorOptions(port=port))


def test_a_wrong_change_is_refused_and_changes_nothing(emulator: RunningEmulator) -> None:
    with pytest.raises(ValueError, match="no option"):
        emulator.configure(colour="red")
    assert emulator.key == "emulator-key"
    assert emulator.base_url("openrouter") == f"{emulator.url}/openrouter/api/v1"
    with pytest.raises(ValueError, match="is not a valid Face"):
        emulator.base_url("nobody")


@pytest.mark.anyio
async def test_serve_reports_its_address_and_ends_when_cancelled() -> None:
    import anyio

    urls: list[str] = []
    async with anyio.create_task_group() as tasks:

        def ready(url: str) -> None:
            urls.append(url)
            tasks.cancel_scope.cancel()

        tasks.start_soon(serve, EmulatorOptions(), ready)
    assert urls[0].startswith("http://127.0.0.1:")
