"""A provider behind a company's proxy and authority: it is reached, or one message names the setting that helps."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web
from loopback_peers import raw_server, read_request, server_of
from loopback_proxy import LoopbackProxy

from batchvision.commands.check import check
from batchvision.errors import JobInvalid
from batchvision.job import Job
from batchvision.records import RunSummary
from batchvision.runner.session import run_async

pytestmark = pytest.mark.anyio

KEY = "company-key-0123456789"
USER, PASSWORD = "proxy-user-0123", "proxy/pass:word-0123"
QUOTED = "proxy%2Fpass%3Aword-0123"
ANSWER = json.dumps(
    {
        "id": "c1",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "a shoe"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
    }
).encode()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Company:
    """A TLS server with a certificate of its own authority. ``heads``: what came to it."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.ca_file = folder / "company-ca.pem"
        self.authority.cert_pem.write_to_path(self.ca_file)
        self.heads: list[bytes] = []

    def context(self, *, wants_client: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert("localhost").configure_cert(context)
        if wants_client:
            context.verify_mode = ssl.CERT_REQUIRED
            self.authority.configure_trust(context)
        return context

    def client_cert(self, folder: Path) -> Path:
        own = self.authority.issue_cert("someone@company.example")
        path = folder / "client.pem"
        own.private_key_and_cert_chain_pem.write_to_path(path)
        return path

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await read_request(reader)
            self.heads.append(request.partition(b"\r\n\r\n")[0])
            body = b'{"data": [{"id": "m"}]}' if request.startswith(b"GET") else ANSWER
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    @contextmanager
    def asking_for_a_certificate(self) -> Iterator[str]:
        """A server that ends each handshake without a certificate as OpenSSL does: with an alert."""
        context = self.context(wants_client=True)
        listening = socket.create_server(("127.0.0.1", 0))

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with suppress(OSError):
                        context.wrap_socket(connection, server_side=True).close()

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"https://localhost:{listening.getsockname()[1]}/v1"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            listening.close()

    @asynccontextmanager
    async def serving(self, *, tls: bool = True, wants_client: bool = False) -> AsyncIterator[str]:
        async with raw_server(self.talk, self.context(wants_client=wants_client) if tls else None) as url:
            yield url.replace("127.0.0.1", "localhost")


@dataclass
class Office:
    """A folder with a job of two rows."""

    folder: Path
    company: Company
    environ: dict[str, str] = field(default_factory=lambda: {"OPENAI_API_KEY": KEY})

    def job(self, base_url: str, **provider: Any) -> Job:
        lines = ["id,image", *(f"r{n},https://images.example/{n}.png" for n in range(2))]
        (self.folder / "m.csv").write_text("\n".join(lines), encoding="utf-8")
        settings = {
            "name": "office",
            "manifest": {"path": "m.csv", "id": "id"},
            "prompt": {"user": "Which? {id}"},
            "provider": {"name": "openai", "model": "m", "base_url": base_url, "image_mode": "url", **provider},
            "output": {"path": "out"},
        }
        return Job.from_mapping(settings, self.folder)

    async def run(self, base_url: str, **provider: Any) -> RunSummary:
        return await run_async(self.job(base_url, **provider), environ=self.environ)

    async def network_said(self, base_url: str, **provider: Any) -> str:
        """What check says of the way, and of the provider."""
        report = await check(self.job(base_url, **provider), environ=self.environ)
        return "\n".join(found.text for found in report.findings if found.topic in ("network", "provider"))

    def written(self) -> bytes:
        """All bytes of all files of the output."""
        return b"".join(path.read_bytes() for path in (self.folder / "out").rglob("*") if path.is_file())


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path, Company(tmp_path))


@asynccontextmanager
async def behind_a_proxy(office: Office, **server: Any) -> AsyncIterator[tuple[str, LoopbackProxy]]:
    proxy = LoopbackProxy(USER, PASSWORD)
    async with office.company.serving(**server) as url, proxy.running():
        yield url, proxy


def with_password(proxy: LoopbackProxy) -> str:
    return f"http://{USER}:{QUOTED}@127.0.0.1:{proxy.port}"


def by_keys(office: Office, proxy: str) -> dict[str, str]:
    return {"proxy": proxy, "ca_file": "company-ca.pem"}


def by_names_in_keys(office: Office, proxy: str) -> dict[str, str]:
    office.environ["OUR_PROXY"] = proxy
    return {"proxy": "env:OUR_PROXY", "ca_file": str(office.company.ca_file)}


def by_environment(office: Office, proxy: str) -> dict[str, str]:
    office.environ |= {"HTTPS_PROXY": proxy, "SSL_CERT_FILE": str(office.company.ca_file)}
    return {}


@pytest.mark.parametrize("way", [by_keys, by_names_in_keys, by_environment])
async def test_a_provider_with_a_private_authority_behind_a_proxy_with_a_password_answers(
    office: Office, way: Callable[[Office, str], dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "batchvision")
    async with behind_a_proxy(office) as (url, proxy):
        settings = way(office, with_password(proxy))
        summary = await office.run(url, **settings)
        said = await office.network_said(url, **settings)
    assert (summary.exit_code, summary.rows_completed) == (0, 2)
    assert proxy.asked
    assert all(line.startswith(b"CONNECT localhost:") for line in proxy.asked)
    first = caplog.messages[0]
    for words in (said, first):
        assert f"through the proxy http://127.0.0.1:{proxy.port}" in words
        assert "company-ca.pem" in words
        assert "certifi" in words
    everything = office.written() + (said + caplog.text + repr(summary)).encode()
    for secret in (PASSWORD, QUOTED, USER):
        assert secret.encode() not in everything


async def test_the_key_and_the_proxys_password_do_not_meet(office: Office) -> None:
    async with behind_a_proxy(office) as (url, proxy):
        await office.run(url, **by_keys(office, with_password(proxy)))
    assert all(b"proxy-authorization" not in head.lower() for head in office.company.heads)
    assert all(KEY.encode() in head for head in office.company.heads)


async def test_no_proxy_and_none_connect_directly(office: Office) -> None:
    async with behind_a_proxy(office) as (url, proxy):
        office.environ |= {"HTTPS_PROXY": proxy.url, "NO_PROXY": "localhost"}
        assert (await office.run(url, ca_file="company-ca.pem")).exit_code == 0
        del office.environ["NO_PROXY"]
        said = await office.network_said(url, ca_file="company-ca.pem", proxy="none")
    assert not proxy.asked
    assert "directly" in said


async def test_plain_http_is_forwarded_by_the_proxy(office: Office) -> None:
    async with behind_a_proxy(office, tls=False) as (url, proxy):
        office.environ["HTTP_PROXY"] = with_password(proxy)
        assert (await office.run(url)).exit_code == 0
    assert proxy.asked[0].startswith(b"POST http://localhost:")


@pytest.mark.parametrize("tls", [True, False], ids=["tunnel", "forwarded"])
@pytest.mark.parametrize("user", ["", "proxy-user-0123:a-wrong-password@"], ids=["no password", "a wrong one"])
async def test_a_407_stops_the_run_with_words_about_the_proxy(office: Office, tls: bool, user: str) -> None:
    async with behind_a_proxy(office, tls=tls) as (url, proxy):
        named = f"http://{user}127.0.0.1:{proxy.port}"
        summary = await office.run(url, proxy=named, ca_file="company-ca.pem")
        said = await office.network_said(url, proxy=named, ca_file="company-ca.pem")
    assert (summary.exit_code, summary.stop_reason, summary.rows_pending) == (5, "proxy_refused", 2)
    assert summary.requests_sent == 0
    assert not office.company.heads
    for words in (summary.message or "", said):
        assert "407" in words
        assert "provider.proxy" in words
        assert "a-wrong-password" not in words


async def test_a_proxy_that_does_not_let_the_host_through_stops_the_run(office: Office) -> None:
    proxy = LoopbackProxy(refuses=b"403 Forbidden")
    async with office.company.serving() as url, proxy.running():
        summary = await office.run(url, proxy=proxy.url, ca_file="company-ca.pem")
    assert (summary.exit_code, summary.stop_reason) == (5, "proxy_refused")
    assert "403" in (summary.message or "")


@pytest.mark.parametrize("http", ["lean", "httpx"])
async def test_an_unknown_authority_stops_the_run_and_names_the_setting(office: Office, http: str) -> None:
    async with office.company.serving() as url:
        summary = await office.run(url, http=http)
        said = await office.network_said(url, http=http)
    assert (summary.exit_code, summary.stop_reason, summary.rows_pending) == (5, "certificate_failed", 2)
    assert (summary.requests_sent, summary.rows_ambiguous) == (0, 0)
    for words in (summary.message or "", said):
        assert "provider.ca_file or SSL_CERT_FILE" in words
    assert not office.company.heads


@pytest.mark.parametrize("http", ["lean", "httpx"])
async def test_after_an_answer_a_certificate_fault_is_one_connection_that_failed(office: Office, http: str) -> None:
    """One of many servers behind a name may have a bad certificate for a while."""
    contexts = [office.company.context(), Company(office.folder).context(), office.company.context()]
    made = contexts[0]

    def next_one(connection: ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = contexts.pop(0) if len(contexts) > 1 else contexts[0]

    made.sni_callback = next_one

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(ANSWER) + ANSWER)

    authority = office.company.authority
    authority.cert_pem.write_to_path(office.company.ca_file)
    async with raw_server(talk, made) as url:
        job = office.job(url.replace("127.0.0.1", "localhost"), ca_file="company-ca.pem", http=http)
        job = job.model_copy(update={"limits": job.limits.model_copy(update={"concurrency": 1})})
        summary = await run_async(job, environ=office.environ)
    assert (summary.exit_code, summary.rows_completed) == (0, 2)
    assert len(contexts) == 1, "the bad certificate was shown"


@pytest.mark.parametrize("http", ["lean", "httpx"])
async def test_a_client_certificate_is_shown_to_a_server_that_asks_for_one(office: Office, http: str) -> None:
    office.company.client_cert(office.folder)
    async with office.company.serving(wants_client=True) as url:
        with_it = await office.run(url, ca_file="company-ca.pem", client_cert="client.pem", http=http)
    assert (with_it.exit_code, with_it.rows_completed) == (0, 2)


@pytest.mark.parametrize("http", ["lean", "httpx"])
async def test_without_the_client_certificate_the_run_stops_and_names_the_setting(office: Office, http: str) -> None:
    with office.company.asking_for_a_certificate() as url:
        without = await office.run(url, ca_file="company-ca.pem", http=http)
    assert (without.exit_code, without.stop_reason) == (5, "certificate_failed")
    assert "provider.client_cert" in (without.message or "")


@pytest.mark.parametrize("http", ["lean", "httpx"])
async def test_http_to_an_https_port_is_named(office: Office, http: str) -> None:
    async with office.company.serving() as url:
        summary = await office.run(url.replace("https:", "http:"), http=http)
    assert (summary.exit_code, summary.stop_reason) == (5, "wrong_scheme")
    assert "write https://" in (summary.message or "")


@pytest.mark.parametrize("http", ["lean", "httpx"])
async def test_https_to_an_http_port_is_named(office: Office, http: str) -> None:
    async with server_of(never) as url:
        summary = await office.run(url.replace("http:", "https:"), http=http)
    assert (summary.exit_code, summary.stop_reason) == (5, "wrong_scheme")
    assert "write http://" in (summary.message or "")


async def never(request: web.Request) -> web.Response:
    raise AssertionError("no request can arrive")


async def test_a_server_that_says_that_tls_is_wanted_is_heard(office: Office) -> None:
    page = b"<center>The plain HTTP request was sent to HTTPS port</center>"

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n" % len(page) + page)

    async with raw_server(talk) as url:
        assert (await office.run(url)).stop_reason == "wrong_scheme"


@pytest.mark.parametrize(
    ("environ", "provider", "name"),
    [
        ({"SSL_CERT_FILE": "/no/such/file.pem"}, {}, "SSL_CERT_FILE: there is no file /no/such/file.pem"),
        ({"SSL_CERT_FILE": "{folder}/m.csv"}, {}, "SSL_CERT_FILE: {folder}/m.csv holds no certificate"),
        ({"SSL_CERT_DIR": "/no/such/folder"}, {}, "SSL_CERT_DIR: there is no file /no/such/folder"),
        ({}, {"ca_file": "gone.pem"}, "provider.ca_file: there is no file {folder}/gone.pem"),
        ({}, {"client_cert": "gone.pem"}, "provider.client_cert: there is no file {folder}/gone.pem"),
        ({}, {"client_cert": "company-ca.pem"}, "must hold a certificate and its key"),
        ({"HTTPS_PROXY": "nonsense://x"}, {}, "HTTPS_PROXY is no URL of a proxy"),
        ({}, {"proxy": "env:NOT_SET"}, "NOT_SET is not set"),
    ],
)
async def test_a_setting_that_cannot_be_right_is_a_bad_job_and_named(
    office: Office, environ: dict[str, str], provider: dict[str, str], name: str
) -> None:
    folder = str(office.folder)
    office.environ |= {key: value.format(folder=folder) for key, value in environ.items()}
    with pytest.raises(JobInvalid) as caught:
        await office.run("https://localhost:9/v1", **provider)
    assert name.format(folder=folder) in caught.value.message
    assert name.format(folder=folder) in await office.network_said("https://localhost:9/v1", **provider)


async def test_own_roots_are_added_to_the_usual_ones(office: Office) -> None:
    from batchvision.http.tls import Trust

    usual = len(Trust().context().get_ca_certs())
    environ = {"SSL_CERT_FILE": str(office.company.ca_file)}
    assert len(Trust.of(environ).context().get_ca_certs()) == usual + 1
    assert usual > 100
