"""A small limit of open files lowers the requests on the wire; it fails no row and blames no disk."""

from __future__ import annotations

import errno
import logging
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from job_files import load

from batchvision import descriptors
from batchvision.checkpoint.disk import disk_failed
from batchvision.descriptors import SPARE_FILES, room_for_connections
from batchvision.errors import JobInvalid, TooManyOpenFiles
from batchvision.images import ImageFolder, files
from batchvision.runner.setup import within_open_files

OPEN = 20
Limits = Callable[[int, int], list[tuple[int, int]]]


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Limits:
    """Give the process a soft and a hard limit; returns the limits as they were set since."""

    def give(soft: int, hard: int) -> list[tuple[int, int]]:
        history = [(soft, hard)]

        def change(kind: int, wanted: tuple[int, int]) -> None:
            if hard != resource.RLIM_INFINITY and wanted[0] > hard:
                raise ValueError("not allowed to raise maximum limit")
            history.append(wanted)

        monkeypatch.setattr(descriptors, "_open_files", lambda: OPEN)
        monkeypatch.setattr(descriptors.resource, "getrlimit", lambda kind: history[-1])
        monkeypatch.setattr(descriptors.resource, "setrlimit", change)
        return history

    return give


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "fits", "is_raised"),
    [
        (1024, 4096, 320, 320, False),
        (256, 4096, 320, 320, True),
        (256, resource.RLIM_INFINITY, 320, 320, True),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 10_000, 10_000, False),
        (256, 256, 320, 256 - OPEN - SPARE_FILES, False),
        (200, 300, 320, 300 - OPEN - SPARE_FILES, True),
        (64, 64, 320, 0, False),
    ],
)
def test_connections_are_limited_by_open_files(
    limits: Limits, soft: int, hard: int, wanted: int, fits: int, is_raised: bool
) -> None:
    history = limits(soft, hard)
    assert room_for_connections(wanted) == fits
    assert (history[-1][0] > soft if soft != resource.RLIM_INFINITY else False) is is_raised


def test_a_lowered_concurrency_is_reported_once_with_the_number_to_set(
    limits: Limits, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits(256, 256)
    job = load(tmp_path, limits__concurrency=256)
    with caplog.at_level(logging.WARNING):
        fitted = within_open_files(job)
    assert fitted.limits.concurrency == 256 - OPEN - SPARE_FILES - 64
    (told,) = caplog.messages
    assert told.startswith(f"limits.concurrency is lowered from 256 to {fitted.limits.concurrency}: ")
    assert "ulimit -n 512" in told
    assert fitted.recipe.recipe_id == job.recipe.recipe_id


def test_a_job_that_fits_stays_as_it_is(limits: Limits, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    limits(4096, 4096)
    job = load(tmp_path, limits__concurrency=256)
    assert within_open_files(job) is job
    assert not caplog.messages


def test_a_process_that_allows_no_connection_is_refused(limits: Limits, tmp_path: Path) -> None:
    limits(64, 64)
    with pytest.raises(JobInvalid, match="ulimit -n"):
        within_open_files(load(tmp_path, limits__concurrency=256))


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
def test_an_image_is_not_unreadable_for_lack_of_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    (tmp_path / "a.png").write_bytes(b"x")

    def exhausted(*arguments: object, **more: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "open", exhausted)
    with pytest.raises(TooManyOpenFiles, match=r"ulimit -n .*limits\.concurrency"):
        ImageFolder(tmp_path).read("a.png", 100)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
def test_a_write_that_fails_for_lack_of_descriptors_is_no_fault_of_the_disk(code: int) -> None:
    message = str(disk_failed("sealing", OSError(code, os.strerror(code))))
    assert "ulimit -n" in message
    assert "ree space" not in message
    assert "epair" not in message
