"""The checks of the real providers: key, content type, fields, model, images, schema. No I/O.

Bytes and headers become a :class:`ParsedRequest` or raise :class:`RequestRefused`. The checks follow the providers'
documents.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from batchvision.emulator.compose import Clue, compose, schema_problem
from batchvision.emulator.faults import FaultMarker, read_echo, read_markers
from batchvision.emulator.options import DEFAULT_KEY, EmulatorOptions, Face
from batchvision.emulator.pixels import NotAnImage, Picture, PictureMemory
from batchvision.emulator.pricing import TIER_PERCENTS, context_of, image_tokens, text_tokens
from batchvision.emulator.refusals import Reason, RequestRefused, bad_key, download_failed, unknown_model

_DATA_URI = re.compile(r"data:([^;,]*);base64,")
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
_MEDIA_TYPES = {
    Face.XAI: ("image/jpeg", "image/png"),
    Face.OPENROUTER: ("image/jpeg", "image/png", "image/webp", "image/gif"),
    Face.OPENAI: ("image/jpeg", "image/png", "image/webp", "image/gif"),
}
_NOT_FOR_REASONING = ("presence_penalty", "frequency_penalty", "stop")


class RequestImage(NamedTuple):
    """One image of a request: a decoded picture, or a URL that is not downloaded."""

    picture: Picture | None
    url: str
    tokens: int


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """One valid request. ``text`` and ``images`` are those of the last user message, ``prefix`` is the text before it.

    ``content_hash`` covers model, text and images, so it is the same for each try of a request.
    """

    face: Face
    model: str
    text: str
    prefix: str
    images: tuple[RequestImage, ...]
    text_tokens: int
    image_tokens: int
    max_tokens: int | None
    schema: Any
    wants_json: bool
    is_deferred: bool
    is_stream: bool
    wants_usage: bool
    is_reasoning: bool
    service_tier: str | None  #: ``None`` for ``default`` and ``auto``
    content_hash: int
    echo: str
    faults: tuple[FaultMarker, ...]

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(seen.url for seen in self.images if seen.url)


def check_key(face: Face, authorization: str | None, options: EmulatorOptions, may_be_missing: bool = False) -> None:
    """Raises RequestRefused. Without a configured key, each key that does not start with "bad" is accepted."""
    if authorization is None and may_be_missing and options.key is None:
        return
    scheme, _, key = (authorization or "").partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        raise RequestRefused(Reason.NO_KEY, "No API key was given: send the header Authorization: Bearer KEY.")
    if key.startswith("bad") or (options.key is not None and key not in (options.key, DEFAULT_KEY)):
        raise bad_key(face, key)


def check_content_type(content_type: str) -> None:
    if content_type.lower() != "application/json":
        raise RequestRefused(Reason.MEDIA_TYPE, "Expected request with `Content-Type: application/json`")


def read_request(face: Face, body: bytes, options: EmulatorOptions, memory: PictureMemory) -> ParsedRequest:
    """Parse and check one chat request. Raises RequestRefused."""
    return read_document(face, _document(body), options, memory)


def read_document(
    face: Face, document: Mapping[str, Any], options: EmulatorOptions, memory: PictureMemory
) -> ParsedRequest:
    """Check one chat request. Raises RequestRefused."""
    model = _model(face, document)
    messages = _messages(document)
    last_user = max((at for at, message in enumerate(messages) if message["role"] == "user"), default=-1)
    if last_user < 0:
        raise RequestRefused(Reason.INVALID, "At least one message must have the role user.")
    texts: list[str] = []
    seen: list[RequestImage] = []
    prefix: list[str] = []
    all_tokens, images_tokens = 0, 0
    fingerprint = hashlib.blake2b(model.encode(), digest_size=8)
    for at, message in enumerate(messages):
        for part in _parts(at, message):
            if isinstance(part, str):
                all_tokens += text_tokens(part)
                fingerprint.update(b"\0t" + part.encode(errors="surrogatepass"))
                (texts if at == last_user else prefix).append(part)
            else:
                image = _look(face, at, part, options, memory)
                images_tokens += image.tokens
                fingerprint.update(b"\0i" + (image.picture.sha256 if image.picture else image.url).encode())
                if at == last_user:
                    seen.append(image)
    _check_context(model, all_tokens + images_tokens)
    text = "\n".join(texts)
    form, schema = _response_format(face, document)
    stream_options = document.get("stream_options")
    try:
        markers = read_markers(text)
    except ValueError as error:
        raise RequestRefused(Reason.INVALID, str(error)) from None
    return ParsedRequest(
        face=face,
        model=model,
        text=text,
        prefix="\n".join(prefix),
        images=tuple(seen),
        text_tokens=all_tokens,
        image_tokens=images_tokens,
        max_tokens=_max_tokens(document),
        schema=schema,
        wants_json=form != "text",
        is_deferred=face is Face.XAI and _flag(document, "deferred"),
        is_stream=_flag(document, "stream"),
        wants_usage=face is not Face.OPENAI
        or (isinstance(stream_options, dict) and bool(stream_options.get("include_usage"))),
        is_reasoning=_is_reasoning(model, document),
        service_tier=_service_tier(face, document),
        content_hash=int.from_bytes(fingerprint.digest(), "big"),
        echo=read_echo(text),
        faults=markers,
    )


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError as error:
        raise RequestRefused(Reason.INVALID, f"Failed to parse the request body as JSON: {error}") from None
    if not isinstance(document, dict):
        raise _wrong_type("the body is not an object")
    return document


def _wrong_type(what: str) -> RequestRefused:
    return RequestRefused(Reason.FIELD, f"Failed to deserialize the JSON body into the target type: {what}")


def _model(face: Face, document: Mapping[str, Any]) -> str:
    model = document.get("model")
    if model is None and face is Face.OPENROUTER and isinstance(document.get("models"), list) and document["models"]:
        model = document["models"][0]
    if not isinstance(model, str) or not model:
        raise _wrong_type("missing field `model`")
    if model.rpartition("/")[2].startswith(("unknown", "no-such")):
        raise unknown_model(face, model)
    _check_parameters(face, model, document)
    return model


def _check_context(model: str, prompt_tokens: int) -> None:
    limit = context_of(model)
    if prompt_tokens > limit:
        raise RequestRefused(
            Reason.CONTEXT,
            f"This model's maximum prompt length is {limit} but the request contains {prompt_tokens} tokens.",
        )


def _check_parameters(face: Face, model: str, document: Mapping[str, Any]) -> None:
    if document.get("n") not in (None, 1):
        raise RequestRefused(Reason.INVALID, "The emulator gives one choice: n must be 1.")
    temperature = document.get("temperature")
    if temperature is not None and (not isinstance(temperature, int | float) or not 0 <= temperature <= 2):
        raise RequestRefused(Reason.INVALID, f"temperature is {temperature!r}: it must be a number from 0 to 2.")
    deferred = _flag(document, "deferred")
    if deferred and face is Face.OPENAI:
        raise RequestRefused(Reason.INVALID, "Unrecognized request argument supplied: deferred")
    if face is Face.XAI:
        if deferred and _flag(document, "stream"):
            raise RequestRefused(Reason.INVALID, "Deferred completions cannot be streamed.")
        for name in _NOT_FOR_REASONING:
            if document.get(name) is not None and _is_reasoning(model, document):
                raise RequestRefused(Reason.INVALID, f"Argument not supported on this model: {name}")


def _flag(document: Mapping[str, Any], name: str) -> bool:
    value = document.get(name)
    if value is not None and not isinstance(value, bool):
        raise _wrong_type(f"{name}: invalid type, expected a boolean")
    return bool(value)


def _service_tier(face: Face, document: Mapping[str, Any]) -> str | None:
    tier = document.get("service_tier")
    if tier not in (None, "auto", "default", *TIER_PERCENTS) or (tier == "flex" and face is Face.XAI):
        raise RequestRefused(Reason.INVALID, f"Invalid service_tier argument: {tier!r}.")
    return tier if tier in TIER_PERCENTS else None


def _is_reasoning(model: str, document: Mapping[str, Any]) -> bool:
    return "non-reasoning" not in model and document.get("reasoning_effort") != "none"


def _max_tokens(document: Mapping[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        value = document.get(name)
        if value is not None:
            if not isinstance(value, int) or isinstance(value, bool):
                raise _wrong_type(f"{name}: invalid type, expected an integer")
            if value < 1:
                raise RequestRefused(Reason.INVALID, f"{name} must be at least 1.")
            return value
    return None


def _messages(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    messages = document.get("messages")
    if not isinstance(messages, list):
        raise _wrong_type("missing field `messages`")
    if not messages:
        raise RequestRefused(Reason.INVALID, "Messages cannot be empty.")
    for at, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise _wrong_type(f"messages[{at}].role: unknown variant")
    return messages


def _parts(at: int, message: Mapping[str, Any]) -> Iterator[str | dict[str, Any]]:
    """Yield texts, and images as their ``image_url`` object."""
    content = message.get("content")
    if isinstance(content, str):
        yield content
        return
    if not isinstance(content, list):
        raise _wrong_type(f"messages[{at}].content: expected a string or a list of parts")
    if not content:
        raise RequestRefused(Reason.INVALID, "Each message must have at least one content element.")
    for number, part in enumerate(content):
        where = f"messages[{at}].content[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            yield part["text"]
        elif kind == "image_url" and isinstance(part.get("image_url"), dict):
            yield part["image_url"]
        else:
            raise _wrong_type(f"{where}: unknown variant `{kind}`, expected `text` or `image_url`")


def _look(
    face: Face, at: int, part: Mapping[str, Any], options: EmulatorOptions, memory: PictureMemory
) -> RequestImage:
    url, detail = part.get("url"), part.get("detail", "auto")
    if not isinstance(url, str):
        raise _wrong_type(f"messages[{at}]: missing field `url`")
    if detail not in ("auto", "low", "high", "original") and face is not Face.XAI:  # xAI ignores unknown values
        raise RequestRefused(
            Reason.INVALID, f"Invalid value: {detail!r}. Supported values are: 'auto', 'low' and 'high'."
        )
    if url.lower().startswith(("http://", "https://")):
        if options.fail_image_urls:
            raise download_failed(face, url)
        return RequestImage(None, url, image_tokens(1024, 1024, detail))
    picture = _decoded(face, url, options, memory)
    return RequestImage(picture, "", image_tokens(picture.width, picture.height, detail))


def _decoded(face: Face, url: str, options: EmulatorOptions, memory: PictureMemory) -> Picture:
    head = _DATA_URI.match(url)
    if head is None:
        raise RequestRefused(
            Reason.IMAGE, f"Invalid image URL: expected http(s) or data:image/...;base64, found {url[:30]!r}"
        )
    declared = head[1].lower()
    if declared not in _MEDIA_TYPES[face]:
        allowed = ", ".join(_MEDIA_TYPES[face])
        raise RequestRefused(
            Reason.IMAGE_FORMAT, f"Unsupported image format {declared or 'none'}: use one of {allowed}."
        )
    try:
        content = binascii.a2b_base64(url[head.end() :].encode("ascii"), strict_mode=True)
    except ValueError:
        raise RequestRefused(Reason.IMAGE, "The base64 string of the provided image cannot be decoded.") from None
    if len(content) > options.max_image_bytes:
        raise RequestRefused(
            Reason.IMAGE_TOO_LARGE,
            f"Image size exceeds the limit: {len(content)} bytes, at most {options.max_image_bytes} are allowed.",
        )
    try:
        picture = memory.look(content)
    except NotAnImage:
        raise RequestRefused(Reason.IMAGE, f"Invalid {declared.partition('/')[2].upper()} image") from None
    if picture.media_type != declared:
        raise RequestRefused(Reason.IMAGE, f"Invalid image: declared as {declared}, but it is {picture.media_type}.")
    return picture


def _problem(schema: dict[str, Any]) -> str | None:
    try:
        problem = schema_problem(schema)
        if problem is None:
            compose(schema, Clue("", ""))
    except (TypeError, ValueError, AttributeError, LookupError, RecursionError) as error:
        return f"the schema is malformed or circular: {error}"
    return problem


def _response_format(face: Face, document: Mapping[str, Any]) -> tuple[str, Any]:
    """Return the type (text, json_object or json_schema) and the schema."""
    asked = document.get("response_format")
    if asked is None:
        return "text", None
    kind = asked.get("type") if isinstance(asked, dict) else None
    if kind in ("text", "json_object"):
        return kind, None
    spec = asked.get("json_schema") if isinstance(asked, dict) else None
    if kind != "json_schema" or not isinstance(spec, dict) or not isinstance(spec.get("schema"), dict):
        raise _wrong_type("response_format: expected text, json_object or json_schema with a schema")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", str(spec.get("name", ""))):
        raise RequestRefused(
            Reason.INVALID, "response_format.json_schema.name must be 1 to 64 of a-z, A-Z, 0-9, _ and -."
        )
    problem = _problem(spec["schema"])
    if problem:
        raise RequestRefused(Reason.INVALID, f"Invalid schema for response_format '{spec['name']}': {problem}")
    return kind, spec["schema"]
