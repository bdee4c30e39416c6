"""Report the start and the end of a run, as ``[notify]`` asks. A message that is lost never changes a run."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from batchvision.commands.status import summary_document
from batchvision.errors import StopRun
from batchvision.http import post_notice
from batchvision.job import Job, resolved
from batchvision.records import RunSummary
from batchvision.secrets import Secret, Secrets
from batchvision.ticks import cost_words

log = logging.getLogger(__name__)

#: Ends that are no problem: all is done, or the next run collects the answers.
GOOD_ENDS = (0, 6)


class Notifier:
    """The messages of one run. ``secrets`` gets the addresses: their paths are often keys."""

    def __init__(self, job: Job, environ: Mapping[str, str], secrets: Secrets) -> None:
        """Raises JobInvalid for a variable that is not set."""
        section = job.notify
        self._job = job
        self._environ = environ
        self._ping_url = section.ping_url and resolved("notify.ping_url", section.ping_url, environ)
        self._url = section.url and resolved("notify.url", section.url, environ)
        secrets.add(*(Secret(url) for url in (self._ping_url, self._url) if url))

    @property
    def reports_starts(self) -> bool:
        return self._ping_url is not None

    async def started(self) -> None:
        await self._ping("/start", b"")

    async def ended(self, summary: RunSummary) -> None:
        """Report the end of a run that began."""
        document = {**summary_document(summary), "config": None, "parts": None, "rate_history": None}
        ending = "" if summary.exit_code in GOOD_ENDS else "/fail"
        await self._ping(ending, json.dumps(document, ensure_ascii=False, default=str).encode())
        if summary.exit_code or not self._job.notify.only_problems:
            await self._message(_placeholders(summary))

    async def refused(self, error: StopRun) -> None:
        """Report a run that could not begin."""
        facts = {"job": self._job.name, "exit_code": error.exit_code, "message": error.message}
        await self._ping("/fail", json.dumps(facts, ensure_ascii=False).encode())
        words = f"{self._job.name} could not begin (exit {error.exit_code}): {error.message}"
        await self._message({**facts, "words": words, "stop_reason": error.kind})

    async def _ping(self, ending: str, body: bytes) -> None:
        if self._ping_url:
            await self._post("notify.ping_url", _with_path(self._ping_url, ending), body, "application/json")

    async def _message(self, facts: Mapping[str, Any]) -> None:
        if not self._url:
            return
        filled = _filled(
            self._job.notify.template, {name: "" if fact is None else fact for name, fact in facts.items()}
        )
        if isinstance(filled, str):
            await self._post("notify.url", self._url, filled.encode(), "text/plain; charset=utf-8")
        else:
            await self._post("notify.url", self._url, json.dumps(filled).encode(), "application/json")

    async def _post(self, key: str, url: str, body: bytes, content_type: str) -> None:
        if (failed := await post_notice(url, body, content_type, self._environ)) is not None:
            log.warning("%s: the message was not delivered: %s", key, failed)


def _with_path(url: str, ending: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + ending)) if ending else url


class _Facts(dict[str, Any]):
    """A fact that a run does not have is empty."""

    def __missing__(self, key: str) -> str:
        return ""


def _filled(template: Any, facts: Mapping[str, Any]) -> Any:
    match template:
        case str():
            return template.format_map(_Facts(facts))
        case dict():
            return {name: _filled(value, facts) for name, value in template.items()}
        case list():
            return [_filled(value, facts) for value in template]
    return template


def _placeholders(summary: RunSummary) -> dict[str, Any]:
    cost = cost_words(summary.cost_ticks or 0, summary.unknown_cost)
    words = f"{summary.job}: {summary.rows_completed:,} of {summary.rows_total:,} rows have answers"
    words += f", {summary.rows_failed:,} failed" if summary.rows_failed else ""
    words += f", {summary.rows_pending:,} still to do" if summary.rows_pending else ""
    words += f"; this run cost {cost}"
    if summary.exit_code:
        words += f" (exit {summary.exit_code}{', ' + summary.stop_reason if summary.stop_reason else ''})"
    names = ("job", "exit_code", "stop_reason", "message", "run_id", "tickets_open")
    counts = ("rows_total", "rows_completed", "rows_failed", "rows_pending")
    facts = {name: getattr(summary, name) for name in (*names, *counts)}
    return {**facts, "words": words, "cost_usd": cost, "minutes": round(summary.duration_seconds / 60, 1)}
