"""The jobs of jobs/providers/ as they are, against a stub that sees what each provider would see."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from batchvision.job import Job
from batchvision.records import RunSummary
from batchvision.runner.session import run_async
from batchvision.samples import write_samples

pytestmark = pytest.mark.anyio

JOBS = Path(__file__).parents[2] / "jobs" / "providers"
SECRETS = {
    "AZURE_OPENAI_API_KEY": "azure-key-0123456789",
    "OPENAI_API_KEY": "openai-key-0123456789",
    "TEAM_TOKEN": "team-token-0123456789",
    "GEMINI_API_KEY": "gemini-key-0123456789",
}
ANSWER = {
    "id": "c1",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "a shoe"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Stub:
    """What a provider saw of its requests."""

    url: str = ""
    paths: set[str] = field(default_factory=set)
    headers: list[dict[str, str]] = field(default_factory=list)
    models: set[str] = field(default_factory=set)

    async def answer(self, request: web.Request) -> web.Response:
        self.paths.add(request.raw_path)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.models.add(json.loads(await request.read())["model"])
        return web.json_response(ANSWER)


@asynccontextmanager
async def a_stub() -> AsyncIterator[Stub]:
    stub = Stub()
    application = web.Application()
    application.router.add_post("/{tail:.*}", stub.answer)
    runner = web.AppRunner(application, shutdown_timeout=0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        stub.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield stub
    finally:
        await runner.cleanup()


async def run_at(stub: Stub, folder: Path, name: str) -> RunSummary:
    """The job, with the stub in place of its host alone: path and query of its base URL stay."""
    shutil.copytree(JOBS, folder / "jobs" / "providers")
    write_samples(folder / "jobs" / "photos")
    path = folder / "jobs" / "providers" / f"{name}.toml"
    parts = urlsplit(Job.load(path, environ={}).base_url)
    there = stub.url + parts.path + (f"?{parts.query}" if parts.query else "")
    job = Job.load(path, {"provider.base_url": there}, environ={})
    return await run_async(job, environ=SECRETS)


@pytest.mark.parametrize(
    ("name", "path", "headers", "model"),
    [
        (
            "azure_deployment",
            "/openai/deployments/DEPLOYMENT/chat/completions?api-version=2024-10-21",
            {"api-key": SECRETS["AZURE_OPENAI_API_KEY"]},
            "gpt-4.1",
        ),
        (
            "azure_v1",
            "/openai/v1/chat/completions?api-version=preview",
            {"api-key": SECRETS["AZURE_OPENAI_API_KEY"]},
            "gpt-4.1",
        ),
        (
            "gateway",
            "/openai/v1/chat/completions",
            {
                "authorization": f"Bearer {SECRETS['OPENAI_API_KEY']}",
                "x-team": SECRETS["TEAM_TOKEN"],
                "x-cost-centre": "4711",
            },
            "gpt-4.1",
        ),
        (
            "gemini",
            "/v1beta/openai/chat/completions",
            {"authorization": f"Bearer {SECRETS['GEMINI_API_KEY']}"},
            "gemini-2.5-flash",
        ),
    ],
)
async def test_each_provider_sees_its_urls_and_its_headers(
    tmp_path: Path, name: str, path: str, headers: dict[str, str], model: str
) -> None:
    async with a_stub() as stub:
        summary = await run_at(stub, tmp_path, name)
    assert (summary.exit_code, summary.rows_completed > 0) == (0, True)
    assert (stub.paths, stub.models) == ({path}, {model})
    for seen in stub.headers:
        assert headers.items() <= seen.items()
        assert ("authorization" in seen) == ("authorization" in headers)
    written = b"".join(each.read_bytes() for each in (tmp_path / "out").rglob("*") if each.is_file())
    assert not [name for name, secret in SECRETS.items() if secret.encode() in written]


def test_every_job_of_the_folder_is_run_here() -> None:
    listed = test_each_provider_sees_its_urls_and_its_headers.pytestmark
    names = {case[0] for mark in listed if mark.name == "parametrize" for case in mark.args[1]}
    assert names == {path.stem for path in JOBS.glob("*.toml")}


async def test_how_a_provider_is_reached_is_no_part_of_what_is_asked(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("id,image\n1,https://images.example/1.png\n")
    settings = {
        "name": "ways",
        "manifest": {"path": "m.csv", "id": "id"},
        "prompt": {"user": "Which?"},
        "provider": {"name": "openai", "model": "m"},
    }
    ways = {
        "base_url": "https://gateway.example/v1?api-version=1",
        "api_key_header": "api-key",
        "headers": {"X-Team": "env:TEAM_TOKEN"},
        "http": "httpx",
        "proxy": "http://proxy.example:3128",
        "ca_file": "company.pem",
        "client_cert": "client.pem",
    }
    plain = Job.from_mapping(settings, tmp_path)
    reached = Job.from_mapping({**settings, "provider": {**settings["provider"], **ways}}, tmp_path)
    assert plain.recipe == reached.recipe


async def test_a_variable_that_is_not_set_is_named_before_anything_is_sent(tmp_path: Path) -> None:
    async with a_stub() as stub:
        with pytest.raises(Exception, match="TEAM_TOKEN is not set: export TEAM_TOKEN") as caught:
            shutil.copytree(JOBS, tmp_path / "jobs" / "providers")
            write_samples(tmp_path / "jobs" / "photos")
            job = Job.load(tmp_path / "jobs" / "providers" / "gateway.toml", environ={})
            await run_async(job, environ={"OPENAI_API_KEY": "openai-key-0123456789"})
    assert type(caught.value).__name__ == "JobInvalid"
    assert not stub.paths


async def test_a_key_in_the_query_of_the_base_url_travels_and_is_written_nowhere(tmp_path: Path) -> None:
    canary = "subscription-0123456789"
    (tmp_path / "m.csv").write_text("id,image\n1,https://images.example/1.png\n")
    async with a_stub() as stub:
        settings = {
            "name": "query",
            "manifest": {"path": "m.csv", "id": "id"},
            "prompt": {"user": "Which?"},
            "provider": {"name": "openai", "model": "m", "base_url": f"{stub.url}/v1/?v=1&subscription-key={canary}"},
            "output": {"path": "out"},
        }
        job = Job.from_mapping(settings, tmp_path)
        summary = await run_async(job, environ=SECRETS)
    assert (summary.exit_code, stub.paths) == (0, {f"/v1/chat/completions?v=1&subscription-key={canary}"})
    written = b"".join(each.read_bytes() for each in (tmp_path / "out").rglob("*") if each.is_file())
    assert canary.encode() not in written
    assert canary not in json.dumps(job.config()) + repr(summary)
