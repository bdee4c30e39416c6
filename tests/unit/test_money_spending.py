"""Money added up by state, model and day: always the same sum."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import reduce
from zoneinfo import ZoneInfo

from checkpoint_rows import an_intent
from hypothesis import given
from hypothesis import strategies as st

from batchvision.money.spending import NO_MODEL, Kind, Spending, Sum
from batchvision.records import Answer, Attempt, AttemptState, Exchange, RawAnswer, Usage

KINDS = st.builds(
    Kind,
    state=st.sampled_from([state.value for state in AttemptState]),
    error_kind=st.sampled_from([None, "truncated", "refused", "server_error"]),
    model=st.sampled_from([None, "grok-4.3", "grok-4.6"]),
    day=st.sampled_from(["2026-11-20", "2026-11-21"]),
)
SUMS = st.builds(Sum, st.integers(1, 9), st.integers(0, 10**12), st.integers(0, 10**12))


@given(parts=st.lists(st.tuples(KINDS, SUMS)))
def test_each_way_of_adding_gives_the_same_sum(parts: list[tuple[Kind, Sum]]) -> None:
    spending = Spending()
    for kind, each in parts:
        spending.add(kind, each)
    whole = reduce(Sum.plus, (each for _, each in parts), Sum())
    assert spending.total == whole
    for sums in (spending.by_state(), spending.by_model(), spending.by_day()):
        assert reduce(Sum.plus, sums.values(), Sum()) == whole
    good = spending.by_state().get("ok", Sum()).cost_ticks
    assert sum(each.cost_ticks for each in spending.wasted().values()) == whole.cost_ticks - good


def test_what_bought_nothing_is_named() -> None:
    spending = Spending()
    for state, kind in (("ok", None), ("retried", "empty"), ("failed", "truncated"), ("failed", None)):
        spending.add(Kind(state, kind, "m", "d"), Sum(1, 7, 0))
    spending.add(Kind("ambiguous", "interrupted", None, "d"), Sum(1, 0, 9))
    spending.add(Kind("failed", "request_rejected", None, "d"), Sum(1, 0, 0))
    assert spending.wasted() == {
        "ambiguous": Sum(1, 0, 9),
        "failed": Sum(1, 7, 0),
        "retried": Sum(1, 7, 0),
        "truncated": Sum(1, 7, 0),
    }
    assert spending.by_model()[NO_MODEL] == Sum(2, 0, 9)


def test_a_day_is_one_of_the_given_zone() -> None:
    at = datetime(2026, 11, 20, 23, 30, tzinfo=UTC)
    exchange = Exchange(an_intent(1, sent_at=at), answer=RawAnswer(200, {}, b"", at))
    attempt = Attempt(exchange, Answer(model="grok-4.3", usage=Usage(cost_ticks=5)), AttemptState.OK)
    for zone, day in ((UTC, "2026-11-20"), (ZoneInfo("Europe/Zurich"), "2026-11-21")):
        spending = Spending(zone)
        spending.take(attempt)
        assert spending.by_day() == {day: Sum(1, 5, 0)}
        assert spending.document()["by_state"] == {"ok": Sum(1, 5, 0)._asdict()}
