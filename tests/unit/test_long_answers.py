"""Long answers are read a portion at a time: memory is bounded by ``GROUP_BYTES``, not by rows or by parts."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checkpoint_rows import COLUMNS, COST_TICKS, START, a_completed, an_answer, an_attempt, an_intent

from batchvision.checkpoint.disk import LocalDisk
from batchvision.checkpoint.parts import (
    GROUP_BYTES,
    GROUP_ROWS,
    SEALED_GROUP_ROWS,
    _written,
    batches_of,
    dated_path,
    seal,
)
from batchvision.checkpoint.registry import register
from batchvision.checkpoint.run_state import ROWS_AT_ONCE, TableRows
from batchvision.checkpoint.schema import TableSchemas
from batchvision.records import Answer, Exchange, Usage

TABLES = TableSchemas("night", COLUMNS, lambda text: text)
MIB = 1024 * 1024


def texts(rows: int, characters: int) -> Iterator[str]:
    """Texts that hardly compress."""
    rng = random.Random(1)
    return (rng.randbytes(characters // 2).hex() for _ in range(rows))


def results(rows: int, characters: int) -> pa.Table:
    return TABLES.results([a_completed(an_intent(n), text) for n, text in enumerate(texts(rows, characters))])


def written_as_before(path: Path, table: pa.Table) -> Path:
    """By earlier versions: a row group holds so many rows, whatever their length."""
    path.parent.mkdir(parents=True)
    table = pa.concat_tables([table.slice(start, ROWS_AT_ONCE) for start in range(0, table.num_rows, ROWS_AT_ONCE)])
    with pq.ParquetWriter(path, table.schema, **_written(table.schema)) as writer:
        writer.write_table(table, row_group_size=SEALED_GROUP_ROWS)
    return path


def sealed(path: Path, table: pa.Table) -> Path:
    output = path.parents[2]
    return output / seal(LocalDisk(), output, str(path.relative_to(output)), table).path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / dated_path("results", "0of1", "run1", START, 1)


@pytest.mark.parametrize("written", [written_as_before, sealed])
@pytest.mark.parametrize("names", [None, ("row_id", "output_text")])
def test_a_batch_of_long_answers_stays_within_the_bound_and_none_is_lost(path, written, names):
    table = results(2_500, 20_000)
    found = list(batches_of(written(path, table), names))
    assert max(batch.nbytes for batch in found) < 1.1 * GROUP_BYTES
    assert pa.Table.from_batches(found)["output_text"].to_pylist() == table["output_text"].to_pylist()


@pytest.mark.parametrize("written", [written_as_before, sealed])
def test_a_column_of_short_cells_is_read_in_large_batches_beside_long_ones(path, written):
    found = list(batches_of(written(path, results(5_000, 4_000)), ("row_id",)))
    assert max(batch.num_rows for batch in found) > GROUP_ROWS / 2
    assert [cell for batch in found for cell in batch["row_id"].to_pylist()] == [f"row{n}" for n in range(5_000)]


def test_what_a_reader_has_read_of_a_part_is_given_back(path):
    before, most = pa.total_allocated_bytes(), 0
    written = sealed(path, results(5_000, 20_000))  # 100 MB
    for _ in batches_of(written):
        most = max(most, pa.total_allocated_bytes() - before)
    assert GROUP_BYTES / 2 < most < 5 * GROUP_BYTES


@pytest.mark.parametrize(("rows", "characters"), [(2 * SEALED_GROUP_ROWS + 5, 20_000), (70, 600_000)])
def test_row_groups_of_long_answers_stay_small(path, rows, characters):
    waiting = TableRows(TABLES.results)
    for number, text in enumerate(texts(rows, characters)):
        waiting.append(a_completed(an_intent(number), text))
    footer = pq.ParquetFile(sealed(path, pa.concat_tables(waiting.cut()))).metadata
    assert footer.num_rows == rows
    assert max(footer.row_group(n).total_byte_size for n in range(footer.num_row_groups)) < 1.1 * GROUP_BYTES


def test_short_answers_make_the_same_row_groups_as_before(path):
    part = pq.ParquetFile(sealed(path, results(2_500, 100)))
    rows = [part.metadata.row_group(number).num_rows for number in range(part.num_row_groups)]
    assert rows == [SEALED_GROUP_ROWS, SEALED_GROUP_ROWS, 2_500 - 2 * SEALED_GROUP_ROWS]


def test_a_part_without_rows_has_the_row_group_that_older_readers_ask_for(path):
    written = sealed(path, results(0, 10))
    assert pq.ParquetFile(written).metadata.num_row_groups == 1
    assert list(batches_of(written)) == []


# ---------------------------------------------------------------------------------- the commands


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3,000 answers of 100 kB, each with its raw answer, as earlier versions have written them."""
    output = tmp_path_factory.mktemp("long") / "out"
    output.mkdir()
    register(LocalDisk(), output, "night", COLUMNS)
    answer = Answer(text="", usage=Usage(10, 5, 0, 3, 1, COST_TICKS, "reported"))
    intents = [an_intent(number) for number in range(3_000)]
    long = list(texts(3_000, 100_000))
    raw = [json.dumps({"choices": [{"message": {"content": text}}], "usage": {"prompt_tokens": 10}}) for text in long]
    exchanges = [Exchange(i, answer=an_answer(r.encode())) for i, r in zip(intents, raw, strict=True)]
    attempts = [an_attempt(exchange, answer=answer) for exchange in exchanges]
    completed = [a_completed(intent, text) for intent, text in zip(intents, long, strict=True)]
    for name, table in (("results", TABLES.results(completed)), ("attempts", TABLES.attempts(attempts))):
        written_as_before(output / dated_path(name, "0of1", "run1", START, 1), table)
    return output


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the peak of a process")
@pytest.mark.parametrize(
    "arguments", [["verify"], ["show", "--format", "csv"], ["show", "--format", "jsonl"], ["show", "--limit", "0"]]
)
def test_a_command_needs_the_memory_of_a_few_batches_for_300_megabytes_of_answers(output, arguments):
    script = (
        "import sys\n"
        "from batchvision.cli import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    peak = [line for line in open('/proc/self/status') if line.startswith('VmHWM')]\n"
        "    print('PEAK', peak[0].split()[1], file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", script, *arguments, str(output)]
    columns = ["--columns", "row_id,output_text"] if arguments[0] == "show" else []
    done = subprocess.run([*command, *columns], capture_output=True, text=True, check=False)
    peak = next(line for line in done.stderr.splitlines() if line.startswith("PEAK"))
    assert int(peak.split()[1]) / 1024 < 400, "MiB"
    if arguments[-1] in ("csv", "jsonl"):
        assert len(done.stdout) > 3_000 * 100_000
