"""Online: a fixed number of workers, each with one row. The rate limiter lets ``concurrency`` of them be on the wire.

The other workers prepare the next rows or wait for the disk. So the next request leaves as soon as one is back.
Rule (P5): at most ``concurrency`` exchanges are open in the journal. A place on the wire is reused after its answer was
appended: in the same commit group as the next intent, or earlier.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from batchvision.records import Exchange, Lane, Row
from batchvision.runner.lanes.base import Delivery, next_row

MOST_AHEAD = 256  #: rows that are prepared or written to disk, beside the requests in flight


def rows_at_once(concurrency: int) -> int:
    """The number of rows in memory for so many requests in flight."""
    return concurrency + min(MOST_AHEAD, -(-concurrency // 6))


class OnlineLane:
    """Sends a request and waits for its answer."""

    def __init__(self, delivery: Delivery, *, concurrency: int) -> None:
        self._delivery = delivery
        self._workers = rows_at_once(concurrency)

    async def deliver(self, rows: MemoryObjectReceiveStream[Row], tickets: Sequence[Exchange] = ()) -> None:
        """Deliver every row of the stream. This lane has no tickets."""
        with rows:
            async with anyio.create_task_group() as workers:
                for _ in range(self._workers):
                    workers.start_soon(self._work, rows)
        self._delivery.end_suspects()

    async def _work(self, rows: MemoryObjectReceiveStream[Row]) -> None:
        stop = self._delivery.stop
        while not stop.is_set and (row := await next_row(rows, stop)) is not None:
            await self._delivery.deliver(row, Lane.ONLINE)
