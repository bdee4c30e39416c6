"""Collect the values of a report from an output. Reads only; downloads nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from batchvision.accuracy import accuracy_words
from batchvision.checkpoint import newest_summaries
from batchvision.commands.report.answers import AnswerForm, label_of, recipe_of
from batchvision.commands.report.comparing import Comparing, OtherSide
from batchvision.commands.report.gallery import Gallery, Thumbnails
from batchvision.commands.report.over_time import spans_of
from batchvision.commands.report.values import (
    Asked,
    LabelCount,
    Measured,
    Report,
    RunPoint,
    SettingValue,
    WrongAnswer,
)
from batchvision.commands.status import look, open_output
from batchvision.records import Recipe, RunSummary

#: Runs in the trend.
RUNS_SHOWN = 30
#: Labels with a bar of their own. The rows of rarer labels share one.
LABELS_SHOWN = 40


def collect(output: Path, *, rows: int, seed: int = 0, against: OtherSide | None = None) -> Report:
    """Collect a report with at most ``rows`` rows in its gallery. Raises JobInvalid if there is no output.

    ``against``: answers to compare with.
    """
    status, view = look(output), open_output(output)
    latest = status.latest
    accuracy = {} if latest is None else latest.accuracy
    recipe = recipe_of(output, latest)
    form = AnswerForm.of(recipe)
    gallery, labels = Gallery(rows, seed, _expected(accuracy), form), Counter[str]()
    comparing = None if against is None else Comparing(form, against)
    recipe_id = None if latest is None else latest.recipe_id
    for is_failed, batches in ((False, view.current_results(recipe_id)), (True, view.rows("failures"))):
        for batch in batches:
            others = comparing.beside(batch, is_failed=is_failed) if comparing else [None] * batch.num_rows
            for row, beside in zip(batch.to_pylist(), others, strict=True):
                gallery.add(row, is_failed=is_failed, beside=beside)
                if not is_failed:
                    labels[label_of(row)] += 1
    with Thumbnails(None if latest is None else latest.config) as thumbnails:
        cards = tuple(gallery.cards(thumbnails))
    runs = list(islice(newest_summaries(output), RUNS_SHOWN))
    timed = next((run for run in runs if run.requests_sent), None)
    return Report(
        status=status,
        made_at=datetime.now(UTC),
        asked=None if recipe is None else _asked(recipe),
        labels=_label_counts(labels),
        cards=cards,
        rows_known=gallery.rows_seen,
        failures=status.failures,
        accuracy=tuple(_measured(accuracy)),
        timed=timed,
        spans=() if timed is None else spans_of(view, timed),
        runs=tuple(map(_run_point, reversed(runs))),
        settings=() if latest is None else tuple(_settings(latest)),
        versions={} if latest is None else latest.versions,
        comparison=None if comparing is None else comparing.comparison(),
    )


def _label_counts(labels: Counter[str]) -> tuple[LabelCount, ...]:
    """Labels by number of rows, if the answers have labels."""
    total = labels.total()
    if set(labels) <= {""}:
        return ()
    found = [LabelCount(label or "(none)", rows, rows / total) for label, rows in labels.most_common(LABELS_SHOWN)]
    rest = total - sum(each.rows for each in found)
    return (*found, LabelCount("(other labels)", rest, rest / total)) if rest else tuple(found)


def _expected(accuracy: Mapping[str, Any]) -> dict[str, str]:
    """row_id -> known answers, of the rows with a wrong answer."""
    found: dict[str, list[str]] = {}
    for name, measured in accuracy.items():
        for each in measured["wrong"]:
            words = each["expected"] if len(accuracy) == 1 else f"{name}: {each['expected']}"
            found.setdefault(each["row_id"], []).append(words)
    return {row_id: ", ".join(words) for row_id, words in found.items()}


def _measured(accuracy: Mapping[str, Any]) -> Iterator[Measured]:
    words = dict(zip(accuracy, accuracy_words(accuracy), strict=True))
    for name, found in accuracy.items():
        yield Measured(
            name,
            found["accuracy"]["value"],
            words[name],
            found["kappa"],
            found["macro_f1"],
            tuple(found.get("labels", ())),
            tuple(map(tuple, found.get("matrix", ()))),
            tuple(WrongAnswer(**each) for each in found["wrong"]),
        )


def _asked(recipe: Recipe) -> Asked:
    schema = recipe.answer.schema
    return Asked(
        provider=recipe.provider,
        model=recipe.model,
        system=recipe.system,
        user=recipe.user or f"(the column {recipe.user_column}, as it stands)",
        labels=tuple((label.value, label.description) for label in recipe.answer.labels),
        schema=None if schema is None else json.dumps(schema, indent=2, ensure_ascii=False),
        examples=len(recipe.examples),
    )


def _run_point(summary: RunSummary) -> RunPoint:
    return RunPoint(
        summary.run_id,
        datetime.fromisoformat(summary.started_at),
        summary.rows_completed,
        summary.rows_failed,
        summary.rows_pending,
        summary.exit_code,
        summary.stop_reason,
        summary.cost_ticks,
        summary.duration_seconds,
    )


def _settings(summary: RunSummary) -> Iterator[SettingValue]:
    """Every setting by its dotted key."""
    for section, values in summary.config.items():
        pairs = values.items() if isinstance(values, Mapping) else [("", values)]
        for name, value in pairs:
            key = f"{section}.{name}".rstrip(".")
            if value not in (None, {}, []):
                text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                yield SettingValue(key, text, _source(summary.sources, key))


def _source(sources: Mapping[str, str], key: str) -> str:
    """The source of a setting. A table may have several."""
    found = {source for name, source in sources.items() if name == key or name.startswith(f"{key}.")}
    return ", ".join(sorted(found))
