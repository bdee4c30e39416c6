"""A response does not depend on the cuts between its pieces, and garbage is no response."""

from __future__ import annotations

import gzip
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchvision.http.arrival import MAX_HEAD_BYTES, Arrival
from batchvision.http.body import Body

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = OK + b"Content-Type: application/json\r\nContent-Length: 11\r\n\r\n" + b'{"a": "bc"}'
CHUNKED = (
    OK + b"Transfer-Encoding: chunked\r\n\r\n4;x=y\r\n" + b'{"a"\r\n7\r\n: "bc"}\r\n0\r\nDigest: sha-256=0\r\n\r\n'
)
INTERIM = b"HTTP/1.1 100 Continue\r\nX-Request-Id: no\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + LENGTH
PACKED = gzip.compress(b'{"a": "bc"}')
GZIPPED = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(PACKED) + PACKED
TO_THE_END = OK + b'Content-Type: application/json\r\n\r\n{"a": "bc"}'


def body(arrival: Arrival) -> bytes:
    """The body so far, decoded."""
    content = Body(dict(arrival.headers).get(b"Content-Encoding", b"").decode(), 10_000)
    for piece in arrival.take():
        content.feed(piece)
    return content.content()


whole_answers = pytest.mark.parametrize(
    "answer", [LENGTH, CHUNKED, INTERIM, GZIPPED], ids=["length", "chunked", "interim", "gzip"]
)


def arrived(*pieces: bytes) -> Arrival:
    arrival = Arrival()
    for piece in pieces:
        if not arrival.is_over:
            arrival.feed(piece)
    return arrival


@whole_answers
@given(cuts=st.lists(st.integers(0, 300), max_size=8))
def test_an_answer_is_the_same_in_whatever_pieces_it_comes(answer: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(answer)) for cut in cuts), len(answer)]
    arrival = arrived(*(answer[a:b] for a, b in pairwise(places) if a < b))
    assert (arrival.status, body(arrival)) == (200, b'{"a": "bc"}')
    assert (arrival.is_over, arrival.is_whole, arrival.may_be_followed, arrival.error) == (True, True, True, None)
    assert not {b"X-Request-Id", b"Digest"} & {name for name, _ in arrival.headers}


@whole_answers
@given(share=st.floats(0, 1))
def test_an_answer_cut_anywhere_is_never_whole(answer: bytes, share: float) -> None:
    arrival = arrived(answer[: min(int(len(answer) * share), len(answer) - 1)])
    arrival.hang_up(None)
    assert (arrival.is_over, arrival.is_whole, arrival.may_be_followed) == (True, False, False)


def test_without_a_length_the_end_of_the_connection_is_the_end_of_the_answer() -> None:
    arrival = arrived(TO_THE_END)
    assert not arrival.is_over
    arrival.hang_up(None)
    assert (arrival.is_whole, body(arrival), arrival.may_be_followed) == (True, b'{"a": "bc"}', False)


def test_without_a_length_a_broken_connection_is_no_end() -> None:
    arrival = arrived(TO_THE_END)
    arrival.hang_up(ConnectionResetError("Connection reset by peer"))
    assert (arrival.status, arrival.is_whole, str(arrival.error)) == (200, False, "Connection reset by peer")


@pytest.mark.parametrize(
    "answer",
    [
        LENGTH.replace(OK, OK + b"Connection: close\r\n"),
        LENGTH.replace(b"HTTP/1.1", b"HTTP/1.0"),
        LENGTH + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        LENGTH + b"garbage behind the end",
    ],
    ids=["close", "1.0", "two answers to one request", "garbage behind"],
)
def test_no_response_follows_the_last_one_or_unrequested_bytes(answer: bytes) -> None:
    arrival = arrived(answer)
    assert (arrival.is_whole, body(arrival), arrival.may_be_followed) == (True, b'{"a": "bc"}', False)


def test_no_response_follows_bytes_after_the_end() -> None:
    arrival = arrived(LENGTH)
    assert arrival.may_be_followed
    arrival.feed(LENGTH)
    assert (arrival.is_whole, body(arrival), arrival.may_be_followed) == (True, b'{"a": "bc"}', False)


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_is_whole_with_its_head(status: int) -> None:
    arrival = arrived(b"HTTP/1.1 %d X\r\nContent-Length: 5\r\n\r\n" % status)
    assert (arrival.status, arrival.is_whole, body(arrival)) == (status, True, b"")


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        OK + b"Content-Length: -1\r\n\r\n",
        OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        OK + b"no colon\r\n\r\n",
        OK + b"X: " + b"a" * MAX_HEAD_BYTES,
        b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_HEAD_BYTES // 20),
    ],
    ids=range(11),
)
def test_bytes_that_are_no_response_have_no_status(garbage: bytes) -> None:
    arrival = arrived(garbage)
    assert (arrival.is_over, arrival.status, arrival.may_be_followed) == (True, None, False)
    assert arrival.error is not None
    assert "\n" not in str(arrival.error)


@pytest.mark.parametrize(
    "rest",
    [b"zz\r\n", b"2\r\n{}x\r\n", b"0\r\nDigest: " + b"a" * MAX_HEAD_BYTES, b"ffffffffffffffffff\r\n"],
    ids=["no length", "too much in a chunk", "endless trailers", "an absurd length"],
)
def test_a_body_that_stops_making_sense_keeps_its_status_and_is_not_whole(rest: bytes) -> None:
    arrival = arrived(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", rest)
    assert (arrival.is_over, arrival.status, arrival.is_whole, arrival.may_be_followed) == (True, 200, False, False)
    assert body(arrival).startswith(b"{}")


@given(st.binary(max_size=400))
def test_random_bytes_raise_no_error(data: bytes) -> None:
    for beginning in (b"", OK, OK + b"Transfer-Encoding: chunked\r\n\r\n"):
        arrival = arrived(beginning + data)
        arrival.hang_up(None)
        assert arrival.is_over


def test_an_odd_character_in_a_header_loses_no_answer() -> None:
    """It would be asked for, and paid for, again."""
    arrival = Arrival()
    arrival.feed(b"HTTP/1.1 200 OK\r\nset-cookie: \x1b[2J=\xff\r\ncontent-length: 2\r\n\r\n{}")
    assert (arrival.status, body(arrival), arrival.is_whole) == (200, b"{}", True)
