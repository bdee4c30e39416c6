"""The file of a shared budget: what is stored comes back, a killed process leaves it whole, and the dead are found."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchvision.errors import JobInvalid
from batchvision.job import Job
from batchvision.limits import budget_file
from batchvision.limits.budget import Budget, Event, Member, MemberReport, Offer
from batchvision.limits.budget_file import BudgetFile, FileMember, budget_of, document_of
from batchvision.runner import sharing

PERIODS = {"max_cost_usd": ""}
JOINS_AND_WAITS = """
import sys
from pathlib import Path
from batchvision.limits.budget import Member, Offer, MemberReport
from batchvision.limits.budget_file import BudgetFile, FileMember
offer = Offer(100.0, None, {"max_cost_usd": 100})
member = FileMember(BudgetFile(Path(sys.argv[1])), Member("other|0of1", 1, offer), {}, 0.0)
member.exchange(MemberReport([], [0.0], 0, 80, 30, 0, periods={"max_cost_usd": ""}), 0.0)
print("in", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def job_of(tmp_path):
    (tmp_path / "photos.csv").write_text("image\n")

    def job(**limits: str) -> Job:
        settings = {
            "name": "sharing",
            "manifest": {"path": "photos.csv", "images": "image"},
            "prompt": {"user": "Describe it."},
            "provider": {"name": "emulator", "model": "grok-4.3"},
            "limits": limits,
        }
        return Job.from_mapping(settings, tmp_path)

    return job


def member(name: str = "own|0of1", **caps: int) -> Member:
    return Member(name, os.getpid(), Offer(100.0, None, caps))


def used(seed: int) -> Budget:
    """A budget after exchanges of every kind."""
    rng, budget, now = random.Random(seed), Budget(), 10.0
    for name in "ab":
        tokens = rng.choice([None, 60_000.0])
        offer = Offer(rng.choice([None, 50.0]), tokens, {"max_cost_usd": 1_000})
        budget.join(name, Member(f"{name}|0of1", 1, offer), {}, now)
    for _ in range(60):
        now += rng.uniform(0.05, 0.2)
        refusal = (now - 1, rng.choice([None, 2.0]), True, rng.choice([None, 20.0]), None)
        events = [Event(now, "sent"), Event(now, "accepted"), Event(now, "tokens", (10.0,))]
        events += [Event(now, "refused", refusal)] if rng.random() < 0.1 else []
        events += [Event(now, "learned", (900.0, 50_000.0, False, False, 3.0, None))] if rng.random() < 0.1 else []
        report = MemberReport(events, [100.0] * rng.randrange(20), 3, 50, 10, 5, 100, periods=PERIODS)
        budget.exchange(rng.choice("ab"), report, now)
    return budget


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_a_stored_budget_goes_on_as_it_would_have(seed):
    budget = used(seed)
    stored = budget_of(json.loads(json.dumps(document_of(budget))))
    assert document_of(stored) == document_of(budget)
    for step in range(20):
        report = MemberReport([Event(30.0 + step / 10, "accepted")], [50.0] * 8, periods=PERIODS)
        assert stored.exchange("a", report, 30.0 + step / 10) == budget.exchange("a", report, 30.0 + step / 10)


def test_after_a_boot_only_the_money_stays(monkeypatch):
    budget = used(1)
    document = json.loads(json.dumps(document_of(budget)))
    monkeypatch.setattr(budget_file, "_boot_id", lambda: "another")
    after = budget_of(document)
    assert (after.members, after.next_at) == ({}, -float("inf"))
    spent = budget.spent["a|0of1"]["max_cost_usd"][1] + budget.members["a"].may_be_sent_ticks
    assert after.spent["a|0of1"]["max_cost_usd"] == ("", spent)


def test_a_process_that_is_killed_while_it_writes_leaves_the_budget_as_it_was(tmp_path):
    file = BudgetFile(tmp_path / "key")
    for _ in range(3):
        file.change(lambda budget: budget.spent.update(own={"max_cost_usd": ("", 7)}), waits=True)
    content = file.path.read_bytes()
    number = int.from_bytes(content[:8], "little")
    older = 4096 + (number + 1) % 2 * (1 << 20)
    with file.path.open("r+b") as handle:
        handle.seek(older)
        handle.write(b"half of a change")
    assert BudgetFile(file.path).change(lambda budget: budget.spent["own"]["max_cost_usd"], waits=True) == ("", 7)


def test_a_file_that_a_power_cut_has_damaged_gives_a_new_budget(tmp_path):
    file = BudgetFile(tmp_path / "key")
    file.change(lambda budget: budget.spent.update(own={}), waits=True)
    with file.path.open("r+b") as handle:
        handle.seek(4096 + (1 << 20) + 20)
        handle.write(b"\0" * 16)
    assert BudgetFile(file.path).change(lambda budget: budget.spent, waits=True) == {}


def test_a_file_of_another_version_is_refused_with_the_next_step(tmp_path, monkeypatch):
    file = BudgetFile(tmp_path / "key")
    file.change(lambda budget: None, waits=True)
    monkeypatch.setattr(budget_file, "FORMAT", 2)
    with pytest.raises(JobInvalid, match="use one version for all jobs"):
        BudgetFile(file.path).change(lambda budget: None, waits=True)


def test_a_busy_file_is_not_waited_for(tmp_path):
    file = BudgetFile(tmp_path / "key")
    own = FileMember(file, member(), {}, 0.0)
    held = BudgetFile(file.path)
    with held._locked(waits=True):
        assert own.exchange(MemberReport(periods=PERIODS), 1.0) is None
    assert own.exchange(MemberReport(periods=PERIODS), 1.0) is not None


def test_a_killed_process_is_found_within_two_seconds_and_its_money_returns(tmp_path):
    file = BudgetFile(tmp_path / "key")
    command = [sys.executable, "-c", JOINS_AND_WAITS, str(file.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        own = FileMember(file, member(max_cost_usd=100), {}, 10.0)
        waiting = MemberReport(wanted_ticks=60, least_ticks=60, periods=PERIODS)
        first = own.exchange(waiting, 10.1)
        assert first is not None
        assert (first.held_ticks, first.left_ticks, first.is_held_elsewhere) == (0, 20, True)
        assert len(file.uses(10.2)) == 2
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert [use.name for use in file.uses(10.3)] == ["own|0of1"]
    after = own.exchange(waiting, 12.2)
    assert after is not None
    assert (after.held_ticks, after.left_ticks, after.is_held_elsewhere) == (60, 10, False), "30 may have been sent"
    own.leave(MemberReport(periods=PERIODS), 12.3)
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_removed_file_is_begun_anew(tmp_path):
    file = BudgetFile(tmp_path / "shared" / "key")
    own = FileMember(file, member(), {}, 0.0)
    file.path.unlink()
    grant = own.exchange(MemberReport(wanted=[0.0], periods=PERIODS), 1.0)
    assert grant is not None
    assert len(grant.slots) == 1


def test_a_member_whose_file_was_removed_joins_again_and_keeps_its_money(tmp_path):
    file = BudgetFile(tmp_path / "key")
    own, other = FileMember(file, member(max_cost_usd=100), {}, 0.0), BudgetFile(file.path)
    own.exchange(MemberReport(reserved_ticks=40, periods=PERIODS), 0.1)
    own._path.unlink()
    other.change(lambda budget: other.forget_dead(budget, 5.0), waits=True)
    grant = own.exchange(MemberReport(reserved_ticks=40, periods=PERIODS), 5.1)
    assert grant is not None
    assert (grant.held_ticks, grant.left_ticks) == (40, 60)
    other.change(lambda budget: other.forget_dead(budget, 10.0), waits=True)
    assert [use.name for use in file.uses(10.0)] == ["own|0of1"]


def test_a_folder_that_cannot_be_written_is_named_and_nothing_is_granted(tmp_path, monkeypatch, caplog):
    file = BudgetFile(tmp_path / "key")
    own = FileMember(file, member(), {}, 0.0)

    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(budget_file.os, "pwrite", full)
        assert own.exchange(MemberReport(wanted=[0.0], periods=PERIODS), 1.0) is None
        assert own.exchange(MemberReport(wanted=[0.0], periods=PERIODS), 1.1) is None
    assert caplog.text.count("No space left on device): no request is sent until it can") == 1
    grant = own.exchange(MemberReport(wanted=[0.0], periods=PERIODS), 1.2)
    assert grant is not None
    assert len(grant.slots) == 1


def test_a_forked_child_does_not_keep_the_membership_of_its_parent(tmp_path):
    code = f"""
import os, sys, time
from pathlib import Path
sys.path[:0] = {sys.path!r}
from batchvision.limits.budget import Member, Offer
from batchvision.limits.budget_file import BudgetFile, FileMember
member = FileMember(BudgetFile(Path({str(tmp_path / "key")!r})), Member("own|0of1", 1, Offer()), {{}}, 0.0)
if os.fork() == 0:
    print("child", flush=True)
    sys.stdin.read()
    os._exit(0)
os.kill(os.getpid(), 9)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"child\n"
        parent.wait()
        assert BudgetFile(tmp_path / "key").uses(1.0) == (), "the parent is dead, its child lives"


# ---------------------------------------------------------------------------------- the place


def test_a_bare_name_is_the_same_file_without_home_and_any_variable(tmp_path, job_of, monkeypatch):
    monkeypatch.setattr(sharing, "FOLDERS", (tmp_path,))
    for name in ("HOME", "TMPDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    path = sharing.shared_budget_path(job_of(share="team-key"))
    assert path == (tmp_path / f"batchvision-{os.getuid()}" / "team-key").resolve()
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert sharing.shared_budget_path(job_of()) is None


def test_a_path_is_relative_to_the_job_file(job_of):
    job = job_of(share="./limits/key")
    assert sharing.shared_budget_path(job) == (job.base_dir / "limits" / "key").resolve()
    assert job.config()["limits"]["share"] == str(job.base_dir / "limits" / "key")


@pytest.mark.parametrize("name", ["..", "a b", "-x", "a" * 101])
def test_a_name_that_is_no_file_name_is_refused(job_of, name):
    with pytest.raises(JobInvalid, match="give a name of letters"):
        sharing.shared_budget_path(job_of(share=name))


def test_a_folder_that_other_users_can_enter_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sharing, "FOLDERS", (tmp_path,))
    sharing.own_folder().chmod(0o755)
    with pytest.raises(JobInvalid, match=r"mode 700 \(`chmod 700"):
        sharing.own_folder()


def test_a_link_in_place_of_the_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sharing, "FOLDERS", (tmp_path,))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"batchvision-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(JobInvalid, match="must be a folder of this user"):
        sharing.own_folder()


def test_a_file_system_that_machines_share_is_refused_by_its_name(job_of, monkeypatch):
    monkeypatch.setattr(sharing, "shared_type", lambda path: "nfs4")
    with pytest.raises(JobInvalid, match=r"machines share \(nfs4\).*local disk"):
        sharing.shared_budget_path(job_of(share="./key"))
