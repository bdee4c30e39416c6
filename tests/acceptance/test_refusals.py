"""The command where a provider, or a gateway in front of it, refuses: exit codes, requests, and what is told."""

from __future__ import annotations

import json
import signal

import pytest
from fake_provider import Reply
from harness import Workbench
from scripted_server import scripted
from test_main_job import wait_for

PAGE = b"<!DOCTYPE html><html><head><title>Attention Required!</title></head><body>blocked</body></html>"
HTML = {"content-type": "text/html"}


@pytest.fixture
def bench(tmp_path):
    return Workbench(tmp_path)


def job_at(bench: Workbench, url: str, rows: int, key: str = "", **sections: str):
    """A job over so many rows, whose prompts name them, sent to a server of OpenAI's kind."""
    listed = [{**row, "hint": f"[[{row['sku']}]]"} for row in bench.rows(rows)]
    provider = f'name = "openai"\nmodel = "m"\nbase_url = "{url}"\n{key}'
    path = bench.job(bench.manifest(listed), **sections)
    text = path.read_text().replace('name = "xai"\nmodel = "grok-4.3"', provider)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "reply",
    [
        Reply(403, PAGE, HTML),
        Reply(404, PAGE, HTML),
        Reply(405, PAGE, HTML),
        Reply(403, {"message": "blocked"}),
        Reply(302, b"", {"location": "/blocked"}),
    ],
    ids=["403", "404", "405", "json", "redirect"],
)
def test_one_row_that_a_gateway_refuses_fails_alone_run_after_run(bench, reply):
    with scripted(lambda heard: reply if heard.row == "row-00004" else None) as server:
        job = job_at(bench, server.url, 10, limits="concurrency = 1")
        for _ in range(2):
            summary = bench.run(job, expect=3)
            assert (summary["rows_completed"], summary["rows_failed"], summary["rows_pending"]) == (9, 1, 0)
        assert [row["row_id"] for row in bench.table("failures")] == ["row-00004"]
        assert len(server.heard) == 11


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (
            Reply(401, {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}}),
            "authentication_failed",
        ),
        (
            Reply(404, {"error": {"message": "The model 'm' does not exist", "code": "model_not_found"}}),
            "model_not_found",
        ),
    ],
    ids=["key", "model"],
)
def test_a_wrong_key_or_model_costs_one_request(bench, reply, reason):
    with scripted(lambda heard: reply) as server:
        summary = bench.run(job_at(bench, server.url, 10), expect=5)
        assert (len(server.heard), summary["stop_reason"], summary["rows_pending"]) == (1, reason, 10)


def test_a_refused_key_names_the_file_or_the_command_that_it_comes_from(bench):
    (bench.folder / "key.txt").write_text("a-key-in-a-file")
    refused = Reply(401, {"error": {"message": "Incorrect API key provided"}})
    with scripted(lambda heard: refused) as server:
        for key, named in (
            ('api_key_file = "key.txt"', "key.txt (provider.api_key_file)"),
            ('api_key_command = "echo never-right"', "provider.api_key_command"),
            ('api_key_env = "XAI_API_KEY"', "check XAI_API_KEY;"),
        ):
            done = bench.call("run", job_at(bench, server.url, 3, key))
            assert done.returncode == 5
            assert named in done.stderr
            assert "OPENAI_API_KEY" not in done.stderr


# ---------------------------------------------------------------------------------- faults that stay


def test_a_model_without_eyes_ends_the_run_soon_with_the_servers_words_under_any_status(bench):
    words = "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj"
    blind = Reply(500, {"error": {"code": 500, "type": "server_error", "message": words}})
    with scripted(lambda heard: blind) as server:
        job = job_at(bench, server.url, 60)
        done = bench.call("run", job)
        assert (done.returncode, len(server.heard)) == (5, 2)
        assert "image input is not supported" in done.stderr
        assert bench.table("failures") == []
        server.script = lambda heard: None
        bench.run(job)  # the lock is free


@pytest.mark.parametrize(
    ("reply", "code", "words"),
    [
        (Reply(429, {"error": {"message": "Quota exceeded, limit: 0"}}), 5, "limit: 0"),
        (
            Reply(
                429,
                {"error": {"message": "on requests per day (RPD): Limit 1000, Used 1000"}},
                {"retry-after": "22346"},
            ),
            4,
            "requests per day",
        ),
    ],
)
def test_a_quota_that_is_0_or_whole_again_in_hours_ends_the_run_and_says_so(bench, reply, code, words):
    with scripted(lambda heard: reply if heard.number > 2 else None) as server:
        done = bench.call("run", job_at(bench, server.url, 8))
        assert done.returncode == code
        assert words in done.stderr
        if code == 4:
            assert " UTC" in done.stderr


def test_status_and_the_log_tell_what_a_run_waits_for_and_until_when(bench):
    slow = Reply(429, {"error": {"message": "slow down, please"}}, {"retry-after": "3000"})
    with scripted(lambda heard: slow if heard.number > 2 else None) as server:
        job = job_at(bench, server.url, 8, limits="concurrency = 1")
        process = bench.start(job)
        line = process.stderr.readline()
        while "slow down, please" not in line:
            assert line, "the run ended without a word"
            line = process.stderr.readline()
        assert "nothing is sent until " in line
        assert " UTC" in line
        wait_for(lambda: "waiting   nothing is sent until " in bench.call("status", "out").stdout, process)
        assert "slow down, please" in bench.call("status", "out").stdout
        (told,) = json.loads(bench.call("status", "out", "--json").stdout)["waiting"]
        assert told["until"]
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        assert json.loads(out)["exit_code"] == process.returncode == 143
        assert "waiting" not in bench.call("status", "out").stdout
