"""Spend caps: bounds and bills of one cap, several caps at once, new days and months, shares of shards."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from batchvision.limits import LocalSpendCap, SpendCaps, day_of, month_of, share_of
from batchvision.records import Shard


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 30, 22, 30, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def test_without_caps_any_request_is_allowed():
    caps = SpendCaps()
    assert caps.reserve(10**18)
    assert caps.left_ticks is None
    caps.settle(10**18, None)


def test_a_cap_that_refuses_leaves_the_other_caps_unchanged():
    wide, narrow = LocalSpendCap(1_000), LocalSpendCap(50, key="max_cost_usd_per_run")
    caps = SpendCaps([wide, narrow])
    assert not caps.reserve(60)
    assert (wide.left_ticks, narrow.left_ticks) == (1_000, 50)
    assert caps.reserve(50)
    assert caps.left_ticks == 0


def test_a_day_is_the_jobs_own_and_begins_with_nothing_spent():
    clock = Clock()
    caps = SpendCaps([LocalSpendCap(100, 90, "max_cost_usd_per_day", day_of(clock, ZoneInfo("Europe/Berlin")))])
    assert not caps.reserve(20)
    clock.now += timedelta(minutes=31)  # 00:01 in Berlin
    assert caps.reserve(20)
    caps.settle(20, 15)
    assert caps.left_ticks == 85


def test_a_request_in_flight_at_midnight_counts_in_the_new_day():
    clock = Clock()
    caps = SpendCaps([LocalSpendCap(100, 0, "max_cost_usd_per_day", day_of(clock, UTC))])
    assert caps.reserve(60)
    clock.now += timedelta(hours=2)
    assert not caps.reserve(60)
    caps.settle(60, 60)
    assert caps.left_ticks == 40


def test_a_month_ends_where_the_jobs_month_ends():
    clock = Clock()
    caps = SpendCaps([LocalSpendCap(100, 100, "max_cost_usd_per_month", month_of(clock, ZoneInfo("Asia/Tokyo")))])
    assert not caps.reserve(1), "it is the first of December there already, and the month's 100 are spent"
    clock.now += timedelta(days=31)
    assert caps.reserve(1)


@given(
    st.lists(st.integers(0, 100), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=40),
)
def test_no_cap_is_exceeded_where_bills_keep_to_their_bounds(limits, requests):
    caps = [LocalSpendCap(limit) for limit in limits]
    together = SpendCaps(caps)
    for bound, real in requests:
        if together.reserve(bound):
            assert all(cap.spent_ticks + cap.reserved_ticks <= (cap.cap_ticks or 0) for cap in caps)
            together.settle(bound, min(bound, real))
        else:
            assert any(cap.left_ticks == 0 or bound > (cap.left_ticks or 0) for cap in caps), "refused with money left"
    assert all(cap.spent_ticks <= (cap.cap_ticks or 0) for cap in caps)


# ---------------------------------------------------------------------------------- the share of a shard


def left_of(cap: int, spent: dict[str, int], shard: str) -> int | None:
    return share_of(cap, {Shard.named(name): ticks for name, ticks in spent.items()}, Shard.named(shard)).left_ticks


def test_the_whole_manifest_may_spend_the_money_left_by_all_shards():
    assert left_of(100, {}, "0of1") == 100
    assert left_of(100, {"0of1": 30, "0of2": 10, "3of4": 5}, "0of1") == 55
    assert left_of(100, {"0of1": 30, "0of2": 90}, "0of1") == 0


def test_a_shard_may_spend_its_part_of_the_money_that_other_divisions_left_minus_its_own():
    assert left_of(100, {}, "1of4") == 25
    assert left_of(100, {"0of1": 20, "0of4": 20, "1of4": 5}, "1of4") == 15
    assert left_of(100, {"0of1": 20, "0of4": 20, "1of4": 5}, "2of4") == 20


def test_a_sibling_that_spent_more_than_its_part_under_an_earlier_division_is_made_up_for():
    assert left_of(100, {"0of2": 50, "1of4": 30}, "0of2") == 0
    assert left_of(100, {"0of2": 50, "1of4": 30}, "1of2") == 20
    assert left_of(100, {"0of3": 90, "1of3": 4}, "2of3") == 5


def test_a_new_day_gives_a_shard_its_part_of_the_whole_cap():
    clock = Clock()
    spent, day = {Shard(0, 1): 80, Shard(1, 4): 5}, day_of(clock, UTC)
    caps = SpendCaps([share_of(100, spent, Shard(1, 4), "max_cost_usd_per_day", day)])
    assert caps.left_ticks == 0
    clock.now += timedelta(days=1)
    assert caps.left_ticks == 25


@given(
    cap=st.integers(1, 10_000),
    steps=st.lists(st.tuples(st.integers(1, 4), st.permutations(range(4)), st.integers(0, 100)), max_size=8),
)
def test_divisions_that_follow_each_other_never_exceed_the_cap(
    cap: int, steps: list[tuple[int, list[int], int]]
) -> None:
    """Each step: some shards of one division, all begun before any has spent; each spends a part of its share."""
    spent: dict[Shard, int] = {}
    for of, order, percent in steps:
        shards = [Shard(number, of) for number in order if number < of]
        shares = {shard: share_of(cap, spent, shard).left_ticks or 0 for shard in shards}
        for shard, share in shares.items():
            assert share_of(cap, spent, shard).left_ticks == share, "another shard's spending moved this one's share"
            spent[shard] = spent.get(shard, 0) + share * percent // 100
        assert sum(spent.values()) <= cap


# ---------------------------------------------------------------------------------- one cap


def test_without_a_cap_any_bound_is_reserved() -> None:
    cap = LocalSpendCap(None)

    assert cap.left_ticks is None
    assert cap.reserve(10**18)
    assert cap.reserve(None)


def test_bounds_are_set_aside_until_the_bill_comes() -> None:
    cap = LocalSpendCap(100, spent_ticks=10)

    assert cap.reserve(50)
    assert not cap.reserve(50)
    assert cap.left_ticks == 40
    cap.settle(50, 20)
    assert (cap.spent_ticks, cap.left_ticks) == (30, 70)


def test_a_void_request_gives_its_bound_back() -> None:
    cap = LocalSpendCap(100)
    assert cap.reserve(100)
    cap.release(100)

    assert cap.left_ticks == 100


def test_a_lost_bill_counts_as_its_bound() -> None:
    cap = LocalSpendCap(100)
    assert cap.reserve(60)
    cap.settle(60, None)

    assert cap.spent_ticks == 60


def test_a_bill_above_its_bound_counts_at_once_and_raises_every_bound() -> None:
    cap = LocalSpendCap(100)
    assert cap.reserve(10)
    assert cap.reserve(10)
    cap.settle(10, 40)

    assert cap.spent_ticks == 40
    assert cap.reserved_ticks == 40  # the other request in flight may cost as much
    assert not cap.reserve(10)
    cap.settle(10, 10)
    assert cap.reserve(10)


def test_an_unknown_bound_is_learned_from_the_first_bill() -> None:
    cap = LocalSpendCap(100)
    assert cap.reserve(None)
    cap.settle(None, 30)

    assert [cap.reserve(None) for _ in range(4)] == [True, True, False, False]


def test_no_request_is_allowed_when_no_money_is_left() -> None:
    assert not LocalSpendCap(0).reserve(None)
    assert not LocalSpendCap(100, spent_ticks=100).reserve(0)
    assert LocalSpendCap(100, spent_ticks=170).left_ticks == 0


def test_a_ticket_of_an_earlier_run_is_set_aside_even_beyond_the_cap() -> None:
    cap = LocalSpendCap(100, spent_ticks=90)
    cap.commit(30)

    assert cap.left_ticks == 0
    cap.settle(30, 5)
    assert cap.left_ticks == 5


def test_a_reservation_is_given_back_once() -> None:
    with pytest.raises(RuntimeError, match="given back twice"):
        LocalSpendCap(100).release(0)


class Spending(RuleBasedStateMachine):
    """P7: with honest bounds, spent + reserved never exceeds the cap, in any order of events."""

    def __init__(self) -> None:
        super().__init__()
        self.cap = LocalSpendCap(1000)
        self.open: list[int] = []
        self.billed = 0

    @rule(bound=st.integers(0, 400))
    def reserve(self, bound: int) -> None:
        if self.cap.reserve(bound):
            self.open.append(bound)

    @precondition(lambda self: bool(self.open))
    @rule(share=st.floats(0, 1), lost=st.booleans())
    def settle(self, share: float, lost: bool) -> None:
        bound = self.open.pop()
        real = int(bound * share)
        self.cap.settle(bound, None if lost else real)
        self.billed += bound if lost else real

    @precondition(lambda self: bool(self.open))
    @rule()
    def void(self) -> None:
        self.cap.release(self.open.pop(0))

    @invariant()
    def holds(self) -> None:
        assert self.cap.spent_ticks == self.billed
        assert self.cap.reserved_ticks == sum(self.open)
        assert self.billed + sum(self.open) <= 1000


TestSpending = Spending.TestCase
