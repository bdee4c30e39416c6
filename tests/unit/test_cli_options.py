"""Flags are keys of the job file with dashes."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from batchvision.cli.command import Command, typed_command
from batchvision.cli.options import ALL_FLAGS, LIMIT_FLAGS, overrides
from batchvision.cli.run import ONCE_FLAGS, RunCommand


@pytest.mark.parametrize("flag", LIMIT_FLAGS, ids=lambda flag: flag.flag)
def test_a_limits_flag_is_its_key_with_dashes(flag: object) -> None:
    assert flag.key == "limits." + flag.flag.removeprefix("--").replace("-", "_")  # type: ignore[attr-defined]


def test_only_given_flags_override_the_job() -> None:
    given = dict.fromkeys(ALL_FLAGS) | {"max_attempts": 3, "retry_quarantined": True}
    assert overrides(given, ()) == {"limits.max_attempts": 3}


def test_paths_are_relative_to_where_the_user_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert overrides({"manifest": "photos.csv", "out": "s3://bucket/out"}, ()) == {
        "manifest.path": str(tmp_path / "photos.csv"),
        "output.path": "s3://bucket/out",
    }


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("limits.max_attempts=3", "limits.max_attempts", "3"),
        ("limits.max_failed=20%", "limits.max_failed", "20%"),
        ("provider.model=grok-4.3", "provider.model", "grok-4.3"),
        ("provider.model=4.20", "provider.model", "4.20"),
        ("prompt.user=a=b", "prompt.user", "a=b"),
        ("prompt.system=", "prompt.system", ""),
    ],
)
def test_set_hands_the_text_to_the_job(setting: str, key: str, value: str) -> None:
    assert overrides({}, (setting,)) == {key: value}


def test_set_without_a_value_names_its_form() -> None:
    with pytest.raises(click.UsageError, match="KEY=VALUE"):
        overrides({}, ("limits.max_attempts",))


def test_a_flag_of_its_own_beats_set() -> None:
    assert overrides({"max_attempts": 3}, ("limits.max_attempts=9",)) == {"limits.max_attempts": 3}


@pytest.mark.parametrize(
    ("args", "kinds"),
    [
        (["--retry-failed", "job.toml"], "all"),
        (["job.toml", "--retry-failed"], "all"),
        (["--retry-failed=refused,empty", "job.toml"], "refused,empty"),
        (["job.toml"], None),
    ],
)
def test_retry_failed_stands_alone_or_names_kinds(args: list[str], kinds: str | None) -> None:
    seen: list[object] = []

    @click.command(cls=RunCommand)
    @click.argument("job")
    @click.option("--retry-failed")
    def go(job: str, retry_failed: str | None) -> None:
        seen.extend([job, retry_failed])

    result = CliRunner().invoke(go, args)
    assert result.exit_code == 0, result.output
    assert seen == ["job.toml", kinds]


def test_the_next_command_leaves_out_flags_of_one_run() -> None:
    seen: list[str] = []

    @click.command(cls=Command, name="batchvision run")
    @click.argument("job")
    @click.option("--out")
    @click.option("--retry-failed")
    @click.pass_context
    def go(ctx: click.Context, /, **_: object) -> None:
        seen.append(typed_command(ctx, without=ONCE_FLAGS, add=("--retry-failed",)))

    CliRunner().invoke(go, ["a job.toml", "--out", "o", "--retry-failed=refused"], prog_name="batchvision run")
    assert seen == ["batchvision run 'a job.toml' --out o --retry-failed"]
