"""The emulator's own bill in integer ticks: requests, generated answers, charges and deliveries. No I/O.

An answer is charged when it is generated, whether or not it arrives. ``delivered_whole`` means that its last byte was
handed to the network. An answer of a batch is charged and delivered once, however often its results are read. Sums
cover all requests; entries are the newest ones only.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any

#: Number of distinct requests, and of custom ids, whose generations are counted.
_COUNTED = 1_000_000


@dataclass(frozen=True, slots=True)
class BillEntry:
    """One chat request, or one request of a batch with its ``custom_id``.

    ``status`` is 0 if the connection ended without one. ``echo``: tokens of ``[[echo:...]]``.
    ``content_hash`` covers model, text and images, so it is the same for each try of a request.
    """

    number: int
    request_id: str
    face: str
    lane: str
    echo: str
    text: str
    content_hash: str
    status: int
    fault: str | None
    ticks: int
    delivered_whole: bool
    custom_id: str = ""
    arrived_at: float = 0.0  #: seconds on the machine's monotonic clock


@dataclass(frozen=True, slots=True)
class Bill:
    """All requests since the start or the last reset. ``requests``: chat requests, refused ones included. ``polls``: of
    deferred tickets. ``generated_again``: generations of a request after its first, which were paid again.
    ``ids_again``: generations of a custom id after its first, in any batch. ``uploads``: files of batches."""

    requests: int
    polls: int
    generated: int
    generated_again: int
    delivered: int
    ticks: int
    ticks_delivered: int
    by_status: Mapping[int, int]
    by_fault: Mapping[str, int]
    entries: tuple[BillEntry, ...]
    repeated: int = 0  #: answered from the response cache, not charged
    ids_again: int = 0
    batches: int = 0
    uploads: int = 0
    uploaded_bytes: int = 0

    def by_echo(self) -> dict[str, int]:
        """Generations of each echo token among the listed entries."""
        return dict(Counter(entry.echo for entry in self.entries if entry.echo and entry.ticks))

    def to_document(self, with_entries: bool = True) -> dict[str, Any]:
        """JSON content."""
        document = asdict(self)
        document["by_status"] = {str(status): count for status, count in self.by_status.items()}
        if not with_entries:
            del document["entries"]
        return document


@dataclass(slots=True)
class OpenEntry:
    """A mutable :class:`BillEntry`."""

    number: int
    face: str
    arrived_at: float
    request_id: str = ""
    lane: str = "online"
    echo: str = ""
    text: str = ""
    content_hash: int = 0
    status: int = 0
    fault: str | None = None
    ticks: int = 0
    is_generated: bool = False
    delivered_whole: bool = False
    custom_id: str = ""

    def closed(self) -> BillEntry:
        return BillEntry(
            self.number,
            self.request_id,
            self.face,
            self.lane,
            self.echo,
            self.text,
            f"{self.content_hash:016x}",
            self.status,
            self.fault,
            self.ticks,
            self.delivered_whole,
            self.custom_id,
            self.arrived_at,
        )


class Ledger:
    """Written by one event loop. ``bill`` returns a snapshot."""

    def __init__(self, entries: int) -> None:
        self._entries: deque[OpenEntry] = deque(maxlen=entries)
        self._times_generated: dict[int, int] = {}
        self._ids: set[tuple[str, str]] = set()
        self._by_status: Counter[int] = Counter()
        self._by_fault: Counter[str] = Counter()
        self._requests = self._polls = self._generated = self._generated_again = 0
        self._delivered = self._ticks = self._ticks_delivered = self._repeated = 0
        self._ids_again = self._batches = self._uploads = self._uploaded_bytes = 0

    def open(self, face: str) -> OpenEntry:
        self._requests += 1
        entry = OpenEntry(self._requests, face, monotonic())
        self._entries.append(entry)
        return entry

    def generated(self, entry: OpenEntry, request_id: str, ticks: int) -> None:
        """Charge for the answer."""
        entry.request_id, entry.ticks, entry.is_generated = request_id, ticks, True
        self._generated += 1
        self._ticks += ticks
        times = self._times_generated.get(entry.content_hash, 0)
        if times or len(self._times_generated) < _COUNTED:
            self._times_generated[entry.content_hash] = times + 1
        self._generated_again += times > 0
        if entry.custom_id:
            name = (entry.face, entry.custom_id)
            self._ids_again += name in self._ids
            if len(self._ids) < _COUNTED:
                self._ids.add(name)

    def repeated(self, entry: OpenEntry, request_id: str) -> None:
        """Note an answer from the response cache, which is free."""
        entry.request_id = request_id
        self._repeated += 1

    def uploaded(self, size_bytes: int) -> None:
        self._uploads += 1
        self._uploaded_bytes += size_bytes

    def batch_created(self) -> None:
        self._batches += 1

    def fault(self, entry: OpenEntry | None, kind: str) -> None:
        """Count a fault. Without an entry it is one of a call about files and batches."""
        if entry is not None:
            entry.fault = kind
        self._by_fault[kind] += 1

    def polled(self, status: int) -> None:
        self._polls += 1
        self._by_status[status] += 1

    def answered(self, entry: OpenEntry, status: int) -> None:
        """Note the status of the POST; 0 for a broken connection."""
        entry.status = status
        self._by_status[status] += 1

    def delivered(self, entry: OpenEntry) -> None:
        """Note that the whole answer was sent."""
        if entry.is_generated and not entry.delivered_whole:
            entry.delivered_whole = True
            self._delivered += 1
            self._ticks_delivered += entry.ticks

    def bill(self) -> Bill:
        return Bill(
            requests=self._requests,
            polls=self._polls,
            generated=self._generated,
            generated_again=self._generated_again,
            delivered=self._delivered,
            ticks=self._ticks,
            ticks_delivered=self._ticks_delivered,
            by_status=dict(sorted(self._by_status.items())),
            by_fault=dict(sorted(self._by_fault.items())),
            entries=tuple(entry.closed() for entry in self._entries),
            repeated=self._repeated,
            ids_again=self._ids_again,
            batches=self._batches,
            uploads=self._uploads,
            uploaded_bytes=self._uploaded_bytes,
        )
