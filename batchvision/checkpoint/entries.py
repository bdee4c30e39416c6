"""The records of the journal: one frozen value for each kind, and its JSON. Pure.

The records of an exchange are ``intent``, perhaps ``ticket``, then ``answer``, ``end`` or ``void``. A segment begins
with its ``segment`` header. ``carry`` records hold the attempts and cost of rows that are still pending.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json

from batchvision.providers import is_stream as is_event_stream
from batchvision.providers import masked_stream
from batchvision.records import EndedWithout, Exchange, Intent, Lane, Purpose, RawAnswer, Tries
from batchvision.secrets import Secrets
from batchvision.ticks import Prices

#: Version of the journal's format. A journal of a later version is refused.
VERSION = 1

#: JSON key of a body that is not UTF-8, in base64.
_NO_TEXT = "body_base64"

_FILE_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MOST_SEGMENTS = 10**9


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """The first record of a segment. Its fields name the parts, so that a replay overwrites itself."""

    job: str
    run_id: str
    started_at: datetime
    shard: str
    seq: int
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Accepted:
    """The provider has accepted the work and given a ticket.

    ``place``: the base URL that gave it (see ``opening.place_of``). ``is_unread``: written when a run ends in order and
    no poll of the ticket can have taken its answer. A killed run does not write it.
    """

    exchange_id: str
    ticket: str
    at: datetime
    place: str | None = None
    is_unread: bool = False


@dataclass(frozen=True, slots=True)
class Received:
    """The raw answer, before it is parsed."""

    exchange_id: str
    raw: RawAnswer


@dataclass(frozen=True, slots=True)
class Ended:
    """The exchange ended without an answer."""

    exchange_id: str
    ended: EndedWithout


@dataclass(frozen=True, slots=True)
class Voided:
    """The request was never sent. It costs nothing and has no line in the ledger."""

    exchange_id: str


@dataclass(frozen=True, slots=True)
class Carry:
    """Attempts and cost of a row that is still pending. A ``held`` row waits for a run that sends ambiguous rows again.

    ``bound_ticks``: cost bound of its ambiguous attempts. ``empties``: number of empty answers.
    """

    row_id: str
    request_key: str
    skip_key: str
    attempts: int
    cost_ticks: int
    runs_failed: int
    held: bool = False
    bound_ticks: int | None = None
    empties: int = 0


Entry = SegmentHeader | Intent | Accepted | Received | Ended | Voided | Carry


def entries_of(exchange: Exchange) -> Iterator[Entry]:
    """An exchange as the records that made it."""
    intent = exchange.intent
    yield intent
    if exchange.ticket is not None:
        yield accepted(exchange)
    if exchange.answer is not None:
        yield Received(intent.exchange_id, exchange.answer)


def accepted(exchange: Exchange) -> Accepted:
    """The record of the exchange's ticket."""
    intent = exchange.intent
    if exchange.ticket is None:
        raise RuntimeError("an exchange without a ticket was recorded as accepted")
    return Accepted(intent.exchange_id, exchange.ticket, exchange.ticket_at or intent.sent_at, exchange.ticket_place)


# ---------------------------------------------------------------------------------- to JSON


def encode(entry: Entry, mask: Callable[[str], str]) -> bytes:
    """Return the record's JSON object on one line, with every text masked.

    An answer was masked before (:func:`masked_answer`).
    """
    document = _document(entry)
    line = _line(document)
    if isinstance(entry, Received):
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


def _document(entry: Entry) -> dict[str, Any]:
    match entry:
        case SegmentHeader():
            return {
                "kind": "segment",
                "version": entry.version,
                "job": entry.job,
                "run_id": entry.run_id,
                "started_at": entry.started_at,
                "shard": entry.shard,
                "seq": entry.seq,
            }
        case Intent():
            values = dict(zip(Intent._fields, entry, strict=True))
            if entry.purpose is Purpose.RUN:
                del values["purpose"]  # as in journals of earlier versions
            return {"kind": "intent", **values}
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
        case Ended(exchange_id, ended):
            end = {"error": ended.kind, "message": ended.message, "at": ended.at}
            return {"kind": "end", "exchange_id": exchange_id, **end}
        case Voided(exchange_id):
            return {"kind": "void", "exchange_id": exchange_id}
        case Carry():
            values = {name: getattr(entry, name) for name in Carry.__slots__ if name != "empties" or entry.empties}
            return {"kind": "carry", **values}


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


def decode(document: dict[str, Any]) -> Entry:
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
        case "end":
            at = datetime.fromisoformat(document["at"])
            return Ended(document["exchange_id"], EndedWithout(document["error"], document["message"], at))
        case "void":
            return Voided(document["exchange_id"])
        case "carry":
            values = {name: document[name] for name in Carry.__slots__ if name != "empties"}
            return Carry(**values, empties=document.get("empties", 0))
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
