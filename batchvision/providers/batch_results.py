"""Read the results of a batch: pairs of our id and a raw answer (or an error), from a file of lines or a page of JSON.

The body of a raw answer is the JSON of the provider's answer without the line around it. An undecodable line costs its
own request only: if its id can be read, the request gets an error; otherwise it counts as unanswered.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from batchvision.errors import AnswerCutShort, BatchvisionError, Expired
from batchvision.prompt import is_deeper
from batchvision.providers import wire
from batchvision.records import RawAnswer

_ID_IN_LINE = re.compile(rb'"(?:custom_id|batch_request_id)"\s{0,8}:\s{0,8}"([A-Za-z0-9_-]{1,64})"')


class BatchResult(NamedTuple):
    """The result of one request: its raw answer, or the error in place of an answer."""

    our_id: str
    answer: RawAnswer | None = None
    error: BatchvisionError | None = None


class ResultsReader(ABC):
    """Reads the body of one answer in pieces. Order means nothing; a result may come again in a later read.

    ``next_page``: after ``end``, the page to ask for next. ``undecodable``: lines whose id cannot be read. ``problem``:
    the reason why the whole body is unreadable; the same call must be made again.
    """

    def __init__(self, at: datetime) -> None:
        self.next_page: str | None = None
        self.undecodable = 0
        self.problem: str | None = None
        self._at = at

    @abstractmethod
    def feed(self, piece: bytes) -> list[BatchResult]:
        """The results that are complete with ``piece``."""

    @abstractmethod
    def end(self) -> list[BatchResult]:
        """The results that are complete with the end of the body."""


class LinesReader(ResultsReader):
    """OpenAI's output and error files."""

    def __init__(self, at: datetime) -> None:
        super().__init__(at)
        self._rest: list[bytes] = []

    def feed(self, piece: bytes) -> list[BatchResult]:
        first, *more = piece.split(b"\n")
        self._rest.append(first)
        if not more:
            return []
        lines = [b"".join(self._rest), *more[:-1]]
        self._rest = [more[-1]]
        return self._read(lines)

    def end(self) -> list[BatchResult]:
        last, self._rest = b"".join(self._rest), []
        return self._read([last])

    def _read(self, lines: list[bytes]) -> list[BatchResult]:
        found = []
        for line in filter(bytes.strip, lines):
            document = decoded(line)
            our_id = wire.text(document.get("custom_id"))
            if our_id is not None:
                found.append(self._result(our_id, document))
            elif (our_id := _id_in(line)) is not None:
                error = AnswerCutShort("the line of this request in the results is undecodable")
                found.append(BatchResult(our_id, error=error))
            else:
                self.undecodable += 1
        return found

    def _result(self, our_id: str, document: Mapping[str, Any]) -> BatchResult:
        response, error = wire.mapping(document.get("response")), wire.mapping(document.get("error"))
        status, body = response.get("status_code"), response.get("body")
        if body is not None or (isinstance(status, int) and status >= 300):  # a gateway's body may be text
            request_id = wire.text(response.get("request_id"))
            return BatchResult(our_id, _raw(body, self._at, status if isinstance(status, int) else 200, request_id))
        if error:
            return error_result(our_id, error, self._at)
        return BatchResult(our_id, error=AnswerCutShort("the results hold neither an answer nor an error"))


class PageReader(ResultsReader):
    """xAI's pages of results."""

    def __init__(self, at: datetime) -> None:
        super().__init__(at)
        self._pieces: list[bytes] = []

    def feed(self, piece: bytes) -> list[BatchResult]:
        self._pieces.append(piece)
        return []

    def end(self) -> list[BatchResult]:
        document = decoded(b"".join(self._pieces))
        self._pieces.clear()
        if not isinstance(document.get("results", ""), list | None):
            self.problem = "the page is no JSON object with results"
        entries = wire.sequence(document.get("results"))
        if entries:  # a page without results is the last one, whatever token it holds
            self.next_page = wire.text(document.get("pagination_token"), most=4096)
        found = []
        for entry in map(wire.mapping, entries):
            our_id = wire.text(entry.get("batch_request_id"))
            if our_id is None:
                self.undecodable += 1
            else:
                found.append(self._result(our_id, entry))
        return found

    def _result(self, our_id: str, entry: Mapping[str, Any]) -> BatchResult:
        """The error may be in ``error_message``, in ``batch_result.error``, or in the answer (``code``, ``error``)."""
        result = wire.mapping(entry.get("batch_result"))
        message, error = entry.get("error_message"), wire.mapping(result.get("error"))
        if error.get("code") in (0, "0", None) and not error.get("message"):
            error = {}
        if error or (isinstance(message, str) and message):
            return error_result(our_id, {"message": message, **error}, self._at)
        answers = wire.mapping(result.get("response"))
        body = next((value for value in answers.values() if isinstance(value, dict)), None)
        if body is None:
            return BatchResult(our_id, error=AnswerCutShort("the results hold neither an answer nor an error"))
        return BatchResult(our_id, _raw(body, self._at))


#: Codes of requests that ended with their batch: OpenAI's, and gRPC's "cancelled" at xAI.
_EXPIRED = frozenset({"batch_expired", "batch_cancelled", "cancelled", "1"})


#: The HTTP statuses of gRPC's codes for errors that pass: DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE.
_STATUS_OF_GRPC = {"4": 504, "8": 429, "13": 500, "14": 503}


def error_result(our_id: str, error: Mapping[str, Any], at: datetime) -> BatchResult:
    """The result of a request with an error in place of an answer. The dialect classifies it like an error in a 200."""
    if str(error.get("code")).lower() in _EXPIRED:
        return BatchResult(our_id, error=Expired(wire.presentable(str(error.get("message") or "the batch has ended"))))
    return BatchResult(our_id, _raw({"error": dict(error)}, at, _STATUS_OF_GRPC.get(str(error.get("code")), 200)))


def decoded(content: bytes) -> Mapping[str, Any]:
    """The JSON object in ``content``, or an empty one."""
    text = content.decode("utf-8", "replace")
    if is_deeper(text):
        return {}
    try:
        return wire.mapping(json.loads(text))
    except (ValueError, RecursionError):
        return {}


def _raw(body: Any, at: datetime, status: int = 200, request_id: str | None = None) -> RawAnswer:
    text = body if isinstance(body, str) else json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    headers = {"x-request-id": request_id} if request_id else {}
    return RawAnswer(status, headers, text.encode("utf-8", "replace"), at)


def _id_in(line: bytes) -> str | None:
    found = _ID_IN_LINE.search(line)
    return found[1].decode() if found else None
