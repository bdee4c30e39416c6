"""What differs between systems: a durable flush on macOS, the one sentence on Windows."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchvision.checkpoint.disk import LocalDisk
from batchvision.errors import NOT_ON_WINDOWS

FULL = 51  #: F_FULLFSYNC on macOS


class Mac:
    """Notes in which way each flush was made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refusal: int | None = None) -> None:
        self.flushes: list[str] = []
        self._refusal = refusal
        monkeypatch.setattr(fcntl, "F_FULLFSYNC", FULL, raising=False)
        monkeypatch.setattr(fcntl, "fcntl", self._fcntl)
        monkeypatch.delattr(os, "fdatasync", raising=False)  # macOS has none
        monkeypatch.setattr(os, "fsync", lambda descriptor: self.flushes.append("fsync"))

    def _fcntl(self, descriptor: int, command: int) -> int:
        assert command == FULL
        if self._refusal is not None:
            raise OSError(self._refusal, os.strerror(self._refusal))
        self.flushes.append("full")
        return 0


def flush_both(folder: Path) -> None:
    disk = LocalDisk()
    descriptor = disk.create(folder / "file", 0o600)
    disk.sync(descriptor)
    disk.close(descriptor)
    disk.sync_folder(folder)


def test_on_macos_files_and_folders_are_flushed_out_of_the_drive_s_own_cache(tmp_path, monkeypatch):
    mac = Mac(monkeypatch)
    flush_both(tmp_path)
    assert mac.flushes == ["full", "full"]


@pytest.mark.parametrize("refusal", [errno.ENOTSUP, errno.ENOTTY, errno.EINVAL])
def test_a_file_system_without_the_full_flush_gets_the_usual_one(tmp_path, monkeypatch, refusal):
    mac = Mac(monkeypatch, refusal)
    flush_both(tmp_path)
    assert mac.flushes == ["fsync", "fsync"]


def test_a_full_flush_that_fails_is_a_failed_flush(tmp_path, monkeypatch):
    mac = Mac(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        flush_both(tmp_path)
    assert mac.flushes == []


def on_windows(program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"import os, batchvision, batchvision.cli; os.name = 'nt'; {program}"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_on_windows_the_command_says_in_one_sentence_what_to_use():
    done = on_windows("batchvision.cli.main(['run', 'job.toml'])")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == NOT_ON_WINDOWS + "\n"
    assert "WSL" in done.stderr
    assert "Docker" in done.stderr


def test_on_windows_a_program_is_told_the_same():
    done = on_windows("batchvision.run")
    assert done.stderr.splitlines()[-1] == f"ImportError: {NOT_ON_WINDOWS}"
