"""The HTTP library: httpx, or its continuation httpx2 where only that is installed. Both have the same interface.

Rule: only this package imports httpx or httpx2, and only this module knows which of the two is installed.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING or find_spec("httpx") is not None:
    import httpx
else:
    import httpx2 as httpx

__all__ = ["httpx"]
