"""The columns of the tables, exactly, and values that do not fit them."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import pyarrow as pa
import pytest
from checkpoint_rows import COLUMNS, START, a_completed, a_failed, an_answer, an_attempt, an_intent
from hypothesis import given
from hypothesis import strategies as st

from batchvision.checkpoint.cells import array_of, caster, cell_of, name_of, storable, type_of, usd_of
from batchvision.checkpoint.schema import (
    ATTEMPTS,
    FAILURES,
    RESULTS,
    Columns,
    TableSchemas,
    attempts_schema,
    failures_of,
    failures_schema,
    results_schema,
)
from batchvision.job import FIXED_COLUMNS
from batchvision.records import AttemptState, Exchange, Usage

UTC_MICROSECONDS = pa.timestamp("us", tz="UTC")


def the_tables(columns: Columns = COLUMNS, **options: Any) -> TableSchemas:
    return TableSchemas("night", columns, **{"mask": lambda text: text, **options})


# ---------------------------------------------------------------------------------- the faces other programs read


def test_every_fixed_column_is_a_name_that_no_kept_column_may_take() -> None:
    own = {column.name for table in (RESULTS, FAILURES, ATTEMPTS) for column in table}
    assert own | {"run_date"} == FIXED_COLUMNS


def test_results_have_exactly_these_columns_in_this_order() -> None:
    assert results_schema(COLUMNS).names == [
        "job",
        "row_id",
        "request_key",
        "recipe_id",
        "output_text",
        "output_json",
        "finish_reason",
        "provider",
        "upstream_provider",
        "model_requested",
        "model",
        "lane",
        "attempt_count",
        "prompt_tokens",
        "image_tokens",
        "cached_tokens",
        "completion_tokens",
        "reasoning_tokens",
        "cost_ticks",
        "cost_usd",
        "row_cost_ticks",
        "cost_source",
        "image_ref",
        "image_sha256",
        "skip_key",
        "provider_request_id",
        "system_fingerprint",
        "started_at",
        "finished_at",
        "updated_at",
        "latency_ms",
        "run_id",
        "table_version",
        "title",
        "answer_score",
    ]


def test_failures_have_exactly_these_columns_and_skip_key_behind_the_fixed_ones() -> None:
    assert failures_schema(COLUMNS).names == [
        "job",
        "row_id",
        "request_key",
        "recipe_id",
        "error_kind",
        "error_message",
        "last_error_kind",
        "quarantined",
        "runs_failed",
        "attempt_count",
        "row_cost_ticks",
        "last_output_text",
        "failed_at",
        "run_id",
        "image_ref",
        "skip_key",
        "title",
    ]


def test_attempts_have_exactly_these_columns_in_this_order() -> None:
    assert attempts_schema(COLUMNS).names == [
        "job",
        "row_id",
        "request_key",
        "recipe_id",
        "attempt",
        "lane",
        "state",
        "http_status",
        "error_kind",
        "error_message",
        "ticket",
        "provider",
        "upstream_provider",
        "model",
        "provider_request_id",
        "finish_reason",
        "prompt_tokens",
        "image_tokens",
        "cached_tokens",
        "completion_tokens",
        "reasoning_tokens",
        "cost_ticks",
        "cost_usd",
        "cost_source",
        "bound_ticks",
        "service_tier",
        "sent_at",
        "received_at",
        "latency_ms",
        "run_id",
        "raw_answer",
        "title",
    ]


def test_types_are_those_every_warehouse_takes() -> None:
    schema = results_schema(COLUMNS)
    expected = {
        "attempt_count": pa.int32(),
        "table_version": pa.int32(),
        "prompt_tokens": pa.int64(),
        "cost_ticks": pa.int64(),
        "latency_ms": pa.int64(),
        "cost_usd": pa.decimal128(18, 9),
        "image_ref": pa.list_(pa.string()),
        "image_sha256": pa.list_(pa.string()),
        "updated_at": UTC_MICROSECONDS,
        "answer_score": pa.float64(),
    }
    assert {name: schema.field(name).type for name in expected} == expected
    assert failures_schema(COLUMNS).field("quarantined").type == pa.bool_()
    assert failures_schema(COLUMNS).field("runs_failed").type == pa.int32()
    assert attempts_schema(COLUMNS).field("http_status").type == pa.int32()
    assert attempts_schema(COLUMNS).field("bound_ticks").type == pa.int64()


def test_a_completed_row_fills_its_columns() -> None:
    completed = a_completed(an_intent(1), "a cat", {"answer_score": 1, "answer_unknown": "dropped"})
    (row,) = the_tables().results([completed]).to_pylist()
    assert row["job"] == "night"
    assert (row["output_text"], row["answer_score"], row["title"]) == ("a cat", 1.0, "title 1")
    assert (row["image_ref"], row["image_sha256"]) == (["a.jpg", "https://example.org/b.jpg"], ["00ff", None])
    assert (row["started_at"], row["updated_at"], row["latency_ms"]) == (START, START + timedelta(seconds=2), 2000)
    assert (row["cost_ticks"], row["cost_usd"], row["table_version"]) == (15, Decimal("0.000000002"), 1)


def test_an_attempt_without_a_cost_has_none_rather_than_zero() -> None:
    unsure = an_attempt(an_intent(1), AttemptState.AMBIGUOUS, bound_ticks=77)
    (row,) = the_tables().attempts([unsure]).to_pylist()
    assert (row["state"], row["cost_ticks"], row["cost_usd"], row["bound_ticks"]) == ("ambiguous", None, None, 77)


def test_raw_answers_are_the_last_fixed_column_and_can_be_left_out() -> None:
    attempt = an_attempt(Exchange(an_intent(1), answer=an_answer(b"{}")))
    assert the_tables().attempts([attempt])["raw_answer"].to_pylist() == ["{}"]
    assert the_tables(keep_raw=False).attempts([attempt])["raw_answer"].to_pylist() == [None]


def test_error_messages_are_masked_before_they_are_cut() -> None:
    message = "x" * 490 + "sk-secret-key" + "y" * 100
    tables = the_tables(mask=lambda text: text.replace("sk-secret-key", "***"))
    (row,) = tables.failures([a_failed(an_intent(1), error_message=message)]).to_pylist()
    assert len(row["error_message"]) == 500
    assert "sk" not in row["error_message"]


def test_empty_tables_have_all_columns() -> None:
    assert the_tables().results([]).schema == results_schema(COLUMNS)
    assert the_tables().failures([]).num_rows == 0


@pytest.mark.parametrize("cell", [None, "text", "a\ud800b"])
def test_a_failed_record_comes_back_from_its_table(cell: str | None) -> None:
    failed = a_failed(an_intent(1, keep={"title": cell}), "truncated", last_output_text="half", quarantined=True)
    failed = replace(failed, image_ref=("a.jpg", "b.jpg"))
    (back,) = failures_of(the_tables().failures([failed]))
    assert back.keep == {"title": None if cell is None else cell.replace("\ud800", "?")}
    assert (back.row_id, back.failed_at, back.quarantined) == (failed.row_id, failed.failed_at, True)
    assert back.image_ref == ("a.jpg", "b.jpg")


def test_a_failure_of_an_earlier_version_has_no_image_reference() -> None:
    stored = the_tables().failures([a_failed(an_intent(1))]).drop_columns(["image_ref"])
    (back,) = failures_of(stored)
    assert back.image_ref == ()


# ---------------------------------------------------------------------------------- money


@given(st.integers(0, 10**17))
def test_usd_is_ticks_rounded_half_to_even_at_the_ninth_digit(ticks: int) -> None:
    exact = Decimal(ticks) / Decimal(10**10)
    assert usd_of(ticks) == exact.quantize(Decimal("1e-9"), ROUND_HALF_EVEN)


@pytest.mark.parametrize(
    ("ticks", "usd"), [(None, None), (0, "0"), (5, "0"), (15, "2e-9"), (25, "2e-9"), (10**10, "1")]
)
def test_usd_of_some_ticks(ticks: int | None, usd: str | None) -> None:
    assert usd_of(ticks) == (None if usd is None else Decimal(usd))


def test_a_sum_too_large_for_its_column_is_null_and_the_row_stays() -> None:
    absurd = a_completed(an_intent(1))
    usage = Usage(cost_ticks=2**62)
    absurd = a_completed(an_intent(1), answer=type(absurd.answer)(usage=usage))
    (row,) = the_tables().results([absurd]).to_pylist()
    assert (row["cost_ticks"], row["cost_usd"] is None or row["cost_usd"] > 0) == (2**62, True)


# ---------------------------------------------------------------------------------- kept cells and answers

FITS: list[tuple[str, Any, Any]] = [
    ("string", "text", "text"),
    ("string", {"a": [1]}, '{"a": [1]}'),
    ("int64", 7, 7),
    ("int64", 7.0, 7),
    ("float64", "NaN", math.nan),
    ("float64", "-Infinity", -math.inf),
    ("float64", 3, 3.0),
    ("bool", True, True),
    ("date32", "2026-11-20", datetime(2026, 11, 20).date()),  # noqa: DTZ001 a date has no zone
    ("timestamp[us, UTC]", "2026-11-20T01:00:00+02:00", datetime(2026, 11, 19, 23, tzinfo=UTC)),
    ("timestamp[us]", "2026-11-20T01:00:00", datetime(2026, 11, 20, 1)),  # noqa: DTZ001 a naive column
    ("decimal128(10, 2)", "12.50", Decimal("12.50")),
    ("binary", "AP8=", b"\x00\xff"),
    ("list<string>", ["a", None], ["a", None]),
    ("list<float64>", [1, 2.5], [1.0, 2.5]),
]
DOES_NOT_FIT: list[tuple[str, Any]] = [
    ("int32", 2**40),
    ("int64", 2**70),
    ("int64", True),
    ("int64", 1.5),
    ("int64", "many"),
    ("float64", "a lot"),
    ("float64", True),
    ("bool", 1),
    ("date32", "tomorrow"),
    ("timestamp[us, UTC]", "0000-00-00"),
    ("decimal128(4, 2)", "123456.78"),
    ("decimal128(4, 2)", "about two"),
    ("binary", "not base64!"),
    ("list<int64>", [1, "two"]),
    ("list<int64>", "one"),
]


@pytest.mark.parametrize(("type_name", "cell", "value"), FITS)
def test_a_cell_becomes_a_value_of_its_columns_type(type_name: str, cell: Any, value: Any) -> None:
    arrow = type_of(type_name)
    found = array_of([caster(arrow)(cell)], arrow).to_pylist()[0]
    assert found == value or (math.isnan(found) and math.isnan(value))


@pytest.mark.parametrize(("type_name", "cell"), DOES_NOT_FIT)
def test_a_cell_that_does_not_fit_is_null(type_name: str, cell: Any) -> None:
    arrow = type_of(type_name)
    assert array_of([caster(arrow)(cell), None], arrow).to_pylist() == [None, None]


def test_a_cell_that_does_not_fit_leaves_its_neighbours_alone() -> None:
    cells = [1, 2**70, 3, "four", None]
    table = the_tables(Columns(keep=(("kept", pa.int64()),))).results(
        [a_completed(an_intent(number, keep={"kept": cell})) for number, cell in enumerate(cells)]
    )
    assert table["kept"].to_pylist() == [1, None, 3, None, None]


@given(
    st.text() | st.none() | st.integers() | st.floats() | st.booleans(), st.sampled_from([name for name, *_ in FITS])
)
def test_no_cell_ever_costs_a_row(cell: Any, type_name: str) -> None:
    arrow = type_of(type_name)
    table = the_tables(Columns(keep=(("kept", arrow),))).results([a_completed(an_intent(1, keep={"kept": cell}))])
    assert table.num_rows == 1


@pytest.mark.parametrize(("type_name", "cell", "value"), [case for case in FITS if "list" not in case[0]])
def test_a_stored_value_goes_back_to_a_cell_that_is_stored_the_same(type_name: str, cell: Any, value: Any) -> None:
    arrow = type_of(type_name)
    stored = array_of([caster(arrow)(cell)], arrow)
    again = array_of([caster(arrow)(cell_of(stored[0].as_py()))], arrow)
    assert str(again.to_pylist()) == str(stored.to_pylist())


def test_lone_surrogates_do_not_cost_a_row() -> None:
    table = the_tables().results([a_completed(an_intent(1), "half \ud83d of a pair"), a_completed(an_intent(2))])
    assert table["output_text"].to_pylist() == ["half ? of a pair", "fine"]


# ---------------------------------------------------------------------------------- types


@pytest.mark.parametrize("name", sorted({name for name, *_ in FITS} | {"list<bool>", "float32", "int8"}))
def test_a_type_has_one_name(name: str) -> None:
    assert name_of(type_of(name)) == name


def test_json_answers_are_text() -> None:
    assert name_of(type_of("json")) == "string"


@pytest.mark.parametrize("name", ["struct<a: int>", "uint64", "timestamp[ns]", "list<>", ""])
def test_other_types_have_none(name: str) -> None:
    with pytest.raises(ValueError, match="no column can have"):
        type_of(name)


@pytest.mark.parametrize(
    ("arrow", "stored"),
    [
        (pa.large_string(), "string"),
        (pa.dictionary(pa.int8(), pa.large_string()), "string"),
        (pa.null(), "string"),
        (pa.struct([("a", pa.int8())]), "string"),
        (pa.map_(pa.string(), pa.int8()), "string"),
        (pa.time64("us"), "string"),
        (pa.decimal256(50, 2), "string"),
        (pa.uint8(), "int16"),
        (pa.uint64(), "decimal128(20, 0)"),
        (pa.float16(), "float32"),
        (pa.timestamp("ns"), "timestamp[us]"),
        (pa.timestamp("ns", tz="Europe/Berlin"), "timestamp[us, UTC]"),
        (pa.date64(), "date32"),
        (pa.binary(16), "binary"),
        (pa.list_(pa.uint32()), "list<int64>"),
        (pa.list_(pa.list_(pa.int8())), "string"),
        (pa.decimal128(9, 2), "decimal128(9, 2)"),
    ],
)
def test_a_manifests_type_becomes_one_that_every_warehouse_takes(arrow: pa.DataType, stored: str) -> None:
    assert name_of(storable(arrow)) == stored


def test_a_time_of_another_zone_is_the_same_moment() -> None:
    at = datetime(2026, 11, 20, 1, 0, tzinfo=timezone(timedelta(hours=2)))
    assert caster(UTC_MICROSECONDS)(at) == at
