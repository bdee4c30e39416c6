"""Listen on 127.0.0.1: in the caller's event loop for ``emulate``, in a thread for tests and the demo.

The server prints nothing and never listens on another address.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from batchvision.emulator.ledger import Bill
from batchvision.emulator.options import DEFAULT_KEY, EmulatorOptions, Face

if TYPE_CHECKING:
    from batchvision.emulator.app import Emulator

_HOST = "127.0.0.1"
_BACKLOG = 4096
#: Answers under way get this long when the server stops.
_GRACE_SECONDS = 0.2
#: A call into the server's thread fails after this time.
_PATIENCE_SECONDS = 30.0
_Result = TypeVar("_Result")


class _Listening(NamedTuple):
    """The running server, handed from its thread to the thread that started it."""

    emulator: Emulator
    loop: asyncio.AbstractEventLoop
    leave: asyncio.Event
    port: int


async def serve(options: EmulatorOptions | None = None, ready: Callable[[str], None] | None = None) -> None:
    """Serve until cancelled. ``ready`` is called once with the URL. Raises OSError if the port is taken."""
    from batchvision.emulator.app import Emulator

    async with _listening(Emulator(options or EmulatorOptions())) as port:
        if ready is not None:
            ready(f"http://{_HOST}:{port}")
        await asyncio.Event().wait()


@asynccontextmanager
async def _listening(emulator: Emulator) -> AsyncIterator[int]:
    from aiohttp import web

    from batchvision.emulator.routes import make_app

    runner = web.AppRunner(make_app(emulator), access_log=None, shutdown_timeout=_GRACE_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, _HOST, emulator.options.port, backlog=_BACKLOG).start()
        yield int(runner.addresses[0][1])
    finally:
        emulator.leaving.set()
        await runner.cleanup()
        emulator.batches.close()


class RunningEmulator:
    """An emulator in a thread of its own. Its methods may be called from any thread."""

    def __init__(self, thread: threading.Thread, listening: _Listening) -> None:
        self._thread = thread
        self._emulator = listening.emulator
        self._loop = listening.loop
        self._leave = listening.leave
        self._last_bill: Bill | None = None
        self.url = f"http://{_HOST}:{listening.port}"

    def __repr__(self) -> str:
        return f"<RunningEmulator {self.url}{'' if self._thread.is_alive() else ' stopped'}>"

    @property
    def key(self) -> str:
        """An API key that the emulator accepts."""
        return self._emulator.options.key or DEFAULT_KEY

    def base_url(self, face: Face | str = Face.XAI) -> str:
        """The base URL for a client of this face."""
        return self.url + Face(face).path

    def bill(self) -> Bill:
        """The bill since the start or the last reset. After ``stop`` it stays as it was."""
        if self._last_bill is not None:
            return self._last_bill
        return self._inside(self._emulator.bill)

    def configure(self, **changes: Any) -> None:
        """Change options. Bill, tickets and batches stay. Raises ValueError."""
        self._inside(lambda: self._emulator.configure(changes))

    set = configure

    def advance(self, seconds: float) -> None:
        """Move the clock of tickets, files and batches forward."""
        self._inside(lambda: self._emulator.clock.advance(seconds))

    def reset(self) -> None:
        """Clear the bill, tickets, batches and fault counts."""
        self._inside(self._emulator.reset)

    def stop(self) -> None:
        """Close all connections and the port. A second call does nothing."""
        if self._thread.is_alive():
            self._last_bill = self._inside(self._emulator.bill)
            self._loop.call_soon_threadsafe(self._leave.set)
            self._thread.join(_PATIENCE_SECONDS)

    def __enter__(self) -> RunningEmulator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _inside(self, ask: Callable[[], _Result]) -> _Result:
        """Run ``ask`` in the emulator's event loop, which owns its state."""
        result: Future[_Result] = Future()

        def run() -> None:
            try:
                result.set_result(ask())
            except BaseException as error:  # noqa: BLE001  raised again in the calling thread
                result.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return result.result(_PATIENCE_SECONDS)


def start_in_thread(options: EmulatorOptions | None = None, **changes: Any) -> RunningEmulator:
    """Start and listen before returning. ``changes`` are options by name. Raises OSError if the port is taken."""
    asked = (options or EmulatorOptions()).changed(changes) if changes else options or EmulatorOptions()
    started: Future[_Listening] = Future()

    async def live() -> None:
        from batchvision.emulator.app import Emulator

        emulator = Emulator(asked)
        leave = asyncio.Event()
        async with _listening(emulator) as port:
            started.set_result(_Listening(emulator, asyncio.get_running_loop(), leave, port))
            await leave.wait()

    def run() -> None:
        try:
            asyncio.run(live())
        except BaseException as error:  # raised again in the starting thread
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=run, name="batchvision-emulator", daemon=True)
    thread.start()
    return RunningEmulator(thread, started.result(_PATIENCE_SECONDS))
