"""Write warnings of the package and of libraries to stderr.

Log messages are made safe for a terminal first: libraries quote headers, which a server chooses.
"""

from __future__ import annotations

import json
import logging
import sys

from batchvision.cli.progress import say
from batchvision.cli.terminal import safe_json, safe_line, safe_text, wrapped


class StderrLines(logging.Handler):
    """Write each record as one line of text or JSON."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__(logging.INFO)
        self._as_json = as_json

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        trace = "\n" + logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
        if self._as_json:
            document = {"event": "log", "level": record.levelname.lower(), "message": message + trace}
            say(safe_json(json.dumps(document, ensure_ascii=False)), sys.stderr)
        else:
            line = wrapped(safe_line(f"{record.levelname.lower()}: {message}"), sys.stderr)
            say(line + safe_text(trace), sys.stderr)


def show_warnings(*, as_json: bool, news: bool = False) -> None:
    """Send warnings to stderr, and with ``news`` also information. Replaces the handlers of the package."""
    lines = StderrLines(as_json=as_json)
    package = logging.getLogger("batchvision")
    package.setLevel(logging.INFO if news else logging.WARNING)
    package.handlers[:] = [lines]
    package.propagate = False
    everybody = logging.getLogger()
    everybody.handlers[:] = [each for each in everybody.handlers if not isinstance(each, StderrLines)]
    if not everybody.handlers:  # otherwise the caller has configured logging
        everybody.addHandler(lines)
