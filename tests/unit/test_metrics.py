"""The metrics of a run are what Prometheus reads, under names that never change."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from many_parts import a_summary
from notice_receiver import Receiver, listening
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from batchvision.commands.metrics import OTLP_ENDPOINTS, export_metrics, metrics_of, metrics_text, write_metrics
from batchvision.records import RateSample, RunSummary

SUMMARY = replace(
    a_summary(),
    job='night "shift"\nsecond line\\',
    rows_completed=990,
    rows_failed=7,
    rows_pending=3,
    rows_quarantined=2,
    tickets_open=1,
    requests_sent=1010,
    retries=20,
    failures_by_kind={"refused": 5, "truncated": 2},
    prompt_tokens=123_456_789,
    completion_tokens=5,
    reasoning_tokens=6,
    cached_tokens=8,
    cost_ticks=125_000_000_000,
    finished_at="2026-12-01T02:00:00+00:00",
    duration_seconds=14400.5,
    rate_history=(RateSample(0, 60, 100, 4), RateSample(60, 60, 100, 5)),
    accuracy={"label": {"accuracy": {"value": 0.93}}},
)


def values(summary: RunSummary) -> dict[tuple[str, str], float]:
    """Name and last label -> value, as Prometheus' own parser reads them."""
    found = {}
    for family in text_string_to_metric_families(metrics_text(summary)):
        assert family.type == "gauge"
        assert family.documentation.endswith(".")
        for sample in family.samples:
            assert sample.labels["job"] == summary.job
            rest = [value for name, value in sample.labels.items() if name != "job"]
            found[sample.name, rest[0] if rest else ""] = sample.value
    return found


def test_prometheus_reads_every_figure() -> None:
    assert values(SUMMARY) == {
        ("batchvision_run_rows", "completed"): 990,
        ("batchvision_run_rows", "failed"): 7,
        ("batchvision_run_rows", "pending"): 3,
        ("batchvision_run_rows", "quarantined"): 2,
        ("batchvision_run_failures", "refused"): 5,
        ("batchvision_run_failures", "truncated"): 2,
        ("batchvision_run_tickets_open", ""): 1,
        ("batchvision_run_requests", ""): 1010,
        ("batchvision_run_retries", ""): 20,
        ("batchvision_run_rate_limited", ""): 9,
        ("batchvision_run_tokens", "prompt"): 123_456_789,
        ("batchvision_run_tokens", "completion"): 5,
        ("batchvision_run_tokens", "reasoning"): 6,
        ("batchvision_run_tokens", "cached"): 8,
        ("batchvision_run_cost_usd", ""): 12.5,
        ("batchvision_run_duration_seconds", ""): 14400.5,
        ("batchvision_run_finished_timestamp_seconds", ""): 1796090400,
        ("batchvision_run_exit_code", ""): 3,
        ("batchvision_run_accuracy", "label"): 0.93,
    }


def test_an_unknown_cost_has_no_value() -> None:
    assert not [name for name, _ in values(replace(SUMMARY, cost_ticks=None)) if name.endswith("cost_usd")]


def test_the_file_is_replaced_in_one_step_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "batchvision.prom"
    path.write_text("old")
    write_metrics(path, SUMMARY)
    assert path.read_text() == metrics_text(SUMMARY)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        write_metrics(tmp_path / "gone" / "batchvision.prom", SUMMARY)


def test_every_name_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "overnight.md").read_text(encoding="utf-8")
    assert [metric.name for metric in metrics_of(SUMMARY) if f"`batchvision_run_{metric.name}" not in page] == []


# ---------------------------------------------------------------------------------- OpenTelemetry


def sent_to(receiver: Receiver) -> tuple[dict[str, str], dict[tuple[str, str], float]]:
    """Attributes of the resource, and name and last label -> value, as OTLP's own messages read them."""
    ((path, content_type, body),) = receiver.received
    assert (path, content_type) == ("/v1/metrics", "application/x-protobuf")
    (resource,) = ExportMetricsServiceRequest.FromString(body).resource_metrics
    found = {}
    for metric in resource.scope_metrics[0].metrics:
        for point in metric.gauge.data_points:
            labels = {each.key: each.value.string_value for each in point.attributes}
            assert labels.pop("job") == SUMMARY.job
            found[metric.name, next(iter(labels.values()), "")] = point.as_double or point.as_int
    return {each.key: each.value.string_value for each in resource.resource.attributes}, found


def test_a_collector_gets_the_values_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        export_metrics(SUMMARY)
    resource, sent = sent_to(receiver)
    assert resource["service.name"] == "batchvision"
    assert sent == {(name.replace("_", ".", 2), label): value for (name, label), value in values(SUMMARY).items()}


def test_without_an_endpoint_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OTLP_ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.metric_exporter", None)
    export_metrics(SUMMARY)


def test_without_the_extra_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.metric_exporter", None)
        export_metrics(SUMMARY)
    assert receiver.received == []


def test_a_collector_that_refuses_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with listening() as receiver:
        receiver.answers = [400]
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        export_metrics(SUMMARY)
    assert [each.getMessage() for each in caplog.records if each.name.startswith("batchvision")] == [
        "the metrics were not delivered to OTEL_EXPORTER_OTLP_ENDPOINT; the summary is in runs/"
    ]
