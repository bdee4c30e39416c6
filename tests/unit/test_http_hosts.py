"""Each image host has few connections, a modest rate and the pause it asks for; none of it counts as slowness."""

from __future__ import annotations

import anyio
import pytest
from virtual_time import VIRTUAL

from batchvision.http import hosts
from batchvision.http.hosts import CONNECTIONS, LONGEST_PAUSE_SECONDS, REQUESTS_PER_SECOND, Hosts


def play(session: object) -> None:
    anyio.run(session, backend_options=VIRTUAL)  # type: ignore[arg-type]


def test_requests_to_one_host_keep_its_rate_and_further_hosts_do_not_wait() -> None:
    async def session() -> None:
        known = Hosts()
        start = anyio.current_time()
        for _ in range(int(REQUESTS_PER_SECOND) * 5):
            await known["A.example"].wait()
        assert anyio.current_time() - start == pytest.approx(4.0, abs=0.1)  # the first second's worth goes at once
        before = anyio.current_time()
        await known["b.example"].wait()
        assert anyio.current_time() - before < 0.01

    play(session)


def test_a_pause_holds_every_request_and_has_an_end() -> None:
    async def session() -> None:
        host = Hosts()["a.example"]
        host.pause(5)
        host.pause(1)
        start = anyio.current_time()
        await host.wait()
        assert anyio.current_time() - start == pytest.approx(5, abs=0.01)
        host.pause(86_400)
        await host.wait()
        assert anyio.current_time() - start == pytest.approx(5 + LONGEST_PAUSE_SECONDS, abs=0.1)

    play(session)


def test_names_of_one_host_are_one_host_and_old_ones_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "_HOSTS_KEPT", 3)

    async def session() -> None:
        known = Hosts()
        assert known["A.example."] is known["a.example"]
        async with known["busy.example"].slots:
            for number in range(20):
                known[f"{number}.example"].slots.total_tokens = CONNECTIONS
            assert len(known) <= 4
            busy = known["busy.example"]
            assert busy.slots.borrowed_tokens == 1

    play(session)
