"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from heavy import INSTALL
from hypothesis import HealthCheck, settings
from postgres_server import NoServer, PostgresServer, running_server

# an example may take as long as the machine needs: how fast it is decides no test
settings.register_profile("any machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--with", action="append", choices=list(INSTALL), default=[], help="run only the tests that need this"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without ``--with``, skip the tests marked heavy. With it, run those of the given names alone."""
    names = config.getoption("--with")
    needs = {item: mark.args[0] for item in items if (mark := item.get_closest_marker("heavy"))}
    for item, name in needs.items():
        if name not in INSTALL:
            raise pytest.UsageError(f"{item.nodeid}: heavy({name!r}) is none of {', '.join(INSTALL)} (tests/heavy.py)")
        if name not in names:
            item.add_marker(pytest.mark.skip(reason=f"heavy: scripts/test --with {name}"))
    if names:
        config.hook.pytest_deselected(items=[item for item in items if needs.get(item) not in names])
        items[:] = [item for item in items if needs.get(item) in names]


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


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real server. Tests that need it are skipped where there is none."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(running_server())
        except NoServer as reason:
            pytest.skip(str(reason))
        yield server
