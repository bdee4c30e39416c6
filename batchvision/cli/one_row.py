"""The lines of ``show --id ROW``. Every line passes ``print_lines``, which makes it safe for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from batchvision.cli.output import cell_text
from batchvision.commands.row import OpenReason, PendingEntry, RowDetails, RowPrompt, age_seconds
from batchvision.ticks import bound_words, cost_words, format_usd

#: Lines and characters of a long text. ``--json`` prints the whole text.
TEXT_LINES = 12
TEXT_CHARACTERS = 1_200

_WORDS = {
    OpenReason.TICKET: "a ticket is open: batchvision run collects its answer",
    OpenReason.IN_FLIGHT: "a run at work waits for the answer",
    OpenReason.CUT_OFF: "a run was killed while it waited for the answer: the next run decides by `ambiguous`",
    OpenReason.UNREAD: "the answer is stored: the next run reads it",
    OpenReason.HELD: 'on hold after a crash: ambiguous = "retry" sends it again',
    OpenReason.TRIED: "tried before: the next run continues",
    OpenReason.NOT_REACHED: "no run has reached it since its last attempt: run again",
}


def row_lines(row: RowDetails, now: datetime) -> Iterator[str]:
    """Everything about one row, for people."""
    left = " (no longer in the manifest)" if row.in_manifest is False else ""
    yield f"row       {row.row_id}"
    yield f"state     {row.state}{left}"
    for entry in row.open:
        yield _topic("pending" if row.state == "pending" else "open", _open_words(entry, now))
    if row.state == "pending" and row.last_run is not None and row.last_run.stop_reason:
        yield _topic("", f"the last run stopped: {row.last_run.stop_reason}")
    yield from _outcome(row)
    yield _topic("cost", _cost(row))
    for reference, sha256 in row.images:
        yield _topic("image", reference + (f"  sha256 {sha256}" if sha256 else ""))
    for name, value in row.kept.items():
        yield from _text(name, cell_text(value))
    if row.prompt is not None:
        yield from _prompt(row.prompt)
    for attempt in row.attempts:
        yield from _attempt(attempt)
    for answer in row.older_answers:
        yield from _text("older", f"{_time(answer['updated_at'])}, recipe {answer['recipe_id']}, {answer['model']}")
        yield from _text("", answer["output_text"])


def _topic(name: str, words: str) -> str:
    return f"{name:<8}  {words}"


def _text(name: str, text: str | None) -> Iterator[str]:
    """A text in lines below its topic. A long text is shortened."""
    text = text or ""
    lines = text[:TEXT_CHARACTERS].splitlines() or [""]
    for number, line in enumerate(lines[:TEXT_LINES]):
        yield _topic(name if number == 0 else "", line)
    if len(text) > TEXT_CHARACTERS or len(lines) > TEXT_LINES:
        yield _topic("", f"... {len(text):,} characters in all: --json prints them")


def _outcome(row: RowDetails) -> Iterator[str]:
    if row.failure is not None:
        failure = row.failure
        aside = ", set aside (--retry-quarantined)" if failure["quarantined"] else ""
        yield _topic("failed", f"{failure['error_kind']} in {failure['runs_failed']} runs{aside}")
        yield from _text("message", failure["error_message"])
        yield _topic("next", row.advice or "")
        if failure["last_output_text"]:
            yield from _text("said", failure["last_output_text"])
    if row.answer is not None:
        answer = row.answer
        yield from _text("answer", answer["output_text"])
        for name, value in row.typed.items():
            yield from _text(f"  {name}", cell_text(value))
        yield _topic("model", f"{answer['model'] or answer['model_requested']}, recipe {answer['recipe_id']}")
        if answer["cost_source"] == "shared":
            yield _topic("", "shared: an identical request of another row was answered")


def _cost(row: RowDetails) -> str:
    words = cost_words(row.cost_ticks, row.unknown_cost)
    count = len(row.attempts)
    words += f" for {count:,} {'attempt' if count == 1 else 'attempts'}"
    return words + (f", perhaps {format_usd(row.bound_ticks)} more" if row.bound_ticks else "")


def _open_words(entry: PendingEntry, now: datetime) -> str:
    words = _WORDS[entry.reason]
    age = age_seconds(entry, now)
    details = [
        None if entry.ticket is None else f"ticket {entry.ticket}",
        None if age is None else f"for {_duration(age)}",
        f"attempt {entry.attempts}" if age is not None else f"{entry.attempts} so far" if entry.attempts else None,
        bound_words(entry.bound_ticks, entry.bound_ticks is None) if age is not None or entry.bound_ticks else None,
    ]
    return f"{words} ({_joined(details)})" if any(details) else words


def _prompt(prompt: RowPrompt) -> Iterator[str]:
    if prompt.system:
        yield from _text("system", prompt.system)
    yield from _text("prompt", prompt.user)
    if prompt.missing:
        yield _topic("", f"[manifest] keep does not name these columns: {', '.join(prompt.missing)}")
    if prompt.examples:
        yield _topic("", f"after {prompt.examples} examples")
    if prompt.labels:
        yield from _text("labels", ", ".join(prompt.labels))
    elif prompt.schema is not None:
        yield from _text("schema", prompt.schema)


def _attempt(attempt: Mapping[str, Any]) -> Iterator[str]:
    status = attempt["http_status"]
    cost = None if attempt["cost_ticks"] is None else format_usd(attempt["cost_ticks"])
    if cost is None and attempt["bound_ticks"] is not None:
        cost = bound_words(attempt["bound_ticks"], 0)
    latency = attempt["latency_ms"]
    words = [
        f"{_time(attempt['sent_at'])}",
        attempt["lane"],
        attempt["state"],
        None if status is None else f"HTTP {status}",
        cost,
        None if latency is None else _duration(latency / 1000),
    ]
    yield _topic("attempt", f"{attempt['attempt']}  {_joined(words)}")
    ids = [("request", attempt["provider_request_id"]), ("ticket", attempt["ticket"]), ("run", attempt["run_id"])]
    yield _topic("", f"   {_joined(f'{name} {value}' for name, value in ids if value)}")
    if attempt["error_kind"]:
        yield from _text("", f"   {attempt['error_kind']}: {attempt['error_message'] or ''}")
    if attempt["raw_answer"]:
        yield from _text("raw", attempt["raw_answer"])


def _joined(words: Iterable[str | None]) -> str:
    return ", ".join(word for word in words if word)


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:,.1f} h"
