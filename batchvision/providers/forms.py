"""The form of a request for JSON: how the schema is handed over, and the next form to try after a refusal.

A form is no part of the recipe. Every answer is checked against the job's schema, under any form.
"""

from __future__ import annotations

import logging
import re
from typing import Literal, NamedTuple

from batchvision.errors import (
    AuthenticationFailed,
    BatchvisionError,
    OutOfCredit,
    RateLimited,
    Refused,
    RequestRejected,
    StopRun,
    Transient,
)
from batchvision.providers import faults, wire
from batchvision.records import RawAnswer

log = logging.getLogger(__name__)

ResponseFormat = Literal["json_schema", "json_object", "prompt"]

#: In the order in which they are tried.
RESPONSE_FORMATS: tuple[ResponseFormat, ...] = ("json_schema", "json_object", "prompt")

_OF_STREAM_OPTIONS = re.compile(r"stream[_ ]options|include[_ ]usage", re.IGNORECASE)
#: Statuses of a server that does not know a field.
_STATUSES = frozenset({400, 404, 405, 406, 415, 422, 500, 501})
_OF_SOMETHING_ELSE = (AuthenticationFailed, OutOfCredit, RateLimited, Refused)


class ResponseForm(NamedTuple):
    """``response_format``: in the forms ``json_object`` and ``prompt`` the prompt ends with the schema.

    ``stream_options``: ask a stream for its usage.
    """

    response_format: ResponseFormat = "json_schema"
    stream_options: bool = True


class ResponseForms:
    """The current form of a run's requests, and its only owner.

    ``wanted``: ``provider.response_format``; "auto" moves to the next form when the server refuses a form that it never
    answered. ``has_schema``, ``streams``: the features that a server may refuse.
    """

    def __init__(self, wanted: ResponseFormat | Literal["auto"] = "auto", *, has_schema: bool, streams: bool) -> None:
        self._is_fixed = wanted != "auto"
        self._has_schema = has_schema
        self._streams = streams
        self._answered: set[ResponseFormat | Literal["stream_options"]] = set()
        self.current = ResponseForm("json_schema" if wanted == "auto" else wanted)

    def answered(self, form: ResponseForm) -> None:
        """A request of this form was answered: a later refusal concerns its row only."""
        self._answered.add(form.response_format)
        if self._streams and form.stream_options:
            self._answered.add("stream_options")

    def has_left(self, form: ResponseForm, raw: RawAnswer | None, error: BatchvisionError | None) -> bool:
        """Record the result of a request of ``form``. True: the server refused the form, and another is current."""
        if raw is None:
            return False
        if 200 <= raw.status < 300 and not isinstance(error, Transient | StopRun | RequestRejected):
            self.answered(form)
            return False
        if isinstance(error, _OF_SOMETHING_ELSE):
            return False
        if raw.status >= 300 and raw.status not in _STATUSES:
            return False
        words = _words(raw)
        if self._streams and form.stream_options and _OF_STREAM_OPTIONS.search(words):
            return self._without_stream_options(words)
        if self._has_schema and not self._is_fixed and faults.names_response_format(words):
            return self._after(form.response_format, words)
        return False

    def _without_stream_options(self, words: str) -> bool:
        if "stream_options" in self._answered:
            return False
        if self.current.stream_options:
            self.current = self.current._replace(stream_options=False)
            log.warning("the server takes no stream_options (%s): streams come without their usage", _brief(words))
        return True

    def _after(self, refused: ResponseFormat, words: str) -> bool:
        if refused in self._answered or refused == RESPONSE_FORMATS[-1]:
            return False
        if refused == self.current.response_format:
            following = RESPONSE_FORMATS[RESPONSE_FORMATS.index(refused) + 1]
            self.current = self.current._replace(response_format=following)
            log.warning(
                "the server takes no response_format %s (%s): the prompt states the schema, answers are checked as "
                'before. provider.response_format = "%s" spares this try',
                refused,
                _brief(words),
                following,
            )
        return True


def _words(raw: RawAnswer) -> str:
    """The server's error text, and the field it names; of a list of details (FastAPI) without the repeated input."""
    document = wire.document_of(raw.body)
    body = wire.mapping(faults.unwrapped(document.value))
    details = [wire.mapping(detail) for detail in wire.sequence(body.get("detail"))]
    if details:
        return " ".join(f"{detail.get('loc')} {detail.get('msg')}" for detail in details)
    return f"{faults.error_text(document)} {wire.text(wire.mapping(body.get('error')).get('param')) or ''}".strip()


def _brief(words: str) -> str:
    return wire.presentable(words, most=160)
