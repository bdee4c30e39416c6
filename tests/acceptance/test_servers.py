"""40 rows as text, stream, labels and schema on servers of other projects: ``scripts/test --with servers``.

Each server is installed from PyPI into a virtual environment below ``.venv``, and stays there for the next time. It
serves a random model (LiteLLM: the emulator) on loopback.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from foreign.installed import INSTALL_SECONDS, Venv
from foreign.killed_run import ANSWERS, ServerJob, kill_and_rerun
from foreign.kinds import KINDS, Started
from foreign.relay import relaying

pytestmark = [pytest.mark.heavy("servers"), pytest.mark.timeout(INSTALL_SECONDS)]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    kind = request.param
    venv = Venv(Path(sys.prefix) / "servers" / kind.name, kind.requirements)
    sys.stdout.write(f"{kind.name}: {venv.versions()}\n")
    with kind.start(venv, tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.mark.parametrize("mode", ANSWERS)
def test_a_killed_run_is_continued_and_buys_nothing_twice(server: Started, mode: str, tmp_path: Path) -> None:
    with relaying(server.origin) as relay:
        sys.stdout.write(kill_and_rerun(ServerJob(tmp_path / mode, relay, server, mode)) + "\n")
