"""Open exchanges come back as they were put, and the differences between seals add up to them."""

from __future__ import annotations

from checkpoint_rows import START, an_answer, an_intent
from hypothesis import given
from hypothesis import strategies as st

from batchvision.checkpoint.journal_records import ExchangeRemoved
from batchvision.checkpoint.tracked import OpenExchanges, Packed, Tracked
from batchvision.records import Exchange

CELLS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


def accepted(number: int, **changes: object) -> Exchange:
    return Exchange(an_intent(number)._replace(**changes), ticket=f"t{number}", ticket_at=START, ticket_place="here")


@given(cells=st.lists(st.dictionaries(st.text(max_size=3), CELLS, max_size=3), max_size=4))
def test_accepted_work_comes_back_as_it_was_put(cells):
    exchanges = [accepted(number, keep=each) for number, each in enumerate(cells)]
    open_ = OpenExchanges()
    for exchange in exchanges:
        open_.put(exchange)
    assert [open_[f"x{number}"] for number in range(len(cells))] == exchanges
    assert list(open_.accepted()) == exchanges
    assert [open_.take(exchange_id) for exchange_id in list(open_)] == exchanges
    assert len(open_) == 0


def test_an_exchange_is_a_ticket_from_its_ticket_to_its_answer():
    open_ = OpenExchanges([Exchange(an_intent(1)), accepted(2)])
    assert (open_.tickets, [each.intent.exchange_id for each in open_.others]) == (["x2"], ["x1"])
    open_.put(open_["x2"]._replace(answer=an_answer()))
    assert (open_.tickets, [each.intent.exchange_id for each in open_.others]) == ([], ["x1", "x2"])


def test_a_cut_has_the_accepted_work_of_its_moment():
    open_ = OpenExchanges([accepted(1)])
    open_.put(accepted(2))
    open_.put(Exchange(an_intent(3)))
    open_.take("x1")
    intent, packed, removed = list(open_.cut())
    open_.take("x2")
    assert (intent, removed) == (an_intent(3), ExchangeRemoved("x1"))
    assert isinstance(packed, Packed)
    assert next(packed.records()) == an_intent(2)
    assert list(open_.cut()) == [Packed((), packed.like), ExchangeRemoved("x2")]


@given(steps=st.lists(st.tuples(st.sampled_from(["set", "take", "cut"]), st.integers(0, 3)), max_size=30))
def test_the_differences_of_a_tracked_mapping_add_up_to_it(steps):
    tracked: Tracked[int, int] = Tracked({0: -1, 1: -2})
    model, replayed = {0: -1, 1: -2}, {0: -1, 1: -2}
    values = {-1: 0, -2: 1}  # of each value its key
    for number, (step, key) in enumerate([*steps, ("cut", 0)]):
        if step == "set":
            tracked[key] = model[key] = number
            values[number] = key
        elif step == "take" and key in model:
            assert tracked.take(key) == model.pop(key)
        elif step == "cut":
            put, removed = tracked.cut()
            assert set(removed) <= set(replayed), "a key that no cut had was removed"
            for each in removed:
                del replayed[each]
            replayed |= {values[value]: value for value in put}
            assert replayed == model
            assert not tracked.has_changed
        assert dict(tracked) == tracked.copy() == model
        assert len(tracked) == len(model)
