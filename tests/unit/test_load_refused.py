"""A database that is unreachable or refuses: the message names the table and the next step, and nothing is loaded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

import pytest
from changing_output import ChangingOutput
from postgres_server import PostgresServer
from warehouses import DuckDBWarehouse, PostgresWarehouse, current_content, load_into, loaded_content, row_versions

from batchvision.commands.load import LoadPlace, load, open_destination
from batchvision.errors import LoadFailed

PASSWORD = "hunter2%20secret"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return ChangingOutput(tmp_path / "out").run(range(3), failing=[3]).path


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> PostgresWarehouse:
    return PostgresWarehouse(postgres_server, uuid4().hex)


def a_later_run(output: Path, rows: Iterable[int]) -> None:
    changing = ChangingOutput(output)
    changing.runs = 1
    changing.run(rows)


def refusal(output: Path, to: str, db_schema: str | None = None) -> str:
    place = LoadPlace("env:URL", output, db_schema)
    with pytest.raises(LoadFailed) as refused:
        load(output, open_destination(place, {"URL": to}))
    return refused.value.message


# ---------------------------------------------------------------------------------- PostgreSQL


@pytest.mark.parametrize(
    ("to", "words"),
    [
        (f"postgresql://me:{PASSWORD}@localhost:1/db", ("Connection refused", "check host")),
        (f"postgresql://localhost:1/db?password={PASSWORD}", ("Connection refused", "check host")),
        (f"postgresql://me:{PASSWORD}@nowhere.invalid/db", ("could not translate host name", "check host")),
    ],
)
def test_an_unreachable_server_is_named_without_the_password(output: Path, to: str, words: tuple[str, ...]) -> None:
    message = refusal(output, to)
    assert [word for word in words if word not in message] == []
    assert "hunter2" not in message


def test_an_unknown_database_and_role_are_named(output: Path, postgres: PostgresWarehouse) -> None:
    assert 'database "nowhere" does not exist' in refusal(output, postgres.server.url("nowhere"))
    assert 'role "stranger" does not exist' in refusal(output, postgres.server.url("postgres", "stranger"))


def test_missing_rights_name_the_table_and_the_grant_and_nothing_is_loaded(
    output: Path, postgres: PostgresWarehouse
) -> None:
    role = f"reader_{uuid4().hex}"
    postgres.rows(f"CREATE ROLE {role} LOGIN")
    postgres.rows("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    database = postgres.url.partition("@/")[2].partition("?")[0]
    url = postgres.server.url(database, role)
    message = refusal(output, url)
    assert "creating batchvision_loads failed: permission denied for schema public" in message
    assert "GRANT CREATE ON SCHEMA" in message
    load_into(postgres, output)
    before = row_versions(postgres)
    postgres.rows(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    a_later_run(output, [7])
    message = refusal(output, url)
    assert "loading batchvision_results failed: permission denied for table batchvision_results" in message
    assert "GRANT" in message
    assert row_versions(postgres) == before


def test_the_password_comes_from_the_url_of_the_environment_from_pgpassword_or_pgpass(
    output: Path, postgres: PostgresWarehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    role, password = f"locked_{uuid4().hex}", "hunter2 secret"
    postgres.rows(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD '{password}'")
    rules = postgres.server.folder / "data" / "pg_hba.conf"
    rules.write_text(f"local all {role} scram-sha-256\n{rules.read_text()}")
    postgres.rows("SELECT pg_reload_conf()")
    url = postgres.url.replace("postgres@", f"{role}@")
    assert "no password supplied" in refusal(output, url)
    wrong = refusal(output, url.replace(f"{role}@", f"{role}:hunter2wrong@"))
    assert "password authentication failed" in wrong
    assert "hunter2" not in wrong

    def load_from(to: str, environ: dict[str, str]) -> None:
        postgres.rows("DROP TABLE IF EXISTS batchvision_results")
        load(output, open_destination(LoadPlace(to, output), environ))
        assert postgres.rows("SELECT count(*) FROM batchvision_results") == [(3,)]

    load_from("env:URL", {"URL": url.replace(f"{role}@", f"{role}:{PASSWORD}@")})
    with monkeypatch.context() as patch:
        patch.setenv("PGPASSWORD", password)
        load_from(url, {})
    pgpass = tmp_path / "pgpass"
    pgpass.write_text(f"*:*:*:{role}:{password}\n")
    pgpass.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(pgpass))
    load_from(url, {})


def test_the_tables_may_lie_in_a_schema_that_is_made(output: Path, postgres: PostgresWarehouse, tmp_path: Path) -> None:
    for warehouse in (postgres, DuckDBWarehouse(tmp_path / "a.db")):
        load_into(warehouse, output, db_schema="Überblick")
        load_into(warehouse, output, db_schema="Überblick")
        assert warehouse.rows('SELECT count(*) FROM "Überblick".batchvision_results') == [(3,)]


def test_a_server_that_stops_within_a_load_leaves_nothing_and_the_next_load_is_complete(
    output: Path, postgres: PostgresWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> "
    place = LoadPlace(postgres.url, output)

    def progress(table: str, rows: int) -> None:
        postgres.rows(f"{stop} pg_backend_pid()")

    with pytest.raises(LoadFailed):
        load(output, open_destination(place), progress=progress)
    tables = "SELECT count(*) FROM information_schema.tables WHERE table_name LIKE 'batchvision%'"
    assert postgres.rows(tables) == [(0,)]
    load_into(postgres, output)
    assert len(loaded_content(postgres).results) == 3


def test_a_table_without_its_key_names_the_way_out(output: Path, postgres: PostgresWarehouse) -> None:
    load_into(postgres, output)
    postgres.rows("ALTER TABLE batchvision_results DROP CONSTRAINT batchvision_results_pkey")
    a_later_run(output, [0])
    message = refusal(output, postgres.url)
    assert "loading batchvision_results failed" in message
    assert "has lost its primary key" in message


# ---------------------------------------------------------------------------------- DuckDB


def test_a_file_that_another_program_has_open_is_refused(output: Path, tmp_path: Path) -> None:
    holder = (
        "import duckdb, sys; connection = duckdb.connect(sys.argv[1]); connection.execute('SELECT 1'); "
        "print('open', flush=True); sys.stdin.read()"
    )
    path = tmp_path / "a.db"
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        message = refusal(output, f"duckdb:///{path}")
        process.communicate("")
    assert "Could not set lock on file" in message
    assert "close the program that has the file open" in message
    load_into(DuckDBWarehouse(path), output)


def test_a_full_disk_leaves_the_file_as_it_was(output: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk."""
    warehouse = DuckDBWarehouse(tmp_path / "a.db")
    load_into(warehouse, output)
    before = row_versions(warehouse)
    a_later_run(output, range(100, 3000))
    limited = (
        "import resource, signal, sys; from batchvision.cli import main; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2); main(sys.argv[2:])"
    )
    size = warehouse.path.stat().st_size
    command = [sys.executable, "-c", limited, str(size + 4096), "load", str(output), "--to", warehouse.url]
    full = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (full.returncode, "make room beside" in full.stderr) == (8, True), full.stderr
    assert row_versions(warehouse) == before
    load_into(warehouse, output)
    assert warehouse.rows("SELECT count(*) FROM batchvision_results") == [(2903,)]


def test_rows_that_need_more_memory_than_a_load_has_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchvision.commands.load.duckdb._PIECE_BYTES", 1000)
    changing, warehouse = ChangingOutput(tmp_path / "out"), DuckDBWarehouse(tmp_path / "a.db")
    load_into(warehouse, changing.run(range(9)).path)
    load_into(warehouse, changing.run(range(3, 30), version="-anew").path)
    assert loaded_content(warehouse) == current_content(changing.path)
