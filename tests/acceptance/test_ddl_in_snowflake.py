"""The Snowflake script of ``ddl`` on fakesnow, which runs Snowflake's SQL on DuckDB: ``scripts/test --with fakesnow``.

fakesnow loads no lists from Parquet, turns non-ASCII names into upper case and lists no inner folders. So lists are not
compared, the non-ASCII name is left out, and the parts lie flat.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from foreign.installed import INSTALL_SECONDS, Venv
from sample_parts import COLUMNS, JOB, SampleOutput, result, sample_output

from batchvision.checkpoint import Columns
from batchvision.commands.ddl import Target, statements

pytestmark = [pytest.mark.heavy("fakesnow"), pytest.mark.timeout(INSTALL_SECONDS)]

#: fakesnow 0.11 asks for versions that batchvision's own environment has left behind.
REQUIREMENTS = ("fakesnow>=0.11,<0.12", "snowflake-connector-python<4", "duckdb<1.5")
#: Runs statements, and prints the rows of queries as JSON.
PROGRAM = """
import json, sys
import fakesnow, snowflake.connector
scripts, queries = json.load(open(sys.argv[1]))
with fakesnow.patch():
    cursor = snowflake.connector.connect(database="DB", schema="S").cursor(snowflake.connector.DictCursor)
    for statement in scripts:
        cursor.execute(statement)
    print(json.dumps([cursor.execute(query).fetchall() for query in queries], default=str))
"""
QUERIES = (
    "SELECT * FROM BATCHVISION_RESULTS ORDER BY ROW_ID",
    "SELECT * FROM batchvision_failures ORDER BY row_id",
    "SELECT attempt FROM batchvision_attempts ORDER BY attempt",
    "SELECT row_id FROM batchvision_results_latest ORDER BY row_id",
)


@pytest.fixture(scope="module")
def fakesnow() -> Venv:
    return Venv(Path(sys.prefix) / "servers" / "fakesnow", REQUIREMENTS)


def flattened(output: SampleOutput) -> None:
    for path in list(output.folder.rglob("run_date=*/*.parquet")):
        path.rename(path.parents[1] / f"{path.parent.name}-{path.name}")


def test_snowflake_keeps_the_cells_and_the_newest_answer_of_each_row(fakesnow: Venv, tmp_path: Path) -> None:
    output = sample_output(tmp_path / "out")
    flattened(output)
    columns = Columns(tuple(each for each in COLUMNS.keep if each[0].isascii()), COLUMNS.answers)
    script = [each.sql for each in statements(JOB, columns, Target("snowflake"), output.folder.as_uri()) if each.sql]
    given = tmp_path / "given.json"
    given.write_text(json.dumps([script * 2, QUERIES]))
    printed = fakesnow.call(str(fakesnow.bin / "python"), "-c", PROGRAM, str(given), what="fakesnow")
    results, failures, attempts, latest = json.loads(printed)
    assert [scalars(row) for row in results] == [expected("r1", 5, answer_label="bag"), expected("r2", 0)]
    assert [row["ROW_ID"] for row in failures] == ["f1", "f2"]
    assert [row["ATTEMPT"] for row in attempts] == [1, 2]
    assert [row["ROW_ID"] for row in latest] == ["r1", "r2"]


LISTS = ("image_ref", "image_sha256", "größe", "answer_tags", "answer_scores")


def scalars(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name.lower() not in LISTS}


def expected(row_id: str, hours: int, **cells: Any) -> dict[str, Any]:
    row = {name.upper(): value for name, value in result(row_id, hours, **cells).items() if name not in LISTS}
    as_json: dict[str, Any] = json.loads(json.dumps(row, default=str))
    return as_json
