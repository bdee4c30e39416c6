"""Golden vectors of recipe_id, request_key and skip_key, made by the first edition: no later version may change one.

A key that changes makes every user pay for the same answers again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from golden_jobs import JOBS, SWEEP, keys_of
from stored_outputs import FIXTURES

from batchvision.emulator import RunningEmulator, start_in_thread

GOLDEN = json.loads((FIXTURES / "identity.json").read_text(encoding="utf-8"))["keys"]


@pytest.fixture(scope="module")
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread() as running:
        yield running


@pytest.mark.parametrize("name", GOLDEN)
def test_the_keys_of_an_existing_job_never_change(name: str, tmp_path: Path, emulator: RunningEmulator) -> None:
    assert keys_of(name, tmp_path, emulator.url) == GOLDEN[name]


def test_each_job_has_its_golden_vectors() -> None:
    assert GOLDEN.keys() == {*JOBS, SWEEP}
    assert all(len(keys) > 0 for keys in GOLDEN.values())


def test_what_decides_no_key_leaves_the_plain_keys() -> None:
    plain = {row[0]: row[1:] for row in GOLDEN["plain"]}
    assert {row[0]: row[1:] for row in GOLDEN["what decides no key"]} == plain


def test_where_an_image_is_placed_decides_the_key() -> None:
    names = ("several images", "images placed by column", "one image placed by column")
    keys = [{row[2] for row in GOLDEN[name]} for name in names]
    assert not (keys[0] & keys[1]) and not (keys[1] & keys[2]) and not (keys[0] & keys[2])


def test_no_golden_id_holds_a_secret() -> None:
    ids = [row[0] for name in ("masked ids", "masked ids of two columns") for row in GOLDEN[name]]
    assert all("***" in each for each in ids)
    assert not any("bbbb" in each or "password" in each or "golden-provider-key" in each for each in ids)
