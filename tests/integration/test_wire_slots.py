"""A place in flight passes on when its answer has come, before the disk has it: read from the journal, by groups."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest
from fake_provider import FakeProvider

from batchvision.checkpoint.log_file import LogFile
from batchvision.limits import Permit
from batchvision.limits.limiter import LocalSendSlot

CONCURRENCY = 60
COMMIT_SECONDS = 0.1


class OfAllSpeeds(FakeProvider):
    """Answers after three to nine seconds, over a disk that takes its time for each group."""

    async def _post(self, body: bytes):
        self._latency = random.Random(body).uniform(3, 9)
        return await super()._post(body)

    def dependencies(self, seed: int = 0):
        return replace(super().dependencies(seed), offload=slowly)


async def slowly(work: Callable[..., Any], /, *args: Any) -> Any:
    found = work(*args)
    await anyio.sleep(COMMIT_SECONDS)
    return found


@pytest.fixture
def open_after(job_runs, monkeypatch) -> Callable[[], list[list[int]]]:
    """Plays a run; of each group of the journal, how many intents were open after each of its records."""

    def play() -> list[list[int]]:
        groups: list[list[int]] = []
        append, is_open = LogFile.append, 0

        def appended(log: LogFile, bodies: list[bytes]) -> None:
            nonlocal is_open
            group = []
            for body in bodies:
                is_open += {"intent": 1, "answer": -1}.get(json.loads(body)["kind"], 0)
                group.append(is_open)
            groups.append(group)
            append(log, bodies)

        monkeypatch.setattr(LogFile, "append", appended)
        job_runs.rows(600)
        provider = OfAllSpeeds()
        summary = job_runs.run(provider, limits__concurrency=CONCURRENCY)
        assert summary.rows_completed == 600
        assert provider.most_in_flight == CONCURRENCY
        return [group for group in groups if group]

    return play


def steady(groups: list[list[int]]) -> list[list[int]]:
    """From the first group that fills the wire to the last one that does; rows are running out behind it."""
    full = [place for place, group in enumerate(groups) if CONCURRENCY in group]
    return groups[full[0] + 1 : full[-1]]


def test_never_more_intents_are_open_than_may_be_in_flight_and_no_place_waits_for_a_commit(open_after):
    groups = open_after()
    assert max(map(max, groups)) == CONCURRENCY
    assert len(steady(groups)) >= 100
    assert {group[-1] for group in steady(groups)} == {CONCURRENCY}, "an answer's group has the next row's intent"


def test_a_place_that_waited_for_its_answer_to_be_durable_would_be_seen(open_after, monkeypatch):
    release = LocalSendSlot.release
    settled: set[int] = set()
    end = Permit._end

    def noted_end(permit: Permit) -> bool:
        settled.add(id(permit.slot))
        return end(permit)

    monkeypatch.setattr(Permit, "_end", noted_end)
    monkeypatch.setattr(LocalSendSlot, "release", lambda slot: release(slot) if id(slot) in settled else None)
    assert {group[-1] for group in steady(open_after())} != {CONCURRENCY}
