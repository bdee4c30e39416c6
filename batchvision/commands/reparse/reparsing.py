"""Publish stored raw answers under a job of which only [answer] has changed. Sends nothing.

``stored`` reads the tables, ``reading`` judges one row. A published answer satisfies the job and answers the request
that would be sent now. The ledger does not change. A second reparse publishes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from batchvision.checkpoint import Columns, OutputLock, RowIndex, RowState, Store, StoreSettings, load_recipe
from batchvision.commands.reparse.kept import refresh_kept_cells
from batchvision.commands.reparse.reading import NoAnswerReason, Reader
from batchvision.commands.reparse.recipes import recipes_alike
from batchvision.commands.reparse.stored import StoredRows
from batchvision.commands.status import open_output
from batchvision.errors import JobInvalid
from batchvision.job import Job, recipe_document, recipe_from_document
from batchvision.prompt import names_fallback
from batchvision.records import Completed, Counters, Recipe, Request, Row
from batchvision.runner import Left, RunDependencies, new_run_id, shared, summarize, wiring
from batchvision.runner.feed import Selection, Survey, feed, survey
from batchvision.secrets import Secret

log = logging.getLogger(__name__)

#: Rows whose raw answers are held in memory at once.
ROWS_AT_ONCE = 4_000
FOLLOWERS_AT_ONCE = 20_000
EARLY_ROWS = 20_000  #: limit of followers that stand before the first row of their request
PROBLEMS_SHOWN = 5


@dataclass(slots=True)
class Reparsed:
    """The result. Each row of the manifest is in one count.

    ``done``: rows that had an answer under this recipe. ``waiting``: rows with an open ticket or on hold. ``without``:
    rows without an answer. ``problems``: the first unfit answers.
    """

    rows: int = 0
    published: int = 0
    done: int = 0
    waiting: int = 0
    invalid: int = 0
    without: dict[NoAnswerReason, int] = field(default_factory=lambda: dict.fromkeys(NoAnswerReason, 0))
    problems: list[tuple[str, str]] = field(default_factory=list)
    refreshed: int = 0  #: answered rows with refreshed kept cells

    @property
    def to_ask(self) -> int:
        """Rows that a run would still ask."""
        return self.rows - self.published - self.done - self.waiting - self.invalid

    def document(self) -> dict[str, Any]:
        """JSON content for ``reparse --json``."""
        return {
            "rows": self.rows,
            "published": self.published,
            "done": self.done,
            "waiting": self.waiting,
            "invalid": self.invalid,
            **{why.value: count for why, count in self.without.items()},
            "to_ask": self.to_ask,
            "refreshed": self.refreshed,
            "problems": [{"row_id": row_id, "problem": problem} for row_id, problem in self.problems],
        }


async def reparse(
    job: Job, *, environ: Mapping[str, str] | None = None, dependencies: RunDependencies | None = None
) -> Reparsed:
    """Publish every stored answer that satisfies ``job``. Raises JobInvalid, OutputHeld, CheckpointDamaged, DiskFailed.

    All shards of the output are read; their open journals are taken over, as a run without shards does.
    """
    dependencies, reparsed = dependencies or RunDependencies(), Reparsed()
    wiring.bring_up_to_date(job, dependencies)
    open_output(job.output_path)
    recipes = recipes_alike(job)
    with Store.lock(job.output_path, disk=wiring.disk_of(job, dependencies)) as lock:
        await _Reparse(job, recipes, lock, environ, dependencies, reparsed).work()
    reparsed.refreshed = refresh_kept_cells(job, dependencies.secrets, wiring.disk_of(job, dependencies))
    return reparsed


class _Reparse:
    """One reparse, from the lock to the summary."""

    def __init__(
        self,
        job: Job,
        recipes: Mapping[str, Recipe],
        lock: OutputLock,
        environ: Mapping[str, str] | None,
        dependencies: RunDependencies,
        reparsed: Reparsed,
    ) -> None:
        policy = job.output.model_copy(update={"on_recipe_change": "redo"})  # rows done under another recipe are to do
        self.job = job.model_copy(update={"output": policy})
        self.given = job
        self.recipes = recipes
        self.lock = lock
        self.dependencies = dependencies
        self.reparsed = reparsed
        self.secrets = dependencies.secrets
        self.secrets.add(*_secrets_of(job, environ))
        self.started_at: datetime = dependencies.now()
        self.run_id = new_run_id(self.started_at, dependencies.rng)
        self.classifier = wiring.classifier_of(job, wiring.prices_of(job), self._recipe)
        self.selection = Selection(retry_quarantined=True)
        self.counters = Counters()
        self.followers: list[Request] = []
        self.early: list[Request] = []  #: followers that stand before the first row of their request
        self.store: Store
        self.row_index: RowIndex

    def _recipe(self, recipe_id: str) -> Recipe:
        if recipe_id == self.job.recipe.recipe_id:
            return self.job.recipe
        return self.recipes.get(recipe_id) or recipe_from_document(load_recipe(self.store.output, recipe_id))

    async def work(self) -> None:
        surveyed = survey(self.job, self.selection)
        with self._open(surveyed) as self.store:
            recovery = self.store.recover(self.classifier.classify, self.job.limits.ambiguous == "hold")
            for sentence in recovery.sentences():
                log.warning("%s", sentence)
            self.row_index = self.store.row_index(self.job.recipe.recipe_id)
            self.counters.rows_total = surveyed.rows
            self.reparsed.rows = surveyed.rows
            await self._publish_all(surveyed)
            await self.store.close(complete=False)
            if self.counters.rows_completed:
                await self.store.write_index()
            if self.counters.rows_completed:
                self._summarize()

    def _open(self, surveyed: Survey) -> Store:
        settings = StoreSettings(
            job_name=self.job.name,
            run_id=self.run_id,
            started_at=self.started_at,
            columns=Columns(keep=surveyed.typed_keep, answers=wiring.answer_columns_of(self.job)),
            keep_raw=self.job.output.keep_raw_answers,
        )
        return Store.open(self.lock, settings, secrets=self.secrets, offload=self.dependencies.offload)

    async def _publish_all(self, surveyed: Survey) -> None:
        stored = StoredRows(self.job.output_path, frozenset(self.recipes))
        reader = Reader(self.job, self.classifier, self.run_id, self.started_at)
        rows: list[Row] = []
        for batch in feed(self.job, surveyed, self.row_index, self.selection):
            self.reparsed.done += batch.counts.done
            self.counters.rows_done_before += batch.counts.done
            self.reparsed.waiting += batch.counts.awaiting + batch.counts.held
            self.reparsed.invalid += sum(row.problem is not None for row in batch.rows)
            rows += [row for row in batch.rows if row.problem is None]
            while len(rows) >= ROWS_AT_ONCE:
                await self._publish_rows(rows[:ROWS_AT_ONCE], stored, reader)
                rows = rows[ROWS_AT_ONCE:]
        await self._publish_rows(rows, stored, reader)
        await self._share()
        self.followers, self.early = self.early, []
        await self._share()
        self.row_index.met.is_complete = True
        self.reparsed.without[NoAnswerReason.NONE] += len(self.early)

    async def _publish_rows(self, rows: list[Row], stored: StoredRows, reader: Reader) -> None:
        known = stored.of([row.row_id for row in rows])
        for row in rows:
            read = await reader.read(row, known[row.row_id])
            if read.completed is not None:
                await self._publish(read.completed)
            elif read.follower is not None:
                self.followers.append(read.follower)
            elif read.why is not None:
                self.reparsed.without[read.why] += 1
                if read.why is NoAnswerReason.UNFIT and read.problem and len(self.reparsed.problems) < PROBLEMS_SHOWN:
                    self.reparsed.problems.append((row.row_id, read.problem))
        if len(self.followers) >= FOLLOWERS_AT_ONCE:
            await self._share()

    async def _share(self) -> None:
        """Give rows that shared an answer the answer of the same request again, if it has one now."""
        followers, self.followers = self.followers, []
        wanted = {follower.request_key for follower in followers} if self.job.limits.deduplicate else None
        found = await self.store.answers(wanted) if wanted else {}
        names = tuple(column.name for column in self.job.keep_columns)
        for follower in followers:
            answers = found.get(follower.request_key)
            own = shared(answers[0], follower, names, self.run_id, self.started_at) if answers else None
            if isinstance(own, Completed):
                await self._publish(own)
            elif len(self.early) < EARLY_ROWS:
                self.early.append(follower)
            else:
                self.reparsed.without[NoAnswerReason.NONE] += 1

    async def _publish(self, completed: Completed) -> None:
        """Publish the row, unless its touched image is unchanged and it has an answer or a ticket."""
        self.row_index.meet(completed.row_id, completed.request_key)
        match self.row_index.state(completed.row_id, completed.request_key):
            case RowState.DONE:
                self.reparsed.done += 1
                self.counters.rows_done_before += 1
            case RowState.AWAITING | RowState.HELD:
                self.reparsed.waiting += 1
            case RowState.NEW | RowState.FAILED:
                if not self.reparsed.published:
                    self.store.write_recipe(self.job.recipe.recipe_id, recipe_document(self.job.recipe))
                self.store.share(completed)
                await self.store.seal_if_due()
                self.reparsed.published += 1
                self.counters.rows_completed += 1
                self.counters.rows_fallback += names_fallback(self.job.recipe.answer, completed.answer_columns)

    def _summarize(self) -> None:
        """Write a summary. It lists the new parts and makes this recipe the current one."""
        recipe_id = self.job.recipe.recipe_id
        failures = [
            failed
            for failed in self.store.failures()
            if failed.recipe_id == recipe_id and self.row_index.met.has(failed)
        ]
        summary = summarize(
            self.given,
            self.counters,
            run_id=self.run_id,
            started_at=self.started_at,
            finished_at=self.dependencies.now(),
            reason=None,
            left=Left(failures, self.store.tickets_open, self.store.held_count),
            parts=self.store.parts_to_list(),
        )
        self.store.write_summary(replace(summary, command="reparse", exit_code=0))


def _secrets_of(job: Job, environ: Mapping[str, str] | None) -> list[Secret]:
    """The secrets of the job to mask. A missing key is no error, because nothing is sent."""
    found: list[Secret] = []
    with suppress(JobInvalid):
        key = job.api_key(environ)
        found += [] if key is None else [key]
    with suppress(JobInvalid):
        found += job.request_headers(environ)[1]
    return found
