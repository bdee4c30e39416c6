"""``scripts/proofs/buckets.py`` in short: machines that are lost or paused, and a sabotaged twin of each proof."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from proofs.buckets import a_bucket, lost_machines, paused_holder, same_machine, second_at_once
from s3_server import S3Server, s3_server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with s3_server() as running:
        for name, value in running.environ.items():
            monkeypatch.setenv(name, value)
        yield running


def test_an_empty_machine_goes_on_from_the_bucket_after_kills(tmp_path: Path, server: S3Server) -> None:
    with a_bucket(tmp_path / "run", server) as bucket:
        tally = lost_machines(bucket, random.Random(1), {}, {"die": "put:6"}, {"die": "post:4"})
    assert (tally.kills, tally.faults) == (3, [])
    assert tally.acknowledged > 0, "nothing had been acknowledged: this proves nothing"


def test_after_a_kill_on_the_same_machine_answers_before_their_sync_count(tmp_path: Path, server: S3Server) -> None:
    with a_bucket(tmp_path / "run", server, sync_seconds=60.0) as bucket:
        before, bought_again = same_machine(bucket)
    assert before >= 20
    assert bought_again <= 4, "more than were in flight"


def test_a_polled_ticket_is_in_the_bucket(tmp_path: Path, server: S3Server) -> None:
    with a_bucket(tmp_path / "run", server, "deferred", sync_seconds=10.0) as bucket:
        tally = lost_machines(bucket, random.Random(0), {"die": "poll:2"}, {"die": "poll:2"})
    assert (tally.kills, tally.faults) == (2, [])
    assert tally.polled > 0


def test_the_proof_notices_a_ticket_that_is_polled_before_its_sync(tmp_path: Path, server: S3Server) -> None:
    with a_bucket(tmp_path / "run", server, "deferred", sync_seconds=10.0) as bucket:
        tally = lost_machines(bucket, random.Random(0), {"die": "poll:2", "sabotage": "poll-before-sync"})
    assert any("was polled and is not in the store" in fault for fault in tally.faults)


def test_the_proof_notices_a_segment_that_is_deleted_before_its_seal(tmp_path: Path, server: S3Server) -> None:
    with a_bucket(tmp_path / "run", server) as bucket:
        tally = lost_machines(bucket, random.Random(0), {"die": "put:9", "sabotage": "segment-before-open-log"})
    assert any("is missing" in fault or "not in the store" in fault for fault in tally.faults)


def test_of_two_machines_at_once_the_second_leaves_with_exit_11(tmp_path: Path, server: S3Server) -> None:
    with a_bucket(tmp_path / "run", server) as bucket:
        assert second_at_once(bucket) == (0, 11)


def test_an_expired_lock_is_taken_over_and_its_old_holder_sends_nothing_more(tmp_path: Path, server: S3Server) -> None:
    with a_bucket(tmp_path / "run", server) as bucket:
        code, sent, tally = paused_holder(bucket)
    assert (code, sent, tally.faults) == (11, 0, [])


def test_the_proof_notices_an_old_holder_that_goes_on(tmp_path: Path, server: S3Server) -> None:
    with a_bucket(tmp_path / "run", server) as bucket:
        _, sent, _ = paused_holder(bucket, "no-fencing")
    assert sent > 0
