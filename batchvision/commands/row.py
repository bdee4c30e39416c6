"""Everything that an output holds about one row, as plain values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from difflib import get_close_matches
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute as pc

from batchvision.checkpoint import IN_MANIFEST, OutputView, ShardState, holder_at_work, load_recipe, read_registry
from batchvision.commands.advice import ADVICE
from batchvision.commands.status import open_output
from batchvision.errors import CheckpointDamaged, JobInvalid
from batchvision.job import FIXED_COLUMNS, keep_columns
from batchvision.money import is_of_unknown_cost
from batchvision.prompt import ColumnField, Template
from batchvision.records import TICKS_PER_USD, ImageSlot, Intent, RunSummary
from batchvision.ticks import known_or_none

#: Similar ids in the error about an unknown id.
MATCHES_SHOWN = 3
#: At most so many ids are compared with an unknown id.
COMPARED_IDS = 20_000


class OpenReason(StrEnum):
    """Why the output still expects something for a row."""

    TICKET = "ticket"  #: the provider has accepted the request, and its answer was not collected yet
    IN_FLIGHT = "in_flight"  #: a run at work has sent the request
    CUT_OFF = "cut_off"  #: a run was killed while the request was in flight
    UNREAD = "unread"  #: the answer is durable, and the next run classifies it
    HELD = "held"  #: a crash cut the request off, and ambiguous = "hold" keeps the row pending
    TRIED = "tried"  #: earlier attempts failed, and the next run continues
    NOT_REACHED = "not_reached"  #: no request is open, and no run has ended the row


class PendingEntry(NamedTuple):
    """One reason why a row is pending. ``since``: when the request was sent or the ticket was given."""

    reason: OpenReason
    request_key: str | None = None
    since: datetime | None = None
    ticket: str | None = None
    attempts: int = 0
    bound_ticks: int | None = None


class RowPrompt(NamedTuple):
    """The prompt of a row. ``user`` has its kept cells. ``missing``: columns without a stored cell."""

    provider: str
    model: str
    system: str | None
    user: str
    missing: tuple[str, ...]
    labels: tuple[str, ...]
    schema: str | None
    examples: int


@dataclass(frozen=True, slots=True)
class RowDetails:
    """One row. ``answer``, ``failure``, ``older_answers`` and ``attempts`` are rows of the tables, by column.

    ``prompt`` is ``None`` where the recipe is not stored. Older answers come newest first, attempts in their order.
    """

    row_id: str
    answer: Mapping[str, Any] | None
    in_manifest: bool | None  #: ``None`` where the row has no answer
    failure: Mapping[str, Any] | None
    open: tuple[PendingEntry, ...]
    images: tuple[tuple[str, str | None], ...]  #: reference and sha256
    kept: Mapping[str, Any]
    prompt: RowPrompt | None
    attempts: tuple[Mapping[str, Any], ...]
    older_answers: tuple[Mapping[str, Any], ...]
    last_run: RunSummary | None

    @property
    def state(self) -> str:
        """``completed``, ``failed`` or ``pending``."""
        return "completed" if self.answer is not None else "failed" if self.failure is not None else "pending"

    @property
    def typed(self) -> dict[str, Any]:
        """The answer columns of the current answer, without ``answer_``."""
        columns = self.answer or {}
        return {name.removeprefix("answer_"): columns[name] for name in columns if name.startswith("answer_")}

    @property
    def cost_ticks(self) -> int:
        """The sum of the known costs of all attempts."""
        return sum(each["cost_ticks"] or 0 for each in self.attempts)

    @property
    def unknown_cost(self) -> int:
        """The number of answers of unknown cost."""
        return sum(
            is_of_unknown_cost(each["state"], each["http_status"], each["error_kind"], each["cost_ticks"])
            for each in self.attempts
        )

    @property
    def bound_ticks(self) -> int:
        """The most that attempts without a known cost may have cost, as far as it is known."""
        return sum(each["bound_ticks"] or 0 for each in self.attempts if each["cost_ticks"] is None)

    @property
    def advice(self) -> str | None:
        return None if self.failure is None else ADVICE.get(self.failure["error_kind"], "read the message")

    def document(self, now: datetime) -> dict[str, Any]:
        """JSON content for ``show --id ROW --json``."""
        ticks = known_or_none(self.cost_ticks, self.unknown_cost)
        failure = None if self.failure is None else {**self.failure, "advice": self.advice}
        document = {
            "row_id": self.row_id,
            "state": self.state,
            "in_manifest": self.in_manifest,
            "answer": self.answer,
            "typed": self.typed,
            "failure": failure,
            "open": [{**each._asdict(), "age_seconds": age_seconds(each, now)} for each in self.open],
            "images": [{"reference": reference, "sha256": sha256} for reference, sha256 in self.images],
            "kept": self.kept,
            "prompt": None if self.prompt is None else self.prompt._asdict(),
            "attempts": self.attempts,
            "cost_ticks": ticks,
            "cost_usd": None if ticks is None else ticks / TICKS_PER_USD,
            "unknown_cost": self.unknown_cost,
            "ambiguous_ticks": self.bound_ticks,
            "older_answers": self.older_answers,
            "last_run_stop_reason": None if self.last_run is None else self.last_run.stop_reason,
        }
        return {name: _json_ready(value) for name, value in document.items()}


def _json_ready(value: Any) -> Any:
    """The value with costs as numbers and times as text."""
    match value:
        case Decimal():
            return float(value)
        case datetime():
            return value.isoformat()
        case Mapping():
            return {name: _json_ready(each) for name, each in value.items()}
        case list() | tuple():
            return [_json_ready(each) for each in value]
        case _:
            return value


def age_seconds(entry: PendingEntry, now: datetime) -> float | None:
    return None if entry.since is None else max(0.0, (now - entry.since).total_seconds())


def row_details(output: Path, row_id: str) -> RowDetails:
    """Collect everything about one row. Raises JobInvalid for an unknown id or where there is no output."""
    view = open_output(output)
    latest = view.latest()
    recipe_id = None if latest is None else latest.recipe_id
    answer = view.current_of(row_id, recipe_id)
    in_manifest = None if answer is None else answer.pop(IN_MANIFEST)
    failure = next(iter(view.rows_of("failures", row_id)), None)
    attempts = sorted(view.rows_of("attempts", row_id), key=lambda each: (each["sent_at"], each["attempt"]))
    older = [each for each in view.rows_of("results", row_id) if each != answer]
    older.sort(key=lambda each: each["updated_at"], reverse=True)
    intents = _open_intents(view, row_id)
    open_ = [entry for shard in view.shards for entry in _open_entries(output, shard, row_id)]
    if not (answer or failure or attempts or older or open_):
        raise JobInvalid(_unknown(view, row_id, latest))
    if not (answer or failure or open_):
        open_ = [PendingEntry(OpenReason.NOT_REACHED, attempts=len(attempts))]
    newest = next(filter(None, [answer, failure, *map(_cells_of, intents[-1:]), *older[:1], *attempts[-1:]]), {})
    kept = _kept(view, newest)
    return RowDetails(
        row_id=row_id,
        answer=answer,
        in_manifest=in_manifest,
        failure=failure,
        open=tuple(open_),
        images=tuple(_images(newest)),
        kept=kept,
        prompt=_prompt(output, newest.get("recipe_id"), kept, latest),
        attempts=tuple(attempts),
        older_answers=tuple(older),
        last_run=latest,
    )


# ---------------------------------------------------------------------------------- open work


def _open_intents(view: OutputView, row_id: str) -> list[Intent]:
    open_ = (each.intent for shard in view.shards for each in shard.run_state.open.values())
    return [intent for intent in open_ if intent.row_id == row_id]


def _open_entries(output: Path, shard: ShardState, row_id: str) -> Iterator[PendingEntry]:
    """Why one shard's journal still expects something for the row."""
    for exchange in shard.run_state.open.values():
        intent = exchange.intent
        if intent.row_id != row_id:
            continue
        if exchange.answer is not None or exchange.ended is not None:
            reason = OpenReason.UNREAD
        elif exchange.ticket is not None:
            reason = OpenReason.TICKET
        else:
            reason = OpenReason.IN_FLIGHT if holder_at_work(output, shard.shard) else OpenReason.CUT_OFF
        yield PendingEntry(
            reason, intent.request_key, exchange.accepted_at, exchange.ticket, intent.attempt, intent.bound_ticks
        )
    for carry in shard.run_state.carries:
        if carry.row_id == row_id:
            reason = OpenReason.HELD if carry.held else OpenReason.TRIED
            yield PendingEntry(reason, carry.request_key, attempts=carry.attempts, bound_ticks=carry.bound_ticks)


def _cells_of(intent: Intent) -> dict[str, Any]:
    """The cells of an open request, by the columns of the tables."""
    cells = {"recipe_id": intent.recipe_id, "image_ref": intent.image_ref, "image_sha256": intent.image_sha256}
    return {**cells, **intent.keep}


# ---------------------------------------------------------------------------------- the prompt


def _images(cells: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    references = cells.get("image_ref") or ()
    hashes = cells.get("image_sha256") or ()
    for number, reference in enumerate(references):
        yield reference, hashes[number] if number < len(hashes) else None


def _kept(view: OutputView, cells: Mapping[str, Any]) -> dict[str, Any]:
    """The kept cells of a row, by column."""
    registry = read_registry(view.output)
    if registry is not None:
        return {name: cells[name] for name, _ in registry.keep if name in cells}
    return {name: cells[name] for name in cells if name not in FIXED_COLUMNS and not name.startswith("answer_")}


def _prompt(
    output: Path, recipe_id: str | None, kept: Mapping[str, Any], latest: RunSummary | None
) -> RowPrompt | None:
    if recipe_id is None:
        return None
    try:
        recipe = load_recipe(output, recipe_id)
    except (JobInvalid, CheckpointDamaged):
        return None
    keep = tuple(kept) if latest is None else latest.config.get("manifest", {}).get("keep") or ()
    columns = dict(keep_columns(keep))  # of the manifest -> of the tables
    cells = {source: kept[name] for source, name in columns.items() if name in kept}
    column = recipe.get("user_column")
    parts = (ColumnField(column),) if column is not None else Template.parse(recipe["user"]).parts
    missing = [part.name for part in parts if isinstance(part, ColumnField) and part.name not in cells]
    answer: Mapping[str, Any] = recipe["answer"]
    return RowPrompt(
        provider=recipe["provider"],
        model=recipe["model"],
        system=recipe.get("system"),
        user="".join(_part_text(part, cells) for part in parts),
        missing=tuple(dict.fromkeys(missing)),
        labels=tuple(value for value, _ in answer.get("labels", ())),
        schema=answer.get("schema"),
        examples=len(recipe.get("examples", ())),
    )


def _part_text(part: str | ColumnField | ImageSlot, cells: Mapping[str, Any]) -> str:
    """A part of the template. Images and cells that are not stored stand in braces."""
    match part:
        case str():
            return part
        case ColumnField(name):
            cell = cells.get(name, f"{{{name}}}")
            return "" if cell is None else str(cell)
        case _:
            return f"{{image:{part.name}}}" if part.name else "{image}"


# ---------------------------------------------------------------------------------- an unknown id


def _unknown(view: OutputView, row_id: str, latest: RunSummary | None) -> str:
    words = f"{view.output} holds nothing about the row {row_id!r}."
    similar = get_close_matches(row_id, dict.fromkeys(islice(_similar_ids(view, row_id), COMPARED_IDS)), MATCHES_SHOWN)
    if similar:
        words += f" Similar ids: {', '.join(map(repr, similar))}."
    if latest is None or latest.rows_pending:
        words += " A row that no run has reached is not in an output yet: run again."
    elif not similar:
        words += f" `batchvision show {view.output} --columns row_id` lists the rows."
    return words


def _similar_ids(view: OutputView, row_id: str) -> Iterator[str]:
    """Ids that share the first or the second half of ``row_id``: one typing error leaves one half as it was."""
    middle = max(1, len(row_id) // 2)
    for table in ("results", "failures", "attempts"):
        for batch in view.rows(table, ("row_id",)):
            ids = batch["row_id"]
            begins = pc.starts_with(ids, row_id[:middle], ignore_case=True)
            ends = pc.ends_with(ids, row_id[middle:], ignore_case=True)
            yield from ids.filter(pc.or_(begins, ends)).to_pylist()
