"""status and show read the tables of an output, also while a run is at work."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from batchvision.cli.show import default_columns
from batchvision.commands.run import run
from batchvision.commands.show import rows_of
from batchvision.commands.status import LEDGER_COLUMNS, ledger_rows, look, summary_document
from batchvision.emulator import EmulatorOptions, start_in_thread
from batchvision.errors import JobInvalid
from batchvision.job import Job
from batchvision.money.spending import Sum


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four rows: three answered, of them one under two recipes; one refused."""
    folder = tmp_path_factory.mktemp("output")
    Image.new("RGB", (40, 30), "red").save(folder / "red.png")
    rows = "a,red.png,one\nb,red.png,two\nc,red.png,three\nd,red.png,[[fault:refusal]]\n"
    (folder / "photos.csv").write_text("id,image,title\n" + rows, encoding="utf-8")
    settings = {
        "name": "status",
        "manifest": {"path": "photos.csv", "id": "id", "keep": "title"},
        "prompt": {"user": "Describe {title}."},
        "answer": {"labels": ["red", "blue"]},
        "provider": {"name": "emulator", "model": "grok-4.3"},
        "output": {"path": "out", "on_recipe_change": "redo"},
    }
    with start_in_thread(EmulatorOptions()) as emulator:
        to = {"provider.base_url": f"{emulator.url}/v1"}
        run(Job.from_mapping(settings, folder, overrides=to), environ={})
        (folder / "photos.csv").write_text("id,image,title\na,red.png,one\n", encoding="utf-8")
        run(Job.from_mapping(settings, folder, overrides={**to, "provider.model": "grok-4.6"}), environ={})
    return folder / "out"


def test_each_row_counts_once_however_often_it_was_asked(output: Path) -> None:
    seen = look(output)
    assert (seen.answers, seen.rows_answered) == (4, 3)


def test_the_ledger_is_added_up_by_state(output: Path) -> None:
    seen = look(output)
    assert seen.attempts["ok"].attempts == 4
    assert seen.spent_ticks == sum(each.cost_ticks for each in seen.attempts.values()) > 0
    assert seen.unclear_ticks == 0


def test_the_document_is_json_and_holds_the_last_summary(output: Path) -> None:
    document = json.loads(json.dumps(look(output).document()))
    assert document["last_run"]["rows_total"] == 1
    assert document["last_run"]["config"]["provider"]["model"] == "grok-4.6"
    assert document["cost_ticks"] == look(output).spent_ticks


def test_cost_is_summed_by_model_and_day_and_waste(output: Path) -> None:
    seen = look(output)
    models, days, wasted = (getattr(seen.spending, part)() for part in ("by_model", "by_day", "wasted"))
    assert set(models) == {"grok-4.3", "grok-4.6"}
    for sums in (models, days, seen.attempts):
        assert sum(each.cost_ticks for each in sums.values()) == seen.spent_ticks
        assert sum(each.attempts for each in sums.values()) == 5
    assert set(wasted) == {"refused"}
    assert wasted["refused"].cost_ticks == seen.attempts["failed"].cost_ticks > 0
    assert seen.projected_ticks == seen.spent_ticks, "no row is left"
    document = seen.document()
    assert document["spent"]["by_model"]["grok-4.6"]["cost_ticks"] == models["grok-4.6"].cost_ticks
    assert document["tokens"]["prompt"] == seen.tokens.prompt > 0


def test_the_summary_of_a_run_splits_its_cost(output: Path) -> None:
    latest = look(output).latest
    assert latest is not None
    spent = latest.spent
    assert list(spent["by_model"]) == ["grok-4.6"]
    assert latest.cost_ticks is not None
    assert spent["by_state"]["ok"] == Sum(1, latest.cost_ticks, 0)._asdict()
    assert spent["wasted"] == {}


def test_pending_rows_are_projected_at_the_mean_cost_of_a_row_of_the_recipe(output: Path, tmp_path: Path) -> None:
    shutil.copytree(output, tmp_path / "out")
    latest = tmp_path / "out" / "runs" / "latest.json"
    document = json.loads(latest.read_text())
    latest.write_text(json.dumps({**document, "rows_pending": 10}))
    seen = look(tmp_path / "out")
    assert seen.projected_ticks == seen.spent_ticks + 10 * document["cost_ticks"], "its one row cost that"


def test_days_are_those_of_the_jobs_timezone(output: Path, tmp_path: Path) -> None:
    shutil.copytree(output, tmp_path / "out")
    latest = tmp_path / "out" / "runs" / "latest.json"
    document = json.loads(latest.read_text())
    days = []
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):  # 25 hours apart
        document["config"]["timezone"] = zone
        latest.write_text(json.dumps(document))
        days.append(set(look(tmp_path / "out").spending.by_day()))
    assert not days[0] & days[1]


def test_the_ledger_lists_every_attempt_with_the_providers_id(output: Path) -> None:
    rows = [row for batch in ledger_rows(output) for row in batch.to_pylist()]
    assert len(rows) == 5
    assert all(row["provider_request_id"] for row in rows)
    assert sum(row["cost_ticks"] for row in rows) == look(output).spent_ticks
    assert set(rows[0]) == set(LEDGER_COLUMNS)


def test_the_summary_reads_as_it_was_written(output: Path) -> None:
    latest = look(output).latest
    assert latest is not None
    assert summary_document(latest) == json.loads((output / "runs" / "latest.json").read_text())


def test_show_gives_each_row_its_current_answer(output: Path) -> None:
    found = rows_of(output, "completed", ["row_id", "model_requested"])
    rows = {row["row_id"]: row["model_requested"] for batch in found.batches for row in batch.to_pylist()}
    assert rows == {"a": "grok-4.6", "b": "grok-4.3", "c": "grok-4.3"}


def test_a_table_shows_id_kept_columns_answers_and_cost(output: Path) -> None:
    assert default_columns(rows_of(output, "completed").columns, "completed") == (
        "row_id",
        "title",
        "answer_label",
        "cost_usd",
    )


def test_a_column_that_is_not_there_names_those_that_are(output: Path) -> None:
    with pytest.raises(JobInvalid, match="answer_label"):
        rows_of(output, "completed", ["labell"])


def test_a_missing_output_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(JobInvalid, match="batchvision run JOB"):
        look(tmp_path / "nowhere")


def test_a_folder_of_something_else_is_no_output(tmp_path: Path) -> None:
    with pytest.raises(JobInvalid, match="holds no output"):
        look(tmp_path)


def test_without_arrows_time_zones_days_are_those_of_the_zone_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from batchvision.commands import status

    late = pa.array([datetime(2026, 11, 20, 23, 30, tzinfo=UTC), datetime(2026, 11, 20, 22, 30, tzinfo=UTC)])

    def unknown(*args: object, **more: object) -> None:
        raise pa.ArrowInvalid("Cannot locate timezone 'Europe/Zurich'")

    expected = status._days(late, "Europe/Zurich").to_pylist()
    monkeypatch.setattr(status.pc, "strftime", unknown)
    assert status._days(late, "Europe/Zurich").to_pylist() == expected == ["2026-11-21", "2026-11-20"]
