"""What ``scripts/fuzz`` found, one test a find."""

from __future__ import annotations

import json

from checkpoint_rows import an_answer

from batchvision.checkpoint.entries import Received, decode, encode
from batchvision.secrets import Secret, Secrets


def test_an_answer_that_is_no_text_is_read_back_though_its_base64_is_like_the_keys() -> None:
    """All but the key's last character, so that it is no secret, in bytes that are no UTF-8."""
    secrets = Secrets(Secret("xai-canary-key-0123456789"))
    received = Received("x1", an_answer(b"\xff xai-canary-key-0123456787"))
    written = encode(received, secrets.mask)
    assert decode(json.loads(written)) == received
