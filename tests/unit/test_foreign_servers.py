"""``scripts/servers``: what it says where a server cannot be had, and what its relay counts."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from foreign import servers
from foreign.installed import Missing, Venv
from foreign.kinds import Kind, Started
from foreign.relay import relaying

from batchvision.emulator import EmulatorOptions, start_in_thread


@contextmanager
def never(venv: Venv, folder: Path) -> Iterator[Started]:
    raise Missing("it needs another machine")
    yield


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A server whose packages are there, and which does not start."""
    folder = tmp_path / "venv-absent"
    (folder / "bin").mkdir(parents=True)
    (folder / "installed").touch()
    monkeypatch.setattr(servers, "KINDS", (Kind("absent", ("nothing",), never),))
    monkeypatch.setattr(Venv, "versions", lambda self: "nothing 1.0")
    return tmp_path


@pytest.mark.parametrize(("flags", "code"), [((), 3), (("--allow-missing",), 0)])
def test_a_server_that_cannot_be_had_is_named(
    absent: Path, flags: tuple[str, ...], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["servers", "--venvs", str(absent), *flags])
    assert servers.main() == code
    assert "MISSING absent: it needs another machine" in capsys.readouterr().out


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
