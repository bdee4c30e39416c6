"""The HTTP library: httpx, or its successor httpx2 where only that is installed. Both have the same interface."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING or find_spec("httpx") is not None:
    import httpx
else:
    import httpx2 as httpx

__all__ = ["httpx"]
