"""The columns that a job adds to its tables: kept columns and answers. Names are unique without regard to case."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from batchvision.prompt import LABEL, REASONING_COLUMN, AnswerColumn, answer_columns, column_name
from batchvision.records import AnswerSpec

#: Fixed columns of results, failures and attempts, and the partition.
FIXED_COLUMNS: frozenset[str] = frozenset(
    (
        "run_date", "job", "row_id", "request_key", "recipe_id", "output_text", "output_json", "finish_reason",
        "provider", "upstream_provider", "model_requested", "model", "lane", "attempt_count", "prompt_tokens",
        "image_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "cost_ticks", "cost_usd",
        "row_cost_ticks", "cost_source", "image_ref", "image_sha256", "skip_key", "provider_request_id",
        "system_fingerprint", "started_at", "finished_at", "updated_at", "latency_ms", "run_id",
        "table_version", "error_kind", "error_message", "last_error_kind", "quarantined", "runs_failed",
        "last_output_text", "failed_at", "attempt", "state", "http_status", "ticket", "bound_ticks",
        "service_tier", "sent_at", "received_at", "raw_answer",
    )
)  # fmt: skip


class KeepColumn(NamedTuple):
    """A manifest column that is copied to the tables: its name in the manifest and in the tables."""

    source: str
    name: str


def keep_columns(keep: Sequence[str] | Mapping[str, str]) -> tuple[KeepColumn, ...]:
    """The kept columns of ``["title"]``, or of ``{"product_model": "model"}``, which renames."""
    pairs = keep.items() if isinstance(keep, Mapping) else ((source, source) for source in keep)
    return tuple(KeepColumn(source, column_name(name)) for name, source in pairs)


def clashes(keep: Iterable[KeepColumn], answers: Iterable[AnswerColumn], *, keeps_reasoning: bool = False) -> list[str]:
    """One sentence for each name that is taken or empty."""
    problems = []
    taken = dict.fromkeys(FIXED_COLUMNS, "a column of the tables themselves")
    if keeps_reasoning:
        taken[REASONING_COLUMN] = "the column of output.keep_reasoning"
    taken |= {column.name: f"the answer's property {column.property!r}" for column in answers}
    for column in keep:
        rename = f'rename it: keep = {{ new_name = "{column.source}" }}'
        if not column.name:
            problems.append(f"manifest.keep: {column.source!r} gives no column name; {rename}")
        elif column.name in taken:
            problems.append(
                f"manifest.keep: the column {column.name} of {column.source!r} is already {taken[column.name]}; "
                f"{rename}"
            )
        else:
            taken[column.name] = f"the kept column {column.source!r}"
    return problems


#: In place of a property, for answers in plain text.
TEXT = "text"


def main_property(spec: AnswerSpec) -> str | None:
    """The property that a single known answer is about: the label, the only property, or the text."""
    names = [column.property for column in answer_columns(spec)]
    if not names:
        return TEXT
    if spec.labels:
        return LABEL
    return names[0] if len(names) == 1 else None


def expected_columns(expected: str | Mapping[str, str] | None, spec: AnswerSpec) -> dict[str, str]:
    """``answer.expected`` as property -> column. Raises ValueError for a property that the answers do not have."""
    if expected is None:
        return {}
    names = [column.property for column in answer_columns(spec)] or [TEXT]
    if isinstance(expected, str):
        name = main_property(spec)
        if name is None:
            raise ValueError(
                f"the answers have several properties ({', '.join(names)}): name the column of each, as in "
                f'expected = {{ {names[0]} = "{expected}" }}'
            )
        return {name: expected}
    if unknown := [name for name in expected if name not in names]:
        raise ValueError(f"the answers have no property {', '.join(unknown)}; there are: {', '.join(names)}")
    return dict(expected)
