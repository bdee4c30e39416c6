"""The bytes of an answer: every way of cutting them gives the same answer and raises nothing."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence

from batchvision.http.arrival import MAX_HEAD_BYTES, Arrival


class Wires:
    """The first byte chooses the cut, the rest is the bytes of the server."""

    name = "wire"

    def seeds(self) -> Sequence[bytes]:
        body, packed = b'{"choices": []}', gzip.compress(b'{"choices": []}' * 50)
        ok = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: r\r\n"
        answers = [
            ok + b"content-length: 15\r\n\r\n" + body,
            ok + b"transfer-encoding: chunked\r\n\r\nf\r\n" + body + b"\r\n0\r\nx-trailer: 1\r\n\r\n",
            ok + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(packed) + packed,
            ok + b"connection: close\r\n\r\n" + body,
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n"
            + ok
            + b"content-length: 0\r\n\r\n",
            b"HTTP/1.1 429 Too Many\r\nretry-after: 1\r\nx-ratelimit-limit-requests: 5\r\ncontent-length: 2\r\n\r\n{}",
            b"HTTP/1.1 204 No Content\r\n\r\n",
            b"HTTP/1.0 500 x\r\n\r\nbroken",
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\nabc",
        ]
        return [bytes([cut]) + answer for cut in (0, 1, 3, 50) for answer in (*answers, answers[0] + answers[1])]

    def tokens(self) -> Sequence[bytes]:
        words = ["HTTP/1.1 ", "HTTP/2 ", "\r\n\r\n", "content-length: ", "transfer-encoding: chunked\r\n", "0\r\n\r\n"]
        words += [
            "connection: close\r\n",
            "content-encoding: gzip\r\n",
            "content-encoding: deflate\r\n",
            "FFFFFFFF\r\n",
        ]
        words += [
            "x-request-id: \xff\r\n",
            "retry-after: \x1b[2J\r\n",
            " folded\r\n",
            "upgrade: x\r\n",
            "content-length: 1",
        ]
        return [*(word.encode("latin-1") for word in words), gzip.compress(b""), gzip.compress(b"x" * 30_000)]

    def run(self, content: bytes) -> str:
        cut, sent = content[0] if content else 0, content[1:]
        whole, cut_up = _arrived([sent]), _arrived(_pieces(sent, cut % 64 + 1))
        told, told_cut_up = _facts(whole), _facts(cut_up)
        if whole.is_whole or not (_fault(whole) or _fault(cut_up)):
            assert told == told_cut_up, f"{told} is not {told_cut_up}"
        return " ".join(
            map(str, (whole.status, whole.is_whole, whole.may_be_followed, _fault(whole)[:20], len(told[2]) > 0))
        )


def _pieces(sent: bytes, size: int) -> Iterator[bytes]:
    return (sent[start : start + size] for start in range(0, len(sent), size))


def _arrived(pieces: Sequence[bytes] | Iterator[bytes]) -> Arrival:
    arrival = Arrival()
    for piece in pieces:
        if arrival.is_over:
            break
        arrival.feed(piece)
    arrival.hang_up(None)
    assert arrival.is_over
    assert not arrival.is_whole or arrival.status is not None, "whole without a head"
    assert arrival.is_whole or arrival.error is not None, "it ended early, and does not say why"
    assert arrival.status is None or 200 <= arrival.status <= 999
    assert sum(len(value) for _, value in arrival.headers) <= MAX_HEAD_BYTES + 200_000
    arrival.let_go()
    return arrival


def _fault(arrival: Arrival) -> str:
    return "" if arrival.error is None else str(arrival.error)


def _facts(arrival: Arrival) -> tuple[int | None, list[tuple[bytes, bytes]], bytes, bool]:
    return arrival.status, arrival.headers, b"".join(arrival.take()), arrival.is_whole
