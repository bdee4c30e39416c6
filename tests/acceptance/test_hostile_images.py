"""The real command over hostile images, paths and URLs: what is forbidden never reaches the provider, in no byte."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import hard_pictures
import pytest
from hard_pictures import Fate


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Pillow warns about the files it judges."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_every_picture_is_sent_as_it_must_be_or_fails_its_row(tmp_path: Path) -> None:
    own = hard_pictures.own_files()
    files = {name: (content, hard_pictures.fate_of(content)) for name, content in own.items()}
    assert sum(fate is Fate.UNCHANGED for _, fate in files.values()) >= 5
    assert sum(fate is Fate.CONVERTED for _, fate in files.values()) >= 20
    for name, content in hard_pictures.damaged(own, seed=7, each=2):
        files[name] = (content, hard_pictures.fate_when_damaged(content))
    files |= {name: (content, Fate.FAILED) for name, content in hard_pictures.impostors().items()}
    proof = hard_pictures.prove(tmp_path, files)
    assert not proof.wrong
    assert proof.exit_code == 3  # some rows failed, and the run went on
    assert sum(proof.fates.values()) == len(files)
    assert set(proof.kinds) <= {"image_unreadable", "image_too_large", "request_rejected"}


def test_bombs_fail_their_rows_or_are_tamed_within_the_memory_there_is(tmp_path: Path) -> None:
    files = {name: (content, Fate.ANY) for name, content in hard_pictures.bombs().items()}
    files["plain.jpg"] = (hard_pictures.encoded(hard_pictures.drawn(), "JPEG"), Fate.UNCHANGED)
    proof = hard_pictures.prove(tmp_path, files)
    assert not proof.wrong
    assert proof.kinds["image_too_large"] >= 5
    assert 0 < proof.peak_mib < 700
