"""The settings of a sweep: the job with other values of its recipe, asked for the rows of the pilot.

Only settings of the recipe can be swept. Provider, URL, key and caps stay those of the job.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import product

from batchvision.commands.pilot.agreement import Agreement
from batchvision.commands.pilot.interval import Interval
from batchvision.errors import JobInvalid
from batchvision.job import Job
from batchvision.records import TICKS_PER_USD
from batchvision.ticks import usd_to_ticks

#: Makes the job with other values of these keys.
Remake = Callable[[Mapping[str, object]], Job]

SHORT_NAMES: Mapping[str, str] = {
    "detail": "provider.detail",
    "model": "provider.model",
    "max_side": "images.max_side",
    "max_bytes": "images.max_bytes",
}
_SWEPT = re.compile(r"(provider\.(detail|model|parameters\.\w+)|images\.(max_side|max_bytes|strip_metadata))")
#: Each setting is paid for, so their number is limited.
MOST_SETTINGS = 32


@dataclass(frozen=True, slots=True)
class Setting:
    """``name`` is the setting as typed, ``detail=low max_side=512``. ``overrides`` are dotted keys of the job."""

    name: str
    overrides: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Compared:
    """The results of one setting. ``rows`` ended, ``unanswered`` of them failed."""

    name: str
    is_own: bool
    rows: int
    unanswered: int
    cost: Interval | None
    tokens: Interval | None
    agreement: Agreement | None


def settings(sweeps: Iterable[str]) -> tuple[Setting, ...]:
    """Parse ``detail=low,high`` and ``max_side=512,1024`` into their four combinations. Raises JobInvalid."""
    axes: dict[str, list[tuple[str, str]]] = {}
    for sweep in sweeps:
        name, equals, values = (part.strip() for part in sweep.partition("="))
        key = SHORT_NAMES.get(name, name)
        given = [value.strip() for value in values.split(",") if value.strip()]
        if not equals or not given:
            raise JobInvalid(f"--sweep takes KEY=VALUE,VALUE, e.g. --sweep detail=low,high; got {sweep!r}")
        if not _SWEPT.fullmatch(key):
            raise JobInvalid(
                f"{name} cannot be swept: there are {', '.join(SHORT_NAMES)}, images.strip_metadata and "
                "provider.parameters.NAME"
            )
        axes.setdefault(key, []).extend((f"{name}={value}", value) for value in given)
    if not axes:
        return ()
    found = [
        Setting(" ".join(name for name, _ in chosen), dict(zip(axes, (value for _, value in chosen), strict=True)))
        for chosen in product(*axes.values())
    ]
    if len(found) > MOST_SETTINGS:
        raise JobInvalid(f"--sweep asks for {len(found)} settings, each of which is paid for: at most {MOST_SETTINGS}")
    return tuple(found)


def variants(job: Job, wanted: Iterable[Setting], remake: Remake) -> Iterator[tuple[Setting, Job]]:
    """The job under each setting. Settings with the same recipe are used once. Raises JobInvalid."""
    recipe_ids: set[str] = set()
    for setting in wanted:
        variant = remake(setting.overrides)
        if variant.output_path != job.output_path:
            raise RuntimeError("a setting of the sweep moved the output")
        if variant.recipe.recipe_id not in recipe_ids:
            recipe_ids.add(variant.recipe.recipe_id)
            yield setting, variant


def with_rest_of_cap(job: Job, setting: Setting, remake: Remake, spent_ticks: int) -> Job | None:
    """The variant with the rest of ``limits.max_cost_usd_per_run``, which covers pilot and sweep together.

    ``None`` if nothing is left.
    """
    overrides: dict[str, object] = {**setting.overrides, "delivery.lane": "online"}  # the pilot waits for the answers
    cap = job.limits.max_cost_usd_per_run
    if cap is not None:
        left = usd_to_ticks(cap) - spent_ticks
        if left <= 0:
            return None
        overrides["limits.max_cost_usd_per_run"] = str(Decimal(left) / TICKS_PER_USD)
    return remake(overrides)
