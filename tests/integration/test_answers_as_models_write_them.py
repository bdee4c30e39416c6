"""Runs with models that wrap their answers in other words, or say nothing in many forms."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from fake_provider import Asked, FakeProvider, Reply, chat

from batchvision.commands.reparse import reparse
from batchvision.commands.verify import verify
from batchvision.errors import ConnectionCut, InvalidAnswer
from batchvision.records import AnswerSpec, RunSummary
from batchvision.runner import classify as outcome

LABELS = {"labels": ["shoe", "bag", "other"], "labels_fallback": "other"}
SAID = {
    "r0": ('{"label": "Shoe"}', "shoe"),
    "r1": ("**shoe**.", "shoe"),
    "r2": ('<think>{"label": "bag"}?</think>\n{"label": "shoe"}', "shoe"),
    "r3": ('Here it is:\n```json\n{"label": "bag"}\n```\nAnything else?', "bag"),
    "r4": ('{"label": "other"}', "other"),
    "r5": ("Other.", "other"),
    "r6": ("a green tree", None),
    "r7": ('{"label": "shoehorn"}', None),
    "r8": ('<think>{"label": "bag"} or shoe', None),
    "r9": ("It is not a shoe.", None),
}


def saying(said: dict[str, Any]) -> FakeProvider:
    return FakeProvider(lambda asked: Reply(200, chat(said[asked.row][0])))


def labels_of(job_runs) -> dict[str, str]:
    return {row["row_id"]: row["answer_label"] for row in job_runs.table("results")}


def test_what_cannot_be_read_fails_and_the_summary_counts_the_fallbacks_that_the_model_chose(job_runs):
    job_runs.rows(len(SAID))
    job_runs.settings["answer"] = LABELS
    provider = saying(SAID)
    summary = job_runs.run(provider, limits__max_failed="100%")

    assert labels_of(job_runs) == {row: label for row, (_, label) in SAID.items() if label is not None}
    failed = {row["row_id"]: row["error_kind"] for row in job_runs.table("failures")}
    assert failed == {row: "invalid_answer" for row, (_, label) in SAID.items() if label is None}
    assert {row["row_id"]: row["last_output_text"] for row in job_runs.table("failures")} == {
        row: said for row, (said, label) in SAID.items() if label is None
    }
    assert summary.fallbacks == {"by_model": 2, "by_us": 0}
    assert (summary.exit_code, summary.requests_sent) == (3, len(SAID))
    assert all(provider.tries_of(row) == 1 for row in SAID)
    assert job_runs.run(saying(SAID)).requests_sent == 0, "an answer that cannot be read is paid, and not bought again"


def test_rows_that_share_an_answer_share_the_models_choice(job_runs):
    lines = [f"r{n},https://images.example/1.jpg,thing" for n in range(3)]
    (job_runs.folder / "photos.csv").write_text("\n".join(["sku,image,title", *lines]) + "\n")
    job_runs.settings |= {"answer": LABELS, "prompt": {"user": "Describe {title}"}}
    summary = job_runs.run(FakeProvider(lambda asked: Reply(200, chat("other"))))
    assert (summary.rows_completed, summary.requests_sent) == (3, 1)
    assert summary.fallbacks == {"by_model": 3, "by_us": 0}


def test_reparse_reads_stored_answers_by_the_rules_of_today(job_runs, monkeypatch):
    """Paid answers that an earlier version could not read."""

    def strictly(spec: AnswerSpec, text: str) -> Any:
        raise InvalidAnswer("the answer is not JSON")

    job_runs.rows(len(SAID))
    job_runs.settings["answer"] = LABELS
    with monkeypatch.context() as earlier:
        earlier.setattr(outcome, "check_answer", strictly)
        assert job_runs.run(saying(SAID), limits__max_failed="100%").rows_failed == len(SAID)

    reparsed = anyio.run(reparse, job_runs.job())
    assert reparsed.published == 6
    assert labels_of(job_runs) == {row: label for row, (_, label) in SAID.items() if label is not None}
    rerun = job_runs.run(saying(SAID), limits__max_failed="100%")
    assert (rerun.requests_sent, rerun.rows_completed, rerun.rows_failed) == (0, 6, 4)


USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "cost_in_usd_ticks": 1_000}
SILENT: dict[str, Any] = {
    "an empty text": chat(""),
    "blanks": chat(" \n"),
    "no width": chat("\u200b\u200b"),
    "null": chat(None),  # type: ignore[arg-type]  # as servers send it
    "no parts": chat([]),  # type: ignore[arg-type]
    "no message": {"choices": [{"finish_reason": "stop"}], "usage": USAGE},
    "a null message": {"choices": [{"message": None}], "usage": USAGE},
    "no choice": {"choices": [], "usage": USAGE},
    "null choices": {"choices": None, "usage": USAGE},
    "no choices at all": {"id": "chat-1", "usage": USAGE},
    "thoughts alone": {
        "choices": [{"message": {"content": None, "reasoning_content": "a shoe"}, "finish_reason": "stop"}],
        "usage": USAGE,
    },
}


@pytest.mark.parametrize("document", SILENT.values(), ids=SILENT.keys())
def test_a_paid_answer_that_says_nothing_is_bought_at_most_once_more(job_runs, document):
    job_runs.rows(2)
    provider = FakeProvider(lambda asked: Reply(200, document) if asked.row == "r1" else None)
    summary = job_runs.run(provider)
    assert provider.tries_of("r1") == 2
    assert [row["error_kind"] for row in job_runs.table("failures")] == ["empty"]
    assert summary.cost_ticks == provider.billed_ticks == 3_000


def test_nothing_said_in_another_form_each_time_is_still_bought_at_most_once_more(job_runs):
    forms = list(SILENT.values())
    job_runs.rows(len(forms))

    def script(asked: Asked) -> Reply:
        return Reply(200, forms[(int(asked.row[1:]) + asked.try_) % len(forms)])

    provider = FakeProvider(script)
    summary = job_runs.run(provider, limits__max_failed="100%")
    assert {provider.tries_of(f"r{number}") for number in range(len(forms))} == {2}
    assert summary.failures_by_kind == {"empty": len(forms)}


def test_an_answer_that_reached_max_tokens_is_never_read(job_runs):
    job_runs.rows(1)
    job_runs.settings["answer"] = LABELS
    summary = job_runs.run(FakeProvider(lambda asked: Reply(200, chat('{"label": "shoe"}', finish="length"))))
    assert summary.failures_by_kind == {"truncated": 1}
    assert job_runs.table("results") == []


def test_a_fallback_that_the_model_is_not_offered_is_told(job_runs, caplog):
    job_runs.rows(1)
    job_runs.settings["answer"] = {"labels": ["shoe", "bag"], "labels_fallback": "other"}
    summary: RunSummary = job_runs.run(FakeProvider(lambda asked: Reply(200, chat("none of them"))))
    assert "'other' is none of the labels" in caplog.text
    assert summary.failures_by_kind == {"invalid_answer": 1}


def test_a_rerun_does_not_buy_again_what_said_nothing_twice(job_runs):
    job_runs.rows(2)
    silent = FakeProvider(lambda asked: Reply(200, chat("")) if asked.row == "r1" else None)
    job_runs.run(silent)
    rerun = FakeProvider()
    assert job_runs.run(rerun).requests_sent == 0
    asked = job_runs.run(rerun, limits__retry_failed="empty")
    assert (asked.rows_completed, asked.rows_failed, rerun.tries_of("r1")) == (2, 0, 1)


def test_a_killed_run_does_not_forget_that_a_row_said_nothing(job_runs):
    """Its disk stops after the first empty answer is booked: the next run buys one more, and no third."""
    job_runs.rows(1)
    answers = iter([Reply(200, chat("")), ConnectionCut("cut")])
    first = job_runs.run(FakeProvider(lambda asked: next(answers)), limits__ambiguous="hold")
    assert (first.rows_pending, first.requests_sent) == (1, 2)
    second = FakeProvider(lambda asked: Reply(200, chat(" ")))
    summary = job_runs.run(second)
    assert (summary.requests_sent, summary.failures_by_kind) == (1, {"empty": 1})


def test_the_cost_that_a_gateway_tells_in_a_header_is_booked_and_verify_is_content(job_runs):
    job_runs.rows(3)
    job_runs.settings["provider"] = {"name": "openai", "model": "m", "api_key_env": "XAI_API_KEY"}

    def script(asked: Asked) -> Reply:
        document = chat("fine")
        del document["usage"]["cost_in_usd_ticks"]
        return Reply(200, document, {"x-litellm-response-cost": "0.000002" if asked.row != "r2" else "0.0"})

    summary = job_runs.run(FakeProvider(script))
    rows = {row["row_id"]: (row["cost_ticks"], row["cost_source"]) for row in job_runs.table("results")}
    assert rows == {"r0": (20_000, "reported"), "r1": (20_000, "reported"), "r2": (None, "unknown")}
    assert summary.cost_ticks == 40_000
    assert anyio.run(verify, job_runs.folder / "out").is_right
