"""``batchvision init FOLDER`` writes a job file that runs as it is, and replaces nothing."""

from __future__ import annotations

import os
import stat
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from PIL import Image

from batchvision.cli import group
from batchvision.cli.exits import run_and_report
from batchvision.emulator import EmulatorOptions, start_in_thread
from batchvision.job import Job

KEY = "xai-key-typed-at-a-terminal"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XAI_API_KEY", raising=False)
    return tmp_path


def images(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 40), "red").save(path)
    return folder


def init(*arguments: str | Path) -> int:
    return run_and_report(group, ["init", *map(str, arguments)])


def written(name: str) -> dict[str, Any]:
    return tomllib.loads(Path(name).read_text(encoding="utf-8"))


def a_terminal(monkeypatch: pytest.MonkeyPatch, typed: str) -> list[str]:
    """A user at a terminal who types this at each prompt; gives the prompts."""
    asked: list[str] = []

    def prompt(text: str, **options: Any) -> str:
        assert options["hide_input"]
        asked.append(text)
        return typed

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(click, "prompt", prompt)
    return asked


def test_a_job_of_a_folder_asks_about_each_of_its_images(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images(here / "Grüße 1", "a.png", "b.jpg")
    assert init("Grüße 1", "--provider", "emulator") == 0
    job = Job.load("Gr-e-1.toml", environ={})
    assert job.limits.max_cost_usd == 5.0
    assert job.prompt.user == "Describe this image in one sentence."
    assert "2 images (1 png, 1 jpeg)" in Path("Gr-e-1.toml").read_text(encoding="utf-8")
    assert capsys.readouterr().err.splitlines()[1:] == [
        "Gr-e-1.toml is written: look at its prompt. Next:",
        "  batchvision plan Gr-e-1.toml",
        "  batchvision run Gr-e-1.toml --limit 20",
        "  batchvision report Gr-e-1.toml",
        "  batchvision run Gr-e-1.toml",
    ]


def test_the_printed_commands_lead_to_a_report(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images(here / "photos", *(f"{number}.png" for number in range(3)))
    assert init("photos", "--provider", "emulator") == 0
    commands = [line.split()[1:] for line in capsys.readouterr().err.splitlines() if line.startswith("  batchvision")]
    with start_in_thread(EmulatorOptions()) as emulator:
        for words in commands:
            to = [] if words[0] == "report" else ["--base-url", f"{emulator.url}/v1"]
            assert run_and_report(group, [*words, *to]) == 0
    assert (here / "out" / "photos" / "report.html").exists()


def test_sub_folders_become_labels(here: Path) -> None:
    images(here / "pets", "dogs/1.png", "cats/2.png", "cats/more/3.png")
    assert init("pets") == 0
    assert written("pets.toml")["answer"]["labels"] == ["cats", "dogs"]
    assert Job.load("pets.toml", environ={}).recipe.answer.labels[0].value == "cats"


@pytest.mark.parametrize("names", [("one/1.png", "one/2.png"), ("a/1.png", "2.png")])
def test_one_sub_folder_or_an_image_beside_them_makes_no_labels(here: Path, names: tuple[str, ...]) -> None:
    images(here / "pets", *names)
    assert init("pets") == 0
    assert "answer" not in written("pets.toml")


def test_names_with_quotes_stay_text_of_the_job(here: Path) -> None:
    images(here / 'a"b', 'x"y/1.png', "z\\w/2.png")
    assert init('a"b') == 0
    job = written("a-b.toml")
    assert job["answer"]["labels"] == ['x"y', "z\\w"]
    assert job["manifest"]["path"] == 'a"b/'


def test_a_typed_key_is_stored_for_the_user_alone(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images(here / "photos", "a.png")
    asked = a_terminal(monkeypatch, f" {KEY} ")
    before = os.umask(0)
    try:
        assert init("photos") == 0
    finally:
        os.umask(before)
    assert len(asked) == 1
    assert (here / "xai.key").read_text() == f"{KEY}\n"
    assert stat.S_IMODE((here / "xai.key").stat().st_mode) == 0o600
    assert written("photos.toml")["provider"]["api_key_file"] == "xai.key"
    assert KEY not in Path("photos.toml").read_text()
    said = capsys.readouterr()
    assert KEY not in said.out + said.err
    images(here / "more", "a.png")
    assert init("more") == 0
    assert len(asked) == 1, "the stored key serves the second job"
    assert written("more.toml")["provider"]["api_key_file"] == "xai.key"


def test_a_text_that_is_no_key_is_refused_and_not_stored(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images(here / "photos", "a.png")
    a_terminal(monkeypatch, "Bearer secret-word")
    assert init("photos") == 2
    said = capsys.readouterr().err
    assert "Bearer" in said
    assert "secret-word" not in said
    assert not (here / "xai.key").exists()
    assert not (here / "photos.toml").exists()


def test_without_a_terminal_the_variable_of_the_key_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images(here / "photos", "a.png")
    assert init("photos") == 0
    assert "  export XAI_API_KEY=..." in capsys.readouterr().err
    assert "api_key_file" not in written("photos.toml")["provider"]


def test_a_key_in_the_environment_is_not_asked_for(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images(here / "photos", "a.png")
    asked = a_terminal(monkeypatch, KEY)
    monkeypatch.setenv("XAI_API_KEY", "xai-from-the-environment")
    assert init("photos") == 0
    assert asked == []
    assert not (here / "xai.key").exists()


def test_a_job_that_is_there_is_not_replaced(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images(here / "photos", "a.png")
    (here / "photos.toml").write_text("mine")
    asked = a_terminal(monkeypatch, KEY)
    assert init("photos") == 2
    assert "photos.toml is there already and is not replaced" in capsys.readouterr().err
    assert (here / "photos.toml").read_text() == "mine"
    assert asked == []


def test_a_folder_that_is_missing_or_has_no_image_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init("nowhere") == 2
    assert "nowhere is no folder" in capsys.readouterr().err
    (here / "empty").mkdir()
    assert init("empty") == 2
    assert "no image was found in empty" in capsys.readouterr().err
    assert list(here.glob("*.toml")) == []


def test_a_provider_without_a_default_model_needs_its_name(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images(here / "photos", "a.png")
    assert init("photos", "--provider", "openai") == 2
    assert "batchvision init photos --provider openai --model NAME" in capsys.readouterr().err
    assert init("photos", "--provider", "openai", "--model", "gpt-x") == 0
    assert "max_cost_usd" not in written("photos.toml")["limits"], "no list has its price"
