"""What a job means once it is loaded."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from hashlib import sha256
from pathlib import Path

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from job_files import MINIMAL, load, with_lines, write_job

from batchvision import Job as PublicJob
from batchvision.errors import PAID_FAILURES, ROW_FAULTS
from batchvision.job import FIXED_COLUMNS, Job, KeepColumn, RowLimit
from batchvision.records import ImagePreparation, Label, Lane


def test_a_small_job_has_all_defaults_of_the_design(tmp_path: Path) -> None:
    job = load(tmp_path)
    assert PublicJob is Job
    assert (job.name, job.timezone) == ("captions", "UTC")
    assert job.manifest_path == tmp_path / "photos.csv"
    assert job.root == tmp_path
    assert job.output_path == tmp_path / "out" / "captions"
    assert job.id_columns == ()
    assert job.manifest.images == ("image",)
    assert job.keep_columns == ()
    assert job.manifest.image_identity == "content"
    assert job.manifest.on_bad_image == "fail_row"
    assert job.provider.detail == "auto"
    assert job.provider.image_mode == "auto"
    assert job.provider.prompt_cache == "auto"
    assert job.answer.on_truncated == "fail"
    assert job.recipe.images == ImagePreparation()
    assert not job.images.allow_private_hosts
    assert job.delivery.lane_used is Lane.ONLINE
    assert not job.delivery.stream
    assert (job.delivery.max_ticket_wait_seconds, job.delivery.max_open_tickets) == (86_400, 10_000)
    assert job.output.keep_raw_answers
    assert job.output.on_recipe_change == "refuse"


def test_rates_and_caps_have_no_default_and_the_other_limits_do(tmp_path: Path) -> None:
    limits = load(tmp_path).limits
    given = {name: getattr(limits, name) for name in type(limits).model_fields}
    assert {name: value for name, value in given.items() if value is not None} == {
        "concurrency": 256,
        "max_attempts": 5,
        "request_timeout_seconds": 600,
        "max_failed": RowLimit(None, Fraction(1, 5)),
        "failed_ok": RowLimit(None, Fraction(0)),
        "retry_failed": "unpaid",
        "quarantine_after_runs": 5,
        "ambiguous": "retry",
        "max_outage_seconds": 7200,
        "deduplicate": True,
    }


def test_a_job_is_frozen(tmp_path: Path) -> None:
    job = load(tmp_path)
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        job.name = "other"
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        job.limits.concurrency = 1


def test_a_job_can_be_made_in_python(tmp_path: Path) -> None:
    write_job(tmp_path)
    settings = {
        "name": "here",
        "manifest": {"path": "photos.csv", "id": ["sku"], "images": ["front", "back"]},
        "prompt": {"column": "prompt"},
        "answer": {"schema": {"type": "object", "properties": {"a": {"type": "string"}}}},
        "provider": {"name": "emulator", "model": "m"},
        "output": {"path": "answers"},
    }
    job = Job.from_mapping(settings, tmp_path)
    assert job.template is None
    assert job.prompt_columns == ("prompt",)
    assert job.id_columns == ("sku",)
    assert job.manifest.images == ("front", "back")
    assert job.output_path == tmp_path / "answers"
    assert job.recipe.user is None
    assert job.recipe.user_column == "prompt"
    assert job.recipe.answer.schema is not None


def test_the_recipe_holds_what_decides_answers(tmp_path: Path) -> None:
    (tmp_path / "system.txt").write_text("Be brief.\n", encoding="utf-8-sig")
    (tmp_path / "user.txt").write_bytes(b"Line one\r\nabout {title}\r\n")
    text = f"""
    [manifest]
    path = "photos.csv"
    [prompt]
    system_file = "system.txt"
    user_file = "{tmp_path / "user.txt"}"
    images_first = true
    [provider]
    name = "emulator"
    model = "grok-4.3"
    detail = "high"
    [provider.parameters]
    temperature = 0.5
    provider = {{ order = ["xai"] }}
    [images]
    max_bytes = 1000
    max_side = 512
    max_pixels = 5000
    strip_metadata = true
    """
    recipe = load(tmp_path, text).recipe
    assert recipe.system == "Be brief."
    assert recipe.user == "Line one\nabout {title}"
    assert recipe.images_first
    assert recipe.detail == "high"
    assert recipe.parameters == {"temperature": 0.5, "provider": {"order": ["xai"]}}
    assert recipe.images == ImagePreparation(1000, 512, 5000, True)
    assert recipe.provider == "emulator"
    assert len(recipe.recipe_id) == 32


@pytest.mark.parametrize(
    "section_lines",
    [
        {"limits": "concurrency = 3\nmax_cost_usd = 1.5"},
        {"delivery": "stream = true"},
        {"provider": 'base_url = "http://127.0.0.1:1/v1"\nimage_mode = "inline"\nheaders = { X-A = "b" }'},
        {"manifest": 'keep = ["title"]\nimage_identity = "ref"'},
        {"output": 'path = "elsewhere"'},
        {"answer": 'on_truncated = "raise_once"'},
        {"images": "allow_private_hosts = true"},
    ],
)
def test_delivery_limits_and_columns_are_no_part_of_the_recipe(tmp_path: Path, section_lines: dict[str, str]) -> None:
    assert load(tmp_path, with_lines(**section_lines)).recipe == load(tmp_path).recipe


def test_the_id_of_a_jobs_recipe_never_changes(tmp_path: Path) -> None:
    text = with_lines(prompt='system = "S"', answer='labels = ["shoe", "bag"]')
    assert load(tmp_path, text).recipe.recipe_id == "1e9057b2991fd9860b5169e330f9a33e"


def test_the_prompt_columns_are_those_its_template_reads(tmp_path: Path) -> None:
    job = load(tmp_path, MINIMAL.replace("{title}", "{title}, {brand} {image} and {title}"))
    assert job.prompt_columns == ("title", "brand")


def test_labels_may_come_from_a_file_with_or_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text('value,description\nshoe,"on a foot, or two"\n\nbag,\n', encoding="utf-8")
    (tmp_path / "plain.csv").write_text("shoe\nbag\n", encoding="utf-8")
    described = load(tmp_path, with_lines(answer='labels_file = "labels.csv"')).recipe.answer.labels
    plain = load(tmp_path, with_lines(answer='labels_file = "plain.csv"')).recipe.answer.labels
    assert described == (Label("shoe", "on a foot, or two"), Label("bag"))
    assert plain == (Label("shoe"), Label("bag"))


@pytest.mark.parametrize(
    "content",
    [
        b"sep=;\r\nshoe;on a foot, or two\r\nbag;\r\n;\r\n",
        b"sep=;\nvalue;description\nshoe;on a foot, or two\nbag\n",
        "\ufeffvalue;description\r\nshoe;on a foot, or two\r\nbag;\r\n;\r\n;\r\n".encode(),
        "Value\tDescription\nshoe\ton a foot, or two\nbag\t\n".encode("utf-16"),
        b'value,description,,\n"shoe","on a foot, or two",,\nbag,,,\n,,,\n',
    ],
)
def test_labels_files_are_read_as_spreadsheets_write_them(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "labels.csv").write_bytes(content)
    found = load(tmp_path, with_lines(answer='labels_file = "labels.csv"')).recipe.answer.labels
    assert found == (Label("shoe", "on a foot, or two"), Label("bag"))


def test_labels_that_hold_other_separators_stay_whole(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text('shoes; boots\nbag\n"hat; cap"\n', encoding="utf-8")
    found = load(tmp_path, with_lines(answer='labels_file = "labels.csv"')).recipe.answer.labels
    assert found == (Label("shoes; boots"), Label("bag"), Label("hat; cap"))


def test_a_schema_file_becomes_the_answers_columns(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"]}
    (tmp_path / "answer.schema.json").write_text(json.dumps(schema))
    job = load(tmp_path, with_lines(answer='schema = "answer.schema.json"\nlabels = ["a"]'))
    assert job.recipe.answer.schema is not None
    assert list(job.recipe.answer.schema["properties"]) == ["size", "label"]


def test_kept_columns_get_names_that_every_warehouse_takes(tmp_path: Path) -> None:
    listed = load(tmp_path, with_lines(manifest='keep = ["Product Name", "price"]'))
    assert listed.keep_columns == (KeepColumn("Product Name", "product_name"), KeepColumn("price", "price"))
    renamed = load(tmp_path, with_lines(manifest='keep = { product_model = "model" }'))
    assert renamed.keep_columns == (KeepColumn("model", "product_model"),)


def test_a_single_column_may_be_written_as_text(tmp_path: Path) -> None:
    job = load(tmp_path, with_lines(manifest='id = "sku"\nimages = "photo"\nkeep = "title"'))
    assert job.id_columns == ("sku",)
    assert job.manifest.images == ("photo",)
    assert job.keep_columns == (KeepColumn("title", "title"),)


def test_a_folder_of_parquet_is_its_own_root(tmp_path: Path) -> None:
    (tmp_path / "table").mkdir()
    job = load(tmp_path, MINIMAL.replace("photos.csv", "table"))
    assert job.root == job.manifest_path == tmp_path / "table"


def test_the_root_is_relative_to_the_job_file(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    assert load(tmp_path, with_lines(manifest='root = "images"')).root == tmp_path / "images"


def test_examples_are_turns_with_their_images_bytes_in_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "ex.png").write_bytes(b"one")
    text = with_lines(answer='labels = ["shoe", "bag"]') + (
        '[[prompt.example]]\nuser = "What is it? {{x}}"\nimages = ["ex.png"]\nanswer = "shoe"\n'
        '[[prompt.example]]\nuser = "And?"\nanswer = { label = "bag" }\n'
    )
    job = load(tmp_path, text)
    first, second = job.recipe.examples
    assert (first.user, first.images, first.answer) == ("What is it? {{x}}", ("ex.png",), '{"label": "shoe"}')
    assert second.answer == '{"label": "bag"}'
    assert job.recipe.example_image_sha256 == (sha256(b"one").hexdigest(),)
    assert job.example_images == (str(tmp_path / "ex.png"),)
    (tmp_path / "ex.png").write_bytes(b"two")
    assert load(tmp_path, text).recipe.recipe_id != job.recipe.recipe_id


def test_an_example_asks_the_prompt_itself_where_that_reads_no_column(tmp_path: Path) -> None:
    text = MINIMAL.replace("{title}", "it") + '[[prompt.example]]\nanswer = "A shoe."\n'
    assert load(tmp_path, text).recipe.examples[0].user == "Describe it."


def test_money_is_exact(tmp_path: Path) -> None:
    job = load(tmp_path, with_lines(limits="max_cost_usd = 25.1", provider="prices = { input = 0.2, image = 1 }"))
    assert job.limits.max_cost_usd == Decimal("25.1")
    assert job.provider.prices.input == Decimal("0.2")
    assert job.provider.prices.image == Decimal(1)
    assert job.provider.prices.output is None


@pytest.mark.parametrize(
    ("line", "kinds"),
    [
        ('"unpaid"', frozenset(ROW_FAULTS) - PAID_FAILURES),
        ('"all"', frozenset(ROW_FAULTS)),
        ('"none"', frozenset()),
        ('"refused, empty"', frozenset({"refused", "empty"})),
        ('["refused"]', frozenset({"refused"})),
    ],
)
def test_the_kinds_a_rerun_retries(tmp_path: Path, line: str, kinds: frozenset[str]) -> None:
    assert load(tmp_path, with_lines(limits=f"retry_failed = {line}")).limits.retry_kinds == kinds


def test_the_lane_must_be_one_the_provider_has(tmp_path: Path) -> None:
    deferred = load(tmp_path, with_lines(delivery='lane = "deferred"').replace("emulator", "xai"))
    assert deferred.delivery.lane_used is Lane.DEFERRED
    assert load(tmp_path, with_lines(delivery='lane = "auto"')).delivery.lane_used is Lane.ONLINE


def test_every_column_of_the_tables_is_taken() -> None:
    assert {"row_id", "run_date", "raw_answer", "last_output_text", "table_version"} <= FIXED_COLUMNS


@pytest.mark.parametrize(
    ("written", "share"),
    [
        ("20%", RowLimit(None, Fraction(1, 5))),
        ("0.5 %", RowLimit(None, Fraction(1, 200))),
        (50, RowLimit(50, None)),
        ("50", RowLimit(50, None)),
    ],
)
def test_a_share_is_a_part_or_a_number_of_rows(written: object, share: RowLimit) -> None:
    assert RowLimit.parse(written) == share
    assert RowLimit.parse(str(share)) == share


@pytest.mark.parametrize("written", [0.2, True, "many", "120%", "-1", "-1%", "nan%", None, ""])
def test_the_error_of_a_wrong_row_limit_names_the_right_forms(written: object) -> None:
    with pytest.raises(ValueError, match='"20%"'):
        RowLimit.parse(written)


def test_a_share_allows_so_many_and_no_more() -> None:
    assert RowLimit.parse("20%").allows(20, 100)
    assert not RowLimit.parse("20%").allows(21, 100)
    assert RowLimit.parse(3).allows(3, 1_000_000)
    assert not RowLimit.parse(3).allows(4, 4)
    assert RowLimit.parse("0%").allows(0, 0)


@given(st.text())
def test_any_text_is_a_share_or_a_value_error(text: str) -> None:
    try:
        share = RowLimit.parse(text)
    except ValueError:
        return
    assert share.allows(0, 10)
