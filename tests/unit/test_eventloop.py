"""Which loop a run gets, and what time it is there."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from batchvision import eventloop
from batchvision.eventloop import loop_time, run_in_loop


async def whose() -> str:
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


def test_a_run_has_uvloops_loop_where_it_is_installed() -> None:
    pytest.importorskip("uvloop")
    assert run_in_loop(whose) == "uvloop"


def test_a_run_has_asyncios_loop_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventloop, "find_spec", lambda name: None)
    assert run_in_loop(whose) == "asyncio"


def test_its_time_is_the_one_that_waits_are_made_of() -> None:
    async def both() -> tuple[float, float, float]:
        return anyio.current_time(), loop_time(), anyio.current_time()

    before, between, after = run_in_loop(both)
    assert before <= between <= after
