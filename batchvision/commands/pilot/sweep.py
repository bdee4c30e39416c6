"""The settings of a sweep: the job with other values of its recipe, asked for the rows of the pilot.

Only settings of the recipe can be swept. Provider, URL, key and caps stay those of the job.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import product

from batchvision.accuracy import Decision, Proportion, RightRows, choose, wilson
from batchvision.commands.pilot.agreement import Agreement
from batchvision.commands.pilot.interval import Interval
from batchvision.errors import JobInvalid
from batchvision.job import Job
from batchvision.records import TICKS_PER_USD
from batchvision.ticks import usd_to_ticks

#: Makes the job with new values of these keys.
Remake = Callable[[Mapping[str, object]], Job]

SHORT_NAMES: Mapping[str, str] = {
    "detail": "provider.detail",
    "model": "provider.model",
    "max_side": "images.max_side",
    "max_bytes": "images.max_bytes",
    "user_file": "prompt.user_file",
    "system_file": "prompt.system_file",
    "schema": "answer.schema",
}
_SWEPT = re.compile(
    r"provider\.(detail|model|parameters\.\w+)|images\.(max_side|max_bytes|strip_metadata)"
    r"|prompt\.(user_file|system_file)|answer\.schema"
)
#: Keys of which a job has one: a swept file takes the place of the other ones.
_INSTEAD_OF: Mapping[str, tuple[str, ...]] = {
    "prompt.user_file": ("prompt.user", "prompt.column"),
    "prompt.system_file": ("prompt.system",),
}
#: Each setting is paid for, so their number is limited.
MOST_SETTINGS = 32


@dataclass(frozen=True, slots=True)
class Setting:
    """``name`` is the setting as typed, ``detail=low max_side=512``. ``overrides`` are dotted keys of the job.

    ``None`` removes a key of the job.
    """

    name: str
    overrides: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Compared:
    """The results of one setting. ``rows`` ended, ``unanswered`` of them failed.

    ``right``: of each row with a known answer in the same order; a row without an answer is not right.
    """

    name: str
    is_own: bool
    rows: int
    unanswered: int
    cost: Interval | None
    tokens: Interval | None
    agreement: Agreement | None
    right: tuple[bool, ...] = ()

    @property
    def accuracy(self) -> Proportion | None:
        return wilson(sum(self.right), len(self.right)) if self.right else None


def decide(compared: Sequence[Compared], margin: float) -> Decision | None:
    """Choose by cost and known answers. ``None`` without known answers, a second setting, or costs to compare."""
    if len(compared) < 2 or not all(each.right for each in compared):
        return None
    costs = [each.cost for each in compared]
    if None in costs:
        costs = [each.tokens for each in compared]
    found = [
        RightRows(each.name, cost.value, each.right)
        for each, cost in zip(compared, costs, strict=True)
        if cost is not None
    ]
    return choose(found, margin) if len(found) == len(compared) else None


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
    removed = {other: None for key in axes for other in _INSTEAD_OF.get(key, ())}
    found = [
        Setting(
            " ".join(name for name, _ in chosen), {**removed, **dict(zip(axes, (v for _, v in chosen), strict=True))}
        )
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
        if not job.id_columns and variant.prompt_columns != job.prompt_columns:
            raise JobInvalid(
                f"{setting.name}: its prompt reads other columns, and without [manifest] id the rows are named by the "
                'columns of the prompt; name the column of the rows, e.g. id = "sku"'
            )
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
