"""Warnings about a job before its run begins."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

from batchvision.job import Job
from batchvision.money import PriceQuote


def price_warning(job: Job, quoted: PriceQuote, now: datetime) -> str | None:
    """Warn about old prices if a cap depends on them."""
    limits = job.limits
    caps = (
        limits.max_cost_usd,
        limits.max_cost_usd_per_run,
        limits.max_cost_usd_per_day,
        limits.max_cost_usd_per_month,
    )
    return None if caps == (None,) * len(caps) else quoted.warning(now.date(), job)


def fallback_warning(job: Job) -> str | None:
    """Warn about a fallback that is not one of the labels: the model is never offered it."""
    fallback, labels = job.answer.labels_fallback, job.recipe.answer.labels
    if fallback is None or fallback in {label.value for label in labels}:
        return None
    return (
        f"answer.labels_fallback {fallback!r} is none of the labels, so the model is not offered it; answers that name "
        f"no label fail as invalid_answer. Add {fallback!r} to the labels to let the model say that none fits"
    )


#: The name of a column in single braces; neither JSON nor doubled braces match.
_PLACEHOLDER = re.compile(r"(?<!\{)\{\w[\w:.-]*\}(?!\})")


def system_warning(job: Job) -> str | None:
    """Warn about a system prompt that looks like a template: it is sent verbatim for all rows."""
    found = sorted(set(_PLACEHOLDER.findall(job.recipe.system or "")))
    if not found:
        return None
    shown = ", ".join(found[:3])
    return (
        f"prompt.system is sent as it stands: {shown} in it is not replaced by a cell. Move it to prompt.user, which "
        "may read the columns of the manifest"
    )


def warnings_of(job: Job, quoted: PriceQuote, now: datetime) -> Iterator[str]:
    """The warnings about a job, for the log."""
    for said in (price_warning(job, quoted, now), fallback_warning(job), system_warning(job)):
        if said is not None:
            yield said
