"""Tables and images as people have them, from the command line to the provider."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import Workbench
from PIL import Image

from batchvision.emulator import EmulatorOptions, start_in_thread


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, image_format, **options)
    return target.getvalue()


def run_over(tmp_path: Path, files: dict[str, bytes], images: str = "") -> tuple[Workbench, str, dict[str, int]]:
    """A job over ``files``: the bench, what the run said, and the image tokens of each row that was asked."""
    bench = Workbench(tmp_path)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    rows = [{"sku": name, "image": name, "title": "x", "hint": f"[[echo:{name}]]"} for name in files]
    with start_in_thread(EmulatorOptions()) as provider:
        job = bench.job(bench.manifest(rows), images=images)
        done = bench.call("run", job, "--base-url", provider.url + "/xai/v1")
        asked = {entry.echo for entry in provider.bill().entries}
    tokens = {row["row_id"]: row["image_tokens"] for row in bench.table("results")}
    assert set(tokens) == asked, done.stderr
    return bench, done.stderr, tokens


def scan(pages: int) -> bytes:
    first, *others = [Image.new("RGB", (40, 30), (60 * number, 90, 200)) for number in range(pages)]
    return encoded(first, "TIFF", save_all=True, append_images=others)


def test_pages_that_are_not_sent_are_said_once_and_all_are_sent_where_the_job_says_so(tmp_path: Path) -> None:
    files = {f"scan{number}.tif": scan(3) for number in range(4)}
    (tmp_path / "first").mkdir()
    _, said, asked = run_over(tmp_path / "first", files)
    assert said.count("has 3 pages or frames, of which the first is sent") == 1
    (one_image,) = set(asked.values())
    (tmp_path / "all").mkdir()
    bench, said, asked = run_over(tmp_path / "all", {"scan.tif": scan(3), "one.tif": scan(1)}, 'page = "all"')
    assert "pages or frames" not in said
    assert asked == {"scan.tif": 3 * one_image, "one.tif": one_image}
    assert {row["row_id"]: len(row["image_sha256"]) for row in bench.table("results")} == {"scan.tif": 1, "one.tif": 1}


def test_an_image_with_too_few_pixels_is_no_request(tmp_path: Path) -> None:
    files = {
        "dot.png": encoded(Image.new("RGB", (1, 1)), "PNG"),
        "photo.png": encoded(Image.new("RGB", (40, 30)), "PNG"),
    }
    bench, _, asked = run_over(tmp_path, files)
    assert set(asked) == {"photo.png"}
    (failed,) = bench.table("failures")
    assert (failed["row_id"], failed["error_kind"], failed["attempt_count"]) == ("dot.png", "image_unreadable", 0)
    assert "1 x 1 pixels are too few for the provider" in failed["error_message"]


def test_manifest_says_what_it_skipped(tmp_path: Path) -> None:
    bench = Workbench(tmp_path)
    bench.images(2)
    for name in ("notes.txt", "more.TXT", "film.mp4"):
        (tmp_path / "images" / name).write_text("words")
    made = bench.call("manifest", "images", "-o", "m.csv")
    assert made.returncode == 0, made.stderr
    assert "2 images listed in m.csv" in made.stderr
    assert "Skipped, as they are no images that can be read: 2 .txt, 1 .mp4." in made.stderr


# ---------------------------------------------------------------------------------- tables


def run_table(bench: Workbench, table: bytes, expect: int = 0, **sections: str) -> dict[str, str]:
    """A job over the bytes of a CSV: the answers by row. Its images echo the row's id."""
    (bench.folder / "m.csv").write_bytes(table)
    with start_in_thread(EmulatorOptions()) as provider:
        job = bench.folder / "job.toml"
        parts = {
            "manifest": 'path = "m.csv"\nid = "id"',
            "prompt": 'user = "Which? [[echo:{id}]]"',
            "provider": f'name = "xai"\nmodel = "grok-4.3"\nbase_url = "{provider.url}/xai/v1"',
            "output": 'path = "out"',
        }
        parts |= {name: "\n".join(filter(None, (parts.get(name), lines))) for name, lines in sections.items()}
        job.write_text('name = "t"\n' + "".join(f"[{name}]\n{lines}\n" for name, lines in parts.items()))
        bench.run(job, expect=expect)
        asked = Counter(entry.echo for entry in provider.bill().entries)
    results = {row["row_id"]: row["output_text"] for row in bench.table("results")}
    assert asked == Counter(dict.fromkeys(results, 1))
    return results


@pytest.mark.parametrize(
    "table",
    [
        b"sep=;\r\nid;image;title\r\nr1;images/000.png;a\r\nr2;images/001.png;b\r\n",
        b"\xef\xbb\xbfsep=,\r\nid,image\r\nr1,images/000.png\r\nr2,images/001.png\r\n",
        b"id;image;title\r\nr1;images/000.png;a\r\nr2;images/001.png;b\r\n;;\r\n;;\r\n",
        b"id;image\r\nr1;images\\000.png\r\nr2; images/001.png\r\n",
    ],
)
def test_a_spreadsheets_table_is_read_and_ends_with_exit_0(tmp_path: Path, table: bytes) -> None:
    bench = Workbench(tmp_path)
    bench.images(2)
    assert set(run_table(bench, table)) == {"r1", "r2"}
    assert bench.table("failures") == []


def test_data_uris_in_every_form_are_the_same_image(tmp_path: Path) -> None:
    bench = Workbench(tmp_path)
    content = encoded(Image.effect_noise((41, 40), 90).convert("RGB"), "PNG")
    text = base64.b64encode(content).decode()
    head = "data:image/png;base64,"
    forms = {
        "plain": head + text,
        "lines": head + base64.encodebytes(content).decode(),
        "url": head + base64.urlsafe_b64encode(content).decode(),
        "unpadded": head + text.rstrip("="),
        "blank": f"{head} {text}",
        "bare": text,
    }
    table = io.StringIO(newline="")
    csv.writer(table).writerows([("id", "image"), *forms.items()])
    results = run_table(bench, table.getvalue().encode(), limits="deduplicate = false")
    assert set(results) == set(forms)
    hashes = {tuple(row["image_sha256"]) for row in bench.table("results")}
    assert hashes == {(hashlib.sha256(content).hexdigest(),)}
    assert not any(text[:40] in part.read_bytes().decode("latin-1") for part in (tmp_path / "out").rglob("*.parquet"))


def test_urls_as_shops_export_them_work_or_are_told_with_the_remedy(tmp_path: Path) -> None:
    bench = Workbench(tmp_path)
    rows = [
        ("id", "image"),
        ("gap", "https://img.example.com/my photo.jpg"),
        ("list", "https://img.example.com/1.jpg,https://img.example.com/2.jpg"),
        ("list2", "https://img.example.com/1.jpg, https://img.example.com/2.jpg"),
        ("scheme", "//img.example.com/a.jpg"),
        ("www", "www.example.com/a.jpg"),
    ]
    table = io.StringIO(newline="")
    csv.writer(table).writerows(rows)
    answered = run_table(bench, table.getvalue().encode(), expect=3, provider='image_mode = "url"')
    assert set(answered) == {"gap"}
    (row,) = bench.table("results")
    assert row["image_ref"] == ["https://img.example.com/my%20photo.jpg"]
    said = {row["row_id"]: row["error_message"] for row in bench.table("failures")}
    for name in ("list", "list2"):
        assert "the cell 'image' holds 2 URLs: set manifest.image_separator" in said[name]
    assert "https://img.example.com/a.jpg" in said["scheme"]
    assert "https://www.example.com/a.jpg" in said["www"]


def test_answers_below_the_manifests_folder_are_no_rows_of_the_next_run(tmp_path: Path) -> None:
    bench = Workbench(tmp_path)
    names = [Path(name).name for name in bench.images(5)]
    pq.write_table(pa.table({"image": names, "title": list("abcde")}), tmp_path / "images" / "photos.parquet")
    job = tmp_path / "job.toml"
    with start_in_thread(EmulatorOptions()) as provider:
        text = (
            'name = "t"\n[manifest]\npath = "images"\nkeep = ["image", "title"]\n[prompt]\nuser = "Which? {title}"\n'
            f'[provider]\nname = "xai"\nmodel = "grok-4.3"\nbase_url = "{provider.url}/xai/v1"\n'
        )
        job.write_text(text + '[output]\npath = "images/answers"\n')
        for _ in range(3):
            bench.run(job)
        assert provider.bill().requests == 5
        assert len(bench.table("results", "images/answers")) == 5
        job.write_text(text + '[output]\npath = "images"\n')
        refused = bench.call("run", job)
    assert refused.returncode == 2
    assert "output.path is the manifest's own folder" in refused.stderr


def test_a_manifest_that_is_overwritten_meanwhile_stops_the_run_and_answered_rows_stay(tmp_path: Path) -> None:
    bench = Workbench(tmp_path)
    bench.images(2)
    rows = "".join(f"r{number},images/000.png,text {number} {'x' * 80}\n" for number in range(20_000))
    (tmp_path / "m.csv").write_text("id,image,t\n" + rows)
    other = "id,image,t\n" + "".join(f"x{number},images/001.png,changed {'y' * 90}\n" for number in range(15_000))
    job = tmp_path / "job.toml"
    with start_in_thread(EmulatorOptions(latency_seconds=0.2)) as provider:
        job.write_text(
            'name = "t"\n[manifest]\npath = "m.csv"\nid = "id"\n[prompt]\nuser = "Which? {t}"\n'
            f'[provider]\nname = "xai"\nmodel = "grok-4.3"\nbase_url = "{provider.url}/xai/v1"\n'
            '[limits]\nconcurrency = 512\n[output]\npath = "out"\n'
        )
        run = bench.start(job)
        try:
            while provider.bill().delivered < 20 and run.poll() is None:
                time.sleep(0.05)
            (tmp_path / "m.csv").write_text(other)
            stdout, stderr = run.communicate(timeout=200)
        finally:
            run.kill()
    assert run.returncode == 4, stderr
    summary = json.loads(stdout)
    assert summary["stop_reason"] == "manifest_changed"
    assert "was changed while it was read" in summary["message"] + stderr
    answered = {row["row_id"] for row in bench.table("results")}
    assert len(answered) == summary["rows_completed"] >= 20
    assert {row_id[0] for row_id in answered} == {"r"}


# ---------------------------------------------------------------------------------- private image hosts


def test_a_header_for_an_image_host_opens_it_and_is_written_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, seen = "canary-0123456789abcdef", list[tuple[str, str | None]]()
    picture = encoded(Image.new("RGB", (40, 30), "teal"), "PNG")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.headers["Host"].partition(":")[0], self.headers["Authorization"]))
            is_open = self.headers["Authorization"] == f"Bearer {token}" or self.path == "/open.png"
            self.send_response(302 if self.path == "/moved.png" else 200 if is_open else 401)
            if self.path == "/moved.png":
                self.send_header("location", f"http://127.0.0.1:{self.server.server_address[1]}/shut.png")
            self.end_headers()
            self.wfile.write(picture if is_open else token.encode())

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("IMG_TOKEN", f"Bearer {token}")
    bench = Workbench(tmp_path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        host = f"http://localhost:{server.server_port}"
        table = f"id,image\nopen,{host}/a.png\nmoved,{host}/moved.png\n".encode()
        answered = run_table(
            bench,
            table,
            expect=3,
            provider='image_mode = "inline"',
            images='allow_private_hosts = true\nheaders."localhost" = { Authorization = "env:IMG_TOKEN" }',
        )
    finally:
        server.shutdown()
        server.server_close()
    assert set(answered) == {"open"}
    assert {header for name, header in seen if name == "localhost"} == {f"Bearer {token}"}
    assert {header for name, header in seen if name == "127.0.0.1"} == {None}
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if token.encode() in path.read_bytes()]
