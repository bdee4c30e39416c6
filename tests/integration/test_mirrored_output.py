"""The order in which an output reaches its object store, and what a store that fails costs. The store is in memory."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import obstore
import pytest
from job_runs import JobRuns
from obstore.store import MemoryStore

from batchvision.checkpoint import OutputView, writer
from batchvision.checkpoint.local_copy import LocalCopy, StoreListing
from batchvision.checkpoint.object_lock import LOCK_KEY
from batchvision.checkpoint.objects import ObjectFolder
from batchvision.checkpoint.storage import StoreFault
from batchvision.emulator import start_in_thread

URL = "s3://bucket/captions"
ROWS = 20
Contents = dict[str, bytes]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MemoryStore:
    store = MemoryStore()
    monkeypatch.setattr(ObjectFolder, "at", classmethod(lambda cls, url: cls(url, store)))
    monkeypatch.setenv("BATCHVISION_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(writer, "SealAfter", partial(writer.SealAfter, attempts=4))
    return store


@pytest.fixture
def runs(store: MemoryStore, tmp_path: Path) -> Iterator[JobRuns]:
    with start_in_thread() as emulator:
        settings = {"output.path": URL, "output.sync_seconds": 0.01, "limits.concurrency": 2}
        runs = JobRuns(tmp_path, emulator, settings=settings)
        runs.rows("red shoe", *(f"row-{number}" for number in range(ROWS)))
        yield runs


def contents(store: MemoryStore) -> Contents:
    return {each["path"]: bytes(obstore.get(store, each["path"]).bytes()) for each in obstore.list(store).collect()}


def make(store: MemoryStore, wanted: Contents) -> None:
    """Make the store hold exactly this."""
    for key in contents(store).keys() - wanted.keys():
        obstore.delete(store, key)
    for key, content in wanted.items():
        obstore.put(store, key, content)


def rows_in(store: MemoryStore, folder: Path) -> int:
    """Rows with an answer that another machine would find."""
    objects = ObjectFolder(URL, store)
    copy = LocalCopy(folder / "captions")
    copy.fetch(objects, StoreListing.of(objects))
    return OutputView(copy.output).count("results")


def after_each_write(monkeypatch: pytest.MonkeyPatch, note: Callable[[str], None]) -> None:
    one_note = threading.Lock()  # two threads write
    for name in ("put", "delete"):
        real = getattr(ObjectFolder, name)

        def noted(self: ObjectFolder, key: Any, *rest: Any, real: Any = real) -> Any:
            result = real(self, key, *rest)
            with one_note:
                note(str(key))
            return result

        monkeypatch.setattr(ObjectFolder, name, noted)


def fail_writes(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Each write after this many fails."""
    real, made = ObjectFolder.put, list[str]()

    def put(self: ObjectFolder, key: str, *rest: Any) -> Any:
        made.append(key)
        if len(made) > after:
            raise StoreFault(f"{URL} refused to write {key} (no rights)")
        return real(self, key, *rest)

    monkeypatch.setattr(ObjectFolder, "put", put)


def test_the_store_can_be_read_after_each_write_and_no_answer_is_ever_gone(
    runs: JobRuns, store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = list[Contents]()
    after_each_write(monkeypatch, lambda key: states.append(contents(store)))
    assert runs.run().exit_code == 0
    monkeypatch.undo()
    found = list[int]()
    for number, state in enumerate(states):
        then = MemoryStore()
        make(then, state)
        found.append(rows_in(then, tmp_path / "copies" / str(number)))
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0, ROWS)
    assert len(set(found)) > 4, "the run was seen in few states: this proves little"


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6])
def test_after_a_crash_here_the_copy_is_newer_than_the_store_and_nothing_is_bought_again(
    runs: JobRuns, store: MemoryStore, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    states = list[Contents]()
    with monkeypatch.context() as patched:
        after_each_write(patched, lambda key: states.append(contents(store)))
        runs.run()
    complete = {key for key in contents(store) if "/part-" in key}
    make(store, states[int(len(states) * share)])
    assert not complete <= contents(store).keys()
    again = runs.run()
    assert (again.exit_code, again.counts, again.billed.total()) == (0, (ROWS, 0, 0), 0)
    assert complete <= contents(store).keys()


@pytest.mark.parametrize("after", [4, 8, 12])
def test_a_store_that_refuses_ends_the_run_with_exit_7_and_the_copy_keeps_every_answer(
    runs: JobRuns, store: MemoryStore, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    with monkeypatch.context() as patched:
        fail_writes(patched, after)
        first = runs.run()
    assert first.exit_code == 7
    assert str(runs.job().output_path) in first.message
    again = runs.run()
    assert (again.exit_code, again.counts) == (0, (ROWS, 0, 0))
    assert first.billed + again.billed == dict.fromkeys(first.billed + again.billed, 1)
    assert (first.billed + again.billed).total() == ROWS


def test_an_object_that_another_program_changes_during_a_run_ends_it(
    runs: JobRuns, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.run()
    runs.rows("blue shoe", "new-1")
    key, real = ".batchvision/0of1/open.log", ObjectFolder.put

    def put(self: ObjectFolder, name: str, *rest: Any) -> Any:
        if name == key:
            obstore.put(store, key, b"not ours")
        return real(self, name, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(ObjectFolder, "put", put)
        ended = runs.run()
    assert ended.exit_code == 7
    assert "another program has changed it" in ended.message


def test_objects_of_a_sealed_segment_that_were_left_behind_are_ignored_and_removed(
    runs: JobRuns, store: MemoryStore, tmp_path: Path
) -> None:
    runs.run()
    left = ".batchvision/0of1/journal-00000001.log/000000000500"
    obstore.put(store, left, b"a late write of a machine that was paused")
    assert rows_in(store, tmp_path / "another") == ROWS
    shutil.rmtree(tmp_path / "state")
    again = runs.run()
    assert (again.exit_code, again.billed.total()) == (0, 0)
    assert left not in contents(store)


def test_an_object_that_goes_while_it_is_fetched_is_listed_again(
    runs: JobRuns, store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.run()
    shutil.rmtree(tmp_path / "state")
    real, gone = ObjectFolder.get, list[str]()

    def get(self: ObjectFolder, key: str) -> Any:
        if key.startswith("results/") and key not in gone:
            gone.append(key)
            return None
        return real(self, key)

    monkeypatch.setattr(ObjectFolder, "get", get)
    again = runs.run()
    assert (again.exit_code, again.counts, again.billed.total()) == (0, (ROWS, 0, 0), 0)
    assert gone


def test_a_released_lock_is_taken_at_once_and_a_stopped_run_releases_it(runs: JobRuns, store: MemoryStore) -> None:
    runs.run()
    assert b'"is_released": true' in contents(store)[LOCK_KEY]
