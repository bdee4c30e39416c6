"""How often Python looks for cyclic garbage: in the command's own process, and elsewhere while a run lasts.

Of what a row makes, hardly anything is a cycle, so nearly all of it goes without the collector. At its usual 700
allocations it would walk what thousands of rows in flight hold again and again: a quarter of a run's CPU. What modules
make while they are imported stays: to look among it for garbage is a twentieth of the time until the first request.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

THRESHOLDS = (50_000, 10, 10)

_lock = Lock()
_usual: list[tuple[int, int, int]] = []  #: for each run under way in this process: what it found


def collect_rarely() -> None:
    """From here on, for a process that is batchvision's own: its modules are about to be imported."""
    gc.set_threshold(*THRESHOLDS)


@contextmanager
def rarely_collected() -> Iterator[None]:
    """Collect rarely, and do not walk what was there before; when the last such block ends, it is as it was."""
    with _lock:
        is_first = not _usual
        _usual.append(gc.get_threshold())
        if is_first:
            gc.freeze()
            gc.set_threshold(*THRESHOLDS)
    try:
        yield
    finally:
        with _lock:
            found_by_the_first = _usual[0]
            _usual.pop()
            if not _usual:
                gc.set_threshold(*found_by_the_first)
                gc.unfreeze()
