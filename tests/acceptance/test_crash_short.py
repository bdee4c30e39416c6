"""``scripts/crash`` in short: real processes killed, and a sabotaged twin of each proof that it must catch."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from proofs import crash, kills, lockout, modelled, power, signals
from proofs.reckoning import Tally
from proofs.victim import Plan


def held(tally: Tally) -> Tally:
    assert tally.faults == []
    assert tally.acknowledged > 0, "nothing had been acknowledged: this proves nothing"
    assert (tally.lost, tally.paid_twice_unlisted) == (0, 0)
    return tally


def small(die: str, sabotage: str | None = None) -> Plan:
    return Plan(die=die, seal_after=kills.SEAL_AFTER, sabotage=sabotage)


# ---------------------------------------------------------------------------------- kill -9


@pytest.mark.parametrize(("lane", "moment"), [("online", "parse:5"), ("deferred", "poll:3")])
def test_after_kills_at_a_read_in_a_seal_and_in_the_recovery_nothing_is_lost_and_paid_twice_is_listed(
    tmp_path: Path, lane: str, moment: str
) -> None:
    # the read first: on a slow disk all rows may have their answers before the ninth file has its name
    plans = [small(moment), small("rename:9"), small("write:3")]
    assert held(kills.one_output(tmp_path / "run", lane, plans, random.Random(0))).kills == 3


@pytest.mark.parametrize(
    ("lane", "die", "sabotage"),
    [("online", "parse:9", "parse-before-journal"), ("deferred", "poll:3", "poll-before-ticket")],
)
def test_the_proof_notices_what_is_read_before_it_is_on_disk(
    tmp_path: Path, lane: str, die: str, sabotage: str
) -> None:
    tally = kills.one_output(tmp_path / "run", lane, [small(die, sabotage)], random.Random(0))
    assert any("was not on disk" in fault for fault in tally.faults)


@pytest.mark.parametrize(("lane", "moment"), [("online", "parse:3"), ("deferred", "poll:3")])
def test_killed_shards_continued_under_other_cuts_lose_nothing_and_list_what_is_paid_twice(
    tmp_path: Path, lane: str, moment: str
) -> None:
    """The second dies while it takes over what the first has left, the third while it takes over from both."""
    plans = [("0/4", small(moment)), ("0/2", small("rename:2")), ("0/1", small("write:4"))]
    assert held(kills.other_cuts(tmp_path / "run", lane, plans, random.Random(0))).kills == 3


@pytest.mark.skipif(not kills.strace_works(), reason="strace is missing, or ptrace is not allowed")
def test_a_kill_by_the_kernel_at_a_system_call_loses_nothing(tmp_path: Path) -> None:
    tally = held(kills.by_strace(tmp_path / "run", "online", [("fdatasync", 6)]))
    assert tally.kills == 1


# ---------------------------------------------------------------------------------- signals, and a second process


def test_two_signals_cut_off_no_one_time_read(tmp_path: Path) -> None:
    held(signals.interrupted_reads(tmp_path / "run"))


def test_the_proof_notices_a_read_that_is_not_shielded(tmp_path: Path) -> None:
    tally = signals.interrupted_reads(tmp_path / "run", sabotage="no-shield")
    assert tally.lost_after_read > 0
    assert tally.faults


def test_two_processes_on_one_output_do_not_meet(tmp_path: Path) -> None:
    held(lockout.meet(tmp_path / "run", times=3, in_time=False))


# ---------------------------------------------------------------------------------- power cuts


def test_in_hundreds_of_states_of_a_disk_after_a_cut_nothing_that_was_acknowledged_is_lost(tmp_path: Path) -> None:
    tally = held(modelled.search(tmp_path / "states", states=300, seed=0, job_runs=6))
    assert tally.kills >= 300


@pytest.mark.parametrize("sabotage", ["no-fsync", "no-dirsync"])
def test_the_proof_notices_a_disk_that_only_says_it_synced(tmp_path: Path, sabotage: str) -> None:
    assert modelled.search(tmp_path / "states", states=200, seed=0, sabotage=sabotage, job_runs=2).faults


@pytest.mark.skipif(bool(power.why_not()), reason=f"no power can be cut here: {power.why_not()}")
def test_a_real_power_cut_on_ext4_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    tally = held(power.one_cut(tmp_path / "run", "online", random.Random(5)))
    assert tally.kills == 1


@pytest.mark.skipif(bool(power.why_not()), reason=f"no power can be cut here: {power.why_not()}")
def test_the_power_cut_notices_a_missing_fsync(tmp_path: Path) -> None:
    assert power.one_cut(tmp_path / "run", "online", random.Random(5), sabotage="no-fsync").faults


def test_words_that_name_no_proof_prove_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert crash.main(["--only", "at random tides"]) == 2
    assert "kill -9 at random times, online" in capsys.readouterr().out
