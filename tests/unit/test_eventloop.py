"""Which loop a run gets, and what time it is there."""

from __future__ import annotations

import asyncio
from math import inf

import anyio
import pytest

from batchvision import eventloop
from batchvision.eventloop import loop_time, run_in_loop
from batchvision.wakeup import Wakeup


async def whose() -> str:
    """The library that the running loop is made of."""
    return next(name for base in type(asyncio.get_running_loop()).__mro__ if (name := top(base)) != "batchvision")


def top(kind: type) -> str:
    return kind.__module__.partition(".")[0]


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


def test_who_waits_for_a_moment_looks_at_the_clock_a_few_times_and_not_all_the_time() -> None:
    """A loop that counts milliseconds wakes early, and is asked for "0 ms" until the millisecond is over."""

    async def looks() -> list[int]:
        counted, wakeup = [], Wakeup()
        for part in range(20):
            moment, looked = loop_time() + 0.003 + part * 0.00005, 0
            while loop_time() < moment:
                looked += 1
                await wakeup.wait(until=moment)
            counted.append(looked)
        return counted

    assert max(run_in_loop(looks)) <= 5


def test_a_timer_for_the_end_of_time_can_be_set() -> None:
    async def wait() -> None:
        asyncio.get_running_loop().call_later(inf, lambda: None).cancel()

    run_in_loop(wait)
