"""Images are downloaded from public addresses only, whatever a name, a redirect or a resolver says."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import anyio
import pytest
from aiohttp import web

from batchvision.errors import ImageForbidden, ImageTooLarge, ImageUnreachable
from batchvision.http import LeanTransport, httpx
from batchvision.http.fetch import DownloadRules, HttpFetcher
from batchvision.http.hops import Resolver
from batchvision.images import is_public

pytestmark = pytest.mark.anyio

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def server_of(answer: Answer) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_get("/{tail:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Sleeps(list[float]):
    """A sleep that only remembers, and a clock that nothing else moves."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)

    def clock(self) -> float:
        return 1000.0 + sum(self)


def fetcher(
    sleeps: Sleeps | None = None, *, allow_private_hosts: bool = True, timeout_seconds: float = 60.0, **options: Any
) -> HttpFetcher:
    sleeps = Sleeps() if sleeps is None else sleeps
    rules = DownloadRules(allow_private_hosts, timeout_seconds=timeout_seconds)
    return HttpFetcher(rules, sleep=sleeps, jitter=lambda: 0.5, clock=sleeps.clock, **options)


async def no_answer(request: web.Request) -> web.Response:
    raise AssertionError("a forbidden address was asked")


def answering(*statuses: int, **headers: str) -> Answer:
    left = list(statuses)

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=left.pop(0) if left else 200, body=b"picture", headers=headers)

    return answer


# ---------------------------------------------------------------------------------- what arrives


async def test_a_download_is_the_content_at_the_url_as_it_was_written() -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.raw_path)
        return web.Response(body=b"picture")

    async with server_of(answer) as url, fetcher() as images:
        assert await images.fetch(f"{url}/a%2Fb.jpg?X-Amz-Credential=A%2Fb&sig=%2B", 100) == b"picture"
    assert asked == ["/a%2Fb.jpg?X-Amz-Credential=A%2Fb&sig=%2B"]


@pytest.mark.parametrize("announced", [True, False])
async def test_more_than_the_cap_is_too_large_announced_or_not(announced: bool) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if announced:
            return web.Response(body=bytes(101))
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(bytes(101))
        return response

    async with server_of(answer) as url, fetcher() as images:
        with pytest.raises(ImageTooLarge, match="more than the 100 bytes"):
            await images.fetch(f"{url}/big.jpg", 100)


async def test_a_server_that_is_busy_is_asked_again_twice_and_no_more() -> None:
    sleeps = Sleeps()
    async with server_of(answering(503, 429)) as url, fetcher(sleeps) as images:
        assert await images.fetch(f"{url}/a.jpg", 100) == b"picture"
    assert sleeps == [0.5, 1.0]
    async with server_of(answering(503, 502, 500, 200)) as url, fetcher() as images:
        with pytest.raises(ImageUnreachable, match=r"HTTP 500 \(3 tries\)"):
            await images.fetch(f"{url}/a.jpg", 100)


@pytest.mark.parametrize(("said", "waited"), [("4", 4.0), ("3600", 60.0), ("soon", 0.5)])
async def test_retry_after_is_honoured_within_reason(said: str, waited: float) -> None:
    sleeps = Sleeps()
    async with server_of(answering(429, **{"Retry-After": said})) as url, fetcher(sleeps) as images:
        await images.fetch(f"{url}/a.jpg", 100)
    assert sleeps == [waited]


async def test_a_host_that_asks_for_a_pause_gets_it_from_all_downloads() -> None:
    sleeps = Sleeps()
    async with server_of(answering(503, **{"Retry-After": "7"})) as url, fetcher(sleeps) as images:
        await images.fetch(f"{url}/a.jpg", 100)
        assert sleeps == [7.0]
        await images.fetch(f"{url.replace('127.0.0.1', 'localhost')}/b.jpg", 100)  # another host: Retry-After again
    assert sleeps == [7.0]


async def test_retry_after_may_be_a_date() -> None:
    sleeps = Sleeps()
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    async with server_of(answering(429, **{"Retry-After": soon})) as url, fetcher(sleeps) as images:
        await images.fetch(f"{url}/a.jpg", 100)
    assert len(sleeps) == 1
    assert 20 < sleeps[0] <= 30


async def test_one_host_has_eight_connections_and_waiting_for_one_is_not_slowness() -> None:
    open_now, most = 0, 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        await anyio.sleep(0.1)
        open_now -= 1
        return web.Response(body=b"picture")

    async with server_of(answer) as url, fetcher(timeout_seconds=0.8) as images, anyio.create_task_group() as tasks:
        for number in range(40):  # over a second at the rate of one host
            tasks.start_soon(images.fetch, f"{url}/{number}.jpg", 100)
    assert most == 8


@pytest.mark.parametrize(("announced", "reserved"), [(True, 7), (False, 100)])
async def test_bytes_are_reserved_before_a_body_is_read(announced: bool, reserved: int) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if announced:
            return web.Response(body=b"picture")
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"picture")
        return response

    asked: list[int] = []

    async def reserve(count: int) -> None:
        asked.append(count)
        await anyio.sleep(0.3)  # longer than the deadline, which it does not count against

    async with server_of(answer) as url, fetcher(timeout_seconds=0.2) as images:
        assert await images.fetch(f"{url}/a.jpg", 100, reserve) == b"picture"
    assert asked == [reserved]


async def test_a_missing_image_is_not_asked_for_again() -> None:
    sleeps = Sleeps()
    async with server_of(answering(404)) as url, fetcher(sleeps) as images:
        with pytest.raises(ImageUnreachable, match="HTTP 404 Not Found"):
            await images.fetch(f"{url}/a.jpg", 100)
    assert not sleeps


async def test_a_download_that_breaks_off_is_tried_again() -> None:
    tries = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal tries
        tries += 1
        if tries == 2:
            return web.Response(body=b"picture")
        response = web.StreamResponse(headers={"content-length": "100"})
        await response.prepare(request)
        await response.write(b"pic")
        assert request.transport is not None
        request.transport.close()
        return response

    async with server_of(answer) as url, fetcher() as images:
        assert await images.fetch(f"{url}/a.jpg", 1000) == b"picture"


async def test_one_deadline_spans_all_of_it() -> None:
    over = anyio.Event()

    async def answer(request: web.Request) -> web.Response:
        await over.wait()
        return web.Response(body=b"picture")

    async with server_of(answer) as url, fetcher(timeout_seconds=0.2) as images:
        with pytest.raises(ImageUnreachable, match=r"within 0\.2 s"):
            await images.fetch(f"{url}/a.jpg?token=secret", 100)
        over.set()


async def test_errors_show_no_signature() -> None:
    async with server_of(answering(403)) as url, fetcher() as images:
        with pytest.raises(ImageUnreachable) as caught:
            await images.fetch(f"{url}/a.jpg?w=1&X-Amz-Signature=canary&token=canary", 100)
    assert "canary" not in caught.value.message
    assert "w=1" in caught.value.message


# ---------------------------------------------------------------------------------- where it may go


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0.0.0.0", "[::ffff:127.0.0.1]"],
)
async def test_no_spelling_of_this_machine_is_downloaded_from(host: str) -> None:
    async with server_of(no_answer) as url, fetcher(allow_private_hosts=False) as images:
        with pytest.raises((ImageForbidden, ImageUnreachable)) as caught:
            await images.fetch(f"http://{host}:{url.rpartition(':')[2]}/a.jpg", 100)
    if host in ("127.0.0.1", "localhost", "0.0.0.0"):  # aiohttp, or the system, refuses the odd forms before we can
        assert isinstance(caught.value, ImageForbidden)
        assert "allow_private_hosts" in caught.value.message


@pytest.mark.parametrize(
    "url",
    ["http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/a.jpg", "http://[fd00:ec2::254]/", "http://[::1]/"],
)
async def test_private_and_metadata_addresses_are_refused_before_a_connection(url: str) -> None:
    async with fetcher(allow_private_hosts=False) as images:
        with pytest.raises(ImageForbidden):
            await images.fetch(url, 100)


async def test_a_name_that_changes_to_a_private_address_is_refused_before_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with server_of(no_answer) as url, fetcher(allow_private_hosts=False) as images:
        here = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(url.rpartition(":")[2])))

        async def rebound(*_: object, **__: object) -> list[object]:
            return [here]

        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "getaddrinfo", rebound)
        with pytest.raises(ImageForbidden):
            await images.fetch(f"http://images.example.com:{here[4][1]}/a.jpg", 100)


class Elsewhere(httpx.AsyncBaseTransport):
    """Takes requests to a public address to a server on this machine, and keeps what was asked of whom."""

    def __init__(self, public: dict[str, str], context: ssl.SSLContext | None = None) -> None:
        self._ports = {address: int(url.rpartition(":")[2]) for address, url in public.items()}
        self._lean = LeanTransport(context)
        self.asked: list[tuple[str, str]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append((request.url.host, request.headers["host"]))
        here = request.url.copy_with(host="127.0.0.1", port=self._ports[request.url.host])
        moved = httpx.Request(request.method, here, headers=request.headers, extensions=request.extensions)
        return await self._lean.handle_async_request(moved)

    async def aclose(self) -> None:
        await self._lean.aclose()


def names(**addresses: list[str]) -> Resolver:
    """A resolver of the names ``a`` for ``a.example.com``; addresses are their own."""

    async def resolved(host: str, port: int) -> list[str]:
        return addresses.get(host.partition(".")[0]) or [host]

    return resolved


@asynccontextmanager
async def public_fetcher(elsewhere: Elsewhere, resolver: Resolver, **options: Any) -> AsyncIterator[HttpFetcher]:
    """A fetcher that keeps the address rule, and whose connections end on this machine all the same."""
    options = {"allow_private_hosts": False, "resolver": resolver, "transport": lambda: elsewhere, **options}
    async with fetcher(**options) as images:
        yield images


PUBLIC, OTHER = "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"


async def test_the_connection_goes_to_the_checked_address_and_the_request_names_the_host() -> None:
    async with server_of(answering()) as url:
        elsewhere = Elsewhere({PUBLIC: url, OTHER: url})
        async with public_fetcher(elsewhere, names(a=[PUBLIC], b=["10.0.0.1", OTHER])) as images:
            assert await images.fetch("http://A.example.com/a.jpg", 100) == b"picture"
            assert await images.fetch("http://b.example.com:8080/b.jpg", 100) == b"picture"
            assert await images.fetch(f"http://[{OTHER}]/c.jpg", 100) == b"picture"
    assert elsewhere.asked == [(PUBLIC, "a.example.com"), (OTHER, "b.example.com:8080"), (OTHER, f"[{OTHER}]")]


@pytest.mark.parametrize("inside", ["127.0.0.1", "::1", "10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1"])
async def test_a_name_with_no_public_address_is_forbidden(inside: str) -> None:
    elsewhere = Elsewhere({})
    async with public_fetcher(elsewhere, names(a=[inside])) as images:
        with pytest.raises(ImageForbidden, match=r"is not a public address .*allow_private_hosts"):
            await images.fetch("http://a.example.com/a.jpg", 100)
    assert not elsewhere.asked


async def test_a_name_that_is_rebound_between_two_hops_is_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchvision.http.hops.RESOLVED_SECONDS", 0.0)
    answers = [[PUBLIC], ["127.0.0.1"]]

    async def rebinding(host: str, port: int) -> list[str]:
        return answers.pop(0)

    async with server_of(answering(302, location="/again.jpg")) as url:
        elsewhere = Elsewhere({PUBLIC: url})
        async with public_fetcher(elsewhere, rebinding) as images:
            with pytest.raises(ImageForbidden, match=r"127\.0\.0\.1"):
                await images.fetch("http://a.example.com/a.jpg", 100)
    assert elsewhere.asked == [(PUBLIC, "a.example.com")]


@pytest.mark.parametrize(
    "location",
    [
        "http://inside.example.com/",
        "//inside.example.com/",
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://169.254.169.254/latest/meta-data/",
    ],
)
async def test_a_redirect_is_checked_like_the_first_url(location: str) -> None:
    async with server_of(answering(302, location=location)) as url:
        elsewhere = Elsewhere({PUBLIC: url})
        async with public_fetcher(elsewhere, names(a=[PUBLIC], inside=["10.1.2.3"])) as images:
            with pytest.raises(ImageForbidden, match="is not a public address"):
                await images.fetch("http://a.example.com/a.jpg", 100)
    assert elsewhere.asked == [(PUBLIC, "a.example.com")]


async def test_an_address_that_takes_no_connection_is_passed_over_and_the_next_one_remembered() -> None:
    asked: list[str] = []

    async def dead_or_alive(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        if request.url.host == PUBLIC:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, stream=httpx.ByteStream(b"picture"))

    resolver, wire = names(a=[PUBLIC, OTHER]), httpx.MockTransport(dead_or_alive)
    async with fetcher(allow_private_hosts=False, resolver=resolver, transport=lambda: wire) as images:
        for _ in range(2):
            assert await images.fetch("http://a.example.com/a.jpg", 100) == b"picture"
    assert asked == [PUBLIC, OTHER, OTHER]


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://example.com/a.jpg", "gopher://127.0.0.1/"])
async def test_a_redirect_to_another_scheme_is_refused(target: str) -> None:
    async with server_of(answering(302, location=target)) as url, fetcher() as images:
        with pytest.raises(ImageForbidden, match="http and https"):
            await images.fetch(f"{url}/a.jpg", 100)


@pytest.mark.parametrize(("hops", "arrives"), [(5, True), (6, False)])
async def test_five_redirects_are_followed_and_no_more(hops: int, arrives: bool) -> None:
    async def answer(request: web.Request) -> web.Response:
        left = int(request.path[1:])
        if left == 0:
            return web.Response(body=b"picture")
        return web.Response(status=302, headers={"location": f"/{left - 1}"})

    async with server_of(answer) as url, fetcher() as images:
        if arrives:
            assert await images.fetch(f"{url}/{hops}", 100) == b"picture"
        else:
            with pytest.raises(ImageUnreachable, match="more than 5 redirects"):
                await images.fetch(f"{url}/{hops}", 100)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("::ffff:93.184.215.14", True),
        ("64:ff9b::5db8:d70e", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("168.63.129.16", False),
        ("192.0.2.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("0.0.0.0", False),
        ("::", False),
        ("::1", False),
        ("::7f00:1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("2002:a00:1::", False),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("ff02::1", False),
        ("not an address", False),
    ],
)
def test_only_public_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public
