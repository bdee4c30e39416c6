"""200,000 rows: after each change of an output a database holds what is current, and a second load changes nothing."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
from changing_output import ChangingOutput, changes
from warehouses import (
    DeltaWarehouse,
    DuckDBWarehouse,
    PostgresWarehouse,
    Warehouse,
    current_content,
    load_into,
    loaded_content,
    row_versions,
)

ROWS, ANEW = 200_000, 1_000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3_000)]


@pytest.mark.parametrize("engine", ["duckdb", "postgres", "delta"])
def test_a_large_output_is_loaded_through_its_life(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    warehouse: Warehouse
    match engine:
        case "duckdb":
            warehouse = DuckDBWarehouse(tmp_path / "loaded.db")
        case "postgres":
            warehouse = PostgresWarehouse(request.getfixturevalue("postgres_server"), uuid4().hex)
        case _:
            warehouse = DeltaWarehouse(str(tmp_path / "loaded"))
    for change in changes(ChangingOutput(tmp_path / "out"), ROWS, ANEW):
        load_into(warehouse, tmp_path / "out")
        assert loaded_content(warehouse) == current_content(tmp_path / "out"), change
        before = row_versions(warehouse)
        load_into(warehouse, tmp_path / "out")
        assert row_versions(warehouse) == before, change
