"""A key that expires during a run: its command is asked again, once after each 401 that follows answers."""

from __future__ import annotations

import json
import stat

import pytest
from fake_provider import Reply
from harness import Workbench
from scripted_server import ScriptedServer, scripted
from test_refusals import job_at

EXPIRED = Reply(401, {"error": {"code": 401, "message": "Request had invalid authentication credentials."}})


@pytest.fixture
def bench(tmp_path):
    return Workbench(tmp_path)


def command(bench: Workbench, lines: str) -> str:
    """A command that counts its calls in ``calls`` and then does ``lines``; ``$n`` is the number of the call."""
    path = bench.folder / "key.sh"
    path.write_text(
        f"#!/bin/sh\necho call >> '{bench.folder}/calls'\nn=$(wc -l < '{bench.folder}/calls' | tr -d ' ')\n{lines}\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return f'api_key_command = ["{path}"]'


def calls(bench: Workbench) -> int:
    return len((bench.folder / "calls").read_text().splitlines())


def expiring(server: ScriptedServer, good_for: int) -> None:
    """Each key is good for so many requests, beginning with its first."""
    uses: dict[str, int] = {}

    def script(heard):
        key = heard.headers.get("api-key") or heard.headers["authorization"].removeprefix("Bearer ")
        uses[key] = uses.get(key, 0) + 1
        return None if key.startswith("secret-token-") and uses[key] <= good_for else EXPIRED

    server.script = script


@pytest.mark.parametrize(("concurrency", "header"), [(1, ""), (8, ""), (8, 'api_key_header = "api-key"')])
def test_a_run_outlives_its_keys_and_writes_none_of_them(bench, concurrency, header):
    with scripted() as server:
        expiring(server, 15)
        key = command(bench, 'echo "secret-token-number-$n"') + f"\n{header}"
        job = job_at(bench, server.url, 40, key, limits=f"concurrency = {concurrency}\nmax_attempts = 1")
        done = bench.call("run", job, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["rows_completed"] == 40
        assert calls(bench) == 3
        assert "the key has expired: going on with a new one" in done.stderr
        written = b"".join(path.read_bytes() for path in (bench.folder / "out").rglob("*") if path.is_file())
        for text in (done.stdout.encode(), done.stderr.encode(), written):
            assert b"secret-token" not in text
        assert all(row["state"] in ("ok", "retried") for row in bench.table("attempts"))


@pytest.mark.parametrize(
    ("lines", "called", "words"),
    [
        ('echo "secret-token-always"', 2, "printed the same key"),
        ('[ "$n" = 1 ] && echo secret-token-once', 2, "ended with exit code 1"),
        ('[ "$n" = 1 ] && echo secret-token-first || echo never-right-$n', 2, "is refused too"),
    ],
    ids=["same", "no key", "refused too"],
)
def test_where_no_new_key_is_to_be_had_the_run_stops_and_names_the_command(bench, lines, called, words):
    with scripted() as server:
        expiring(server, 10)
        job = job_at(bench, server.url, 40, command(bench, lines), limits="concurrency = 4")
        done = bench.call("run", job, "--json")
        summary = json.loads(done.stdout)
        assert (done.returncode, summary["stop_reason"]) == (5, "authentication_failed")
        assert (summary["rows_completed"], summary["rows_failed"], summary["rows_pending"]) == (10, 0, 30)
        assert calls(bench) == called
        assert len(server.heard) <= 10 + 3 * 4
        assert words in done.stderr
        assert "provider.api_key_command" in done.stderr
        assert "OPENAI_API_KEY" not in done.stderr


def test_a_first_answer_of_401_does_not_ask_the_command_again(bench):
    with scripted(lambda heard: EXPIRED) as server:
        summary = bench.run(job_at(bench, server.url, 10, command(bench, "echo never-right")), expect=5)
        assert (calls(bench), len(server.heard), summary["rows_pending"]) == (1, 1, 10)


def test_a_key_of_the_environment_that_is_revoked_stops_the_run_after_five_rows(bench):
    with scripted(lambda heard: EXPIRED if heard.number > 10 else None) as server:
        summary = bench.run(job_at(bench, server.url, 40, limits="concurrency = 1"), expect=5)
        assert (summary["rows_completed"], summary["rows_failed"], summary["rows_pending"]) == (10, 0, 30)
        assert len(server.heard) == 15
