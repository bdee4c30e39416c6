"""Decoding processes: native decoders read untrusted images there, and not in the process that holds the key.

A crash, a hang or exhausted memory of a process costs only the row of its image, and the process is replaced. All calls
block. Several threads may call at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from batchvision.descriptors import EXHAUSTED
from batchvision.errors import ImageTooLarge, ImageUnreadable, JobInvalid, TooManyOpenFiles
from batchvision.images.decoder_messages import (
    READY,
    REPLY_BYTES,
    DecoderEnding,
    DecoderReply,
    DecoderTask,
    pack_task,
    unpack_reply,
)
from batchvision.images.formats import Converted, ImageFormat, ImageHeader, examine
from batchvision.records import ImagePreparation

DEADLINE_SECONDS = 30.0  #: for one image, with its transfer
START_SECONDS = 60.0
#: An image that takes longer no longer counts against ``size``: it may hang until its deadline.
SLOW_SECONDS = 3.0
_POLL_SECONDS = 1.0  #: between two looks for slow images while all processes are busy
MOST_PROCESSES = 8  #: two suffice for any provider, and each may use a few hundred megabytes
_PIPE_BYTES = 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_START = "from batchvision.images.worker import main; main()"
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONHOME", "TZ")


class _Ended(Exception):
    """The process has ended, or sent an invalid message."""


class _TooSlow(Exception):
    """The deadline has passed."""


class DecodingPool:
    """At most ``size`` processes (default: the number of processors), each started when it is first needed. While slow
    images occupy processes, up to ``size`` more are started.

    Use the pool as a context manager, or ``close`` it: then no process is left.
    """

    def __init__(
        self,
        size: int | None = None,
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        command: tuple[str, ...] | None = None,
    ) -> None:
        self.size = size or min(os.cpu_count() or 1, MOST_PROCESSES)
        self._deadline_seconds = deadline_seconds
        self._command = command or (sys.executable, "-P", "-c", _START)
        self._changed = threading.Condition()
        self._idle: list[_Decoder] = []
        self._busy: set[_Decoder | None] = set()
        self._at_work: dict[object, float] = {}  #: start of each conversion
        self._waiting_alone = 0
        self._is_alone = self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def convert(self, content: bytes, header: ImageHeader, preparation: ImagePreparation) -> Converted:
        """Convert as :func:`batchvision.images.convert.convert` in a decoding process. Blocking, and thread-safe.

        Raises ImageUnreadable or ImageTooLarge; JobInvalid where no process can be started.
        """
        task = DecoderTask(header, preparation, is_alone=False, length=len(content))
        reply, answer = self._converted(task, content)
        return _checked(reply, answer)

    def thumbnail(self, content: bytes, header: ImageHeader, preparation: ImagePreparation) -> bytes:
        """A small WebP, as :func:`batchvision.images.convert.thumbnail`. Blocking, and thread-safe. Raises as
        :meth:`convert` does."""
        task = DecoderTask(header, preparation, is_alone=False, length=len(content), is_thumbnail=True)
        _, answer = self._converted(task, content)
        if examine(answer).format is not ImageFormat.WEBP:
            raise ImageUnreadable("its thumbnail is not the WebP it should be")
        return answer

    def _converted(self, task: DecoderTask, content: bytes) -> tuple[DecoderReply, bytes]:
        """Ask beside other images, and alone where the image needs all memory."""
        reply, answer = self._ask(task, content)
        if reply.ending is DecoderEnding.NEEDS_MEMORY:
            reply, answer = self._ask(task._replace(is_alone=True), content)
        match reply.ending:
            case DecoderEnding.CONVERTED:
                return reply, answer
            case DecoderEnding.UNREADABLE:
                raise ImageUnreadable(answer.decode("utf-8", "replace"))
            case _:
                raise ImageTooLarge(answer.decode("utf-8", "replace"))

    def close(self) -> None:
        """Kill all processes."""
        with self._changed:
            self._is_closed = True
            decoders = [*self._idle, *(decoder for decoder in self._busy if decoder is not None)]
            self._idle.clear()
            self._changed.notify_all()
        for decoder in decoders:
            decoder.end()

    # ---------------------------------------------------------------------------- one image

    def _ask(self, task: DecoderTask, content: bytes) -> tuple[DecoderReply, bytes]:
        """Send one image to a process. Where the process ends, try another one: the image may not be the cause."""
        with self._permitted(task.is_alone):
            with contextlib.suppress(_Ended):
                return self._ask_one(task, content)
            try:
                return self._ask_one(task, content)
            except _Ended as ended:
                raise _fault(task.header.format, ended) from None

    def _ask_one(self, task: DecoderTask, content: bytes) -> tuple[DecoderReply, bytes]:
        decoder = self._taken()
        is_usable = False
        try:
            reply, answer = decoder.ask(task, content, time.monotonic() + self._deadline_seconds)
            is_usable = not reply.is_last
            return reply, answer
        except _TooSlow:
            raise ImageUnreadable(
                f"decoding it took more than {self._deadline_seconds:g} s: convert it to JPEG or PNG first"
            ) from None
        finally:
            self._put_back(decoder, is_usable)

    # ---------------------------------------------------------------------------- permission to use a process

    @contextlib.contextmanager
    def _permitted(self, is_alone: bool) -> Iterator[None]:
        """Wait for permission to use one process. ``is_alone``: while no other process works."""
        conversion = object()
        with self._changed:
            self._waiting_alone += is_alone
            while not self._is_closed and not self._may_start(is_alone):
                self._changed.wait(_POLL_SECONDS)
            self._waiting_alone -= is_alone
            if self._is_closed:
                self._changed.notify_all()
                raise ImageUnreadable("the run has ended before the image was converted")
            self._at_work[conversion] = time.monotonic()
            self._is_alone = is_alone
            spare = [self._idle.pop() for _ in self._idle[1:]] if is_alone else []
        for decoder in spare:  # their memory is needed
            decoder.end()
        try:
            yield
        finally:
            with self._changed:
                del self._at_work[conversion]
                self._is_alone = False
                self._changed.notify_all()

    def _may_start(self, is_alone: bool) -> bool:
        if is_alone:
            return not self._at_work
        if self._is_alone or self._waiting_alone or len(self._at_work) >= 2 * self.size:
            return False
        recent = time.monotonic() - SLOW_SECONDS
        return sum(began > recent for began in self._at_work.values()) < self.size

    def _taken(self) -> _Decoder:
        with self._changed:
            if self._idle:
                decoder = self._idle.pop()
                self._busy.add(decoder)
                return decoder
        decoder = _Decoder(self._command)
        with self._changed:
            self._busy.add(decoder)
            is_closed = self._is_closed
        if is_closed:
            decoder.end()
        return decoder

    def _put_back(self, decoder: _Decoder, is_usable: bool) -> None:
        with self._changed:
            self._busy.discard(decoder)
            if is_usable and not self._is_closed:
                self._idle.append(decoder)
                return
        decoder.end()


def _checked(reply: DecoderReply, answer: bytes) -> Converted:
    """Check that an answer is a JPEG: an image may have taken control of its decoder, which could send anything."""
    header = examine(answer)
    if not header.is_plain or (header.width, header.height) != (reply.width, reply.height):
        raise ImageUnreadable("its conversion is not the plain JPEG it should be")
    return Converted(answer, reply.width, reply.height, reply.pages, reply.channels)


def _fault(image_format: ImageFormat, ended: _Ended) -> ImageUnreadable | ImageTooLarge:
    name = image_format.value.upper()
    if str(ended) == "SIGKILL":
        return ImageTooLarge(f"the {name} decoder was killed on it, most likely for lack of memory: scale it down")
    return ImageUnreadable(f"the {name} decoder crashed on it ({ended}): convert it to JPEG or PNG first")


class _Decoder:
    """One decoding process. ``end`` may be called from any thread, and more than once."""

    def __init__(self, command: tuple[str, ...]) -> None:
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=child_environment(),
                start_new_session=True,  # Ctrl-C in the terminal is meant for the run, not for its decoders
            )
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise TooManyOpenFiles("starting a process that decodes images") from error
            raise JobInvalid(f"no process could be started to decode images: {error.strerror}") from error
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the decoder was started without pipes")
        self._tasks, self._answers = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._lock = threading.Lock()
        try:
            for pipe in (self._tasks, self._answers):
                os.set_blocking(pipe, False)
                with contextlib.suppress(AttributeError, OSError):  # Linux only, and limited for each user
                    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            started = self._read(len(READY), time.monotonic() + START_SECONDS)
        except (_Ended, _TooSlow, OSError):
            started = b""
        if started != READY:
            self.end()
            raise JobInvalid(
                f"the process that decodes images does not start: see what `{sys.executable} -m "
                "batchvision.images.worker` says"
            )

    def ask(self, task: DecoderTask, content: bytes, deadline: float) -> tuple[DecoderReply, bytes]:
        """Convert one image. After _Ended or _TooSlow the process must be ended."""
        try:
            self._write(pack_task(task), deadline)
            self._write(content, deadline)
            reply = unpack_reply(self._read(REPLY_BYTES, deadline))
            if reply.length > max(task.preparation.max_bytes, _CHUNK_BYTES):
                raise _Ended("an answer too long")
            return reply, self._read(reply.length, deadline)
        except ValueError:
            raise _Ended("an answer that is none") from None
        except OSError:
            raise _Ended(self._how_it_ended()) from None

    def _write(self, content: bytes, deadline: float) -> None:
        view = memoryview(content)
        while view:
            _wait(self._tasks, select.POLLOUT, deadline)
            with contextlib.suppress(BlockingIOError):
                view = view[os.write(self._tasks, view[:_CHUNK_BYTES]) :]

    def _read(self, length: int, deadline: float) -> bytes:
        parts: list[bytes] = []
        while length:
            _wait(self._answers, select.POLLIN, deadline)
            with contextlib.suppress(BlockingIOError):
                part = os.read(self._answers, min(length, _CHUNK_BYTES))
                if not part:
                    raise _Ended(self._how_it_ended())
                parts.append(part)
                length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "it closed its pipe"
        return signal.Signals(-code).name if code < 0 else f"exit {code}"

    def end(self) -> None:
        with self._lock:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()


def _wait(pipe: int, event: int, deadline: float) -> None:
    """Wait until the pipe is ready. An answer that has arrived counts even after the deadline, because this process may
    have been suspended. Raises _TooSlow."""
    left = max(0.0, deadline - time.monotonic())
    waiting = select.poll()
    waiting.register(pipe, event)
    if not waiting.poll(left * 1000):
        raise _TooSlow


def child_environment() -> dict[str, str]:
    """The environment of a child process: enough to import this code, without any key or token."""
    places = [path for path in sys.path if path]
    home = str(Path(__file__).resolve().parents[2])
    if home not in places:
        places.append(home)
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return {**kept, "PYTHONPATH": os.pathsep.join(places)}
