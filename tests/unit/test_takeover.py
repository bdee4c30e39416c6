"""Taking over what dead runs left on other shards: nothing is lost or twice, also after a crash at each step of it."""

from __future__ import annotations

import errno
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from checkpoint_rows import START, an_answer, an_intent, ask, classify, open_store, tree
from modelled_disk import ModelledDisk, PowerCut, keep_all, lose_all

from batchvision.checkpoint import OutputLock, OutputView, RowState, Store, spent_by_shard
from batchvision.checkpoint.journal import segment_paths
from batchvision.checkpoint.shards import all_locked, lock_shard, mutex, shards_of
from batchvision.commands.verify import Mark, verify
from batchvision.errors import DiskFailed, OutputHeld
from batchvision.records import Shard

pytestmark = pytest.mark.anyio

FOUR = [Shard(number, 4) for number in range(4)]


def rows_of(shard: Shard, count: int, start: int = 1) -> list[int]:
    """Numbers of the first rows (``row1``, ``row2`` ...) that a shard owns."""
    numbers = (number for number in range(start, 10_000) if shard.owns(f"row{number}"))
    return [next(numbers) for _ in range(count)]


@dataclass
class Left:
    """What a dead run left, by row number."""

    answered: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    tried: list[int] = field(default_factory=list)  #: carried: one attempt is spent
    in_flight: list[int] = field(default_factory=list)
    tickets: list[int] = field(default_factory=list)


async def die(output: Path, shard: Shard, run_id: str = "dead", start: int = 1) -> Left:
    """A run on a shard that is killed with something of each kind in its journal, and some of it sealed."""
    numbers = rows_of(shard, 12, start)
    left = Left(numbers[:4], numbers[4:6], numbers[6:8], numbers[8:10], numbers[10:])

    def intent(number: int) -> Any:
        return an_intent(number, run_id=run_id)

    with open_store(output, run_id=run_id, shard=shard.name) as store:
        store.recover(classify)
        store.row_index("recipe")
        await ask(store, intent(left.answered[0]), an_answer())
        await ask(store, intent(left.failed[0]), an_answer(b"no", 400))
        await store._writer.commit(closes=True)
        for number in left.answered[1:]:
            await ask(store, intent(number), an_answer())
        await ask(store, intent(left.failed[1]), an_answer(b"no", 400))
        for number in left.tried:
            await ask(store, intent(number), an_answer(b"busy", 503))
        for number in (*left.in_flight, *left.tickets):
            await store.intent(intent(number))
        for number in left.tickets:
            await store.ticket(f"x{number}", f"ticket{number}", START)
    return left


def begin(output: Path, shard: Shard, run_id: str = "next", **options: Any) -> Store:
    store = open_store(output, run_id=run_id, shard=shard.name, **options)
    try:
        store.recover(classify)
        store.row_index("recipe")
    except BaseException:
        store.release()
        raise
    return store


def names(numbers: list[int]) -> list[str]:
    return sorted(f"row{number}" for number in numbers)


def column(output: Path, table: str, name: str) -> list[Any]:
    return sorted(value for batch in OutputView(output).rows(table, (name,)) for value in batch[name].to_pylist())


def assert_knows(store: Store, left: Left) -> None:
    """Every row of the dead run stands as that run left it, in the books and tables of the one that took over."""
    row_index = store.row_index("recipe")

    def states(numbers: list[int]) -> set[RowState]:
        return {row_index.state(f"row{number}", f"key{number}") for number in numbers}

    assert states(left.answered) == {RowState.DONE}
    assert states(left.failed) == {RowState.FAILED}
    assert states(left.tickets) == {RowState.AWAITING}
    assert states([*left.tried, *left.in_flight]) == {RowState.NEW}
    assert {row_index.carried(f"row{number}", f"key{number}").attempts for number in left.tried} == {1}
    assert {row_index.carried(f"row{number}", f"key{number}").attempts for number in left.in_flight} == {1}
    assert column(store.output, "results", "row_id") == names(left.answered)
    assert column(store.output, "failures", "row_id") == names(left.failed)
    ended = [*left.answered, *left.failed, *left.tried, *left.in_flight]
    assert column(store.output, "attempts", "row_id") == names(ended)


async def wrong(output: Path) -> list[str]:
    """What ``verify`` finds wrong of files and rows; the answers here are no provider's, and no recipe is written."""
    report = await verify(output)
    topics = ("journal", "parts", "columns", "once", "runs")
    return [each.text for each in report.findings if each.topic in topics and each.mark is Mark.WRONG]


# ---------------------------------------------------------------------------------- shards


def test_shards_overlap_where_a_row_can_belong_to_both() -> None:
    assert Shard(0, 2).overlaps(Shard(0, 1))
    assert Shard(0, 2).overlaps(Shard(0, 4))
    assert Shard(0, 2).overlaps(Shard(2, 4))
    assert not Shard(0, 2).overlaps(Shard(1, 2))
    assert not Shard(0, 2).overlaps(Shard(1, 4))
    assert Shard(1, 2).overlaps(Shard(1, 3))


@pytest.mark.parametrize("row_id", ["0123456789abcdef", "sku", "a#b"])
def test_repeated_rows_belong_to_the_shard_of_the_first(row_id: str) -> None:
    repeated = [f"{row_id}#2", f"{row_id}#13"] + ([f"{row_id}-2"] if len(row_id) == 16 else [])
    for shard in FOUR:
        assert {shard.owns(each) for each in repeated} == {shard.owns(row_id)}


def test_an_id_that_only_ends_in_a_number_is_an_id_of_its_own() -> None:
    owners = {next(shard.number for shard in FOUR if shard.owns(f"row-{number}")) for number in range(40)}
    assert owners == {0, 1, 2, 3}
    nameless = {next(shard.number for shard in FOUR if shard.owns(f"#{number}")) for number in range(40)}
    assert nameless == {0, 1, 2, 3}


# ---------------------------------------------------------------------------------- who may run at the same time


@pytest.mark.parametrize(("first", "second"), [("0of2", "0of1"), ("0of1", "0of2"), ("0of4", "0of2"), ("0of2", "1of4")])
def test_a_shard_of_another_division_is_sent_away_while_one_is_at_work(tmp_path: Path, first: str, second: str) -> None:
    with lock_shard(tmp_path, Shard.named(first)), pytest.raises(OutputHeld, match="another division"):
        lock_shard(tmp_path, Shard.named(second))
    lock_shard(tmp_path, Shard.named(second)).release()


def test_shards_of_one_division_run_side_by_side_and_each_only_once(tmp_path: Path) -> None:
    with lock_shard(tmp_path, FOUR[0]), lock_shard(tmp_path, FOUR[1]):
        with pytest.raises(OutputHeld):
            lock_shard(tmp_path, FOUR[1])
        with pytest.raises(OutputHeld), all_locked(tmp_path):
            pass
    with all_locked(tmp_path) as locks:
        assert [lock.shard for lock in locks] == ["0of4", "1of4"]
    with pytest.raises(OutputHeld), lock_shard(tmp_path, Shard()), all_locked(tmp_path):
        pass


def test_a_start_waits_while_another_recovers_and_then_finds_its_shard_free(tmp_path: Path) -> None:
    """Four killed shards are started again at once: the first recovers the journals of all, and sends nobody away."""
    lock_shard(tmp_path, FOUR[1]).release()
    waiting, taken = threading.Event(), threading.Event()

    def start() -> None:
        waiting.set()
        with lock_shard(tmp_path, FOUR[1]):
            taken.set()

    with lock_shard(tmp_path, FOUR[0]):
        with mutex(tmp_path), OutputLock.take(tmp_path, "1of4"):
            thread = threading.Thread(target=start)
            thread.start()
            waiting.wait()
            assert not taken.is_set()
        thread.join()
    assert taken.is_set()


# ---------------------------------------------------------------------------------- taking over


@pytest.mark.parametrize("now", [Shard(0, 2), Shard(0, 1), Shard(0, 4)])
async def test_what_a_killed_shard_left_is_known_to_the_run_that_has_its_rows(tmp_path: Path, now: Shard) -> None:
    left = await die(tmp_path, FOUR[0])
    with begin(tmp_path, now) as store:
        assert_knows(store, left)
        assert {open_.intent.row_id for open_ in store._run_state.open.values()} == set(names(left.tickets))
        await store.close(complete=False)
    assert await wrong(tmp_path) == []
    if now != FOUR[0]:
        assert OutputView(tmp_path).open_work().tickets
        with begin(tmp_path, FOUR[0], "later") as store:
            assert_knows(store, left)


async def test_a_division_into_more_shards_leaves_each_row_to_its_own_shard(tmp_path: Path) -> None:
    left = await die(tmp_path, Shard())
    first = begin(tmp_path, FOUR[0])
    second = begin(tmp_path, FOUR[1], "beside")
    with first, second:
        known = set(first._run_state.failures) | set(second._run_state.failures)
        assert known == {name for name in names(left.failed) if FOUR[0].owns(name) or FOUR[1].owns(name)}
        open_ = [open_.intent.row_id for store in (first, second) for open_ in store._run_state.open.values()]
        assert sorted(open_) == [name for name in names(left.tickets) if FOUR[0].owns(name) or FOUR[1].owns(name)]
    with begin(tmp_path, Shard(), "whole") as store:
        assert_knows(store, left)


async def test_tickets_that_are_left_to_their_own_shard_stay_known_as_unread(tmp_path: Path) -> None:
    numbers = [*rows_of(FOUR[0], 2), *rows_of(FOUR[1], 2)]
    with begin(tmp_path, Shard(), "run1") as ended:
        for number in numbers:
            await ended.intent(an_intent(number))
            await ended.ticket(f"x{number}", f"ticket{number}", START)
        await ended.close(complete=True)
    with begin(tmp_path, FOUR[0]) as first, begin(tmp_path, FOUR[1], "beside") as second:
        for store in (first, second):
            assert [store.is_unread(exchange_id) for exchange_id in store._run_state.open] == [True, True]


@pytest.mark.parametrize("now", [Shard(0, 2), Shard(0, 1), FOUR[0]])
async def test_tickets_of_a_killed_run_may_have_been_read(tmp_path: Path, now: Shard) -> None:
    """The killed run may have polled them. No request was in flight, so there is nothing to close."""
    numbers = rows_of(FOUR[0], 2)
    with begin(tmp_path, FOUR[0], "killed") as killed:
        for number in numbers:
            await killed.intent(an_intent(number, run_id="killed"))
            await killed.ticket(f"x{number}", f"ticket{number}", START)
    for run_id in ("next", "later"):
        with begin(tmp_path, now, run_id) as store:
            assert [store.is_unread(f"x{number}") for number in numbers] == [False, False]
            await store.close(complete=False)


async def test_a_dead_shard_of_the_same_division_is_recovered_and_keeps_what_is_open(tmp_path: Path) -> None:
    left = await die(tmp_path, FOUR[1])
    with begin(tmp_path, FOUR[0]) as store:
        assert store._run_state.open == {}
        assert store.failures() == ()
        assert column(tmp_path, "results", "row_id") == names(left.answered)
        with begin(tmp_path, FOUR[1], "own") as own:
            assert_knows(own, left)


async def test_a_shard_at_work_is_left_alone(tmp_path: Path) -> None:
    with begin(tmp_path, FOUR[1], "working") as working:
        await ask(working, an_intent(rows_of(FOUR[1], 1)[0]), an_answer())
        before = tree(tmp_path, ".batchvision/1of4")
        with begin(tmp_path, FOUR[0]):
            assert tree(tmp_path, ".batchvision/1of4") == before
        await working.close(complete=True)
    assert len(column(tmp_path, "results", "row_id")) == 1


async def test_a_shard_that_has_ended_as_it_should_is_not_written_to_again(tmp_path: Path) -> None:
    with begin(tmp_path, FOUR[1], "ended") as ended:
        await ask(ended, an_intent(rows_of(FOUR[1], 1)[0]), an_answer(b"no", 400))
        await ended.close(complete=True)
    before = tree(tmp_path, ".batchvision/1of4", "results", "failures", "attempts")
    begin(tmp_path, FOUR[0]).release()
    assert tree(tmp_path, ".batchvision/1of4", "results", "failures", "attempts") == before


async def test_what_was_spent_stays_with_the_shard_that_spent_it(tmp_path: Path) -> None:
    await die(tmp_path, FOUR[0])
    begin(tmp_path, Shard(0, 2)).release()
    assert set(spent_by_shard(tmp_path)) == {FOUR[0]}


async def test_rows_of_two_old_divisions_are_taken_over_together(tmp_path: Path) -> None:
    first = await die(tmp_path, FOUR[0], "dead1")
    second = await die(tmp_path, Shard(1, 2), "dead2", start=100)
    both = Left(*(getattr(first, name) + getattr(second, name) for name in Left.__dataclass_fields__))
    with begin(tmp_path, Shard()) as store:
        assert_knows(store, both)
    assert shards_of(tmp_path) == [Shard(), FOUR[0], Shard(1, 2)]


# ---------------------------------------------------------------------------------- a crash at each step


async def operations_of_a_takeover(folder: Path, now: Shard) -> int:
    await die(folder, FOUR[0])
    disk = ModelledDisk(folder)
    with open_store(folder, run_id="next", shard=now.name, disk=disk) as store:
        before = len(disk.operations)
        store.recover(classify)
        assert before < 10
        return len(disk.operations)


@pytest.mark.parametrize(
    ("now", "then", "choose"),
    [("0of2", "0of2", lose_all), ("0of2", "0of1", keep_all), ("0of1", "0of4", lose_all), ("0of1", "0of1", keep_all)],
)
async def test_after_a_crash_at_any_operation_of_a_takeover_the_next_start_knows_it_all(
    tmp_path: Path, now: str, then: str, choose: Any
) -> None:
    count = await operations_of_a_takeover(tmp_path / "count", Shard.named(now))
    assert count > 20
    for at in range(count):
        output = tmp_path / str(at)
        left = await die(output, FOUR[0])
        disk = ModelledDisk(output, cut_at=at)
        with pytest.raises(PowerCut), open_store(output, run_id="next", shard=now, disk=disk) as store:
            store.recover(classify)
        disk.after_cut(choose)
        assert await wrong(output) == [], f"cut at {at}: {disk.operations[-1]}"
        with begin(output, Shard.named(then), "after") as store:
            assert_knows(store, left)
            await store.close(complete=False)
        assert await wrong(output) == [], f"cut at {at}: {disk.operations[-1]}"
        with begin(output, Shard(), "whole") as store:
            assert_knows(store, left)


async def test_a_disk_that_fails_in_a_takeover_loses_nothing_and_lets_go_of_every_lock(tmp_path: Path) -> None:
    count = await operations_of_a_takeover(tmp_path / "count", Shard(0, 2))
    for at in range(count):
        output = tmp_path / str(at)
        left = await die(output, FOUR[0])
        disk = ModelledDisk(output, fail_at=at, error=errno.ENOSPC)
        with suppress(DiskFailed), open_store(output, run_id="next", shard="0of2", disk=disk) as store:
            store.recover(classify)
        with all_locked(output):
            pass
        with begin(output, Shard(), "whole") as store:
            assert_knows(store, left)


async def test_a_takeover_that_lets_go_before_its_own_segment_is_durable_loses_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sabotaged twin: the other shard is let go of first."""
    from batchvision.checkpoint.recovery import ShardRecovery

    async def lost_at(output: Path, at: int) -> bool:
        left = await die(output, FOUR[0])
        disk = ModelledDisk(output, cut_at=at)
        with suppress(PowerCut), open_store(output, run_id="next", shard="0of2", disk=disk) as store:
            store.recover(classify)
        disk.after_cut(keep_all)
        with begin(output, Shard(), "whole") as store:
            return {open_.intent.row_id for open_ in store._run_state.open.values()} != set(names(left.tickets))

    count = await operations_of_a_takeover(tmp_path / "count", Shard(0, 2))
    assert not any([await lost_at(tmp_path / f"right{at}", at) for at in range(count)])
    give = ShardRecovery.give

    def give_and_let_go(dead: ShardRecovery, *settings: Any) -> Any:
        given = give(dead, *settings)
        dead.let_go()
        return given

    monkeypatch.setattr(ShardRecovery, "give", give_and_let_go)
    assert any([await lost_at(tmp_path / f"wrong{at}", at) for at in range(count)])


def test_a_shard_without_a_segment_gives_its_failed_rows(tmp_path: Path) -> None:
    lock_shard(tmp_path, FOUR[0]).release()
    assert segment_paths(tmp_path / ".batchvision" / "0of4") == []
    begin(tmp_path, Shard(0, 2)).release()
    assert segment_paths(tmp_path / ".batchvision" / "0of4") == []
