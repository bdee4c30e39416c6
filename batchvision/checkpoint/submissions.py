"""The records of the batch lane's submissions in the journal of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from batchvision.checkpoint.journal_records import Accepted, Submission, SubmissionEnded
from batchvision.checkpoint.replicated_tickets import ReplicatedTickets
from batchvision.checkpoint.run_state import RunState
from batchvision.checkpoint.writer import Writer
from batchvision.records import Intent


class SubmissionRecords:
    """``place`` is the base URL of the run. A submission is collected where it was made."""

    def __init__(self, writer: Writer, run_state: RunState, place: str | None, replicated: ReplicatedTickets) -> None:
        self._writer = writer
        self._run_state = run_state
        self._place = place
        self._replicated = replicated

    @property
    def open(self) -> Mapping[str, Submission]:
        """The submissions that have not ended, by submission_id."""
        return self._run_state.submissions

    def enroll(self, intent: Intent, submission_id: str) -> None:
        """Note the intent of a request that a submission will hold. :meth:`note` makes it durable."""
        self._writer.note(intent)
        self._writer.note(Accepted(intent.exchange_id, submission_id, intent.sent_at, self._place))

    async def note(self, submission: Submission) -> None:
        """Return when the step and the intents before it outlive this machine (P2). Raises StopRun."""
        await self._writer.ready()
        await self._writer.durable(replace(submission, place=self._place))
        self._replicated.add(submission.submission_id)
        await self._replicated.outlasts(submission.submission_id)
        self._writer.check_disk()
        self._writer.check_lock()

    def end(self, submission_id: str) -> None:
        self._writer.note(SubmissionEnded(submission_id))

    def end_without_members(self) -> None:
        """End the submissions that a crash has left without an open exchange."""
        tickets = {exchange.ticket for exchange in self._run_state.open.accepted()}
        for submission_id in set(self.open) - tickets:
            self.end(submission_id)
