"""No secret is ever written (P12): a canary key and canary presigned URLs go through every fault, and are in nothing.

Looked through: every byte of the output, Parquet decompressed with its metadata, stdout, stderr, and the command lines
of all processes that a run starts; for the canaries as they are, percent-encoded, in base64 and escaped as in JSON.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
from harness import Workbench

from batchvision.emulator import EmulatorOptions, start_in_thread
from batchvision.emulator.faults import ONLINE, POLLED, STREAMED, SUBMITTED, FaultKind

KEY = "xai-Canary/k3y+4711=wing"
#: What opens the images: a signature, a session token and a password.
OPENERS = ("5164cafe5164cafe0badc0de", "FwoGZXcanary/t0ken+aWQ", "pa55-canary-wing")
URL = (
    "https://reader:{}@bucket.invalid/shoes/{{}}.jpg?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20261120T000000Z"
    "&X-Amz-Security-Token={}&X-Amz-Signature={}"
).format(OPENERS[2], quote(OPENERS[1], safe=""), OPENERS[0])
CANARIES = (KEY, *OPENERS)

#: After these no other request can succeed: the run stops.
STOPPING = (
    "bad_key",
    "unauthorized",
    "forbidden",
    "credit",
    "credit_429",
    "payment_required",
    "model_not_found",
    "not_found",
)
MODES = {
    "online": (ONLINE, ["--lane", "online"]),
    "stream": (STREAMED, ["--lane", "online", "--set", "delivery.stream=true"]),
    "deferred": (SUBMITTED | POLLED, ["--lane", "deferred"]),
}

# ---------------------------------------------------------------------------------- looking


def _cores(canary: str) -> Iterator[str]:
    """What any base64 of text around the canary must hold."""
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + canary.encode()).decode().rstrip("=")
        yield encoded[4 if before else 0 : len(encoded) // 4 * 4]


def _pattern(canary: str) -> re.Pattern[bytes]:
    cores = {core.translate(table) for core in _cores(canary) for table in ({}, {43: "-", 47: "_"})}
    escaped = "".join(rf"(?:{re.escape(c)}|\\+{re.escape(c)}|\\+u{ord(c):04x}|%(?:25)*{ord(c):02x})" for c in canary)
    plain = [quote(canary, safe=""), *cores]
    return re.compile("|".join([*map(re.escape, plain), f"(?i:{escaped})"]).encode())


PATTERNS = {canary: _pattern(canary) for canary in CANARIES}


def found_in(content: bytes) -> list[str]:
    return [canary for canary, pattern in PATTERNS.items() if pattern.search(content)]


def parquet_text(path: Path) -> bytes:
    """All there is in a Parquet file, decompressed: cells, names, every metadata entry."""
    file = pq.ParquetFile(path)
    table = file.read()
    cells = [str(value) for column in table.columns for value in column.to_pylist()]
    blobs = [value for column in table.columns for value in column.to_pylist() if isinstance(value, bytes)]
    told = [str(file.metadata), str(file.schema), str(table.schema), repr(file.metadata.metadata)]
    groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
    chunks = [str(group.column(column)) for group in groups for column in range(group.num_columns)]
    return "\n".join([*cells, *told, *chunks]).encode("utf-8", "surrogatepass") + b"\n".join(blobs)


def assert_nothing_is_told(output: Path, *said: bytes | str) -> None:
    for text in said:
        content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        assert not found_in(content), f"{found_in(content)} in {content[:2000]!r}"
    for path in (path for path in output.rglob("*") if path.is_file()):
        assert not found_in(path.read_bytes()), f"{found_in(path.read_bytes())} in {path}"
        if path.suffix == ".parquet":
            assert not found_in(parquet_text(path)), f"{found_in(parquet_text(path))} in the cells of {path}"


@pytest.mark.parametrize("canary", CANARIES)
def test_what_is_looked_for_is_found_wherever_it_is_planted(canary: str, tmp_path: Path) -> None:
    forms = [canary, quote(canary, safe=""), json.dumps(canary).replace("/", "\\/").replace("+", "\\u002B")]
    forms += [base64.b64encode((before + canary + "&more").encode()).decode() for before in ("", "a", "ab", "user:")]
    for form in forms:
        assert found_in(f"...{form}...".encode()) == [canary]
    import pyarrow as pa

    pq.write_table(pa.table({"a": [forms[0]]}, metadata={"b": forms[1]}), tmp_path / "planted.parquet")
    with pytest.raises(AssertionError):
        assert_nothing_is_told(tmp_path)


# ---------------------------------------------------------------------------------- running

_EVERYTHING_LOGGED = (
    "import logging; logging.basicConfig(level=logging.DEBUG); from batchvision.cli import main; main()"
)


class Watched(Workbench):
    """Runs the command with everything logged, and collects the command lines of all it starts."""

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-X", "dev", "-W", "default", "-c", _EVERYTHING_LOGGED, "--debug", *map(str, arguments)]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "PYTHONASYNCIODEBUG": "1"}

    def told(self, *arguments: str | Path, codes: tuple[int, ...] = (0, 3)) -> tuple[str, str, bytes]:
        """stdout, stderr and command lines of ``run``."""
        process = self.start(*arguments)
        lines: set[bytes] = set()
        watching = threading.Thread(target=_watch, args=(process, lines))
        watching.start()
        try:
            out, err = process.communicate(timeout=100)
        finally:
            process.kill()
            watching.join()
        assert process.returncode in codes, f"exit {process.returncode}\n{out}\n{err}"
        assert lines
        return out, err, b"\n".join(lines)


def _watch(process: subprocess.Popen[str], lines: set[bytes]) -> None:
    while process.poll() is None:
        lines |= set(_command_lines(process.pid))
        time.sleep(0.02)


def _command_lines(pid: int) -> Iterator[bytes]:
    """Of a process and all it has started, as far as they have not ended meanwhile."""
    with suppress(OSError):
        for task in list(Path(f"/proc/{pid}/task").iterdir()):
            yield Path(f"/proc/{pid}/cmdline").read_bytes()
            for child in (task / "children").read_text().split():
                yield from _command_lines(int(child))


@pytest.fixture
def bench(tmp_path: Path) -> Watched:
    return Watched(tmp_path, key=KEY)


def presigned_rows(marks: list[str]) -> list[dict[str, str]]:
    """A row for each mark. The URL is kept, too, and the prompt reads it: what the user does with it is his affair."""
    return [
        {"sku": f"row-{number:03d}", "image": URL.format(number), "title": f"thing {number}", "hint": mark}
        for number, mark in enumerate(marks)
    ]


def presigned_job(bench: Workbench, marks: list[str], **sections: str) -> Path:
    sections.setdefault(
        "limits", 'request_timeout_seconds = 2\nmax_attempts = 2\nconcurrency = 16\nmax_failed = "100%"'
    )
    path = bench.job(bench.manifest(presigned_rows(marks)), **sections)
    path.write_text(path.read_text().replace('keep = ["title"]', 'keep = ["title", "image"]'))
    return path


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", MODES)
def test_no_fault_makes_a_run_tell_a_secret(bench: Watched, mode: str) -> None:
    """Each fault once, and each but limits and failing polls, which are never given up, whenever its row is asked."""
    stages, flags = MODES[mode]
    kinds = [str(kind) for kind in FaultKind if kind.stage in stages and kind not in STOPPING]
    assert len(kinds) > 30
    marks = [f"[[fault:{kind}:1]]" for kind in kinds]
    marks += [f"[[fault:{kind}]] [[echo:{kind}]]" for kind in kinds if not re.search("limited|poll", kind)]
    marks += [
        f"[[echo:{KEY}]]",
        f"[[echo:{URL.format('x')}]]",
        f"[[echo:{quote(KEY, safe='')}]]",
        f"{KEY} {OPENERS[0]}",
    ]
    job = presigned_job(bench, marks)
    with start_in_thread(EmulatorOptions(key=KEY, slow_seconds=0.5)) as emulator:
        said = bench.told(job, "--provider", "xai", "--base-url", f"{emulator.url}/xai/v1", *flags, codes=(0, 3))
        assert emulator.bill().requests >= len(marks), "the canaries were in play"
    assert_nothing_is_told(bench.folder / "out", *said)
    assert len(bench.table("results")) + len(bench.table("failures")) == len(marks)
    shown = [bench.call(*words, "out") for words in (("status",), ("show",), ("show", "--status", "failed"))]
    shown += [bench.call("show", "--format", form, "out") for form in ("csv", "jsonl")]
    assert all(done.returncode == 0 for done in shown)
    assert_nothing_is_told(bench.folder / "out", *(done.stdout + done.stderr for done in shown))


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *((kind, "online") for kind in STOPPING),
        *((kind, mode) for kind in ("bad_key", "credit") for mode in ("stream", "deferred")),
    ],
)
def test_no_stop_makes_a_run_tell_a_secret(bench: Watched, kind: str, mode: str) -> None:
    job = presigned_job(bench, [f"[[fault:{kind}]] {KEY}"] * 3)
    with start_in_thread(EmulatorOptions(key=KEY)) as emulator:
        where = ("--provider", "xai", "--base-url", f"{emulator.url}/xai/v1")
        said = bench.told(job, *where, *MODES[mode][1], codes=(3, 4, 5))
    assert_nothing_is_told(bench.folder / "out", *said)


@pytest.mark.parametrize(("key", "code"), [(KEY, 0), (f"{KEY}-mistyped", 5)])
def test_a_check_tells_no_secret(bench: Watched, key: str, code: int) -> None:
    bench.key = key
    job = presigned_job(bench, [KEY])
    with start_in_thread(EmulatorOptions(key=KEY)) as emulator:
        done = bench.call("check", job, "--provider", "xai", "--base-url", f"{emulator.url}/xai/v1")
    assert done.returncode == code
    assert_nothing_is_told(bench.folder / "out", done.stdout + done.stderr)


def test_a_journal_that_a_crash_leaves_holds_no_secret(bench: Watched) -> None:
    job = presigned_job(bench, [KEY] * 20)
    with start_in_thread(EmulatorOptions(key=KEY, deferred_seconds=30.0)) as emulator:
        where = ("--provider", "xai", "--base-url", f"{emulator.url}/xai/v1", "--lane", "deferred")
        process = bench.start(job, *where)
        journal = bench.folder / "out" / ".batchvision" / "0of1"
        until = time.monotonic() + 60
        while sum(path.read_bytes().count(b'"kind":"ticket"') for path in journal.glob("journal-*.log")) < 20:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        out, err = process.communicate(timeout=30)
        segments = [path for path in journal.glob("*") if path.name.startswith("journal")]
        assert segments and all(path.stat().st_mode & 0o077 == 0 for path in segments)
        assert_nothing_is_told(bench.folder / "out", out, err)
        emulator.configure(deferred_seconds=0.1)
    assert_nothing_is_told(bench.folder / "out")


# ---------------------------------------------------------------------------------- a provider that repeats everything


class Parrot(BaseHTTPRequestHandler):
    """Says back the key and the image's URL, in every place and form, with the status that the prompt names."""

    protocol_version = "HTTP/1.1"
    heard: list[str]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        said = self.headers["authorization"].removeprefix("Bearer ")
        self.server.heard.append(said)  # type: ignore[attr-defined]
        urls = re.findall(r"https://[^\"]*", body)
        status = int(re.search(r"status=(\d+)", body)[1])  # type: ignore[index]
        words = " ".join(form for text in (said, *urls) for form in forms_of(text))
        content: dict[str, object] = {"error": {"message": f"no: {words}", "code": words, "metadata": {"raw": words}}}
        if status == 200:
            message = {"role": "assistant", "content": words}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            content = {"id": words, "model": words, "system_fingerprint": words, "choices": [choice], "usage": usage}
        reply = json.dumps(content).encode()
        self.send_response(status, f"no {said}")
        for name in ("x-request-id", "x-ratelimit-said", "location", "retry-after"):
            self.send_header(name, words if name != "retry-after" else "0")
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def do_GET(self) -> None:
        self.rfile = __import__("io").BytesIO(b"status=401")
        self.headers["content-length"] = "10"
        self.do_POST()

    def log_message(self, *_: object) -> None:
        pass


def forms_of(text: str) -> list[str]:
    """``text`` as servers, proxies and their logs write it."""
    escaped = "".join(f"\\u{ord(c):04x}" if not c.isalnum() else c for c in text)
    encoded = [base64.b64encode((before + text).encode()).decode() for before in ("", "u", "user:")]
    return [
        text,
        quote(text, safe=""),
        quote(quote(text, safe=""), safe=""),
        escaped,
        text.replace("/", "\\/"),
        *encoded,
    ]


@pytest.fixture
def parrot() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Parrot)
    server.heard = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 404, 413, 422, 500, 503])
def test_a_provider_that_repeats_the_key_and_the_urls_makes_nobody_else_tell_them(
    bench: Watched, parrot: ThreadingHTTPServer, status: int
) -> None:
    job = presigned_job(bench, [f"status={status}"] * 3, limits="max_attempts = 1")
    where = ("--provider", "xai", "--base-url", f"http://127.0.0.1:{parrot.server_port}/v1")
    said = bench.told(job, *where, codes=(0, 3, 4, 5))
    assert KEY in parrot.heard  # type: ignore[attr-defined]
    assert_nothing_is_told(bench.folder / "out", *said)
    if status == 200:
        (answer, *_) = bench.table("results")
        assert "***" in answer["output_text"] and "shoes/0.jpg" in answer["output_text"]


def test_a_check_of_a_provider_that_repeats_the_key_tells_nothing(bench: Watched, parrot: ThreadingHTTPServer) -> None:
    """Whatever is asked of it with GET is refused with 401."""
    job = presigned_job(bench, ["status=200"])
    done = bench.call("check", job, "--provider", "xai", "--base-url", f"http://127.0.0.1:{parrot.server_port}/v1")
    assert done.returncode == 5
    assert KEY in parrot.heard  # type: ignore[attr-defined]
    assert_nothing_is_told(bench.folder / "out", done.stdout + done.stderr)


# ---------------------------------------------------------------------------------- ids, cells, settings


def test_a_row_whose_id_holds_the_key_or_is_a_signed_url_is_known_again(bench: Watched) -> None:
    rows = [*presigned_rows(["", ""]), {**presigned_rows([""])[0], "sku": f"id {KEY} id"}]
    rows[2]["title"] = "another thing"
    rows[0]["sku"] = rows[0]["image"]
    job = bench.job(bench.manifest(rows))
    with start_in_thread(EmulatorOptions(key=KEY)) as emulator:
        where = ("--provider", "xai", "--base-url", f"{emulator.url}/xai/v1")
        said = bench.told(job, *where, codes=(0,))
        assert {row["row_id"] for row in bench.table("results")} >= {"row-001", "id *** id"}
        before = bench.fingerprint()
        signed_anew = [{name: cell.replace(OPENERS[0], "0ther" * 5) for name, cell in row.items()} for row in rows]
        bench.manifest(signed_anew)
        again = bench.told(job, *where, codes=(0,))
        assert emulator.bill().requests == 3
    assert bench.fingerprint() == before
    assert_nothing_is_told(bench.folder / "out", *said, *again)


def test_the_key_comes_from_a_command_and_is_in_no_command_line(bench: Watched) -> None:
    (bench.folder / "vault").write_text(KEY + "\n")
    job = presigned_job(bench, [""] * 3, provider='api_key_command = ["cat", "vault"]')
    with start_in_thread(EmulatorOptions(key=KEY)) as emulator:
        said = bench.told(job, "--provider", "xai", "--base-url", f"{emulator.url}/xai/v1", codes=(0,))
        shown = bench.call("config", "show", job)
    assert_nothing_is_told(bench.folder / "out", *said, shown.stdout + shown.stderr)


@pytest.mark.parametrize("given", ["--api-key", "--key", "--set"])
def test_the_key_cannot_be_given_as_a_flag(bench: Watched, given: str) -> None:
    job = presigned_job(bench, [""])
    value = f"provider.api_key={KEY}" if given == "--set" else KEY
    done = bench.call("run", job, given, value)
    assert done.returncode == 2
    assert not found_in((done.stdout + done.stderr).encode())


def test_plain_http_to_another_machine_wants_a_word_from_the_user(bench: Watched) -> None:
    job = presigned_job(bench, [""])
    where = ("--provider", "xai", "--base-url", "http://192.0.2.1:9/v1", "--set", "limits.max_runtime_seconds=0.2")
    refused = bench.call("run", job, *where)
    assert refused.returncode == 2
    assert "allow_plain_http" in refused.stderr
    allowed = bench.call("run", job, *where, "--set", "provider.allow_plain_http=true", "--drain-timeout", "0")
    assert allowed.returncode == 4, allowed.stderr
    assert_nothing_is_told(bench.folder / "out", refused.stderr, allowed.stdout + allowed.stderr)


@pytest.mark.parametrize(("umask", "files"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_tables_have_the_mode_that_the_umask_leaves(bench: Watched, umask: int, files: int) -> None:
    job = presigned_job(bench, ["", "[[fault:rejected]]"])
    with start_in_thread(EmulatorOptions(key=KEY)) as emulator:
        command = bench.command("run", job, "--provider", "xai", "--base-url", f"{emulator.url}/xai/v1")
        before = os.umask(umask)
        try:
            subprocess.run(command, cwd=bench.folder, env=bench.environment(), capture_output=True, check=False)
        finally:
            os.umask(before)
    written = [
        path for path in (bench.folder / "out").rglob("*") if path.is_file() and ".batchvision" not in path.parts
    ]
    assert len(written) >= 5
    assert {path.stat().st_mode & 0o777 for path in written} == {files}
