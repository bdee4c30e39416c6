"""Virtual environments with packages of PyPI, and server processes that end with the script."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

INSTALL_SECONDS = 3_600  #: llama-cpp-python is compiled where there is no wheel
START_SECONDS = 180

#: Keeps every server from contacting another machine.
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MODE": "PRODUCTION",
    "DO_NOT_TRACK": "1",
    "OMP_NUM_THREADS": "1",
}


class Missing(Exception):
    """A server cannot be installed or started here. The message names the failed step."""


class Venv:
    """A virtual environment in ``folder`` with ``requirements`` of PyPI. Raises Missing."""

    def __init__(self, folder: Path, requirements: Sequence[str]) -> None:
        self.bin = folder / "bin"
        self._requirements = requirements
        if not (folder / "installed").exists():
            self._install(folder)

    def _install(self, folder: Path) -> None:
        self.call(sys.executable, "-m", "venv", str(folder), what="a virtual environment")
        pip = (str(self.bin / "pip"), "install", "--quiet", "--disable-pip-version-check", *self._requirements)
        self.call(*pip, what=f"pip install {' '.join(self._requirements)}")
        (folder / "installed").touch()

    def versions(self) -> str:
        """The installed versions of the requirements."""
        listed = self.call(str(self.bin / "pip"), "freeze", "--disable-pip-version-check", what="pip freeze")
        names = [requirement.partition("[")[0].partition("<")[0] for requirement in self._requirements]
        found = [line for line in listed.splitlines() if line.partition("==")[0].lower().replace("_", "-") in names]
        return ", ".join(line.replace("==", " ") for line in found)

    def call(self, *command: str, what: str) -> str:
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False, env=os.environ | QUIET
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Missing(f"{what}: {error}") from None
        if done.returncode:
            raise Missing(f"{what} failed: {done.stderr.strip()[-600:]}")
        return done.stdout


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def served(command: Sequence[str], folder: Path, log: Path, alive: str, extra: Mapping[str, str]) -> Iterator[None]:
    """Run ``command`` during the block. ``alive`` is a URL that it answers once it is ready. Raises Missing."""
    with log.open("wb") as out:
        server = subprocess.Popen(
            command,
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=os.environ | QUIET | dict(extra),
            start_new_session=True,
        )
    try:
        _wait_until_it_answers(server, alive, log)
        yield
    finally:
        _end(server)


def _wait_until_it_answers(server: subprocess.Popen[bytes], alive: str, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and server.poll() is None:
        try:
            with opener.open(alive, timeout=2):
                return
        except OSError as error:
            if getattr(error, "code", None) in (401, 403, 404):
                return  # it answers
        time.sleep(0.25)
    said = log.read_text(encoding="utf-8", errors="replace").strip()[-600:]
    raise Missing(f"it did not answer within {START_SECONDS} s, or ended: {said}")


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the whole session: the process and its children."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, sign)
        except ProcessLookupError:
            return
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            continue
