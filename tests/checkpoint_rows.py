"""Rows, answers and a judge for tests of the checkpoint: small, deterministic, free of providers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from batchvision.checkpoint import Columns, Store, StoreSettings
from batchvision.records import (
    Answer,
    Attempt,
    AttemptState,
    Completed,
    Exchange,
    Failed,
    Intent,
    Lane,
    Outcome,
    RawAnswer,
    Tries,
    Usage,
)

START = datetime(2026, 11, 20, 22, 30, tzinfo=UTC)
COLUMNS = Columns(keep=(("title", pa.string()),), answers=(("answer_score", pa.float64()),))
COST_TICKS = 15


class BookedEnd(NamedTuple):
    attempt: Attempt
    outcome: Outcome | None


def open_store(output: Path, **options: Any) -> Store:
    """Options are those of ``StoreSettings`` and of ``Store.open``."""
    settings: dict[str, Any] = {"job_name": "night", "run_id": "run1", "started_at": START, "columns": COLUMNS}
    names = {each.name for each in fields(StoreSettings)}
    given = {name: options.pop(name) for name in names & options.keys()}
    settings |= {name: value for name, value in given.items() if value is not None}
    return Store.open(output, StoreSettings(**settings), **options)


def an_intent(number: int, **changes: Any) -> Intent:
    intent = Intent(
        exchange_id=f"x{number}",
        row_id=f"row{number}",
        request_key=f"key{number}",
        recipe_id="recipe",
        skip_key=f"skip{number}",
        run_id="run1",
        lane=Lane.ONLINE,
        provider="emulator",
        model_requested="model",
        attempt=1,
        tries=Tries(),
        bound_ticks=100,
        cost_before_ticks=0,
        runs_failed=0,
        sent_at=START,
        image_ref=("a.jpg", "https://example.org/b.jpg"),
        image_sha256=("00ff", None),
        keep={"title": f"title {number}"},
    )
    return intent._replace(**changes)


def an_answer(body: bytes = b"fine", status: int = 200, **headers: str) -> RawAnswer:
    return RawAnswer(status, headers, body, START + timedelta(seconds=2))


def an_attempt(of: Intent | Exchange, state: AttemptState = AttemptState.OK, **changes: Any) -> Attempt:
    exchange = of if isinstance(of, Exchange) else Exchange(of)
    return Attempt(exchange, Answer(), state)._replace(**changes)


def a_completed(
    intent: Intent, text: str = "fine", values: Mapping[str, Any] | None = None, **changes: Any
) -> Completed:
    completed = Completed(
        intent,
        Answer(text=text, usage=Usage(10, 5, 0, 3, 1, COST_TICKS, "reported")),
        output_json=None,
        answer_columns=values or {},
        row_cost_ticks=intent.cost_before_ticks + COST_TICKS,
        finished_at=START + timedelta(seconds=2),
    )
    return completed._replace(**changes)


def a_failed(intent: Intent, kind: str = "request_rejected", **changes: Any) -> Failed:
    failed = Failed(
        row_id=intent.row_id,
        request_key=intent.request_key,
        skip_key=intent.skip_key,
        recipe_id=intent.recipe_id,
        error_kind=kind,
        error_message=f"{kind}: no luck",
        last_error_kind=None,
        attempt_count=intent.attempt,
        row_cost_ticks=intent.cost_before_ticks,
        runs_failed=intent.runs_failed + 1,
        quarantined=False,
        last_output_text=None,
        failed_at=START + timedelta(seconds=2),
        run_id=intent.run_id,
        keep=intent.keep,
    )
    return replace(failed, **changes)


def classify(exchange: Exchange) -> BookedEnd:
    """By the answer's status: 200 completes, 4xx fails, 5xx and an end are tried again; nothing at all is ambiguous."""
    intent, raw, ended = exchange.intent, exchange.answer, exchange.ended
    if raw is None and ended is None:
        changes = {"error_kind": "interrupted", "bound_ticks": intent.bound_ticks}
        return BookedEnd(an_attempt(exchange, AttemptState.AMBIGUOUS, **changes), None)
    if raw is None:
        assert ended is not None
        changes = {"error_kind": ended.kind, "error_message": ended.message}
        return BookedEnd(an_attempt(exchange, AttemptState.RETRIED, **changes), None)
    if raw.status == 200:
        text = raw.body.decode("utf-8", "replace")
        completed = a_completed(intent, text, {"answer_score": 0.5}, finished_at=raw.received_at)
        return BookedEnd(an_attempt(exchange, answer=completed.answer), completed)
    if raw.status < 500:
        return BookedEnd(an_attempt(exchange, AttemptState.FAILED, error_kind="request_rejected"), a_failed(intent))
    return BookedEnd(an_attempt(exchange, AttemptState.RETRIED, error_kind="server_error"), None)


async def ask(store: Store, intent: Intent, raw: RawAnswer) -> BookedEnd:
    """One whole exchange, as a lane makes it."""
    await store.intent(intent)
    written = await store.answer(intent.exchange_id, raw)
    end = classify(Exchange(intent, answer=written))
    store.book(intent.exchange_id, end)
    return end


def tree(output: Path, *tables: str) -> dict[str, bytes]:
    """Every byte of some folders of an output."""
    return {
        str(path.relative_to(output)): path.read_bytes()
        for table in tables or ("results", "failures", "attempts")
        for path in sorted((output / table).rglob("*"))
        if path.is_file()
    }
