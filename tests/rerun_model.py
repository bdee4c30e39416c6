"""The plan of one run in a sequence of runs of one job, and a model of the requests that each run may buy.

The model knows only the promise: each request is bought once, and its end is kept. It learns from the emulator's bill
which requests were bought, and from the ledger how they ended. A run that is cut off leaves requests in doubt.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Set
from enum import Enum
from typing import Any, NamedTuple

ROWS = ("r1", "r2", "r3", "r4")
#: The emulator refuses "glove" and bills it. It rejects "blank" unbilled. The first answer to "belt" at each host is
#: billed and does not arrive. Each answer to "void" is empty, and each answer to "long" is truncated. Other cells are
#: answered.
CELLS = {
    "shoe": "shoe",
    "bag": "bag",
    "glove": "glove [[fault:refusal]]",
    "blank": "blank [[fault:rejected]]",
    "belt": "belt [[fault:reset_after:1]]",
    "void": "void [[fault:empty]]",
    "long": "long [[fault:length]]",
}
PROMPTS = ("Describe", "Name", "Sort")
#: The answer that each prompt asks for.
ANSWERS: tuple[dict[str, Any], ...] = ({}, {}, {"answer.labels": ["shoe", "bag", "glove"]})
#: Provider and host of each place. Two places of one provider share their answers, but not their tickets.
PLACES = {"here": ("xai", 0), "there": ("xai", 1), "elsewhere": ("emulator", 1)}
CONCURRENCY = 2


class Recipe(NamedTuple):
    prompt: int
    provider: str


class Request(NamedTuple):
    row: str
    cell: str
    image: str
    recipe: Recipe


class Lane(Enum):
    ONLINE = "online"
    DEFERRED = "deferred"  #: the answers are ready at once
    HANDED_IN = "handed in"  #: deferred, and the run ends before any answer is ready


class Upkeep(Enum):
    """A command between two runs."""

    MERGE = "compact"
    DROP = "compact --drop-superseded"
    REPARSE = "reparse"


class Plan(NamedTuple):
    """One run. ``cells`` and ``images`` by row; a cell of None: the row is not in the manifest."""

    cells: tuple[str | None, ...]
    images: tuple[str, ...] = ("red",) * len(ROWS)  #: "gone": the file is missing
    are_touched: bool = False  #: the images are written anew, with the same bytes
    prompt: int = 0
    place: str = "here"
    lane: Lane = Lane.ONLINE
    policy: str = "redo"  #: output.on_recipe_change
    retries_paid: bool = False  #: limits.retry_failed = "all"
    holds: bool = False  #: limits.ambiguous = "hold"
    raises: bool = False  #: answer.on_truncated = "raise_once"
    cap_key: str = ""  #: the spend cap that this run sets
    cap_ticks: int = 0  #: of this run; other caps count from the bill of their period so far
    limit: int | None = None
    is_pilot: bool = False  #: a pilot of ``limit`` rows
    redo: tuple[str, ...] = ()  #: the rows of --redo, in a second run after this one
    redo_killed_at: int | None = None
    hours_ahead: int = 0  #: of the clock. Plans differ by less than a ticket's lifetime: 24 hours
    hours_jumped: int = 0  #: by the clock in the middle of the run
    killed_at: int | None = None  #: the operation of the disk before which the process ends
    is_repeated: bool = False  #: once more, with nothing to do
    upkeep: Upkeep | None = None
    upkeep_killed_at: int | None = None

    @property
    def recipe(self) -> Recipe:
        return Recipe(self.prompt, PLACES[self.place][0])

    @property
    def rows(self) -> dict[str, tuple[str, str]]:
        """Cell and image of each row in the manifest."""
        rows = zip(ROWS, self.cells, self.images, strict=True)
        return {row: (cell, image) for row, cell, image in rows if cell is not None}

    @property
    def requests(self) -> dict[str, Request]:
        """The request of each row whose image can be read."""
        return {
            row: Request(row, cell, image, self.recipe) for row, (cell, image) in self.rows.items() if image != "gone"
        }

    @property
    def is_whole(self) -> bool:
        """Whether nothing keeps this run from asking each row."""
        is_part = self.is_pilot or self.limit is not None or bool(self.redo)
        return not (self.holds or self.cap_key or is_part or self.killed_at is not None)

    def asks_twice(self, request: Request) -> bool:
        """Whether the job asks once more after the answer to this request."""
        return request.cell == "void" or (request.cell == "long" and self.raises)

    def text(self, row: str) -> str:
        """The prompt of a row, as the bill shows it."""
        return f"{PROMPTS[self.prompt]} {CELLS[self.rows[row][0]]} [[echo:{row}]]"

    def __repr__(self) -> str:
        """Only what differs from a plain run, so that a plan can be copied into a test."""
        defaults = self._field_defaults
        named = {
            name: value for name, value in self._asdict().items() if name not in defaults or value != defaults[name]
        }
        return f"Plan({', '.join(f'{name}={value!r}' for name, value in named.items())})"


class Payment(NamedTuple):
    """An answer on the emulator's bill."""

    name: str  #: the id of the answer
    request: Request
    place: str
    ticks: int
    is_deferred: bool
    is_in_doubt: bool  #: bought by a run that was killed


class Line(NamedTuple):
    """A line of the ledger."""

    row: str
    cell: str
    recipe: Recipe
    state: str
    error_kind: str | None
    ticks: int | None
    bound_ticks: int | None
    name: str | None  #: the id of the answer
    ticket: str | None

    @property
    def is_unclear(self) -> bool:
        return self.state in ("ambiguous", "lost_after_read")


class Expected(NamedTuple):
    """What a run buys: each of ``least``, each of ``most`` at most so often, and at most ``rows`` requests of these."""

    least: frozenset[Request]
    most: Counter[Request]
    rows: int | None
    may_refuse: bool
    must_refuse: bool


class End(Enum):
    ANSWERED = "answered"
    FAILED = "failed"
    LOST = "lost after read"


class Model:
    """What was bought so far, and how it ended."""

    def __init__(self) -> None:
        self.payments: dict[str, Payment] = {}
        self.ended: dict[Request, End] = {}
        self.has_tried: set[Request] = set()  #: its answer was no outcome, and it is asked once more
        self.open: dict[Request, Payment] = {}  #: its ticket is known
        self.in_doubt: defaultdict[Request, set[str]] = defaultdict(set)  #: payments of runs that were killed
        self.settled: set[str] = set()  #: payments in the ledger
        self.redone: set[str] = set()  #: payments of redos
        self.is_behind = False  #: a run was killed, and its ends are not known yet
        self.last_whole: Recipe | None = None  #: of the last run that ended and was no trial

    # ---------------------------------------------------------------------------- before a run

    def expect(self, plan: Plan) -> Expected:
        if plan.redo:
            return self._expect_redo(plan)
        wanted = [request for request in plan.requests.values() if self._may_be_bought(request, plan)]
        least = {request for request in wanted if not self.in_doubt[request] and request not in self.open}
        most = Counter({request: self._most(request, plan) for request in wanted})
        may_refuse = must_refuse = False
        match plan.policy:
            case "new_rows_only":
                least = {each for each in least if self._recipes_paid(each.row) <= {plan.recipe}}
                most = Counter({each: most[each] for each in most if not self._is_of_another_recipe(each.row, plan)})
            case "refuse":
                may_refuse = any(self._may_be_refused(row, plan) for row in plan.rows)
                has_consent = self.last_whole == plan.recipe or not plan.is_whole
                must_refuse = not has_consent and any(self._is_of_another_recipe(row, plan) for row in plan.requests)
        is_any_gone = "gone" in plan.images  # a run without any image is refused
        if may_refuse or is_any_gone or not plan.is_whole:
            least = set()
        return Expected(frozenset(least), most, plan.limit, may_refuse or is_any_gone, must_refuse)

    def _expect_redo(self, plan: Plan) -> Expected:
        """Answered rows are bought again. A run that was killed may have answered further rows."""
        named = {request for row, request in plan.requests.items() if row in plan.redo}
        named -= set() if self.is_behind else self.open.keys()
        answered = {each for each in named if self.ended.get(each) is End.ANSWERED and each not in self.open}
        most = Counter({each: 2 for each in named if each in answered or self.is_behind or self.in_doubt[each]})
        is_any_gone = any(plan.rows.get(row, ("", ""))[1] == "gone" for row in plan.redo)
        is_free = not (plan.cap_key or plan.killed_at is not None or is_any_gone)
        least = {each for each in answered if is_free and not self.in_doubt[each]}
        return Expected(frozenset(least), most, None, may_refuse=True, must_refuse=False)

    def _may_be_bought(self, request: Request, plan: Plan) -> bool:
        if request.cell == "blank":
            return False
        if request in self.open:  # its answer may ask for one more try
            is_here = self.open[request].place == plan.place
            return is_here and request not in self.has_tried and plan.asks_twice(request)
        end = self.ended.get(request)
        return end is None or (end is not End.ANSWERED and plan.retries_paid and not plan.is_pilot)

    def _most(self, request: Request, plan: Plan) -> int:
        if request in self.open or request in self.has_tried:
            return 1
        return 2 if request.cell == "belt" or plan.asks_twice(request) else 1

    def _recipes_paid(self, row: str) -> set[Recipe]:
        """Recipes under which the row was perhaps paid for."""
        return {each.request.recipe for each in self.payments.values() if each.request.row == row}

    def _is_of_another_recipe(self, row: str, plan: Plan) -> bool:
        """Whether the row was surely paid for, and never under today's recipe."""
        surely_paid = any(request.row == row for request in (*self.ended, *self.open))
        return surely_paid and plan.recipe not in self._recipes_paid(row)

    def _may_be_refused(self, row: str, plan: Plan) -> bool:
        """Whether the row is perhaps to do, and was last paid for under another recipe."""
        request = plan.requests.get(row)
        is_done = request is not None and (request in self.open or self.ended.get(request) is End.ANSWERED)
        return not is_done and bool(self._recipes_paid(row) - {plan.recipe})

    # ---------------------------------------------------------------------------- after a run

    def buy(self, payments: Iterable[Payment], *, is_redo: bool) -> None:
        """Note the new lines of the bill."""
        for payment in payments:
            self.payments[payment.name] = payment
            self.redone |= {payment.name} if is_redo else set()
            if payment.is_in_doubt:
                self.in_doubt[payment.request].add(payment.name)
            elif payment.is_deferred:
                self.open[payment.request] = payment

    def learn(self, lines: Iterable[Line], tickets: Mapping[str, str]) -> None:
        """Take the ends from new lines of the ledger. ``tickets``: the payments of the tickets that were seen."""
        self.is_behind = False
        # a lost answer may be bought again, and so may one that is tried once more
        for line in sorted(lines, key=lambda line: (not line.is_unclear, line.state != "retried")):
            if line.state == "lost_after_read":
                self._end(self._lost(line, tickets), End.LOST)
            elif line.ticks is not None and line.name in self.payments:
                self.settled.add(line.name)
                if line.state == "retried":
                    self._settle(self.payments[line.name])
                    self.has_tried.add(self.payments[line.name].request)
                    continue
                self._end(self.payments[line.name], End.ANSWERED if line.state == "ok" else End.FAILED)

    def _lost(self, line: Line, tickets: Mapping[str, str]) -> Payment:
        """The payment of an answer that was read and did not arrive."""
        if line.ticket in tickets:
            return self.payments[tickets[line.ticket]]
        return next(
            payment
            for payment in self.unsettled()
            if payment.is_deferred
            and (payment.name in self.in_doubt[payment.request] or self.open.get(payment.request) == payment)
            and (payment.request.row, payment.request.cell, payment.request.recipe) == line[:3]
        )

    def _settle(self, payment: Payment) -> None:
        self.open.pop(payment.request, None)
        self.in_doubt[payment.request].discard(payment.name)

    def _end(self, payment: Payment, end: End) -> None:
        self._settle(payment)
        self.has_tried.discard(payment.request)
        if self.ended.get(payment.request) is not End.ANSWERED:
            self.ended[payment.request] = end

    def resolve(self, bought: Set[Request], expected: Expected, *, is_whole: bool) -> None:
        """End doubts after a run that was not killed. What it bought again was lost; what it left alone is open."""
        for request, names in self.in_doubt.items():
            if request in bought:
                names.clear()
            elif names and is_whole and request in expected.most:
                self.open[request] = self.payments[max(names, key=list(self.payments).index)]
                names.clear()

    @property
    def is_in_doubt(self) -> bool:
        return any(self.in_doubt.values())

    def unsettled(self) -> list[Payment]:
        return [payment for name, payment in self.payments.items() if name not in self.settled]

    def completed(self, plan: Plan) -> dict[str, Request]:
        """The answered requests by row."""
        return {row: each for row, each in plan.requests.items() if self.ended.get(each) is End.ANSWERED}

    def is_done(self, plan: Plan) -> bool:
        """Whether the same run would have nothing to do."""
        ends = [self.ended.get(each) for each in plan.requests.values()]
        final = {End.ANSWERED} if plan.retries_paid else set(End)
        is_part = plan.limit is not None or bool(plan.redo)
        return len(ends) == len(plan.rows) and set(ends) <= final and not is_part

    def superseded(self, plan: Plan) -> set[Request]:
        """Answers that rows have beside their current one. A missing image counts as each image that was answered."""
        answered = [request for request, end in self.ended.items() if end is End.ANSWERED]
        current = set(self.completed(plan).values())
        for request in answered:
            if plan.rows.get(request.row) == (request.cell, "gone") and request.recipe == plan.recipe:
                current.add(request)
        rows = {request.row for request in current}
        return {request for request in answered if request.row in rows and request not in current}

    def publish(self, names: Iterable[str]) -> None:
        """These answers are in ``results``: a reparse publishes dropped answers again."""
        for name in names:
            self.ended[self.payments[name].request] = End.ANSWERED

    def drop(self, requests: Collection[Request]) -> None:
        """A compaction has dropped these answers."""
        for request in requests:
            del self.ended[request]
        self.redone -= {name for name, payment in self.payments.items() if payment.request in requests}
