"""The steps of one row in any lane: sent or not, an outcome shared, spared in an outage, stopped by many failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest
from checkpoint_rows import a_completed, a_failed, an_attempt, an_intent
from virtual_time import VIRTUAL

from batchvision.checkpoint import Carried, KeySet, RowFailed, RowState, Shared
from batchvision.checkpoint.journal_records import closed
from batchvision.errors import AttemptsExhausted, OutOfCredit, RowInvalid, ServerError, TooManyFailures
from batchvision.eventloop import ByteBudget, HeldBytes, threads
from batchvision.keys import key_bytes, row_digest
from batchvision.limits import OUTAGE_AFTER_FAILURES
from batchvision.records import (
    AttemptState,
    Completed,
    Estimate,
    Failed,
    Intent,
    Outcome,
    Recipe,
    Request,
    Row,
    Tries,
)
from batchvision.runner.booking import Booking, RunCounts
from batchvision.runner.classify import Classification, Classifier
from batchvision.runner.feed import Selection
from batchvision.runner.lanes.delivery import ENDED_BEFORE_SHARE_COUNTS, Delivery, next_row
from batchvision.runner.prepare import RowRequests
from batchvision.runner.provider_calls import Terms
from batchvision.runner.refusals import Refusals, RefusedRows
from batchvision.runner.retry import Again, RetryPolicy, Stop
from batchvision.runner.waiting_rows import LaterRows, RequestDeduplicator
from batchvision.stopping import LocalStopSignal, StopSignal

pytestmark = pytest.mark.anyio

EXHAUSTED = AttemptsExhausted.kind


@pytest.fixture
def anyio_backend():
    return ("asyncio", VIRTUAL)


def row(row_id: str) -> Row:
    return Row(1, row_id, ("What is it?",), (), (), f"skip {row_id}")


class StoreInMemory:
    """Stands in for the store: what was booked, shared and failed, by row."""

    def __init__(self, counts: RunCounts) -> None:
        self.counts = counts
        self.booked: list[tuple[str, Outcome | None]] = []
        self.shared: list[str] = []
        self.failed: list[str] = []
        self.kept: list[str] = []
        self.on_disk: dict[str, list[Completed]] = {}

    def book(self, exchange_id: str, classification: Classification, hold: bool = False) -> None:
        self.booked.append((classification.intent.row_id, classification.outcome))
        self.counts.apply(closed(classification), classification.exchange)

    def share(self, completed: Completed) -> None:
        self.shared.append(completed.row_id)
        self.counts.apply(Shared(completed), None)

    def file(self, failed: Failed, *, is_correction: bool = False) -> bool:
        (self.shared if "asked once" in failed.error_message else self.failed).append(failed.row_id)
        self.counts.apply(RowFailed(failed, is_correction), None)
        return True

    def keep_failed(self, row_id: str, request_key: str, skip_key: str) -> None:
        self.kept.append(row_id)

    async def answers(self, wanted: set[str], offload: object) -> Mapping[str, Sequence[Completed]]:
        return {key: self.on_disk[key] for key in wanted if key in self.on_disk}

    @property
    def ends(self) -> dict[str, str]:
        return {
            row_id: "completed" if isinstance(outcome, Completed) else outcome.error_kind
            for row_id, outcome in self.booked
            if outcome is not None
        }


class Requests:
    """In the place of a preparer: a row's key is the first letter of its id; rows that are ``bad`` have a fault."""

    bad = "bad"

    async def prepare(self, row: Row) -> Request:
        if row.row_id == self.bad:
            raise RowInvalid("it is bad")
        return Request(row.row_id, row.row_id[0], row.skip_key, b"[]", (), (), (), Estimate(1, None, None))


class Before:
    """Stands in for a row index: what earlier runs know of a row."""

    def __init__(self) -> None:
        self.states: dict[str, RowState] = {}
        self.kept: list[str] = []

    def meet(self, row_id: str, key: str) -> None:
        pass

    def state(self, row_id: str, key: str) -> RowState:
        return self.states.get(row_id, RowState.NEW)

    def failed_before(self, row_id: str, key: str) -> Failed:
        return a_failed(an_intent(1, row_id=row_id), quarantined=True)

    def keep_failed(self, row_id: str, key: str, skip_key: str | None = None) -> None:
        self.kept.append(row_id)

    def carried(self, row_id: str, key: str) -> Carried:
        return Carried()


class DeliveryBench:
    """A delivery with its parts; the store, the row index and the rate limiter are stand-ins."""

    def __init__(self, answered: KeySet | None = None, *, wants_failed: bool = False) -> None:
        self.before, self.counts, self.stop = Before(), RunCounts("run1"), LocalStopSignal()
        self.store = StoreInMemory(self.counts)
        self.counters = self.counts.counters
        self.failures_in_a_row = 0
        self.allows = True
        self.later = LaterRows()
        terms = Terms("run1", Recipe("xai", "m", None, "What?", None, recipe_id="recipe"), (), 1.0)
        deduplicator = RequestDeduplicator(answered or KeySet())
        store, row_index, preparer = cast(Any, self.store), cast(Any, self.before), cast(Any, Requests())
        booking = Booking(terms, store, row_index, self.counts, deduplicator, self.later, threads())
        selection = Selection(retry_quarantined=wants_failed)  # of a failure that is quarantined
        self.requests = RowRequests(preparer, row_index, selection, booking, deduplicator, self.later, self.stop)
        classifier = Classifier({}, RetryPolicy())
        refused = RefusedRows(Refusals(), booking.book, classifier.of_the_row, self.stop.request)
        exchanges = cast(Any, SimpleNamespace(permits=SimpleNamespace(rate=self)))
        self.delivery = Delivery(
            exchanges, self.requests, booking, refused, self.later, lambda failed, ended: self.allows, self.stop
        )

    async def asked(self, *row_ids: str) -> list[str]:
        """Those of the rows that are to be sent."""
        room = HeldBytes(ByteBudget(), 0)
        found = [await self.requests.request_of(row(row_id), room) for row_id in row_ids]
        return [request.row_id for request in found if request is not None]

    def concludes(
        self, row_id: str, kind: str | None = None, step: Again | Stop | None = None, *, ends: bool = True
    ) -> Again | None:
        """The row's attempt is over: answered, or failed with ``kind``; and the row with it, if that ``ends`` it."""
        intent = an_intent(1, row_id=row_id, request_key=row_id[0])
        return self.delivery.conclude(_classification(intent, kind, step, ends=ends))

    @property
    def again(self) -> frozenset[bytes]:
        """The rows of the next pass."""
        return self.later.waiting


def _classification(intent: Intent, kind: str | None, step: Again | Stop | None, *, ends: bool) -> Classification:
    if kind is None:
        return Classification(an_attempt(intent), a_completed(intent), step, None)
    attempt = an_attempt(intent, AttemptState.FAILED if ends else AttemptState.RETRIED, error_kind=kind)
    return Classification(attempt, a_failed(intent, kind) if ends else None, step, ServerError("boom"))


def digests(*row_ids: str) -> set[bytes]:
    return {row_digest(row_id, "") for row_id in row_ids}


# ---------------------------------------------------------------------------------- before the wire


async def test_only_rows_that_have_no_end_yet_are_sent():
    bench = DeliveryBench()
    states = (RowState.DONE, RowState.FAILED, RowState.AWAITING, RowState.HELD, RowState.NEW)
    bench.before.states = dict(zip("abcde", states, strict=True))
    assert await bench.asked(*"abcde") == ["e"]
    assert (bench.counters.rows_done_before, bench.counters.rows_failed, bench.counters.rows_quarantined) == (1, 1, 1)
    assert bench.store.kept == ["b"]


async def test_a_row_that_failed_before_is_sent_where_it_is_wanted():
    bench = DeliveryBench(wants_failed=True)
    bench.before.states = {"a": RowState.FAILED}
    assert await bench.asked("a") == ["a"]
    assert bench.store.kept == []


async def test_a_row_with_a_fault_of_its_own_fails_and_nothing_is_sent():
    bench = DeliveryBench()
    assert await bench.asked("bad", "a") == ["a"]
    assert bench.store.failed == ["bad"]


async def test_the_stream_of_rows_ends_with_the_stop():
    send, receive = anyio.create_memory_object_stream[Row](1)
    stop = LocalStopSignal()
    with send, receive:
        send.send_nowait(row("a"))
        assert await next_row(receive, stop) == row("a")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_stop_soon, stop)
            assert await next_row(receive, stop) is None


async def _stop_soon(stop: StopSignal) -> None:
    await anyio.sleep(5)
    stop.request(OutOfCredit("none left"))


# ---------------------------------------------------------------------------------- an end is shared


async def test_a_rows_answer_is_that_of_all_who_ask_the_same():
    bench = DeliveryBench()
    assert await bench.asked("a1", "a2", "b1", "a3") == ["a1", "b1"]
    bench.concludes("a1")
    assert bench.store.shared == ["a2", "a3"]
    assert await bench.asked("a4") == []
    assert bench.store.shared == ["a2", "a3", "a4"]


async def test_a_paid_failure_is_shared_and_another_lets_the_others_ask():
    bench = DeliveryBench()
    await bench.asked("a1", "a2", "b1", "b2")
    bench.concludes("a1", "refused")
    bench.concludes("b1", "image_unreachable")
    assert bench.store.shared == ["a2"]
    assert bench.again == digests("b2")
    assert bench.later.first_tries("b2") == Tries()
    assert bench.again == set()


async def test_a_row_of_the_next_pass_keeps_its_tries_and_one_that_is_not_met_there_is_not_waited_for():
    bench = DeliveryBench()
    bench.later.add("a", Tries(spent=2))
    bench.later.add("b", Tries(spent=3))
    assert bench.later.next_pass() == digests("a", "b")
    assert bench.later.first_tries("a") == Tries(spent=2)
    assert bench.later.first_tries("a") == Tries(), "once"
    assert bench.later.next_pass() == frozenset(), "b was not met: no pass after pass for it"


async def test_answers_of_earlier_runs_are_read_from_the_disk_once_for_all_late_rows():
    bench = DeliveryBench(KeySet(map(key_bytes, "ab")))
    bench.store.on_disk = {"a": [a_completed(an_intent(1, row_id="a0", request_key="a"))]}
    assert await bench.asked("a0", "a1", "b1") == []
    await bench.requests.serve_late()
    assert bench.store.shared == ["a1"]
    assert bench.counters.rows_done_before == 1, "its own answer: nothing is shared with itself"
    assert bench.again == digests("b1"), "no answer is there after all"
    assert await bench.asked("b1") == ["b1"]


# ---------------------------------------------------------------------------------- outages


async def test_a_row_out_of_attempts_in_a_streak_fails_when_somebody_else_is_answered():
    bench = DeliveryBench()
    bench.failures_in_a_row = 3
    bench.concludes("a", EXHAUSTED)
    assert bench.store.ends == {}
    bench.failures_in_a_row = 0
    bench.concludes("b")
    assert bench.store.ends == {"b": "completed", "a": EXHAUSTED}
    assert bench.again == set()


async def test_rows_that_failed_in_an_outage_are_asked_again_once():
    bench = DeliveryBench()
    bench.failures_in_a_row = OUTAGE_AFTER_FAILURES - 1
    bench.concludes("a", EXHAUSTED)
    bench.failures_in_a_row = OUTAGE_AFTER_FAILURES
    bench.concludes("b", EXHAUSTED)
    assert bench.again == digests("a", "b")
    assert bench.store.booked == [("a", None), ("b", None)], "their attempts are listed, the rows have not ended"
    bench.concludes("a", EXHAUSTED)
    assert bench.store.ends == {"a": EXHAUSTED}, "a row is spared once"


async def test_another_failure_is_no_suspect_even_in_a_streak():
    bench = DeliveryBench()
    bench.failures_in_a_row = 3
    bench.concludes("a", "request_rejected")
    assert bench.store.ends == {"a": "request_rejected"}


@pytest.mark.parametrize(("is_stopped", "streak"), [(True, 3), (True, 0), (False, 3)])
async def test_suspects_stay_pending_only_where_the_run_stops_in_the_streak(is_stopped: bool, streak: int):
    bench = DeliveryBench()
    bench.failures_in_a_row = 3
    bench.concludes("a", EXHAUSTED)
    if is_stopped:
        bench.stop.request(OutOfCredit("none left"))
    bench.failures_in_a_row = streak
    bench.delivery.end_suspects()
    assert bench.store.ends == ({} if is_stopped and streak else {"a": EXHAUSTED})
    assert Counter(row_id for row_id, _ in bench.store.booked) == {"a": 1}


# ---------------------------------------------------------------------------------- what follows


async def test_a_step_is_handed_to_the_caller_or_stops_the_run():
    bench = DeliveryBench()
    again = Again(2.0, Tries(spent=2))
    assert bench.concludes("a", "server_error", again, ends=False) is again
    assert not bench.stop.is_set
    assert bench.concludes("a", "out_of_credit", Stop(OutOfCredit("none left")), ends=False) is None
    assert isinstance(bench.stop.reason, OutOfCredit)


async def test_too_many_failures_stop_the_run_once_enough_rows_have_ended():
    bench = DeliveryBench()
    bench.allows = False
    bench.counters.rows_failed_at_provider = ENDED_BEFORE_SHARE_COUNTS - 2
    bench.counters.rows_completed = 1
    bench.concludes("a", "refused")
    assert not bench.stop.is_set, "a share of few rows says nothing"
    bench.counters.rows_completed = 2
    bench.concludes("b", "refused")
    assert isinstance(bench.stop.reason, TooManyFailures)
    assert "--status failed" in str(bench.stop.reason)


async def test_a_pause_before_a_retry_ends_with_the_stop():
    bench = DeliveryBench()
    assert await bench.delivery._pause(1.0) is True
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_soon, bench.stop)
        assert await bench.delivery._pause(1_000.0) is False
