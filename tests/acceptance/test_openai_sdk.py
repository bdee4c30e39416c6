"""The official openai SDK against the emulator: it is faithful to clients that are not ours."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image

from batchvision.emulator import RunningEmulator, start_in_thread

openai = pytest.importorskip("openai", reason="the openai SDK is a development dependency: pip install openai")

FACES = ("xai", "openrouter", "openai")
SCHEMA = {
    "type": "object",
    "properties": {
        "caption": {"type": "string"},
        "colour": {"type": "string", "enum": ["red", "blue", "green"]},
        "width": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "text": {"type": ["string", "null"]},
    },
    "required": ["caption", "colour", "width", "tags", "text"],
    "additionalProperties": False,
}
Connect = Callable[..., Any]


@pytest.fixture(scope="module")
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(slow_seconds=5.0) as running:
        yield running


@pytest.fixture
def connect(emulator: RunningEmulator) -> Iterator[Connect]:
    """A client of a face; its connections are closed after the test."""
    emulator.reset()
    clients: list[Any] = []

    def new(face: str = "openai", key: str = "emulator-key", **options: Any) -> Any:
        settings = {"max_retries": 0, "timeout": 10.0, **options}
        clients.append(openai.OpenAI(base_url=emulator.base_url(face), api_key=key, **settings))
        return clients[-1]

    yield new
    for client in clients:
        client.close()


def question(text: str = "What is it?", form: str = "PNG") -> list[dict[str, Any]]:
    target = io.BytesIO()
    Image.new("RGB", (64, 48), "blue").save(target, form)
    url = f"data:image/{form.lower()};base64,{base64.b64encode(target.getvalue()).decode()}"
    image = {"type": "image_url", "image_url": {"url": url, "detail": "high"}}
    return [{"role": "user", "content": [{"type": "text", "text": text}, image]}]


# ---------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_an_image_chat(connect: Connect, emulator: RunningEmulator, face: str, form: str) -> None:
    completion = connect(face).chat.completions.create(model="grok-4.3", messages=question(form=form))
    choice = completion.choices[0]
    assert choice.finish_reason == "stop"
    assert choice.message.content.startswith(f"A 64x48 {form}, mostly blue")
    assert completion.usage.prompt_tokens > 256
    assert completion.usage.completion_tokens_details.reasoning_tokens == 32
    assert emulator.bill().delivered == 1


def test_the_cost_reaches_a_foreign_client_to_the_tick(connect: Connect, emulator: RunningEmulator) -> None:
    ask = {"model": "grok-4.3", "messages": question()}
    ticks = connect("xai").chat.completions.create(**ask).usage.cost_in_usd_ticks
    usd = connect("openrouter").chat.completions.create(**ask).usage.cost
    assert emulator.bill().ticks == ticks + round(usd * 10**10)


@pytest.mark.parametrize("face", FACES)
def test_a_streamed_chat(connect: Connect, emulator: RunningEmulator, face: str) -> None:
    stream = connect(face).chat.completions.create(
        model="grok-4.3", messages=question(), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.startswith("A 64x48 PNG, mostly blue")
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage.total_tokens > 256
    assert emulator.bill().delivered == 1


@pytest.mark.parametrize("face", FACES)
def test_a_json_schema_answer(connect: Connect, face: str) -> None:
    asked = {"type": "json_schema", "json_schema": {"name": "photo", "strict": True, "schema": SCHEMA}}
    completion = connect(face).chat.completions.create(
        model="grok-4.3", messages=question("Describe. [[echo:row-1]]"), response_format=asked
    )
    answer = json.loads(completion.choices[0].message.content)
    assert list(answer) == SCHEMA["required"]
    assert (answer["colour"], answer["width"]) == ("blue", 64)
    assert answer["caption"].endswith("[[echo:row-1]]")


def test_models_are_listed(connect: Connect) -> None:
    for face in FACES:
        names = [model.id for model in connect(face).models.list()]
        assert any(name.endswith("grok-4.3") for name in names)


@pytest.mark.anyio
async def test_the_asynchronous_client(emulator: RunningEmulator) -> None:
    async with openai.AsyncOpenAI(base_url=emulator.base_url(), api_key="k", max_retries=0) as client:
        completion = await client.chat.completions.create(model="grok-4.3", messages=question())
        assert completion.choices[0].message.content.startswith("A 64x48 PNG")


# ---------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("face", "fault", "error", "code"),
    [
        ("openai", "rejected", "BadRequestError", None),
        ("openai", "safety", "BadRequestError", "content_policy_violation"),
        ("openai", "context_too_long", "BadRequestError", "context_length_exceeded"),
        ("openai", "unauthorized", "AuthenticationError", "invalid_api_key"),
        ("openrouter", "bad_key", "AuthenticationError", "401"),
        ("xai", "bad_key", "BadRequestError", None),
        ("openai", "forbidden", "PermissionDeniedError", None),
        ("xai", "safety", "PermissionDeniedError", None),
        ("xai", "credit", "PermissionDeniedError", None),
        ("openrouter", "credit", "APIStatusError", "402"),
        ("openai", "model_not_found", "NotFoundError", "model_not_found"),
        ("xai", "not_found", "NotFoundError", "404"),
        ("openai", "conflict", "ConflictError", "conflict"),
        ("xai", "unprocessable", "UnprocessableEntityError", None),
        ("openai", "rate_limited_seconds", "RateLimitError", "rate_limit_exceeded"),
        ("xai", "tokens_limited", "RateLimitError", None),
        ("openai", "credit", "RateLimitError", "insufficient_quota"),
        ("openai", "server_error", "InternalServerError", None),
        ("openrouter", "overloaded", "InternalServerError", "529"),
        ("xai", "origin_timeout", "InternalServerError", None),
        ("openai", "reset_before", "APIConnectionError", None),
        ("openai", "reset_after", "APIConnectionError", None),
        ("openai", "half_body", "APIConnectionError", None),
    ],
)
def test_each_error_class(connect: Connect, face: str, fault: str, error: str, code: object) -> None:
    with pytest.raises(openai.OpenAIError) as caught:
        connect(face).chat.completions.create(model="grok-4.3", messages=question(f"[[fault:{fault}]]"))
    assert type(caught.value).__name__ == error
    assert getattr(caught.value, "code", None) == code


def test_a_bad_key_and_an_unknown_model_without_any_marker(connect: Connect) -> None:
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key"):
        connect(key="bad-key").chat.completions.create(model="grok-4.3", messages=question())
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        connect().chat.completions.create(model="no-such-model", messages=question())
    with pytest.raises(openai.BadRequestError) as caught:
        connect("xai").chat.completions.create(model="no-such-model", messages=question())
    assert caught.value.response.json() == {"code": "invalid-argument", "error": "Model not found: no-such-model"}


def test_a_client_that_does_not_wait_gets_its_timeout(connect: Connect) -> None:
    for fault in ("hang", "slow_start"):
        with pytest.raises(openai.APITimeoutError):
            connect(timeout=0.2).chat.completions.create(model="grok-4.3", messages=question(f"[[fault:{fault}]]"))


def test_a_refused_port_is_a_connection_error() -> None:
    with start_in_thread() as stopped:
        url = stopped.base_url("openai")
    with openai.OpenAI(base_url=url, api_key="k", max_retries=0) as client, pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(model="grok-4.3", messages=question())


def test_an_error_in_mid_stream_is_raised(connect: Connect) -> None:
    for face in ("openai", "openrouter"):
        stream = connect(face).chat.completions.create(
            model="grok-4.3", messages=question("[[fault:stream_error]]"), stream=True
        )
        with pytest.raises(openai.APIError, match="mid-way"):
            list(stream)


def test_truncated_and_filtered_answers_have_their_own_errors(connect: Connect) -> None:
    asked = {"type": "json_schema", "json_schema": {"name": "photo", "strict": True, "schema": SCHEMA}}
    for fault, error in (
        ("length", openai.LengthFinishReasonError),
        ("content_filter", openai.ContentFilterFinishReasonError),
    ):
        with pytest.raises(error):
            connect().chat.completions.parse(
                model="grok-4.3", messages=question(f"[[fault:{fault}]]"), response_format=asked
            )


def test_its_own_retries_meet_faults_that_end(connect: Connect, emulator: RunningEmulator) -> None:
    client = connect(max_retries=2)
    ask = "[[fault:server_error:1]] [[fault:rate_limited_ms:1]]"
    emulator.configure(retry_after_seconds=0.01)
    completion = client.chat.completions.create(model="grok-4.3", messages=question(ask))
    assert completion.choices[0].message.content
    bill = emulator.bill()
    assert (bill.requests, bill.generated, bill.by_status) == (3, 1, {200: 1, 429: 1, 500: 1})
