"""The SQL of each warehouse as far as they differ: quoting, column types and the bulk load of Parquet files.

Names are always quoted, so that reserved and non-ASCII names need no list.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import pyarrow as pa
from pyarrow import types

#: Arrow's scalar types, in the order of each dialect's ``scalars``.
_SCALARS = (
    *(pa.string(), pa.binary(), pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64()),
    *(pa.float32(), pa.float64(), pa.date32(), pa.timestamp("us"), pa.timestamp("us", tz="UTC")),
)


class WarehouseDialect(ABC):
    """Quoting, types and bulk load of one warehouse."""

    scalars: ClassVar[str]  #: type names for ``_SCALARS``, separated by " | "
    list_type: ClassVar[str]  #: with the type of the items as {}
    quote_mark: ClassVar[str] = '"'
    has_backslash_escapes: ClassVar[bool] = False
    location: ClassVar[str | None] = "s3://BUCKET/OUTPUT"  #: default place of the output; ``None``: its own folder
    enforces_keys: ClassVar[bool] = False
    has_conditional_merge: ClassVar[bool] = True  #: whether MERGE takes a subquery and ``WHEN MATCHED AND``
    #: Remark on the statements.
    remark: ClassVar[str] = ""

    def name(self, *parts: str) -> str:
        """A quoted name, with its database and schema where given."""
        mark = self.quote_mark
        return ".".join(mark + part.replace(mark, mark * 2) + mark for part in parts)

    def text(self, value: str) -> str:
        """A string literal."""
        if self.has_backslash_escapes:
            return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
        return "'" + value.replace("'", "''") + "'"

    def column_type(self, arrow: pa.DataType) -> str:
        if types.is_list(arrow):
            return self.list_type.format(self.column_type(arrow.value_type))
        if types.is_decimal128(arrow):
            return self.decimal_type(arrow.precision, arrow.scale)
        names: dict[pa.DataType, str] = dict(zip(_SCALARS, self.scalars.split(" | "), strict=True))
        return names[arrow]

    def decimal_type(self, precision: int, scale: int) -> str:
        return f"DECIMAL({precision}, {scale})"

    @abstractmethod
    def bulk_load(self, table: str, folder: str, schema: pa.Schema, *, replaces: bool) -> Sequence[str]:
        """Statements that load each Parquet file below ``folder`` into ``table``.

        ``replaces``: the files are rewritten by each run, so that earlier rows of the table must go. A warehouse that
        remembers loaded files keeps the rows of other tables and loads only new files.
        """


class BigQuery(WarehouseDialect):
    scalars = "STRING | BYTES | BOOL | INT64 | INT64 | INT64 | INT64 | FLOAT64 | FLOAT64 | DATE | DATETIME | TIMESTAMP"
    list_type = "ARRAY<{}>"
    quote_mark = "`"
    has_backslash_escapes = True
    location = "gs://BUCKET/OUTPUT"

    def decimal_type(self, precision: int, scale: int) -> str:
        is_small = scale <= 9 and precision - scale <= 29
        return f"{'NUMERIC' if is_small else 'BIGNUMERIC'}({precision}, {scale})"

    def bulk_load(self, table: str, folder: str, schema: pa.Schema, *, replaces: bool) -> Sequence[str]:
        columns = ",\n".join(f"  {self.name(field.name)} {self.column_type(field.type)}" for field in schema)
        options = f"format = 'PARQUET', enable_list_inference = true, uris = [{self.text(f'{folder}/*.parquet')}]"
        return [f"LOAD DATA OVERWRITE {table} (\n{columns}\n)\nFROM FILES ({options})"]


class Snowflake(WarehouseDialect):
    scalars = (
        "VARCHAR | BINARY | BOOLEAN | NUMBER(38, 0) | NUMBER(38, 0) | NUMBER(38, 0) | NUMBER(38, 0) | FLOAT | FLOAT"
        " | DATE | TIMESTAMP_NTZ | TIMESTAMP_TZ"
    )
    list_type = "ARRAY"
    has_backslash_escapes = True
    location = "@BATCHVISION_STAGE"
    remark = (
        "BATCHVISION_STAGE is a stage on the folder of the output: CREATE STAGE BATCHVISION_STAGE URL = 's3://...' "
        "STORAGE_INTEGRATION = ... COPY INTO skips files that it has loaded. Names without quotes find these columns."
    )

    def name(self, *parts: str) -> str:
        """ASCII names in upper case, as Snowflake reads names without quotes."""
        return super().name(*(part.upper() if part.isascii() else part for part in parts))

    def decimal_type(self, precision: int, scale: int) -> str:
        return f"NUMBER({precision}, {scale})"

    def bulk_load(self, table: str, folder: str, schema: pa.Schema, *, replaces: bool) -> Sequence[str]:
        source = f"{folder}/" if folder.startswith("@") else self.text(f"{folder}/")
        copy = (
            f"COPY INTO {table}\nFROM {source}\nFILE_FORMAT = (TYPE = PARQUET USE_LOGICAL_TYPE = TRUE)\n"
            "MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE"
        )
        return [f"TRUNCATE TABLE {table}", f"{copy}\nFORCE = TRUE"] if replaces else [copy]


class Redshift(WarehouseDialect):
    scalars = (
        "VARCHAR(65535) | VARBYTE(1024000) | BOOLEAN | SMALLINT | SMALLINT | INTEGER | BIGINT | REAL | DOUBLE PRECISION"
        " | DATE | TIMESTAMP | TIMESTAMP"
    )
    list_type = "SUPER"
    has_conditional_merge = False
    remark = (
        "COPY of Parquet takes columns by position: keep their order. Times are UTC. A text holds at most 65,535 bytes;"
        " output.keep_raw_answers = false keeps longer answers out of attempts."
    )

    def bulk_load(self, table: str, folder: str, schema: pa.Schema, *, replaces: bool) -> Sequence[str]:
        copy = f"COPY {table}\nFROM {self.text(f'{folder}/')}\nIAM_ROLE DEFAULT\nFORMAT AS PARQUET SERIALIZETOJSON"
        return [f"TRUNCATE TABLE {table}", copy]


class Databricks(WarehouseDialect):
    scalars = (
        "STRING | BINARY | BOOLEAN | TINYINT | SMALLINT | INT | BIGINT | FLOAT | DOUBLE | DATE | TIMESTAMP_NTZ"
        " | TIMESTAMP"
    )
    list_type = "ARRAY<{}>"
    quote_mark = "`"
    has_backslash_escapes = True
    remark = "COPY INTO skips files that it has loaded."

    def bulk_load(self, table: str, folder: str, schema: pa.Schema, *, replaces: bool) -> Sequence[str]:
        columns = ", ".join(self.name(field.name) for field in schema)
        source = f"(SELECT {columns} FROM {self.text(folder)})"  # without run_date, which Spark takes from the folders
        copy = f"COPY INTO {table}\nFROM {source}\nFILEFORMAT = PARQUET"
        return [f"TRUNCATE TABLE {table}", f"{copy}\nCOPY_OPTIONS ('force' = 'true')"] if replaces else [copy]


class PostgreSQL(WarehouseDialect):
    scalars = (
        "text | bytea | boolean | smallint | smallint | integer | bigint | real | double precision | date | timestamp"
        " | timestamptz"
    )
    list_type = "{}[]"
    location = None
    enforces_keys = True
    remark = (
        "COPY of PostgreSQL reads no Parquet. `batchvision load OUT --to postgresql://USER@HOST/DATABASE` fills these "
        "tables. The MERGE is for parts that another program has put into the tables named _parts."
    )

    def decimal_type(self, precision: int, scale: int) -> str:
        return f"numeric({precision}, {scale})"

    def bulk_load(self, table: str, folder: str, schema: pa.Schema, *, replaces: bool) -> Sequence[str]:
        return []


class DuckDB(WarehouseDialect):
    scalars = (
        "VARCHAR | BLOB | BOOLEAN | TINYINT | SMALLINT | INTEGER | BIGINT | FLOAT | DOUBLE | DATE | TIMESTAMP"
        " | TIMESTAMP WITH TIME ZONE"
    )
    list_type = "{}[]"
    location = None

    def bulk_load(self, table: str, folder: str, schema: pa.Schema, *, replaces: bool) -> Sequence[str]:
        files = f"read_parquet({self.text(f'{folder}/**/*.parquet')}, union_by_name = true, hive_partitioning = false)"
        return [f"DELETE FROM {table}", f"INSERT INTO {table} BY NAME\nSELECT * FROM {files}"]


DIALECTS: dict[str, WarehouseDialect] = {
    "bigquery": BigQuery(),
    "snowflake": Snowflake(),
    "redshift": Redshift(),
    "databricks": Databricks(),
    "postgres": PostgreSQL(),
    "duckdb": DuckDB(),
}
