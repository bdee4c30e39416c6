"""Images as people have them, from the command line to the provider: alpha, pages, too few pixels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

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
