"""Signals for a run in this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from batchvision.emulator import RunningEmulator


@contextmanager
def signal_at_first_answer(emulator: RunningEmulator, number: int) -> Iterator[None]:
    """Send the signal once the emulator has billed a request."""
    has_ended = threading.Event()

    def send() -> None:
        while not emulator.bill().entries:
            if has_ended.wait(0.01):
                return
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        thread.join()
