"""Both transports report every fault on the wire alike; a transport that is not safe for money is caught."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import httpx
import httpx_aiohttp
import pytest
from loopback_peers import client, raw_server
from wire_faults import FAULTS, UNSENT, Fault, Seen, meet

from batchvision.errors import ConnectFailed
from batchvision.http import LeanTransport
from batchvision.http.pooled import PooledTransport

pytestmark = pytest.mark.anyio

Make = Callable[[ssl.SSLContext], httpx.AsyncBaseTransport]
TRANSPORTS: dict[str, Make] = {"lean": LeanTransport, "httpx": PooledTransport}

each_transport = pytest.mark.parametrize("make", TRANSPORTS.values(), ids=TRANSPORTS)


@each_transport
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_a_fault_on_the_wire_is_reported_as_it_is(fault: Fault, make: Make) -> None:
    assert await meet(fault, make) == []


@each_transport
async def test_a_refused_connection_is_known_not_to_have_sent_anything(make: Make) -> None:
    async def peer(reader: Any, writer: Any) -> None:
        raise AssertionError("nothing listens")

    async with raw_server(peer) as url:
        pass
    async with client(url, make(ssl.create_default_context())) as wire:
        with pytest.raises(ConnectFailed, match="no connection to"):
            await wire.send("POST", "/x", b"{}", 5)


async def test_a_transport_that_is_not_safe_for_money_is_caught() -> None:
    """httpx-aiohttp takes a server that hangs up for one that was never reached, and aiohttp repeats a GET."""
    named = {fault.name: fault for fault in FAULTS}
    wrong = {name: await meet(named[name], _twin) for name in ("a whole answer", *_UNSAFE)}
    assert wrong["a whole answer"] == []
    assert "request 1: ConnectFailed in place of ConnectionCut" in wrong["hangs up after the request"]
    assert any("the peer read 3 requests" in found for found in wrong["a ticket is read on a stale connection"])


_UNSAFE = ("hangs up after the request", "a ticket is read on a stale connection")


def _twin(context: ssl.SSLContext) -> httpx.AsyncBaseTransport:
    return httpx_aiohttp.AiohttpTransport(verify=context)


def test_the_list_of_faults_tells_unsent_from_sent() -> None:
    """A suite in which every request may have been billed would pass a transport that always says so."""
    exact = [wanted[0] for fault in FAULTS for wanted in fault.wanted]
    assert sum(seen == UNSENT for seen in exact) >= 5
    assert sum(isinstance(seen, Seen) and seen.complete for seen in exact) >= 10
