"""Random sequences of runs: no paid request is bought again, and ``show`` gives today's answers."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack, nullcontext
from datetime import timedelta
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from job_runs import DEFERRED, Asked, JobRuns, make_ready

from batchvision.checkpoint import compact
from batchvision.emulator import RunningEmulator, start_in_thread

ROWS = ("r1", "r2", "r3")
#: The emulator refuses a row with "glove" once, and bills it. It answers rows with another cell.
CELLS = {"shoe": "shoe", "bag": "bag", "glove": "glove [[fault:refusal:1]]"}
PROMPTS = ("Describe", "Now tell of")
PLACES = ("here", "there")


class Plan(NamedTuple):
    """One run: the cell of each row (None: not in the manifest), and the settings that are changed."""

    cells: tuple[str | None, ...]
    prompt: int = 0
    place: str = "here"
    leaves_tickets: bool = False
    are_images_away: bool = False
    hours_ahead: int = 0  #: not a day: tickets would expire, and be bought again with good reason
    compacts: bool = False


PLANS = st.builds(
    Plan,
    cells=st.tuples(*[st.sampled_from([None, *CELLS])] * len(ROWS)).filter(any),
    prompt=st.sampled_from((0, 0, 0, 1)),
    place=st.sampled_from(PLACES),
    leaves_tickets=st.booleans(),
    are_images_away=st.sampled_from((False, False, False, True)),
    hours_ahead=st.sampled_from((0, 0, 10)),
    compacts=st.booleans(),
)

Request = tuple[str, str, int]  #: row, cell, prompt


class Model:
    """The promise: each request is bought once, and its end is kept."""

    def __init__(self) -> None:
        self.ended: dict[Request, str] = {}  #: "answered" or "refused"
        self.open: dict[Request, str] = {}  #: the place that gave the ticket

    def play(self, plan: Plan) -> Counter[Asked]:
        """Apply a run. Return the requests that it buys."""
        for request, place in list(self.open.items()):
            if place == plan.place:
                del self.open[request]
                self._end(request)
        bought: Counter[Asked] = Counter()
        for request in requests_of(plan):
            if request in self.ended or request in self.open or plan.are_images_away:
                continue
            bought[request[0], request[1] if request[2] == 0 else f"{PROMPTS[1]} {request[1]}"] += 1
            if plan.leaves_tickets:
                self.open[request] = plan.place
            else:
                self._end(request)
        return bought

    def _end(self, request: Request) -> None:
        self.ended[request] = "refused" if request[1] == "glove" else "answered"

    def completed(self, plan: Plan) -> dict[str, str]:
        """By row: the cell that was answered."""
        return {request[0]: request[1] for request in requests_of(plan) if self.ended.get(request) == "answered"}


def requests_of(plan: Plan) -> list[Request]:
    return [(row, cell, plan.prompt) for row, cell in zip(ROWS, plan.cells, strict=True) if cell is not None]


def play(job_runs: JobRuns, hosts: dict[str, RunningEmulator], model: Model, plan: Plan) -> None:
    job_runs.cells = {row: CELLS[cell] for row, cell, _ in requests_of(plan)}
    job_runs.ahead = timedelta(hours=plan.hours_ahead)
    expected = model.play(plan)
    for host in hosts.values():
        host.configure(deferred_seconds=3_600.0)
    changed = {
        **(DEFERRED if plan.leaves_tickets else {}),
        **job_runs.moved_to(hosts[plan.place]),
        "prompt.user": PROMPTS[plan.prompt] + " {title} [[echo:{sku}]]",
        "output.on_recipe_change": "redo",
    }
    with job_runs.images_away() if plan.are_images_away else nullcontext():
        session = job_runs.run(changed, bill=[hosts["there"]])
        for host in hosts.values():
            make_ready(host)
        assert session.billed == expected
        if plan.are_images_away:
            return
        completed = model.completed(plan)
        assert session.summary is not None, session.message
        assert session.summary.rows_completed == len(completed)
        if plan.compacts:
            compact(job_runs.output, drop_superseded=True)
            drop_superseded(model, plan)
        shown = job_runs.show()
        assert {row: shown.get(row) for row in completed} == {row: CELLS[cell] for row, cell in completed.items()}
        assert job_runs.is_right()


def drop_superseded(model: Model, plan: Plan) -> None:
    """A compaction drops the answers that a row has beside its current one."""
    completed = model.completed(plan)
    answered = [request for request, end in model.ended.items() if end == "answered" and request[0] in completed]
    for row, cell, prompt in answered:
        if (cell, prompt) != (completed[row], plan.prompt):
            del model.ended[row, cell, prompt]


A, B, G = ("shoe",) * 3, ("bag",) * 3, ("glove",) * 3


@given(plans=st.lists(PLANS, min_size=2, max_size=5))
@settings(max_examples=6, derandomize=True)
@example([Plan(A), Plan(B), Plan(A, compacts=True), Plan(A)])
@example([Plan(A, leaves_tickets=True), Plan(G, place="there"), Plan(G), Plan(G, compacts=True), Plan(A)])
@example([Plan(G), Plan(("bag", None, None)), Plan(G, are_images_away=True), Plan(G), Plan(G, prompt=1), Plan(G)])
def test_whatever_the_runs_change_nothing_paid_is_bought_again_and_today_is_shown(
    tmp_path_factory: pytest.TempPathFactory, plans: list[Plan]
) -> None:
    with ExitStack() as servers:
        hosts = {place: servers.enter_context(start_in_thread()) for place in PLACES}
        job_runs, model = JobRuns(tmp_path_factory.mktemp("nights"), hosts["here"]), Model()
        for plan in plans:
            play(job_runs, hosts, model, plan)
