"""The columns of the three tables, exactly, and rows made of records. Pure.

Fixed columns come first, then kept ones, then ``answer_*`` in ``results``. ``failures`` has ``skip_key``, so that a
rerun recognises a failed row without reading its images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Generic, NamedTuple, TypeVar

import pyarrow as pa

from batchvision.checkpoint.cells import MONEY, TIMESTAMP, array_of, caster, cell_of, usd_of
from batchvision.records import Answer, Attempt, Completed, Failed, Intent, Lane, Tries, Usage

TABLE_VERSION = 1
ERROR_MESSAGE_CHARACTERS = 500

R = TypeVar("R")

_STRING, _BINARY, _INT32, _INT64 = pa.string(), pa.binary(), pa.int32(), pa.int64()
_TEXTS = pa.list_(pa.string())


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of an output beside the fixed ones: kept cells and, in ``results``, answer columns."""

    keep: tuple[tuple[str, pa.DataType], ...] = ()
    answers: tuple[tuple[str, pa.DataType], ...] = ()


class TableColumn(NamedTuple, Generic[R]):
    """A fixed column: its name, its type, and where its value is in the record. ``None``: the job's name.

    ``characters``: how much of a text is stored, cut after the key was masked: half a key would not be found.
    """

    name: str
    type: pa.DataType
    value: Callable[[R], Any] | None
    characters: int | None = None


def _milliseconds(row: Completed) -> int:
    return max(0, round((row.finished_at - row.intent.sent_at).total_seconds() * 1000))


#: Usage and cost of an answer, in both tables.
_USAGE: tuple[TableColumn[Any], ...] = (
    TableColumn("prompt_tokens", _INT64, attrgetter("answer.usage.prompt_tokens")),
    TableColumn("image_tokens", _INT64, attrgetter("answer.usage.image_tokens")),
    TableColumn("cached_tokens", _INT64, attrgetter("answer.usage.cached_tokens")),
    TableColumn("completion_tokens", _INT64, attrgetter("answer.usage.completion_tokens")),
    TableColumn("reasoning_tokens", _INT64, attrgetter("answer.usage.reasoning_tokens")),
    TableColumn("cost_ticks", _INT64, attrgetter("answer.usage.cost_ticks")),
    TableColumn("cost_usd", MONEY, lambda r: usd_of(r.answer.usage.cost_ticks)),
)

RESULTS: tuple[TableColumn[Completed], ...] = (
    TableColumn("job", _STRING, None),
    TableColumn("row_id", _STRING, attrgetter("intent.row_id")),
    TableColumn("request_key", _STRING, attrgetter("intent.request_key")),
    TableColumn("recipe_id", _STRING, attrgetter("intent.recipe_id")),
    TableColumn("output_text", _STRING, attrgetter("answer.text")),
    TableColumn("output_json", _STRING, attrgetter("output_json")),
    TableColumn("finish_reason", _STRING, attrgetter("answer.finish_reason")),
    TableColumn("provider", _STRING, attrgetter("intent.provider")),
    TableColumn("upstream_provider", _STRING, attrgetter("answer.upstream_provider")),
    TableColumn("model_requested", _STRING, attrgetter("intent.model_requested")),
    TableColumn("model", _STRING, attrgetter("answer.model")),
    TableColumn("lane", _STRING, attrgetter("intent.lane")),
    TableColumn("attempt_count", _INT32, attrgetter("intent.attempt")),
    *_USAGE,
    TableColumn("row_cost_ticks", _INT64, attrgetter("row_cost_ticks")),
    TableColumn("cost_source", _STRING, attrgetter("answer.usage.cost_source")),
    TableColumn("image_ref", _TEXTS, attrgetter("intent.image_ref")),
    TableColumn("image_sha256", _TEXTS, attrgetter("intent.image_sha256")),
    TableColumn("skip_key", _STRING, attrgetter("intent.skip_key")),
    TableColumn("provider_request_id", _STRING, attrgetter("answer.provider_request_id")),
    TableColumn("system_fingerprint", _STRING, attrgetter("answer.system_fingerprint")),
    TableColumn("started_at", TIMESTAMP, attrgetter("intent.sent_at")),
    TableColumn("finished_at", TIMESTAMP, attrgetter("finished_at")),
    TableColumn("updated_at", TIMESTAMP, lambda r: r.updated_at or r.finished_at),  # no clock: a replay writes the same
    TableColumn("latency_ms", _INT64, _milliseconds),
    TableColumn("run_id", _STRING, attrgetter("intent.run_id")),
    TableColumn("table_version", _INT32, lambda r: TABLE_VERSION),
)

FAILURES: tuple[TableColumn[Failed], ...] = (
    TableColumn("job", _STRING, None),
    TableColumn("row_id", _STRING, attrgetter("row_id")),
    TableColumn("request_key", _STRING, attrgetter("request_key")),
    TableColumn("recipe_id", _STRING, attrgetter("recipe_id")),
    TableColumn("error_kind", _STRING, attrgetter("error_kind")),
    TableColumn("error_message", _STRING, attrgetter("error_message"), ERROR_MESSAGE_CHARACTERS),
    TableColumn("last_error_kind", _STRING, attrgetter("last_error_kind")),
    TableColumn("quarantined", pa.bool_(), attrgetter("quarantined")),
    TableColumn("runs_failed", _INT32, attrgetter("runs_failed")),
    TableColumn("attempt_count", _INT32, attrgetter("attempt_count")),
    TableColumn("row_cost_ticks", _INT64, attrgetter("row_cost_ticks")),
    TableColumn("last_output_text", _STRING, attrgetter("last_output_text")),
    TableColumn("failed_at", TIMESTAMP, attrgetter("failed_at")),
    TableColumn("run_id", _STRING, attrgetter("run_id")),
    TableColumn("image_ref", _TEXTS, attrgetter("image_ref")),
    TableColumn("skip_key", _STRING, attrgetter("skip_key")),
)

ATTEMPTS: tuple[TableColumn[Attempt], ...] = (
    TableColumn("job", _STRING, None),
    TableColumn("row_id", _STRING, attrgetter("intent.row_id")),
    TableColumn("request_key", _STRING, attrgetter("intent.request_key")),
    TableColumn("recipe_id", _STRING, attrgetter("intent.recipe_id")),
    TableColumn("attempt", _INT32, attrgetter("intent.attempt")),
    TableColumn("lane", _STRING, attrgetter("intent.lane")),
    TableColumn("state", _STRING, attrgetter("state")),
    TableColumn("http_status", _INT32, attrgetter("http_status")),
    TableColumn("error_kind", _STRING, attrgetter("error_kind")),
    TableColumn("error_message", _STRING, attrgetter("error_message"), ERROR_MESSAGE_CHARACTERS),
    TableColumn("ticket", _STRING, attrgetter("exchange.ticket")),
    TableColumn("provider", _STRING, attrgetter("intent.provider")),
    TableColumn("upstream_provider", _STRING, attrgetter("answer.upstream_provider")),
    TableColumn("model", _STRING, attrgetter("answer.model")),
    TableColumn("provider_request_id", _STRING, attrgetter("answer.provider_request_id")),
    TableColumn("finish_reason", _STRING, attrgetter("answer.finish_reason")),
    *_USAGE,
    TableColumn("cost_source", _STRING, attrgetter("answer.usage.cost_source")),
    TableColumn("bound_ticks", _INT64, attrgetter("bound_ticks")),
    TableColumn("service_tier", _STRING, attrgetter("answer.service_tier")),
    TableColumn("sent_at", TIMESTAMP, attrgetter("intent.sent_at")),
    TableColumn("received_at", TIMESTAMP, attrgetter("exchange.ended_at")),
    TableColumn("latency_ms", _INT64, attrgetter("latency_ms")),
    TableColumn("run_id", _STRING, attrgetter("intent.run_id")),
    TableColumn("raw_answer", _STRING, attrgetter("raw_answer")),
)


# ---------------------------------------------------------------------------------- schemas


def _schema(fixed: Sequence[TableColumn[Any]], more: Sequence[tuple[str, pa.DataType]]) -> pa.Schema:
    return pa.schema([*((column.name, column.type) for column in fixed), *more])


def results_schema(columns: Columns) -> pa.Schema:
    return _schema(RESULTS, (*columns.keep, *columns.answers))


def failures_schema(columns: Columns) -> pa.Schema:
    return _schema(FAILURES, columns.keep)


def attempts_schema(columns: Columns) -> pa.Schema:
    return _schema(ATTEMPTS, columns.keep)


# ---------------------------------------------------------------------------------- records to tables


@dataclass(frozen=True, slots=True)
class TableSchemas:
    """Makes tables for one output. ``mask`` hides the key in every text: the last place before the disk."""

    job: str
    columns: Columns
    mask: Callable[[str], str]
    keep_raw: bool = True

    def results(self, rows: Sequence[Completed]) -> pa.Table:
        arrays = self._fixed(RESULTS, rows)
        arrays += self._more(self.columns.keep, [row.intent.keep for row in rows])
        arrays += self._more(self.columns.answers, [row.answer_columns for row in rows])
        return pa.Table.from_arrays(arrays, schema=results_schema(self.columns))

    def failures(self, rows: Sequence[Failed]) -> pa.Table:
        arrays = self._fixed(FAILURES, rows) + self._more(self.columns.keep, [row.keep for row in rows])
        return pa.Table.from_arrays(arrays, schema=failures_schema(self.columns))

    def attempts(self, rows: Sequence[Attempt]) -> pa.Table:
        fixed = ATTEMPTS if self.keep_raw else (*ATTEMPTS[:-1], ATTEMPTS[-1]._replace(value=lambda row: None))
        arrays = self._fixed(fixed, rows) + self._more(self.columns.keep, [row.intent.keep for row in rows])
        return pa.Table.from_arrays(arrays, schema=attempts_schema(self.columns))

    def _fixed(self, fixed: Sequence[TableColumn[R]], rows: Sequence[R]) -> list[pa.Array]:
        arrays = []
        for _, arrow, of, characters in fixed:
            values = [self.job] * len(rows) if of is None else list(map(of, rows))
            arrays.append(self._array(values, arrow, characters))
        return arrays

    def _more(self, named: Sequence[tuple[str, pa.DataType]], cells: Sequence[Mapping[str, Any]]) -> list[pa.Array]:
        arrays = []
        for name, arrow in named:
            cast = caster(arrow)
            arrays.append(self._array([cast(row.get(name)) for row in cells], arrow))
        return arrays

    def _array(self, values: list[Any], arrow: pa.DataType, characters: int | None = None) -> pa.Array:
        if arrow == _STRING:
            if not self._is_clean(values):
                values = [text and self.mask(text) for text in values]
            return array_of([text and text[:characters] for text in values] if characters else values, arrow)
        if arrow == _TEXTS:
            if not self._is_clean(text for texts in values for text in texts or ()):
                values = [self._masked_list(texts) for texts in values]
            return array_of(values, arrow)
        if arrow == _BINARY:
            return array_of([None if raw is None else self._masked_bytes(raw) for raw in values], arrow)
        return array_of(values, arrow)

    def _masked_bytes(self, raw: bytes) -> bytes:
        return self.mask(raw.decode("latin-1")).encode("latin-1")

    def _is_clean(self, texts: Iterable[str | None]) -> bool:
        """Nothing in any of them is to be masked: one look at all is cheaper than one at each."""
        together = "\n".join(filter(None, texts))
        return self.mask(together) == together

    def _masked_list(self, texts: list[str | None] | None) -> list[str | None] | None:
        return None if texts is None else [None if text is None else self.mask(text) for text in texts]


# ---------------------------------------------------------------------------------- and back

#: Columns of ``failures`` that earlier versions did not write.
LATER_FAILURE_COLUMNS = frozenset({"image_ref"})
#: Fields of Failed that have a column in every version.
_STORED_FAILURE = tuple(column.name for column in FAILURES if column.name not in {"job", *LATER_FAILURE_COLUMNS})


def failures_of(table: pa.Table) -> Iterator[Failed]:
    """The records of a ``failures`` table; all columns beyond the fixed ones are kept cells."""
    fixed = {column.name for column in FAILURES}
    keep = [name for name in table.column_names if name not in fixed]
    for row in table.to_pylist():
        yield Failed(
            **{name: row[name] for name in _STORED_FAILURE},
            image_ref=tuple(row.get("image_ref") or ()),
            keep={name: cell_of(row[name]) for name in keep},
        )


_OF_INTENT = ("row_id", "request_key", "recipe_id", "skip_key", "run_id", "provider", "model_requested")
_OF_ANSWER = ("finish_reason", "model", "upstream_provider", "provider_request_id", "system_fingerprint")


def completed_of(table: pa.Table, columns: Columns) -> Iterator[Completed]:
    """The records of a ``results`` table; of their intents, the part that the table holds."""
    for row in table.to_pylist():
        usage = Usage(**{name: row[name] for name in Usage._fields})
        intent = Intent(
            exchange_id="",
            **{name: row[name] for name in _OF_INTENT},
            lane=Lane(row["lane"]),
            attempt=row["attempt_count"],
            tries=Tries(),
            bound_ticks=None,
            cost_before_ticks=0,
            runs_failed=0,
            sent_at=row["started_at"],
            image_ref=tuple(row["image_ref"]),
            image_sha256=tuple(row["image_sha256"]),
            keep={name: cell_of(row.get(name)) for name, _ in columns.keep},
        )
        yield Completed(
            intent,
            Answer(row["output_text"], usage=usage, **{name: row[name] for name in _OF_ANSWER}),
            row["output_json"],
            answer_columns={name: row[name] for name, _ in columns.answers if row.get(name) is not None},
            row_cost_ticks=row["row_cost_ticks"],
            finished_at=row["finished_at"],
            updated_at=row["updated_at"],
        )
