"""Who leads, who waits, and who is shared with: identical requests are asked once."""

from __future__ import annotations

from collections import Counter

import pytest
from checkpoint_rows import a_completed, a_failed, an_intent
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from batchvision.checkpoint import KeySet
from batchvision.errors import PAID_FAILURES
from batchvision.keys import key_bytes
from batchvision.records import Completed, Estimate, Failed, Request
from batchvision.runner import waiting_rows as module
from batchvision.runner.waiting_rows import RequestDeduplicator, is_shared


def request(row_id: str, key: str) -> Request:
    return Request(row_id, key, "", b"an image of some MB", (), (), (), Estimate(1, None, None))


def answer(key: str, row_id: str = "a") -> Completed:
    return a_completed(an_intent(0, row_id=row_id, request_key=key), f"answer to {key}")


def failure(key: str, kind: str) -> Failed:
    return a_failed(an_intent(0, request_key=key), kind)


def answered(*keys: str) -> KeySet:
    return KeySet(key_bytes(key) for key in keys)


# ---------------------------------------------------------------------------------- the first, and those after it


def test_the_first_row_asks_and_the_others_wait_without_their_images():
    deduplicator = RequestDeduplicator(KeySet())
    assert deduplicator.answer_for(request("a", "k")) is False
    assert deduplicator.answer_for(request("b", "k")) is True
    assert deduplicator.answer_for(request("c", "k")) is True
    followers = deduplicator.ended("k", answer("k"))
    assert [(each.row_id, each.messages) for each in followers] == [("b", b""), ("c", b"")]


def test_rows_that_wait_are_bounded_in_all_and_their_room_comes_back(monkeypatch):
    monkeypatch.setattr(module, "MOST_FOLLOWERS", 2)
    deduplicator = RequestDeduplicator(KeySet())
    for key in ("k", "l"):
        assert deduplicator.answer_for(request(f"leader of {key}", key)) is False
        assert deduplicator.answer_for(request(f"follower of {key}", key)) is True
    assert deduplicator.is_full(request("c", "k"))
    assert not deduplicator.is_full(request("leader of k", "k")), "its own request is tried again"
    assert not deduplicator.is_full(request("d", "another"))
    assert [each.row_id for each in deduplicator.ended("l", failure("l", "timeout"))] == ["follower of l"]
    assert not deduplicator.is_full(request("c", "k"))


def test_rows_that_come_after_the_answer_have_it_at_once():
    deduplicator = RequestDeduplicator(KeySet())
    deduplicator.answer_for(request("a", "k"))
    shared_answer = answer("k")
    assert deduplicator.ended("k", shared_answer) == []
    assert deduplicator.answer_for(request("b", "k")) is shared_answer
    assert deduplicator.late == []


def test_another_request_is_asked_by_itself():
    deduplicator = RequestDeduplicator(KeySet())
    deduplicator.answer_for(request("a", "k"))
    assert deduplicator.answer_for(request("b", "other")) is False
    assert deduplicator.ended("other", answer("other")) == []


def test_a_leader_that_comes_again_asks_again_and_keeps_its_followers():
    """Its images were let go of between two tries."""
    deduplicator = RequestDeduplicator(KeySet())
    deduplicator.answer_for(request("a", "k"))
    deduplicator.answer_for(request("b", "k"))
    assert deduplicator.answer_for(request("a", "k")) is False
    assert [each.row_id for each in deduplicator.ended("k", answer("k"))] == ["b"]


def test_rows_wait_for_a_ticket_of_an_earlier_run():
    deduplicator = RequestDeduplicator(KeySet())
    deduplicator.accepted("k")
    assert deduplicator.answer_for(request("b", "k")) is True
    assert [each.row_id for each in deduplicator.ended("k", answer("k"))] == ["b"]


def test_rows_wait_for_a_ticket_of_this_run_before_and_after_it_is_given():
    deduplicator = RequestDeduplicator(KeySet())
    deduplicator.answer_for(request("a", "k"))
    deduplicator.answer_for(request("b", "k"))
    deduplicator.accepted("k")
    assert deduplicator.answer_for(request("c", "k")) is True
    assert [each.row_id for each in deduplicator.ended("k", answer("k"))] == ["b", "c"]


@pytest.mark.parametrize("followers", [[], ["b"]])
def test_a_row_whose_ticket_ended_without_an_outcome_asks_again_and_keeps_its_followers(followers):
    deduplicator = RequestDeduplicator(KeySet())
    deduplicator.answer_for(request("a", "k"))
    deduplicator.accepted("k")
    for row in followers:
        deduplicator.answer_for(request(row, "k"))
    deduplicator.lead("a", "k")
    assert deduplicator.answer_for(request("a", "k")) is False
    deduplicator.accepted("k")
    assert deduplicator.answer_for(request("c", "k")) is True
    assert [each.row_id for each in deduplicator.ended("k", answer("k"))] == [*followers, "c"]


def test_after_a_ticket_that_failed_the_next_row_leads_and_may_get_a_ticket_too():
    deduplicator = RequestDeduplicator(KeySet())
    for row in "ab":
        assert deduplicator.answer_for(request(row, "k")) is False
        deduplicator.accepted("k")
        assert deduplicator.answer_for(request("c", "k")) is True
        assert [each.row_id for each in deduplicator.ended("k", failure("k", "server_error"))] == ["c"]
    assert deduplicator.answer_for(request("c", "k")) is False


def test_after_a_failure_the_next_row_leads():
    deduplicator = RequestDeduplicator(KeySet())
    deduplicator.answer_for(request("a", "k"))
    deduplicator.answer_for(request("b", "k"))
    assert [each.row_id for each in deduplicator.ended("k", failure("k", "server_error"))] == ["b"]
    assert deduplicator.answer_for(request("b", "k")) is False
    assert deduplicator.answer_for(request("c", "k")) is True


def test_switched_off_every_row_asks_for_itself():
    deduplicator = RequestDeduplicator(answered("old"), is_on=False)
    deduplicator.accepted("k")
    assert [deduplicator.answer_for(request(row, key)) for row in "abc" for key in ("k", "old")] == [False] * 6
    assert deduplicator.ended("k", answer("k")) == []
    assert deduplicator.answer_for(request("d", "k")) is False


# ---------------------------------------------------------------------------------- answers on the disk


def test_what_an_earlier_run_has_an_answer_for_is_read_from_the_disk_and_not_asked():
    deduplicator = RequestDeduplicator(answered("k"))
    assert deduplicator.answer_for(request("b", "k")) is True
    assert [(each.row_id, each.messages) for each in deduplicator.late] == [("b", b"")]
    assert [each.row_id for each in deduplicator.take_late()] == ["b"]
    assert deduplicator.take_late() == []


def test_where_the_answer_is_not_on_the_disk_after_all_its_rows_are_asked_once():
    deduplicator = RequestDeduplicator(answered("k"))
    deduplicator.answer_for(request("b", "k"))
    deduplicator.take_late()
    deduplicator.not_found("k")
    assert deduplicator.answer_for(request("b", "k")) is False
    assert deduplicator.answer_for(request("c", "k")) is True
    assert deduplicator.late == []


def test_an_answer_that_memory_has_let_go_of_is_read_from_the_disk_and_never_asked_again(monkeypatch):
    monkeypatch.setattr(module, "ANSWERS_KEPT", 3)
    deduplicator = RequestDeduplicator(KeySet())
    for number in range(5):
        deduplicator.answer_for(request(f"row{number}", f"k{number}"))
        deduplicator.ended(f"k{number}", answer(f"k{number}"))
    said = [deduplicator.answer_for(request(f"twin{number}", f"k{number}")) for number in range(5)]
    assert said[:2] == [True, True]
    assert [each.answer.text for each in said[2:] if isinstance(each, Completed)] == [
        f"answer to k{number}" for number in (2, 3, 4)
    ]
    assert [each.row_id for each in deduplicator.late] == ["twin0", "twin1"]


# ---------------------------------------------------------------------------------- what is shared


@pytest.mark.parametrize("kind", sorted(PAID_FAILURES | {"request_rejected"}))
def test_a_failure_that_asking_again_would_only_pay_for_again_is_shared(kind):
    assert is_shared(failure("k", kind))


@pytest.mark.parametrize("kind", ["attempts_exhausted", "server_error", "timeout", "image_unreadable"])
def test_a_failure_that_another_row_may_be_spared_is_not(kind):
    assert not is_shared(failure("k", kind))


def test_an_answer_is_shared():
    assert is_shared(answer("k"))


# ---------------------------------------------------------------------------------- whatever the order


class AnyOrder(RuleBasedStateMachine):
    """Rows come, requests end, the disk is read, in any order: nobody is asked twice for one answer, none forgotten."""

    KEYS = st.sampled_from(["k0", "k1", "k2"])
    OLD = "k2"  #: has an answer since an earlier run

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(module, "ANSWERS_KEPT", 1)
        self.deduplicator = RequestDeduplicator(answered(self.OLD))
        self.under_way: dict[str, Request] = {}
        self.waiting: dict[str, Request] = {}
        self.served: set[str] = set()
        self.failed: set[str] = set()
        self.bought: Counter[str] = Counter()
        self.rows = 0

    @rule(key=KEYS)
    def a_row_comes(self, key: str) -> None:
        self.rows += 1
        self._come(request(f"row{self.rows}", key))

    def _come(self, asked: Request) -> None:
        match self.deduplicator.answer_for(asked):
            case Completed() as shared:
                assert shared.request_key == asked.request_key
                self.served.add(asked.row_id)
            case True:
                self.waiting[asked.row_id] = asked
            case False:
                assert asked.request_key not in self.under_way, "asked while it is under way"
                assert not self.bought[asked.request_key], "asked for what is answered"
                assert asked.request_key != self.OLD
                self.under_way[asked.request_key] = asked

    @precondition(lambda self: self.under_way)
    @rule(choose=st.integers(0, 2))
    def a_request_gets_a_ticket(self, choose: int) -> None:
        self.deduplicator.accepted(sorted(self.under_way)[choose % len(self.under_way)])

    @precondition(lambda self: self.under_way)
    @rule(choose=st.integers(0, 2), is_answer=st.booleans())
    def a_request_ends(self, choose: int, is_answer: bool) -> None:
        key, leader = sorted(self.under_way.items())[choose % len(self.under_way)]
        del self.under_way[key]
        self.bought[key] += is_answer
        followers = self.deduplicator.ended(key, answer(key) if is_answer else failure(key, "attempts_exhausted"))
        assert all(each.request_key == key for each in followers)
        (self.served if is_answer else self.failed).add(leader.row_id)
        for each in followers:
            del self.waiting[each.row_id]
            if is_answer:
                self.served.add(each.row_id)
            else:
                self._come(each)

    @rule()
    def the_disk_is_read(self) -> None:
        for each in self.deduplicator.take_late():
            assert self.bought[each.request_key] or each.request_key == self.OLD
            del self.waiting[each.row_id]
            self.served.add(each.row_id)

    @invariant()
    def every_row_is_somewhere_once(self) -> None:
        asking = {each.row_id for each in self.under_way.values()}
        assert len(asking) + len(self.waiting) + len(self.served) + len(self.failed) == self.rows
        assert all(times <= 1 for times in self.bought.values())

    @invariant()
    def whoever_waits_waits_for_something(self) -> None:
        late = {each.row_id for each in self.deduplicator.late}
        assert all(each.request_key in self.under_way or row in late for row, each in self.waiting.items())

    def teardown(self) -> None:
        self.patch.undo()


TestInAnyOrder = AnyOrder.TestCase
TestInAnyOrder.settings = settings(max_examples=40, stateful_step_count=25)
