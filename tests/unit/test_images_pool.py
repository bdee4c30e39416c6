"""Whatever an image does to the process that decodes it costs that image's row, and no more."""

from __future__ import annotations

import io
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from batchvision.errors import ImageTooLarge, ImageUnreadable, JobInvalid
from batchvision.images import DecodingPool, ImageFolder, ImageSettings, ImageSource
from batchvision.images.convert import THUMBNAIL_BYTES, convert
from batchvision.images.decoder_messages import (
    DecoderEnding,
    DecoderReply,
    DecoderTask,
    pack_reply,
    pack_task,
    unpack_reply,
    unpack_task,
)
from batchvision.images.formats import Converted, ImageFormat, ImageHeader, examine
from batchvision.images.pool import _TooSlow, _wait
from batchvision.records import ImageKind, ImagePreparation, ImageRef

DEFAULT = ImagePreparation()
#: A decoding process whose decoder does what the end of the "image" says.
MOODY = """
import os, signal, time
from batchvision.errors import ImageUnreadable
from batchvision.images import worker
from batchvision.images.convert import THUMBNAIL_BYTES, convert

kept = []

def moody(content, *rest):
    match content.rpartition(b"#")[2]:
        case b"crash": os.kill(os.getpid(), signal.SIGSEGV)
        case b"killed": os.kill(os.getpid(), signal.SIGKILL)
        case b"exit": os._exit(3)
        case b"hang": time.sleep(600)
        case b"hoard": bytearray(2**30)
        case b"keep": kept.append(bytearray(100 * 2**20))
        case b"print": os.write(1, b"libthing: warning 17" * 10_000)
        case b"lie": os.write(worker_answers(), b"x" * 1000)
        case b"environment": raise ImageUnreadable(" ".join(sorted(os.environ)))
        case b"write": os.write(os.open("stolen", os.O_CREAT | os.O_WRONLY), b"x")
    return convert(content, *rest)

def worker_answers():
    return max(int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}"))

worker.convert = moody
worker.main()
"""


def encoded(image_format: str, size: tuple[int, int] = (64, 32), mode: str = "RGB") -> bytes:
    target = io.BytesIO()
    Image.new(mode, size, "teal").save(target, image_format)
    return target.getvalue()


WEBP = encoded("WEBP")


@pytest.fixture
def pool() -> Iterator[DecodingPool]:
    with DecodingPool(2) as made:
        yield made


@pytest.fixture
def moody() -> Iterator[Callable[[str], Converted]]:
    """Converts one image whose decoder is in the mood named; the pool outlives it."""
    with DecodingPool(1, deadline_seconds=2.0, command=(sys.executable, "-P", "-c", MOODY)) as pool:

        def ask(mood: str) -> Converted:
            content = WEBP + b"#" + mood.encode()
            return pool.convert(content, examine(content), DEFAULT)

        yield ask


def processes(pool: DecodingPool) -> list[int]:
    return [decoder._process.pid for decoder in pool._idle]


# ---------------------------------------------------------------------------------- as in this process


@pytest.mark.parametrize(("image_format", "mode"), [("WEBP", "RGB"), ("PNG", "RGBA"), ("TIFF", "CMYK"), ("GIF", "P")])
def test_a_decoding_process_converts_as_this_process_does(pool: DecodingPool, image_format: str, mode: str) -> None:
    content = encoded(image_format, mode=mode)
    for wanted in (DEFAULT, ImagePreparation(max_side=20)):
        assert pool.convert(content, examine(content), wanted) == convert(content, examine(content), wanted)


@pytest.mark.parametrize(
    ("content", "preparation", "fault"),
    [
        (WEBP[:-20], DEFAULT, ImageUnreadable),
        (WEBP, ImagePreparation(max_pixels=100), ImageTooLarge),
        (WEBP, ImagePreparation(max_bytes=10), ImageTooLarge),
    ],
)
def test_faults_of_a_decoding_process_have_the_same_kind_and_message(
    pool: DecodingPool, content: bytes, preparation: ImagePreparation, fault: type[Exception]
) -> None:
    with pytest.raises(fault) as here:
        convert(content, examine(content), preparation)
    with pytest.raises(fault) as there:
        pool.convert(content, examine(content), preparation)
    assert str(there.value) == str(here.value)


def test_processes_are_kept_and_are_never_more_than_the_size(pool: DecodingPool) -> None:
    with ThreadPoolExecutor(6) as threads:
        done = list(threads.map(lambda _: pool.convert(WEBP, examine(WEBP), DEFAULT), range(24)))
    assert {each.width for each in done} == {64}
    assert 1 <= len(processes(pool)) <= 2


@pytest.mark.anyio
async def test_a_plain_image_starts_no_process(tmp_path: Path) -> None:
    with DecodingPool(command=("/no/such/program",)) as none:
        source = ImageSource(ImageFolder(tmp_path), ImageSettings(DEFAULT), convert=none.convert)
        for image_format in ("JPEG", "PNG"):
            content = encoded(image_format, (400, 300))
            payload = await source.payload(ImageRef(ImageKind.BYTES, "", "", content))
            assert payload.inline == content
        with pytest.raises(JobInvalid, match="no process could be started"):
            await source.payload(ImageRef(ImageKind.BYTES, "", "", WEBP))


def test_a_process_that_cannot_begin_stops_the_run_and_not_each_row() -> None:
    with (
        DecodingPool(1, command=(sys.executable, "-c", "raise SystemExit")) as pool,
        pytest.raises(JobInvalid, match=r"batchvision\.images\.worker"),
    ):
        pool.convert(WEBP, examine(WEBP), DEFAULT)


# ---------------------------------------------------------------------------------- phases


@pytest.mark.parametrize(
    ("mood", "fault", "words"),
    [
        ("crash", ImageUnreadable, r"crashed on it \(SIGSEGV\)"),
        ("exit", ImageUnreadable, r"crashed on it \(exit 3\)"),
        ("killed", ImageTooLarge, "lack of memory"),
        ("hoard", ImageTooLarge, "memory"),
        ("hang", ImageUnreadable, "more than 2 s"),
        ("lie", ImageUnreadable, "an answer that is none"),
    ],
)
def test_a_bad_end_is_a_fault_of_its_row_and_the_next_image_is_converted(
    moody: Callable[[str], Converted], mood: str, fault: type[Exception], words: str
) -> None:
    assert moody("well").width == 64
    with pytest.raises(fault, match=words):
        moody(mood)
    assert moody("well").width == 64


def test_output_of_a_decoder_is_no_answer(moody: Callable[[str], Converted]) -> None:
    assert moody("print").width == 64


def test_a_decoder_sees_no_key(moody: Callable[[str], Converted], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAI_API_KEY", "canary")
    with pytest.raises(ImageUnreadable) as caught:
        moody("environment")
    assert "PYTHONPATH" in caught.value.message
    assert "XAI_API_KEY" not in caught.value.message


def test_a_decoder_can_write_no_file(
    moody: Callable[[str], Converted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImageUnreadable):
        moody("write")
    assert [path.stat().st_size for path in tmp_path.iterdir()] in ([], [0])


def test_an_idle_process_that_was_killed_costs_no_row(pool: DecodingPool) -> None:
    pool.convert(WEBP, examine(WEBP), DEFAULT)
    for pid in processes(pool):
        os.kill(pid, signal.SIGKILL)
    assert pool.convert(WEBP, examine(WEBP), DEFAULT).width == 64


def test_two_images_that_hang_do_not_delay_further_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchvision.images.pool.SLOW_SECONDS", 0.2)
    monkeypatch.setattr("batchvision.images.pool._POLL_SECONDS", 0.05)
    hung, well = WEBP + b"#hang", WEBP + b"#well"
    with (
        ThreadPoolExecutor(3) as threads,
        DecodingPool(2, deadline_seconds=250.0, command=(sys.executable, "-P", "-c", MOODY)) as pool,
    ):
        waiting = [threads.submit(pool.convert, hung, examine(hung), DEFAULT) for _ in range(2)]
        assert threads.submit(pool.convert, well, examine(well), DEFAULT).result().width == 64
        assert not any(each.done() for each in waiting)
        pool.close()
        assert all(isinstance(each.exception(), ImageUnreadable | ImageTooLarge) for each in waiting)


# ---------------------------------------------------------------------------------- memory


def test_an_image_that_needs_much_memory_is_decoded_alone(pool: DecodingPool) -> None:
    large = encoded("PNG", (10_000, 7_000), "RGBA")
    with ThreadPoolExecutor(3) as threads:
        jobs = [threads.submit(pool.convert, each, examine(each), DEFAULT) for each in (WEBP, large, WEBP, WEBP)]
    assert [job.result()[1:3] for job in jobs] == [(64, 32), (5_000, 3_500), (64, 32), (64, 32)]


def test_an_image_that_needs_too_much_memory_is_refused_before_decoding(pool: DecodingPool) -> None:
    huge = encoded("PNG", (20_000, 20_000), "L")
    with pytest.raises(ImageTooLarge, match=r"20000 x 20000 takes [\d,]+ MB to decode"):
        pool.convert(huge, examine(huge), ImagePreparation(max_pixels=10**9))


def test_memory_that_decoders_keep_does_not_count_against_later_images(moody: Callable[[str], Converted]) -> None:
    for _ in range(6):  # 600 MB in all; each image may take 256
        assert moody("keep").width == 64


def test_an_avif_is_decoded_alike_before_and_after_a_large_heic() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    target = io.BytesIO()
    pillow_heif.from_pillow(Image.new("RGB", (5_600, 4_200), "teal")).save(target, quality=30)
    heic, avif = target.getvalue(), encoded("AVIF", (3_600, 2_700))
    with DecodingPool(1) as pool:
        before = pool.convert(avif, examine(avif), DEFAULT)
        for _ in range(3):
            assert pool.convert(heic, examine(heic), DEFAULT)[1:3] == (5_600, 4_200)
            assert pool.convert(avif, examine(avif), DEFAULT) == before


# ---------------------------------------------------------------------------------- the end


def test_closing_ends_every_process_and_later_calls_fail_their_row() -> None:
    pool = DecodingPool(2)
    pool.convert(WEBP, examine(WEBP), DEFAULT)
    (decoder,) = pool._idle
    pool.close()
    assert decoder._process.returncode == -signal.SIGKILL
    with pytest.raises(ImageUnreadable, match="has ended"):
        pool.convert(WEBP, examine(WEBP), DEFAULT)
    pool.close()


def test_no_process_outlives_a_run_that_is_killed() -> None:
    script = (
        "import sys; from batchvision.images import DecodingPool; from batchvision.images.formats import examine\n"
        "from batchvision.records import ImagePreparation\n"
        "content = bytes.fromhex(sys.argv[1]); pool = DecodingPool(1)\n"
        "pool.convert(content, examine(content), ImagePreparation())\n"
        "print(pool._idle[0]._process.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, WEBP.hex()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        decoder = os.pidfd_open(int(run.stdout.readline()))
        run.kill()
        ended = select.poll()
        ended.register(decoder, select.POLLIN)
        try:
            assert ended.poll(20_000), "the decoding process is still there"
        finally:
            os.close(decoder)


# ---------------------------------------------------------------------------------- parcels


@pytest.mark.parametrize("image_format", list(ImageFormat))
@pytest.mark.parametrize("max_side", [None, 1024])
def test_a_task_arrives_as_it_was_sent(image_format: ImageFormat, max_side: int | None) -> None:
    wanted = ImagePreparation(max_side=max_side, background="black", page=7)
    task = DecoderTask(ImageHeader(image_format, orientation=6), wanted, True, 2**40)
    assert unpack_task(pack_task(task)) == task


def test_a_reply_arrives_as_it_was_sent_and_nonsense_does_not() -> None:
    reply = DecoderReply(DecoderEnding.CONVERTED, 65_500, 1, 2**33, pages=1000, channels=5, is_last=True)
    assert unpack_reply(pack_reply(reply)) == reply
    with pytest.raises(ValueError, match="255"):
        unpack_reply(b"\xff" * len(pack_reply(reply)))


def test_an_answer_that_has_arrived_is_taken_after_the_deadline_too() -> None:
    """A process that was stopped and resumed finds the deadline passed and the answer waiting."""
    answers, tasks = os.pipe()
    try:
        long_ago = time.monotonic() - 60
        with pytest.raises(_TooSlow):
            _wait(answers, select.POLLIN, long_ago)
        os.write(tasks, b"an answer")
        _wait(answers, select.POLLIN, long_ago)
        assert os.read(answers, 64) == b"an answer"
    finally:
        os.close(answers)
        os.close(tasks)


def test_a_thumbnail_is_a_small_webp() -> None:
    content = encoded("PNG", (640, 320))
    with DecodingPool(1) as pool:
        small = pool.thumbnail(content, examine(content), ImagePreparation(max_side=160))
    with Image.open(io.BytesIO(small)) as image:
        assert (image.format, image.size) == ("WEBP", (160, 80))


def test_a_thumbnail_of_noise_is_scaled_down_to_its_bytes() -> None:
    file = io.BytesIO()
    Image.effect_noise((240, 240), 60).convert("RGB").save(file, "PNG")
    with DecodingPool(1) as pool:
        small = pool.thumbnail(file.getvalue(), examine(file.getvalue()), ImagePreparation(max_side=240))
    assert len(small) <= THUMBNAIL_BYTES
    with Image.open(io.BytesIO(small)) as image:
        assert 100 <= image.width == image.height < 240


def test_a_thumbnail_of_a_damaged_image_is_a_fault_of_its_row() -> None:
    content = encoded("PNG", (640, 320))
    with DecodingPool(1) as pool, pytest.raises(ImageUnreadable):
        pool.thumbnail(content[:200], examine(content), ImagePreparation(max_side=160))


def test_a_decoder_that_answers_with_another_image_makes_no_thumbnail() -> None:
    program = MOODY.replace("worker.convert = moody", "worker.thumbnail = convert")  # a JPEG
    with DecodingPool(1, command=(sys.executable, "-c", program)) as pool, pytest.raises(ImageUnreadable):
        pool.thumbnail(WEBP, examine(WEBP), ImagePreparation(max_side=160))
