"""Any reference becomes a payload or a fault of its row; URLs are handed over or inlined as the job says."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import anyio
import pytest
from PIL import Image

from batchvision.errors import (
    ImageForbidden,
    ImageUnreachable,
    ImageUnreadable,
    RowFault,
    RowInvalid,
)
from batchvision.eventloop import threads
from batchvision.images import ImageFolder, ImageSettings, ImageSource, ReserveBytes, load_local
from batchvision.images.formats import Converted, ImageHeader
from batchvision.images.reading import FileReaders
from batchvision.images.source import MAX_DOWNLOADED_BYTES, MAX_SOURCE_BYTES
from batchvision.records import ImageKind, ImagePreparation, ImageRef, Payload

pytestmark = pytest.mark.anyio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

URL = "https://images.example.com/a.jpg?w=1&X-Amz-Signature=canary"


def encoded(image_format: str, size: tuple[int, int] = (32, 16)) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", size, "teal").save(target, image_format)
    return target.getvalue()


JPEG, PNG, WEBP = encoded("JPEG"), encoded("PNG"), encoded("WEBP")


class Downloads:
    """A fetcher with one image for every URL."""

    def __init__(self, content: bytes = JPEG) -> None:
        self.content = content
        self.asked: list[tuple[str, int]] = []

    async def fetch(self, url: str, max_bytes: int, reserve: ReserveBytes | None = None) -> bytes:
        assert reserve is not None
        await reserve(len(self.content))
        self.asked.append((url, max_bytes))
        return self.content


class Inline:
    """An offload that runs at once and counts."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, work: Callable[[*Ts], T], /, *args: *Ts) -> T:
        self.calls += 1
        return work(*args)


def ref(kind: ImageKind, reference: str = "", content: bytes | None = None) -> ImageRef:
    return ImageRef(kind, reference, "front", content)


def source_of(folder: Path, mode: str = "auto", **more: Any) -> ImageSource:
    return ImageSource(ImageFolder(folder), ImageSettings(ImagePreparation(), mode), **more)


def sent(payload: Payload) -> bytes:
    assert payload.inline is not None
    return payload.inline


async def test_a_local_file_is_sent_as_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(JPEG)  # its name says nothing
    payload = await source_of(tmp_path).payload(ref(ImageKind.PATH, "a.gif"))
    assert (sent(payload), payload.media_type) == (JPEG, "image/jpeg")
    assert (payload.width, payload.height, payload.slot) == (32, 16, "front")
    assert payload.sha256 == sha256(JPEG).hexdigest()
    assert payload.identity == f"sha256:{payload.sha256}"
    assert payload.reference == "a.gif"
    assert payload.url is None


async def test_the_hash_is_of_the_source_also_where_it_was_converted(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(WEBP)
    payload = await source_of(tmp_path).payload(ref(ImageKind.PATH, "a.jpg"))
    assert payload.media_type == "image/jpeg"
    assert sent(payload) != WEBP
    assert payload.sha256 == sha256(WEBP).hexdigest()


@pytest.mark.parametrize("mode", ["auto", "url"])
async def test_a_url_is_handed_over_as_it_is_and_stored_without_its_signature(mode: str, tmp_path: Path) -> None:
    downloads = Downloads()
    payload = await ImageSource(
        ImageFolder(tmp_path), ImageSettings(ImagePreparation(), mode), fetch=downloads
    ).payload(ref(ImageKind.URL, URL))
    assert payload.url == URL
    assert payload.identity == "url:https://images.example.com/a.jpg?w=1"
    assert payload.reference == "https://images.example.com/a.jpg?w=1"
    assert payload.inline is payload.sha256 is None
    assert not downloads.asked


@pytest.mark.parametrize(("mode", "inline"), [("inline", False), ("auto", True), ("url", True)])
async def test_a_url_is_inlined_under_the_same_identity(mode: str, inline: bool, tmp_path: Path) -> None:
    downloads = Downloads(WEBP)
    source = source_of(tmp_path, mode=mode, fetch=downloads)
    payload = await source.payload(ref(ImageKind.URL, URL), inline=inline)
    assert payload.url is None
    assert payload.media_type == "image/jpeg"
    assert payload.identity == "url:https://images.example.com/a.jpg?w=1"
    assert payload.sha256 == sha256(WEBP).hexdigest()
    assert downloads.asked == [(URL, MAX_SOURCE_BYTES)]
    assert "canary" not in payload.reference


async def test_a_second_try_of_a_download_gives_back_the_bytes_of_the_first(tmp_path: Path) -> None:
    class Retrying(Downloads):
        async def fetch(self, url: str, max_bytes: int, reserve: ReserveBytes | None = None) -> bytes:
            assert reserve is not None
            await reserve(MAX_DOWNLOADED_BYTES)
            return await super().fetch(url, max_bytes, reserve)

    with anyio.fail_after(60):
        payload = await source_of(tmp_path, "inline", fetch=Retrying()).payload(ref(ImageKind.URL, URL))
    assert sent(payload) == JPEG


async def test_bytes_and_data_uris_are_checked_like_files(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    uri = "data:image/gif;base64," + base64.b64encode(PNG).decode()
    for image in (ref(ImageKind.BYTES, "", PNG), ref(ImageKind.DATA, uri)):
        payload = await source.payload(image)
        assert (sent(payload), payload.media_type) == (PNG, "image/png")
        assert payload.identity == f"sha256:{sha256(PNG).hexdigest()}"


@pytest.mark.parametrize(
    ("image", "fault"),
    [
        (ref(ImageKind.PATH, "missing.jpg"), ImageUnreadable),
        (ref(ImageKind.PATH, "../outside.jpg"), ImageForbidden),
        (ref(ImageKind.BYTES, "", b""), ImageUnreadable),
        (ref(ImageKind.BYTES, "", None), ImageUnreadable),
        (ref(ImageKind.BYTES, "", b"no image"), ImageUnreadable),
        (ref(ImageKind.BYTES, "", JPEG[:-2]), ImageUnreadable),
        (ref(ImageKind.DATA, "data:image/png;base64,AAAA"), ImageUnreadable),
        (ref(ImageKind.UNSUPPORTED, "s3://bucket/a.jpg"), ImageUnreachable),
        (ref(ImageKind.URL, "https://bad host/a.jpg"), ImageUnreachable),
    ],
)
async def test_each_fault_is_of_its_row_and_has_a_message(
    image: ImageRef, fault: type[RowFault], tmp_path: Path
) -> None:
    with pytest.raises(fault) as caught:
        await source_of(tmp_path).payload(image)
    assert caught.value.message


async def test_without_a_fetcher_nothing_is_downloaded(tmp_path: Path) -> None:
    with pytest.raises(ImageUnreachable, match="download"):
        await source_of(tmp_path, mode="inline").payload(ref(ImageKind.URL, URL))


async def test_an_image_is_read_and_checked_in_one_call_off_the_loop_and_decoded_in_a_second(tmp_path: Path) -> None:
    offload = Inline()
    source = source_of(tmp_path, offload=offload)
    (tmp_path / "a.jpg").write_bytes(JPEG)
    for image, calls in (
        (ref(ImageKind.BYTES, "", JPEG), 1),
        (ref(ImageKind.PATH, "a.jpg"), 2),
        (ref(ImageKind.BYTES, "", WEBP), 4),
    ):
        await source.payload(image)
        assert offload.calls == calls


def reads(monkeypatch: pytest.MonkeyPatch, gate: threading.Event) -> list[str]:
    """Files called "hung..." are read when the gate opens; the threads that read."""
    by: list[str] = []

    def read(image: ImageRef, files: ImageFolder, preparation: ImagePreparation) -> bytes:
        by.append(threading.current_thread().name)
        if image.reference.startswith("hung"):
            gate.wait(60)
        return JPEG

    monkeypatch.setattr("batchvision.images.source.read_source", read)
    return by


async def test_two_files_that_hang_fail_only_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    by = reads(monkeypatch, gate)
    source = source_of(tmp_path)
    source._readers = FileReaders(read_seconds=0.3)
    failed, done = list[str](), list[str]()

    async def ask(name: str) -> None:
        try:
            await source.payload(ref(ImageKind.PATH, name))
            done.append(name)
        except ImageUnreadable as fault:
            failed.append(fault.message)

    try:
        async with anyio.create_task_group() as rows:
            for name in ("hung-1.jpg", "hung-2.jpg", *(f"{number}.jpg" for number in range(30))):
                rows.start_soon(ask, name)
    finally:
        gate.set()
    assert len(done) == 30
    assert sorted(failed) == [
        f"hung-{number}.jpg was not read within 0.3 s: see whether its disk or network mount answers"
        for number in (1, 2)
    ]
    assert threading.current_thread().name not in by


async def test_each_row_fails_in_time_where_every_read_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    by = reads(monkeypatch, gate)
    source = source_of(tmp_path)
    source._readers = FileReaders(read_seconds=0.2, max_threads=2)
    try:
        for number in range(4):
            with pytest.raises(ImageUnreadable, match=r"not read within 0\.2 s"):
                await source.payload(ref(ImageKind.PATH, f"hung-{number}.jpg"))
        assert len(by) == 2
    finally:
        gate.set()
    assert sent(await source.payload(ref(ImageKind.PATH, "a.jpg"))) == JPEG


async def test_an_error_of_a_read_reaches_its_caller_and_a_cancelled_read_is_forgotten() -> None:
    readers, gate = FileReaders(), threading.Event()
    for error in (ImageForbidden("outside"), TimeoutError("the disk's own")):
        with pytest.raises(type(error), match=str(error)):
            await readers.read("a", partial(_raise, error))
    with anyio.move_on_after(0.05) as scope:
        await readers.read("a", partial(gate.wait, 60))
    assert scope.cancelled_caught
    gate.set()
    assert await readers.read("a", lambda: 7) == 7


def _raise(error: Exception) -> None:
    raise error


async def test_images_that_hang_in_their_decoders_leave_threads_for_those_that_need_none(tmp_path: Path) -> None:
    gate, at_work = threading.Event(), list[int]()

    def convert(content: bytes, header: ImageHeader, preparation: ImagePreparation) -> Converted:
        at_work.append(1)
        gate.wait(60)
        return Converted(JPEG, 32, 16)

    source = source_of(tmp_path, convert=convert)
    large = JPEG[:-2] + bytes(256 * 1024) + JPEG[-2:]
    async with anyio.create_task_group() as rows:
        for _ in range(4):
            rows.start_soon(source.payload, ref(ImageKind.BYTES, "", WEBP))
        while len(at_work) < 4:
            await anyio.sleep(0.01)
        assert sent(await source.payload(ref(ImageKind.BYTES, "", large))) == large
        gate.set()


async def test_a_caller_that_is_cancelled_leaves_a_thread_that_hangs() -> None:
    offload, gate = threads(1, may_abandon=True), threading.Event()
    try:
        with anyio.move_on_after(0.05) as scope:
            await offload(gate.wait)
        assert scope.cancelled_caught
        assert await offload(len, "abc") == 3, "its place is free"
    finally:
        gate.set()


async def test_threads_bounds_how_many_work_at_once() -> None:
    offload, gate = threads(2), threading.Barrier(2, timeout=10)
    lock, running, most = threading.Lock(), 0, 0

    def work() -> str:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        gate.wait()
        with lock:
            running -= 1
        return threading.current_thread().name

    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(offload, work)
    assert most == 2


def test_an_example_s_image_is_a_file_or_a_data_uri(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    assert sent(load_local("a.png", tmp_path, ImagePreparation(), "front")) == PNG
    uri = "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert sent(load_local(uri, tmp_path, ImagePreparation())) == PNG
    for reference in (URL, "s3://bucket/a.png"):
        with pytest.raises(RowInvalid, match="must be a file") as caught:
            load_local(reference, tmp_path, ImagePreparation())
        assert "canary" not in caught.value.message


async def test_a_file_that_is_read_at_the_deadline_is_used() -> None:
    """A process that was stopped and resumed finds the time over before its thread has handed over the file."""
    readers = FileReaders(read_seconds=0.0)
    assert await readers.read("a.png", lambda: b"an image") == b"an image"
    with pytest.raises(TimeoutError, match="the work's own"):
        await readers.read("a.png", _times_out)


def _times_out() -> bytes:
    raise TimeoutError("the work's own")
