"""The next step for each kind of failed row."""

from __future__ import annotations

ADVICE: dict[str, str] = {
    "row_invalid": "correct these rows in the manifest (no prompt, no image, a NUL, or an id used twice)",
    "image_unreadable": "replace or remove these images: missing, empty, damaged, too small or not images",
    "image_too_large": "too many bytes or pixels: lower [images] max_bytes or max_side, or scale the images down",
    "image_forbidden": "keep images inside [manifest] root; private addresses need [images] allow_private_hosts = true",
    "image_unreachable": "see whether the URLs open in a browser; run again if their host was down",
    "request_rejected": "read one message: correct the job, or the rows that a firewall or guardrail refused",
    "context_too_long": "shorten the prompt, send fewer or smaller images, or use a model with a longer context",
    "refused": "the model or its safety check declined; --retry-failed=refused asks again and pays again",
    "truncated": 'raise max_tokens in [provider.parameters], or set on_truncated = "raise_once"',
    "empty": "the model said nothing twice: reword the prompt; --retry-failed=empty asks again and pays again",
    "invalid_answer": "labels or schema are not met: read some answers, then loosen [answer] or reword the prompt",
    "expired": "the ticket was older than the provider keeps it; the next run asks again",
    "lost_after_read": "the answer was paid for and lost on the way; --retry-failed=lost_after_read buys it again",
    "attempts_exhausted": "read one message: run again later, or raise request_timeout_seconds after timeouts",
}
