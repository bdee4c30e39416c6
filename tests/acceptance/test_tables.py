"""What a warehouse sees: columns in order, types, a plain glob after the schema has grown."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from harness import Workbench
from test_main_job import to_emulator

from batchvision.emulator import EmulatorOptions, start_in_thread

FIXED = [
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
]

SCHEMA = {
    "type": "object",
    "properties": {
        "caption": {"type": "string"},
        "people": {"type": "integer"},
        "is_outdoor": {"type": "boolean"},
        "colors": {"type": "array", "items": {"type": "string"}},
        "box": {"type": "object", "properties": {"w": {"type": "number"}}},
    },
}
TYPES = {
    "answer_label": pa.string(),
    "answer_caption": pa.string(),
    "answer_people": pa.int64(),
    "answer_is_outdoor": pa.bool_(),
    "answer_colors": pa.list_(pa.string()),
    "answer_box": pa.string(),
}


@pytest.fixture
def bench(tmp_path):
    return Workbench(tmp_path)


@pytest.fixture
def emulator():
    with start_in_thread(EmulatorOptions()) as running:
        yield running


def job_with_schema(bench, schema, rows):
    (bench.folder / "answer.json").write_text(json.dumps(schema))
    return bench.job(
        bench.manifest(rows), answer='schema = "answer.json"\nlabels = ["red thing", "blue thing", "other"]'
    )


def parts(bench, table="results"):
    return sorted((bench.folder / "out" / table).rglob("part-*.parquet"))


def test_results_have_the_columns_of_the_design_in_order_and_typed_answers(bench, emulator):
    bench.run(job_with_schema(bench, SCHEMA, bench.rows(10)), *to_emulator(emulator))
    (part,) = parts(bench)
    schema = pq.read_schema(part)
    names = schema.names
    assert names[: len(FIXED)] == FIXED
    assert names[len(FIXED)] == "title"
    assert set(names[len(FIXED) + 1 :]) == set(TYPES)
    assert {name: schema.field(name).type for name in TYPES} == TYPES
    assert schema.field("cost_usd").type == pa.decimal128(18, 9)
    assert schema.field("updated_at").type == pa.timestamp("us", tz="UTC")
    assert schema.field("attempt_count").type == pa.int32()
    assert not any(pa.types.is_struct(field.type) or pa.types.is_null(field.type) for field in schema)
    for row in bench.table("results"):
        answer = json.loads(row["output_json"])
        assert row["answer_caption"] == answer["caption"]
        assert json.loads(row["answer_box"]) == answer["box"]
        assert row["answer_label"] in {"red thing", "blue thing", "other"}


def test_a_plain_glob_reads_all_parts_after_a_second_run_with_one_more_property(bench, emulator):
    duckdb = pytest.importorskip("duckdb", reason="pip install 'batchvision[duckdb]'")
    rows = bench.rows(10)
    bench.run(job_with_schema(bench, SCHEMA, rows), *to_emulator(emulator))
    grown = {**SCHEMA, "properties": {**SCHEMA["properties"], "mood": {"type": "string"}}}
    bench.run(job_with_schema(bench, grown, rows), *to_emulator(emulator), "--on-recipe-change", "redo")

    assert len(parts(bench)) == 2
    glob = str(bench.folder / "out/results/**/*.parquet")
    counted = duckdb.sql(
        f"SELECT count(*), count(answer_mood), count(DISTINCT recipe_id), sum(cost_usd) FROM '{glob}'"
    ).fetchall()[0]
    assert counted[:3] == (20, 10, 2)
    named = [row[0] for row in duckdb.sql(f"DESCRIBE SELECT * FROM '{glob}'").fetchall()]
    assert named[: len(FIXED)] == FIXED
    assert "answer_mood" in named
    dataset = ds.dataset(bench.folder / "out/results", format="parquet", partitioning="hive")
    assert dataset.count_rows() == 20
    assert all(pq.read_schema(part).names == pq.read_schema(parts(bench)[0]).names for part in parts(bench))


def test_failures_say_which_row_what_is_wrong_and_keep_its_cells(bench, emulator):
    rows = bench.rows(6, faults={1: "safety"})
    rows[2]["image"] = "images/nowhere.png"
    rows[3]["image"] = ""
    rows[4]["image"] = "../outside.png"
    rows[5]["sku"] = rows[0]["sku"]
    summary = bench.run(bench.job(bench.manifest(rows)), *to_emulator(emulator), expect=3)
    failures = {row["row_id"]: row for row in bench.table("failures")}
    kinds = {row_id: row["error_kind"] for row_id, row in failures.items()}
    assert kinds == {
        "row-00001": "refused",
        "row-00002": "image_unreadable",
        "row-00003": "row_invalid",
        "row-00004": "image_forbidden",
        "row-00000#2": "row_invalid",
    }
    assert all(row["title"] for row in failures.values())
    assert "nowhere.png" in failures["row-00002"]["error_message"]
    assert (summary["rows_total"], summary["rows_completed"], summary["rows_failed"]) == (6, 1, 5)
    assert emulator.bill().requests == 2


def test_the_ledger_keeps_the_raw_answer_of_every_attempt(bench, emulator):
    bench.run(bench.job(bench.manifest(bench.rows(3, faults={1: "server_error:1"}))), *to_emulator(emulator))
    attempts = bench.table("attempts")
    assert sorted((row["row_id"], row["attempt"], row["state"]) for row in attempts) == [
        ("row-00000", 1, "ok"),
        ("row-00001", 1, "retried"),
        ("row-00001", 2, "ok"),
        ("row-00002", 1, "ok"),
    ]
    for row in attempts:
        assert "error" in json.loads(row["raw_answer"]) if row["state"] == "retried" else "choices" in row["raw_answer"]


def test_streamed_answers_are_the_same_answers(bench, emulator):
    rows = bench.rows(20, faults={3: "stream_cut:1", 4: "stream_error:1"})
    summary = bench.run(bench.job(bench.manifest(rows), delivery="stream = true"), *to_emulator(emulator))
    assert summary["rows_completed"] == 20
    attempts = bench.table("attempts")
    assert sum(row["cost_ticks"] or 0 for row in attempts) == emulator.bill().ticks_delivered
    assert all(row["row_id"] in row["output_text"] for row in bench.table("results"))
