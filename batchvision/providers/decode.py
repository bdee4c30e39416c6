"""Decode a body: JSON, or a stream of events. Nothing here raises.

Closed JSON is a whole answer, even if the connection was cut after it.
"""

from __future__ import annotations

import json
import re

from batchvision.providers import wire
from batchvision.providers.sse import assemble

_SSE_FIELD = re.compile(r"(?:data|event|id|retry)\s*:")
_HTML = re.compile(r"\s*<(?:!doctype|html|head|body|\?xml)", re.IGNORECASE)


def document(body: bytes) -> wire.Document:
    """The document in ``body``: JSON after any blank or comment lines, or server-sent events."""
    is_plain = body[:1] == b"{" and body[1:2] != b"\x00"  # UTF-8; detect_encoding agrees
    text = body.decode("utf-8" if is_plain else json.detect_encoding(body), "replace")
    start = _content_start(text)
    if start == len(text):
        return wire.Document(problem="an empty body")
    if _SSE_FIELD.match(text, start):
        return assemble(text)
    value, problem = wire.parse(text, start)
    if problem is None:
        return wire.Document(value)
    return wire.Document(
        problem="an HTML page" if _HTML.match(text, start) else problem, text=text[start : start + 4000]
    )


def _content_start(text: str) -> int:
    """The start of the document: after blank lines and keep-alive comments."""
    start = 0
    while True:
        while start < len(text) and text[start] in " \t\r\n\ufeff":
            start += 1
        if not text.startswith(":", start):
            return start
        line_end = text.find("\n", start)
        start = len(text) if line_end < 0 else line_end
