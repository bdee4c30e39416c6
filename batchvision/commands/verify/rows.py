"""Promise P8: each row of the manifest is completed, failed or pending under its current key.

The job is that of the last run, made from its summary and recipe. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from batchvision.checkpoint import FAILURES_TABLE, RowState, load_recipe
from batchvision.commands.verify.findings import Finding, note, ok, wrong
from batchvision.commands.verify.hashes import hash_of
from batchvision.commands.verify.journals import ShardJournal
from batchvision.commands.verify.tables import RESULTS_TABLE, TableContents
from batchvision.errors import CheckpointDamaged, JobInvalid, RowFault
from batchvision.images import ImageFolder, ImageSettings, ImageSource
from batchvision.job import Job, recipe_from_document
from batchvision.keys import request_key_of
from batchvision.records import Row, RunSummary, Shard
from batchvision.runner import payloads_of, row_index_of
from batchvision.runner.feed import KnownRows, Selection, Survey, feed, survey
from batchvision.wording import counted

TOPIC = "manifest"


@dataclass(slots=True)
class ManifestCounts:
    """The rows of the manifest. ``changed_since``: pending rows with a changed text or image."""

    rows: int = 0
    completed: int = 0
    failed: int = 0
    pending: int = 0
    changed_since: int = 0

    def __str__(self) -> str:
        return f"{self.completed:,} completed, {self.failed:,} failed, {self.pending:,} pending"


async def manifest_findings(
    output: Path, latest: RunSummary | None, tables: TableContents, journals: Sequence[ShardJournal]
) -> tuple[list[Finding], ManifestCounts | None]:
    """Compare the tables with the last run's manifest."""
    if latest is None:
        return [note(TOPIC, "not compared: no run has ended here yet, so that no manifest is named")], None
    if broken := tables.broken & {RESULTS_TABLE, FAILURES_TABLE}:
        where = " and ".join(f"{table}/" for table in sorted(broken))
        return [note(TOPIC, f"not compared: a part of {where} is damaged or missing")], None
    if _is_gone(latest):
        text = f"{latest.manifest} is gone, so that its rows could not be compared with the tables"
        return [note(TOPIC, text, "to compare, put it back and type the same again")], None
    try:
        job = job_of(output, latest)
        surveyed = survey(job)
        counts = await _count(job, surveyed, tables)
    except (
        JobInvalid,
        CheckpointDamaged,
        KeyError,
        ValueError,
    ) as problem:  # the last two: a damaged footer
        return [note(TOPIC, f"not compared: {str(problem).splitlines()[0]}")], None
    return list(_judged(counts, tables, surveyed, latest, journals)), counts


def _is_gone(latest: RunSummary) -> bool:
    return not Path(latest.manifest).exists()


def job_of(output: Path, latest: RunSummary) -> Job:
    """The last run's job, as far as a feed needs it. Raises JobInvalid, CheckpointDamaged."""
    recipe = recipe_from_document(load_recipe(output, latest.recipe_id))
    config: dict[str, Any] = dict(latest.config)
    prompt = {"user": recipe.user} if recipe.user_column is None else {"column": recipe.user_column}
    settings = {
        "name": latest.job,
        "manifest": {**config["manifest"], "path": latest.manifest},
        "prompt": prompt,
        "provider": {"name": "emulator", "model": recipe.model},  # no request is sent
        "output": {"path": str(output.absolute())},
    }
    return Job.from_mapping(settings, Path(latest.manifest).parent).asking(recipe)


# ---------------------------------------------------------------------------------- counting


async def _count(job: Job, surveyed: Survey, tables: TableContents) -> ManifestCounts:
    counts = ManifestCounts(rows=surveyed.rows)
    row_index = row_index_of(job)
    images = ImageSource(ImageFolder(job.root), ImageSettings(job.recipe.images, "url", job.manifest.image_identity))
    for batch in feed(job, surveyed, row_index, Selection(retry_failed=frozenset())):
        counts.completed += batch.counts.done
        counts.failed += batch.counts.failed_kept
        counts.pending += batch.counts.awaiting + batch.counts.held + batch.counts.left
        for row in batch.rows:
            match await _state(row, job, images, row_index, tables):
                case RowState.DONE:
                    counts.completed += 1
                case RowState.FAILED:
                    counts.failed += 1
                case state:
                    counts.pending += 1
                    counts.changed_since += state is None
    return counts


async def _state(
    row: Row, job: Job, images: ImageSource, row_index: KnownRows, tables: TableContents
) -> RowState | None:
    """The state of a row that is not done by its skip_key. Its images are read, because they may only have been
    touched.

    ``None``: the row has an outcome for another text or image.
    """
    if row.problem is not None or hash_of(row.row_id) not in tables.answered:
        return RowState.NEW
    try:
        payloads = await payloads_of(images, row, skip_bad_images=job.manifest.on_bad_image == "skip_image")
    except RowFault:  # it cannot be sent, so its failure stands, also one of its earlier image
        return RowState.FAILED if hash_of(row.row_id) in tables.failed_rows else None
    key = request_key_of(job.recipe.recipe_id, row.prompt, payloads)
    state = row_index.state(row.row_id, key)
    return state if state in (RowState.DONE, RowState.FAILED) else None


# ---------------------------------------------------------------------------------- findings


def _judged(
    counts: ManifestCounts,
    tables: TableContents,
    surveyed: Survey,
    latest: RunSummary,
    journals: Sequence[ShardJournal],
) -> Iterator[Finding]:
    if counts.completed + counts.failed + counts.pending != counts.rows:
        yield wrong(
            TOPIC,
            f"{counted(counts.rows, 'row')}, but {counts}: they do not add up",
            "run the job again; report it if it stays",
        )
        return
    is_one_shard = all(journal.shard == "0of1" for journal in journals) or any(
        journal.shard == "0of1" and journal.header is not None and journal.header.run_id == latest.run_id
        for journal in journals  # a run without shards takes over the rows of earlier shards
    )
    is_one_shard = is_one_shard or any(len(latest.shards) == Shard.typed(shard).of for shard in latest.shards)
    is_comparable = is_one_shard and latest.stop_reason is None and all(each.holder is None for each in journals)
    # rows that left the manifest keep their answers
    lost = latest.rows_completed - max(counts.completed + counts.changed_since, tables.current - tables.redone)
    if changed := _changed(surveyed, latest, is_one_shard):
        yield note(TOPIC, f"{latest.manifest} has changed since the last run ({changed}): of its rows now {counts}")
    elif lost > 0 and is_comparable:
        yield wrong(
            TOPIC,
            f"the last run counted {counted(latest.rows_completed, 'completed row')}, and {lost:,} of them have no "
            f"answer in results/: now {counts}",
            "restore the missing part of results/ from a backup; without one, `batchvision reparse JOB` makes these "
            "rows again from the raw answers in attempts/",
        )
    else:
        yield ok(TOPIC, f"{counted(counts.rows, 'row')} = {counts}, each in one place")
        if counts.changed_since:
            yield note(TOPIC, f"{counted(counts.changed_since, 'pending row')}: their text or image has changed since")


def _changed(surveyed: Survey, latest: RunSummary, is_one_shard: bool) -> str:
    """How the manifest has changed since the run; "" for no visible change."""
    started_ns = int(datetime.fromisoformat(latest.started_at).timestamp() * 1_000_000_000)
    if any(identity.modified_ns > started_ns for _, identity in surveyed.inputs):
        return "the file was written after the run began"
    if is_one_shard and latest.rows_total != surveyed.rows_in_manifest:
        return f"it had {counted(latest.rows_total, 'row')} then"
    return ""
