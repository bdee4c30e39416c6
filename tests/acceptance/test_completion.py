"""Each shell completes commands, options and files, typed at a real terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import shutil
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
SETUP = {
    "bash": 'bind "set bell-style none"; eval "$(batchvision completion bash)"',
    "zsh": 'unsetopt beep; autoload -Uz compinit; compinit -u -D; eval "$(batchvision completion zsh)"',
    "fish": "batchvision completion fish | source",
}
#: Prints a word that the typed line does not hold.
READY = {"bash": "echo ready$((40+2))", "zsh": "echo ready$((40+2))", "fish": "echo ready(math 40+2)"}
DEADLINE_SECONDS = 60


class Terminal:
    """A shell at a pseudo-terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._seen = b""

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def until(self, text: str) -> None:
        """Read until ``text`` comes."""
        while text.encode() not in self._seen:
            readable, _, _ = select.select([self._descriptor], [], [], DEADLINE_SECONDS)
            assert readable, f"{text!r} did not come: {self._seen!r}"
            self._seen += os.read(self._descriptor, 65_536)
        self._seen = self._seen.partition(text.encode())[2]


@contextmanager
def terminal(shell: str, folder: Path) -> Iterator[Terminal]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {"PATH": path, "HOME": str(folder), "TERM": "dumb", "LANG": "C.UTF-8", "PS1": "", "COLUMNS": "200"}
    ours, its = pty.openpty()
    started = subprocess.Popen(
        SHELLS[shell],
        stdin=its,
        stdout=its,
        stderr=its,
        cwd=folder,
        env=environ,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # fish needs a controlling terminal
    )
    os.close(its)
    try:
        there = Terminal(ours)
        there.type(f"{SETUP[shell]}; {READY[shell]}\n")
        there.until("ready42")
        yield there
    finally:
        started.kill()
        started.wait()
        os.close(ours)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_commands_options_values_and_files(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "nightly-captions.toml").touch()
    with terminal(shell, tmp_path) as there:
        for typed, completed in (
            ("batchvision repa", "reparse"),
            ("batchvision show --all-c", "--all-columns"),
            ("batchvision show --status fai", "failed"),
            ("batchvision status nightly-c", "nightly-captions.toml"),
        ):
            there.type(f"{typed}\t")
            there.until(completed.removeprefix(typed.split()[-1]))
            there.type("\x15")  # clears the line


def test_completing_imports_no_command_that_was_not_typed() -> None:
    code = (
        "import json, os, sys; from batchvision.cli.entry import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "os.write(2, json.dumps(sorted(sys.modules)).encode())"
    )
    environ = {**os.environ, "_BATCHVISION_COMPLETE": "bash_complete", "COMP_WORDS": "batchvision ", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert "plain,run\n" in done.stdout
    assert "plain,completion\n" in done.stdout
    modules = set(json.loads(done.stderr))
    assert "batchvision.cli.entry" in modules
    assert not modules & {"batchvision.cli.run", "batchvision.cli.show", "pyarrow", "anyio", "pydantic", "numpy"}
