"""The budget that several processes share: time slots, tokens and money. Pure: each method is given the time.

Each process is a member. It exchanges with the budget several times a second: it reports what happened to its requests,
and gets time slots, tokens and money for the next ones. A file or an actor holds the budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

from batchvision.limits.pacing import LearnedRate
from batchvision.limits.protocols import RateRefusal
from batchvision.providers import RateSigns

AHEAD_SECONDS = 0.3  #: Slots are granted at most so long before their time.
NEAR_SECONDS = 0.12  #: A member that had more than its part gets only slots within this time.
LATE_SECONDS = 0.05  #: A slot may be granted so long after its time.
WAITING_SECONDS = 0.5  #: A member that was granted too little waits for its part; it is forgotten after this time.
LEAST_LEAD_SECONDS = 0.05  #: A member may lead another by this part of the budget, or by one slot.
USE_SECONDS = 10.0  #: The use of a member is measured over so long.
FRESH_SECONDS = 60.0  #: What was learned is kept for so long without a member.


class Offer(NamedTuple):
    """The limits of one member's job. ``caps``: ticks by job key."""

    per_second: float | None = None
    tokens_per_minute: float | None = None
    caps: Mapping[str, int] = {}


class Event(NamedTuple):
    """What happened in a member at a time: sent, accepted, refused, learned, paused or returned tokens."""

    at: float
    name: str
    facts: tuple[Any, ...] = ()


class MemberReport(NamedTuple):
    """Events and spending of a member since its last report, and its need for slots and money."""

    events: Sequence[Event] = ()
    wanted: Sequence[float] = ()  #: tokens of each request that waits for a slot
    spent_ticks: int = 0
    reserved_ticks: int = 0  #: bounds of all open requests
    may_be_sent_ticks: int = 0  #: bounds of those that may be sent without more slots
    largest_ticks: int = 0  #: the bound of one request
    wanted_ticks: int = 0  #: the money that it wants to hold in advance
    least_ticks: int = 0  #: the least of it that helps
    periods: Mapping[str, str] = {}  #: the current period of each cap


class Grant(NamedTuple):
    """The answer to a report: slots, tokens, money, and the known limits."""

    slots: tuple[float, ...] = ()
    tokens: float = 0.0
    held_ticks: int | None = None  #: reserved and in advance; ``None``: no cap
    left_ticks: int | None = None  #: that no member has spent or holds
    tightest_key: str | None = None
    is_held_elsewhere: bool = False  #: other members hold money that may return
    per_second: float | None = None
    window: float = inf
    paused_until: float = -inf
    has_token_limit: bool = False


class MemberUse(NamedTuple):
    """The use of one member, for people."""

    name: str  #: output and shard
    process: int
    slots_per_second: float
    held_ticks: int


@dataclass
class Member:
    """One process. ``tag``: seconds of the whole budget that it has used, for fair shares."""

    name: str  #: output and shard
    process: int
    offer: Offer
    tag: float = 0.0
    waited_at: float = -inf  #: it was granted too little then
    held_ticks: int = 0
    may_be_sent_ticks: int = 0
    periods: dict[str, str] = field(default_factory=dict)
    window: list[float] = field(default_factory=lambda: [-inf, 0.0, 0.0])  #: begin, slots since, slots a second before

    def count_slots(self, slots: int, now: float) -> None:
        begin, count, _ = self.window
        if now - begin >= USE_SECONDS:
            self.window = [now, 0.0, count / (now - begin) if begin > -inf else 0.0]
        self.window[1] += slots

    def slots_per_second(self, now: float) -> float:
        begin, count, before = self.window
        if now - begin >= 2 * USE_SECONDS:
            return 0.0
        return before or count / max(1.0, now - begin)


#: Ticks by cap, with the period in which they were spent: name of output and shard -> key -> (period, ticks).
Spendings = dict[str, dict[str, tuple[str, int]]]


class Budget:
    """The state that the members share. ``members``: by id."""

    def __init__(self) -> None:
        self.learned = LearnedRate(None, None)
        self.members: dict[str, Member] = {}
        self.spent: Spendings = {}
        self.next_at = -inf  #: the time of the next slot
        self.paused_until = -inf
        self.used_at = -inf  #: the last exchange

    def __repr__(self) -> str:
        return f"<Budget of {len(self.members)} members, {self.learned.controller!r}>"

    # ---------------------------------------------------------------- members

    def join(self, member_id: str, member: Member, ledger: Spendings, now: float) -> None:
        """Add a member. ``ledger`` replaces the spending of the shards of its output that no member works on."""
        if not self.members and now - self.used_at > FRESH_SECONDS:
            self.learned, self.paused_until = LearnedRate(None, None), -inf
        at_work = {each.name for each in self.members.values()}
        self.spent.update({name: pots for name, pots in ledger.items() if name not in at_work})
        member.tag = max(member.tag, min((each.tag for each in self._waiting(now)), default=0.0))
        self.members[member_id] = member
        self.used_at = now
        self._hold_smallest_limits(now)

    def leave(self, member_id: str, now: float) -> None:
        """Remove a member that has ended, in order or not. Bounds of requests that it may have sent count as spent.

        The next run of the output replaces this spending by the sums of its ledger.
        """
        member = self.members.pop(member_id, None)
        if member is not None:
            self._spend(member, member.may_be_sent_ticks)
            self._hold_smallest_limits(now)

    def uses(self, now: float) -> tuple[MemberUse, ...]:
        """The use of each member."""
        return tuple(
            MemberUse(each.name, each.process, each.slots_per_second(now), each.held_ticks)
            for each in self.members.values()
        )

    def _hold_smallest_limits(self, now: float) -> None:
        rates = [each.offer.per_second for each in self.members.values() if each.offer.per_second is not None]
        tokens = [each.offer.tokens_per_minute for each in self.members.values() if each.offer.tokens_per_minute]
        if self.members:
            self.learned.hold_to(min(rates, default=None), min(tokens, default=None), now)

    # ---------------------------------------------------------------- exchange

    def exchange(self, member_id: str, report: MemberReport, now: float) -> Grant:
        """Apply a report, and grant slots, tokens and money for it. Raises KeyError without a membership."""
        member = self.members[member_id]
        for event in report.events:
            self._apply(event)
        self.used_at = now
        slots, tokens = self._grant_slots(member, report.wanted, now)
        held, left, tightest = self._grant_money(member, report)
        # before the next report so many requests may be sent, and without slots as many as there is money for
        may_be_sent = report.may_be_sent_ticks + len(slots) * report.largest_ticks
        is_slotted = self.learned.controller.per_second is not None
        member.may_be_sent_ticks = min(member.held_ticks, may_be_sent) if is_slotted else member.held_ticks
        return Grant(
            slots,
            tokens,
            held,
            left,
            tightest,
            any(each.held_ticks for each in self.members.values() if each is not member),
            self.learned.controller.per_second,
            inf if self.learned.controller.per_second is not None else self.learned.controller.window,
            self.paused_until,
            self.learned.token_bucket is not None,
        )

    def _apply(self, event: Event) -> None:
        at, facts, learned = event.at, event.facts, self.learned
        match event.name:
            case "sent":
                learned.controller.sent(at)
            case "accepted":
                learned.accepted(at)
            case "refused":
                seconds = learned.refused(RateRefusal(*facts), at)
                if at + seconds > max(at, self.paused_until):
                    self._pause(at + seconds, at)
            case "paused":
                self._pause(facts[0], at)
            case "learned":
                learned.learn(RateSigns(*facts), at)
            case "tokens" if learned.token_bucket is not None:
                learned.token_bucket.give_back(facts[0], at)

    def _pause(self, until: float, now: float) -> None:
        self.paused_until = max(self.paused_until, until)
        self.learned.controller.paused(now, self.paused_until)

    # ---------------------------------------------------------------- slots and tokens

    def _grant_slots(self, member: Member, wanted: Sequence[float], now: float) -> tuple[tuple[float, ...], float]:
        """The times of the next requests, and their tokens. Without a known rate a request needs no slot."""
        rate, bucket = self.learned.controller.per_second, self.learned.token_bucket
        if wanted and now - member.waited_at > WAITING_SECONDS:
            member.tag = max(member.tag, min((each.tag for each in self._waiting(now)), default=member.tag))
        slots, granted_tokens = list[float](), 0.0
        self._catch_up(now)
        for tokens in wanted if rate is not None or bucket is not None else ():
            is_leading = self._leads(member, now)
            ahead = NEAR_SECONDS if is_leading else AHEAD_SECONDS
            if (rate is not None and self.next_at > now + ahead) or now < self.paused_until - AHEAD_SECONDS:
                break
            if bucket is not None:
                left_over = tokens + bucket.per_minute / 60 if is_leading else 0.0  # for members that had less
                if bucket.seconds_to_wait(tokens + left_over, now) > 0:
                    break
                bucket.take(tokens, now)
                granted_tokens += tokens
                member.tag += tokens / bucket.per_minute * 60 if rate is None else 0.0
            slots.append(self.next_at if rate is not None else now)
            if rate is not None:
                self.next_at += 1 / rate
                member.tag += max(1 / rate, tokens / bucket.per_minute * 60 if bucket is not None else 0.0)
        has_waited = len(slots) < len(wanted) and (rate is not None or bucket is not None)
        member.waited_at = now if has_waited else -inf
        if has_waited:
            self.learned.controller.is_saturated = True
        member.count_slots(len(slots), now)
        return tuple(slots) if rate is not None else (), granted_tokens

    def _catch_up(self, now: float) -> None:
        """Time without requests is no credit. A clock that went back must not stop the slots."""
        rate = self.learned.controller.per_second or inf
        latest = max(now, self.paused_until) + AHEAD_SECONDS + 1 / rate
        self.next_at = min(max(self.next_at, now - LATE_SECONDS, self.paused_until), latest)

    def _waiting(self, now: float) -> Iterator[Member]:
        return (each for each in self.members.values() if 0 <= now - each.waited_at <= WAITING_SECONDS)

    def _leads(self, member: Member, now: float) -> bool:
        """Whether a member with a smaller tag waits."""
        lead = max(LEAST_LEAD_SECONDS, 1 / (self.learned.controller.per_second or inf))
        return any(member.tag > each.tag + lead for each in self._waiting(now) if each is not member)

    # ---------------------------------------------------------------- money

    def _spend(self, member: Member, ticks: int) -> None:
        """Add to each pot of the member's output, also to pots that only other jobs limit."""
        pots = self.spent.setdefault(member.name, {})
        for key, period in member.periods.items():
            before, spent = pots.get(key, (period, 0))
            pots[key] = (period, ticks + (spent if before == period else 0))

    def _left(self, periods: Mapping[str, str]) -> tuple[int | None, str | None]:
        """The money that is neither spent nor held, by the tightest cap, and the key of that cap."""
        held = sum(each.held_ticks for each in self.members.values())
        found: tuple[int | None, str | None] = (None, None)
        for key in sorted({key for each in self.members.values() for key in each.offer.caps}):
            cap = min(each.offer.caps[key] for each in self.members.values() if key in each.offer.caps)
            of_key = (pots[key] for pots in self.spent.values() if key in pots)
            left = cap - held - sum(ticks for period, ticks in of_key if period == periods.get(key, period))
            if found[0] is None or left < found[0]:
                found = (left, key)
        return found

    def _grant_money(self, member: Member, report: MemberReport) -> tuple[int | None, int | None, str | None]:
        """Count the spent money. Then grant money in advance: a part of the rest, or the need of one request."""
        member.periods = dict(report.periods)
        self._spend(member, report.spent_ticks)
        member.held_ticks = report.reserved_ticks
        left, tightest = self._left(report.periods)
        if left is None:
            return None, None, None
        part = max(0, left) // (2 * len(self.members))
        more = min(max(part, report.least_ticks), max(0, report.wanted_ticks - report.reserved_ticks))
        if more > left or more < report.least_ticks:
            more = 0
        member.held_ticks += more
        return member.held_ticks, max(0, left - more), tightest
