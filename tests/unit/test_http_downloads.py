"""Downloads as a job asks for them: headers for one host alone, certificates, proxies."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from loopback_proxy import LoopbackProxy

from batchvision.errors import ImageForbidden, ImageUnreachable, JobInvalid
from batchvision.http import ImageAccess, LeanTransport, Trust, httpx
from batchvision.http.fetch import DownloadRules, HttpFetcher
from batchvision.http.hops import Resolver

pytestmark = pytest.mark.anyio

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
TOKEN = "Bearer canary-0123456789"


class Host:
    """An image host on a loopback port: answers ``redirects`` by path, everything else with a picture."""

    def __init__(self) -> None:
        self.redirects: dict[str, str] = {}
        self.seen: list[tuple[str, str | None]] = []  #: path and Authorization
        self.names: list[str] = []  #: Host headers
        self.port = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.seen.append((request.path, request.headers.get("authorization")))
        self.names.append(request.headers["host"])
        if location := self.redirects.get(request.path):
            return web.Response(status=302, headers={"location": location})
        return web.Response(body=b"picture")

    @asynccontextmanager
    async def running(self, context: ssl.SSLContext | None = None) -> AsyncIterator[Host]:
        application = web.Application()
        application.router.add_get("/{tail:.*}", self.answer)
        runner = web.AppRunner(application, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()


def here(*known: str) -> Resolver:
    """All names are this machine, or only those that are ``known``."""

    async def resolved(host: str, port: int) -> list[str]:
        if known and host not in known:
            raise OSError(-2, "Name or service not known")
        return ["127.0.0.1"]

    return resolved


def secret_for(host: str) -> dict[str, dict[str, str]]:
    return {host: {"Authorization": TOKEN, "X-Team": "photos"}}


# ---------------------------------------------------------------------------------- headers by host


@pytest.mark.parametrize("name", ["img.example.com", "IMG.example.com", "img.example.com.", "img.example.com:{port}"])
async def test_a_host_is_sent_its_headers(name: str) -> None:
    async with Host().running() as host:
        headers = secret_for(name.format(port=host.port))
        async with HttpFetcher(DownloadRules(True, headers), resolver=here()) as images:
            assert await images.fetch(f"http://img.example.com:{host.port}/a.jpg", 100) == b"picture"
            assert await images.fetch(f"http://other.example.com:{host.port}/b.jpg", 100) == b"picture"
            assert await images.fetch(f"http://sub.img.example.com:{host.port}/c.jpg", 100) == b"picture"
    assert host.seen == [("/a.jpg", TOKEN), ("/b.jpg", None), ("/c.jpg", None)]


async def test_headers_of_one_port_are_sent_to_that_port_alone() -> None:
    async with Host().running() as host, Host().running() as other:
        headers = secret_for(f"img.example.com:{other.port}")
        async with HttpFetcher(DownloadRules(True, headers), resolver=here()) as images:
            await images.fetch(f"http://img.example.com:{host.port}/a.jpg", 100)
            await images.fetch(f"http://img.example.com:{other.port}/b.jpg", 100)
    assert (host.seen, other.seen) == ([("/a.jpg", None)], [("/b.jpg", TOKEN)])


async def test_a_redirect_to_another_host_loses_the_headers_and_one_to_the_same_host_keeps_them() -> None:
    async with Host().running() as host:
        host.redirects = {
            "/a.jpg": "/b.jpg",
            "/b.jpg": f"http://cdn.example.com:{host.port}/c.jpg",
            "/c.jpg": f"http://img.example.com:{host.port}/d.jpg",
        }
        async with HttpFetcher(DownloadRules(True, secret_for("img.example.com")), resolver=here()) as images:
            assert await images.fetch(f"http://img.example.com:{host.port}/a.jpg", 100) == b"picture"
    assert host.seen == [("/a.jpg", TOKEN), ("/b.jpg", TOKEN), ("/c.jpg", None), ("/d.jpg", TOKEN)]


async def test_a_redirect_from_https_to_http_loses_the_headers() -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("img.example.com").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with Host().running(context) as safe, Host().running() as plain:
        safe.redirects = {"/a.jpg": f"http://img.example.com:{plain.port}/b.jpg"}
        rules = DownloadRules(True, secret_for("img.example.com"))
        async with HttpFetcher(rules, transport=lambda: LeanTransport(trusting), resolver=here()) as images:
            assert await images.fetch(f"https://img.example.com:{safe.port}/a.jpg", 100) == b"picture"
    assert safe.seen == [("/a.jpg", TOKEN)]
    assert plain.seen == [("/b.jpg", None)]


async def test_a_user_in_a_url_is_sent_to_its_own_host_and_the_jobs_headers_win() -> None:
    async with Host().running() as host:
        host.redirects = {"/a.jpg": f"http://cdn.example.com:{host.port}/b.jpg"}
        async with HttpFetcher(DownloadRules(True, secret_for("img.example.com")), resolver=here()) as images:
            await images.fetch(f"http://user:pass@other.example.com:{host.port}/a.jpg", 100)
            await images.fetch(f"http://user:pass@img.example.com:{host.port}/c.jpg", 100)
    assert host.seen == [("/a.jpg", "Basic dXNlcjpwYXNz"), ("/b.jpg", None), ("/c.jpg", TOKEN)]


# ---------------------------------------------------------------------------------- certificates


async def test_the_certificate_is_verified_for_the_name_and_not_for_the_address() -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("img.example.com").configure_cert(context)
    asked_for: list[str | None] = []
    context.sni_callback = lambda _, name, __: asked_for.append(name)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with Host().running(context) as host:
        async with HttpFetcher(
            DownloadRules(True), transport=lambda: LeanTransport(trusting), resolver=here()
        ) as images:
            assert await images.fetch(f"https://img.example.com:{host.port}/a.jpg", 100) == b"picture"
            with pytest.raises(ImageUnreachable, match=r"other\.example\.com.*certificate cannot be verified"):
                await images.fetch(f"https://other.example.com:{host.port}/b.jpg", 100)
        async with HttpFetcher(DownloadRules(True), resolver=here()) as images:  # an authority that is not known
            with pytest.raises(ImageUnreachable, match="certificate cannot be verified"):
                await images.fetch(f"https://img.example.com:{host.port}/c.jpg", 100)
    assert host.seen == [("/a.jpg", None)]
    assert host.names == [f"img.example.com:{host.port}"]
    assert asked_for == ["img.example.com", "other.example.com", "img.example.com"]  # each once: none is tried again


async def test_the_authority_of_the_job_is_trusted(tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    trust = Trust.of({}, ca_file=tmp_path / "ca.pem")
    access = ImageAccess.to(allow_private_hosts=True, headers={}, proxy=None, trust=trust)
    async with Host().running(context) as host, access.fetcher() as images:
        assert await images.fetch(f"https://localhost:{host.port}/a.jpg", 100) == b"picture"


# ---------------------------------------------------------------------------------- proxies


def through(proxy: str | None, *, allow_private_hosts: bool = True) -> HttpFetcher:
    access = ImageAccess.to(allow_private_hosts=allow_private_hosts, headers={}, proxy=proxy, trust=Trust())
    return access.fetcher()


async def test_a_proxy_is_used_only_where_the_job_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with LoopbackProxy().running() as proxy, Host().running() as host:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        url = f"http://localhost:{host.port}/a%2Fb.jpg?sig=%2B"
        for setting in (None, "none"):
            async with through(setting) as images:
                assert await images.fetch(url, 100) == b"picture"
        assert proxy.asked == []
        async with through(proxy.url) as images:
            assert await images.fetch(url, 100) == b"picture"
        assert proxy.asked == [f"GET {url} HTTP/1.1".encode()]
    assert len(host.seen) == 3


async def test_a_proxy_that_requires_another_password_is_named_without_the_password() -> None:
    async with LoopbackProxy("user", "right").running() as proxy, Host().running() as host:
        address = proxy.url.removeprefix("http://")
        async with through(f"http://user:right@{address}") as images:
            assert await images.fetch(f"http://localhost:{host.port}/a.jpg", 100) == b"picture"
        images = through(f"http://user:canary@{address}")
        assert "canary" not in repr(images)
        async with images:
            with pytest.raises(ImageUnreachable, match="407") as caught:
                await images.fetch(f"http://localhost:{host.port}/b.jpg", 100)
        assert "canary" not in caught.value.message


@pytest.mark.parametrize("inside", ["127.0.0.1", "[::1]", "2130706433", "0x7f.1", "169.254.169.254", "printer.local"])
async def test_a_proxy_is_not_asked_for_private_hosts(inside: str) -> None:
    async with LoopbackProxy().running() as proxy, through(proxy.url, allow_private_hosts=False) as images:
        with pytest.raises(ImageForbidden):
            await images.fetch(f"http://{inside}/a.jpg", 100)
    assert proxy.asked == []


async def test_a_redirect_through_a_proxy_is_checked_like_the_first_url() -> None:
    """The proxy resolves img.example.com; it is not asked for what the redirect names."""
    asked: list[str] = []

    async def proxied(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(302, headers={"location": "http://169.254.169.254/latest/meta-data/"})

    wire = httpx.MockTransport(proxied)
    async with HttpFetcher(DownloadRules(is_proxied=True), transport=lambda: wire) as images:
        with pytest.raises(ImageForbidden):
            await images.fetch("http://img.example.com/a.jpg", 100)
    assert asked == ["http://img.example.com/a.jpg"]


async def test_a_secure_url_goes_through_a_tunnel_and_is_sent_as_it_is_written(tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    trust = Trust.of({}, ca_file=tmp_path / "ca.pem")
    async with LoopbackProxy().running() as proxy, Host().running(context) as host:
        access = ImageAccess.to(allow_private_hosts=True, headers=secret_for("localhost"), proxy=proxy.url, trust=trust)
        async with access.fetcher() as images:
            assert await images.fetch(f"https://localhost:{host.port}/a.jpg", 100) == b"picture"
        assert proxy.asked == [f"CONNECT localhost:{host.port} HTTP/1.1".encode()]
    assert host.seen == [("/a.jpg", TOKEN)]


def test_an_invalid_proxy_is_reported_at_the_start() -> None:
    with pytest.raises(JobInvalid, match=r"images\.proxy is no URL of a proxy"):
        through("http://")
