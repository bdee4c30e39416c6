"""An S3 server (moto) in a process of its own, on loopback. It takes conditional writes, as S3 does.

The process ends with its owner: its stdin is a pipe from it.
"""

from __future__ import annotations

import http.client
import io
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image

BUCKET = "bucket"
_SERVER = """
import sys
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""
_SIGNED = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"


@dataclass(frozen=True)
class S3Server:
    port: int

    @property
    def environ(self) -> Mapping[str, str]:
        """The usual variables of a client."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }

    def make_bucket(self, name: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("PUT", f"/{name}", headers={"Authorization": _SIGNED, "Content-Length": "0"})
        assert connection.getresponse().status == 200
        connection.close()


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server with the bucket ``bucket``."""
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            server = S3Server(int(process.stdout.readline()))
            server.make_bucket(BUCKET)
            yield server
        finally:
            process.stdin.close()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def picture(number: int = 0) -> bytes:
    """A PNG to put into a bucket. Each number makes another image."""
    target = io.BytesIO()
    Image.new("RGB", (40 + number, 30), "red").save(target, "PNG")
    return target.getvalue()
