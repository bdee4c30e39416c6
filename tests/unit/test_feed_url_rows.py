"""Rows of plain URLs have the same request keys as columns and as objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import anyio
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchvision.commands.plan import plan
from batchvision.job import Job
from batchvision.keys import key_bytes
from batchvision.runner import CountedRequest
from batchvision.runner.feed import NoKnownRows, stretches, survey


class ManifestRow(NamedTuple):
    name: str | None
    front: str | None
    back: str | None
    title: str | None


PLAIN = st.sampled_from(["https://h/1.jpg", "https://h/2.jpg", "http://other:8080/ä", "https://nothing.behind", None])
ROWS = st.builds(
    ManifestRow,
    st.sampled_from([*"abcdefghijklmno", None]),
    PLAIN,
    PLAIN,
    st.sampled_from(["", "a", "b", "ein längerer Titel 🙂", "nul\x00", None]),
)
#: Prompts, and the image columns of each.
PROMPTS: tuple[tuple[Mapping[str, str], tuple[str, ...]], ...] = (
    ({"user": "The same for all."}, ("front",)),
    ({"user": "{image} is {title}", "system": "Look."}, ("front", "back")),
    ({"user": "{image:back} is the back of {image:front}: {title}"}, ("front", "back")),
    ({"column": "title"}, ("back",)),
)


def job_of(folder: Path, rows: Sequence[ManifestRow], prompt: Mapping[str, str], columns: Sequence[str]) -> Job:
    cells = zip(ManifestRow._fields, zip(*rows, strict=True), strict=True)
    pq.write_table(pa.table({name: pa.array(values, pa.string()) for name, values in cells}), folder / "m.parquet")
    settings = {
        "name": "columns",
        "manifest": {"path": "m.parquet", "id": "name", "images": list(columns), "keep": ["title"]},
        "prompt": prompt,
        "provider": {"name": "xai", "model": "grok-4.3", "parameters": {"max_tokens": 100}},
        "limits": {"deduplicate": False},
    }
    return Job.from_mapping(settings, folder)


@given(st.lists(ROWS, min_size=1, max_size=40), st.sampled_from(PROMPTS))
def test_rows_of_urls_have_the_same_keys_as_columns_and_as_objects(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[ManifestRow],
    asked: tuple[Mapping[str, str], tuple[str, ...]],
) -> None:
    job = job_of(tmp_path_factory.mktemp("keys"), rows, *asked)
    requests: list[CountedRequest] = []
    anyio.run(partial(plan, job, watch=requests.append))
    (stretch,) = stretches(job, survey(job), NoKnownRows())
    found = stretch.url_request_keys(stretch.sound_places(), job.recipe.recipe_id)
    assert found == b"".join(key_bytes(each.request_key) for each in requests)
