"""The key comes from the environment, a file or a command, and no message ever holds it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from job_files import MINIMAL, load

from batchvision.errors import JobInvalid
from batchvision.job import Job

XAI = MINIMAL.replace("emulator", "xai")


def key_problem(job: Job, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(JobInvalid) as caught:
        job.api_key(environ or {})
    return str(caught.value)


def revealed(job: Job, environ: dict[str, str] | None = None) -> str | None:
    secret = job.api_key(environ or {})
    return None if secret is None else secret.reveal()


def test_the_key_is_in_the_providers_variable(tmp_path: Path) -> None:
    assert revealed(load(tmp_path, XAI), {"XAI_API_KEY": " xai-1\n"}) == "xai-1"
    own = load(tmp_path, XAI + 'api_key_env = "TEAM_KEY"\n')
    assert revealed(own, {"TEAM_KEY": "k-2", "XAI_API_KEY": "k-1"}) == "k-2"


def test_without_a_key_the_message_names_the_command_to_type(tmp_path: Path) -> None:
    told = key_problem(load(tmp_path, XAI))
    assert "set XAI_API_KEY: export XAI_API_KEY=..." in told
    assert "export TEAM_KEY=" in key_problem(load(tmp_path, XAI + 'api_key_env = "TEAM_KEY"\n'), {"TEAM_KEY": " "})


@pytest.mark.parametrize(
    ("held", "says"),
    [
        ("canary-1\ncanary-2", "several lines"),
        ("'canary-1'", "quotes"),
        ("\u201ccanary-1\u201d", "quotes"),
        ("Bearer canary-1", "Bearer"),
        ("canary 1", "spaces"),
        ("canary\t1", "spaces"),
        ("canary-1\u00e9", "no key has"),
        ("canary-1\x00", "no key has"),
    ],
)
def test_what_is_no_bare_key_is_refused_in_words_that_do_not_hold_it(tmp_path: Path, held: str, says: str) -> None:
    told = key_problem(load(tmp_path, XAI), {"XAI_API_KEY": held})
    assert told.startswith("XAI_API_KEY holds more than a key")
    assert says in told
    assert "canary" not in told


def test_a_job_loads_without_its_key(tmp_path: Path) -> None:
    assert load(tmp_path, XAI).recipe.recipe_id


def test_the_emulator_needs_no_key(tmp_path: Path) -> None:
    assert revealed(load(tmp_path)) is None


def test_a_compatible_server_of_ones_own_may_need_no_key(tmp_path: Path) -> None:
    local = MINIMAL.replace("emulator", "openai") + 'base_url = "http://127.0.0.1:8000/v1"\n'
    assert revealed(load(tmp_path, local)) is None
    assert revealed(load(tmp_path, local), {"OPENAI_API_KEY": "k"}) == "k"
    assert "OPENAI_API_KEY" in key_problem(load(tmp_path, MINIMAL.replace("emulator", "openai")))
    assert "LOCAL_KEY" in key_problem(load(tmp_path, local + 'api_key_env = "LOCAL_KEY"\n'))


def test_the_key_is_in_a_file_beside_the_job(tmp_path: Path) -> None:
    (tmp_path / "key.txt").write_text("xai-3\r\n", encoding="utf-8-sig")
    job = load(tmp_path, XAI + 'api_key_file = "key.txt"\n')
    assert revealed(job, {"XAI_API_KEY": "other"}) == "xai-3"
    (tmp_path / "key.txt").unlink()
    assert "cannot be read: No such file" in key_problem(job)
    (tmp_path / "key.txt").write_bytes(b"\xff\xfe\xff")
    assert "it is not text" in key_problem(job)


def test_the_key_is_what_a_command_prints(tmp_path: Path) -> None:
    script = tmp_path / "key.py"
    script.write_text("print('xai-4')")
    words = load(tmp_path, XAI + f"api_key_command = '{sys.executable} key.py'\n")
    assert revealed(words) == "xai-4"
    assert revealed(load(tmp_path, XAI + f"api_key_command = ['{sys.executable}', 'key.py']\n")) == "xai-4"
    script.write_text("import sys; print('xai-4'); sys.exit(3)")
    told = key_problem(words)
    assert "exit code 3" in told
    assert "xai-4" not in told


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    told = key_problem(load(tmp_path, XAI + 'api_key_command = "no-such-program --key"\n'))
    assert "there is no program no-such-program" in told
    assert "cannot be run" in key_problem(load(tmp_path, XAI + "api_key_command = '''a \"b'''\n"))


@pytest.mark.parametrize("text", ["xai-1 xai-2", "xai-1\nxai-2", "xai-é", "xai-\x01"])
def test_more_than_a_key_is_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    told = key_problem(load(tmp_path, XAI), {"XAI_API_KEY": text})
    assert "holds more than a key" in told
    assert "xai-" not in told


def test_an_empty_file_holds_no_key(tmp_path: Path) -> None:
    (tmp_path / "key.txt").write_text("\n")
    assert "holds no key" in key_problem(load(tmp_path, XAI + 'api_key_file = "key.txt"\n'))


def test_a_header_that_is_a_secret_is_not_taken_from_a_flag(tmp_path: Path) -> None:
    with pytest.raises(JobInvalid, match=r"provider\.headers\.X_Api_Key looks like a secret") as caught:
        load(tmp_path, XAI, provider__headers__X_Api_Key="canary")
    assert "canary" not in str(caught.value)
