"""A provider's answer: reading, ticket, poll, classification and ledger row raise nothing."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime

from checkpoint_rows import an_intent

from batchvision.checkpoint import Columns, type_of
from batchvision.checkpoint.journal_records import Received
from batchvision.checkpoint.record_json import decode, encode, masked_answer
from batchvision.checkpoint.schema import TableSchemas
from batchvision.cli.terminal import safe_line
from batchvision.errors import BatchvisionError, Transient
from batchvision.http.body import Body
from batchvision.prompt import answer_columns, build_answer_spec
from batchvision.providers import Gone, NotReady, Reading, dialect
from batchvision.records import Completed, Exchange, Failed, ImagePreparation, Label, Lane, RawAnswer, Recipe
from batchvision.runner.classify import Classifier
from batchvision.runner.retry import RetryPolicy
from batchvision.secrets import Secret, Secrets

AT = datetime(2026, 11, 20, 22, 0, tzinfo=UTC)
KEY = "xai-canary-key-0123456789"
SECRETS = Secrets(Secret(KEY))
DIALECTS = ("xai", "openrouter", "openai", "emulator")
STATUSES = (
    200,
    200,
    200,
    200,
    202,
    204,
    301,
    400,
    401,
    402,
    403,
    404,
    408,
    410,
    413,
    422,
    429,
    500,
    502,
    503,
    524,
    529,
)
_SCHEMA = {
    "type": "object",
    "properties": {
        "score": {"type": "number"},
        "count": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "deep": {"type": "object", "properties": {"a": {"type": "string"}}},
        "ok": {"type": ["boolean", "null"]},
    },
    "required": ["score"],
}
_LABELS = (Label("shoe"), Label("bag"))
_SPECS = (
    build_answer_spec(None, (), False, False, None),
    build_answer_spec(_SCHEMA, (), False, False, None),
    build_answer_spec(None, _LABELS, False, False, "bag"),
    build_answer_spec(None, _LABELS, True, True, None),
)


def _recipe(number: int) -> Recipe:
    return Recipe(
        "emulator", "m", None, "x", None, answer=_SPECS[number], images=ImagePreparation(), recipe_id=str(number)
    )


_RECIPES = {str(number): _recipe(number) for number in range(len(_SPECS))}
_JUDGE = Classifier(_RECIPES, RetryPolicy(3, raise_once=True))
_TABLES = [
    TableSchemas("fuzz", Columns((), tuple((c.name, type_of(c.type_name)) for c in answer_columns(spec))), SECRETS.mask)
    for spec in _SPECS
]


class Answers:
    """Two bytes choose dialect, status, spec, compression and lane, the rest is the body."""

    name = "answer"

    def seeds(self) -> Sequence[bytes]:
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "cost_in_usd_ticks": 7, "cost": 0.1}
        texts = [
            "a shoe",
            '{"score": 1, "count": 2, "tags": ["a"], "deep": {}, "ok": null}',
            '{"label": "shoe"}',
            "shoe",
        ]
        texts += [
            '```json\n{"label": ["shoe"], "label_confidence": 0.5}\n```',
            "\u202e\x1b[2J",
            '{"score": 1e999}',
            KEY,
        ]
        bodies = []
        for text in texts:
            message = {"role": "assistant", "content": text, "refusal": None}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            body = {"id": "r1", "model": "m", "choices": [choice], "usage": usage, "provider": "P"}
            bodies.append(json.dumps(body).encode())
            delta = {"choices": [{"index": 0, "delta": {"content": text}}]}
            last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}], "usage": usage}
            bodies.append(
                "".join(f"data: {json.dumps(one)}\n\n" for one in (delta, last)).encode() + b"data: [DONE]\n\n"
            )
        bodies += [b'{"error": {"message": "no", "code": "x", "metadata": {"raw": "{}"}}}', b'{"request_id": "t-1"}']
        bodies += [
            b"<!DOCTYPE html><title>502</title>",
            b"",
            b": OPENROUTER PROCESSING\n\n",
            b'[{"error": {"code": 429}}]',
        ]
        return [bytes([place % 256, place * 7 % 256]) + body for place in range(0, 256, 5) for body in bodies]

    def tokens(self) -> Sequence[bytes]:
        words = ['"choices":', '"error":', '"message":', '"content":', '"usage":', '"finish_reason":', '"refusal":']
        words += [
            '"code":',
            '"details":',
            '"retryDelay": "1s"',
            '"metadata":',
            '"raw":',
            '"label":',
            '"score":',
            '"type":',
        ]
        words += [
            "length",
            "content_filter",
            "error",
            "data: ",
            "data: [DONE]\n\n",
            "event: error\n",
            '"delta":',
            '"index":',
        ]
        words += [
            "(actual/limit): 3/2",
            "requests per second",
            '"cost":',
            '"total_tokens":',
            "safety",
            "Retry-After",
            KEY,
        ]
        words += ['"index":0', '"index":false', "```json\n", "\n```", "1E400", "-1e-400", "[[[[[[[[", "2.0", "\ufeff"]
        return [word.encode() for word in words]

    def run(self, content: bytes) -> str:
        first, second, sent = content[0:1] or b"\0", content[1:2] or b"\0", content[2:]
        choice, other = first[0], second[0]
        body, complete = _travelled(sent, other % 5)
        headers = {"x-request-id": "r", "content-type": "text/html" if other % 7 == 0 else "application/json"}
        raw = RawAnswer(STATUSES[choice % len(STATUSES)], headers, body, AT, complete)
        raw = masked_answer(raw, SECRETS)
        assert KEY.encode() not in raw.body
        _check_written(raw)
        intent = an_intent(
            1,
            provider=DIALECTS[choice // 22 % 4],
            recipe_id=str(other // 5 % 4),
            lane=Lane.DEFERRED if other & 1 else Lane.ONLINE,
        )
        words = [self._facts(intent.provider, raw)]
        for ticket in (None, "t-1"):
            exchange = Exchange(intent, ticket, AT if ticket else None, raw)
            classification, again = _JUDGE.classify(exchange, 0.5), _JUDGE.classify(exchange, 0.5)
            assert repr(classification) == repr(again), "live and replay differ"
            words.append(_filed(_TABLES[int(intent.recipe_id)], classification.outcome, classification.attempt))
        return " / ".join(words)

    def _facts(self, name: str, raw: RawAnswer) -> str:
        speaks = dialect(name)
        ticket = speaks.read_ticket(raw)
        assert isinstance(ticket, BatchvisionError) or ticket.isprintable()
        poll = speaks.read_poll(raw)
        assert isinstance(poll, NotReady | Gone | Reading)
        _check_seconds(*speaks.limits(raw))
        try:
            for model in speaks.read_models(raw):
                assert model.name
        except BatchvisionError as error:
            _check_message(error)
        reading = speaks.read(raw)
        if reading.error is None:
            return "answer"
        _check_message(reading.error)
        if isinstance(reading.error, Transient):
            _check_seconds(reading.error.retry_after_seconds)
        return f"{reading.error.kind} {_letters(reading.error.message)}"


def _travelled(sent: bytes, packing: int) -> tuple[bytes, bool]:
    """The body as the transport returns it, compressed as announced or otherwise."""
    coding, packed = (
        ("", sent),
        ("gzip", gzip.compress(sent, 1)),
        ("deflate", zlib.compress(sent)[: max(1, len(sent) // 2)]),
        ("gzip", sent),
        ("br", sent),
    )[packing]
    body = Body(coding, 50_000)
    for start in range(0, len(packed), 1000):
        if not body.feed(packed[start : start + 1000]):
            break
    assert len(body.content()) <= 60_000
    return body.content(), body.is_readable


def _check_written(raw: RawAnswer) -> None:
    entry = decode(json.loads(encode(Received("x1", raw), SECRETS.mask).decode("utf-8", "surrogatepass")))
    assert entry == Received("x1", raw), "the journal reads another answer"


def _check_message(error: BatchvisionError) -> None:
    assert error.message and "\n" not in error.message, "a message of several lines"
    assert safe_line(error.message) == error.message, "a message that moves the cursor"
    assert len(error.message) < 2_000


def _check_seconds(*values: float | None) -> None:
    assert all(value is None or 0 <= value < 1e18 for value in values), values


def _filed(tables: TableSchemas, outcome: Completed | Failed | None, attempt: object) -> str:
    """The verdict as rows of the tables."""
    tables.attempts([attempt]).validate(full=True)  # type: ignore[list-item]
    match outcome:
        case Completed():
            tables.results([outcome]).validate(full=True)
            return "completed"
        case Failed():
            tables.failures([outcome]).validate(full=True)
            return f"{outcome.error_kind} {_letters(outcome.error_message)}"
    return "pending"


def _letters(message: str) -> str:
    """The first lower-case letters of a message. They stand for its kind."""
    return "".join(letter for letter in message if letter.isascii() and letter.islower())[:24]
