"""check finds, for free, problems that would stop a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from batchvision.commands.check import CheckFinding, CheckReport, check, key_from_environment
from batchvision.errors import AuthenticationFailed, BatchvisionError, ConnectFailed, ModelNotFound, RequestRejected
from batchvision.job import Job
from batchvision.providers import Dialect, ModelListing, dialect
from batchvision.secrets import Secret

KEY = {"XAI_API_KEY": "a-key-of-ours"}


class Provider:
    """Lists ``models``, or fails with ``error``; remembers whether it was asked."""

    def __init__(self, *models: ModelListing, error: BatchvisionError | None = None) -> None:
        self.models = models
        self.error = error
        self.asked = 0

    async def __call__(
        self, speaks: Dialect, base_url: str, key: Secret | None, headers: Mapping[str, str]
    ) -> tuple[ModelListing, ...]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.models


def make_job(folder: Path, **overrides: Any) -> Job:
    (folder / "photos.csv").write_text("id,image\n1,a.png\n", encoding="utf-8")
    settings = {
        "name": "checked",
        "manifest": {"path": "photos.csv", "id": "id"},
        "prompt": {"user": "Describe it."},
        "provider": {"name": "xai", "model": "grok-4.3"},
    }
    return Job.from_mapping(settings, folder, overrides=overrides)


def said(report: CheckReport, topic: str) -> str:
    return "; ".join(finding.text for finding in report.findings if finding.topic == topic)


@pytest.mark.anyio
async def test_a_good_job_is_well(tmp_path: Path) -> None:
    provider = Provider(ModelListing("grok-4.3", takes_images=True))
    report = await check(make_job(tmp_path), environ=KEY, ask=provider)
    assert report.exit_code == 0, report
    assert provider.asked == 1
    assert "1 rows" in said(report, "manifest")
    assert report.document()["ok"] is True


@pytest.mark.anyio
async def test_an_alias_is_a_name_too(tmp_path: Path) -> None:
    provider = Provider(ModelListing("grok-4.3-0901", aliases=("grok-4.3",)))
    assert (await check(make_job(tmp_path), environ=KEY, ask=provider)).exit_code == 0


@pytest.mark.parametrize(
    ("provider", "topic", "says"),
    [
        (Provider(ModelListing("grok-4.6")), "model", "does not list 'grok-4.3'"),
        (Provider(ModelListing("grok-4.3", takes_images=False)), "model", "takes no images"),
        (Provider(error=AuthenticationFailed("the key is refused")), "provider", "the key is refused"),
        (Provider(error=ConnectFailed("no route")), "provider", "no route"),
    ],
)
@pytest.mark.anyio
async def test_a_refusal_of_the_provider_is_exit_5(tmp_path: Path, provider: Provider, topic: str, says: str) -> None:
    report = await check(make_job(tmp_path), environ=KEY, ask=provider)
    assert report.exit_code == 5
    assert says in said(report, topic)


@pytest.mark.anyio
async def test_a_server_that_lists_nothing_is_taken_at_its_word(tmp_path: Path) -> None:
    report = await check(make_job(tmp_path), environ=KEY, ask=Provider())
    assert report.exit_code == 0
    assert "could not be looked up" in said(report, "model")


@pytest.mark.anyio
async def test_without_a_key_no_request_is_sent(tmp_path: Path) -> None:
    provider = Provider()
    report = await check(make_job(tmp_path), environ={}, ask=provider)
    assert (report.exit_code, provider.asked) == (2, 0)
    assert "export XAI_API_KEY=" in said(report, "key")


@pytest.mark.anyio
async def test_a_problem_of_the_job_comes_before_one_of_the_provider(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    (tmp_path / "photos.csv").write_text("id,image\n1,a.png,too,many\n", encoding="utf-8")
    report = await check(job, environ=KEY, ask=Provider(error=AuthenticationFailed("no")))
    assert report.exit_code == 2


@pytest.mark.anyio
async def test_an_output_that_cannot_be_written_is_found(tmp_path: Path) -> None:
    job = make_job(tmp_path, **{"output.path": "photos.csv/out"})
    report = await check(job, environ=KEY, ask=Provider(ModelListing("grok-4.3")))
    assert report.exit_code == 2
    assert "cannot be written" in said(report, "output")


def test_the_gravest_finding_decides() -> None:
    assert CheckReport((CheckFinding("a", ""), CheckFinding("b", "", 5), CheckFinding("c", "", 2))).exit_code == 2
    assert CheckReport((CheckFinding("a", ""),)).exit_code == 0


def test_models_takes_the_key_from_the_providers_own_variable() -> None:
    key = key_from_environment(dialect("xai"), {"XAI_API_KEY": " k-123 \n"})
    assert key is not None
    assert key.reveal() == "k-123"
    assert key_from_environment(dialect("xai"), {}) is None
    assert key_from_environment(dialect("emulator"), {}) is None


@pytest.mark.anyio
@pytest.mark.parametrize("error", [ModelNotFound("404: not found"), RequestRejected("400: unknown path")])
async def test_a_server_without_a_list_of_models_is_no_reason_against_the_job(
    tmp_path: Path, error: BatchvisionError
) -> None:
    report = await check(make_job(tmp_path), environ=KEY, ask=Provider(error=error))
    assert report.exit_code == 0, report
    assert "has no list of models" in said(report, "provider")


@pytest.mark.anyio
async def test_a_fallback_that_is_no_label_is_a_finding(tmp_path: Path) -> None:
    provider = Provider(ModelListing("grok-4.3"))
    job = make_job(tmp_path, **{"answer.labels": ["shoe"], "answer.labels_fallback": "other"})
    report = await check(job, environ=KEY, ask=provider)
    assert "'other' is none of the labels" in said(report, "labels")
    fitting = make_job(tmp_path, **{"answer.labels": ["shoe", "other"], "answer.labels_fallback": "other"})
    assert said(await check(fitting, environ=KEY, ask=provider), "labels") == ""


@pytest.mark.anyio
async def test_the_destination_of_the_load_is_named_or_its_problem(tmp_path: Path) -> None:
    provider = Provider(ModelListing("grok-4.3", takes_images=True))
    job = make_job(tmp_path, **{"load.to": "env:WAREHOUSE_URL"})
    found = await check(job, environ={**KEY, "WAREHOUSE_URL": "duckdb:///a.db"}, ask=provider)
    assert said(found, "load") == f"into duckdb:///{tmp_path}/a.db at the end of each run"
    missing = await check(job, environ=KEY, ask=provider)
    assert "the environment variable WAREHOUSE_URL is not set" in said(missing, "load")
    assert missing.exit_code == 2
