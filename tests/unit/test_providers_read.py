"""Bodies of every shape are read: answers, streams, half answers, and bytes that are none. Nothing raises."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchvision import errors
from batchvision.errors import AnswerCutShort, EmptyAnswer, RateLimited, Refused, ServerError, Truncated
from batchvision.providers import Gone, NotReady, Reading, dialect, wire
from batchvision.records import RawAnswer, Usage

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)

#: As xAI answers (PROVIDERS 1a).
GROK: dict[str, Any] = {
    "id": "1990daa4",
    "object": "chat.completion",
    "model": "grok-4.20-0309-non-reasoning",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "A red shoe.", "reasoning_content": None, "refusal": None},
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 612,
        "completion_tokens": 24,
        "total_tokens": 666,
        "prompt_tokens_details": {"text_tokens": 100, "image_tokens": 512, "cached_tokens": 64},
        "completion_tokens_details": {"reasoning_tokens": 30},
        "cost_in_usd_ticks": 9050000,
    },
    "system_fingerprint": "fp_0d42a4eb3d",
    "service_tier": "default",
}


def raw(body: Any, status: int = 200, headers: dict[str, str] | None = None, complete: bool = True) -> RawAnswer:
    content = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return RawAnswer(status, headers or {}, content, NOW, complete)


def read(body: Any, provider: str = "xai", **more: Any) -> Reading:
    return dialect(provider).read(raw(body, **more))


def chat(content: Any = "A red shoe.", finish: Any = "stop", message: Any = None, **choice: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content} | (message or {})
    return {"id": "gen-1", "choices": [{"index": 0, "message": message, "finish_reason": finish, **choice}]}


def test_all_facts_of_a_grok_answer_are_read() -> None:
    answer, error = read(GROK, headers={"x-request-id": "req-7"})

    assert error is None
    assert answer.text == "A red shoe."
    assert answer.finish_reason == "stop"
    assert answer.model == "grok-4.20-0309-non-reasoning"
    assert answer.system_fingerprint == "fp_0d42a4eb3d"
    assert answer.service_tier == "default"
    assert answer.provider_request_id == "req-7"
    assert answer.usage == Usage(
        prompt_tokens=612,
        image_tokens=512,
        cached_tokens=64,
        completion_tokens=24,
        reasoning_tokens=30,
        cost_ticks=9050000,
        cost_source="reported",
    )


def test_an_answer_of_openrouter_names_the_upstream_provider_and_its_id() -> None:
    body = chat() | {"model": "x-ai/grok-4.3", "provider": "xAI"}
    answer = read(body, "openrouter", headers={"x-generation-id": "gen-header"}).answer

    assert (answer.upstream_provider, answer.model) == ("xAI", "x-ai/grok-4.3")
    assert answer.provider_request_id == "gen-header"
    assert read(body, "openrouter").answer.provider_request_id == "gen-1"


# ---------------------------------------------------------------------------------- what a 200 may hold

CHOICES: list[tuple[str, Any, type[Exception] | None, str]] = [
    ("an answer", chat(), None, "A red shoe."),
    ("no finish reason", chat(finish=None), None, "A red shoe."),
    ("an empty finish reason", chat(finish=""), None, "A red shoe."),
    ("an unknown finish reason", chat(finish="eos"), None, "A red shoe."),
    (
        "content in parts",
        chat([{"type": "text", "text": "A red "}, {"type": "text", "text": "shoe."}]),
        None,
        "A red shoe.",
    ),
    ("blank lines around", chat("\n\n A red shoe.\n"), None, "\n\n A red shoe.\n"),
    ("null error", chat() | {"error": None}, None, "A red shoe."),
    ("empty content", chat(""), EmptyAnswer, ""),
    ("null content", chat(None), EmptyAnswer, ""),
    ("whitespace content", chat(" \n\t"), EmptyAnswer, " \n\t"),
    ("reasoning only", chat(None, message={"reasoning_content": "Hm."}), EmptyAnswer, ""),
    ("tool calls only", chat(None, "tool_calls"), EmptyAnswer, ""),
    ("content of a wrong type", chat(17), EmptyAnswer, ""),
    ("no choice", {"choices": []}, EmptyAnswer, ""),
    ("a choice that is none", {"choices": [None]}, EmptyAnswer, ""),
    ("content without width", chat("\u200b \ufeff"), EmptyAnswer, "\u200b \ufeff"),
    ("usage and no choices", {"usage": {"prompt_tokens": 7, "completion_tokens": 0}}, EmptyAnswer, ""),
    ("usage and null choices", {"choices": None, "usage": {"cost_in_usd_ticks": 7}}, EmptyAnswer, ""),
    ("usage and choices that are none", {"choices": {}, "usage": {"completion_tokens": 7}}, EmptyAnswer, ""),
    ("usage that says nothing", {"usage": {}}, AnswerCutShort, ""),
    ("an error beside usage", {"error": {"code": 502}, "usage": {"prompt_tokens": 7}}, ServerError, ""),
    ("too long", chat("A red sh", "length"), Truncated, "A red sh"),
    ("too long, in capitals", chat("A red sh", "MAX_TOKENS"), Truncated, "A red sh"),
    ("reasoning ate max_tokens", chat(None, "length"), Truncated, ""),
    ("filtered", chat("A r", "content_filter"), Refused, "A r"),
    ("filtered, Gemini", chat("", "SAFETY"), Refused, ""),
    ("declined", chat(None, message={"refusal": "I cannot help with that."}), Refused, "I cannot help with that."),
    ("declined beside content", chat("No.", message={"refusal": "I cannot."}), Refused, "No."),
    ("blank refusal", chat(message={"refusal": " "}), None, "A red shoe."),
    ("a choice's error", chat("A r", "error", error={"code": 502, "message": "gone"}), ServerError, "A r"),
    ("a choice's 429", chat("", "error", error={"code": 429, "message": "slow"}), RateLimited, ""),
    ("failed without a word", chat("A r", "error"), ServerError, "A r"),
    ("error beside choices", chat() | {"error": {"code": 502, "message": "x"}}, ServerError, "A red shoe."),
    ("another object", {"request_id": "t-1"}, AnswerCutShort, ""),
    ("choices of a wrong type", {"choices": "A red shoe."}, AnswerCutShort, ""),
    ("a list", [1, 2], AnswerCutShort, ""),
    ("null", b"null", AnswerCutShort, ""),
    ("a number", b"42", AnswerCutShort, ""),
    ("nothing", b"", AnswerCutShort, ""),
    ("blank lines", b"\n\n \r\n", AnswerCutShort, ""),
    ("comments only", b": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING", AnswerCutShort, ""),
    ("a page", b"<!DOCTYPE html><html><body>Sign in</body></html>", AnswerCutShort, ""),
    ("a sentence", b"upstream connect error", AnswerCutShort, ""),
    ("half an answer", json.dumps(chat()).encode()[:-20], AnswerCutShort, ""),
    ("a bomb of lists", b"[" * 200_000, AnswerCutShort, ""),
    ("a bomb of objects", b'{"a":' * 200_000, AnswerCutShort, ""),
    (
        "a number of a million digits",
        b'{"choices":[{"message":{"content":"x"}}],"n":' + b"9" * 1_000_000 + b"}",
        None,
        "x",
    ),
    ("an exponent", b'{"choices":[{"message":{"content":"x"}}],"n":1e999999999999}', None, "x"),
    ("NaN and infinity", b'{"choices":[{"message":{"content":"x"}}],"n":NaN,"m":-Infinity}', None, "x"),
    ("a key twice", b'{"choices":[],"choices":[{"message":{"content":"x"}}]}', None, "x"),
    ("blank lines first", b"\n\n \r\n" + json.dumps(chat()).encode(), None, "A red shoe."),
    ("comments first", b": PROCESSING\n\n: PROCESSING\n" + json.dumps(chat()).encode(), None, "A red shoe."),
    ("a byte order mark", b"\xef\xbb\xbf" + json.dumps(chat()).encode(), None, "A red shoe."),
    ("something after it", json.dumps(chat()).encode() + b"\n\n: bye", None, "A red shoe."),
    ("a broken character", json.dumps(chat("A r\x01d")).encode().replace(b"\\u0001", b"\xff"), None, "A r\ufffdd"),
    ("half a surrogate pair", b'{"choices":[{"message":{"content":"x\\ud83d"}}]}', None, "x\ufffd"),
    ("UTF-16", json.dumps(chat()).encode("utf-16"), None, "A red shoe."),
]


@pytest.mark.parametrize(("body", "expected", "text"), [row[1:] for row in CHOICES], ids=[row[0] for row in CHOICES])
def test_a_200_is_read_as_what_it_holds(body: Any, expected: type[Exception] | None, text: str) -> None:
    answer, error = read(body, "openrouter")

    assert (type(error) if error else None) is expected, error
    assert answer.text == text
    answer.text.encode()  # it can be written


def test_usage_beside_an_error_is_kept_as_it_was_billed() -> None:
    body = GROK | {"choices": [{"message": {"content": "A re"}, "finish_reason": "length"}]}
    answer, error = read(body)

    assert isinstance(error, Truncated)
    assert answer.usage.cost_ticks == 9050000


def test_a_closed_answer_counts_although_the_wire_was_cut_after_it() -> None:
    assert read(GROK, complete=False).error is None


def test_the_message_of_a_cut_body_mentions_the_cut() -> None:
    error = read(b'{"choices": [', complete=False).error

    assert str(error) == "xai answered 200 with JSON that breaks off, cut short on the way"


# ---------------------------------------------------------------------------------- streams


def sse(*events: Any, done: bool = True, comment: str = "") -> bytes:
    lines = [comment] if comment else []
    lines += [f"data: {event if isinstance(event, str) else json.dumps(event)}\n" for event in events]
    return "\n".join([*lines, *(["data: [DONE]\n"] if done else [])]).encode()


def delta(content: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish}
    return {"id": "gen-1", "model": "grok-4.3", "choices": [choice], **more}


USAGE_CHUNK = {"id": "gen-1", "choices": [], "usage": GROK["usage"], "provider": "xAI"}

STREAMS: list[tuple[str, bytes, type[Exception] | None, str]] = [
    ("whole", sse(delta("A red "), delta("shoe."), delta(None, "stop"), USAGE_CHUNK), None, "A red shoe."),
    ("comments", sse(delta("A"), delta(" b", "stop"), comment=": OPENROUTER PROCESSING\n\n: again\n"), None, "A b"),
    ("no [DONE]", sse(delta("A red shoe.", "stop"), done=False), None, "A red shoe."),
    ("no finish reason", sse(delta("A red shoe.")), None, "A red shoe."),
    ("a bill and no end", sse(delta("A red shoe."), USAGE_CHUNK, done=False), None, "A red shoe."),
    ("a bill for nothing", sse(delta(None), USAGE_CHUNK, done=False), EmptyAnswer, ""),
    ("a bill before the answer", sse(USAGE_CHUNK, delta("A re"), done=False), AnswerCutShort, "A re"),
    ("a bill in each chunk", sse(delta("A re", usage=GROK["usage"]), done=False), AnswerCutShort, "A re"),
    ("neither", sse(delta("A red "), delta("sh"), done=False), AnswerCutShort, "A red sh"),
    ("cut in an event", sse(delta("A red "), delta("shoe.", "stop"), done=False)[:-40], AnswerCutShort, "A red "),
    ("only comments", b": PROCESSING\n\n", AnswerCutShort, ""),
    ("no blank lines", sse(delta("A"), delta("B"), delta("C", "stop")).replace(b"\n\n", b"\n"), None, "ABC"),
    ("CRLF", sse(delta("A"), delta("B", "stop")).replace(b"\n", b"\r\n"), None, "AB"),
    ("lone CR", sse(delta("A"), delta("B", "stop")).replace(b"\n", b"\r"), None, "AB"),
    ("no space", sse(delta("A", "stop")).replace(b"data: ", b"data:"), None, "A"),
    ("event names", b"event: message\nid: 1\n" + sse(delta("A", "stop")), None, "A"),
    (
        "data in two lines",
        b'data: {"choices": [{"delta": {"content":\ndata: "A"}, "finish_reason": "stop"}]}\n\n',
        None,
        "A",
    ),
    ("another choice", sse(delta("A", "stop"), {"choices": [{"index": 1, "delta": {"content": "B"}}]}), None, "A"),
    ("empty", sse(delta(None, "stop")), EmptyAnswer, ""),
    ("only [DONE]", sse(), EmptyAnswer, ""),
    ("too long", sse(delta("A re"), delta(None, "length")), Truncated, "A re"),
    ("declined", sse({"choices": [{"index": 0, "delta": {"refusal": "No."}}]}, delta(None, "stop")), Refused, "No."),
    ("an error chunk", sse(delta("A r"), {"error": {"code": 502, "message": "gone"}}), ServerError, "A r"),
    ("xAI's error chunk", sse(delta("A"), {"code": "resource-exhausted", "error": "slow"}), RateLimited, "A"),
    (
        "OpenRouter's error chunk",
        sse(delta("A"), delta(None, "error", error={"code": 429, "message": "slow"}), done=False),
        RateLimited,
        "A",
    ),
    (
        "a choice's error",
        sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "error", "error": {"code": 503, "message": "x"}}]}),
        ServerError,
        "",
    ),
    ("no JSON", sse("{broken", delta("A", "stop")), None, "A"),
    ("a whole message", sse({"choices": [{"message": {"content": "A"}, "finish_reason": "stop"}]}), None, "A"),
]


@pytest.mark.parametrize(("body", "expected", "text"), [row[1:] for row in STREAMS], ids=[row[0] for row in STREAMS])
def test_a_stream_is_put_together(body: bytes, expected: type[Exception] | None, text: str) -> None:
    answer, error = read(body, headers={"content-type": "text/event-stream"})

    assert (type(error) if error else None) is expected, error
    assert answer.text == text


def test_the_last_chunk_of_a_stream_has_the_usage() -> None:
    answer = read(sse(delta("A", "stop"), USAGE_CHUNK)).answer

    assert answer.usage.cost_ticks == 9050000
    assert (answer.model, answer.upstream_provider, answer.provider_request_id) == ("grok-4.3", "xAI", "gen-1")


def test_a_stream_that_breaks_off_keeps_its_reported_cost() -> None:
    answer, error = read(sse(delta("A", usage={"cost_in_usd_ticks": 5}), done=False))

    assert isinstance(error, AnswerCutShort)
    assert answer.usage.cost_ticks == 5


def test_whitespace_inside_a_stream_is_kept() -> None:
    assert read(sse(delta("A\n"), delta("\n"), delta(" b "), delta(None, "stop"))).answer.text == "A\n\n b "


# ---------------------------------------------------------------------------------- usage


def tokens(prompt: int | None, completion: int, reasoning: int, total: int | None = None) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "completion_tokens": completion,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    return usage | ({"prompt_tokens": prompt} if prompt else {}) | ({"total_tokens": total} if total else {})


@pytest.mark.parametrize(
    ("provider", "usage", "completion"),
    [
        ("xai", tokens(100, 10, 30, 140), 10),
        ("xai", tokens(100, 10, 30), 10),
        ("xai", tokens(100, 40, 30, 140), 10),  # should it change its mind
        ("openai", tokens(100, 40, 30, 140), 10),
        ("openai", tokens(100, 40, 30), 10),
        ("openai", tokens(100, 10, 30, 140), 10),  # Grok behind a compatible face
        ("openai", tokens(None, 40, 30), 10),
        ("openrouter", tokens(100, 40, 30, 140), 10),
        ("openrouter", tokens(100, 20, 30), 20),  # fewer than its reasoning: the rule does not hold here
        ("openai", tokens(524, 38, 120, 562), 38),  # a total that leaves reasoning out
        ("openrouter", tokens(524, 38, 120, 682), 38),
        ("openai", tokens(100, 30, 30, 130), 0),
        ("openrouter", tokens(100, 40, 0, 140), 40),
        ("emulator", tokens(100, 10, 30), 10),
    ],
)
def test_completion_tokens_never_include_reasoning(provider: str, usage: dict[str, Any], completion: int) -> None:
    assert read(chat() | {"usage": usage}, provider).answer.usage.completion_tokens == completion


@pytest.mark.parametrize(
    ("provider", "usage", "ticks", "source"),
    [
        ("xai", '{"cost_in_usd_ticks": 9050000}', 9050000, "reported"),
        ("xai", '{"cost_in_usd_ticks": 0}', 0, "reported"),
        ("xai", '{"cost_in_usd_ticks": -1}', None, "unknown"),
        ("xai", '{"cost_in_usd_ticks": "9"}', None, "unknown"),
        ("xai", '{"cost_in_usd_ticks": true}', None, "unknown"),
        ("xai", '{"cost": 0.5}', None, "unknown"),
        ("openai", '{"cost_in_usd_ticks": 7.0}', 7, "reported"),
        ("openrouter", '{"cost": 0.00014}', 1_400_000, "reported"),
        ("openrouter", '{"cost": 0.1}', 1_000_000_000, "reported"),
        ("openrouter", '{"cost": 0.30000000004}', 3_000_000_000, "reported"),
        ("openrouter", '{"cost": 0.00000000005}', 0, "reported"),  # half, to the even tick
        ("openrouter", '{"cost": 0.00000000015}', 2, "reported"),
        ("openrouter", '{"cost": 1.4e-4}', 1_400_000, "reported"),
        ("openrouter", '{"cost": 2}', 20_000_000_000, "reported"),
        ("openrouter", '{"cost": 0}', 0, "reported"),
        ("openrouter", '{"cost": null}', None, "unknown"),
        ("openrouter", '{"cost": -0.1}', None, "unknown"),
        ("openrouter", '{"cost": NaN}', None, "unknown"),
        ("openrouter", '{"cost": 1e300}', None, "unknown"),
        ("openrouter", '{"cost": true}', None, "unknown"),
        (
            "openrouter",
            '{"cost": 0.01, "is_byok": true, "cost_details": {"upstream_inference_cost": 0.2}}',
            2_100_000_000,
            "reported",
        ),
        ("openrouter", '{"cost": 0.01, "cost_details": {"upstream_inference_cost": 0.2}}', 100_000_000, "reported"),
        ("openrouter", "{}", None, "unknown"),
        ("openrouter", "[]", None, "unknown"),
    ],
)
def test_the_cost_is_exact(provider: str, usage: str, ticks: int | None, source: str) -> None:
    body = '{"choices": [{"message": {"content": "x"}}], "usage": ' + usage + "}"
    found = read(body, provider).answer.usage

    assert (found.cost_ticks, found.cost_source) == (ticks, source)


def test_an_answer_from_openrouters_cache_is_marked_as_free() -> None:
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "cost": 0}
    found = read(chat() | {"usage": usage}, "openrouter", headers={"x-openrouter-cache-status": "HIT"}).answer.usage

    assert (found.cost_ticks, found.cost_source) == (0, "cached")


# ---------------------------------------------------------------------------------- tickets


def test_a_deferred_post_gives_a_ticket() -> None:
    assert dialect("xai").read_ticket(raw({"request_id": "f15c114e-f47d"})) == "f15c114e-f47d"


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        ({"request_id": ""}, 200, AnswerCutShort),
        ({"request_id": 7}, 200, AnswerCutShort),
        ({"request_id": "a\nb"}, 200, AnswerCutShort),
        ({"request_id": "x" * 999}, 200, AnswerCutShort),
        (b'{"request_id": "f15', 200, AnswerCutShort),
        (GROK, 200, AnswerCutShort),
        ({"code": "internal", "error": "x"}, 200, ServerError),
        ({"code": "resource-exhausted", "error": "x"}, 429, RateLimited),
        ({"request_id": "f15c114e"}, 500, ServerError),
    ],
)
def test_what_gives_no_ticket_is_an_error(body: Any, status: int, expected: type[Exception]) -> None:
    assert type(dialect("xai").read_ticket(raw(body, status))) is expected


def test_a_poll_that_must_wait_has_the_requested_wait() -> None:
    assert dialect("xai").read_poll(raw(b"", 202)) == NotReady(None)
    assert dialect("xai").read_poll(raw(b"", 202, {"retry-after": "3"})) == NotReady(3.0)


@pytest.mark.parametrize("status", [404, 410])
def test_an_unknown_ticket_is_gone(status: int) -> None:
    polled = dialect("xai").read_poll(
        raw({"code": "Some requested entity was not found", "error": "No such id"}, status)
    )

    assert polled == Gone("No such id")
    assert isinstance(dialect("xai").read_poll(raw(b"", status)), Gone)


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        (GROK, 200, type(None)),
        (b"", 429, RateLimited),
        (b"", 500, ServerError),
        (b"", 503, ServerError),
        (b"<html>", 502, ServerError),
        (b'{"choices": [', 200, AnswerCutShort),
        ({"code": "invalid-argument", "error": "x"}, 400, errors.RequestRejected),
        (b"", 401, errors.AuthenticationFailed),
    ],
)
def test_every_other_poll_is_read_as_an_answer(body: Any, status: int, expected: type[Exception]) -> None:
    reading = dialect("xai").read_poll(raw(body, status))

    assert isinstance(reading, Reading)
    assert type(reading.error) is expected


# ---------------------------------------------------------------------------------- any bytes at all

WORDS = """
choices message content refusal finish_reason error code type usage prompt_tokens completion_tokens cost metadata
reasons details violations quotaId retryDelay availability retryable retry_after cost_in_usd_ticks request_id data
prompt_tokens_details completion_tokens_details cost_details delta index detail object raw model provider id
""".split()  # noqa: SIM905 a paragraph of words reads better than a column
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=12,
)
PROVIDERS = st.sampled_from(["xai", "openrouter", "openai"])
STATUSES = st.sampled_from([200, 202, 204, 301, 400, 401, 403, 404, 413, 422, 429, 500, 503, 529, 999])
HEADERS = st.dictionaries(
    st.sampled_from(
        ["retry-after", "retry-after-ms", "x-ratelimit-reset", "x-ratelimit-remaining-requests", "location"]
    ),
    st.text(max_size=30) | st.sampled_from(["0", "1e9", "99999999999", "Wed, 99 Foo 2026", "6m0s", "-1", "inf"]),
)


def read_in_every_way(provider: str, answer: RawAnswer) -> None:
    speaks = dialect(provider)
    reading = speaks.read(answer)
    reading.answer.text.encode()
    if reading.error is not None:
        assert reading.error.message.isprintable()
    assert isinstance(speaks.read_poll(answer), NotReady | Gone | Reading)
    assert isinstance(speaks.read_ticket(answer), str | errors.BatchvisionError)
    signs = speaks.limits(answer)
    assert all(sign is None or 0 <= sign < 10**20 for sign in signs)


@given(PROVIDERS, STATUSES, HEADERS, st.binary(max_size=200), st.booleans())
@settings(max_examples=200)
def test_no_bytes_raise(provider: str, status: int, headers: dict[str, str], body: bytes, complete: bool) -> None:
    read_in_every_way(provider, RawAnswer(status, headers, body, NOW, complete))


@given(PROVIDERS, STATUSES, JSON, st.sampled_from(["{}", "data: {}\n\n", "\n: x\n{}", "[{}]"]))
@settings(max_examples=400)
def test_no_json_raises(provider: str, status: int, document: Any, around: str) -> None:
    body = around.replace("{}", json.dumps(document)).encode()
    read_in_every_way(provider, RawAnswer(status, {}, body, NOW))


@pytest.mark.parametrize("depth", [*range(300, 1000, 50), 10_000, 100_000])
@pytest.mark.parametrize(
    "shape", ['{"error":%s}', "%s", '{"error":{"message":%s}}', '{"error":{"metadata":{"raw":%s}}}']
)
def test_no_depth_raises(depth: int, shape: str) -> None:
    body = shape % ("[" * depth + "]" * depth)
    for status in (200, 400, 429):
        read_in_every_way("openrouter", raw(body, status))


@given(st.integers(0, len(json.dumps(GROK))))
@settings(max_examples=100)
def test_an_answer_cut_anywhere_is_cut_short(end: int) -> None:
    whole = json.dumps(GROK).encode()
    error = dialect("xai").read(raw(whole[:end], complete=False)).error

    assert (error is None) if end == len(whole) else isinstance(error, AnswerCutShort)


def test_values_of_unknown_shape_become_known_ones() -> None:
    assert wire.count(True) is None
    assert wire.count(2**63) is None
    assert wire.text(" a\nb ") == "a b"
    assert wire.text("") is None
    assert wire.mapping([]) == {}
    assert wire.sequence({}) == []
