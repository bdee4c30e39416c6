"""From a row to the request that is sent for it, or to the reason that nothing is sent."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Protocol

from batchvision import keys
from batchvision.checkpoint import RowIndex, RowState
from batchvision.errors import RowFault, RowInvalid
from batchvision.eventloop import ByteBudget, HeldBytes
from batchvision.images import ImageSource, redact_reference
from batchvision.money import Estimator
from batchvision.prompt import Conversation
from batchvision.records import Completed, ImageRef, ImageSize, Intent, Payload, Request, Row, Tries
from batchvision.runner.booking import Booking
from batchvision.runner.feed import Selection
from batchvision.runner.retry import Again
from batchvision.runner.waiting_rows import LATE_ROWS, LaterRows, RequestDeduplicator
from batchvision.secrets import url_credentials
from batchvision.stopping import StopSignal

#: An image's name takes at most so many characters of a message.
_MOST_SHOWN = 100


@dataclass(eq=False, repr=False, slots=True)
class Preparer:
    """Makes requests of rows."""

    recipe_id: str
    conversation: Conversation
    images: ImageSource
    estimator: Estimator
    _: KW_ONLY
    skip_bad_images: bool = False  #: an image that cannot be used is left out, not the row
    may_inline_urls: bool = True  #: an image URL that the provider cannot download may be downloaded here
    raised_max_tokens: int | None = None  #: of the one retry of a truncated answer

    async def prepare(self, row: Row, *, inline: bool = False) -> Request:
        """The request of ``row``; ``inline``: image URLs are downloaded here instead of handed over.

        The request_key of a row stays the same when its URLs are inlined: the same thing is asked, by other means.
        """
        if row.problem is not None:
            raise RowInvalid(row.problem)
        payloads = await payloads_of(self.images, row, inline=inline, skip_bad_images=self.skip_bad_images)
        messages = self.conversation.messages(row.prompt, payloads)
        urls = [payload.url for payload in payloads if payload.url]
        sizes: list[ImageSize] = []
        for payload in payloads:
            sizes += [(payload.width, payload.height), *((page.width, page.height) for page in payload.more)]
        estimate = partial(self.estimator.estimate, len(keys.hashed_text(row.prompt)), sizes, len(messages))
        return Request(
            row_id=row.row_id,
            request_key=row.known_as or keys.request_key_of(self.recipe_id, row.prompt, payloads),
            skip_key=row.skip_key,
            messages=messages,
            image_ref=tuple([payload.reference for payload in payloads]),
            image_sha256=tuple([payload.sha256 for payload in payloads]),
            keep=row.keep,
            estimate=estimate(),
            has_urls=self.may_inline_urls and bool(urls),
            credentials=tuple(secret for url in urls for secret in url_credentials(url)),
            raised_estimate=None if self.raised_max_tokens is None else estimate(self.raised_max_tokens),
        )

    async def inlined(self, row: Row, request: Request) -> Request:
        """``request`` again, with its image URLs downloaded here; keys and references stay."""
        inlined = await self.prepare(row, inline=True)
        return inlined._replace(request_key=request.request_key, image_ref=request.image_ref)


class PayloadSource(Protocol):
    async def payload(self, ref: ImageRef, inline: bool = False) -> Payload: ...


async def payloads_of(
    images: PayloadSource, row: Row, *, inline: bool = False, skip_bad_images: bool = False
) -> list[Payload]:
    """The images of ``row`` that are sent, in order; their identities make its request_key. Raises RowFault."""
    payloads: list[Payload] = []
    first_fault: RowFault | None = None
    for place, ref in enumerate(row.images):
        try:
            payloads.append(await images.payload(ref, inline=inline))
        except RowFault as fault:
            first_fault = first_fault or _of_one_image(fault, row, place)
            if not skip_bad_images:
                raise first_fault from None
    if not payloads and first_fault is not None:
        raise first_fault
    return payloads


def _of_one_image(fault: RowFault, row: Row, place: int) -> RowFault:
    """The fault; in a row of several images, also which one has it."""
    if len(row.images) == 1:
        return fault
    shown = redact_reference(row.images[place])[:_MOST_SHOWN]
    return type(fault)(f"image {place + 1} of {len(row.images)}, {shown}: {fault}")


class RowRequests:
    """Makes the request of a row, unless it is done, shares an answer or waits."""

    def __init__(
        self,
        preparer: Preparer,
        row_index: RowIndex,
        selection: Selection,
        booking: Booking,
        deduplicator: RequestDeduplicator,
        later: LaterRows,
        stop: StopSignal,
    ) -> None:
        self._preparer = preparer
        self._row_index = row_index
        self._selection = selection
        self._booking = booking
        self._deduplicator = deduplicator
        self._later = later
        self._stop = stop
        self._bytes = ByteBudget()

    async def room_for(self, row: Row) -> AbstractAsyncContextManager[HeldBytes]:
        """Memory for the row's images, from their reading until its request has ended. Rows wait in order.

        An image of unknown size counts as the largest image that is sent, until its request is made.
        """
        size_bytes = 0
        with self._stop.interruptible():
            size_bytes = await self._preparer.images.size_bytes(row.images)
        # base64 in the messages, and once more in the body while it leaves
        return self._bytes.hold(size_bytes * 8 // 3)

    async def request_of(self, row: Row, room: HeldBytes) -> Request | None:
        """The row's request. ``None``: it failed here, is done, waits, or an identical request has an answer.

        ``room`` shrinks to the memory that the request takes.
        """
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
            room.shrink(2 * len(request.messages) if request else 0)
        if request is None or not self._is_to_be_sent(row, request):
            return None
        request = request._replace(is_redo=self._selection.redo is not None)
        if request.raised_estimate is not None and self._row_index.carried(row.row_id, request.request_key).raised:
            request = request._replace(estimate=request.raised_estimate)
        if self._deduplicator.is_full(request):
            self._later.add(request.row_id)
            return None
        answer = self._deduplicator.answer_for(request)
        if isinstance(answer, Completed):
            self._booking.share(answer, request)
            return None
        if len(self._deduplicator.late) >= LATE_ROWS:
            await self.serve_late()
        return None if answer else request

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
        """Ask a row with a collected ticket again in a later pass: its images are not at hand.

        A redo is asked again by a run that names its row. Other rows wait for a run without ``--redo``, and rows with
        tickets of earlier runs for one without ``--limit``. A row that has other cells by now has its own request.
        """
        self._row_index.collected(intent)
        if intent.is_redo:
            is_wanted = self._selection.redoes(intent.row_id)
        else:
            is_known = not self._selection.is_trial and self._row_index.met.has(intent)
            is_wanted = self._selection.redo is None and (is_known or self._booking.is_of_this_run(intent))
        if not is_wanted:
            return
        self._deduplicator.lead(intent.row_id, intent.request_key)
        self._later.add(intent.row_id, tries)

    def _is_to_be_sent(self, row: Row, request: Request) -> bool:
        """P1 by content. The feed compares paths, sizes and times, so a touched image looks new to it."""
        self._row_index.meet(row.row_id, request.request_key)
        if self._selection.redo is not None:
            key = (row.row_id, request.request_key)
            return self._row_index.is_done(*key) and not self._row_index.has_open_redo(*key)
        match self._row_index.state(row.row_id, request.request_key):
            case RowState.DONE:
                self._booking.counts.done_before()
                return False
            case RowState.FAILED:
                before = self._row_index.failed_before(row.row_id, request.request_key)
                if before is None or self._selection.retries(before):
                    return True
                self._booking.keep_failed(row.row_id, request.request_key, row.skip_key)
                self._booking.counts.failed_before(before)
                return False
            case RowState.AWAITING | RowState.HELD:
                return False
            case RowState.NEW:
                return True

    # ---------------------------------------------------------------------------- identical requests

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

    def accepted(self, request_key: str) -> None:
        """Rows that ask the same wait for the answer to the ticket."""
        self._deduplicator.accepted(request_key)
