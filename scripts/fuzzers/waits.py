"""Every form of Retry-After: a reader returns a finite number of seconds, or None."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from batchvision.providers import dialect
from batchvision.providers.faults import stated_limits
from batchvision.providers.signs import MOST_SECONDS, duration_seconds
from batchvision.records import RawAnswer

AT = datetime(2026, 11, 20, 22, 0, tzinfo=UTC)
_DIALECTS = ("xai", "openrouter", "openai", "emulator")


class Waits:
    """``name: value`` lines, an empty line, then the message of the error."""

    name = "retry-after"

    def seeds(self) -> Sequence[bytes]:
        lines = [
            "retry-after: 5",
            "retry-after: Fri, 20 Nov 2026 22:00:30 GMT",
            "retry-after-ms: 250",
            "retry-after: 1.5",
        ]
        lines += ["x-ratelimit-limit-requests: 60\nx-ratelimit-remaining-requests: 0\nx-ratelimit-reset-requests: 6m0s"]
        lines += ["anthropic-ratelimit-tokens-limit: 1\nanthropic-ratelimit-tokens-remaining: 0\n"]
        lines += ["x-ratelimit-reset: 1795212000000", "ratelimit-reset: 2026-11-20T22:01:00Z", "retry-after: -1"]
        said = [
            "try again in 1.2s",
            "requests per second (actual/limit): 5/4",
            "Limit 3, on requests per min: limit: 3",
        ]
        return [f"{line}\n\n{message}".encode() for line in lines for message in said]

    def tokens(self) -> Sequence[bytes]:
        words = ["retry-after: ", "retry-after-ms: ", "x-ratelimit-remaining-tokens: 0\n", "x-ratelimit-reset-tokens: "]
        words += [
            "Fri, 20 Nov 2026 22:00:30 GMT",
            "Thu, 01 Jan 1970 00:00:00 GMT",
            "+9999",
            "-0001",
            "99999-01-01T00:00:00Z",
        ]
        words += [
            "ms",
            "s",
            "h",
            "d",
            "\u00b5s",
            "e9",
            "1e5",
            "\u0661\u0662",
            "0x10",
            "_1",
            ".",
            "in ",
            "per minute",
            "tokens",
        ]
        return [word.encode() for word in words]

    def run(self, content: bytes) -> str:
        head, _, said = content.decode("utf-8", "replace").partition("\n\n")
        pairs = (line.partition(":") for line in head.splitlines())
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        error = {
            "message": said,
            "retry_after": said[:5],
            "details": [{"retryDelay": said[-6:]}] if len(said) % 2 else [],
        }
        kinds = []
        for status in (429, 503, 200, 202):
            raw = RawAnswer(status, headers, json.dumps({"error": error}).encode(), AT)
            for name in _DIALECTS:
                signs = dialect(name).limits(raw)
                wait = getattr(dialect(name).read(raw).error, "retry_after_seconds", None)
                assert wait is None or 0 <= wait <= MOST_SECONDS, wait
                for reset in (signs.reset_requests_seconds, signs.reset_tokens_seconds):
                    assert reset is None or 0 <= reset <= MOST_SECONDS, signs
                assert all(each is None or 0 <= each < 1e19 for each in signs), signs
                kinds.append("none" if wait is None else f"{min(wait, 100):.0e}")
        assert (duration_seconds(said) or 0) <= MOST_SECONDS
        assert all(limit is None or 0 <= limit < 1e18 for limit in stated_limits(said))
        return " ".join(dict.fromkeys(kinds))
