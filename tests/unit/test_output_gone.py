"""An output that is removed or replaced while a run goes on: the run notices before its next request leaves."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from checkpoint_rows import an_answer, an_intent, ask, classify, open_store, tree

from batchvision.checkpoint import OutputLock, SealAfter, Store, lock, writer
from batchvision.checkpoint.disk import OpenedFile
from batchvision.errors import DiskFailed

pytestmark = pytest.mark.anyio


def started(output: Path, seal_after: SealAfter | None = None, run_id: str = "run1") -> Store:
    store = open_store(output, run_id=run_id, seal_after=seal_after)
    store.recover(classify)
    store.row_index("recipe")
    return store


def remove(output: Path) -> None:
    shutil.rmtree(output)


def move_away(output: Path) -> None:
    output.rename(output.with_name("elsewhere"))


def replace_by_a_copy(output: Path) -> None:
    move_away(output)
    shutil.copytree(output.with_name("elsewhere"), output)


def remove_the_state(output: Path) -> None:
    shutil.rmtree(output / ".batchvision")


def replace_the_journal(output: Path) -> None:
    (path,) = (output / ".batchvision/0of1").glob("journal-*.log")
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


WAYS = [remove, move_away, replace_by_a_copy, remove_the_state, replace_the_journal]


@pytest.mark.parametrize("way", WAYS)
async def test_no_intent_is_acknowledged_in_a_folder_that_is_not_the_runs_any_more(tmp_path: Path, way) -> None:
    output = tmp_path / "out"
    with started(output) as store:
        await ask(store, an_intent(1), an_answer())
        await store.intent(an_intent(2))
        way(output)
        before = tree(tmp_path, "out")
        with pytest.raises(DiskFailed, match="was removed or replaced"):
            await store.intent(an_intent(3))
        with pytest.raises(DiskFailed, match="was removed or replaced"):
            await store.answer("x2", an_answer())
        assert not store.takes_answers
        await store.close(complete=True)
        after = tree(tmp_path, "out")
        assert {path for path in after if "journal" not in path} == {path for path in before if "journal" not in path}
    assert DiskFailed.exit_code == 7


@pytest.mark.parametrize("way", [remove, move_away, replace_by_a_copy])
async def test_neither_parts_nor_a_summary_are_written_into_what_has_taken_its_place(tmp_path: Path, way) -> None:
    output = tmp_path / "out"
    with started(output, SealAfter(attempts=1)) as store:
        await store.intent(an_intent(1))
        way(output)
        before = tree(tmp_path, "out")
        with pytest.raises(DiskFailed, match="was removed or replaced"):
            await ask(store, an_intent(2), an_answer())
        with pytest.raises(DiskFailed, match="was removed or replaced"):
            store.write_summary(None)  # type: ignore[arg-type]  # it is not looked at
    assert tree(tmp_path, "out") == before


async def test_a_second_run_may_take_the_place_and_the_first_leaves_it_alone(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with started(output) as first:
        await first.intent(an_intent(1))
        remove(output)
        with started(output, run_id="run2") as second:
            with pytest.raises(DiskFailed):
                await first.intent(an_intent(2))
            first.release()
            await ask(second, an_intent(5), an_answer())
            await second.close(complete=True)
            assert {part.table for part in second.parts_to_list()} == {"results", "attempts", "failures"}


@pytest.mark.parametrize("way", WAYS)
async def test_without_the_look_the_run_would_go_on_into_an_unlinked_journal(
    tmp_path: Path, way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sabotaged twin."""
    monkeypatch.setattr(writer, "check_in_place", lambda lock, segment: None)
    output = tmp_path / "out"
    with started(output) as store:
        way(output)
        await ask(store, an_intent(1), an_answer())
        assert store.takes_answers


def test_a_lock_whose_folder_went_between_opening_and_locking_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, real, removed = tmp_path / "out", lock._lock_at_once, list[int]()

    def late(descriptor: int, *arguments: object, **options: object) -> None:
        real(descriptor, *arguments, **options)  # type: ignore[arg-type]  # as it was called
        if not removed:
            removed.append(descriptor)
            remove(output)

    monkeypatch.setattr(lock, "_lock_at_once", late)
    with OutputLock.take(output) as held:
        assert held.file.path == output / ".batchvision/0of1/lock"
        assert held.file.is_in_place()
    monkeypatch.setattr(lock, "_lock_at_once", lambda descriptor, *_, **__: remove(output))
    with pytest.raises(DiskFailed, match="was removed or replaced"):
        OutputLock.take(output)


def test_what_cannot_be_found_out_is_not_taken_for_gone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    found = path.stat()
    opened = OpenedFile(path, found.st_dev, found.st_ino)
    assert opened.is_in_place()
    assert not opened._replace(path=path / "below").is_in_place()
    with pytest.raises(OSError, match="File name too long"):
        opened._replace(path=tmp_path / ("x" * (os.pathconf(tmp_path, "PC_NAME_MAX") + 1))).is_in_place()
