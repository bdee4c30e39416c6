"""Rows with plain URLs are counted as columns: what a plan says of them is what it says row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import anyio
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchvision.checkpoint import KeySet, PaidRows, Standing
from batchvision.checkpoint.books import Books
from batchvision.checkpoint.row_keys import pair
from batchvision.checkpoint.standing import Sums
from batchvision.feed import NewStanding, Selection, Stretch, stretches, survey
from batchvision.feed import Standing as FeedStanding
from batchvision.job import Job
from batchvision.keys import key_bytes
from batchvision.plan import Looking, Plan, Seen, plan
from batchvision.records import Failed


class Line(NamedTuple):
    """A row of the manifest, and how it stands before."""

    name: str | None
    front: str | None
    back: str | None
    title: str | None
    state: str


PLAIN = st.sampled_from(["https://h/1.jpg", "https://h/2.jpg", "http://other:8080/ä", "https://nothing.behind", None])
LINES = st.builds(
    Line,
    st.sampled_from([*"abcdefghijklmno", None]),
    PLAIN,
    PLAIN,
    st.sampled_from(["", "a", "b", "ein längerer Titel 🙂", "nul\x00", None]),
    st.sampled_from(["new", "new", "done", "failed", "quarantined", "answered"]),
)
#: The prompt, and the columns that images are in.
ASKED: tuple[tuple[Mapping[str, str], tuple[str, ...]], ...] = (
    ({"user": "The same for all."}, ("front",)),
    ({"user": "{image} is {title}", "system": "Look."}, ("front", "back")),
    ({"user": "{image:back} is the back of {image:front}: {title}"}, ("front", "back")),
    ({"column": "title"}, ("back",)),
)


def job_of(folder: Path, table: Sequence[Line], asked: tuple[Mapping[str, str], tuple[str, ...]], **limits: Any) -> Job:
    cells = zip(Line._fields, zip(*table, strict=True), strict=True)
    pq.write_table(pa.table({name: pa.array(values, pa.string()) for name, values in cells}), folder / "m.parquet")
    prompt, columns = asked
    settings = {
        "name": "columns",
        "manifest": {"path": "m.parquet", "id": "name", "images": list(columns), "keep": ["title"]},
        "prompt": prompt,
        "provider": {"name": "xai", "model": "grok-4.3", "parameters": {"max_tokens": 100}},
        "limits": limits,
    }
    return Job.from_mapping(settings, folder)


def by_rows(job: Job, standing: FeedStanding, selection: Selection) -> tuple[Plan, list[Seen]]:
    """Who watches is shown each row."""
    seen: list[Seen] = []
    with patch("batchvision.plan.standing_of", return_value=standing):
        return anyio.run(partial(plan, job, selection, watch=seen.append)), seen


def by_columns(job: Job, standing: FeedStanding, selection: Selection) -> Plan:
    with (
        patch("batchvision.plan.standing_of", return_value=standing),
        patch.object(Looking, "at", side_effect=AssertionError("a row became an object")),
    ):
        return anyio.run(plan, job, selection)


def columns_of(job: Job) -> Iterator[Stretch]:
    return stretches(job, survey(job), NewStanding())


def standing_of(job: Job, table: Sequence[Line], seen: Sequence[Seen]) -> Standing:
    """Every row as its line says that it stands; ``seen``: those that can be sent."""
    failures, done, answered = dict[str, Failed](), KeySet(), KeySet()
    rows = [row for stretch in columns_of(job) for batch in stretch.batches() for row in batch.rows]
    for row in rows:
        match table[row.position - 1].state:
            case "done":
                done.add(pair(row.row_id, row.skip_key))
            case "failed" | "quarantined" as state:
                failures[row.row_id] = a_failed(row.row_id, row.skip_key, quarantined=state == "quarantined")
    for each in seen:
        if table[each.row.position - 1].state == "answered":
            answered.add(key_bytes(each.request_key))
    return Standing(Books(failures), done, lambda: PaidRows("r"), Sums(0, 0), answered)


def a_failed(row_id: str, skip_key: str, *, quarantined: bool) -> Failed:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Failed(row_id, None, skip_key, "r", "refused", "m", None, 1, 0, 1, quarantined, None, at, "run", {})


@given(st.lists(LINES, min_size=1, max_size=40), st.sampled_from(ASKED), st.booleans(), st.sampled_from([None, 3]))
def test_a_plan_by_columns_is_the_plan_row_by_row(
    tmp_path_factory: pytest.TempPathFactory,
    table: list[Line],
    asked: tuple[Mapping[str, str], tuple[str, ...]],
    deduplicate: bool,
    limit: int | None,
) -> None:
    folder = tmp_path_factory.mktemp("columns")
    every = job_of(folder, table, asked, deduplicate=False)
    _, seen = by_rows(every, NewStanding(), Selection())
    standing = standing_of(every, table, seen)
    job = job_of(folder, table, asked, deduplicate=deduplicate)
    expected, _ = by_rows(job, standing, Selection(limit=limit))
    assert by_columns(job, standing, Selection(limit=limit)) == expected


@given(st.lists(LINES, min_size=1, max_size=40), st.sampled_from(ASKED))
def test_what_columns_ask_has_the_keys_that_rows_have(
    tmp_path_factory: pytest.TempPathFactory, table: list[Line], asked: tuple[Mapping[str, str], tuple[str, ...]]
) -> None:
    job = job_of(tmp_path_factory.mktemp("keys"), table, asked, deduplicate=False)
    _, seen = by_rows(job, NewStanding(), Selection())
    (stretch,) = columns_of(job)
    found = stretch.url_rows(stretch.sound_places(), job.recipe.recipe_id)
    assert found.request_keys == b"".join(key_bytes(each.request_key) for each in seen)
    assert found.text_chars == [len(each.row.text) for each in seen]
    assert found.images == [len(each.row.images) for each in seen]


def test_a_stretch_with_one_other_image_is_looked_at_row_by_row(tmp_path: Path) -> None:
    urls = ["https://h/1.jpg", "https://h/2.jpg?size=3", "missing.jpg"]
    table = [Line(f"r{number}", url, None, "t", "new") for number, url in enumerate(urls)]
    drawn = anyio.run(plan, job_of(tmp_path, table, ASKED[0]))
    assert (drawn.rows.to_do, drawn.rows.invalid, drawn.images.by_format) == (2, 1, {"url": 2})
    assert [row_id for row_id, _ in drawn.reasons] == ["r2"]


def test_rows_to_be_shown_are_made_and_the_rest_is_counted_the_same(tmp_path: Path) -> None:
    table = [Line(f"r{number}", f"https://h/{number % 3}.jpg", None, "t", "new") for number in range(9)]
    job = job_of(tmp_path, table, ASKED[0])
    shown = anyio.run(partial(plan, job, show_requests=2))
    assert [each["row_id"] for each in shown.requests_shown] == ["r0", "r1"]
    assert shown.rows == anyio.run(plan, job).rows
    assert shown.cost == anyio.run(plan, job).cost
