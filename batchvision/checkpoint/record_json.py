"""The records of the journal as JSON, one object on one line, and back. Pure.

Fields that were added to a record later are optional when decoded.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json

from batchvision.checkpoint.journal_records import (
    Accepted,
    Carry,
    CarryRemoved,
    Closed,
    Ended,
    ExchangeRemoved,
    FailureRemoved,
    ReadDoubts,
    Received,
    Record,
    RowAnswer,
    RowFailed,
    Sealed,
    SegmentHeader,
    Shared,
    Submission,
    SubmissionEnded,
    SubmissionStep,
    Voided,
)
from batchvision.providers import is_stream as is_event_stream
from batchvision.providers import masked_stream
from batchvision.records import (
    Answer,
    AttemptState,
    Completed,
    EndedWithout,
    Failed,
    Intent,
    Lane,
    Purpose,
    RawAnswer,
    Tries,
    Usage,
)
from batchvision.secrets import Secrets
from batchvision.ticks import Prices

#: JSON key of a body that is not UTF-8, in base64.
_NO_TEXT = "body_base64"

_FILE_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MOST_SEGMENTS = 10**9


# ---------------------------------------------------------------------------------- to JSON


def encode(record: Record, mask: Callable[[str], str]) -> bytes:
    """Return the record's JSON object on one line, with every text masked.

    An answer was masked before (:func:`masked_answer`).
    """
    document = _document(record)
    line = _line(document)
    if isinstance(record, Received):
        return line
    text = line.decode("utf-8", "surrogatepass")
    return line if mask(text) == text else _line(_masked(document, mask))


def _line(document: dict[str, Any]) -> bytes:
    """Encode everything that cells may hold: NaN, infinities, large integers, lone surrogates."""
    try:
        return to_json(document, inf_nan_mode="constants")
    except ValueError:  # a lone surrogate is not UTF-8
        return _ENCODE(document).encode("utf-8", "surrogatepass")


_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=datetime.isoformat).encode


def _masked(value: Any, mask: Callable[[str], str]) -> Any:
    match value:
        case str():
            return mask(value)
        case dict():
            # its bytes were masked before; masking base64 would damage it
            return {key: cell if key == _NO_TEXT else _masked(cell, mask) for key, cell in value.items()}
        case list() | tuple():
            return [_masked(cell, mask) for cell in value]
        case _:
            return value


def _document(record: Record) -> dict[str, Any]:
    match record:
        case Intent():
            return {"kind": "intent", **_intent_document(record)}
        case Accepted(exchange_id, ticket, at, place, is_unread):
            where = {} if place is None else {"place": place}
            unread = {"unread": True} if is_unread else {}
            return {"kind": "ticket", "exchange_id": exchange_id, "ticket": ticket, "at": at, **where, **unread}
        case Received(exchange_id, raw):
            document = {"kind": "answer", "exchange_id": exchange_id, "status": raw.status}
            document |= {"received_at": raw.received_at, "complete": raw.complete, "headers": raw.headers}
            try:
                return {**document, "body": raw.body.decode("utf-8")}
            except UnicodeDecodeError:
                return {**document, _NO_TEXT: b64encode(raw.body).decode("ascii")}
        case Closed():
            return {"kind": "closed", **_closed_document(record)}
        case RowFailed(failed, is_correction):
            correction = {"correction": True} if is_correction else {}
            return {"kind": "row_failed", **_failed_document(failed), **correction}
        case Shared(completed):
            return {"kind": "shared", **_completed_document(completed)}
        case SegmentHeader():
            return {"kind": "segment", **_fields(record)}
        case Ended(exchange_id, ended):
            end = {"error": ended.kind, "message": ended.message, "at": ended.at}
            return {"kind": "end", "exchange_id": exchange_id, **end}
        case Carry():
            values = {name: getattr(record, name) for name in Carry.__slots__}
            return {"kind": "carry", **{name: value for name, value in values.items() if value or name not in _ADDED}}
        case ReadDoubts():
            return {"kind": "doubts", **_fields(record)}
        case Submission():
            return {"kind": "submission", **_fields(record)}
        case Voided() | SubmissionEnded() | ExchangeRemoved() | CarryRemoved() | FailureRemoved() | Sealed():
            return {"kind": _PLAIN_KINDS[type(record)], **_fields(record)}


#: Fields of ``Carry`` that earlier versions do not write.
_ADDED = frozenset({"empties", "raised"})
#: Records whose fields JSON can hold as they are.
_PLAIN_KINDS: dict[type, str] = {
    Voided: "void",
    SubmissionEnded: "submission_ended",
    ExchangeRemoved: "exchange_removed",
    CarryRemoved: "carry_removed",
    FailureRemoved: "failure_removed",
    Sealed: "sealed",
}
_PLAIN = {kind: record for record, kind in _PLAIN_KINDS.items()}


def _fields(record: Any) -> dict[str, Any]:
    return {each.name: getattr(record, each.name) for each in fields(record)}


def _set(names: tuple[str, ...], values: Iterable[Any]) -> dict[str, Any]:
    """Fields with a value. The others have their default when decoded."""
    return {name: value for name, value in zip(names, values, strict=True) if value is not None}


def _intent_document(intent: Intent) -> dict[str, Any]:
    values = dict(zip(Intent._fields, intent, strict=True))
    if intent.purpose is Purpose.RUN and Purpose.of_run_id(intent.run_id) is Purpose.RUN:
        del values["purpose"]  # as in journals of version 1
    return values


def _answer_document(answer: Answer) -> dict[str, Any]:
    return _set(Answer._fields, answer) | {"usage": _set(Usage._fields, answer.usage)}


def _closed_document(record: Closed) -> dict[str, Any]:
    values: dict[str, Any] = {"exchange_id": record.exchange_id, "state": record.state}
    values["answer"] = _answer_document(record.answer)
    errors = (record.error_kind, record.error_message, record.bound_ticks)
    values |= _set(("error_kind", "error_message", "bound_ticks"), errors)
    if record.ended is not None:
        values["ended"] = record.ended._asdict()
    if record.completed is not None:
        values["completed"] = record.completed._asdict()
    if record.failed is not None:
        values["failed"] = _failed_document(record.failed)
    if record.is_held:
        values["is_held"] = True
    if record.is_repeat:
        values["is_repeat"] = True
    return values


def _failed_document(failed: Failed) -> dict[str, Any]:
    values = _fields(failed)
    del values["at_provider"]
    return values


def _completed_document(completed: Completed) -> dict[str, Any]:
    return {
        "intent": _intent_document(completed.intent),
        "answer": _answer_document(completed.answer),
        **RowAnswer(
            completed.output_json, completed.answer_columns, completed.row_cost_ticks, completed.finished_at
        )._asdict(),
        "updated_at": completed.updated_at,
    }


def masked_answer(raw: RawAnswer, secrets: Secrets) -> RawAnswer:
    """Mask the secrets in an answer, its only change ever. In a stream a secret may come in pieces."""
    together = b"\n".join(("\n".join(raw.headers.values()).encode("utf-8", "surrogatepass"), raw.body))
    is_stream = is_event_stream(raw.body)
    if secrets.mask_bytes(together) == together and not is_stream:
        return raw
    headers = {name: secrets.mask(value) for name, value in raw.headers.items()}
    body = secrets.mask_bytes(raw.body)
    return raw._replace(headers=headers, body=masked_stream(body, secrets.mask) if is_stream else body)


# ---------------------------------------------------------------------------------- from JSON


def decode(document: dict[str, Any]) -> Record:
    """The record of a JSON object. Raises KeyError, TypeError or ValueError for a foreign object."""
    match document["kind"]:
        case "segment":
            return _header(document)
        case "intent":
            return _intent(document)
        case "ticket":
            at = datetime.fromisoformat(document["at"])
            place, is_unread = document.get("place"), document.get("unread", False)
            return Accepted(document["exchange_id"], document["ticket"], at, place, is_unread)
        case "answer":
            return Received(document["exchange_id"], _raw(document))
        case "closed":
            return _closed(document)
        case "row_failed":
            return RowFailed(_failed(document), document.get("correction", False))
        case "shared":
            return Shared(_completed(document))
        case "doubts":
            exchange_ids = document["exchange_ids"]
            named = None if exchange_ids is None else tuple(exchange_ids)
            return ReadDoubts(document["run_id"], named, document["run_has_ended"])
        case "submission":
            step, at = SubmissionStep(document["step"]), datetime.fromisoformat(document["at"])
            more = (document.get(name) for name in ("place", "batch_id", "file_id"))
            return Submission(document["submission_id"], step, at, *more)
        case "end":
            at = datetime.fromisoformat(document["at"])
            return Ended(document["exchange_id"], EndedWithout(document["error"], document["message"], at))
        case "carry":
            values = {name: document[name] for name in Carry.__slots__ if name in document or name not in _ADDED}
            return Carry(**values)
        case kind if kind in _PLAIN:
            record: Record = _PLAIN[kind](**{each.name: document[each.name] for each in fields(_PLAIN[kind])})
            return record
        case other:
            raise ValueError(f"a record of the kind {other!r}")


def _header(document: dict[str, Any]) -> SegmentHeader:
    """Decode a header. Files are named after it, so its fields are checked strictly."""
    run_id, shard, seq, version = (document[name] for name in ("run_id", "shard", "seq", "version"))
    if not (_FILE_WORD.fullmatch(run_id) and _FILE_WORD.fullmatch(shard)):
        raise ValueError("a run or a shard of no such name")
    if type(seq) is not int or type(version) is not int or not 0 <= seq < _MOST_SEGMENTS:
        raise ValueError("no number of a segment or of a version")
    started_at = datetime.fromisoformat(document["started_at"]).astimezone(UTC)
    return SegmentHeader(document["job"], run_id, started_at, shard, seq, version)


def _intent(document: dict[str, Any]) -> Intent:
    values = {name: document[name] for name in Intent._fields if name not in ("prices", "purpose")}
    purpose = document.get("purpose")
    values.update(
        lane=Lane(document["lane"]),
        tries=Tries(*document["tries"]),
        sent_at=datetime.fromisoformat(document["sent_at"]),
        image_ref=tuple(document["image_ref"]),
        image_sha256=tuple(document["image_sha256"]),
        prices=document.get("prices"),
        purpose=Purpose.of_run_id(document["run_id"]) if purpose is None else Purpose(purpose),
    )
    if values["prices"]:
        Prices.recorded(values["prices"])
    return Intent(**values)


def _raw(document: dict[str, Any]) -> RawAnswer:
    text = document.get("body")
    body = b64decode(document[_NO_TEXT]) if text is None else text.encode("utf-8", "surrogatepass")
    at = datetime.fromisoformat(document["received_at"])
    return RawAnswer(document["status"], document["headers"], body, at, document["complete"])


def _answer(document: dict[str, Any]) -> Answer:
    return Answer(**{**document, "usage": Usage(**document["usage"])})


def _row_answer(document: dict[str, Any]) -> RowAnswer:
    at = datetime.fromisoformat(document["finished_at"])
    return RowAnswer(document["output_json"], document["answer_columns"], document["row_cost_ticks"], at)


def _closed(document: dict[str, Any]) -> Closed:
    ended, completed, failed = (document.get(name) for name in ("ended", "completed", "failed"))
    return Closed(
        exchange_id=document["exchange_id"],
        state=AttemptState(document["state"]),
        answer=_answer(document["answer"]),
        error_kind=document.get("error_kind"),
        error_message=document.get("error_message"),
        bound_ticks=document.get("bound_ticks"),
        ended=ended and EndedWithout(ended["kind"], ended["message"], datetime.fromisoformat(ended["at"])),
        completed=completed and _row_answer(completed),
        failed=failed and _failed(failed),
        is_held=document.get("is_held", False),
        is_repeat=document.get("is_repeat", False),
    )


def _failed(document: dict[str, Any]) -> Failed:
    names = [each.name for each in fields(Failed) if each.name not in ("failed_at", "image_ref", "at_provider")]
    return Failed(
        **{name: document[name] for name in names},
        failed_at=datetime.fromisoformat(document["failed_at"]),
        image_ref=tuple(document.get("image_ref", ())),
    )


def _completed(document: dict[str, Any]) -> Completed:
    updated_at = document["updated_at"]
    return Completed(
        _intent(document["intent"]),
        _answer(document["answer"]),
        *_row_answer(document),
        updated_at=updated_at and datetime.fromisoformat(updated_at),
    )
