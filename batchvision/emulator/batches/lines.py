"""Parse the requests of a batch. No I/O but reading the uploaded file.

A structural problem fails the whole batch. A wrong body (an image that cannot be decoded) fails its own request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from batchvision.emulator.checks import ParsedRequest, read_document
from batchvision.emulator.options import EmulatorOptions, Face
from batchvision.emulator.pixels import PictureMemory
from batchvision.emulator.pricing import batch_percent
from batchvision.emulator.refusals import Reason, Refusal, RequestRefused

CHAT_URL = "/v1/chat/completions"
RESPONSES_URL = "/v1/responses"
_MOST_PROBLEMS = 20


class LineProblem(NamedTuple):
    """A reason why a batch fails validation, in OpenAI's words. ``line`` is 1-based."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchLine(NamedTuple):
    """One request of a batch. ``asked`` is the refusal if the provider does not accept the body."""

    custom_id: str
    endpoint: str
    model: str
    asked: ParsedRequest | Refusal


class ReadFile(NamedTuple):
    """The lines of an input file, or the problems that fail the batch."""

    lines: tuple[BatchLine, ...]
    problems: tuple[LineProblem, ...]


def read_file(face: Face, path: Path, options: EmulatorOptions, memory: PictureMemory) -> ReadFile:
    """All requests of an input file."""
    size = path.stat().st_size
    if size > options.batch_max_bytes:
        message = f"The batch input file has {size} bytes: at most {options.batch_max_bytes} are allowed."
        return ReadFile((), (LineProblem("file_too_large", message),))
    lines: list[BatchLine] = []
    problems: list[LineProblem] = []
    ids: set[str] = set()
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            found = _read_line(face, number, text, options, memory)
            if isinstance(found, BatchLine):
                found = _checked_with_earlier(face, number, found, ids, lines, options)
            if isinstance(found, LineProblem):
                problems.append(found)
            else:
                ids.add(found.custom_id)
                lines.append(found)
            if len(problems) >= _MOST_PROBLEMS:
                break
    if not lines and not problems:
        problems.append(LineProblem("empty_file", "The input file is empty."))
    return ReadFile(tuple(lines), tuple(problems))


def _checked_with_earlier(
    face: Face, number: int, found: BatchLine, ids: set[str], lines: list[BatchLine], options: EmulatorOptions
) -> BatchLine | LineProblem:
    if found.custom_id in ids:
        message = f"The custom_id for this request is a duplicate of another request: {found.custom_id}."
        return LineProblem("duplicate_custom_id", message, number, "custom_id")
    if len(lines) >= options.batch_max_lines:
        message = f"The batch input file holds more than {options.batch_max_lines} requests."
        return LineProblem("too_many_tasks", message, number)
    if lines and found.model != lines[0].model and face is Face.OPENAI:
        message = f"The batch has requests of two models, {lines[0].model} and {found.model}."
        return LineProblem("mismatched_model", message, number, "body.model")
    return found


def _read_line(
    face: Face, number: int, text: bytes, options: EmulatorOptions, memory: PictureMemory
) -> BatchLine | LineProblem:
    try:
        line = json.loads(text)
    except ValueError:
        return LineProblem("invalid_json_line", "This line is not parseable as valid JSON.", number)
    if not isinstance(line, dict):
        return LineProblem("invalid_json_line", "This line is not a JSON object.", number)
    custom_id, url, body = line.get("custom_id"), line.get("url"), line.get("body")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= 64:
        message = "Missing required parameter: 'custom_id', a text of at most 64 characters."
        return LineProblem("missing_required_parameter", message, number, "custom_id")
    if line.get("method") != "POST":
        return LineProblem("invalid_method", "Invalid value for 'method': expected 'POST'.", number, "method")
    if url not in ((CHAT_URL,) if face is Face.OPENAI else (CHAT_URL, RESPONSES_URL)):
        message = f"The URL provided for this request does not match the batch endpoint: {url}."
        return LineProblem("mismatched_endpoint", message, number, "url")
    if not isinstance(body, dict):
        return LineProblem("missing_required_parameter", "Missing required parameter: 'body'.", number, "body")
    return read_request_of(face, custom_id, str(url), body, options, memory, number)


def read_request_of(
    face: Face,
    custom_id: str,
    url: str,
    body: Mapping[str, Any],
    options: EmulatorOptions,
    memory: PictureMemory,
    number: int | None = None,
) -> BatchLine | LineProblem:
    """One request with its body. A model that is not batch-enabled is a problem of the batch."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        return LineProblem("missing_required_parameter", "Missing required parameter: 'model'.", number, "body.model")
    if batch_percent(model, face is Face.XAI) is None:
        if face is Face.XAI:
            return LineProblem("invalid-argument", f"Model {model} is not supported for batch processing.")
        message = f"The provided model '{model}' is not supported by the Batch API."
        return LineProblem("model_not_found", message, number, "body.model")
    try:
        document = _chat_form(body) if url == RESPONSES_URL else body
        asked: ParsedRequest | Refusal = read_document(face, document, options, memory)
        if isinstance(asked, ParsedRequest) and (asked.is_stream or asked.is_deferred):
            raise RequestRefused(Reason.INVALID, "Requests of a batch can be neither streamed nor deferred.")
    except RequestRefused as refused:
        asked = refused.refusal
    return BatchLine(custom_id, url, model, asked)


def _chat_form(body: Mapping[str, Any]) -> dict[str, Any]:
    """The chat completion that asks the same as a ``responses`` body."""
    given = body.get("input")
    turns = given if isinstance(given, list) else [{"role": "user", "content": given}]
    messages = [
        {**turn, "content": _chat_content(turn.get("content"))} if isinstance(turn, dict) else turn for turn in turns
    ]
    document = {"model": body.get("model"), "messages": messages}
    if body.get("max_output_tokens") is not None:
        document["max_tokens"] = body["max_output_tokens"]
    form = body["text"].get("format") if isinstance(body.get("text"), dict) else None
    if isinstance(form, dict) and form.get("type") == "json_schema":
        document["response_format"] = {"type": "json_schema", "json_schema": form}
    return document


def _chat_content(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    parts: list[Any] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("input_text", "output_text"):
            parts.append({"type": "text", "text": part.get("text")})
        elif kind == "input_image":
            parts.append({"type": "image_url", "image_url": {"url": part.get("image_url"), "detail": "auto"}})
        else:
            parts.append(part)
    return parts
