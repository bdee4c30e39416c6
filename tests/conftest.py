"""What all tests share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """batchvision runs on asyncio: aiohttp and aiolimiter know no other loop."""
    return "asyncio"
