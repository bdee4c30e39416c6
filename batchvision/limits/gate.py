"""The gate: open for all, or for one probe at a time: before the first answer, and while the provider is away."""

from __future__ import annotations

from batchvision.eventloop import loop_time
from batchvision.wakeup import Wakeup

FIRST_ALONE_SECONDS = 10.0  #: the first request travels alone until it is answered, at most this long
OUTAGE_AFTER_FAILURES = 20  #: provider-side failures in a row that mean the provider is away
LONGEST_PROBE_WAIT_SECONDS = 60.0


class Gate:
    """Open for all, or for one probe at a time: before the first answer of a run, and while the provider is away."""

    def __init__(self) -> None:
        self._open = False
        self._probing = False
        self._failures = 0
        self._probe_wait_seconds = 0.0
        self._next_probe_at: float | None = None
        self._opens_by_itself_at: float | None = None
        self._first = True
        self._is_another_due = False
        self._changed = Wakeup()

    def __repr__(self) -> str:
        state = "open" if self._open else "closed"
        return f"<Gate {state}, {self._failures} failures in a row, probe {'out' if self._probing else 'home'}>"

    @property
    def is_open(self) -> bool:
        return self._open

    @property
    def is_away(self) -> bool:
        """An outage has been seen and not ended; before the first answer of a run nothing has been seen."""
        return not self._open and not self._first

    @property
    def failures_in_a_row(self) -> int:
        return self._failures

    async def enter(self) -> bool:
        """Wait until this request may pass; True: it passes as the probe and must report back."""
        while not self._open:
            now = loop_time()
            if self._opens_by_itself_at is not None and now >= self._opens_by_itself_at:
                self._open_now()
                break
            if not self._probing and (self._next_probe_at is None or now >= self._next_probe_at):
                self._probing = True
                if self._first and self._opens_by_itself_at is None:
                    self._opens_by_itself_at = now + FIRST_ALONE_SECONDS
                return True
            await self._wait_for_change()
        return False

    async def _wait_for_change(self) -> None:
        moments = [self._opens_by_itself_at] if self._probing else [self._opens_by_itself_at, self._next_probe_at]
        until = min((moment for moment in moments if moment is not None), default=float("inf"))
        await self._changed.wait(until=until)

    def answered(self) -> None:
        """The provider is there."""
        self._failures = 0
        if not self._open:
            self._open_now()

    def failed(self) -> None:
        """A failure on the provider's side, or no way to it."""
        self._failures += 1
        if self._open and self._failures >= OUTAGE_AFTER_FAILURES:
            self._close()

    def undecided(self) -> None:
        """The first request was refused, perhaps for its row's sake: one other request may go, at once."""
        self._is_another_due = self._first
        if not self._first:
            self.answered()

    def probe_home(self, *, probe: bool) -> None:
        """A probe has ended without an answer: the next one may go, later than the last."""
        if not probe or self._open:
            return
        self._probing = False
        if self._is_another_due:
            self._is_another_due, self._opens_by_itself_at = False, None
            self._changed.tell()
            return
        self._probe_wait_seconds = min(LONGEST_PROBE_WAIT_SECONDS, max(1.0, self._probe_wait_seconds * 2))
        self._next_probe_at = loop_time() + self._probe_wait_seconds
        self._changed.tell()

    def _open_now(self) -> None:
        self._open, self._probing, self._first = True, False, False
        self._probe_wait_seconds, self._next_probe_at, self._opens_by_itself_at = 0.0, None, None
        self._changed.tell()

    def _close(self) -> None:
        self._open, self._probing, self._first = False, False, False
        self._probe_wait_seconds = 1.0
        self._next_probe_at = loop_time() + self._probe_wait_seconds
        self._changed.tell()
