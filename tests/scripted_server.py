"""A chat server on a loopback socket that answers as a test tells it to, in a thread beside the test."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import fake_provider
from fake_provider import Reply


@dataclass(frozen=True)
class Heard:
    """One POST: its number from 1, the row between ``[[`` and ``]]``, its headers and its size."""

    number: int
    row: str
    headers: Mapping[str, str]
    size_bytes: int
    at: float = field(default_factory=time.monotonic)


class ScriptedServer:
    """``script`` gives the reply to a POST; None: a proper answer, after ``latency_seconds``."""

    def __init__(self, script: Callable[[Heard], Reply | None], latency_seconds: float = 0.0) -> None:
        self.heard: list[Heard] = []
        self.script = script
        self.latency_seconds = latency_seconds
        self.url = ""
        self._lock = threading.Lock()

    def answer(self, headers: Mapping[str, str], body: bytes) -> Reply:
        row = body.decode("utf-8", "replace").partition("[[")[2].partition("]]")[0]
        with self._lock:
            heard = Heard(len(self.heard) + 1, row, {name.lower(): value for name, value in headers.items()}, len(body))
            self.heard.append(heard)
        time.sleep(self.latency_seconds)
        return self.script(heard) or Reply(200, fake_provider.chat(f"an answer for {row}"))


@contextmanager
def scripted(
    script: Callable[[Heard], Reply | None] = lambda heard: None, latency_seconds: float = 0.0
) -> Iterator[ScriptedServer]:
    """The server, as long as the block lasts; ``server.url`` is the base URL for a job."""
    told = ScriptedServer(script, latency_seconds)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            reply = told.answer(dict(self.headers), body)
            content = reply.document if isinstance(reply.document, bytes) else json.dumps(reply.document).encode()
            headers = {"content-type": "application/json", **reply.headers, "content-length": str(len(content))}
            self.send_response(reply.status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 512

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that was killed or has stopped waiting is part of the tests

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
