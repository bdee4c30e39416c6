"""Scale 12-megapixel photos to 1024 pixels, compared with bare Pillow and with a run without conversion.

The rounds of both alternate, so that noise of the machine affects both.
"""

from __future__ import annotations

import io
import os
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import anyio
from harness import Workbench
from hostile_images import encoded
from PIL import Image

from batchvision.emulator import EmulatorOptions, start_in_thread
from batchvision.images import DecodingPool, ImageFolder, ImageSettings, ImageSource
from batchvision.records import ImageKind, ImagePreparation, ImageRef

SIDE = 1024
SIZE = (4000, 3000)
LEAST_OF_BARE, MOST_OFF_PACE = 0.85, 0.03


def compare(folder: Path, rounds: int = 5, count: int = 96) -> bool:
    """Print both comparisons. Returns whether both are within their limits."""
    photos = [str(folder / f"{number}.jpg") for number in range(8)]
    for path in photos:
        Path(path).write_bytes(_photo())
    share, speed = _conversion(folder, photos, rounds, count)
    drift = _pacing(folder, photos, per_second=float(max(1, round(speed / 2))))
    return share >= LEAST_OF_BARE and drift <= MOST_OFF_PACE


def _photo() -> bytes:
    """A photo of 4000 x 3000 pixels with the noise and the size (about 4 MB) of a camera."""
    coarse = Image.effect_noise((1000, 750), 60).resize(SIZE, Image.Resampling.BICUBIC)
    grain = Image.effect_noise(SIZE, 12)
    return encoded(Image.merge("RGB", [coarse, Image.blend(coarse, grain, 0.3), grain]), "JPEG", quality=88)


# ---------------------------------------------------------------------------------- beside bare Pillow


def _bare(path: str) -> float:
    """CPU-seconds of one."""
    started = time.process_time()
    with Image.open(path) as image:
        image.draft("RGB", (SIDE, SIDE))
        target = io.BytesIO()
        small = image.resize((SIDE, SIDE * 3 // 4), Image.Resampling.BICUBIC, reducing_gap=2.0)
        small.save(target, "JPEG", quality=90)
    return time.process_time() - started


def _conversion(folder: Path, photos: list[str], rounds: int, count: int) -> tuple[float, float]:
    """Our share of bare Pillow's speed, by CPU time, and our images a second."""
    work = list(islice(cycle(photos), count))
    shares, by_clock, speeds = [], [], []
    with ProcessPoolExecutor(os.cpu_count()) as processes:
        list(processes.map(_bare, photos))
        for _ in range(rounds):
            started = time.perf_counter()
            bare_cpu = sum(processes.map(_bare, work))
            bare = time.perf_counter() - started
            before = _cpu_seconds()
            ours = anyio.run(_ours, folder, work)
            ours_cpu = _cpu_seconds() - before
            shares.append(bare_cpu / ours_cpu)
            by_clock.append(bare / ours)
            speeds.append(count / ours)
            print(
                f"  bare Pillow {count / bare:.1f} images/s, {1000 * bare_cpu / count:.1f} CPU-ms each; "
                f"batchvision {count / ours:.1f} images/s, {1000 * ours_cpu / count:.1f} CPU-ms with all processes"
            )
    share = statistics.median(shares)
    print(
        f"12 MP JPEG to {SIDE} px: {share:.2f} of bare draft() speed by CPU (at least {LEAST_OF_BARE} is wanted), "
        f"{statistics.median(by_clock):.2f} by the clock"
    )
    return share, statistics.median(speeds)


def _cpu_seconds() -> float:
    """CPU of this process and of its ended children."""
    used = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


async def _ours(folder: Path, work: list[str]) -> float:
    with DecodingPool() as pool:
        source = ImageSource(ImageFolder(folder), ImageSettings(ImagePreparation(max_side=SIDE)), convert=pool.convert)
        started = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for path in work:
                tasks.start_soon(source.payload, ImageRef(ImageKind.PATH, path, "", None))
        return time.perf_counter() - started


# ---------------------------------------------------------------------------------- beside a run without conversion


def _pacing(folder: Path, photos: list[str], per_second: float, rows: int = 160) -> float:
    """By how much conversion slows down the requests of a run."""
    small = folder / "small.jpg"
    small.write_bytes(encoded(Image.open(photos[0]).resize((SIDE, SIDE * 3 // 4)), "JPEG"))
    rates = {
        what: _rate(folder / what, list(islice(cycle(images), rows)), per_second)
        for what, images in (("plain", [str(small)]), ("converted", photos))
    }
    drift = 1 - rates["converted"] / rates["plain"]
    print(
        f"{per_second:g} requests/s allowed: {rates['plain']:.2f} a second with plain images, "
        f"{rates['converted']:.2f} with converted ones: {drift:+.1%} off (at most {MOST_OFF_PACE:.0%} is wanted)"
    )
    return drift


def _rate(folder: Path, images: list[str], per_second: float) -> float:
    folder.mkdir()
    bench = Workbench(folder)
    manifest = bench.manifest([{"sku": f"r{number}", "image": path} for number, path in enumerate(images)])
    job = folder / "job.toml"
    job.write_text(
        f"""
        name = "pace"
        manifest = {{ path = "{manifest.name}", id = "sku", root = "{folder.parent}" }}
        prompt = {{ user = "What is this? [[echo:{{sku}}]]" }}
        provider = {{ name = "xai", model = "grok-4.3" }}
        limits = {{ concurrency = 32, requests_per_second = {per_second} }}
        images = {{ max_side = {SIDE} }}
        output = {{ path = "out" }}
        """,
        encoding="utf-8",
    )
    with start_in_thread(EmulatorOptions(latency_seconds=0.3)) as emulator:
        bench.run(job, "--base-url", emulator.url + "/xai/v1")
    sent = sorted(row["sent_at"] for row in bench.table("attempts"))
    steady = sent[len(sent) // 8 :]  # the first are sent while images and processes begin
    return float((len(steady) - 1) / (steady[-1] - steady[0]).total_seconds())
