"""The batch lane: requests are written to input files, and each file becomes one batch of the provider.

Each submission is followed by one task: upload, create, look until it ends, read the results. Before the batch is
created, its name and its members are durable. So after a crash the run asks the provider for a batch of that name: it
has every member, or no batch was made and nothing was bought. Results can be read again, and are booked once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream

from batchvision.checkpoint import Submission, SubmissionStep
from batchvision.errors import DeadlineReached, RequestRejected, RowFault, StopRun
from batchvision.eventloop import loop_time
from batchvision.providers import BatchLook, BatchRefusal, BatchRefusalKind, BatchResult, BatchState
from batchvision.records import Intent, Request, Row
from batchvision.runner.batch_calls import BatchCalls, stop_of
from batchvision.runner.batch_exchanges import BatchExchanges
from batchvision.runner.classify import Classification
from batchvision.runner.lanes.delivery import Delivery, next_row
from batchvision.runner.lanes.submissions import BatchSettings, OpenSubmission, empty_folder

log = logging.getLogger(__name__)

PREPARERS = 16  #: rows whose images are read at once
MOST_FILES = 3  #: input files that wait for their upload
UPLOADS = 2  #: at once
ANSWERS_AT_ONCE = 256  #: answers that are made durable together
FIRST_LOOK_SECONDS = 1.0
LONGEST_LOOK_SECONDS = 60.0
#: A batch that was perhaps created is on the provider's list after so long.
LISTED_AFTER_SECONDS = 10.0
#: A model's quota of tokens is full: so long until its rows are submitted again.
QUOTA_SECONDS = 60.0
#: Results of a batch that is not done are read again when so many more of its requests have ended.
NEW_RESULTS_SHARE = 0.1


class BatchLane:
    """Submits the rows in batches, and collects the answers of these and of earlier ones."""

    def __init__(
        self,
        delivery: Delivery,
        exchanges: BatchExchanges,
        calls: BatchCalls,
        settings: BatchSettings,
        now: Callable[[], datetime],
    ) -> None:
        self._delivery = delivery
        self._exchanges = exchanges
        self._calls = calls
        self._settings = settings
        self._limits = settings.limits
        self._now = now
        self._number = 0
        self._filling: OpenSubmission | None = None
        self._one_line = anyio.Lock()
        self._files = anyio.Semaphore(MOST_FILES)
        self._uploads = anyio.Semaphore(UPLOADS)
        self._open_batches = anyio.Semaphore(settings.limits.max_open_batches or 1_000_000)
        self._is_proven = anyio.Event()  #: the provider takes batches of the model
        self._cancels = False
        self._waiting_for_money = self._given_up = 0
        self._next_create_at = 0.0
        self._to_ask: list[Intent] = []
        self._began_at = 0.0

    async def deliver(self, rows: MemoryObjectReceiveStream[Row], tickets: Sequence[str] = ()) -> None:
        """Follow the submissions of ``tickets``, exchange_ids of earlier runs; then submit the rows."""
        with rows:
            self._began_at = loop_time()
            empty_folder(self._settings.folder)
            self._exchanges.end_without_members()
            async with anyio.create_task_group() as following:
                for submission in self._adopted(tickets):
                    following.start_soon(self._follow, submission)
                async with anyio.create_task_group() as preparing:
                    for _ in range(PREPARERS):
                        preparing.start_soon(self._prepare, rows, following)
                async with self._one_line:
                    self._submit(following)
        for intent in self._to_ask:  # by now this pass has met each row of the manifest
            self._delivery.requests.ask_later(intent, intent.tries)
        self._to_ask.clear()
        self._delivery.end_suspects()
        self._report()

    async def collect(self, tickets: Sequence[str]) -> None:
        """Collect the answers of ``tickets``, without submitting anything."""
        send, rows = anyio.create_memory_object_stream[Row]()
        send.close()
        await self.deliver(rows, tickets)

    async def cancel(self, tickets: Sequence[str]) -> None:
        """Cancel the batches of ``tickets``, and book what they have finished."""
        self._cancels = True
        await self.collect(tickets)

    def _adopted(self, tickets: Sequence[str]) -> list[OpenSubmission]:
        found: dict[str, OpenSubmission] = {}
        for exchange_id in tickets:
            ticket, _ = self._delivery.adopt(exchange_id)
            submission_id = self._exchanges.submission_of(ticket.exchange_id)
            found.setdefault(submission_id, OpenSubmission(submission_id)).members[exchange_id] = None
        return list(found.values())

    def _report(self) -> None:
        if self._given_up:
            waited = f"delivery.max_ticket_wait_seconds ({self._settings.max_wait_seconds:g} s)"
            words = f"{self._given_up} batches have not ended after {waited}. They are kept: run again to collect them"
            self._delivery.stop.request(DeadlineReached(words))

    # ---------------------------------------------------------------------------- rows

    async def _prepare(self, rows: MemoryObjectReceiveStream[Row], following: TaskGroup) -> None:
        stop, requests = self._delivery.stop, self._delivery.requests
        while not stop.is_set and (row := await next_row(rows, stop)) is not None:
            try:
                async with await requests.room_for(row) as room:
                    request = await requests.request_of(row, room)
                    if request is not None:
                        await self._enroll(request, following)
            except StopRun as reason:  # a cap is reached, or the disk failed
                stop.request(reason)

    async def _enroll(self, request: Request, following: TaskGroup) -> None:
        """Reserve the request's money, and write its line to an input file."""
        stop, permits = self._delivery.stop, self._exchanges.permits
        tries = self._delivery.later.first_tries(request.row_id)
        permit = permits.acquire_for_batch_at_once(request.estimate)
        if permit is None:
            async with self._one_line:
                self._submit(following)  # its answers return the money
            self._waiting_for_money += 1
            with stop.interruptible():
                permit = await permits.acquire_for_batch(request.estimate)
            self._waiting_for_money -= 1
        if permit is None:
            return
        body, tokens = self._exchanges.body(request, tries), request.estimate.tokens
        async with self._one_line:
            submission = None if stop.is_set else await self._submission_for(len(body), tokens, following)
            if submission is None:
                permit.void()
                return
            enrolled = self._exchanges.enroll(request, tries, submission.submission_id, body)
            submission.add(enrolled, tokens)
            self._delivery.requests.accepted(request.request_key)
            is_probe = self._number == 1 and not self._is_proven.is_set()  # does the model take batches?
            if is_probe or self._waiting_for_money:
                self._submit(following)

    async def _submission_for(self, size_bytes: int, tokens: float, following: TaskGroup) -> OpenSubmission | None:
        """The submission that takes a line of that size. ``None``: the run stops."""
        filling = self._filling
        if filling is not None and not filling.has_room_for(size_bytes + 256, tokens, self._limits):
            self._submit(following)
        if self._filling is None:
            with self._delivery.stop.interruptible() as scope:
                await self._files.acquire()
            if scope.cancelled_caught or self._delivery.stop.is_set:
                return None
            self._number += 1
            submission_id = self._id_of(self._number)
            file = self._settings.folder / f"{submission_id}.jsonl"
            self._filling = OpenSubmission(submission_id, file=file)
        return self._filling

    def _id_of(self, number: int) -> str:
        return f"{self._settings.run_id}-b{number}"

    def _submit(self, following: TaskGroup) -> None:
        """Hand over the submission that is being filled."""
        filling, self._filling = self._filling, None
        if filling is not None:
            following.start_soon(self._follow, filling)

    # ---------------------------------------------------------------------------- one submission

    async def _follow(self, submission: OpenSubmission) -> None:
        """From the input file to the last answer."""
        try:
            if submission.file is not None:
                async with self._open_batches:
                    await self._through(submission, await self._handed_over(submission))
            else:
                await self._through(submission, await self._found(submission))
        except StopRun as reason:
            self._delivery.stop.request(reason)
            self._leave(submission)

    async def _through(self, submission: OpenSubmission, look: BatchLook | None) -> None:
        if look is None:
            return
        if self._cancels and not look.state.is_final:
            await self._calls.cancel(look.batch_id)
        ended = await self._until_ended(submission, look)
        if ended is not None:
            await self._calls.remove(ended)
            self._exchanges.end(submission.submission_id)

    async def _handed_over(self, submission: OpenSubmission) -> BatchLook | None:
        """Upload the input file and create its batch. ``None``: nothing was handed over."""
        stop, name = self._delivery.stop, submission.submission_id
        look: BatchLook | None = None
        try:
            with stop.interruptible():
                if name != self._id_of(1):
                    await self._is_proven.wait()
                async with self._uploads:
                    file_id = await self._uploaded(submission)
                    look = await self._created(submission, file_id)
        finally:
            submission.remove_file()
            self._files.release()
            if look is None and submission.is_unclear:
                self._leave(submission)
            elif look is None:
                self._withdrawn(submission)
        self._exchanges.submitted(len(submission.members), submission.retries)
        return look

    async def _uploaded(self, submission: OpenSubmission) -> str:
        if submission.file is None:
            raise RuntimeError("a submission of an earlier run has no input file")
        found = await self._calls.upload(submission.file, submission.file.name, self._limits.file_lifetime)
        if isinstance(found, BatchRefusal):
            raise stop_of(found)
        return found

    async def _created(self, submission: OpenSubmission, file_id: str) -> BatchLook:
        """Create the batch. Nothing cancels the time from the call to its durable answer."""
        step = Submission(submission.submission_id, SubmissionStep.CREATING, self._now(), file_id=file_id)
        found: BatchLook | BatchRefusal | None
        while True:
            await self._paced()
            with anyio.CancelScope(shield=True):
                await self._exchanges.note(step)
                submission.is_unclear = True
                found = await self._calls.create(step.submission_id, file_id) or await self._listed(step)
                submission.is_unclear = False
                if isinstance(found, BatchLook):
                    await self._exchanges.note(
                        replace(step, step=SubmissionStep.COMPLETE, batch_id=found.batch_id, at=self._now())
                    )
                    return found
                if found is not None and found.kind not in (BatchRefusalKind.QUOTA, BatchRefusalKind.AGAIN):
                    raise stop_of(found)
            wait = found.retry_after_seconds if isinstance(found, BatchRefusal) else None
            await anyio.sleep(wait or FIRST_LOOK_SECONDS)

    async def _paced(self) -> None:
        """Wait until a batch may be created by the provider's limit."""
        per_second = self._limits.creates_per_second
        if per_second is not None:
            at = max(loop_time(), self._next_create_at)
            self._next_create_at = at + 1 / per_second
            await anyio.sleep(max(0.0, at - loop_time()))

    async def _listed(self, step: Submission) -> BatchLook | None:
        """The batch that a create call without an answer may have made."""
        await anyio.sleep(max(0.0, LISTED_AFTER_SECONDS - (self._now() - step.at).total_seconds()))
        return await self._calls.find(step.submission_id)

    async def _found(self, submission: OpenSubmission) -> BatchLook | None:
        """The batch of a submission of an earlier run. ``None``: it was never created, and costs nothing."""
        step = self._exchanges.submissions.get(submission.submission_id)
        if step is not None and step.batch_id is not None:
            return await self._looked(step.batch_id)
        look = None if step is None else await self._listed(step)
        if look is None:
            self._ask_later(submission)
            self._exchanges.end(submission.submission_id)
            return None
        if step is not None:
            await self._exchanges.note(replace(step, step=SubmissionStep.COMPLETE, batch_id=look.batch_id))
        return look

    # ---------------------------------------------------------------------------- its answers

    async def _until_ended(self, submission: OpenSubmission, look: BatchLook) -> BatchLook | None:
        """Look until the batch has ended, and book its results. ``None``: it is left for another run."""
        seconds, read = FIRST_LOOK_SECONDS, 0
        while True:
            if look.state is not BatchState.PREPARING and look.state is not BatchState.FAILED:
                self._is_proven.set()
            if look.state is BatchState.FAILED:
                await self._failed(submission, look)
                return look
            done = look.counts.total - look.counts.pending
            if look.state.is_final or done - read > NEW_RESULTS_SHARE * look.counts.total:
                await self._read(submission, look)
                read = done
            if look.state.is_final:
                for exchange_id in list(submission.members):
                    self._end(submission, self._exchanges.ended(exchange_id, self._calls.dialect.unanswered(look)))
                return look
            if not await self._wait(submission, seconds):
                return None
            seconds = min(1.5 * seconds, LONGEST_LOOK_SECONDS)
            look = await self._looked(look.batch_id)

    async def _looked(self, batch_id: str) -> BatchLook:
        found = await self._calls.look(batch_id)
        if isinstance(found, BatchRefusal):
            raise stop_of(found)
        return found

    async def _wait(self, submission: OpenSubmission, seconds: float) -> bool:
        """Sleep until the next look. False: the run ends before the batch."""
        is_over = loop_time() - self._began_at >= self._settings.max_wait_seconds
        self._given_up += is_over
        may_leave = self._is_proven.is_set() and not self._settings.waits and not self._cancels
        if not (is_over or may_leave):
            with self._delivery.stop.interruptible() as scope:
                await anyio.sleep(seconds)
            if not scope.cancelled_caught and not self._delivery.stop.is_set:
                return True
        self._leave(submission)
        return False

    async def _read(self, submission: OpenSubmission, look: BatchLook) -> None:
        """Book the results that are new. Results in any order, repeated, or of foreign requests change nothing."""
        async with anyio.create_task_group() as booking:
            at_once = anyio.Semaphore(ANSWERS_AT_ONCE)

            async def book(result: BatchResult) -> None:
                async with at_once:
                    self._end(submission, await self._exchanges.answered(result.our_id, result))

            taken = set[str]()
            async for result in self._calls.results(look):
                if result.our_id in submission.members and result.our_id not in taken:
                    taken.add(result.our_id)
                    booking.start_soon(book, result)
                    if len(taken) % ANSWERS_AT_ONCE == 0:
                        await anyio.lowlevel.checkpoint()

    def _end(self, submission: OpenSubmission, classification: Classification) -> None:
        del submission.members[classification.intent.exchange_id]
        again = self._delivery.conclude(classification, is_repeatable=False)
        if again is not None:
            self._delivery.requests.ask_later(classification.intent, again.tries)

    # ---------------------------------------------------------------------------- submissions without answers

    async def _failed(self, submission: OpenSubmission, look: BatchLook) -> None:
        """The provider refused the whole batch: nothing was bought. A line that it names fails its own row."""
        refusal = look.refusal or BatchRefusal(BatchRefusalKind.REJECTED, "the provider gives no reason")
        if refusal.kind is BatchRefusalKind.LINES:
            self._is_proven.set()
            lines = submission.lines
            for number in refusal.lines:
                if number < len(lines):
                    fault: RowFault = RequestRejected(refusal.message)
                    self._end(submission, self._exchanges.ended(lines[number], fault))
        elif refusal.kind is BatchRefusalKind.QUOTA:
            self._is_proven.set()
            most = refusal.max_enqueued_tokens or int(submission.tokens / 2) or 1
            log.warning("the provider takes about %d prompt tokens in open batches: batches become smaller", most)
            self._limits = self._limits._replace(max_enqueued_tokens=most)
            with self._delivery.stop.interruptible():
                await anyio.sleep(QUOTA_SECONDS)
        elif refusal.kind is BatchRefusalKind.REJECTED and look.refusal is not None:
            self._narrow(submission, refusal.message)
        else:
            self._delivery.stop.request(stop_of(refusal))
        self._ask_later(submission)

    def _narrow(self, submission: OpenSubmission, message: str) -> None:
        """A line that the provider does not name is wrong: half of the lines, and at last the line alone, find it."""
        self._is_proven.set()
        if len(submission.members) == 1:
            self._end(submission, self._exchanges.ended(submission.lines[0], RequestRejected(message)))
        else:
            self._limits = self._limits._replace(max_lines=max(1, len(submission.members) // 2))

    def _ask_later(self, submission: OpenSubmission) -> None:
        """The rows are asked in a later pass: the provider has nothing of them."""
        self._to_ask += self._withdrawn(submission)

    def _withdrawn(self, submission: OpenSubmission) -> list[Intent]:
        """The members of a batch that was not created: their rows are pending."""
        members, submission.members = submission.members, {}
        return [self._exchanges.withdraw(exchange_id) for exchange_id in members]

    def _leave(self, submission: OpenSubmission) -> None:
        """Leave a submission for another run. Its bounds count as spent."""
        for exchange_id in submission.members:
            self._exchanges.leave_open(exchange_id)
        submission.members.clear()
