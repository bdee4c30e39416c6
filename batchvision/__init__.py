"""batchvision: ask a vision model about every row of a table of images.

The public names are loaded on first use, so that ``import batchvision`` and ``batchvision --help`` stay quick.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from batchvision.commands.read import read
    from batchvision.commands.run import run, run_async
    from batchvision.errors import BatchvisionError, JobInvalid
    from batchvision.job import Job
    from batchvision.records import RunSummary

_HOMES = {
    "BatchvisionError": "batchvision.errors",
    "Job": "batchvision.job",
    "JobInvalid": "batchvision.errors",
    "RunSummary": "batchvision.records",
    "read": "batchvision.commands.read",
    "run": "batchvision.commands.run",
    "run_async": "batchvision.commands.run",
}

__all__ = ["BatchvisionError", "Job", "JobInvalid", "RunSummary", "__version__", "read", "run", "run_async"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'batchvision' has no attribute {name!r}")
    if os.name == "nt":
        raise ImportError(import_module("batchvision.errors").NOT_ON_WINDOWS)
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
