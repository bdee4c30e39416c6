"""Messages about runs: a ping at start and end, a chat message, and no run that changes because one is lost."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from notice_receiver import Receiver, listening
from PIL import Image

from batchvision.checkpoint import OutputLock
from batchvision.commands.run import run
from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread
from batchvision.errors import JobInvalid, OutputHeld
from batchvision.http import notices
from batchvision.job import Job

SECRET_PATH = "T0123/B4567/verysecretpath"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setattr(notices, "PAUSE_SECONDS", 0.0)
    with listening() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions(latency_seconds=(0.2, 0.3))) as running:
        yield running


@pytest.fixture
def job_with(tmp_path: Path, emulator: RunningEmulator) -> Any:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")

    def made(titles: tuple[str, ...] = ("shoe",), **notify: Any) -> Job:
        lines = [f"r{number},red.png,{title}" for number, title in enumerate(titles)]
        (tmp_path / "photos.csv").write_text("\n".join(["id,image,title", *lines]) + "\n")
        settings = {
            "name": "shoes",
            "manifest": {"path": "photos.csv", "id": "id"},
            "prompt": {"user": "What is {title}?"},
            "provider": {"name": "emulator", "model": "m", "base_url": f"{emulator.url}/v1"},
            "output": {"path": "out"},
            "notify": notify,
        }
        return Job.from_mapping(settings, tmp_path)

    return made


def test_a_good_run_pings_start_and_end_with_its_summary(job_with: Any, receiver: Receiver) -> None:
    summary = run(job_with(ping_url=f"{receiver.url}/ping/abc"), environ={})
    assert summary.exit_code == 0
    assert receiver.paths == ["/ping/abc/start", "/ping/abc"]
    document = json.loads(receiver.received[1][2])
    assert (document["rows_completed"], document["exit_code"], document["run_id"]) == (1, 0, summary.run_id)


def test_a_run_with_failed_rows_pings_fail(job_with: Any, receiver: Receiver) -> None:
    assert run(job_with(("shoe", "bag [[fault:refusal]]"), ping_url=f"{receiver.url}/p"), environ={}).exit_code == 3
    assert receiver.paths == ["/p/start", "/p/fail"]


def test_a_run_that_is_refused_pings_fail_with_the_reason(job_with: Any, receiver: Receiver, tmp_path: Path) -> None:
    job = job_with(ping_url=f"{receiver.url}/p", url=f"{receiver.url}/chat", template="{words}")
    (tmp_path / "photos.csv").write_text("id,title\nr1,shoe\n")
    with pytest.raises(JobInvalid):
        run(job, environ={})
    assert receiver.paths == ["/p/fail", "/chat"]
    assert "has no column 'image'" in json.loads(receiver.received[0][2])["message"]
    assert receiver.received[1][2].decode().startswith("shoes could not begin (exit 2): ")


def test_a_second_start_of_a_held_output_sends_nothing(job_with: Any, receiver: Receiver) -> None:
    job = job_with(ping_url=f"{receiver.url}/p", url=f"{receiver.url}/chat")
    with OutputLock.take(job.output_path), pytest.raises(OutputHeld):
        run(job, environ={})
    assert receiver.received == []


def test_the_default_message_is_what_slack_takes(job_with: Any, receiver: Receiver) -> None:
    run(job_with(("shoe", "bag [[fault:refusal]]"), url=f"{receiver.url}/hook"), environ={})
    ((path, content_type, body),) = receiver.received
    assert (path, content_type) == ("/hook", "application/json")
    words = json.loads(body)["text"]
    assert words.startswith("shoes: 1 of 2 rows have answers, 1 failed; this run cost $")
    assert words.endswith("(exit 3)")


def test_a_table_as_template_is_sent_as_json_and_values_stay_text(job_with: Any, receiver: Receiver) -> None:
    template = {"title": "{job}", "blocks": [{"text": '"{rows_completed}"'}], "priority": 3}
    run(job_with(url=f"{receiver.url}/hook", template=template), environ={})
    assert json.loads(receiver.received[0][2]) == {"title": "shoes", "blocks": [{"text": '"1"'}], "priority": 3}


def test_a_text_as_template_is_sent_as_text(job_with: Any, receiver: Receiver) -> None:
    run(job_with(url=f"{receiver.url}/topic", template="{job} {exit_code}{stop_reason}"), environ={})
    assert receiver.received == [("/topic", "text/plain; charset=utf-8", b"shoes 0")]


def test_only_problems_leaves_good_runs_out(job_with: Any, receiver: Receiver) -> None:
    run(job_with(url=f"{receiver.url}/hook", only_problems=True), environ={})
    assert receiver.received == []


def test_a_message_is_tried_again_after_an_error_of_the_server(job_with: Any, receiver: Receiver) -> None:
    receiver.answers = [503, 500, 200]
    run(job_with(url=f"{receiver.url}/hook"), environ={})
    assert receiver.paths == ["/hook"] * 3


@pytest.mark.parametrize("answers", [[404], [500]])
def test_a_message_that_is_lost_is_a_warning_without_the_secret_path(
    job_with: Any, receiver: Receiver, answers: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = answers
    environ = {"HOOK": f"{receiver.url}/{SECRET_PATH}"}
    with caplog.at_level(logging.WARNING):
        summary = run(job_with(url="env:HOOK"), environ=environ)
    assert summary.exit_code == 0
    (warning,) = [record.getMessage() for record in caplog.records if "notify" in record.getMessage()]
    assert f"127.0.0.1 answered {answers[0]}" in warning
    assert SECRET_PATH not in caplog.text + json.dumps(dict(summary.config), default=str)


def test_a_service_that_is_down_changes_no_run(job_with: Any, receiver: Receiver) -> None:
    summary = run(job_with(ping_url="http://127.0.0.1:9/p", url="http://127.0.0.1:9/h"), environ={})
    assert (summary.exit_code, summary.rows_completed) == (0, 1)


def test_an_address_in_the_job_file_is_masked_in_the_summary(job_with: Any, receiver: Receiver) -> None:
    summary = run(job_with(url=f"{receiver.url}/{SECRET_PATH}"), environ={})
    assert SECRET_PATH not in json.dumps(dict(summary.config), default=str)


@pytest.mark.parametrize(
    ("notify", "message"),
    [
        ({"url": "slack"}, "begins with https://"),
        ({"url": "https://x.example", "template": "{rows}"}, r"\{rows\} is none of"),
        ({"url": "https://x.example", "template": {"a": ["{job.__class__}"]}}, "is none of"),
        ({"url": "https://x.example", "template": "{job!r}"}, "is none of"),
    ],
)
def test_a_wrong_section_is_a_problem_of_the_job(job_with: Any, notify: dict[str, Any], message: str) -> None:
    with pytest.raises(JobInvalid, match=message):
        job_with(**notify)


def test_a_variable_that_is_not_set_stops_the_run_before_anything_is_sent(job_with: Any, receiver: Receiver) -> None:
    with pytest.raises(JobInvalid, match=r"notify.url is 'env:HOOK', and HOOK is not set"):
        run(job_with(url="env:HOOK"), environ={})
