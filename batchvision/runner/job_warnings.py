"""Warnings about a job before its run begins."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

from batchvision.job import Job
from batchvision.money import PriceQuote


def price_warning(job: Job, quoted: PriceQuote, now: datetime) -> str | None:
    """Where a cap is kept by prices that are old; elsewhere nothing hangs on them."""
    limits = job.limits
    caps = (
        limits.max_cost_usd,
        limits.max_cost_usd_per_run,
        limits.max_cost_usd_per_day,
        limits.max_cost_usd_per_month,
    )
    return None if caps == (None,) * len(caps) else quoted.warning(now.date(), job)


def fallback_warning(job: Job) -> str | None:
    """Where the fallback is none of the labels, and so is never offered to the model."""
    fallback, labels = job.answer.labels_fallback, job.recipe.answer.labels
    if fallback is None or fallback in {label.value for label in labels}:
        return None
    return (
        f"answer.labels_fallback {fallback!r} is none of the labels, so the model is not offered it; answers that name "
        f"no label fail as invalid_answer. Add {fallback!r} to the labels to let the model say that none fits"
    )


#: A column's name in single braces; JSON and doubled braces are none.
_PLACEHOLDER = re.compile(r"(?<!\{)\{\w[\w:.-]*\}(?!\})")


def system_warning(job: Job) -> str | None:
    """Where the system prompt looks like a template: it is the same for all rows and is sent as it stands."""
    found = sorted(set(_PLACEHOLDER.findall(job.recipe.system or "")))
    if not found:
        return None
    shown = ", ".join(found[:3])
    return (
        f"prompt.system is sent as it stands: {shown} in it is not replaced by a cell. Move it to prompt.user, which "
        "may read the columns of the manifest"
    )


def warnings_of(job: Job, quoted: PriceQuote, now: datetime) -> Iterator[str]:
    """What a run says of its job before it begins."""
    for said in (price_warning(job, quoted, now), fallback_warning(job), system_warning(job)):
        if said is not None:
            yield said
