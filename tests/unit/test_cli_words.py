"""The lines that commands print, made from plain values."""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import click
import pytest

from batchvision.checkpoint import AmbiguousAttempt
from batchvision.cli import COMMANDS
from batchvision.cli.config import flat
from batchvision.cli.demo import closing
from batchvision.cli.logs import json_text, plain_text
from batchvision.cli.models import _cells, _document
from batchvision.cli.output import cell_text, csv_line, json_line, plain, print_document
from batchvision.cli.place import from_here, output_of
from batchvision.cli.plan import pilot_lines, plan_lines, sweep_rows
from batchvision.cli.progress import say
from batchvision.cli.run import _retry_setting
from batchvision.cli.shards import shard_of
from batchvision.cli.status import status_lines
from batchvision.commands.pilot import Compared, Pilot
from batchvision.commands.pilot.agreement import Agreement
from batchvision.commands.pilot.interval import Interval
from batchvision.commands.plan import Plan
from batchvision.commands.status import FailureKind, OutputStatus, TokenCounts
from batchvision.money.price_lists import PriceQuote
from batchvision.money.spending import Kind, Spending, Sum
from batchvision.providers import ModelListing
from batchvision.records import TICKS_PER_USD, Lane
from batchvision.runner.counting import ImageCounts, RequestTotals, RowCounts
from batchvision.runner.feed import Changes
from batchvision.ticks import Prices
from batchvision.wording import counted, size_text

# ---------------------------------------------------------------------------------- plan

PLANNED = Plan(
    rows=RowCounts(total=2000, done=1500, to_do=480, failed_before=30, retried=20, failed_kept=10, invalid=10),
    images=ImageCounts(
        count=490,
        bytes=3_100_000,
        to_convert=40,
        by_format=Counter(jpeg=450, webp=40),
        by_side=Counter({None: 9, 512: 1_481}),
    ),
    cost=RequestTotals(
        requests=470,
        tokens=900_000,
        output_tokens=100_000,
        cached_tokens=400_000,
        likely_ticks=TICKS_PER_USD,
        bound_ticks=TICKS_PER_USD * 3,
    ),
    reasons=[("A-1", "it has no image (column 'image')")],
    requests_shown=[],
    recipe_id="0" * 32,
    lane=Lane.DEFERRED,
    prices=PriceQuote(None, "the provider's list"),
    seconds={Lane.ONLINE: 48.0, Lane.DEFERRED: 96.0},
    price_warning="the prices are of 2026-01-01",
)


def test_a_plan_shows_rows_images_requests_cost_and_time() -> None:
    assert list(plan_lines(PLANNED)) == [
        "rows      2,000 in the manifest: 1,500 done, 480 to do (20 of them failed before), "
        "10 failed before and left alone, 10 invalid",
        "images    490 (450 jpeg, 40 webp), 3.1 MB; 40 will be converted",
        "          1,481 up to 512 px, 9 larger",
        "requests  470 (10 rows share the answer of another), about 800,000 tokens in prompts "
        "(50% of the prompts from the cache) and 100,000 in answers",
        "cost      about $1.00 by the provider's list, at most $3.00",
        "          the prices are of 2026-01-01",
        "time      1m 36s deferred, 48s online at the job's own limits",
        "disk      about 34.4 MB, the journal included",
        "invalid   A-1: it has no image (column 'image')",
        "          and 9 more",
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"cost": RequestTotals(tokens=1, likely_ticks=None, bound_ticks=None)},
            "cost      not known: give [provider] prices",
        ),
        ({"cost": RequestTotals(tokens=1, likely_ticks=5, bound_ticks=None)}, "no upper bound without max_tokens"),
        ({"rows": RowCounts(total=3, done=3)}, "cost      nothing"),
        ({"changes": Changes(kept=7)}, "7 rows are done under another recipe: see --on-recipe-change"),
        (
            {"rows": RowCounts(total=9, awaiting=2, held=3, left=4)},
            "2 waiting for a ticket, 3 on hold, 4 left to a later",
        ),
        ({"requests_shown": [{"row_id": "A-1", "body": {"model": "m"}}]}, '"model": "m"'),
    ],
)
def test_a_plan_shows_unusual_counts(change: dict[str, object], says: str) -> None:
    assert says in "\n".join(plan_lines(replace(PLANNED, **change)))  # type: ignore[arg-type]


def of_ticks(usd: float, share: float) -> Interval:
    value = usd * TICKS_PER_USD
    return Interval(2000, 20, value / 100, value, value * (1 - share), value * (1 + share))


PILOTED = Pilot(
    PLANNED,
    requests=2000,
    wanted=20,
    ended=20,
    sent=18,
    spent_ticks=TICKS_PER_USD // 50,
    cost=of_ticks(2, 0.1),
    tokens=Interval(2000, 20, 1, 1_000_000, 900_000, 1_100_000),
    latency_seconds=3.0,
    compared=[
        Compared("detail=high (the job's own)", True, 20, 0, of_ticks(2, 0.1), None, None),
        Compared("detail=low", False, 20, 1, of_ticks(1, 0.1), None, Agreement(20, 17, 0.954)),
    ],
)


def test_a_pilot_shows_the_cost_of_all_rows_and_its_interval() -> None:
    assert list(pilot_lines(PILOTED, 100)) == [
        "pilot     20 of 20 rows asked, of 2,000 requests in all; 18 requests sent now for $0.0200",
        "          all of them cost $2.00; 95% sure: $1.80 to $2.20 (±10.0%)",
        "          1,000,000 tokens; 95% sure: 900,000 to 1,100,000 (±10.0%)",
        "          about 1m 36s at the pilot's pace (3 s an answer)",
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cost": of_ticks(2, 0.3)}, "that is wide: about 80 rows would make it ±15%: --pilot 80 asks 60 more"),
        ({"cost": None}, "what all of them cost is not known"),
        ({"sent": 0}, "nothing sent now"),
        ({"wanted": 0}, "nothing to ask"),
        ({"cost": Interval(20, 20, 9, 1e10, 1e10, 1e10)}, "all of them cost $1.00: all were asked"),
    ],
)
def test_a_pilot_shows_why_it_has_no_estimate(change: dict[str, object], says: str) -> None:
    assert says in "\n".join(pilot_lines(replace(PILOTED, **change), 100))  # type: ignore[arg-type]


def test_a_sweep_shows_cost_beside_agreement() -> None:
    own, low = sweep_rows(PILOTED)

    assert own == ("detail=high (the job's own)", "20", "$2.00", "$1.80 to $2.20", "?", "100%", "", "")
    assert low == ("detail=low", "20 (1 failed)", "$1.00", "$0.900 to $1.10", "?", "50%", "17 of 20", "95%")


def test_the_document_of_a_pilot_has_its_interval() -> None:
    document = PILOTED.document()

    assert document["cost_usd"] == {"expected": 2.0, "low": 1.8, "high": 2.2, "source": "pilot"}
    assert document["pilot"]["rows"] == 20
    assert document["pilot"]["cost_usd"] == 0.02
    assert document["pilot"]["sweep"][1]["agreement"] == {"rows": 20, "same": 17, "alike": 0.954}


@pytest.mark.parametrize(("size", "text"), [(81, "81 bytes"), (14_200, "14.2 KB"), (3_100_000, "3.1 MB")])
def test_sizes_read_as_people_say_them(size: int, text: str) -> None:
    assert size_text(size) == text


# ---------------------------------------------------------------------------------- status


def _spent() -> Spending:
    spending = Spending()
    spending.add(Kind("ok", None, "grok-4.3", "2026-11-20"), Sum(11, TICKS_PER_USD * 9 // 10, 0))
    spending.add(Kind("retried", "empty", "grok-4.6", "2026-11-21"), Sum(1, TICKS_PER_USD // 10, 0))
    spending.add(Kind("ambiguous", "interrupted", None, "2026-11-21"), Sum(1, 0, TICKS_PER_USD // 10))
    return spending


SEEN = OutputStatus(
    output=Path("out"),
    latest=None,
    answers=12,
    rows_answered=10,
    failures=(FailureKind("refused", 2, "reword the prompt", "r1", "I cannot help"),),
    rows_quarantined=1,
    spending=_spent(),
    tokens=TokenCounts(1000, 400, 0, 90, 10),
    projected_ticks=TICKS_PER_USD * 2,
    unclear=(AmbiguousAttempt("A-1", "ambiguous", TICKS_PER_USD // 10, "r1"),),
    in_flight=3,
    tickets_open=4,
    rows_held=5,
    at=datetime(2026, 11, 21, 12, tzinfo=UTC),
    oldest_ticket_at=datetime(2026, 11, 21, 9, 55, tzinfo=UTC),
)


def test_a_status_shows_rows_cost_and_open_requests() -> None:
    assert list(status_lines(SEEN)) == [
        "out",
        "  answers   10 rows (2 older answers kept)",
        "  failed    2 refused, as row r1: I cannot help",
        "            reword the prompt",
        "  set aside 1 of the failed rows (--retry-quarantined)",
        '  on hold   5 rows that a crash cut short (ambiguous = "retry" sends them again)',
        "  tickets   4 open, the oldest for 2h 05m: batchvision run collects their answers",
        "  in flight 3 requests of a run that was cut off: run again to go on",
        "  spent     $1.00, about $2.00 when all rows are done",
        "            1 attempts ambiguous: $0.00, perhaps up to $0.100",
        "            11 attempts ok: $0.900",
        "            1 attempts retried: $0.100",
        "  wasted    $0.100: $0.100 retried",
        "  by model  grok-4.3: $0.900 for 11 attempts",
        "            grok-4.6: $0.100 for 1 attempts",
        "  by day    2026-11-20: $0.900 for 11 attempts",
        "            2026-11-21: $0.100 for 2 attempts",
        "  tokens    1,000 in prompts, 40% of them from the cache",
        "  unclear   row A-1: ambiguous, at most $0.100",
        "  last run  none has ended yet",
    ]


def test_a_quiet_output_has_a_short_status() -> None:
    quiet = replace(
        SEEN,
        answers=10,
        failures=(),
        rows_quarantined=0,
        spending=Spending(),
        tokens=TokenCounts(),
        projected_ticks=None,
        unclear=(),
        in_flight=0,
        tickets_open=0,
        rows_held=0,
    )
    assert list(status_lines(quiet)) == [
        "out",
        "  answers   10 rows",
        "  spent     $0.00",
        "  last run  none has ended yet",
    ]


# ---------------------------------------------------------------------------------- show


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "yes"),
        (False, "no"),
        (["a", None, 3], "a, , 3"),
        (Decimal("0.001798000"), "0.001798"),
        (datetime(2026, 11, 20, 8, tzinfo=UTC), "2026-11-20T08:00:00+00:00"),
        (12, "12"),
    ],
)
def test_a_cell_is_written_for_a_person(value: object, text: str) -> None:
    assert cell_text(value) == text


def test_csv_quotes_text_escapes_formulas_and_leaves_numbers() -> None:
    cells = ["a,b", 'say "x"', "-5", -5, None, ["=x"], Decimal("-0.000000001"), "line\nbreak"]
    assert csv_line(plain(cell) for cell in cells) == (
        '"a,b","say ""x""",\'-5,-5,,"[""=x""]",-0.000000001,"line\nbreak"\n'
    )


def test_a_json_line_is_one_line_with_its_value_kept() -> None:
    record = {"text": "first\nsecond \u2028 \x1b \u202e é"}
    line = json_line(record)
    assert line.count("\n") == 1
    assert "é" in line
    assert not {"\x1b", "\u202e", "\u2028"} & set(line)
    assert json.loads(line) == record


def test_a_document_is_indented_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_document({"a": 1, "at": Path("x")})
    assert json.loads(capsys.readouterr().out) == {"a": 1, "at": "x"}


# ---------------------------------------------------------------------------------- the others


def test_config_is_flattened_to_dotted_keys() -> None:
    document = {"name": "n", "limits": {"max_attempts": 3}, "provider": {"parameters": {}, "prices": {"input": None}}}
    assert dict(flat(document)) == {
        "name": "n",
        "limits.max_attempts": 3,
        "provider.parameters": {},
        "provider.prices.input": None,
    }


def test_a_model_without_facts_is_listed_by_name() -> None:
    assert _cells(ModelListing("m")) == ["m", "", *["-"] * 7]
    document = _document(ModelListing("m"))
    assert document["prices"] is None


def test_a_model_with_facts_shows_them() -> None:
    prices = Prices(TICKS_PER_USD * 5 // 4, TICKS_PER_USD // 5, TICKS_PER_USD * 5 // 2)
    model = ModelListing("m", ("latest",), prices, True, context_tokens=256_000, max_output_tokens=8_000)
    assert _cells(model) == ["m", "latest", "$1.25", "$0.200", "$2.50", "-", "-", "256,000", "8,000"]
    long = replace(prices, image_ticks=TICKS_PER_USD // 100, long_context_tokens=200_000)
    assert _cells(model._replace(prices=long))[5:7] == ["$0.0100", "$2.50 from 200k"]
    assert _document(model)["takes_images"] is True


@pytest.mark.parametrize(("text", "expected"), [(None, (0, 1)), ("0/4", (0, 4)), ("3/4", (3, 4))])
def test_a_shard_is_counted_from_zero(text: str | None, expected: tuple[int, int]) -> None:
    assert shard_of(text, {"JOB_COMPLETION_INDEX": "2"}) == expected


@pytest.mark.parametrize("text", ["4/4", "1", "a/b", "-1/4", "1/", "auto", "auto/0", "auto/x"])
def test_an_invalid_shard_names_the_valid_form(text: str) -> None:
    with pytest.raises(click.UsageError, match="--shard 0/4"):
        shard_of(text, {"JOB_COMPLETION_INDEX": "0"})


@pytest.mark.parametrize(
    "environ",
    [
        {"JOB_COMPLETION_INDEX": "2"},
        {"SLURM_ARRAY_TASK_ID": "2"},
        {"SLURM_ARRAY_TASK_ID": "12", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_COUNT": "7"},
        {"PARALLEL_SEQ": "3", "JOB_COMPLETION_INDEX": ""},
    ],
)
def test_the_index_of_a_job_array_counts_from_its_first_job_and_the_number_of_shards_is_typed(environ) -> None:
    assert shard_of("auto/4", environ) == (2, 4)


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, "none of JOB_COMPLETION_INDEX, SLURM_ARRAY_TASK_ID, PARALLEL_SEQ is set"),
        ({"JOB_COMPLETION_INDEX": "1", "PARALLEL_SEQ": "1"}, "are both set"),
        ({"SLURM_ARRAY_TASK_ID": "x"}, "is no index"),
        ({"JOB_COMPLETION_INDEX": "4"}, "the last shard is 3"),
        ({"PARALLEL_SEQ": "0"}, "the index -1 from 0"),
    ],
)
def test_a_job_array_without_a_usable_index_is_refused_with_the_reason(environ, words: str) -> None:
    with pytest.raises(click.UsageError, match=words):
        shard_of("auto/4", environ)


@pytest.mark.parametrize(
    ("retry", "no_retry", "expected"),
    [
        (None, False, ()),
        ("all", False, ("limits.retry_failed=all",)),
        ("refused,empty", False, ("limits.retry_failed=refused,empty",)),
        (None, True, ("limits.retry_failed=none",)),
    ],
)
def test_retrying_is_a_key_of_the_job(retry: str | None, no_retry: bool, expected: tuple[str, ...]) -> None:
    assert _retry_setting({"retry_failed": retry, "no_retry_failed": no_retry}) == expected


def test_an_output_is_named_from_where_the_user_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert from_here(tmp_path / "out") == Path("out")
    assert from_here(Path("/elsewhere/out")) == Path("/elsewhere/out")
    assert from_here(tmp_path / "jobs" / ".." / "out") == Path("out")
    assert from_here(tmp_path / ".." / "out") == tmp_path.parent / "out"
    assert output_of("some/folder") == Path("some/folder")


def test_the_way_back_out_of_a_linked_folder_leads_to_where_the_link_points(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere" / "jobs").mkdir(parents=True)
    (tmp_path / "jobs").symlink_to(tmp_path / "elsewhere" / "jobs")
    assert from_here(tmp_path / "jobs" / ".." / "out") == Path("elsewhere", "out")


def test_a_demo_without_requests_gives_the_reason() -> None:
    folder, job = Path("out/demo"), Path("out/demo/demo.toml")
    assert "nothing was sent" in closing(folder, job, 0)[0]
    assert not any("nothing was sent" in line for line in closing(folder, job, 9))
    assert "  batchvision run out/demo/demo.toml --provider xai --out out/real" in closing(folder, job, 9)


def test_warnings_are_lines_in_the_runs_style() -> None:
    record = logging.LogRecord("batchvision", logging.WARNING, "", 0, "held \x1b[2J by %s", ("host",), None)
    assert plain_text(record) == "warning: held \\x1b[2J by host"
    document = json.loads(json_text(record))
    assert document.pop("time").endswith("+00:00")
    assert document == {"event": "log", "level": "warning", "message": "held \x1b[2J by host"}


def test_a_line_beside_the_progress_is_a_whole_line(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    say("first", sys.stderr)
    say("second", sys.stderr)
    assert capsys.readouterr().err == "first\nsecond\n"


def test_one_is_counted_without_an_s() -> None:
    assert [counted(1, "request"), counted(2000, "request")] == ["1 request", "2,000 requests"]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_and_a_line_in_the_list(name: str) -> None:
    from batchvision.cli import group

    command = group.get_command(click.Context(group), name)
    assert command is not None
    assert command.help
    assert COMMANDS[name].help.endswith(".")
    assert len(COMMANDS[name].help) <= 64
