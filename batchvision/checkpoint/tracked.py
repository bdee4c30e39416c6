"""Values by key that know how they differ from the last seal, and the open exchanges among them.

Accepted work is packed, because tens of thousands of tickets may be open.
"""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Generic, NamedTuple, TypeVar, cast

from batchvision.checkpoint.journal_records import ExchangeRemoved, Record, records_of
from batchvision.records import Exchange

K = TypeVar("K")
V = TypeVar("V")


class Difference(NamedTuple, Generic[K, V]):
    """The values that were set since the last cut, and the keys that were removed."""

    put: list[V]
    removed: list[K]


class Tracked(Mapping[K, V]):
    """A mapping with a :meth:`cut`. Its first values count as there before the first cut.

    One thread changes it. Another thread may ask for a key meanwhile: a value that is replaced is always found.
    """

    __slots__ = ("_before", "_gone", "_since")

    def __init__(self, values: Mapping[K, V] | None = None) -> None:
        self._before: dict[K, V] = dict(values or {})  #: of the last cut, and neither set nor removed since
        self._since: dict[K, V] = {}  #: set since the last cut
        self._gone: dict[K, None] = {}  #: keys of the last cut that are no longer in ``_before``

    def __getitem__(self, key: K) -> V:
        try:
            return self._since[key]
        except KeyError:
            return self._before[key]

    def __contains__(self, key: object) -> bool:
        return key in self._since or key in self._before

    def __iter__(self) -> Iterator[K]:
        return chain(self._before, self._since)

    def __len__(self) -> int:
        return len(self._before) + len(self._since)

    def __setitem__(self, key: K, value: V) -> None:
        self._since[key] = value
        if key in self._before:
            del self._before[key]
            self._gone[key] = None

    def take(self, key: K) -> V | None:
        """Remove a key, and return its value. A missing key has ``None``."""
        if key in self._since:
            return self._since.pop(key)
        if key not in self._before:
            return None
        self._gone[key] = None
        return self._before.pop(key)

    def copy(self) -> dict[K, V]:
        """All values. Any thread may ask: a key that moves between the dicts meanwhile is found in one of them."""
        since = self._since
        return {**self._before, **since, **self._since}

    @property
    def has_changed(self) -> bool:
        return bool(self._since or self._gone)

    def cut(self) -> Difference[K, V]:
        """The difference since the last cut."""
        difference = Difference(list(self._since.values()), [key for key in self._gone if key not in self._since])
        self._before.update(self._since)
        self._since, self._gone = {}, {}
        return difference


# ---------------------------------------------------------------------------------- open exchanges

#: Without a header and a checksum: packed exchanges stay in memory.
_RAW_DEFLATE = -zlib.MAX_WBITS


class Packed(NamedTuple):
    """Packed exchanges, and the text that each of them was compressed with."""

    exchanges: tuple[bytes, ...]
    like: bytes

    def records(self) -> Iterator[Record]:
        """Unpack one exchange at a time into the records that made it."""
        for packed in self.exchanges:
            yield from records_of(_unpacked(packed, self.like))


class OpenExchanges(Mapping[str, Exchange]):
    """Open exchanges by exchange_id.

    An exchange with a ticket and without an end is packed: about 150 bytes beside its id. It is compressed with the
    first one as the dictionary, because exchanges of a run differ in few fields. Reading it takes some microseconds.
    """

    def __init__(self, exchanges: Iterable[Exchange] = ()) -> None:
        self._like = b""
        self._stored: Tracked[str, Exchange | bytes] = Tracked()
        for exchange in exchanges:
            self.put(exchange)
        self._stored.cut()  # they were there before

    def __getitem__(self, exchange_id: str) -> Exchange:
        stored = self._stored[exchange_id]
        return _unpacked(stored, self._like) if isinstance(stored, bytes) else stored

    def __contains__(self, exchange_id: object) -> bool:
        return exchange_id in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def put(self, exchange: Exchange) -> None:
        stored: Exchange | bytes = exchange
        if exchange.ticket is not None and exchange.answer is None and exchange.ended is None:
            plain = pickle.dumps(exchange, pickle.HIGHEST_PROTOCOL)
            self._like = self._like or plain
            compress = zlib.compressobj(wbits=_RAW_DEFLATE, zdict=self._like)
            stored = compress.compress(plain) + compress.flush()
        self._stored[exchange.intent.exchange_id] = stored

    def take(self, exchange_id: str) -> Exchange:
        """Remove an exchange, and return it. Raises KeyError."""
        stored = self._stored.take(exchange_id)
        if stored is None:
            raise KeyError(exchange_id)
        return _unpacked(stored, self._like) if isinstance(stored, bytes) else stored

    # ---------------------------------------------------------------------------- by kind

    @property
    def tickets(self) -> list[str]:
        """The ids of the exchanges that wait for the answer to a ticket."""
        return [exchange_id for exchange_id, stored in self._stored.copy().items() if isinstance(stored, bytes)]

    def accepted(self) -> Iterator[Exchange]:
        """The exchanges of the tickets, one at a time. Any thread may ask."""
        for stored in self._stored.copy().values():
            if isinstance(stored, bytes):
                yield _unpacked(stored, self._like)

    @property
    def others(self) -> list[Exchange]:
        """The exchanges without a ticket, and those that have ended and are not closed."""
        return [stored for stored in self._stored.copy().values() if not isinstance(stored, bytes)]

    # ---------------------------------------------------------------------------- seals

    @property
    def has_changed(self) -> bool:
        return self._stored.has_changed

    def cut(self) -> Iterator[Record | Packed]:
        """The difference since the last cut, as records. The packed exchanges stay packed, for the seal to unpack."""
        put, removed = self._stored.cut()
        yield from self._records(put)
        yield from map(ExchangeRemoved, removed)

    def records(self) -> Iterator[Record | Packed]:
        """All open exchanges."""
        yield from self._records(self._stored.values())

    def _records(self, stored: Iterable[Exchange | bytes]) -> Iterator[Record | Packed]:
        packed = list[bytes]()
        for each in stored:
            if isinstance(each, bytes):
                packed.append(each)
            else:
                yield from records_of(each)
        yield Packed(tuple(packed), self._like)


def _unpacked(packed: bytes, like: bytes) -> Exchange:
    plain = zlib.decompressobj(_RAW_DEFLATE, zdict=like).decompress(packed)
    return cast(Exchange, pickle.loads(plain))  # made by this process
