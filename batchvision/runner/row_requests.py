"""From a row to the request that is sent for it, or to the reason that nothing is sent."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from batchvision.checkpoint import RowIndex, RowState
from batchvision.errors import RowFault
from batchvision.limits import ByteBudget
from batchvision.records import Completed, Failed, Intent, Request, Row, Tries
from batchvision.runner.booking import Booking
from batchvision.runner.deduplicator import LATE_ROWS, RequestDeduplicator
from batchvision.runner.later_rows import LaterRows
from batchvision.runner.prepare import Preparer
from batchvision.runner.retry import Again
from batchvision.stopping import StopSignal


class RowRequests:
    """``wants``: whether a row that failed in an earlier run is asked again."""

    def __init__(
        self,
        preparer: Preparer,
        row_index: RowIndex,
        wants: Callable[[Failed], bool],
        booking: Booking,
        deduplicator: RequestDeduplicator,
        later: LaterRows,
        stop: StopSignal,
    ) -> None:
        self._preparer = preparer
        self._row_index = row_index
        self._wants = wants
        self._booking = booking
        self._deduplicator = deduplicator
        self._later = later
        self._stop = stop
        self._bytes = ByteBudget()

    async def room_for(self, row: Row) -> AbstractAsyncContextManager[None]:
        """Memory for the row's images, from their reading until its request has ended. Rows wait in order."""
        weight_bytes = 0
        with self._stop.interruptible():
            weight_bytes = await self._preparer.weight_bytes(row)
        return self._bytes.hold(weight_bytes)

    async def request_of(self, row: Row) -> Request | None:
        """The row's request. ``None``: it failed here, is done, shares an answer, or waits for a later pass."""
        if self._later.put_off(row.row_id):
            return None
        request: Request | None = None
        try:
            with self._stop.interruptible():  # a download, or a file on a network that hangs
                request = await self._preparer.prepare(row)
        except RowFault as fault:
            self._booking.fail(row, fault)
        else:
            self._booking.counts.images_found(row)
        if request is None or not self._is_to_be_sent(row, request) or await self._is_answered(request):
            return None
        return request

    async def next_request(self, row: Row, request: Request, again: Again) -> Request | None:
        """The same request for its next try: with its images inlined or with more tokens, if ``again`` asks for it."""
        if again.tries.raised and request.raised_estimate is not None:
            return request._replace(estimate=request.raised_estimate)
        if not again.inline_images:
            return request
        try:
            return await self._preparer.inlined(row, request)
        except RowFault as fault:
            self._booking.fail(row, fault, request)
            return None

    def ask_later(self, intent: Intent, tries: Tries) -> None:
        """Ask a row with a collected ticket again in a later pass: its images are not at hand."""
        self._row_index.collected(intent)
        self._later.add(intent.row_id, tries)

    def _is_to_be_sent(self, row: Row, request: Request) -> bool:
        """P1 by content. The feed compares paths, sizes and times, so a touched image looks new to it."""
        match self._row_index.state(row.row_id, request.request_key):
            case RowState.DONE:
                self._booking.counts.done_before()
                return False
            case RowState.FAILED:
                before = self._row_index.failed_before(row.row_id, request.request_key)
                if before is None or self._wants(before):
                    return True
                self._row_index.keep_failed(row.row_id, request.request_key, row.skip_key)
                self._booking.counts.failed_before(before)
                return False
            case RowState.AWAITING | RowState.HELD:
                return False
            case RowState.NEW:
                return True

    # ---------------------------------------------------------------------------- identical requests

    async def _is_answered(self, request: Request) -> bool:
        """Whether an identical request has an answer, or will have one."""
        if self._deduplicator.is_full(request):
            self._later.add(request.row_id)
            return True
        answer = self._deduplicator.answer_for(request)
        if isinstance(answer, Completed):
            self._booking.share(answer, request)
            return True
        if len(self._deduplicator.late) >= LATE_ROWS:
            await self.serve_late()
        return answer

    async def serve_late(self) -> None:
        """Give the rows their answers that are on the disk already, from earlier runs or from early in this run."""
        late = self._deduplicator.take_late()
        if not late:
            return
        found = await self._booking.read_answers({request.request_key for request in late})
        for request in late:
            answers = found.get(request.request_key)
            if answers is None:
                self._deduplicator.not_found(request.request_key)
                self._later.add(request.row_id)
            elif any(answer.row_id == request.row_id for answer in answers):
                self._booking.counts.done_before()  # its own answer: the image was touched and is the same
            else:
                self._booking.share(answers[0], request)

    def lead(self, row_id: str, request_key: str) -> None:
        """Rows that ask the same wait for the ticket of an earlier run."""
        self._deduplicator.lead(row_id, request_key)
