"""A machine without a time zone database knows the time zones all the same."""

from __future__ import annotations

import os
import subprocess
import sys


def test_time_zones_are_known_where_the_system_has_no_database() -> None:
    program = "from zoneinfo import TZPATH, ZoneInfo; print(len(TZPATH), ZoneInfo('Europe/Zurich'))"
    environment = {**os.environ, "PYTHONTZPATH": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "Europe/Zurich"]


def test_the_database_is_installed_with_the_package() -> None:
    from importlib.metadata import requires

    assert any(each.startswith("tzdata") and "extra" not in each for each in requires("batchvision") or [])
