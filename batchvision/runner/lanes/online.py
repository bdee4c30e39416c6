"""Online: a fixed number of workers, each with one row; the pacing lets ``concurrency`` of them be on the wire.

The others prepare the next rows, or wait for the disk to have an answer: as soon as one request is back, the next
leaves. Rule (P5): what is open in the journal stays within ``concurrency``, as a request's place is given away only
with its answer in the same group as, and before, the next intent.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from batchvision.errors import StopRun
from batchvision.records import Exchange, Row
from batchvision.runner.lanes.base import Delivery, next_row

MOST_AHEAD = 256  #: rows more than requests in flight: what hides preparation and disk


def rows_at_once(concurrency: int) -> int:
    """How many rows are under way, and in memory, for so many requests in flight."""
    return concurrency + min(MOST_AHEAD, -(-concurrency // 6))


class OnlineLane:
    """Ask and wait for the answer."""

    def __init__(self, delivery: Delivery, *, concurrency: int) -> None:
        self._delivery = delivery
        self._workers = rows_at_once(concurrency)

    async def deliver(self, rows: MemoryObjectReceiveStream[Row], tickets: Sequence[Exchange] = ()) -> None:
        """Deliver every row of the stream. Tickets are another lane's; this one has none."""
        with rows:
            async with anyio.create_task_group() as workers:
                for _ in range(self._workers):
                    workers.start_soon(self._work, rows)
        self._delivery.end_suspects()

    async def _work(self, rows: MemoryObjectReceiveStream[Row]) -> None:
        stop = self._delivery.stop
        while not stop.is_set:
            row = await next_row(rows, stop)
            if row is None:
                return
            try:
                async with await self._delivery.room_for(row):
                    await self._deliver_one(row)
            except StopRun as reason:  # the disk: nothing is sent without it
                stop.request(reason)

    async def _deliver_one(self, row: Row) -> None:
        """Try until the row has ended or the run stops; in the latter case the row stays pending."""
        delivery = self._delivery
        request = await delivery.request_of(row)
        if request is None:
            return
        tries = delivery.first_tries(row)
        while request is not None and not delivery.stop.is_set:
            lease = await delivery.lease(request)
            if lease is None:
                return
            judged = await delivery.exchanges.ask(request, tries, lease)
            again = delivery.conclude(row, judged) if judged else None
            if again is None or not await delivery.pause(again.delay_seconds):
                return
            tries = again.tries
            request = await delivery.next_request(row, request, again)
