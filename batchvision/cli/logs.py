"""Write log records of the package and of libraries to stderr and to ``--log-file``, one line each.

Log messages are made safe for a terminal first: libraries quote headers, which a server chooses.
"""

from __future__ import annotations

import io
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

import click

from batchvision.cli.progress import say
from batchvision.cli.terminal import safe_json, safe_line, safe_text, wrapped
from batchvision.eventloop import RUN_ID

#: Failed rows of one kind that a terminal shows. A log holds each of them.
FAILURES_SHOWN = 5


class LogLines(logging.Handler):
    """Write each record with ``write``. ``failures_shown``: the number of failed rows of each kind."""

    def __init__(self, write: Callable[[str], None], *, as_json: bool, failures_shown: int | None = None) -> None:
        super().__init__(logging.INFO)
        self._write = write
        self._text = json_text if as_json else plain_text
        self._failures_shown = failures_shown
        self._failures: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        if self._failures_shown is not None and (kind := getattr(record, "error_kind", None)) is not None:
            self._failures[kind] += 1
            if self._failures[kind] > self._failures_shown:
                if self._failures[kind] == self._failures_shown + 1:
                    self._line(f"info: more rows fail with {kind}: `batchvision show OUT --status failed` lists them")
                return
        self._line(self._text(record))

    def _line(self, line: str) -> None:
        """Write a line. A log never ends a run, also where its stream is closed."""
        with suppress(OSError, ValueError):
            self._write(line)


def plain_text(record: logging.LogRecord) -> str:
    return safe_line(f"{record.levelname.lower()}: {record.getMessage()}") + safe_text(_trace(record))


def json_text(record: logging.LogRecord) -> str:
    """JSON with ``run_id`` during a run, and ``row_id`` and ``error_kind`` for a failed row."""
    document: dict[str, Any] = {
        "event": "log",
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "message": record.getMessage() + _trace(record),
        "run_id": RUN_ID.get() or None,
        "row_id": getattr(record, "row_id", None),
        "error_kind": getattr(record, "error_kind", None),
    }
    return safe_json(
        json.dumps({name: each for name, each in document.items() if each is not None}, ensure_ascii=False)
    )


def _trace(record: logging.LogRecord) -> str:
    return "\n" + logging.Formatter().formatException(record.exc_info) if record.exc_info else ""


def show_warnings(
    *, as_json: bool, news: bool = False, failures_shown: int | None = None, log_file: AppendedLog | None = None
) -> None:
    """Send warnings to stderr and to ``log_file``, with ``news`` also information. Replaces the package's handlers."""
    stderr = _say_plain if as_json else _say_wrapped
    handlers: list[logging.Handler] = [LogLines(stderr, as_json=as_json, failures_shown=failures_shown)]
    if log_file is not None:
        handlers.append(LogLines(log_file.write_line, as_json=log_file.as_json))
    package = logging.getLogger("batchvision")
    package.setLevel(logging.INFO if news or log_file is not None else logging.WARNING)
    handlers[0].setLevel(logging.INFO if news else logging.WARNING)
    package.handlers[:] = handlers
    package.propagate = False
    everybody = logging.getLogger()
    everybody.handlers[:] = [each for each in everybody.handlers if not isinstance(each, LogLines)]
    if not everybody.handlers:  # otherwise the caller has configured logging
        everybody.handlers[:] = handlers


def _say_plain(line: str) -> None:
    say(line, sys.stderr)


def _say_wrapped(line: str) -> None:
    say(wrapped(line, sys.stderr), sys.stderr)


class _WatchedFile(WatchedFileHandler):
    """A file that is opened again after a rotation. A failed write drops the text: a log never ends a run."""

    terminator = ""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


class AppendedLog(io.TextIOBase):
    """A text stream that appends to ``--log-file``."""

    def __init__(self, path: Path, *, as_json: bool) -> None:
        """Raises UsageError where the file cannot be opened."""
        self.as_json = as_json
        try:
            self._file = _WatchedFile(path, encoding="utf-8", errors="backslashreplace")
        except OSError as fault:
            raise click.UsageError(f"--log-file {path} cannot be opened: {fault.strerror}") from None

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._file.handle(logging.makeLogRecord({"msg": text}))
        return len(text)

    def write_line(self, line: str) -> None:
        at = "" if self.as_json else f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {RUN_ID.get()} "
        self.write(f"{at}{line}\n")

    def close(self) -> None:
        self._file.close()
        super().close()
