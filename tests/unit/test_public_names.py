"""The names that programs import from batchvision; a new one is added here on purpose."""

from __future__ import annotations

import subprocess
import sys

import pytest

import batchvision

PUBLIC = {"BatchvisionError", "Job", "JobInvalid", "RunSummary", "__version__", "read", "run", "run_async"}


def test_the_public_names_are_these() -> None:
    assert set(batchvision.__all__) == PUBLIC
    assert set(dir(batchvision)) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_each_public_name_is_there(name: str) -> None:
    assert getattr(batchvision, name) is not None


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Manager'"):
        _ = batchvision.Manager


def test_importing_the_package_imports_no_heavy_library() -> None:
    heavy = {"pyarrow", "httpx", "aiohttp", "PIL", "pydantic", "tqdm", "anyio", "click"}
    program = "import sys, batchvision; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not heavy & set(loaded)


def test_the_package_says_that_it_is_typed() -> None:
    from importlib.resources import files

    assert files("batchvision").joinpath("py.typed").is_file()
