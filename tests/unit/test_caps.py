"""Several caps at once: all or none, the tightest named, a new day begins with nothing spent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from batchvision.caps import Caps, PeriodCap, day_of, month_of
from batchvision.money import SpendCap


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 30, 22, 30, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def test_without_caps_everything_is_allowed():
    caps = Caps()
    assert caps.reserve(10**18)
    assert caps.left_ticks is None
    caps.settle(10**18, None)


def test_a_cap_that_refuses_leaves_the_others_as_they_were():
    wide, narrow = SpendCap(1_000), SpendCap(50)
    caps = Caps([PeriodCap("max_cost_usd", wide), PeriodCap("max_cost_usd_per_run", narrow)])
    assert not caps.reserve(60)
    assert (wide.left_ticks, narrow.left_ticks) == (1_000, 50)
    assert caps.reserve(50)
    assert caps.left_ticks == 0


def test_a_day_is_the_jobs_own_and_begins_with_nothing_spent():
    clock = Clock()
    daily = SpendCap(100, spent_ticks=90)
    berlin = ZoneInfo("Europe/Berlin")
    caps = Caps([PeriodCap("max_cost_usd_per_day", daily, day_of(clock, berlin))])
    assert not caps.reserve(20)
    clock.now += timedelta(minutes=31)  # 00:01 in Berlin
    assert caps.reserve(20)
    caps.settle(20, 15)
    assert caps.left_ticks == 85


def test_what_is_in_flight_at_midnight_counts_in_the_new_day():
    clock = Clock()
    caps = Caps([PeriodCap("max_cost_usd_per_day", SpendCap(100), day_of(clock, UTC))])
    assert caps.reserve(60)
    clock.now += timedelta(hours=2)
    assert not caps.reserve(60)
    caps.settle(60, 60)
    assert caps.left_ticks == 40


def test_a_month_ends_where_the_jobs_month_ends():
    clock = Clock()
    caps = Caps([PeriodCap("max_cost_usd_per_month", SpendCap(100, 100), month_of(clock, ZoneInfo("Asia/Tokyo")))])
    assert not caps.reserve(1), "it is the first of December there already, and the month's 100 are spent"
    clock.now += timedelta(days=31)
    assert caps.reserve(1)


@given(
    st.lists(st.integers(0, 100), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=40),
)
def test_no_cap_is_exceeded_where_bills_keep_to_their_bounds(limits, requests):
    caps = [SpendCap(limit) for limit in limits]
    together = Caps([PeriodCap(f"cap {number}", cap) for number, cap in enumerate(caps)])
    for bound, real in requests:
        if together.reserve(bound):
            assert all(cap.spent_ticks + cap.leased_ticks <= (cap.cap_ticks or 0) for cap in caps)
            together.settle(bound, min(bound, real))
        else:
            assert any(cap.left_ticks == 0 or bound > (cap.left_ticks or 0) for cap in caps), "refused with money left"
    assert all(cap.spent_ticks <= (cap.cap_ticks or 0) for cap in caps)
