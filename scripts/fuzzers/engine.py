"""Mutate inputs and keep the ones with a new ending. An exception that a target raises is a find.

The same seed and number of inputs give the same inputs.
"""

from __future__ import annotations

import random
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Protocol

#: An input that takes longer is a find.
MOST_SECONDS = 10
MOST_BYTES = 200_000
CORPUS = 4_000
#: A target stops after this many kinds of finds. Each kind is reported once.
MOST_FINDS = 20

_NUMBERS = [b"0", b"-1", b"1e309", b"-0.0", b"NaN", b"Infinity", b"9" * 20, b"9" * 400, b"2147483648", b"1" + b"0" * 18]
_STRANGE = [
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"\\u0000",
    b"\xe2\x80\xae",
    b"\x1b[2J",
    b"\r",
    b"\r\n",
    b"\n",
    b'"',
    b"{",
    b"}",
    b"[" * 50,
    b"{" * 50,
    b"null",
    b"{}",
    b"[]",
    b"\xf0\x9f\x98\x80",
    b"%s%n",
    b"{image}",
    b"\x85",
    b"\xc2\xa0",
]


class Target(Protocol):
    """A reader under test. ``run`` returns a name for the ending of an input and raises if a promise is broken."""

    name: str

    def seeds(self) -> Sequence[bytes]: ...

    def tokens(self) -> Sequence[bytes]: ...

    def run(self, content: bytes) -> str: ...


class TooSlow(Exception):
    """An input took longer than ``MOST_SECONDS``."""


@dataclass(slots=True)
class Report:
    """The result for one target."""

    name: str
    inputs: int = 0
    seconds: float = 0.0
    endings: dict[str, int] = field(default_factory=dict)
    finds: dict[str, tuple[bytes, str]] = field(default_factory=dict)


def fuzz(
    target: Target, seconds: float, seed: int, most_inputs: int | None = None, most_finds: int = MOST_FINDS
) -> Report:
    """Feed ``target`` until the time, the number of inputs, or that of finds is reached."""
    luck, report = random.Random(f"{seed}-{target.name}"), Report(target.name)
    corpus, tokens = list(target.seeds()), [*_NUMBERS, *_STRANGE, *target.tokens()]
    started = time.monotonic()
    for content in corpus:
        _try(target, content, report)
    while time.monotonic() - started < seconds and (most_inputs is None or report.inputs < most_inputs):
        content = mutated(luck, corpus, tokens)
        if _try(target, content, report):
            corpus.append(content)
            if len(corpus) > CORPUS:
                corpus.pop(luck.randrange(len(corpus)))
        if len(report.finds) >= most_finds:
            break
    report.seconds = time.monotonic() - started
    return report


def _try(target: Target, content: bytes, report: Report) -> bool:
    """Whether the input ended in a way not seen before."""
    report.inputs += 1
    try:
        with _Deadline():
            ending = target.run(content)
    except Exception as fault:  # noqa: BLE001 - every exception is a find
        ending = _where(fault)
        report.finds.setdefault(ending, (content, "".join(traceback.format_exception(fault))))
    is_new = ending not in report.endings
    report.endings[ending] = report.endings.get(ending, 0) + 1
    return is_new


def _where(fault: Exception) -> str:
    last = traceback.extract_tb(fault.__traceback__)[-1]
    return f"{type(fault).__name__} at {last.filename.rpartition('/')[2]}:{last.lineno}"


class _Deadline:
    """Interrupts what takes too long. The caller of the script must stop native code that never returns."""

    def __enter__(self) -> None:
        signal.signal(signal.SIGALRM, self._ring)
        signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        raise TooSlow(f"more than {MOST_SECONDS} s")


# ---------------------------------------------------------------------------------- mutations


def mutated(luck: random.Random, corpus: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    """One of the corpus, changed a few times."""
    content = luck.choice(corpus)
    for _ in range(luck.choice((1, 1, 1, 2, 3, 5, 8))):
        content = luck.choice(_CHANGES)(luck, content, corpus, tokens)
    return content[:MOST_BYTES]


Change = Callable[[random.Random, bytes, Sequence[bytes], Sequence[bytes]], bytes]


def _span(luck: random.Random, content: bytes, most: int = 64) -> tuple[int, int]:
    start = luck.randint(0, len(content))
    return start, min(len(content), start + luck.randint(0, luck.choice((1, 4, most))))


def _flip(luck: random.Random, content: bytes, *_: object) -> bytes:
    if not content:
        return content
    place = luck.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << luck.randrange(8))]) + content[place + 1 :]


def _insert(luck: random.Random, content: bytes, _: object, tokens: Sequence[bytes]) -> bytes:
    start, end = _span(luck, content, 8)
    return content[:start] + luck.choice(tokens) + content[luck.choice((start, end)) :]


def _cut(luck: random.Random, content: bytes, *_: object) -> bytes:
    start, end = _span(luck, content)
    return content[:start] + content[end:]


def _end(luck: random.Random, content: bytes, *_: object) -> bytes:
    return content[: luck.randint(0, len(content))]


def _repeat(luck: random.Random, content: bytes, *_: object) -> bytes:
    start, end = _span(luck, content)
    return content[:end] + content[start:end] * luck.choice((1, 2, 10, 300)) + content[end:]


def _move(luck: random.Random, content: bytes, *_: object) -> bytes:
    start, end = _span(luck, content)
    rest = content[:start] + content[end:]
    place = luck.randint(0, len(rest))
    return rest[:place] + content[start:end] + rest[place:]


def _splice(luck: random.Random, content: bytes, corpus: Sequence[bytes], _: object) -> bytes:
    other = luck.choice(corpus)
    return content[: luck.randint(0, len(content))] + other[luck.randint(0, len(other)) :]


def _random(luck: random.Random, content: bytes, *_: object) -> bytes:
    start, end = _span(luck, content)
    return content[:start] + luck.randbytes(end - start) + content[end:]


_CHANGES: tuple[Change, ...] = (_flip, _flip, _insert, _insert, _insert, _cut, _end, _repeat, _move, _splice, _random)
