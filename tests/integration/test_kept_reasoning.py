"""The column ``reasoning_text``: thoughts that the model shows, kept where the job asks for them."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from fake_provider import Asked, FakeProvider, Reply, chat

from batchvision.commands.reparse import reparse
from batchvision.errors import JobInvalid

LABELS = {"labels": ["shoe", "bag"]}


def thinking(asked: Asked) -> Reply:
    """r0 thinks beside its content, r1 in it, r2 not at all."""
    document: dict[str, Any] = chat('{"label": "shoe"}')
    message = document["choices"][0]["message"]
    if asked.row == "r0":
        message["reasoning_content"] = "It has heels."
    elif asked.row == "r1":
        message["content"] = '<think>A strap? No.</think>{"label": "shoe"}'
    return Reply(200, document)


def reasoning_of(job_runs) -> dict[str, str | None]:
    return {row["row_id"]: row["reasoning_text"] for row in job_runs.table("results")}


def test_exposed_thoughts_are_kept_where_the_job_asks_for_them(job_runs):
    job_runs.rows(3)
    job_runs.settings["answer"] = LABELS
    job_runs.run(FakeProvider(thinking), output__keep_reasoning=True)
    assert reasoning_of(job_runs) == {"r0": "It has heels.", "r1": "A strap? No.", "r2": None}
    assert {row["answer_label"] for row in job_runs.table("results")} == {"shoe"}
    assert list(job_runs.table("results")[0])[-2:] == ["answer_label", "reasoning_text"]


def test_no_column_is_made_where_nobody_asks_and_turning_it_on_asks_nothing_again(job_runs):
    job_runs.rows(2)
    job_runs.settings["answer"] = LABELS
    job_runs.run(FakeProvider(thinking))
    assert "reasoning_text" not in job_runs.table("results")[0]

    job_runs.rows(3)
    summary = job_runs.run(FakeProvider(thinking), output__keep_reasoning=True)
    assert (summary.requests_sent, summary.rows_completed) == (1, 3)
    assert reasoning_of(job_runs) == {"r0": None, "r1": None, "r2": None}, "older parts are padded"


def test_reparse_fills_the_column_from_the_stored_answers(job_runs):
    job_runs.rows(3)
    job_runs.settings["answer"] = LABELS
    job_runs.run(FakeProvider(thinking))
    job_runs.settings["answer"] = {"labels": ["shoe", "bag", "hat"]}
    job_runs.settings["output"] = {"path": "out", "keep_reasoning": True}
    assert anyio.run(reparse, job_runs.job()).published == 3
    kept = [row["reasoning_text"] for row in job_runs.table("results") if row["reasoning_text"]]
    assert sorted(kept) == ["A strap? No.", "It has heels."]


def test_a_plain_text_job_keeps_the_text_verbatim_and_the_thoughts_beside_it(job_runs):
    job_runs.rows(1)
    said = "<think>A strap?</think>\n**A shoe.**"
    job_runs.run(FakeProvider(lambda asked: Reply(200, chat(said))), output__keep_reasoning=True)
    (row,) = job_runs.table("results")
    assert (row["output_text"], row["reasoning_text"]) == (said, "A strap?")


def test_a_kept_column_of_that_name_is_a_problem_only_then(job_runs):
    job_runs.settings["manifest"]["keep"] = {"reasoning_text": "title"}
    job_runs.rows(1)
    job_runs.job()
    with pytest.raises(JobInvalid, match=r"reasoning_text .* is already the column of output.keep_reasoning"):
        job_runs.job(output__keep_reasoning=True)
