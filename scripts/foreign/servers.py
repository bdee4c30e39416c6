"""``scripts/servers``: 40 rows as text, stream, labels and schema on servers of other projects, killed and rerun.

Each server is installed from PyPI into a virtual environment under a temporary folder. It serves a random model
(LiteLLM: the emulator) on loopback and is ended. Exit codes: 0 every check passed, 1 a check failed, 2 usage,
3 a server cannot be installed here (0 with --allow-missing).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from foreign.installed import Missing, Venv
from foreign.killed_run import ANSWERS, NotSo, ServerJob, kill_and_rerun
from foreign.kinds import KINDS, Kind, Started
from foreign.relay import relaying

WRONG, MISSING = 1, 3


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/servers", description=__doc__)
    names, modes = [kind.name for kind in KINDS], list(ANSWERS)
    parser.add_argument("--only", choices=names, action="append", help="this server; may be given again")
    parser.add_argument("--mode", choices=modes, action="append", help="this form of answer; may be given again")
    parser.add_argument("--allow-missing", action="store_true", help="exit 0 if a server cannot be installed")
    parser.add_argument("--venvs", type=Path, help="keep the virtual environments here, and use those that are there")
    return parser.parse_args(arguments)


def main() -> int:
    chosen = options()
    kinds = [kind for kind in KINDS if not chosen.only or kind.name in chosen.only]
    with tempfile.TemporaryDirectory(prefix="servers-") as folder:
        codes = [on_one_server(kind, chosen, Path(folder) / kind.name) for kind in kinds]
    if WRONG in codes:
        return WRONG
    return MISSING if MISSING in codes and not chosen.allow_missing else 0


def on_one_server(kind: Kind, chosen: argparse.Namespace, folder: Path) -> int:
    folder.mkdir()
    began = time.monotonic()
    try:
        venv = Venv((chosen.venvs.absolute() if chosen.venvs else folder) / f"venv-{kind.name}", kind.requirements)
        print(f"{kind.name}: {venv.versions()}, ready after {time.monotonic() - began:.0f} s", flush=True)
        with kind.start(venv, folder) as started:
            codes = [
                _one_mode(kind, mode, folder, started) for mode in ANSWERS if not chosen.mode or mode in chosen.mode
            ]
    except Missing as error:
        print(f"MISSING {kind.name}: {error}", flush=True)
        return MISSING
    return max(codes, default=0)


def _one_mode(kind: Kind, mode: str, folder: Path, started: Started) -> int:
    with relaying(started.origin) as relay:
        try:
            print(
                f"ok    {kind.name} {mode}: {kill_and_rerun(ServerJob(folder / mode, relay, started, mode))}",
                flush=True,
            )
        except NotSo as error:
            print(f"WRONG {kind.name} {mode}: {error}", flush=True)
            return WRONG
    return 0


if __name__ == "__main__":
    sys.exit(main())
