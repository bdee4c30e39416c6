"""The figures of a run as metrics: a text file for Prometheus' node_exporter, or OTLP for an OpenTelemetry collector.

The names are listed in ``docs/overnight.md``. They never change; new ones may come.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from batchvision import __version__
from batchvision.records import TICKS_PER_USD, RunSummary

log = logging.getLogger(__name__)

#: A variable of these turns the export on. The exporter reads all variables of its specification.
OTLP_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
MetricLabels = tuple[tuple[str, str], ...]  #: name and value
NO_LABELS: MetricLabels = ()


class Metric(NamedTuple):
    """A gauge with its values by labels."""

    name: str
    meaning: str
    values: Mapping[MetricLabels, float]


def metrics_of(summary: RunSummary) -> Iterator[Metric]:
    """The gauges of a run. An unknown cost has no value."""
    rows = {
        "completed": summary.rows_completed,
        "failed": summary.rows_failed,
        "pending": summary.rows_pending,
        "quarantined": summary.rows_quarantined,
    }
    tokens = {
        "prompt": summary.prompt_tokens,
        "completion": summary.completion_tokens,
        "reasoning": summary.reasoning_tokens,
        "cached": summary.cached_tokens,
    }
    finished = datetime.fromisoformat(summary.finished_at).timestamp()
    costs = {} if summary.cost_ticks is None else {NO_LABELS: summary.cost_ticks / TICKS_PER_USD}
    rate_limited = sum(each.rate_limited for each in summary.rate_history)
    yield Metric("rows", "Rows of the manifest by state. Quarantined rows are failed rows, too.", _by("state", rows))
    yield Metric("failures", "Failed rows by kind.", _by("kind", summary.failures_by_kind))
    yield Metric("tickets_open", "Tickets whose answers the next run collects.", {NO_LABELS: summary.tickets_open})
    yield Metric("requests", "Requests of the last run.", {NO_LABELS: summary.requests_sent})
    yield Metric("retries", "Requests of the last run that were sent again.", {NO_LABELS: summary.retries})
    yield Metric("rate_limited", "Answers 429 in the last run.", {NO_LABELS: rate_limited})
    yield Metric("tokens", "Tokens of the last run by kind. Cached tokens are prompt tokens.", _by("kind", tokens))
    yield Metric("cost_usd", "Cost of the last run in USD. Absent where it is not known.", costs)
    yield Metric("duration_seconds", "Duration of the last run.", {NO_LABELS: summary.duration_seconds})
    yield Metric("finished_timestamp_seconds", "End of the last run.", {NO_LABELS: finished})
    yield Metric("exit_code", "Exit code of the last run.", {NO_LABELS: summary.exit_code})
    accuracy = {name: each["accuracy"]["value"] for name, each in summary.accuracy.items()}
    yield Metric("accuracy", "Share of rows with the known answer, by property.", _by("property", accuracy))


def _by(label: str, values: Mapping[str, float]) -> dict[MetricLabels, float]:
    return {((label, name),): value for name, value in values.items()}


def metrics_text(summary: RunSummary) -> str:
    """The content of the file. Each value has the label ``job``."""
    lines = []
    for metric in metrics_of(summary):
        name = f"batchvision_run_{metric.name}"
        lines += [f"# HELP {name} {metric.meaning}", f"# TYPE {name} gauge"]
        for labels, value in metric.values.items():
            pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in (("job", summary.job), *labels))
            lines.append(f"{name}{{{pairs}}} {value:.17g}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def write_metrics(path: Path, summary: RunSummary) -> None:
    """Replace the file in one step. A collector never reads a half of it. Raises OSError."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(metrics_text(summary), encoding="utf-8")
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def export_metrics(summary: RunSummary) -> None:
    """Send the gauges to the collector of ``OTEL_EXPORTER_OTLP_ENDPOINT``, over HTTP with protobuf.

    Without the variable, or without the extra ``otel``, nothing is sent. A failure is a warning.
    """
    if not any(os.environ.get(name) for name in OTLP_ENDPOINTS):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExportResult
        from opentelemetry.sdk.resources import Resource
    except ModuleNotFoundError:
        return
    reader = InMemoryMetricReader()
    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "batchvision")})
    meter = MeterProvider([reader], resource, shutdown_on_exit=False).get_meter("batchvision", __version__)
    for metric in metrics_of(summary):
        gauge = meter.create_gauge(f"batchvision.run.{metric.name}", description=metric.meaning)
        for labels, value in metric.values.items():
            gauge.set(value, {"job": summary.job, **dict(labels)})
    exporter, data = OTLPMetricExporter(), reader.get_metrics_data()
    if data is not None and exporter.export(data) is not MetricExportResult.SUCCESS:
        log.warning("the metrics were not delivered to OTEL_EXPORTER_OTLP_ENDPOINT; the summary is in runs/")
    exporter.shutdown()
