"""Warnings of the rooms below and of the libraries, as lines on stderr in the run's own style.

Rule: nothing that is logged reaches the terminal as it is: libraries quote headers, and a server chooses those.
"""

from __future__ import annotations

import json
import logging
import sys

from batchvision.cli.progress import say
from batchvision.cli.terminal import safe_json, safe_line, safe_text, wrapped


class StderrLines(logging.Handler):
    """One line a record: words, or one JSON object."""

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


def tell_warnings(*, as_json: bool, news: bool = False) -> None:
    """Send warnings to stderr, and the package's own ``news``; whatever else was set up for the package is
    replaced."""
    lines = StderrLines(as_json=as_json)
    package = logging.getLogger("batchvision")
    package.setLevel(logging.INFO if news else logging.WARNING)
    package.handlers[:] = [lines]
    package.propagate = False
    everybody = logging.getLogger()
    everybody.handlers[:] = [each for each in everybody.handlers if not isinstance(each, StderrLines)]
    if not everybody.handlers:  # otherwise somebody else has seen to it
        everybody.addHandler(lines)
