"""Random sequences of runs: no paid request is bought again, and ``show`` gives today's answers.

``rerun_model`` predicts each run, ``rerun_sequences`` plays and checks it. ``scripts/reruns`` plays more sequences.
Each sabotage breaks one rule, and the same harness must notice it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from job_runs import JobRuns
from rerun_model import Lane, Plan, Upkeep
from rerun_sequences import PERIODS, PLANS, RerunSequence

from batchvision.checkpoint import Carried, RowIndex, RowState, RunState
from batchvision.emulator import RunningEmulator, start_in_thread
from batchvision.records import Completed
from batchvision.runner import wiring

A, B, G = ("shoe",) * 4, ("bag",) * 4, ("glove",) * 4
V, L = ("void",) * 4, ("long",) * 4
NOTHING = {"cap_key": "max_cost_usd_per_run", "cap_ticks": 0}  #: a cap under which nothing is sent
ONE_MORE_TRY = [
    [Plan(V, lane=Lane.HANDED_IN), Plan(V, **NOTHING), Plan(V)],
    [Plan(L, lane=Lane.HANDED_IN), Plan(L, raises=True, **NOTHING), Plan(L, raises=True)],
]
PAID_FAILURES = [Plan(G), Plan(("bag", None, None, None)), Plan(G), Plan(G, prompt=1), Plan(G)]
OPEN_TICKETS = [
    Plan(A, lane=Lane.HANDED_IN),
    Plan(G, place="there"),
    Plan(A, place="there"),
    Plan(A, upkeep=Upkeep.DROP),
]
REDOS = [
    Plan(("shoe", "bag", "shoe", "belt"), redo=("r1", "r2", "r4"), is_repeated=True, upkeep=Upkeep.DROP),
    Plan(("shoe", "bag", "shoe", None), redo=("r1",), redo_killed_at=25, lane=Lane.DEFERRED, are_touched=True),
    Plan(("shoe", "bag", None, "belt"), redo=("r2", "r4"), lane=Lane.HANDED_IN, upkeep=Upkeep.MERGE),
    Plan(("shoe", "bag", "shoe", "belt"), upkeep=Upkeep.DROP),
]


@pytest.fixture(scope="module")
def hosts() -> Iterator[Sequence[RunningEmulator]]:
    with start_in_thread() as here, start_in_thread() as there:
        yield here, there


def play(folder: pytest.TempPathFactory, hosts: Sequence[RunningEmulator], plans: Sequence[Plan]) -> None:
    sequence = RerunSequence(folder.mktemp("runs"), hosts)
    for plan in plans:
        sequence.play(plan)


@given(plans=st.lists(PLANS, min_size=3, max_size=6))
@settings(max_examples=30, derandomize=True, phases=[Phase.explicit, Phase.generate, Phase.shrink])
@example([Plan(A), Plan(B), Plan(A, upkeep=Upkeep.DROP), Plan(A)])
@example([Plan(A, killed_at=24), Plan(B), Plan(A, killed_at=12), Plan(A, upkeep=Upkeep.REPARSE)])
@example([Plan(A, cap_key="max_cost_usd", cap_ticks=60_000_000), Plan(A, limit=1), Plan(A, limit=2, is_pilot=True)])
@example(PAID_FAILURES)
@example(OPEN_TICKETS)
@example(REDOS)
@example(ONE_MORE_TRY[0])
@example(ONE_MORE_TRY[1])
def test_whatever_the_runs_change_nothing_paid_is_bought_again_and_today_is_shown(
    tmp_path_factory: pytest.TempPathFactory, hosts: Sequence[RunningEmulator], plans: list[Plan]
) -> None:
    play(tmp_path_factory, hosts, plans)


# ---------------------------------------------------------------------------------- sabotages


@contextmanager
def forgetting(forgotten: RowState) -> Iterator[None]:
    """During a run the row index takes rows of this state for new ones."""
    state, run = RowIndex.open_state, JobRuns.run

    def open_state(row_index: RowIndex, row_id: str, key: str) -> RowState:
        found = state(row_index, row_id, key)
        return RowState.NEW if found is forgotten else found

    def forgetful_run(*arguments: Any, **named: Any) -> Any:
        with mock.patch.object(RowIndex, "open_state", open_state):
            return run(*arguments, **named)

    with mock.patch.object(JobRuns, "run", forgetful_run):
        yield


@pytest.mark.parametrize(("forgotten", "plans"), [(RowState.FAILED, PAID_FAILURES), (RowState.AWAITING, OPEN_TICKETS)])
def test_a_row_index_that_forgets_paid_work_is_caught(
    tmp_path_factory: pytest.TempPathFactory,
    hosts: Sequence[RunningEmulator],
    forgotten: RowState,
    plans: list[Plan],
) -> None:
    with forgetting(forgotten), pytest.raises(AssertionError, match="bought again"):
        play(tmp_path_factory, hosts, plans)


def test_a_redo_without_a_result_row_is_caught(
    tmp_path_factory: pytest.TempPathFactory, hosts: Sequence[RunningEmulator]
) -> None:
    publish = RunState._publish

    def once(state: RunState, completed: Completed, **how: bool) -> None:
        if not completed.intent.is_redo:
            publish(state, completed, **how)

    with (
        mock.patch.object(RunState, "_publish", once),
        pytest.raises(AssertionError, match="is shown as before its redo"),
    ):
        play(tmp_path_factory, hosts, REDOS)


@pytest.mark.parametrize("plans", ONE_MORE_TRY, ids=["empty", "truncated"])
def test_a_run_that_forgets_the_one_more_try_of_an_earlier_run_is_caught(
    tmp_path_factory: pytest.TempPathFactory, hosts: Sequence[RunningEmulator], plans: list[Plan]
) -> None:
    carried = RowIndex.carried

    def forgetful(row_index: RowIndex, row_id: str, key: str) -> Carried:
        return carried(row_index, row_id, key)._replace(empties=0, raised=False)

    with mock.patch.object(RowIndex, "carried", forgetful), pytest.raises(AssertionError, match="bought again"):
        play(tmp_path_factory, hosts, plans)


@pytest.mark.parametrize("cap_key", PERIODS)
def test_a_cap_that_forgets_what_earlier_runs_of_its_period_spent_is_caught(
    tmp_path_factory: pytest.TempPathFactory, hosts: Sequence[RunningEmulator], cap_key: str
) -> None:
    plans = [Plan(A), Plan(B, cap_key=cap_key, cap_ticks=30_000_000)]
    play(tmp_path_factory, hosts, plans)
    with (
        mock.patch.object(wiring, "spent_by_shard", return_value={}),
        pytest.raises(AssertionError, match="under a cap"),
    ):
        play(tmp_path_factory, hosts, plans)
