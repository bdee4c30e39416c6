"""Clients that are not ours drive the emulator's batches: the official openai SDK, and Vercel's AI SDK for xAI."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from emulated_batches import chat_body, line

from batchvision.emulator import RunningEmulator, start_in_thread

openai = pytest.importorskip("openai", reason="the openai SDK is a development dependency: pip install openai")

HERE = Path(__file__).parents[1]


@pytest.fixture
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(batch_validation_seconds=100.0, batch_seconds=1000.0) as running:
        yield running


@pytest.fixture
def client(emulator: RunningEmulator) -> Iterator[Any]:
    with openai.OpenAI(base_url=emulator.base_url("openai"), api_key="k", max_retries=0, timeout=30.0) as connected:
        yield connected


def uploaded(client: Any, *lines: str) -> Any:
    return client.files.create(
        file=("rows.jsonl", "\n".join(lines).encode()),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 86_400},
    )


def created(client: Any, file: Any) -> Any:
    return client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"batchvision": "run-1.0001"},
    )


def read(client: Any, file_id: str) -> dict[str, Any]:
    lines = map(json.loads, client.files.content(file_id).text.splitlines())
    return {each["custom_id"]: each for each in lines}


def test_the_openai_sdk_runs_a_batch_from_the_upload_to_both_files(client: Any, emulator: RunningEmulator) -> None:
    file = uploaded(client, *(line(f"r{n}") for n in range(8)), line("bad", chat_body("[[fault:rejected]]")))
    assert (file.purpose, file.expires_at - file.created_at) == ("batch", 86_400)
    assert client.files.retrieve(file.id).bytes == file.bytes
    batch = created(client, file)
    seen = [batch.status]
    for seconds in (101, 950, 50):
        emulator.advance(seconds)
        batch = client.batches.retrieve(batch.id)
        seen.append(batch.status)
    assert seen == ["validating", "in_progress", "finalizing", "completed"]
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (9, 8, 1)
    answers = read(client, batch.output_file_id)
    assert sorted(answers) == [f"r{n}" for n in range(8)]
    for name, each in answers.items():
        assert each["response"]["body"]["choices"][0]["message"]["content"].endswith(f"[[echo:{name}]]")
    errors = read(client, batch.error_file_id)
    assert {name: each["response"]["status_code"] for name, each in errors.items()} == {"bad": 400}
    assert client.files.delete(file.id).deleted
    bill = emulator.bill()
    assert (bill.generated, bill.delivered, bill.ticks_delivered) == (8, 8, bill.ticks)


def test_the_openai_sdk_finds_its_batch_in_the_pages_of_the_list_and_cancels_it(
    client: Any, emulator: RunningEmulator
) -> None:
    file = uploaded(client, *(line(f"r{n}") for n in range(4)))
    ids = [created(client, file).id for _ in range(5)]
    listed = [batch for batch in client.batches.list(limit=2) if batch.metadata["batchvision"] == "run-1.0001"]
    assert [batch.id for batch in listed] == ids[::-1]
    emulator.advance(101 + 470)
    assert client.batches.cancel(ids[0]).status == "cancelling"
    emulator.advance(101)
    cancelled = client.batches.retrieve(ids[0])
    assert (cancelled.status, cancelled.cancelled_at is not None) == ("cancelled", True)
    assert len(read(client, cancelled.output_file_id)) == cancelled.request_counts.completed == 2
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(ids[0])


def test_the_openai_sdk_reads_the_line_that_failed_a_batch(client: Any, emulator: RunningEmulator) -> None:
    batch = created(client, uploaded(client, line("a"), "{not json"))
    emulator.advance(101)
    failed = client.batches.retrieve(batch.id)
    assert (failed.status, failed.errors.data[0].line, failed.errors.data[0].code) == ("failed", 2, "invalid_json_line")
    with pytest.raises(openai.NotFoundError):
        client.files.content("file-unknown")


# ---------------------------------------------------------------------------------- xAI's face


def npm_folder() -> Path:
    """A folder with the AI SDK. Skips the test where it cannot be had."""
    folder = Path(sys.prefix) / "ai-sdk"
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("the AI SDK needs Node.js with npm")
    if not (folder / "installed").exists():
        folder.mkdir(exist_ok=True)
        command = [
            npm,
            "install",
            "--prefix",
            folder,
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
            "@ai-sdk/xai@5.0.12",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
        if done.returncode:
            pytest.skip(f"npm cannot install @ai-sdk/xai: {done.stderr.strip()[-300:]}")
        (folder / "installed").touch()
    return folder


def ai_sdk(emulator: RunningEmulator, *arguments: str) -> Any:
    """The JSON that ``foreign/ai_sdk_batch.mjs`` prints."""
    folder = npm_folder()
    shutil.copy(HERE / "foreign" / "ai_sdk_batch.mjs", folder / "ai_sdk_batch.mjs")
    command = ["node", folder / "ai_sdk_batch.mjs", emulator.base_url("xai"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.heavy("ai-sdk")
def test_the_ai_sdk_for_xai_runs_a_batch_and_reads_each_answer_and_error(emulator: RunningEmulator) -> None:
    texts = ["[[echo:r0]]", "[[echo:r1]]", "[[echo:r2]] [[fault:rejected]]"]
    started = ai_sdk(emulator, "start", *texts)
    assert started["status"] == "pending"
    emulator.advance(2000)
    status = ai_sdk(emulator, "status", started["batchId"])
    assert (status["status"], status["requestCounts"]) == (
        "completed",
        {"total": 3, "pending": 0, "completed": 2, "failed": 1},
    )
    results = {each["id"]: each for each in ai_sdk(emulator, "results", started["batchId"])}
    assert {name: each["status"] for name, each in results.items()} == {
        "r0": "succeeded",
        "r1": "succeeded",
        "r2": "failed",
    }
    assert results["r1"]["result"]["content"][0]["text"].endswith("[[echo:r1]]")
    bill = emulator.bill()
    costs = [results[name]["result"]["providerMetadata"]["xai"]["costInUsdTicks"] for name in ("r0", "r1")]
    assert (sum(costs), bill.delivered) == (bill.ticks, 2)


@pytest.mark.heavy("ai-sdk")
def test_the_ai_sdk_for_xai_lists_and_cancels(emulator: RunningEmulator) -> None:
    batches = [ai_sdk(emulator, "start", f"[[echo:{number}]]")["batchId"] for number in range(2)]
    assert [each["batchId"] for each in ai_sdk(emulator, "list")["batches"]] == batches[::-1]
    ai_sdk(emulator, "cancel", batches[0])
    assert ai_sdk(emulator, "status", batches[0])["status"] == "failed"
    assert emulator.bill().generated == 0
