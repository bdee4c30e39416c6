"""The open exchanges of a run state. Accepted work is packed, because tens of thousands of tickets may be open."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, cast

from batchvision.checkpoint.journal_records import ExchangeRemoved, Record, records_of
from batchvision.checkpoint.tracked import Tracked
from batchvision.records import Exchange

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
        self._stored: Tracked[str, Exchange | bytes] = Tracked(
            {exchange.intent.exchange_id: self._stored_form(exchange) for exchange in exchanges}
        )

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
        self._stored[exchange.intent.exchange_id] = self._stored_form(exchange)

    def take(self, exchange_id: str) -> Exchange:
        """Remove an exchange, and return it. Raises KeyError."""
        stored = self._stored.take(exchange_id)
        return _unpacked(stored, self._like) if isinstance(stored, bytes) else stored

    def _stored_form(self, exchange: Exchange) -> Exchange | bytes:
        if exchange.ticket is None or exchange.answer is not None or exchange.ended is not None:
            return exchange
        plain = pickle.dumps(exchange, pickle.HIGHEST_PROTOCOL)
        self._like = self._like or plain
        compress = zlib.compressobj(wbits=_RAW_DEFLATE, zdict=self._like)
        return compress.compress(plain) + compress.flush()

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
