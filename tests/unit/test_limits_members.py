"""Members of a shared budget with their real queues, in virtual time against a provider that limits them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import anyio
import pytest
from limited_provider import Provider, send_rows
from virtual_time import VIRTUAL

from batchvision.errors import SpendCapReached
from batchvision.eventloop import loop_time
from batchvision.limits import LocalRateLimiter, Permits, RateSettings
from batchvision.limits.budget import Budget, Grant, Member, MemberReport, Offer
from batchvision.limits.member import Membership
from batchvision.records import Estimate, Usage

pytestmark = pytest.mark.anyio
PERIODS = {"max_cost_usd": ""}


@pytest.fixture
def anyio_backend():
    return ("asyncio", VIRTUAL)


class Access:
    """A budget in this process. ``is_busy``: another process holds it."""

    def __init__(self, budget: Budget, name: str, offer: Offer) -> None:
        self.budget, self.name = budget, name
        self.slots: list[float] = []
        self.exchanges = 0
        self.is_busy = False
        budget.join(name, Member(name, 1, offer), {}, loop_time())

    def exchange(self, report: MemberReport, now: float) -> Grant | None:
        if self.is_busy:
            return None
        self.exchanges += 1
        grant = self.budget.exchange(self.name, report, now)
        self.slots += grant.slots
        return grant

    def leave(self, report: MemberReport, now: float) -> None:
        self.budget.exchange(self.name, report, now)
        self.budget.leave(self.name, now)


@contextmanager
def member(budget: Budget, name: str, offer: Offer) -> Iterator[tuple[Access, Membership, LocalRateLimiter]]:
    access = Access(budget, name, offer)
    membership = Membership(access, lambda: PERIODS)
    limiter = LocalRateLimiter(RateSettings(in_flight=64), pacing=membership.pacing)
    yield access, membership, limiter
    membership.leave()


def thirds(counts: list[int]) -> bool:
    return all(0.9 * sum(counts) / 3 <= count <= 1.1 * sum(counts) / 3 for count in counts)


@pytest.mark.parametrize("per_second", [5.0, 100.0])
async def test_three_queues_use_one_limit_in_thirds_without_a_429(per_second):
    budget, provider = Budget(), Provider(per_second, burst=max(2.0, per_second / 4))
    with (
        member(budget, "a", Offer(per_second)) as a,
        member(budget, "b", Offer(per_second)) as b,
        member(budget, "c", Offer(per_second)) as c,
    ):
        start = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            for _, _, limiter in (a, b, c):
                tasks.start_soon(partial(send_rows, limiter, provider, 60.0, workers=40))
        counts = [len([at for at in access.slots if at < start + 60]) for access, _, _ in (a, b, c)]
        assert sum(counts) >= 0.93 * 60 * per_second
        assert thirds(counts)
        assert provider.share(start + 2, start + 60) >= 0.93
        assert provider.refusals(start, start + 60) == 0
        assert max(access.exchanges for access, _, _ in (a, b, c)) <= 12 * 60 + 100
    assert not budget.members


async def test_a_limit_that_nobody_names_is_learned_by_all_together():
    budget, provider = Budget(), Provider(50.0, burst=50.0)
    with member(budget, "a", Offer()) as a, member(budget, "b", Offer()) as b:
        start = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            for _, _, limiter in (a, b):
                tasks.start_soon(partial(send_rows, limiter, provider, 180.0, workers=60))
        assert provider.share(start + 60, start + 180) >= 0.9
        assert provider.refusals(start + 60, start + 180) <= 0.03


async def test_a_retry_after_that_one_process_gets_slows_the_others():
    budget = Budget()
    provider = Provider(100.0, burst=100.0, retry_after_seconds=10.0)
    with member(budget, "a", Offer(100.0)) as a, member(budget, "b", Offer(100.0)) as b:
        start = anyio.current_time()
        provider.storms.append((start + 5, start + 6))
        async with anyio.create_task_group() as tasks:
            for _, _, limiter in (a, b):
                tasks.start_soon(partial(send_rows, limiter, provider, 30.0, workers=20))
        assert provider.accepted_between(start + 6.5, start + 14.5) <= 5
        assert provider.share(start + 17, start + 30) >= 0.9
        for _, _, limiter in (a, b):
            assert sum(sample.paused_seconds for sample in limiter.rate_samples()) >= 8


async def test_tokens_are_shared_by_the_queues():
    budget, provider = Budget(), Provider(float("inf"), tokens_per_minute=120_000)
    with member(budget, "a", Offer(None, 120_000)) as a, member(budget, "b", Offer(None, 120_000)) as b:
        start = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            for _, _, limiter in (a, b):
                tasks.start_soon(partial(send_rows, limiter, provider, 60.0, workers=20, sizes=(100, 900)))
        used = sum(tokens for at, tokens in provider.accepted if at < start + 60)
        assert 0.9 * 120_000 <= used <= 120_000 * 1.15


async def test_a_busy_budget_is_asked_again_and_stops_nothing():
    budget, provider = Budget(), Provider(50.0, burst=50.0)
    with member(budget, "a", Offer(50.0)) as (access, _, limiter):

        async def hold() -> None:
            while True:
                await anyio.sleep(0.5)
                access.is_busy = True
                await anyio.sleep(0.02)
                access.is_busy = False

        start = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold)
            await send_rows(limiter, provider, 30.0, workers=40)
            tasks.cancel_scope.cancel()
        assert provider.share(start + 1, start + 30) >= 0.93


async def test_a_budget_that_a_stopped_process_holds_is_reported_once(caplog):
    budget, provider = Budget(), Provider(50.0, burst=50.0)
    with member(budget, "a", Offer(50.0)) as (access, _, limiter):
        access.is_busy = True
        start = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(send_rows, limiter, provider, 30.0, workers=40))
            await anyio.sleep(15)
            assert provider.accepted == []
            access.is_busy = False
        assert provider.share(start + 16, start + 30) >= 0.93
    assert caplog.text.count("another process has held the shared limits for 10 s: is it stopped?") == 1


async def spend(permits: Permits, bills: list[int], reasons: list[str], most: int) -> None:
    """Send requests until the cap is reached, or until ``most`` are paid by all together."""
    try:
        while len(bills) < most:
            permit = await permits.acquire(Estimate(0, 50, 500))
            await permit.slot.wait()
            await anyio.sleep(0.3)
            bills.append(50)
            permit.settle(Usage(cost_ticks=50))
            permits.rate.observe(None, permit.slot.sent_at)
    except SpendCapReached as reached:
        reasons.append(str(reached))


async def spent_by_three(budget: Budget, cap: int, most: int) -> tuple[list[int], list[str], list[int], float]:
    """The bills, the reasons of the ends, the exchanges of each member, and the seconds."""
    bills, reasons, start = list[int](), list[str](), anyio.current_time()
    offer = Offer(100.0, None, {"max_cost_usd": cap})
    with member(budget, "a", offer) as a, member(budget, "b", offer) as b, member(budget, "c", offer) as c:
        async with anyio.create_task_group() as tasks:
            for _, membership, limiter in (a, b, c):
                permits = Permits(limiter, membership.cap)
                for _ in range(30):
                    tasks.start_soon(spend, permits, bills, reasons, most)
        return bills, reasons, [access.exchanges for access, _, _ in (a, b, c)], anyio.current_time() - start


async def test_one_cap_holds_for_all_and_each_run_ends_when_it_is_used_up():
    budget, cap = Budget(), 20_000
    bills, reasons, _, _ = await spent_by_three(budget, cap, most=10_000)
    assert len(reasons) == 90
    assert all("limits.max_cost_usd leaves" in reason for reason in reasons)
    assert cap - 500 <= sum(bills) <= cap, "all that is left is less than one request may cost"
    assert sum(ticks for pots in budget.spent.values() for _, ticks in pots.values()) == sum(bills)


async def test_open_tickets_of_an_earlier_run_are_held_from_the_start_and_stay_so_if_the_run_is_stopped_at_once():
    budget, caps = Budget(), {"max_cost_usd": 1_000}
    access = Access(budget, "a", Offer(100.0, None, caps))
    budget.members["a"].held_ticks = budget.members["a"].may_be_sent_ticks = 700  # as the run joins
    membership = Membership(access, lambda: PERIODS, open_ticks=700)
    with member(budget, "b", Offer(100.0, None, caps)) as (_, other, _):
        assert not other.cap.reserve(400)
        assert other.cap.is_held_elsewhere
        LocalRateLimiter(RateSettings(), pacing=membership.pacing)
        membership.leave()
        await anyio.sleep(0.2)
        assert not other.cap.reserve(400)
        assert other.cap.left_ticks == 300


async def test_money_needs_no_exchange_of_its_own_while_the_cap_is_far():
    bills, reasons, exchanges, seconds = await spent_by_three(Budget(), 10**9, most=3_000)
    assert len(bills) >= 3_000
    assert reasons == []
    assert max(exchanges) <= 12 * seconds + 20
