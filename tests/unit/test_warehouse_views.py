"""The ready views of jobs/warehouses show the answers that are current."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from changing_output import ChangingOutput
from postgres_server import PostgresServer
from warehouses import PostgresWarehouse, load_into

VIEWS = Path(__file__).parents[2] / "jobs" / "warehouses"


def test_the_duckdb_view_reads_the_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "current.parquet"
    pq.write_table(pa.table({"row_id": ["a", "b"], "output_text": ["one", "two"]}), path)
    script = (VIEWS / "duckdb_view.sql").read_text().replace("out/caption/current.parquet", str(path))
    with duckdb.connect() as connection:
        connection.execute(script).fetchall()
        found = connection.execute("SELECT row_id, output_text FROM current_answers ORDER BY row_id").fetchall()
    assert found == [("a", "one"), ("b", "two")]


def test_the_postgresql_view_shows_the_loaded_rows_of_the_manifest(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    warehouse = PostgresWarehouse(postgres_server, uuid4().hex)
    output = ChangingOutput(tmp_path / "out").run(range(4))
    output.end(leaving=[2])
    load_into(warehouse, output.path)
    warehouse.rows((VIEWS / "postgres_view.sql").read_text())
    rows = warehouse.rows("SELECT row_id FROM current_answers ORDER BY row_id")
    assert rows == [("row0",), ("row1",), ("row3",)]
