"""The closing lines of a run name failures, cost and the next command."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from batchvision.cli.closing import ADVICE, Typed, closing_lines, next_steps
from batchvision.errors import PAID_FAILURES, ROW_FAULTS
from batchvision.records import TICKS_PER_USD, RunSummary

OUT = Path("out/captions")
TYPED = Typed(
    again="batchvision run jobs/caption.toml",
    check="batchvision check jobs/caption.toml",
    reparse="batchvision reparse jobs/caption.toml",
)
DONE = RunSummary(
    run_id="r1",
    job="captions",
    recipe_id="0" * 32,
    manifest="photos.csv",
    rows_total=2000,
    rows_completed=2000,
    rows_failed=0,
    rows_pending=0,
    rows_ambiguous=0,
    rows_quarantined=0,
    tickets_open=0,
    requests_sent=2003,
    retries=3,
    failures_by_kind={},
    prompt_tokens=1,
    completion_tokens=1,
    reasoning_tokens=0,
    image_tokens=0,
    cached_tokens=0,
    cost_usd=1.81,
    cost_ticks=TICKS_PER_USD * 181 // 100,
    ambiguous_ticks=0,
    started_at="2026-11-20T00:00:00Z",
    finished_at="2026-11-20T00:03:20Z",
    duration_seconds=200.0,
    stop_reason=None,
    exit_code=0,
    parts=(),
    versions={},
    config={},
)


def test_every_kind_of_failure_has_its_advice() -> None:
    assert ADVICE.keys() == ROW_FAULTS.keys()


#: Causes of a kind, and a word of what helps with each.
CAUSES = [
    ("image_too_large", "a gateway's 413", r"max_bytes"),
    ("image_too_large", "the provider's own limit of pixels", r"max_side"),
    ("image_too_large", "more than max_pixels", r"scale the images down"),
    ("request_rejected", "a wrong parameter", r"correct the job"),
    ("request_rejected", "a firewall refuses one row", r"the rows that a firewall"),
    ("attempts_exhausted", "the provider was down", r"run again later"),
    ("attempts_exhausted", "timeouts", r"request_timeout_seconds"),
    ("context_too_long", "a long prompt", r"shorten the prompt"),
    ("context_too_long", "large images", r"smaller images"),
    ("image_forbidden", "outside the root", r"\[manifest\] root"),
    ("image_forbidden", "a private address", r"allow_private_hosts"),
]


@pytest.mark.parametrize(("kind", "cause", "helps"), CAUSES)
def test_the_advice_of_a_kind_fits_each_of_its_causes(kind: str, cause: str, helps: str) -> None:
    assert re.search(helps, ADVICE[kind]), f"{kind}: nothing helps with {cause}"


@pytest.mark.parametrize(
    ("stop_reason", "when"),
    [
        ("provider_unavailable", "when the provider answers again"),
        ("quota_reached", "when the quota is whole again"),
        ("too_many_open_files", "after `ulimit -n 4096`"),
    ],
)
def test_after_a_temporary_stop_the_next_step_names_the_time(stop_reason: str, when: str) -> None:
    steps = next_steps(replace(DONE, exit_code=4, stop_reason=stop_reason), OUT, TYPED)
    assert steps == [f"{TYPED.again}   ({when})"]


def test_a_complete_run_shows_rows_cost_and_folder_and_no_next_step() -> None:
    assert closing_lines(DONE, OUT, TYPED) == [
        "captions: 2,000 of 2,000 rows have answers",
        "  answers   out/captions/results   (batchvision show out/captions)",
        "  cost      $1.81 for 2,003 requests, 3 of them again, in 3m 20s",
    ]


def test_a_run_with_nothing_to_do_spends_nothing() -> None:
    words = "\n".join(closing_lines(replace(DONE, requests_sent=0, cost_ticks=0, duration_seconds=0.2), OUT, TYPED))
    assert "nothing sent, nothing spent" in words


def test_failures_are_listed_by_kind_with_advice() -> None:
    failed = replace(
        DONE,
        rows_completed=1940,
        rows_failed=60,
        failures_by_kind={"request_rejected": 50, "image_unreadable": 10},
        exit_code=3,
    )
    lines = closing_lines(failed, OUT, TYPED)
    assert lines[0] == "captions: 1,940 of 2,000 rows have answers, 60 failed"
    assert lines[3].startswith("  failed    50 request_rejected: ")
    assert lines[4].startswith("  failed    10 image_unreadable: ")
    assert lines[-2:] == [
        "  next      batchvision show out/captions --status failed",
        "            batchvision run jobs/caption.toml   (asks failed rows again, except those with a paid answer)",
    ]


@pytest.mark.parametrize(
    ("exit_code", "stop_reason", "expected"),
    [
        (0, None, []),
        (3, None, [TYPED.again]),
        (4, "deadline_reached", [TYPED.again]),
        (4, "too_many_failures", ["batchvision show out/captions --status failed", TYPED.again]),
        (
            4,
            "accuracy_too_low",
            [
                "batchvision report out/captions   (shows the wrong rows)",
                f"{TYPED.again}   (after a change of the prompt)",
            ],
        ),
        (5, "authentication_failed", [f"{TYPED.check}   (then: {TYPED.again})"]),
        (6, None, [TYPED.again]),
        (7, "disk_failed", [f"{TYPED.again}   (after making sure that out/captions can be written)"]),
        (130, None, [TYPED.again]),
    ],
)
def test_each_exit_code_has_its_next_command(exit_code: int, stop_reason: str | None, expected: list[str]) -> None:
    summary = replace(DONE, exit_code=exit_code, stop_reason=stop_reason)
    assert next_steps(summary, OUT, TYPED) == expected


SHOW = "batchvision show out/captions --status failed"
RUN = "batchvision run jobs/caption.toml"
AGAIN = f"{RUN}   (asks failed rows again, except those with a paid answer)"
REPARSE = (
    "batchvision reparse jobs/caption.toml   (after a change of [answer]: reads the stored answers again, for nothing)"
)


@pytest.mark.parametrize(
    ("kinds", "quarantined", "expected"),
    [
        ({"image_unreadable": 2}, 0, [SHOW, AGAIN]),
        ({"image_unreadable": 2}, 2, [SHOW]),
        ({"truncated": 7}, 0, [SHOW]),
        ({"invalid_answer": 7}, 0, [SHOW, REPARSE]),
        ({"refused": 1}, 0, [SHOW, f"{RUN} --retry-failed=refused   (asks 1 row again, and pays again)"]),
        (
            {"attempts_exhausted": 1, "invalid_answer": 3, "lost_after_read": 2, "refused": 4, "truncated": 5},
            0,
            [
                SHOW,
                AGAIN,
                REPARSE,
                f"{RUN} --retry-failed=refused,lost_after_read   (asks 6 rows again, and pays again)",
            ],
        ),
    ],
)
def test_the_next_command_fits_the_failures_at_hand(
    kinds: dict[str, int], quarantined: int, expected: list[str]
) -> None:
    summary = replace(
        DONE, exit_code=3, rows_failed=sum(kinds.values()), rows_quarantined=quarantined, failures_by_kind=kinds
    )
    assert next_steps(summary, OUT, TYPED) == expected


@pytest.mark.parametrize("kind", sorted(PAID_FAILURES))
def test_no_hint_buys_all_paid_failures_again(kind: str) -> None:
    summary = replace(DONE, exit_code=3, rows_failed=2, failures_by_kind={kind: 1, "expired": 1})
    words = " ".join([*closing_lines(summary, OUT, TYPED), *next_steps(summary, OUT, TYPED)])
    assert not re.search(r"--retry-failed(?!=)", words)


@pytest.mark.parametrize(
    ("setting", "steps"),
    [("none", [SHOW]), ("all", [SHOW, f"{RUN}   (asks failed rows again, as limits.retry_failed says)"])],
)
def test_the_next_step_follows_the_retry_setting_of_the_job(setting: str, steps: list[str]) -> None:
    config = {"limits": {"retry_failed": setting}}
    summary = replace(DONE, exit_code=3, rows_failed=1, failures_by_kind={"truncated": 1}, config=config)
    assert next_steps(summary, OUT, TYPED) == steps


def test_rows_on_hold_name_the_flag_that_sends_them_again() -> None:
    config = {"limits": {"ambiguous": "hold"}}
    summary = replace(DONE, exit_code=3, rows_completed=1997, rows_pending=3, config=config)
    assert next_steps(summary, OUT, TYPED) == [
        f"{RUN} --ambiguous retry   (sends 3 rows again that may have been billed)"
    ]


def test_a_reached_cap_proposes_one_that_covers_the_rest() -> None:
    summary = replace(
        DONE,
        exit_code=4,
        stop_reason="spend_cap_reached",
        rows_completed=100,
        rows_pending=1900,
        cost_usd=1.0,
        config={"limits": {"max_cost_usd": 1.0}},
    )
    (step,) = next_steps(summary, OUT, TYPED)
    assert step == "batchvision run jobs/caption.toml --max-cost-usd 23.80"


@pytest.mark.parametrize(
    ("key", "step"),
    [
        ("max_cost_usd_per_run", "batchvision run jobs/caption.toml --max-cost-usd-per-run 23.80"),
        ("max_cost_usd_per_day", "batchvision run jobs/caption.toml   (when the day is over)"),
        ("max_cost_usd_per_month", "batchvision run jobs/caption.toml   (when the month is over)"),
    ],
)
def test_each_cap_has_its_own_next_step(key: str, step: str) -> None:
    summary = replace(
        DONE,
        exit_code=4,
        stop_reason="spend_cap_reached",
        stop_key=f"limits.{key}",
        rows_completed=100,
        rows_pending=1900,
        cost_usd=1.0,
        config={"limits": {key: 1.0}},
    )
    assert next_steps(summary, OUT, TYPED) == [step]


def test_cached_tokens_and_waste_are_shown() -> None:
    wasted = {"retried": {"attempts": 3, "cost_ticks": TICKS_PER_USD // 100, "bound_ticks": 0}}
    summary = replace(DONE, prompt_tokens=1000, cached_tokens=250, spent={"wasted": wasted})
    lines = closing_lines(summary, OUT, TYPED)
    assert "  tokens    1,000 in prompts, 25% of them from the cache" in lines
    assert "  wasted    $0.0100 of it: $0.0100 retried" in lines


def test_the_stop_message_is_shown_line_by_line() -> None:
    summary = replace(
        DONE, exit_code=5, stop_reason="authentication_failed", message="The key is refused.\nSet it again."
    )
    lines = closing_lines(summary, OUT, TYPED)
    assert lines[1:3] == ["  stopped   The key is refused.", "            Set it again."]


def test_an_interrupted_run_shows_that_nothing_is_lost() -> None:
    summary = replace(DONE, exit_code=130, stop_reason="interrupted", message="SIGINT", rows_pending=5)
    words = "\n".join(closing_lines(summary, OUT, TYPED))
    assert "stopped   SIGINT: nothing more was sent, what was in flight was waited for" in words
    assert "5 still to do" in words


def test_ambiguous_rows_and_open_tickets_are_shown() -> None:
    summary = replace(DONE, rows_ambiguous=2, ambiguous_ticks=TICKS_PER_USD, tickets_open=7, rows_quarantined=1)
    words = "\n".join(closing_lines(summary, OUT, TYPED))
    assert "2 rows may have been billed without an answer, at most $1.00" in words
    assert "7 answers are still with the provider" in words
    assert "--retry-quarantined" in words
