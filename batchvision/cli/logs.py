"""Warnings of the rooms below, as lines on stderr in the run's own style."""

from __future__ import annotations

import json
import logging
import sys

from batchvision.cli.terminal import safe_json, safe_text
from batchvision.progress import say


class StderrLines(logging.Handler):
    """One line a record: words, or one JSON object."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__(logging.WARNING)
        self._as_json = as_json

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if self._as_json:
            document = {"event": "log", "level": record.levelname.lower(), "message": message}
            say(safe_json(json.dumps(document, ensure_ascii=False)), sys.stderr)
        else:
            say(safe_text(f"{record.levelname.lower()}: {message}"), sys.stderr)


def tell_warnings(*, as_json: bool) -> None:
    """Send the package's warnings to stderr; whatever else was set up for them is replaced."""
    package = logging.getLogger("batchvision")
    package.handlers[:] = [StderrLines(as_json=as_json)]
    package.propagate = False
