"""The budget that processes share, in virtual time: slots, fair parts, learning, money, crashes, clocks."""

from __future__ import annotations

import random
from bisect import bisect_left
from dataclasses import dataclass, field

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from batchvision.limits.budget import AHEAD_SECONDS, LATE_SECONDS, Budget, Event, Member, MemberReport, Offer

NAMES = ("a", "b", "c")


def member(name: str, per_second: float | None = 100.0, tokens: float | None = None, **caps: int) -> Member:
    return Member(f"/out/{name}|0of1", 1, Offer(per_second, tokens, caps))


def joined(*members: Member) -> Budget:
    budget = Budget()
    for each in members:
        budget.join(each.name.split("/")[2][0], each, {}, 0.0)
    return budget


@dataclass
class Simulated:
    """Members that exchange at their own intervals. ``demand``: requests a second of a member; infinite if absent."""

    budget: Budget
    rng: random.Random
    demand: dict[str, float] = field(default_factory=dict)
    slots: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in NAMES})
    usable: list[float] = field(default_factory=list)  #: the time of a slot, or that of its grant if it is later
    tokens: float = 0.0
    now: float = 0.0
    exchanges: int = 0
    _unmet: dict[str, float] = field(default_factory=dict)
    _asked_at: dict[str, float] = field(default_factory=dict)

    def run(self, seconds: float, names: tuple[str, ...] = NAMES, *, tokens: float = 0.0, pause: float = 0.0) -> None:
        end = self.now + seconds
        due = {name: self.now + self.rng.uniform(0, 0.1) for name in names}
        while (name := min(due, key=lambda each: due[each])) and due[name] < end:
            self.now = due[name]
            self._exchange(name, tokens)
            due[name] += self.rng.uniform(0.08, 0.13) + (pause if self.rng.random() < 0.05 else 0.0)
        self.now = end

    def _exchange(self, name: str, tokens: float) -> None:
        wanted = 64.0
        if name in self.demand:
            new = self.demand[name] * (self.now - self._asked_at.get(name, self.now))
            wanted = self._unmet[name] = self._unmet.get(name, 0.0) + new
        self._asked_at[name] = self.now
        grant = self.budget.exchange(name, MemberReport(wanted=[tokens] * int(wanted)), self.now)
        if name in self.demand:
            self._unmet[name] -= len(grant.slots)
        self.exchanges += 1
        self.slots[name] += grant.slots
        self.usable += [max(at, self.now) for at in grant.slots]
        self.tokens += grant.tokens

    def total(self, since: float = 0.0) -> int:
        return sum(len([at for at in each if at >= since]) for each in self.slots.values())


def worst_second(times: list[float]) -> int:
    times = sorted(times)
    return max((bisect_left(times, at + 1.0) - place for place, at in enumerate(times)), default=0)


# ---------------------------------------------------------------------------------- slots


@settings(max_examples=60, deadline=None)
@given(st.floats(0.5, 2_000), st.integers(1, 3), st.floats(0, 0.6), st.integers(0, 99))
def test_no_second_has_more_slots_than_the_limit(per_second, members, pause, seed):
    names = NAMES[:members]
    run = Simulated(joined(*(member(name, per_second) for name in names)), random.Random(seed))
    run.run(8.0, names, pause=pause)
    assert worst_second([at for each in run.slots.values() for at in each]) <= per_second + 1
    assert worst_second(run.usable) <= per_second * (1 + LATE_SECONDS) + 2


@pytest.mark.parametrize("per_second", [2.0, 20.0, 100.0, 1_000.0])
def test_three_equal_members_get_a_third_each_and_use_the_whole_limit(per_second):
    run = Simulated(joined(*(member(name, per_second) for name in NAMES)), random.Random(1))
    run.run(60.0)
    total = run.total()
    assert total >= 0.97 * 60 * per_second
    assert all(0.9 * total / 3 <= len(each) <= 1.1 * total / 3 for each in run.slots.values())


def test_200_members_use_100_000_requests_a_minute_with_at_most_2_000_exchanges_a_second():
    per_second, names = 100_000 / 60, tuple(f"{number:03}" for number in range(200))
    budget = Budget()
    for name in names:
        budget.join(name, member(name, per_second), {}, 0.0)
    run = Simulated(budget, random.Random(7), slots={name: [] for name in names})
    run.run(4.0, names)
    slots = [at for each in run.slots.values() for at in each]
    assert run.exchanges <= 2_000 * 4
    assert len([at for at in slots if 1.0 <= at < 4.0]) >= 0.95 * 3 * per_second
    assert worst_second(slots) <= 1.1 * per_second
    assert worst_second(run.usable) <= 1.1 * per_second


def test_a_member_with_little_to_do_gets_all_it_wants_and_leaves_the_rest():
    run = Simulated(joined(*map(member, NAMES)), random.Random(2), {"a": 10.0})
    run.run(60.0)
    assert len(run.slots["a"]) >= 0.95 * 10 * 60
    assert run.total() >= 0.97 * 60 * 100
    assert len(run.slots["b"]) == pytest.approx(len(run.slots["c"]), rel=0.1)


def test_members_that_go_on_take_the_part_of_a_killed_one_within_a_second():
    run = Simulated(joined(*map(member, NAMES)), random.Random(3))
    run.run(20.0)
    run.run(20.0, ("a", "b"))  # nothing is known of the death of c
    after = [at for name in "ab" for at in run.slots[name] if at >= 21.0]
    assert len(after) >= 0.97 * 19 * 100
    assert all(len([at for at in run.slots[name] if at >= 21.0]) >= 0.45 * len(after) for name in "ab")


def test_a_member_that_joins_late_does_not_make_up_for_its_absence():
    run = Simulated(joined(member("a"), member("b")), random.Random(4))
    run.run(30.0, ("a", "b"))
    run.budget.join("c", member("c"), {}, run.now)
    run.run(30.0)
    late = {name: len([at for at in each if at >= 30.5]) for name, each in run.slots.items()}
    assert all(count == pytest.approx(sum(late.values()) / 3, rel=0.1) for count in late.values())


def test_the_smallest_limit_of_the_members_holds_while_its_job_runs():
    run = Simulated(joined(member("a", 100), member("b", 30), member("c", None)), random.Random(5))
    run.run(10.0)
    assert run.total() == pytest.approx(300, rel=0.05)
    run.budget.leave("b", run.now)
    run.run(10.0, ("a", "c"))
    assert run.total(10.5) >= 0.95 * 950


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-3_600, 86_400), min_size=1, max_size=4), st.integers(0, 99))
def test_a_clock_that_jumps_neither_stops_the_slots_nor_makes_a_burst(jumps, seed):
    run = Simulated(joined(*map(member, NAMES)), random.Random(seed))
    run.now = 100_000.0
    run.run(3.0)
    for jump in jumps:
        run.now += jump
        run.usable.clear()
        run.run(3.0)
        assert 0.85 * 300 <= len(run.usable) <= 1.1 * 300 + AHEAD_SECONDS * 100


# ---------------------------------------------------------------------------------- tokens and learning


def test_tokens_are_one_bucket_for_all_and_shared_fairly():
    run = Simulated(joined(*(member(name, None, 60_000) for name in NAMES)), random.Random(6))
    run.run(60.0, tokens=500.0)
    assert 0.9 * 60_000 <= run.tokens <= 60_000 + 5_000 + 500
    tags = [each.tag for each in run.budget.members.values()]
    assert max(tags) - min(tags) <= 0.1 * sum(tags) / 3


def test_tokens_that_a_request_did_not_use_return_to_all():
    budget = joined(member("a", None, 60_000), member("b", None, 60_000))
    assert budget.exchange("a", MemberReport(wanted=[5_000.0]), 0.0).tokens == 5_000
    assert budget.exchange("b", MemberReport(wanted=[4_000.0]), 0.1).tokens == 0
    budget.exchange("a", MemberReport([Event(0.2, "tokens", (4_500.0,))]), 0.2)
    assert budget.exchange("b", MemberReport(wanted=[4_000.0]), 0.2).tokens == 4_000


def test_refusals_that_one_member_sees_pause_all():
    budget = joined(*map(member, NAMES))
    refused = [Event(1.0 + place / 100, "refused", (0.5, 30.0, True)) for place in range(6)]
    assert budget.exchange("a", MemberReport(refused), 1.1).paused_until >= 31.0
    other = budget.exchange("b", MemberReport(wanted=[0.0] * 5), 1.2)
    assert other.slots == ()
    assert other.paused_until >= 31.0
    assert budget.exchange("b", MemberReport(wanted=[0.0] * 5), 31.05).slots != ()


def test_a_limit_that_one_member_learns_holds_for_all():
    budget = joined(member("a", None), member("b", None))
    assert budget.exchange("b", MemberReport(), 0.0).per_second is None
    budget.exchange("a", MemberReport([Event(0.5, "learned", (600.0, None, True, False, None, None))]), 0.5)
    assert budget.exchange("b", MemberReport(), 0.6).per_second == 10.0


# ---------------------------------------------------------------------------------- money

CAP = 1_000
LABELS = {"max_cost_usd": "", "max_cost_usd_per_day": "monday"}


class Pot(RuleBasedStateMachine):
    """P7 for processes: what may have been billed and what is reserved never exceed the cap, whatever dies."""

    forgets, divides = False, False  #: sabotage: reservations are not returned; each member has the whole cap

    def __init__(self) -> None:
        super().__init__()
        self.budget = Budget()
        self.now = 0.0
        self.open: dict[str, list[tuple[int, bool]]] = {}  #: bounds, and whether the request was sent
        self.spent: dict[str, int] = {}  #: settled and not reported yet
        self.held: dict[str, int] = {}
        self.reported: dict[str, int] = {}
        self.left: int | None = None
        self.dead: set[str] = set()  #: outputs whose last run was killed
        self.billed: dict[str, int] = {}  #: by output: what the provider may have billed

    def exchange(self, name: str, least: int = 0, sends: int = 0) -> None:
        """``sends``: how many of the waiting requests may be sent before the next report."""
        waiting = [place for place, (_, is_sent) in enumerate(self.open[name]) if not is_sent][:sends]
        for place in waiting:
            self.open[name][place] = (self.open[name][place][0], True)
        reserved = sum(bound for bound, _ in self.open[name])
        may_be_sent = sum(bound for bound, is_sent in self.open[name] if is_sent)
        self.reported[name] = max(reserved, self.reported.get(name, 0)) if self.forgets else reserved
        report = MemberReport(
            spent_ticks=self.spent[name],
            reserved_ticks=self.reported[name],
            may_be_sent_ticks=may_be_sent,
            wanted_ticks=reserved + 2 * least,
            least_ticks=least,
            periods=LABELS,
        )
        grant = self.budget.exchange(name, report, self.now)
        self.spent[name] = 0
        assert grant.held_ticks is not None
        self.held[name] = grant.held_ticks
        self.left = grant.left_ticks

    @rule(name=st.sampled_from(NAMES))
    def join(self, name: str) -> None:
        if name not in self.open:
            caps = {"max_cost_usd": CAP * (3 if self.divides else 1), "max_cost_usd_per_day": CAP * 2}
            if self.divides:
                caps = {"max_cost_usd": CAP * 3}
            own = {f"/out/{name}|0of1": {key: (label, self.billed.get(name, 0)) for key, label in LABELS.items()}}
            self.budget.join(name, Member(f"/out/{name}|0of1", 1, Offer(100.0, None, caps)), own, self.now)
            self.open[name], self.spent[name], self.held[name] = [], 0, 0
            self.dead.discard(name)
            self.exchange(name)

    @precondition(lambda self: bool(self.open))
    @rule(data=st.data(), bound=st.integers(0, 400), sends=st.integers(0, 3))
    def reserve(self, data: st.DataObject, bound: int, sends: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.open)))
        reserved = sum(each for each, _ in self.open[name])
        if self.held[name] - reserved < bound:
            self.exchange(name, bound, sends)
        if 0 < bound <= self.held[name] - reserved:
            self.open[name].append((bound, False))

    @precondition(lambda self: bool(self.open))
    @rule(data=st.data(), share=st.floats(0, 1))
    def settle(self, data: st.DataObject, share: float) -> None:
        name = data.draw(st.sampled_from(sorted(self.open)))
        sent = [each for each in self.open[name] if each[1]]
        if sent:
            self.open[name].remove(sent[0])
            bill = int(sent[0][0] * share)
            self.billed[name] = self.billed.get(name, 0) + bill
            self.spent[name] += bill
            self.held[name] -= bill

    @precondition(lambda self: bool(self.open))
    @rule(data=st.data(), dies=st.booleans())
    def end(self, data: st.DataObject, dies: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.open)))
        if dies:
            self.budget.leave(name, self.now)
            self.dead.add(name)
            # its next run lists what was in flight as ambiguous, with its bounds
            self.billed[name] = self.billed.get(name, 0) + sum(bound for bound, is_sent in self.open[name] if is_sent)
        else:
            self.open[name] = [each for each in self.open[name] if each[1]]
            self.exchange(name)
            self.billed[name] = self.billed.get(name, 0) + sum(bound for bound, _ in self.open[name])
            self.spent[name] += sum(bound for bound, _ in self.open[name])
            self.open[name] = []
            self.exchange(name)
            self.budget.leave(name, self.now)
        del self.open[name]

    @precondition(lambda self: self.open and not self.dead and not any(self.open.values()))
    @rule()
    def all_returns(self) -> None:
        for name in self.open:
            self.exchange(name)
        assert self.left == CAP - sum(self.billed.values()), "money without a request is not to be had"

    @invariant()
    def holds(self) -> None:
        reserved = sum(bound for each in self.open.values() for bound, _ in each)
        assert sum(self.billed.values()) + reserved <= CAP


TestPot = Pot.TestCase
TestPot.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


class Forgetful(Pot):
    forgets = True


class Divided(Pot):
    divides = True


@pytest.mark.parametrize("sabotaged", [Forgetful, Divided])
def test_the_proof_catches_a_forgotten_reservation_and_a_cap_for_each_process(sabotaged):
    case = sabotaged.TestCase
    case.settings = settings(
        max_examples=300,
        stateful_step_count=40,
        deadline=None,
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
        phases=(Phase.generate,),
    )
    with pytest.raises(AssertionError):
        case("runTest").runTest()


def test_money_of_a_dead_member_returns_but_for_requests_that_it_may_have_sent():
    budget = joined(member("a", max_cost_usd=CAP), member("b", max_cost_usd=CAP))
    first = MemberReport(reserved_ticks=900, may_be_sent_ticks=200, wanted_ticks=900, periods=LABELS)
    assert budget.exchange("a", first, 0.0).left_ticks == 100
    waiting = MemberReport(wanted_ticks=300, least_ticks=300, periods=LABELS)
    refused = budget.exchange("b", waiting, 0.1)
    assert (refused.held_ticks, refused.is_held_elsewhere) == (0, True)
    budget.leave("a", 5.0)
    granted = budget.exchange("b", waiting, 5.0)
    assert (granted.held_ticks, granted.left_ticks) == (300, 500)


def test_a_run_that_joins_replaces_the_spending_of_its_output_by_its_ledger():
    budget = joined(member("a", max_cost_usd=CAP))
    budget.exchange("a", MemberReport(spent_ticks=10, reserved_ticks=500, may_be_sent_ticks=500, periods=LABELS), 0.0)
    budget.leave("a", 1.0)
    budget.join("a", member("a", max_cost_usd=CAP), {"/out/a|0of1": {"max_cost_usd": ("", 60)}}, 2.0)
    assert budget.exchange("a", MemberReport(periods=LABELS), 2.0).left_ticks == CAP - 60


def test_a_new_day_begins_with_nothing_spent():
    budget = joined(member("a", max_cost_usd_per_day=CAP))
    assert budget.exchange("a", MemberReport(spent_ticks=900, periods=LABELS), 0.0).left_ticks == 100
    tuesday = {**LABELS, "max_cost_usd_per_day": "tuesday"}
    assert budget.exchange("a", MemberReport(periods=tuesday), 1.0).left_ticks == CAP


def test_the_smallest_cap_holds_for_all_and_is_named():
    budget = joined(member("a", max_cost_usd=CAP), member("b", max_cost_usd_per_day=300))
    grant = budget.exchange("a", MemberReport(periods=LABELS), 0.0)
    assert (grant.left_ticks, grant.tightest_key) == (300, "max_cost_usd_per_day")
