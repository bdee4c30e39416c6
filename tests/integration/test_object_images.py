"""Images in an object store: read at once, sent as bytes or as signed URLs, and a missing one fails its row alone."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import anyio
import httpx
import obstore
import pytest
from benches.server import chat
from s3_server import picture

from batchvision.checkpoint import OutputView
from batchvision.commands.run import run, run_async
from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread
from batchvision.errors import ImageForbidden, ImageUnreachable
from batchvision.images.references import check_object
from batchvision.job import Job
from batchvision.records import RunSummary
from batchvision.runner.dependencies import RunDependencies

ODD_KEYS = ("odd/a b#?%25ü.png", "odd/写真.png", "odd/semi;colon&x=1.png", "odd/plus+sign.png")


@pytest.fixture(scope="module")
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions()) as running:
        yield running


def job_of(folder: Path, emulator: RunningEmulator, references: list[str], **sections: Any) -> Job:
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "image"])
        rows.writerows([f"r{number}", reference] for number, reference in enumerate(references))
    settings: dict[str, Any] = {
        "name": "objects",
        "manifest": {"path": "rows.csv", "id": "id", **sections.pop("manifest", {})},
        "prompt": {"user": "What is it?"},
        "provider": {
            "name": "emulator",
            "model": "m",
            "base_url": f"{emulator.url}/v1",
            **sections.pop("provider", {}),
        },
        "limits": sections.pop("limits", {}),
        "output": {"path": "out"},
    }
    return Job.from_mapping(settings, folder)


def counts(summary: RunSummary) -> tuple[int, int, int]:
    return summary.rows_completed, summary.rows_failed, summary.requests_sent


def failures(job: Job) -> dict[str, tuple[str, str]]:
    rows = (row for batch in OutputView(job.output_path).rows("failures") for row in batch.to_pylist())
    return {row["row_id"]: (row["error_kind"], row["error_message"]) for row in rows}


def test_images_of_a_bucket_are_asked_once_and_a_missing_one_fails_alone(
    tmp_path: Path, emulator: RunningEmulator, bucket: Any
) -> None:
    keys = [f"photos/{number}.png" for number in range(50)]
    for number, key in enumerate(keys):
        obstore.put(bucket, key, picture(number))
    references = [f"s3://bucket/{key}" for key in keys]
    job = job_of(tmp_path, emulator, [*references, "s3://bucket/photos/gone.png", "s3://nowhere/1.png"])
    assert counts(run(job, environ={})) == (50, 2, 50)
    kind, message = failures(job)["r50"]
    assert (kind, message) == ("image_unreadable", "no such object: s3://bucket/photos/gone.png")
    kind, message = failures(job)["r51"]
    assert (kind, "NoSuchBucket" in message) == ("image_unreachable", True)
    assert counts(run(job, environ={}))[2] == 0


def test_small_objects_fill_the_wire_though_each_could_be_large(
    tmp_path: Path, emulator: RunningEmulator, bucket: Any
) -> None:
    together, rows = 30, 40
    for number in range(rows):
        obstore.put(bucket, f"many/{number}.png", picture(number))
    job = job_of(
        tmp_path,
        emulator,
        [f"s3://bucket/many/{number}.png" for number in range(rows)],
        limits={"requests_per_minute": 60_000},
    )
    started, all_there = 0, anyio.Event()

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal started
        started += 1
        if started == together:
            all_there.set()
        if started == 1:  # a run sends few requests until the first success
            return httpx.Response(200, content=chat(100))
        with anyio.fail_after(60):
            await all_there.wait()
        return httpx.Response(200, content=chat(100))

    dependencies = RunDependencies(transport=httpx.MockTransport(answer))
    summary = anyio.run(partial(run_async, job, environ={}, dependencies=dependencies))
    assert counts(summary) == (rows, 0, rows)


def test_odd_keys_are_taken_as_they_stand(tmp_path: Path, emulator: RunningEmulator, bucket: Any) -> None:
    for number, key in enumerate(ODD_KEYS):
        obstore.put(bucket, key, picture(number))
    job = job_of(tmp_path, emulator, [f"s3://bucket/{key}" for key in ODD_KEYS])
    assert counts(run(job, environ={})) == (len(ODD_KEYS), 0, len(ODD_KEYS))
    stored = [row for batch in OutputView(job.output_path).rows("results") for row in batch["image_ref"].to_pylist()]
    assert sorted(stored) == sorted([f"s3://bucket/{key}"] for key in ODD_KEYS)


def test_relative_references_lie_below_an_object_root(tmp_path: Path, emulator: RunningEmulator, bucket: Any) -> None:
    obstore.put(bucket, "shop/a/1.png", picture())
    obstore.put(bucket, "secret/2.png", picture())
    references = ["a/1.png", "../secret/2.png", "s3://bucket/secret/2.png", "s3://bucket/shop/a/1.png"]
    job = job_of(tmp_path, emulator, references, manifest={"root": "s3://bucket/shop"})
    assert counts(run(job, environ={}))[:2] == (2, 2)
    assert {row_id: kind for row_id, (kind, _) in failures(job).items()} == {
        "r1": "image_forbidden",
        "r2": "image_forbidden",
    }


def test_a_signed_url_reads_the_image_and_is_stored_nowhere(
    tmp_path: Path, emulator: RunningEmulator, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batchvision.images import ObjectImages

    signed = []
    original = ObjectImages.sign

    async def sign(self: ObjectImages, url: str) -> str:
        signed.append(await original(self, url))
        return signed[-1]

    monkeypatch.setattr(ObjectImages, "sign", sign)
    obstore.put(bucket, "photos/signed.png", picture(7))
    reference = "s3://bucket/photos/signed.png"
    inlined = job_of(tmp_path, emulator, [reference])
    assert run(inlined, environ={}).exit_code == 0
    (tmp_path / "url").mkdir()
    handed = job_of(tmp_path / "url", emulator, [reference], provider={"image_mode": "url"})
    assert run(handed, environ={}).exit_code == 0
    (url,) = signed
    assert urlopen(url).read() == picture(7)
    signature = url.partition("X-Amz-Signature=")[2]
    assert len(signature) == 64
    for path in handed.output_path.rglob("*"):
        assert path.is_dir() or signature.encode() not in path.read_bytes()
    keys = [
        [row for batch in OutputView(job.output_path).rows("results") for row in batch["request_key"].to_pylist()]
        for job in (inlined, handed)
    ]
    assert keys[0] == keys[1]


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/", "s3:///key.png", "s3://bucket/folder/"])
def test_text_that_names_no_object_is_unreachable(url: str) -> None:
    with pytest.raises(ImageUnreachable, match="names no object"):
        check_object(url)


@pytest.mark.parametrize("url", ["s3://bucket/a/../b.png", "s3://bucket/./b.png"])
def test_an_object_out_of_its_folder_is_forbidden(url: str) -> None:
    with pytest.raises(ImageForbidden):
        check_object(url)


def test_refused_credentials_name_the_store_and_not_the_key(
    tmp_path: Path, emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASECRETSECRET")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "verysecretvalue")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    job = job_of(tmp_path, emulator, ["s3://bucket/1.png"])
    run(job, environ={})
    kind, message = failures(job)["r0"]
    assert (kind, message.startswith("s3://bucket/1.png: ")) == ("image_unreachable", True)
    everything = json.dumps(failures(job))
    assert "AKIASECRET" not in everything and "verysecret" not in everything
