"""``docs/job-file.md`` says what the models say, of every key, with examples that a job takes."""

from __future__ import annotations

import re
import textwrap
import tomllib
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter
from references import job_file
from references.job_file import Key, Table, page, tables

from batchvision.job import Job
from batchvision.job.sections import SECTIONS, key_of, keys_of

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


# ---------------------------------------------------------------------------------- README.md

README = (job_file.PAGE.parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = [textwrap.dedent(block) for block in re.findall(r"^ *```toml\n(.*?)^ *```", README, re.DOTALL | re.MULTILINE)]
SMALL: dict[str, Any] = {
    "name": "readme",
    "manifest": {"path": "manifest.csv"},
    "prompt": {"user": "Which category? Title: {title}"},
    "provider": {"name": "xai", "model": "grok-4.3"},
    "output": {"path": "out"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from PIL import Image

    (tmp_path / "manifest.csv").write_text("id,image,title,front,back\n")
    (tmp_path / "examples").mkdir()
    (tmp_path / "out" / "shoes").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "examples" / "shoe.jpg")
    return tmp_path


@pytest.mark.parametrize("block", BLOCKS, ids=[block.split("\n", 1)[0] for block in BLOCKS])
def test_each_example_of_the_readme_is_a_job_or_a_part_of_one(block: str, folder: Path) -> None:
    written = tomllib.loads(block)
    sections = {name: {**SMALL.get(name, {}), **section} for name, section in written.items()}
    job = Job.from_mapping({**SMALL, **sections}, folder, environ={"IMG_TOKEN": "secret-of-the-image-host"})
    assert set(written) <= set(SECTIONS)
    assert job.recipe.recipe_id


def test_the_readme_shows_what_a_job_can_ask() -> None:
    shown = "\n".join(BLOCKS)
    for needed in ("{image:front}", "[[prompt.example]]", 'lane = "deferred"', "image_mode", "base_url", "labels"):
        assert needed in shown
    for needed in ("llama.cpp", "vLLM", "LiteLLM", "Ollama", "Quarantine", "delivery.stream", "docs/job-file.md"):
        assert needed in README


def test_the_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 5
    assert [link for link in links if "://" not in link and not (job_file.PAGE.parents[1] / link).exists()] == []


def test_every_file_that_contributing_names_is_there() -> None:
    root = job_file.PAGE.parents[1]
    named = re.findall(
        r"`((?:[\w.]+/)+[\w.]*\w\.(?:py|md|toml|json))`", (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    )
    missing = [path for path in named if not ((root / path).exists() or (root / "batchvision" / path).exists())]
    assert len(named) > 20
    assert missing == ["batchvision/commands/NAME.py", "batchvision/cli/NAME.py"], "these are for the reader to write"


def test_the_python_of_the_readme_runs_a_job_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from batchvision.samples import write_samples

    root = job_file.PAGE.parents[1]
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "caption.toml").write_bytes((root / "jobs" / "caption.toml").read_bytes())
    write_samples(tmp_path / "jobs" / "photos")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XAI_API_KEY", "xai-key-0123456789")
    monkeypatch.setenv("BATCHVISION_PROVIDER__BASE_URL", "http://127.0.0.1:9/v1")  # no request leaves this machine
    shown, mocked = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)

    exec(mocked, names := {})
    assert names["summary"].rows_completed == names["summary"].rows_total == 9
    exec(shown, names)  # every row has its answer: nothing is sent
    assert capsys.readouterr().out == "9 0.0 0\n"
