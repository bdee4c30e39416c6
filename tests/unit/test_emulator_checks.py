"""The requests that the emulator refuses, and the parsing of valid ones."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from batchvision.emulator.checks import ParsedRequest, check_content_type, check_key, read_request
from batchvision.emulator.options import EmulatorOptions, Face
from batchvision.emulator.pixels import PictureMemory
from batchvision.emulator.refusals import Reason, RequestRefused


def image(form: str = "PNG", declared: str | None = None, cut: int | None = None) -> str:
    target = io.BytesIO()
    Image.effect_noise((64, 48), 80).convert("RGB").save(target, form)
    content = base64.b64encode(target.getvalue()[:cut]).decode()
    return f"data:{declared or f'image/{form.lower()}'};base64,{content}"


def body(*urls: str, text: str = "What is it?", **fields: Any) -> bytes:
    parts = [{"type": "text", "text": text}, *({"type": "image_url", "image_url": {"url": url}} for url in urls)]
    return json.dumps({"model": "grok-4.3", "messages": [{"role": "user", "content": parts}], **fields}).encode()


def read(content: bytes, face: Face = Face.XAI, **options: Any) -> ParsedRequest:
    return read_request(face, content, EmulatorOptions().changed(options), PictureMemory())


def refused(content: bytes, face: Face = Face.XAI, **options: Any) -> RequestRefused:
    with pytest.raises(RequestRefused) as caught:
        read(content, face, **options)
    return caught.value


# ---------------------------------------------------------------------------------- keys


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer  ", "Basic abc"])
def test_no_key_is_a_401(header: str | None) -> None:
    with pytest.raises(RequestRefused) as caught:
        check_key(Face.XAI, header, EmulatorOptions())
    assert caught.value.refusal.status(Face.XAI) == 401


def test_a_bad_key_is_a_400_at_xai_and_a_401_elsewhere() -> None:
    for face, status in ((Face.XAI, 400), (Face.OPENROUTER, 401), (Face.OPENAI, 401)):
        with pytest.raises(RequestRefused) as caught:
            check_key(face, "Bearer bad-key", EmulatorOptions())
        assert caught.value.refusal.status(face) == status
        assert "bad-key" not in caught.value.refusal.message


def test_any_key_is_good_until_one_is_named() -> None:
    check_key(Face.XAI, "Bearer sk-anything", EmulatorOptions())
    check_key(Face.XAI, "bearer emulator-key", EmulatorOptions(key="secret"))
    check_key(Face.XAI, "Bearer secret", EmulatorOptions(key="secret"))
    with pytest.raises(RequestRefused):
        check_key(Face.XAI, "Bearer sk-anything", EmulatorOptions(key="secret"))


def test_the_default_address_takes_requests_without_a_key_until_one_is_named() -> None:
    check_key(Face.XAI, None, EmulatorOptions(), may_be_missing=True)
    with pytest.raises(RequestRefused):
        check_key(Face.XAI, None, EmulatorOptions(key="secret"), may_be_missing=True)


def test_anything_but_json_is_a_415() -> None:
    check_content_type("application/json")
    with pytest.raises(RequestRefused) as caught:
        check_content_type("text/plain")
    assert caught.value.refusal.status(Face.XAI) == 415


# ---------------------------------------------------------------------------------- fields


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"{", 400, "Failed to parse"),
        (b"[]", 422, "not an object"),
        (b"{}", 422, "missing field `model`"),
        (b'{"model": "m"}', 422, "missing field `messages`"),
        (b'{"model": "m", "messages": []}', 400, "cannot be empty"),
        (b'{"model": "m", "messages": [{"role": "nobody"}]}', 422, "unknown variant"),
        (b'{"model": "m", "messages": [{"role": "user", "content": 5}]}', 422, "expected a string"),
        (b'{"model": "m", "messages": [{"role": "user", "content": []}]}', 400, "at least one content element"),
        (b'{"model": "m", "messages": [{"role": "user", "content": [{"type": "video"}]}]}', 422, "unknown variant"),
        (b'{"model": "m", "messages": [{"role": "system", "content": "x"}]}', 400, "role user"),
    ],
)
def test_a_malformed_body_is_refused_as_the_provider_does(content: bytes, status: int, words: str) -> None:
    refusal = refused(content).refusal
    assert refusal.status(Face.XAI) == status
    assert words in refusal.message


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n": 2}, "n must be 1"),
        ({"temperature": 3}, "from 0 to 2"),
        ({"stream": "yes"}, "expected a boolean"),
        ({"deferred": True, "stream": True}, "cannot be streamed"),
        ({"max_tokens": 0}, "at least 1"),
        ({"max_tokens": "5"}, "expected an integer"),
        ({"stop": ["x"]}, "not supported on this model: stop"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}}, "1 to 64"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": []}}}}, "empty"),
    ],
)
def test_a_wrong_parameter_is_refused(fields: dict[str, Any], words: str) -> None:
    assert words in refused(body(**fields)).refusal.message


def test_unknown_models_are_refused_in_each_dialect() -> None:
    content = body(model="no-such-model")
    told = {face: refused(content, face).refusal for face in Face}
    assert told[Face.XAI].document(Face.XAI) == {
        "code": "invalid-argument",
        "error": "Model not found: no-such-model",
    }
    assert told[Face.OPENROUTER].document(Face.OPENROUTER)["error"] == {
        "code": 400,
        "message": "no-such-model is not a valid model ID",
    }
    assert told[Face.OPENAI].status(Face.OPENAI) == 404
    assert told[Face.OPENAI].document(Face.OPENAI)["error"]["code"] == "model_not_found"


def test_stop_is_welcome_without_reasoning_and_deferred_only_at_xai() -> None:
    assert not read(body(stop=["x"], reasoning_effort="none")).is_reasoning
    assert not read(body(stop=["x"], model="grok-4.20-0309-non-reasoning")).is_reasoning
    assert read(body(deferred=True)).is_deferred
    assert not read(body(deferred=True), Face.OPENROUTER).is_deferred
    assert "Unrecognized" in refused(body(deferred=True), Face.OPENAI).refusal.message


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"me": {"$ref": "#"}}, "required": ["me"]},
        {"anyOf": 5},
        {"type": "array", "items": {"type": "string"}, "minItems": "3"},
        {"type": "string", "maxLength": "3"},
        {"$defs": 5},
    ],
)
def test_a_circular_or_malformed_schema_is_refused(schema: dict[str, Any]) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    assert "malformed or circular" in refused(body(response_format=form)).refusal.message


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from(["messages", "temperature", "max_tokens", "stream", "stream_options", "response_format", "n"]),
        _JSON,
    ),
    _JSON,
    _JSON,
    st.sampled_from(list(Face)),
)
def test_whatever_a_body_holds_it_is_understood_or_refused(
    fields: dict[str, Any], content: Any, schema: Any, face: Face
) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    part = {"type": "image_url", "image_url": content}
    document = {
        "model": "grok-4.3",
        "messages": [{"role": "user", "content": content}, {"role": "user", "content": [part]}],
        "response_format": form,
        **fields,
    }
    try:
        read(json.dumps(document).encode(), face)
    except RequestRefused as error:
        assert error.refusal.message


@given(st.binary(max_size=40))
def test_whatever_bytes_come_they_are_refused(content: bytes) -> None:
    assert refused(content).refusal.status(Face.XAI) in (400, 422)


def test_openrouter_takes_the_first_of_models() -> None:
    content = json.loads(body(models=["x-ai/grok-4.3", "other"]))
    del content["model"]
    assert read(json.dumps(content).encode(), Face.OPENROUTER).model == "x-ai/grok-4.3"


def test_an_unknown_fault_in_the_prompt_is_refused_with_a_hint() -> None:
    assert "did you mean empty?" in refused(body(text="[[fault:emty]]")).refusal.message


# ---------------------------------------------------------------------------------- images


@pytest.mark.parametrize("face", Face)
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_real_image_is_seen(face: Face, form: str) -> None:
    seen = read(body(image(form)), face).images[0]
    assert seen.picture is not None
    assert (seen.picture.format, seen.picture.width, seen.tokens) == (form, 64, 512)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (image("WEBP"), Reason.IMAGE_FORMAT),
        (image("GIF"), Reason.IMAGE_FORMAT),
        (image("PNG", declared="image/jpeg"), Reason.IMAGE),
        (image("JPEG", declared="image/jpg"), Reason.IMAGE_FORMAT),
        (image("JPEG", cut=400), Reason.IMAGE),
        (image("PNG")[:-3], Reason.IMAGE),
        ("data:image/png;base64,%%%", Reason.IMAGE),
        ("data:image/png;base64,é", Reason.IMAGE),
        ("photos/a.png", Reason.IMAGE),
        ("s3://bucket/a.png", Reason.IMAGE),
    ],
)
def test_a_bad_image_is_refused(url: str, reason: Reason) -> None:
    assert refused(body(url)).refusal.reason is reason


@pytest.mark.parametrize("face", [Face.OPENROUTER, Face.OPENAI])
def test_other_providers_take_webp_and_gif(face: Face) -> None:
    assert [seen.picture.format for seen in read(body(image("WEBP"), image("GIF")), face).images if seen.picture] == [
        "WEBP",
        "GIF",
    ]


def test_an_image_above_the_limit_is_refused() -> None:
    assert refused(body(image()), max_image_bytes=100).refusal.reason is Reason.IMAGE_TOO_LARGE


def test_urls_are_not_fetched_and_can_be_made_to_fail() -> None:
    url = "https://example.com/missing.jpg"
    assert read(body(url)).urls == (url,)
    for face in Face:
        refusal = refused(body(url), face, fail_image_urls=True).refusal
        assert refusal.reason is Reason.IMAGE_DOWNLOAD
        assert url in refusal.message
    assert refusal.document(Face.OPENROUTER)["error"]["metadata"] == {"error_type": "image_download_failed"}


# ---------------------------------------------------------------------------------- what is understood


def test_the_last_user_message_is_the_question_and_all_before_it_the_prefix() -> None:
    messages = [
        {"role": "system", "content": "You label photos. [[fault:empty]]"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": image("JPEG")}}]},
        {"role": "assistant", "content": "A shoe."},
        {"role": "user", "content": [{"type": "text", "text": "And [[echo:7]]"}, {"type": "text", "text": "this?"}]},
    ]
    asked = read(json.dumps({"model": "grok-4.3", "messages": messages, "max_tokens": 9}).encode())
    assert asked.text == "And [[echo:7]]\nthis?"
    assert asked.prefix == "You label photos. [[fault:empty]]\nA shoe."
    assert (asked.images, asked.image_tokens) == ((), 512)
    assert (asked.echo, asked.faults, asked.max_tokens) == ("7", (), 9)


def test_the_same_request_has_the_same_hash_whatever_its_parameters_say() -> None:
    picture = image()
    first = read(body(picture)).content_hash
    assert read(body(picture, max_tokens=50, stream=True)).content_hash == first
    assert read(body(picture, text="Another question")).content_hash != first
    assert read(body("https://example.com/a.png")).content_hash != first


# ---------------------------------------------------------------------------------- the context


@pytest.mark.parametrize(
    ("model", "limit"), [("grok-4.5", 500_000), ("grok-4.3", 1_000_000), ("x-ai/grok-4.7", 500_000)]
)
def test_a_prompt_larger_than_the_models_context_is_refused(model: str, limit: int) -> None:
    fits = body(text="x" * (4 * limit), model=model)
    assert read(fits).text_tokens == limit
    for face in Face:
        caught = refused(body(text="x" * (4 * limit + 1), model=model), face)
        assert caught.refusal.reason is Reason.CONTEXT
        assert caught.refusal.status(face) == 400
        assert str(limit) in caught.refusal.message and str(limit + 1) in caught.refusal.message


def test_images_count_toward_the_context() -> None:
    image_tokens = read(body(image())).image_tokens
    assert image_tokens > 0
    text = "x" * (4 * 500_000)
    assert refused(body(image(), text=text, model="grok-4.5")).refusal.reason is Reason.CONTEXT
    assert read(body(image(), text=text[: -4 * image_tokens], model="grok-4.5")).image_tokens == image_tokens
