"""``docs/job-file.md`` says what the models say, of every key, with examples that a job takes."""

from __future__ import annotations

import tomllib
from typing import Annotated

import pytest
from pydantic import TypeAdapter
from references import job_file
from references.job_file import Key, Table, page, tables

from batchvision.job.sections import key_of, keys_of

TABLES = tuple(tables())
KEYS = [(table, key) for table in TABLES for key in table.keys]


def test_the_page_is_what_the_models_say() -> None:
    assert job_file.PAGE.read_text(encoding="utf-8") == page(), "run scripts/docs"


def test_every_key_of_every_section_is_on_the_page() -> None:
    assert {table.header for table in TABLES} >= {
        "",
        "[manifest]",
        "[[prompt.example]]",
        "[provider.prices]",
        "[limits]",
    }
    for table in TABLES:
        assert [key.name for key in table.keys] == list(keys_of(table.section))


@pytest.mark.parametrize(("table", "key"), KEYS, ids=[f"{table.header}{key.name}" for table, key in KEYS])
def test_each_key_has_a_meaning_and_an_example_that_a_job_takes(table: Table, key: Key) -> None:
    assert key.meaning.endswith(".")
    assert key.default
    if key.example is None:
        assert any(key.name in inner.header for inner in TABLES), "its own keys are listed"
        return
    written = tomllib.loads(key.example)
    assert list(written) == [key.name]
    field = next(field for name, field in table.section.model_fields.items() if key_of(name, field) == key.name)
    kind = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    TypeAdapter(kind, config={"arbitrary_types_allowed": True}).validate_python(written[key.name])


def test_a_key_without_a_word_below_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_file, "_text_of", lambda node: "")
    job_file._fields_of.cache_clear()
    try:
        with pytest.raises(SystemExit, match=r"_Top\.name: write below it what it does and `Example: name = "):
            list(tables())
    finally:
        job_file._fields_of.cache_clear()
