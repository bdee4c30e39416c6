"""Open the output of a run: recover the journal of a crash, and find the rows that are done."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pyarrow as pa

from batchvision.checkpoint import Columns, OutputLock, Recovery, RowIndex, Store, StoreSettings, reserve_bytes
from batchvision.job import recipe_document, recipe_from_document
from batchvision.records import Recipe, RunSummary
from batchvision.runner import wiring
from batchvision.runner.feed import Survey, drawn
from batchvision.runner.lanes import POLLERS, rows_at_once
from batchvision.runner.open_tickets import OpenTickets, place_of
from batchvision.runner.refusing import refuse_to_buy_again
from batchvision.runner.setup import RunSetup

log = logging.getLogger(__name__)


def open_store(setup: RunSetup, lock: OutputLock, keep: Sequence[tuple[str, pa.DataType]] | None) -> Store:
    """``keep``: the kept columns; ``None``: the columns that are registered already."""
    job = setup.job
    settings = StoreSettings(
        job_name=job.name,
        run_id=setup.run_id,
        started_at=setup.started_at,
        columns=Columns() if keep is None else Columns(tuple(keep), wiring.answer_columns_of(job)),
        keep_raw=job.output.keep_raw_answers or setup.is_trial,  # a trial keeps nothing else
        ticket_place=place_of(job.base_url),
        reserve_bytes=reserve_bytes(rows_at_once(job.limits.concurrency) + POLLERS),
    )
    disk = wiring.disk_of(job, setup.dependencies)
    return Store.open(lock, settings, secrets=setup.secrets, disk=disk, offload=setup.dependencies.offload)


class OpenedOutput:
    """The store of a run, and what earlier runs left in it. Call :meth:`recover` first, then :meth:`examine`."""

    recovery: Recovery
    row_index: RowIndex
    spent: wiring.Spent

    def __init__(self, setup: RunSetup, store: Store) -> None:
        self.store = store
        self.classifier = wiring.classifier_of(setup.job, setup.prices, self._recipe)
        self.selection = setup.selection
        self.tickets = OpenTickets()
        self.latest: RunSummary | None = None  #: of the run before this one
        self.redo_recipes: frozenset[str] = frozenset()  #: recipes with rows that may be asked again
        self._setup = setup
        self._recipes = {setup.job.recipe.recipe_id: setup.job.recipe}

    def _recipe(self, recipe_id: str) -> Recipe:
        """An answer in the journal may belong to an earlier recipe than the job's."""
        if recipe_id not in self._recipes:
            self._recipes[recipe_id] = recipe_from_document(self.store.load_recipe(recipe_id))
        return self._recipes[recipe_id]

    async def recover(self) -> None:
        """Recover the journals of earlier runs, and book the expired tickets of other places."""
        setup, store = self._setup, self.store
        self.recovery = await setup.offload(store.recover, self.classifier.classify, setup.holds)
        place, now = place_of(setup.job.base_url), setup.dependencies.now()
        self.tickets = OpenTickets.sorted(self.recovery.tickets, setup.dialect.name, place, now)
        for exchange in self.tickets.expired:
            store.book(exchange.intent.exchange_id, self.classifier.classify(exchange))
        self.row_index = await setup.offload(store.row_index, setup.job.recipe.recipe_id)
        self.spent = await setup.offload(wiring.spent_of, setup.job, now)

    async def examine(self, survey: Survey) -> None:
        """Draw the rows of this run. Raises JobInvalid if paid rows would be bought again without consent."""
        setup, job = self._setup, self._setup.job
        for sentence in (*self.recovery.sentences(), *self.tickets.sentences()):
            log.warning("%s", sentence)
        self.latest = await setup.offload(self.store.latest_summary)
        if not setup.is_trial:
            self.selection = await setup.read(drawn, job, survey, self.row_index, self.selection)
            self.redo_recipes = await refuse_to_buy_again(job, survey, self.row_index, self.selection, setup.offload)
        await setup.offload(self.store.write_recipe, job.recipe.recipe_id, recipe_document(job.recipe))
        setup.counts.begin(survey.rows, self.recovery.ambiguous)
