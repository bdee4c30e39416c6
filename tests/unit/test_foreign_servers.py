"""Servers of other projects: the message where one cannot be had, and what the relay counts."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from foreign.installed import Missing, Venv
from foreign.relay import relaying

from batchvision.emulator import EmulatorOptions, start_in_thread


def test_a_step_that_fails_says_which_and_why(tmp_path: Path) -> None:
    (tmp_path / "installed").touch()
    venv = Venv(tmp_path, ("x",))
    with pytest.raises(Missing, match=r"pip install x failed: no wheel"):
        venv.call(sys.executable, "-c", "import sys; sys.exit('no wheel')", what="pip install x")
    with pytest.raises(Missing, match=r"pip install x: .*nowhere"):
        venv.call(str(tmp_path / "nowhere"), what="pip install x")


def test_the_relay_counts_what_was_asked_and_answered() -> None:
    with start_in_thread(EmulatorOptions()) as emulator, relaying(emulator.url) as relay:
        for row, key in (("r1", "k"), ("r1", "k"), ("r2", "bad-key")):
            post(f"{relay.url}/openai/v1/chat/completions", row, key)
        assert relay.bought() == {"r1": 2}
        assert (relay.delivered, relay.refused(), relay.broken()) == (2, 1, 0)
        assert emulator.bill().requests >= 2


def post(url: str, row: str, key: str) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": f"Which? [{row}]"}]}
    body = json.dumps({"model": "grok-4.3", "messages": [message]}).encode()
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    request = urllib.request.Request(url, body, headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(request, timeout=30).close()
    except urllib.error.HTTPError as error:
        error.close()
