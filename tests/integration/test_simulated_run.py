"""A run of storms, an outage and broken bodies, in virtual time (``scripts/simulate`` plays 100,000 rows of it)."""

from __future__ import annotations

from pathlib import Path

import pytest
from faulty_provider import FaultyProvider
from simulated_run import PlayedRun, faults, main, play

LANES = ("online", "deferred")
ROWS = {"online": 5_000, "deferred": 4_000}


@pytest.fixture(scope="module", params=LANES)
def played(request, tmp_path_factory) -> PlayedRun:
    lane: str = request.param
    return play(tmp_path_factory.mktemp(lane), ROWS[lane], seed=1, lane=lane)


def test_every_row_ends_in_one_state_and_the_ledger_is_the_bill(played):
    assert faults(played.session, played.summary, played.provider) == []
    assert played.summary.rows_completed > 0.99 * played.session.rows


def test_the_run_was_a_bad_one(played):
    """Else the test above proves nothing."""
    provider, ledger = played.provider, played.session.table("attempts", "state", "error_kind").to_pylist()
    kinds = {line["error_kind"] for line in ledger}
    assert min(provider.rate_limited + provider.polls_rate_limited, provider.away, len(provider.unseen)) >= 20
    assert kinds >= {
        *("rate_limited", "connect_failed", "server_error", "timeout", "connection_cut", "answer_cut_short"),
        *("request_rejected", "empty"),
    }
    assert ("lost_after_read" in kinds) == (played.session.lane == "deferred")


def test_what_was_billed_unseen_is_what_the_ambiguous_bounds_are_for(played):
    unseen = sum(sum(ticks) for ticks in played.provider.unseen.values())
    bounds = sum(played.session.table("attempts", "bound_ticks")["bound_ticks"].drop_null().to_pylist())
    assert 0 < unseen <= bounds
    if played.session.lane == "online":
        assert played.summary.ambiguous_ticks == bounds


def test_a_rerun_asks_only_what_failed_unpaid_and_one_more_changes_no_byte(played):
    failures = played.session.table("failures", "row_id", "error_kind").to_pylist()
    unpaid = {row["row_id"] for row in failures if row["error_kind"] == "request_rejected"}
    calm = FaultyProvider(None)
    summary = played.session.play(calm, number=2)
    assert set(calm.sends) == unpaid
    assert summary.rows_failed == len(failures) - len(unpaid)
    digest = played.session.digest()
    idle = FaultyProvider(None)
    played.session.play(idle, number=3)
    assert (idle.sends.total(), idle.polls, played.session.digest()) == (0, 0, digest)


@pytest.mark.parametrize("lane", LANES)
def test_a_replay_with_the_same_seed_is_the_same_to_the_byte(tmp_path_factory, lane):
    first, again, other = (play(tmp_path_factory.mktemp("replay"), 500, seed=seed, lane=lane) for seed in (7, 7, 8))
    assert first.session.digest() == again.session.digest() != other.session.digest()
    assert first.provider.sends == again.provider.sends != other.provider.sends
    assert first.provider.polls == again.provider.polls


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_of_eight_hours_and_100_000_rows(tmp_path: Path):
    played = play(tmp_path, 100_000, seed=1, lane="online")
    assert faults(played.session, played.summary, played.provider) == []
    assert 7 < played.summary.duration_seconds / 3600 < 8


def test_the_script_tells_what_happened_and_fails_where_a_promise_is_broken(capsys, monkeypatch):
    assert main(["--rows", "1500"]) == 0
    said = capsys.readouterr().out
    assert "sends a row beside 429s" in said
    assert "NOT AS PROMISED" not in said
    monkeypatch.setattr("simulated_run.MOST_SENDS_A_ROW", 0.5)
    assert main(["--rows", "300"]) == 1
    assert "NOT AS PROMISED" in capsys.readouterr().out


# ---------------------------------------------------------------------------------- the checks have teeth


def test_a_ledger_that_is_not_the_bill_is_found(tmp_path: Path):
    played = play(tmp_path, 300, seed=3, lane="online")
    played.provider.delivered.popitem()
    assert any("are not the bill's" in fault for fault in faults(played.session, played.summary, played.provider))


def test_a_bill_that_nobody_lists_is_found(tmp_path: Path):
    played = play(tmp_path, 300, seed=3, lane="online")
    played.provider.unseen["r1"].append(10**12)
    assert any("was billed" in fault for fault in faults(played.session, played.summary, played.provider))
