"""Open the output: recover what earlier runs left, sort their open tickets, and draw the rows of this run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple
from urllib.parse import urlsplit

import pyarrow as pa

from batchvision.checkpoint import (
    Columns,
    OutputLock,
    Recovery,
    RowIndex,
    Store,
    StoreSettings,
    load_recipe,
    read_latest,
    reserve_bytes,
)
from batchvision.errors import Expired, JobInvalid
from batchvision.job import recipe_document, recipe_from_document
from batchvision.providers import Dialect, dialect
from batchvision.records import EndedWithout, Exchange, Lane, Recipe, RunSummary
from batchvision.runner import wiring
from batchvision.runner.feed import Survey, drawn
from batchvision.runner.lanes import POLLERS, rows_at_once
from batchvision.runner.refusing import refuse_to_buy_again
from batchvision.runner.setup import RunSetup

log = logging.getLogger(__name__)

#: Providers keep a batch and its results for so long.
BATCH_LIFETIME = timedelta(days=30)


def place_of(base_url: str) -> str:
    """``base_url`` without user, query and fragment: where a ticket is given and read."""
    parts = urlsplit(base_url)
    host = (parts.netloc.rpartition("@")[2]).lower()
    return f"{parts.scheme.lower()}://{host}{parts.path.rstrip('/')}"


class TicketsElsewhere(NamedTuple):
    """The open tickets that another place gave. ``kept_until``: when the first of them expires."""

    tickets: int
    kept_until: datetime

    def plus(self, kept_until: datetime) -> TicketsElsewhere:
        return TicketsElsewhere(self.tickets + 1, min(self.kept_until, kept_until))


@dataclass(slots=True)
class OpenTickets:
    """Open tickets of earlier runs: which ones a run may collect, which wait for another place, and which have expired.

    A ticket is collected where it was given: at the same provider and base URL. The account is not noted, since no
    trace of the key may be written. A place that does not know a ticket answers 404, and the ticket waits
    (``Exchanges.collect``).
    """

    here: tuple[str, ...] = ()  #: exchange_ids of the tickets that this run may collect, the oldest first
    by_lane: dict[Lane, tuple[str, ...]] = field(default_factory=dict)  #: the same
    elsewhere: dict[str, TicketsElsewhere] = field(default_factory=dict)  #: by the place that gave them
    expired: tuple[str, ...] = ()  #: exchange_ids: of another place, and older than any answer is kept
    here_ticks: int = 0  #: cost bound of the tickets that this run may collect
    not_here_ticks: int = 0  #: cost bound of the other tickets

    @classmethod
    def sorted(cls, tickets: Iterable[Exchange], provider: str, place: str, now: datetime) -> OpenTickets:
        """Sort tickets, one at a time. Without a place they are of an earlier version, and of any place."""
        found, here, expired = cls(), list[tuple[datetime, str, Lane]](), list[str]()
        for exchange in tickets:
            exchange_id = exchange.intent.exchange_id
            if exchange.intent.provider == provider and exchange.ticket_place in (None, place):
                here.append((exchange.accepted_at, exchange_id, exchange.intent.lane))
                found.here_ticks += exchange.intent.bound_ticks or 0
                continue
            found.not_here_ticks += exchange.intent.bound_ticks or 0
            where, kept_until = _named_place(exchange), exchange.accepted_at + _lifetime(exchange)
            if now < kept_until:
                found.elsewhere[where] = found.elsewhere.get(where, TicketsElsewhere(0, kept_until)).plus(kept_until)
            else:
                expired.append(exchange_id)
        here.sort()
        found.here, found.expired = tuple(exchange_id for _, exchange_id, _ in here), tuple(expired)
        for lane in {lane for _, _, lane in here}:
            found.by_lane[lane] = tuple(exchange_id for _, exchange_id, of in here if of is lane)
        return found

    def sentences(self) -> Iterator[str]:
        """For people."""
        if self.here:
            yield f"{len(self.here)} tickets of earlier runs are open and will be collected"
        for where, (count, until) in sorted(self.elsewhere.items()):
            yield (
                f"{count} open tickets were given by {where} and wait there until {until:%Y-%m-%d %H:%M} UTC: a run "
                "with that provider and base_url collects them; later they are booked as expired"
            )
        if self.expired:
            yield (
                f"{len(self.expired)} tickets of another provider or base_url were never collected and have expired; "
                "they may have been billed"
            )


def _lifetime(exchange: Exchange) -> timedelta:
    if exchange.intent.lane is Lane.BATCH:
        return BATCH_LIFETIME
    try:
        return dialect(exchange.intent.provider).ticket_lifetime
    except JobInvalid:  # the package of its provider is not installed any longer
        return Dialect.ticket_lifetime


def _named_place(exchange: Exchange) -> str:
    return f"{exchange.intent.provider} at {exchange.ticket_place or 'an unknown base_url'}"


def expired(exchange: Exchange, now: datetime) -> Exchange:
    """The end of a ticket that no run has collected."""
    hours = _lifetime(exchange).total_seconds() / 3600
    message = (
        f"ticket {exchange.ticket} of {_named_place(exchange)} is older than {hours:g} hours and was not collected"
    )
    return exchange._replace(ended=EndedWithout(Expired.kind, message, now))


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
    return Store.open(lock, settings, secrets=setup.secrets, offload=setup.dependencies.offload)


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
            self._recipes[recipe_id] = recipe_from_document(load_recipe(self.store.output, recipe_id))
        return self._recipes[recipe_id]

    async def recover(self) -> None:
        """Recover the journals of earlier runs, and book the expired tickets of other places."""
        setup, store = self._setup, self.store
        self.recovery = await setup.offload(store.recover, self.classifier.classify, setup.holds)
        place, now = place_of(setup.job.base_url), setup.dependencies.now()
        open_ = map(store.exchange, self.recovery.tickets)
        self.tickets = OpenTickets.sorted(open_, setup.dialect.name, place, now)
        for exchange_id in self.tickets.expired:
            store.book(exchange_id, self.classifier.classify(expired(store.exchange(exchange_id), now)))
        store.project(setup.counts)  # what was booked so far belongs to earlier runs
        self.row_index = await setup.offload(store.row_index, setup.job.recipe.recipe_id)
        self.spent = await setup.offload(wiring.spent_of, setup.job, now)

    async def examine(self, survey: Survey) -> None:
        """Draw the rows of this run. Raises JobInvalid if paid rows would be bought again without consent."""
        setup, job = self._setup, self._setup.job
        for sentence in (*self.recovery.sentences(), *self.tickets.sentences()):
            log.warning("%s", sentence)
        self.latest = await setup.offload(read_latest, self.store.output)
        if not setup.is_trial:
            self.selection = await setup.read(drawn, job, survey, self.row_index, self.selection)
            self.redo_recipes = await refuse_to_buy_again(job, survey, self.row_index, self.selection, setup.offload)
        await setup.offload(self.store.write_recipe, job.recipe.recipe_id, recipe_document(job.recipe))
        setup.counts.begin(survey.rows, self.recovery.ambiguous)
