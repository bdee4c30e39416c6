"""Flag > environment > job file > default, and config show tells which."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from job_files import MINIMAL, load, problems, with_lines, write_job

from batchvision.errors import JobInvalid
from batchvision.job import Job

FILE = with_lines(limits="max_attempts = 2\nconcurrency = 2")


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    environ = {"BATCHVISION_LIMITS__MAX_ATTEMPTS": "3", "BATCHVISION_LIMITS__CONCURRENCY": "3"}
    job = load(tmp_path, FILE, environ, limits__concurrency=4)
    assert (job.limits.concurrency, job.limits.max_attempts, job.limits.quarantine_after_runs) == (4, 3, 5)
    assert job.origins["limits.concurrency"] == "flag"
    assert job.origins["limits.max_attempts"] == "environment BATCHVISION_LIMITS__MAX_ATTEMPTS"
    assert job.origins["limits.quarantine_after_runs"] == "default"
    assert load(tmp_path, FILE).origins["limits.max_attempts"] == "job file"


def test_a_jobs_name_is_by_default_that_of_its_file(tmp_path: Path) -> None:
    unnamed, named = load(tmp_path), load(tmp_path, 'name = "mine"\n' + MINIMAL)
    assert (unnamed.name, unnamed.origins["name"]) == ("captions", "default")
    assert (named.name, named.origins["name"]) == ("mine", "job file")
    assert named.output_path == tmp_path / "out" / "mine"


def test_the_environment_of_the_process_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHVISION_TIMEZONE", "Europe/Zurich")
    job = Job.load(write_job(tmp_path))
    assert job.timezone == "Europe/Zurich"
    assert job.origins["timezone"] == "environment BATCHVISION_TIMEZONE"


def test_environment_values_are_read_as_toml(tmp_path: Path) -> None:
    environ = {
        "BATCHVISION_MANIFEST__IMAGES": '["front", "back"]',
        "BATCHVISION_DELIVERY__STREAM": "true",
        "BATCHVISION_LIMITS__MAX_COST_USD": "2.5",
        "BATCHVISION_LIMITS__MAX_FAILED": "5%",
        "BATCHVISION_MANIFEST__ID": "sku",
        "BATCHVISION_PROVIDER__PARAMETERS__SEED": "7",
        "BATCHVISION_PROVIDER__PARAMETERS__REASONING_EFFORT": "low",
    }
    job = load(tmp_path, environ=environ)
    assert job.manifest.images == ("front", "back")
    assert job.delivery.stream
    assert str(job.limits.max_cost_usd) == "2.5"
    assert str(job.limits.max_failed) == "5%"
    assert job.id_columns == ("sku",)
    assert job.recipe.parameters == {"seed": 7, "reasoning_effort": "low"}


def test_what_is_text_stays_text(tmp_path: Path) -> None:
    environ = {"BATCHVISION_PROVIDER__MODEL": "4.20", "BATCHVISION_PROMPT__SYSTEM": "[1]"}
    job = load(tmp_path, environ=environ, name="2026", provider__headers__X_Team="7")
    assert (job.provider.model, job.recipe.system, job.name) == ("4.20", "[1]", "2026")
    assert job.provider.headers == {"X_Team": "7"}


def test_one_value_cannot_smuggle_in_another_setting(tmp_path: Path) -> None:
    told = problems(tmp_path, MINIMAL, {"BATCHVISION_LIMITS__CONCURRENCY": "3\n[output]\npath = '/tmp/x'"})
    assert told[0].startswith("limits.concurrency")


def test_other_variables_of_the_name_are_left_alone(tmp_path: Path) -> None:
    environ = {"BATCHVISION_HOME": "/x", "BATCHVISION": "1", "XAI_API_KEY": "k", "BATCHVISION_LOG": "debug"}
    assert load(tmp_path, environ=environ).config() == load(tmp_path).config()


def test_a_typing_error_in_a_variable_is_named(tmp_path: Path) -> None:
    told = problems(tmp_path, MINIMAL, {"BATCHVISION_LIMITS__CONCURENCY": "3"})
    assert told == (
        "limits.concurency (environment BATCHVISION_LIMITS__CONCURENCY) is not a key; did you mean limits.concurrency?",
    )


def test_the_error_of_a_wrong_flag_calls_it_a_flag(tmp_path: Path) -> None:
    assert problems(tmp_path, MINIMAL, limits__max_attempts="0") == (
        "limits.max_attempts = 0 (flag): it should be greater than 0",
    )


def test_a_flag_cannot_open_what_is_no_table(tmp_path: Path) -> None:
    assert "manifest.path is no table" in problems(tmp_path, MINIMAL, manifest__path__x=1)[0]


def test_overrides_leave_the_callers_mapping_alone(tmp_path: Path) -> None:
    write_job(tmp_path)
    mapping = {
        "name": "n",
        "manifest": {"path": "photos.csv"},
        "prompt": {"user": "u"},
        "provider": {"name": "emulator", "model": "m"},
    }
    before = json.dumps(mapping)
    Job.from_mapping(mapping, tmp_path, {"provider.model": "other", "limits.concurrency": 1})
    assert json.dumps(mapping) == before


def test_an_override_of_a_whole_table_is_one_setting(tmp_path: Path) -> None:
    text = MINIMAL + "[provider.parameters]\nseed = 1\n"
    job = load(tmp_path, text, provider__parameters={"temperature": 0})
    assert job.recipe.parameters == {"temperature": 0}


def test_every_setting_has_an_origin_and_a_value(tmp_path: Path) -> None:
    job = load(tmp_path, with_lines(provider='headers = { X-A = "b" }'))
    config = job.config()
    for dotted in job.origins:
        value: object = config
        for part in dotted.split("."):
            assert isinstance(value, dict)
            value = value[part]
    assert {key.split(".")[0] for key in job.origins} == set(config)


def test_the_config_is_json_and_resolved(tmp_path: Path) -> None:
    config = json.loads(json.dumps(load(tmp_path, with_lines(limits="max_cost_usd = 2.5")).config()))
    assert config["provider"]["base_url"] == "http://127.0.0.1:8765/v1"
    assert config["limits"]["max_cost_usd"] == 2.5
    assert config["limits"]["max_failed"] == "20%"
    assert config["answer"]["schema"] is None
    assert config["output"]["path"] == "out/captions"


def test_the_config_hides_what_may_be_a_secret(tmp_path: Path) -> None:
    lines = 'headers = { X-Api-Key = "sk-1234", cookie = "sk-5678", X-Team = "shoes" }\napi_key_command = "pass sk-9"'
    job = load(tmp_path, with_lines(provider=lines))
    assert "sk-" not in json.dumps(job.config())
    assert "sk-" not in repr(job)
    assert job.config()["provider"]["headers"] == {"X-Api-Key": "***", "cookie": "***", "X-Team": "shoes"}
    assert [secret.reveal() for secret in job.request_headers({})[1]] == ["sk-1234", "sk-5678"]


def test_headers_of_image_hosts_are_secrets_and_may_be_named_in_the_environment(tmp_path: Path) -> None:
    lines = (
        'headers."img.example.com" = { Authorization = "env:IMG_AUTH", Accept = "image/png" }\n'
        'headers."b.example.com:8443" = { X-Token = "sk-2" }\n'
        'proxy = "http://user:sk-3@proxy.example.com:3128"'
    )
    job = load(tmp_path, with_lines(images=lines))
    headers, secrets = job.image_headers({"IMG_AUTH": "Bearer sk-1"})
    assert headers == {
        "img.example.com": {"Authorization": "Bearer sk-1", "Accept": "image/png"},
        "b.example.com:8443": {"X-Token": "sk-2"},
    }
    assert {secret.reveal() for secret in secrets} == {"Bearer sk-1", "sk-1", "sk-2"}
    assert job.image_proxy({}) == "http://user:sk-3@proxy.example.com:3128"
    shown = job.config()["images"]
    assert shown["headers"]["img.example.com"] == {"Authorization": "env:IMG_AUTH", "Accept": "image/png"}
    assert shown["headers"]["b.example.com:8443"] == {"X-Token": "***"}
    assert shown["proxy"] == "http://***@proxy.example.com:3128"
    assert "sk-" not in json.dumps(job.config()) + repr(job)
    with pytest.raises(JobInvalid, match=r"images\.headers\.img\.example\.com\.Authorization .*IMG_AUTH is not set"):
        job.image_headers({})
    plain = load(tmp_path, with_lines())
    assert job.recipe.recipe_id == plain.recipe.recipe_id


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('headers = { "https://img.example.com" = { A = "b" } }', "is no host"),
        ('headers = { "img.example.com/photos" = { A = "b" } }', "is no host"),
        ('headers = { "img.example.com" = { "A b" = "c" } }', "is no header name"),
        ('headers = { "img.example.com" = { Host = "c" } }', "set by batchvision"),
        ('headers = { Authorization = "sk-1" }', "images.headers"),
    ],
)
def test_impossible_headers_of_image_hosts_are_named_without_their_values(
    tmp_path: Path, lines: str, words: str
) -> None:
    with pytest.raises(JobInvalid, match=words) as caught:
        load(tmp_path, with_lines(images=lines))
    assert "sk-1" not in str(caught.value)
