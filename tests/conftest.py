"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# an example may take as long as the machine needs: how fast it is decides no test
settings.register_profile("any machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """batchvision runs on asyncio: aiohttp and aiolimiter know no other loop."""
    return "asyncio"


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a provider lists is remembered beside the tests, not in the user's home; commands started here too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BATCHVISION_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield
