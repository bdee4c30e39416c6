"""The bytes of a seal and the memory of an accepted row do not depend on open work.

``scripts/bench seals`` measures the same with 50,000 tickets and 200,000 failed rows.
"""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import pytest
from open_work import Enough, OpenWork

from batchvision.checkpoint import SealAfter
from batchvision.checkpoint import writer as writer_module
from batchvision.records import Counters

ROWS_OF_A_SEAL = 1_000
MOST_MORE = 0.1  #: of the bytes of a seal without open work
MOST_BYTES_OF_A_TICKET = 20 * 2**20 // 50_000


@pytest.fixture
def small_seals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "SealAfter", lambda: SealAfter(attempts=ROWS_OF_A_SEAL))


def cost_of_a_seal(folder: Path, tickets: int = 0, failed: int = 0):
    folder.mkdir()
    work = OpenWork(folder, tickets, failed)
    work.leave()
    return work.answer(3 * ROWS_OF_A_SEAL)


def test_a_seal_writes_and_reads_no_more_with_open_tickets_and_failed_rows(tmp_path: Path, small_seals: None) -> None:
    alone = cost_of_a_seal(tmp_path / "alone")
    beside = cost_of_a_seal(tmp_path / "beside", tickets=500, failed=5_000)
    assert beside.written_bytes <= alone.written_bytes * (1 + MOST_MORE)
    assert beside.reads <= alone.reads * (1 + MOST_MORE)


def test_an_accepted_row_takes_little_memory(tmp_path: Path) -> None:
    bytes_at: dict[int, int] = {}

    def measure(counters: Counters) -> None:
        for tickets in (1_000, 3_000):
            if counters.tickets_open >= tickets and tickets not in bytes_at:
                gc.collect()
                bytes_at[tickets] = tracemalloc.get_traced_memory()[0]
        if len(bytes_at) == 2:
            raise Enough

    tracemalloc.start()
    try:
        OpenWork(tmp_path, tickets=6_000).leave(measure)  # requests are in flight at both measurements
    finally:
        tracemalloc.stop()
    assert (bytes_at[3_000] - bytes_at[1_000]) / 2_000 <= MOST_BYTES_OF_A_TICKET
