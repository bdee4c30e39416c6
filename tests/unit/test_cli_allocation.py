"""What the command does to its own process, and to no other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REMOTE = ["pyarrow._s3fs", "pyarrow._gcsfs", "pyarrow._azurefs", "pyarrow._hdfs"]


def loaded(program: str, *arguments: str) -> list[str]:
    """The modules that a new process has after ``program``, which may print nothing."""
    command = [sys.executable, "-c", f"{program}\nimport sys\nprint(*(n for n, m in sys.modules.items() if m))"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=True).stdout.split()


def test_the_command_reads_and_writes_parquet_without_the_clients_of_remote_file_systems(tmp_path: Path) -> None:
    program = """
from batchvision.cli.allocation import give_memory_back
give_memory_back()
import sys
import pyarrow as pa
import pyarrow.parquet as pq
pq.write_table(pa.table({"n": [1, 2]}), sys.argv[1])
assert pq.ParquetFile(sys.argv[1]).read().to_pylist() == [{"n": 1}, {"n": 2}]
assert pa.default_memory_pool().backend_name == "system"
"""
    names = loaded(program, str(tmp_path / "m.parquet"))
    assert "pyarrow.parquet" in names
    assert not set(REMOTE) & set(names)


def test_what_was_imported_before_stays() -> None:
    names = loaded("import pyarrow.fs\nfrom batchvision.cli.allocation import give_memory_back\ngive_memory_back()")
    there = loaded("import pyarrow.fs")
    assert set(there) <= set(names)


def test_the_library_leaves_the_modules_of_its_host_alone() -> None:
    assert [name for name in loaded("import batchvision.runner, pyarrow.fs") if name in REMOTE] == [
        name for name in loaded("import pyarrow.fs") if name in REMOTE
    ]
