"""The real command over hostile images, paths and URLs: what is forbidden never reaches the provider, in no byte."""

from __future__ import annotations

import os
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import hostile_images
import image_checks
import pytest
from harness import Workbench
from hostile_images import Fate, drawn, encoded
from image_checks import sent_as

from batchvision.emulator import EmulatorOptions, start_in_thread


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Pillow warns about the files it judges."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_every_picture_is_sent_as_it_must_be_or_fails_its_row(tmp_path: Path) -> None:
    own = hostile_images.own_files()
    files = {name: (content, hostile_images.fate_of(content)) for name, content in own.items()}
    assert sum(fate is Fate.UNCHANGED for _, fate in files.values()) >= 5
    assert sum(fate is Fate.CONVERTED for _, fate in files.values()) >= 20
    for name, content in hostile_images.damaged(own, seed=7, each=2):
        files[name] = (content, hostile_images.fate_when_damaged(content))
    files |= {name: (content, Fate.FAILED) for name, content in hostile_images.impostors().items()}
    proof = image_checks.prove(tmp_path, files)
    assert not proof.wrong
    assert proof.exit_code == 3  # some rows failed, and the run went on
    assert sum(proof.fates.values()) == len(files)
    assert set(proof.kinds) <= {"image_unreadable", "image_too_large", "request_rejected"}


def test_bombs_fail_their_rows_or_are_tamed_within_the_memory_there_is(tmp_path: Path) -> None:
    files = {name: (content, Fate.ANY) for name, content in hostile_images.bombs().items()}
    files["plain.jpg"] = (hostile_images.encoded(hostile_images.drawn(), "JPEG"), Fate.UNCHANGED)
    proof = image_checks.prove(tmp_path, files)
    assert not proof.wrong
    assert proof.kinds["image_too_large"] >= 5
    assert 0 < proof.peak_mib < 700


# ---------------------------------------------------------------------------------- where an image may come from

#: Paths and URLs, one a line; {outside}: the folder with the secret, {port}: of a server on loopback that has it too.
HOSTILE = (Path(__file__).parent / "hostile_sources.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("mode", ["inline", "auto", "url"])
def test_nothing_of_a_forbidden_source_reaches_the_provider(tmp_path: Path, mode: str) -> None:
    """The secret is a whole PNG: whoever reads it could send it. A decoy shows that images are sent at all."""
    bench, secret = Workbench(tmp_path), encoded(drawn(seed=1), "PNG")
    with (
        images_at({"/secret.png": secret}) as server,
        start_in_thread(EmulatorOptions(fail_image_urls=True)) as provider,
    ):
        sources = [each.format(outside=tmp_path, port=server.server_port) for each in HOSTILE]
        with traps(tmp_path, secret):
            rows = [{"sku": f"row-{number}", "image": source} for number, source in enumerate(sources)]
            decoy = encoded(drawn(seed=2), "PNG")
            (tmp_path / "photos" / "decoy.png").write_bytes(decoy)
            job = image_job(bench, [*rows, {"sku": "decoy", "image": "decoy.png"}], mode, root="photos")
            summary = bench.run(job, "--base-url", provider.url + "/xai/v1", expect=3)
        entries = provider.bill().entries
    assert len(sources) >= 120
    assert [image_checks.sku_of(entry) for entry in entries] == ["decoy"]
    assert entries[0].content_hash == sent_as("decoy", decoy)
    assert server.asked == []
    failed = {row["row_id"]: row for row in bench.table("failures")}
    assert set(failed) == {row["sku"] for row in rows}
    assert summary["rows_failed"] == len(rows)
    kinds = {row["error_kind"] for row in failed.values()}
    assert kinds == {"image_forbidden", "image_unreadable", "image_unreachable"}
    for row in rows:
        assert row["image"].startswith("data:") or failed[row["sku"]]["error_message"]


# ---------------------------------------------------------------------------------- URLs


def test_auto_hands_urls_over_and_inlines_what_the_provider_cannot_download(tmp_path: Path) -> None:
    """Each of two images is downloaded once, though ten rows name them; the keys are those of the URLs."""
    bench = Workbench(tmp_path)
    pictures = {"/a.jpg": encoded(drawn(seed=1), "JPEG"), "/b.png": encoded(drawn(seed=2), "PNG")}
    marker = " [[fault:image_download_failed]]"  # for as long as an image is a URL
    with images_at(pictures) as server, start_in_thread(EmulatorOptions()) as provider:
        paths = [list(pictures)[number % 2] for number in range(10)]
        rows = [
            {"sku": f"row-{number}", "image": f"http://127.0.0.1:{server.server_port}{path}?sig=signed-{number}"}
            for number, path in enumerate(paths)
        ]
        job = image_job(bench, rows, "auto", images="allow_private_hosts = true", more_words=marker)
        bench.run(job, "--base-url", provider.url + "/xai/v1")
        entries = provider.bill().entries
    assert sorted(path.partition("?")[0] for path in server.asked) == ["/a.jpg", "/b.png"]
    for row, path in zip(rows, paths, strict=True):
        mine = [entry for entry in entries if image_checks.sku_of(entry) == row["sku"]]
        assert [entry.status for entry in mine] == [400, 400, 200]
        assert mine[-1].content_hash == sent_as(row["sku"], pictures[path], marker)
    results = {row["row_id"]: row for row in bench.table("results")}
    assert len(results) == 10
    assert all(row["image_sha256"][0] for row in results.values())
    assert "signed-" not in str(results)


def test_inline_downloads_everything_and_url_nothing(tmp_path: Path) -> None:
    pictures = {f"/{number}.webp": encoded(drawn(seed=number), "WEBP") for number in range(5)}
    for mode, statuses in (("inline", {200: 5}), ("url", {400: 10})):
        bench = Workbench(tmp_path / mode)
        bench.folder.mkdir()
        with images_at(pictures) as server, start_in_thread(EmulatorOptions(fail_image_urls=True)) as provider:
            rows = [
                {"sku": path.strip("/"), "image": f"http://127.0.0.1:{server.server_port}{path}"} for path in pictures
            ]
            job = image_job(bench, rows, mode, images="allow_private_hosts = true")
            bench.run(job, "--base-url", provider.url + "/xai/v1", expect=0 if mode == "inline" else 3)
            assert provider.bill().by_status == statuses
        assert sorted(server.asked) == (sorted(pictures) if mode == "inline" else [])


# ---------------------------------------------------------------------------------- what these tests share


class ImageServer(ThreadingHTTPServer):
    """Serves images on loopback and remembers what it was asked for."""

    def __init__(self, pictures: dict[str, bytes]) -> None:
        self.pictures = pictures
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), _Picture)


class _Picture(BaseHTTPRequestHandler):
    server: ImageServer

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        content = self.server.pictures[self.path.partition("?")[0]]
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def images_at(pictures: dict[str, bytes]) -> Iterator[ImageServer]:
    with ImageServer(pictures) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def traps(folder: Path, secret: bytes) -> Iterator[None]:
    """A secret beside the root, and in the root every kind of way that leads to it or to something that is no file."""
    (folder / "secret.png").write_bytes(secret)
    photos = folder / "photos"
    (photos / "inside").mkdir(parents=True)
    os.mkfifo(photos / "fifo.png")
    os.mkfifo(folder / "fifo.png")
    for name, target in {
        "link-to-file.png": "../secret.png",
        "link-to-link.png": "link-to-file.png",
        "link-to-folder": "..",
        "link-to-root": "/",
        "link-to-proc": "/proc",
        "link-to-descriptor.png": "/proc/self/fd/0",
        "link-in-a-circle.png": "link-in-a-circle.png",
        "link-to-zero.png": "/dev/zero",
        "link-to-fifo.png": "../fifo.png",
    }.items():
        (photos / name).symlink_to(target)
    with socket.socket(socket.AF_UNIX) as listener:
        before = Path.cwd()
        os.chdir(photos)  # a socket's path may be 107 bytes long
        try:
            listener.bind("socket.png")
        finally:
            os.chdir(before)
        yield


def image_job(
    bench: Workbench, rows: list[dict[str, str]], mode: str, images: str = "", root: str = "", more_words: str = ""
) -> Path:
    path = bench.folder / "job.toml"
    inside = f', root = "{root}"' if root else ""
    path.write_text(
        f"""
        name = "hostile"
        manifest = {{ path = "{bench.manifest(rows).name}", id = "sku"{inside} }}
        prompt = {{ user = "{image_checks.WORDS} [[echo:{{sku}}]]{more_words}" }}
        provider = {{ name = "xai", model = "{image_checks.MODEL}", image_mode = "{mode}" }}
        limits = {{ concurrency = 8 }}
        output = {{ path = "out" }}
        images = {{ {images} }}
        """,
        encoding="utf-8",
    )
    return path
