"""The command where a provider, or a gateway in front of it, refuses: exit codes, requests, and what is told."""

from __future__ import annotations

import pytest
from fake_provider import Reply
from harness import Workbench
from scripted_server import scripted

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
