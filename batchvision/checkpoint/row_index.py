"""The row index: which rows are done, failed or waiting. It is read once from the parts, and this run keeps it current.

A row is identified by its row_id and one of its two keys. A done row takes 38 bytes and no Python object: one key set
entry for its skip_key, one for its request_key, one for the answered request, and two marks of the pass that meets it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchvision.checkpoint.current import Source, source_batches
from batchvision.checkpoint.keyset import KeySet
from batchvision.checkpoint.manifest_index import RowsMet
from batchvision.checkpoint.paid_failures import read_paid_failures
from batchvision.checkpoint.paid_rows import PaidRows
from batchvision.checkpoint.parts import batches_of, part_paths
from batchvision.checkpoint.row_keys import packed_ids, packed_keys, pair, pairs
from batchvision.checkpoint.run_state import RunState
from batchvision.checkpoint.spent import LedgerSums, read_sums
from batchvision.checkpoint.stored_answers import StoredAnswers, StoredRequest
from batchvision.records import Exchange, Failed, Intent

_RESULT_COLUMNS = ("row_id", "request_key", "skip_key", "recipe_id")


class RowState(Enum):
    """The state of a row under its current key."""

    NEW = "new"  #: no answer yet
    DONE = "done"  #: in results
    FAILED = "failed"  #: in failures
    AWAITING = "awaiting"  #: a ticket is open for it
    HELD = "held"  #: it was in flight at a crash and `ambiguous = "hold"` keeps it


class Carried(NamedTuple):
    """Attempts and cost of earlier tries of the same request.

    ``empties``: empty answers of a pending request. One retry of an empty answer is bought, over all runs.
    ``raised``: a truncated answer was bought, and its one retry with more tokens was not.
    """

    attempts: int = 0
    cost_ticks: int = 0
    runs_failed: int = 0
    empties: int = 0
    raised: bool = False


_NOTHING_CARRIED = Carried()


class _Awaiting:
    """The rows with tickets of earlier runs, 36 bytes each. The feed thread and the event loop ask at the same time.

    A done row does not wait for the ticket of its redo: it stays done, also under another skip_key.
    """

    def __init__(self, accepted: Iterable[Exchange], done: KeySet) -> None:
        rows, requests, redos = bytearray(), bytearray(), bytearray()
        for exchange in accepted:
            intent = exchange.intent
            if intent.is_redo and len(done) and done.contains(pair(intent.row_id, intent.request_key)):
                redos += b"".join(_pairs_of(intent))
                continue
            rows += pair(intent.row_id, "")
            requests += b"".join(_pairs_of(intent))
        self._rows, self._requests, self._redos = KeySet(), KeySet(), KeySet()
        self._removed: set[bytes] = set()
        for keys, packed in ((self._rows, rows), (self._requests, requests), (self._redos, redos)):
            keys.add_packed(bytes(packed))
            keys.merge()

    @classmethod
    def of(cls, accepted: Iterable[Exchange], done: KeySet) -> _Awaiting | None:
        """``None`` without a ticket."""
        found = cls(accepted, done)
        return found if len(found._rows) or len(found._redos) else None

    def has(self, row_id: str, key: str) -> bool:
        """Whether a ticket is open for the row under ``key``, a request_key or skip_key."""
        asked = pair(row_id, key)
        return asked not in self._removed and self._requests.contains(asked)

    def has_redo(self, row_id: str, request_key: str) -> bool:
        asked = pair(row_id, request_key)
        return asked not in self._removed and self._redos.contains(asked)

    def remove(self, intent: Intent) -> None:
        self._removed.update(_pairs_of(intent))

    def places_of(self, row_ids: Sequence[str]) -> list[int]:
        """The places of rows that had a ticket when the run began."""
        asked = b"".join([pair(row_id, "") for row_id in row_ids])
        places: list[int] = np.flatnonzero(self._rows.contains_packed(asked)).tolist()
        return places


def _pairs_of(intent: Intent) -> tuple[bytes, bytes]:
    return pair(intent.row_id, intent.request_key), pair(intent.row_id, intent.skip_key)


class RowIndex:
    """Answers questions of the feed thread and of the event loop, also at the same time."""

    def __init__(
        self,
        run_state: RunState,
        done: KeySet,
        paid_rows: Callable[[], PaidRows],
        sums: LedgerSums,
        answered: KeySet,
        paid_failures: Mapping[tuple[str, str], Failed] | None = None,
        stored_answers: Callable[[], StoredAnswers] = StoredAnswers.none,
    ) -> None:
        for keys in (done, answered):
            keys.merge()  # a question must not sort: two threads ask at the same time
        #: request_keys with an answer under this recipe, of any row
        self.answered = answered
        self._run_state = run_state
        self._done = done
        self._read_paid_rows = paid_rows
        self._paid_rows: PaidRows | None = None
        self._read_stored_answers = stored_answers
        self._stored_answers: StoredAnswers | None = None
        self._stored_tickets: dict[str, list[StoredRequest]] | None = None
        self._sums = sums
        self._awaiting = _Awaiting.of(run_state.open.accepted(), done)
        self._paid_failures = {} if paid_failures is None else paid_failures
        self.met = RowsMet(done)  #: no query changes it
        self._failed_before = frozenset(row_id for row_id, _ in self._paid_failures)

    @classmethod
    def read(
        cls, output: Path, run_state: RunState, recipe_id: str, results: Sequence[Source] | None = None
    ) -> RowIndex:
        """Read the parts of all shards. ``results``: the result rows, where some are in no part yet.

        Raises CheckpointDamaged.
        """
        done, answered = _read_results(part_paths(output, "results") if results is None else results, recipe_id)

        def is_wanted(row_id: str, request_key: str) -> bool:
            return not done.contains(pair(row_id, request_key))

        failures = read_paid_failures(output, is_wanted)

        def paid_rows() -> PaidRows:
            failed = (*run_state.failures.values(), *failures.values())
            return PaidRows.read(output, recipe_id, failed, run_state.open.accepted())

        stored_answers = partial(StoredAnswers.read, output, recipe_id)
        return cls(run_state, done, paid_rows, read_sums(output), answered, failures, stored_answers)

    # ---------------------------------------------------------------------------- one row

    def state(self, row_id: str, key: str) -> RowState:
        """The state under ``key``, a request_key or skip_key."""
        return RowState.DONE if self.is_done(row_id, key) else self.open_state(row_id, key)

    def open_state(self, row_id: str, key: str) -> RowState:
        """As :meth:`state`, for a row of :meth:`not_done`."""
        if self._awaiting is not None and self._awaiting.has(row_id, key):
            return RowState.AWAITING
        carry = self._run_state.carries.get(row_id, key)
        if carry is not None:  # a failed row that is tried again has one too
            return RowState.HELD if carry.held else RowState.NEW
        return RowState.NEW if self.failed_before(row_id, key) is None else RowState.FAILED

    def failed_before(self, row_id: str, key: str) -> Failed | None:
        """The row's failure under this key, from ``failures`` or from the ledger."""
        failed = self._run_state.failures.get(row_id)
        if failed is None or key not in (failed.request_key, failed.skip_key):
            failed = self._paid_failures.get((row_id, key))
        return failed

    def carried(self, row_id: str, key: str) -> Carried:
        """Attempts and cost before the next attempt: a pending row's carry, or a failed row's record."""
        carry = self._run_state.carries.get(row_id, key)
        if carry is not None:
            return Carried(carry.attempts, carry.cost_ticks, carry.runs_failed, carry.empties, carry.raised)
        failed = self.failed_before(row_id, key)
        if failed is not None:
            return Carried(failed.attempt_count, failed.row_cost_ticks, failed.runs_failed)
        return _NOTHING_CARRIED

    def collected(self, intent: Intent) -> None:
        """Note that a ticket ended without an outcome: its row is asked again."""
        if self._awaiting is not None:
            self._awaiting.remove(intent)

    # ---------------------------------------------------------------------------- all rows

    def is_done(self, row_id: str, key: str) -> bool:
        """Whether the row was done under its request_key or skip_key before this run."""
        return len(self._done) > 0 and self._done.contains(pair(row_id, key))

    def has_open_redo(self, row_id: str, request_key: str) -> bool:
        """Whether a ticket of an earlier run redoes the done row."""
        return self._awaiting is not None and self._awaiting.has_redo(row_id, request_key)

    def not_done(self, ids: pa.Array, keys: bytes) -> list[int]:
        """The places of rows that were not done. ``keys`` holds 16 bytes for each row."""
        places: list[int] = np.flatnonzero(self._done.find_packed(pairs(packed_ids(ids), keys)) < 0).tolist()
        return places

    def met_before(self, row_ids: Sequence[str]) -> list[int]:
        """The places of rows with a failure, a ticket or a carry under any key."""
        failures, carries, paid = self._run_state.failures, self._run_state.carries, self._failed_before
        met = set[int]() if self._awaiting is None else set(self._awaiting.places_of(row_ids))
        if failures or carries or paid:
            met.update(at for at, each in enumerate(row_ids) if each in failures or each in carries or each in paid)
        return sorted(met)

    def paid_rows(self) -> PaidRows:
        """The rows that were paid for under any key, read at the first call. Raises CheckpointDamaged."""
        if self._paid_rows is None:
            self._paid_rows = self._read_paid_rows()
        return self._paid_rows

    def were_paid(self, ids: pa.Array) -> list[bool]:
        """Whether each row was ever paid for under this recipe, with any cells and images."""
        paid = self.paid_rows()
        places = paid.find(ids)
        return [place >= 0 and bool(paid.have_current(places[at : at + 1])[0]) for at, place in enumerate(places)]

    def requests_of(self, row_id: str) -> Iterator[StoredRequest]:
        """The row's requests: the answered ones of this recipe, those with a ticket, and the one that failed.

        Raises CheckpointDamaged.
        """
        if self._stored_answers is None:
            self._stored_answers = self._read_stored_answers()
        yield from self._stored_answers.of(row_id)
        if self._awaiting is not None and self._awaiting.places_of([row_id]):
            yield from self._tickets_of(row_id)
        failed = self._run_state.failures.get(row_id)
        if failed is not None and failed.request_key is not None:
            yield StoredRequest(failed.request_key, failed.image_ref, (None,) * len(failed.image_ref))

    def _tickets_of(self, row_id: str) -> list[StoredRequest]:
        if self._stored_tickets is None:
            self._stored_tickets = {}
            for exchange in self._run_state.open.accepted():
                intent = exchange.intent
                stored = StoredRequest(intent.request_key, intent.image_ref, intent.image_sha256)
                self._stored_tickets.setdefault(intent.row_id, []).append(stored)
        return self._stored_tickets.get(row_id, [])

    def are_elsewhere(self, ids: pa.Array) -> list[bool]:
        """Whether each row was last paid for under another recipe."""
        return list(self.paid_rows().are_elsewhere(ids).tolist())

    # ---------------------------------------------------------------------------- the pass over the manifest

    def meet_all(self, ids: pa.Array, keys: bytes) -> None:
        """Note that the manifest has these rows under their skip_keys. ``keys`` holds 16 bytes for each row."""
        self.met.add(pairs(packed_ids(ids), keys))

    def meet(self, row_id: str, key: str) -> None:
        """Note that the manifest has the row under ``key``, if it is done, failed, pending or awaiting under it."""
        if self.is_done(row_id, key):
            self.met.add_done(pair(row_id, key))
        elif (
            (self._awaiting is not None and self._awaiting.has(row_id, key))
            or self._run_state.carries.get(row_id, key) is not None
            or self.failed_before(row_id, key) is not None
        ):
            self.met.add_open(row_id, key)

    # ---------------------------------------------------------------------------- sums

    @property
    def spent_ticks(self) -> int:
        """Cost of all earlier runs of the output."""
        return self._sums.spent_ticks

    @property
    def ambiguous_ticks(self) -> int:
        return self._sums.ambiguous_ticks


# ---------------------------------------------------------------------------------- reading


def _read_results(sources: Sequence[Source], recipe_id: str) -> tuple[KeySet, KeySet]:
    """The done rows of this recipe under both keys, and its answered request_keys."""
    done, answered = KeySet(), KeySet()
    current = pa.scalar(recipe_id, pa.string())  # pyarrow needs 0.1 ms to guess a type
    for table in _tables(sources, _RESULT_COLUMNS):
        is_current = pc.equal(table["recipe_id"], current)
        _add_done(done, answered, table if pc.all(is_current).as_py() else table.filter(is_current))
    return done, answered


def _tables(sources: Sequence[Source], names: Sequence[str]) -> Iterator[pa.Table]:
    """Some columns of the rows, a few thousand at a time."""
    for source in sources:
        for batch in batches_of(source, names) if isinstance(source, Path) else source_batches(source, names):
            yield pa.Table.from_batches([batch])


def _add_done(done: KeySet, answered: KeySet, table: pa.Table) -> None:
    for batch in table.to_batches():
        ids, asked = packed_ids(batch["row_id"]), packed_keys(batch["request_key"])
        done.add_packed(pairs(ids, asked))
        done.add_packed(pairs(ids, packed_keys(batch["skip_key"])))
        answered.add_packed(asked)
