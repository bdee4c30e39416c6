"""A secret that comes in pieces is masked in a stream's body; everything else of it stays as it came."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchvision.checkpoint.record_json import masked_answer
from batchvision.providers import wire
from batchvision.records import RawAnswer
from batchvision.secrets import Secret, Secrets

KEY = "xai-Abc/123+def=="
SECRETS = Secrets(Secret(KEY))


def a_stream(pieces: list[str], end: str = "\n") -> bytes:
    chunks = [json.dumps({"id": "1", "choices": [{"index": 0, "delta": {"content": piece}}]}) for piece in pieces]
    last = json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": {"cost": 0.1}})
    return "".join(f"data: {data}{end}{end}" for data in (*chunks, last, "[DONE]")).encode()


def written(body: bytes) -> bytes:
    return masked_answer(RawAnswer(200, {}, body, datetime(2026, 11, 20, tzinfo=UTC)), SECRETS).body


def text_of(body: bytes) -> str:
    (choice,) = wire.document_of(body).value["choices"]
    content = choice["message"]["content"]
    assert isinstance(content, str)
    return content


@given(st.lists(st.integers(1, len(KEY) - 1), max_size=6, unique=True), st.sampled_from(["\n", "\r\n"]))
def test_a_key_in_pieces_is_masked_wherever_it_is_cut(cuts: list[int], end: str) -> None:
    edges = [0, *sorted(cuts), len(KEY)]
    pieces = ["it is ", *(KEY[start:stop] for start, stop in pairwise(edges)), ", no more"]
    body = written(a_stream(pieces, end))
    assert text_of(body) == "it is ***, no more"
    assert b"[DONE]" in body and b'"usage"' in body


@given(st.lists(st.text(max_size=5), max_size=5))
def test_a_stream_without_secrets_stays_as_it_came(pieces: list[str]) -> None:
    body = a_stream(pieces)
    assert written(body) == body


@given(st.binary(max_size=200), st.lists(st.text(max_size=40), max_size=5))
def test_no_bytes_are_too_strange_to_be_masked(strange: bytes, lines: list[str]) -> None:
    body = b"data: " + strange + b"\n" + "\n".join(f"data: {line}" for line in lines).encode() + a_stream([KEY])
    assert KEY.encode() not in written(body)
    assert wire.is_stream(body)


@pytest.mark.parametrize(
    "data", ['{"choices": 1}', '{"choices": [1]}', '{"choices": [{"delta": 7}]}', "[]", "[" * 100_000, '{"a": 1e999}']
)
def test_chunks_of_another_shape_are_left_alone(data: str) -> None:
    body = f"data: {data}\n\n".encode()
    assert written(body) == body


def test_a_message_in_one_piece_and_a_refusal_are_masked_too() -> None:
    chunk = {"choices": [{"message": {"content": None, "refusal": KEY[:5]}}]}
    rest = {"choices": [{"delta": {"refusal": KEY[5:]}}]}
    body = written(f"data: {json.dumps(chunk)}\n\ndata: {json.dumps(rest)}\n\n".encode())
    assert json.loads(body.split(b"\n")[0][5:])["choices"][0]["message"] == {"content": None, "refusal": "***"}
