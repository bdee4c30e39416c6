"""The power goes before every operation of a small run, and again soon after: nothing is lost, all doubt is listed.

Each promise has a saboteur: a run that breaks it must be caught by the same sweep, or the sweep proves nothing.
``scripts/crash`` cuts before each operation more than once, with other luck.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from observed_run import LANES, RecordingProvider
from power_cuts import CutDisk, sweep

from batchvision.checkpoint import Store
from batchvision.checkpoint.journal_records import Accepted
from batchvision.checkpoint.lineage import is_merged
from batchvision.records import RawAnswer
from batchvision.runner.classify import Classifier

pytestmark = pytest.mark.timeout(600)  # a busy machine


@pytest.mark.parametrize("lane", LANES)
def test_a_power_cut_before_any_operation_loses_nothing_and_lists_what_may_be_paid_twice(tmp_path, lane):
    tally = sweep(tmp_path, lane, 1)
    assert tally.faults == []
    assert tally.kills > 75
    assert min(tally.acknowledged, tally.ambiguous) > 25, "cuts that hurt nobody prove nothing"
    assert (tally.lost_after_read > 0) == (lane == "deferred")


# ---------------------------------------------------------------------------------- saboteurs


def is_caught(tmp_path, lane: str, words: str, forgets: str | None = None) -> bool:
    """Whether the sweep comes to say these words."""
    return any(words in sentence for sentence in sweep(tmp_path, lane, 2, forgets, until=words).faults)


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("forgets", ["sync", "sync_folder"])
def test_a_file_or_a_folder_that_is_not_synced_is_caught(tmp_path, lane, forgets):
    """Sabotage: no-fsync, no-dirsync."""
    assert is_caught(tmp_path, lane, "had been acknowledged", forgets)


@pytest.mark.parametrize("lane", LANES)
def test_an_answer_that_is_read_before_it_is_durable_is_caught(tmp_path, monkeypatch, lane):
    """Sabotage: parse-before-journal."""
    judges: list[Classifier] = []
    make, keep = Classifier.__init__, Store.answer

    def made(classifier: Classifier, *settings: Any, **more: Any) -> None:
        make(classifier, *settings, **more)
        judges.append(classifier)

    async def answer(store: Store, exchange_id: str, raw: RawAnswer) -> RawAnswer:
        judges[-1].classify(store._run_state.open[exchange_id]._replace(answer=raw))
        return await keep(store, exchange_id, raw)

    monkeypatch.setattr(Classifier, "__init__", made)
    monkeypatch.setattr(Store, "answer", answer)
    assert is_caught(tmp_path, lane, "had been judged")


def test_a_ticket_that_is_asked_for_before_it_is_durable_is_caught(tmp_path, monkeypatch):
    """Sabotage: poll-before-ticket. A ticket is written only when it has been asked for."""
    unwritten: dict[str, tuple[Store, Accepted]] = {}
    ask = RecordingProvider.send

    async def ticket(store: Store, exchange_id: str, name: str, at: datetime) -> None:
        entry = Accepted(exchange_id, name, at)
        store._run_state.apply(entry)
        unwritten[name] = (store, entry)

    async def send(provider: RecordingProvider, method: str, path: str, *more: Any) -> RawAnswer:
        raw = await ask(provider, method, path, *more)
        store, entry = unwritten.pop(path.rsplit("/", 1)[1], (None, None))
        if store is not None:
            store._writer.journal.append(entry)
        return raw

    monkeypatch.setattr(Store, "ticket", ticket)
    monkeypatch.setattr(RecordingProvider, "send", send)
    assert is_caught(tmp_path, "deferred", "had been polled")


def test_parts_that_go_before_the_one_that_was_made_of_them_has_its_name_are_caught(tmp_path, monkeypatch):
    """Sabotage: merged the wrong way round. Removed, at that moment, when the new part is to get its name."""
    rename = CutDisk.rename

    def removing_first(disk: CutDisk, old: Path, new: Path) -> None:
        if is_merged(new.name):
            for path in sorted(new.parent.glob("part-*-0?????.parquet")):
                disk.remove(path)
            monkeypatch.setattr(CutDisk, "delete", lambda *of_files: None)
        rename(disk, old, new)

    monkeypatch.setattr(CutDisk, "rename", removing_first)
    assert is_caught(tmp_path, "online", "lost: ")
