"""Prices: job over file over the provider's list over the built-in table; and a list that is remembered."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from job_files import load, problems, with_lines

from batchvision.commands import check
from batchvision.money.price_lists import PriceQuote, cache_folder, list_path, quote, recall, remember
from batchvision.providers import ModelListing, dialect
from batchvision.ticks import PRICES_AS_OF, Prices, built_in

NOW = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
LISTED = Prices(10, 1, 20, 5, 200_000, 2, 30, None, 60, 7)
GROK = ModelListing("grok-4.3", ("grok-latest",), LISTED, True, 1_000_000, 8_000)
XAI = "https://api.x.ai/v1"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"BATCHVISION_CACHE_DIR": str(tmp_path / "cache")}


def xai_job(folder: Path, **sections: str) -> Any:
    return load(folder, with_lines(**sections), provider__name="xai")


# ---------------------------------------------------------------------------------- the remembered list


def test_a_list_is_remembered_as_it_was_read(environ: dict[str, str]) -> None:
    models = (GROK, ModelListing("plain"), ModelListing("seen", takes_images=False))
    assert remember("xai", XAI, models, NOW, environ) == list_path("xai", XAI, environ)
    assert recall("xai", XAI, environ) == (models, NOW)


def test_each_server_has_a_list_of_its_own(environ: dict[str, str]) -> None:
    remember("xai", "http://127.0.0.1:8765/v1", (GROK,), NOW, environ)
    assert recall("xai", XAI, environ) is None
    assert recall("openai", "http://127.0.0.1:8765/v1", environ) is None


def test_nothing_but_the_list_is_left_in_the_folder(environ: dict[str, str]) -> None:
    for _ in range(2):
        remember("a/strange name", XAI, (GROK,), NOW, environ)
    folder = list_path("a/strange name", XAI, environ).parent
    assert [path.suffix for path in folder.iterdir()] == [".json"]


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    environ = {"BATCHVISION_CACHE_DIR": str(tmp_path / "file")}
    assert remember("xai", XAI, (GROK,), NOW, environ) is None
    assert recall("xai", XAI, environ) is None


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"provider": "openai"},
        {"read_at": "yesterday"},
        {"models": [{"name": "grok-4.3"}]},
        {"models": [{**GROK._asdict(), "prices": {"input_ticks_per_mtok": -1}}]},
        {"models": [{**GROK._asdict(), "prices": {"image_ticks": 1}}]},
        {"models": None},
    ],
)
def test_an_unreadable_list_is_ignored(environ: dict[str, str], change: dict[str, Any]) -> None:
    path = remember("xai", XAI, (GROK,), NOW, environ)
    assert path is not None
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert recall("xai", XAI, environ) is None


@given(content=st.binary(max_size=200))
def test_no_bytes_at_all_make_it_raise(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    environ = {"BATCHVISION_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))}
    path = list_path("xai", XAI, environ)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert recall("xai", XAI, environ) is None


def test_the_cache_is_in_the_users_cache_folder() -> None:
    assert cache_folder({"XDG_CACHE_HOME": "/var/cache/me"}) == Path("/var/cache/me/batchvision")
    assert cache_folder({"XDG_CACHE_HOME": "not/absolute"}) == Path.home() / ".cache" / "batchvision"
    assert cache_folder({"XDG_CACHE_HOME": "/a", "BATCHVISION_CACHE_DIR": "/b"}) == Path("/b")


# ---------------------------------------------------------------------------------- which prices hold


def test_without_anything_else_the_built_in_prices_hold(tmp_path: Path, environ: dict[str, str]) -> None:
    assert quote(xai_job(tmp_path), environ) == PriceQuote(built_in("xai", "grok-4.3"), "built-in table", PRICES_AS_OF)


@pytest.mark.parametrize("model", ["grok-4.3", "grok-latest", "grok-4.3:floor"])
def test_the_providers_list_is_before_the_built_in_table(tmp_path: Path, environ: dict[str, str], model: str) -> None:
    remember("xai", XAI, (GROK,), NOW, environ)
    job = load(tmp_path, provider__name="xai", provider__model=model)
    assert quote(job, environ) == PriceQuote(LISTED, "the provider's list", NOW.date())


def test_a_listed_model_without_prices_has_the_prices_of_the_table(tmp_path: Path, environ: dict[str, str]) -> None:
    remember("xai", XAI, (ModelListing("grok-4.3"),), NOW, environ)
    assert quote(xai_job(tmp_path), environ).source == "built-in table"


def test_a_prices_file_is_before_the_list_and_the_job_before_the_file(tmp_path: Path, environ: dict[str, str]) -> None:
    remember("xai", XAI, (GROK,), NOW, environ)
    (tmp_path / "prices.toml").write_text(
        'as_of = 2026-11-01\n["grok-4.3"]\ninput = 3\noutput = 4.5\n[other]\ninput = 9'
    )
    found = quote(xai_job(tmp_path, provider='prices_file = "prices.toml"'), environ)
    assert found.prices is not None
    assert (found.prices.input_ticks_per_mtok, found.prices.output_ticks_per_mtok) == (30_000_000_000, 45_000_000_000)
    assert found.prices.cached_ticks_per_mtok == LISTED.cached_ticks_per_mtok
    assert found.prices.long_input_ticks_per_mtok is None, "a long context costs its factor of what is given"
    assert (found.source, found.as_of) == ("prices file prices.toml", date(2026, 11, 1))

    job = xai_job(tmp_path, provider='prices_file = "prices.toml"\nprices = { input = 7 }')
    found = quote(job, environ)
    assert found.prices is not None
    assert (found.prices.input_ticks_per_mtok, found.prices.output_ticks_per_mtok) == (70_000_000_000, 45_000_000_000)
    assert found.source == "provider.prices over prices file prices.toml"


def test_prices_of_a_long_context_stand_in_the_file_or_in_the_job(tmp_path: Path, environ: dict[str, str]) -> None:
    (tmp_path / "prices.toml").write_text(
        "[other]\ninput = 1\noutput = 2\nlong_above_tokens = 100000\nlong_input = 1.5\nlong_cached = 0.5"
    )
    settings = 'prices_file = "prices.toml"'
    filed = quote(load(tmp_path, with_lines(provider=settings), provider__model="other"), environ).prices
    assert filed is not None
    assert filed.ticks(100_000, 0, cached=50_000) == 50_000 * 15_000 + 50_000 * 5_000
    settings += "\nprices = { long_above_tokens = 50000, long_output = 7 }"
    own = quote(load(tmp_path, with_lines(provider=settings), provider__model="other"), environ).prices
    assert own is not None
    assert own.ticks(50_000, 10) == 50_000 * 15_000 + 10 * 70_000
    (problem,) = problems(tmp_path, with_lines(provider="prices = { long_output = 7 }"))
    assert "long_output needs long_above_tokens" in problem


def test_prices_of_the_job_alone_are_enough_and_do_not_age(tmp_path: Path, environ: dict[str, str]) -> None:
    job = load(tmp_path, with_lines(provider="prices = { input = 1, output = 2 }"), provider__model="brand-new")
    found = quote(job, environ)
    assert found.prices == Prices(10**10, 10**10, 2 * 10**10)
    assert (found.source, found.as_of) == ("provider.prices", None)
    assert found.warning(date(2030, 1, 1), job) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[broken", "not valid TOML"),
        ('["grok-4.3"]\ninput = "dear"', "USD per million tokens"),
        ('["grok-4.3"]\nin = 1', "by the names input, cached, output, image"),
        ('as_of = "2026"', "as_of is no date"),
        ('["grok-4.3"]\nlong_input = 2', "long_input needs long_above_tokens"),
        ('["grok-4.3"]\nlong_above_tokens = 0', "by the names input"),
    ],
)
def test_a_prices_file_that_cannot_be_used_is_a_problem_of_the_job(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "prices.toml").write_text(text)
    (problem,) = problems(tmp_path, with_lines(provider='prices_file = "prices.toml"'))
    assert problem.startswith("provider.prices_file: ")
    assert says in problem


def test_a_prices_file_that_is_not_there_is_a_problem_too(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, with_lines(provider='prices_file = "nowhere.toml"'))
    assert "there is no file" in problem


def test_prices_older_than_thirty_days_give_a_warning(tmp_path: Path, environ: dict[str, str]) -> None:
    remember("xai", XAI, (GROK,), NOW, environ)
    job = xai_job(tmp_path)
    found = quote(job, environ)
    assert found.warning((NOW + timedelta(days=30)).date(), job) is None
    said = found.warning((NOW + timedelta(days=31)).date(), job)
    assert said is not None
    assert "31 days old" in said
    assert "batchvision models --provider xai --refresh" in said


def test_the_emulators_prices_do_not_age(tmp_path: Path, environ: dict[str, str]) -> None:
    job = load(tmp_path)
    assert quote(job, environ).warning(date(2030, 1, 1), job) is None


# ---------------------------------------------------------------------------------- asked for, or not


@pytest.mark.parametrize(("age", "refresh", "asked"), [(1, False, 0), (1, True, 1), (25, False, 1), (None, False, 1)])
def test_a_list_of_today_is_not_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: int | None, refresh: bool, asked: int
) -> None:
    monkeypatch.setenv("BATCHVISION_CACHE_DIR", str(tmp_path))
    requests = []

    async def list_models(*arguments: Any, **options: Any) -> tuple[ModelListing, ...]:
        requests.append(arguments)
        return (GROK,)

    monkeypatch.setattr(check, "list_models", list_models)
    if age is not None:
        remember("xai", XAI, (GROK,), datetime.now(UTC) - timedelta(hours=age))
    assert check.current_models(dialect("xai"), XAI, refresh=refresh).models == (GROK,)
    assert len(requests) == asked
    assert recall("xai", XAI) is not None


# ---------------------------------------------------------------------------------- tiers


@pytest.mark.parametrize(
    ("lines", "percents"),
    [
        ("", (None, None)),
        ('parameters = { service_tier = "flex" }', (50, 50)),
        ('parameters = { service_tier = "flex" }\nprices = { flex_percent = 40 }', (40, 50)),
        ("prices = { input = 1, output = 2, batch_percent = 60 }", (None, 60)),
    ],
)
def test_prices_of_tiers_are_those_of_the_job_and_else_the_known_ones(
    tmp_path: Path, environ: dict[str, str], lines: str, percents: tuple[int | None, int | None]
) -> None:
    own = "" if "prices" in lines else "\nprices = { input = 1, output = 2 }"
    if "prices" in lines and "input" not in lines:
        lines = lines.replace("prices = {", "prices = { input = 1, output = 2,")
    job = load(tmp_path, with_lines(provider=lines + own), provider__name="openai", provider__model="gpt-5.2")
    found = quote(job, environ).prices
    assert found is not None
    assert (found.flex_percent, found.batch_percent) == percents
