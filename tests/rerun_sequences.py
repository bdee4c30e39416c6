"""Play a sequence of runs of one job against the emulator, and compare each run with the model and with the bill.

After each run: the requests that were bought, the ledger against the bill, ``show``, ``verify``, and the counts of the
summary. A broken promise is an AssertionError with a sentence.
"""

from __future__ import annotations

import csv
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import anyio
from hypothesis import strategies as st
from job_runs import DEFERRED, JobRuns, RunResult, make_ready, waiting
from killed_disk import KilledDisk
from PIL import Image
from rerun_model import (
    ANSWERS,
    CELLS,
    CONCURRENCY,
    PLACES,
    PROMPTS,
    ROWS,
    Expected,
    Lane,
    Line,
    Model,
    Payment,
    Plan,
    Recipe,
    Request,
    Upkeep,
)

from batchvision.checkpoint import OutputView, compact
from batchvision.commands.redo import digests_of
from batchvision.commands.reparse import reparse
from batchvision.commands.show import rows_of
from batchvision.emulator import RunningEmulator
from batchvision.errors import JobInvalid
from batchvision.providers import Dialect
from batchvision.runner.dependencies import RunDependencies
from batchvision.runner.feed import Selection

SETTINGS: dict[str, Any] = {
    "provider.parameters": {"max_tokens": 60},
    "limits.concurrency": CONCURRENCY,
    "limits.max_attempts": 50,  # kills use attempts up
    "limits.quarantine_after_runs": 50,
}
FIRST_POLL_SECONDS = 0.01  #: a real provider needs longer
LANES: dict[Lane, dict[str, Any]] = {
    Lane.ONLINE: {},
    Lane.DEFERRED: {"delivery.lane": "deferred", "delivery.max_ticket_wait_seconds": 60},
    Lane.HANDED_IN: DEFERRED,
}


class Shown(NamedTuple):
    """A row as ``show`` gives it."""

    title: str
    recipe_id: str
    image_sha256: str


class RerunSequence:
    """One output, its job and two hosts."""

    def __init__(self, folder: Path, hosts: Sequence[RunningEmulator]) -> None:
        self.job = JobRuns(folder, hosts[0], settings=SETTINGS)
        self.hosts = hosts
        self.model = Model()
        self.kills = 0
        self._recipes: dict[str, Recipe] = {}  # by recipe_id
        self._colours: dict[str, str] = {}  # of the images, by row
        self._hashes: dict[tuple[str, str], str] = {}  # of the images, by row and colour
        self._tickets: dict[str, str] = {}
        self._lines_read: set[tuple[Any, ...]] = set()
        self._billed_on: Counter[date] = Counter()  # by the day that the run's clock shows
        self._indexed: list[Plan] = []  # one of these runs was the last to write the index of the manifest
        for host in hosts:
            host.reset()

    # ---------------------------------------------------------------------------- one run

    def play(self, plan: Plan) -> None:
        """One run, its redo, and the command after it. Raises AssertionError for a broken promise."""
        if plan.redo:
            self._play(plan._replace(redo=(), upkeep=None))
            plan = plan._replace(killed_at=plan.redo_killed_at)
        self._play(plan)

    def _play(self, plan: Plan) -> None:
        expected = self.model.expect(plan)
        before = self._billed_ticks()
        disk = KilledDisk(plan.killed_at)
        self._indexed.append(plan)
        result = self._run(plan, disk)
        self.kills += disk.is_killed
        self._check_purchases(plan, expected, result, self._read_bill(plan, is_killed=disk.is_killed))
        spent = self._billed_ticks() - before
        self._billed_on[min(self._today(), self._today(self.job.jump))] += spent
        if plan.cap_key:
            assert spent <= plan.cap_ticks, f"{spent} ticks were spent under a cap of {plan.cap_ticks} (P7)"
        if not OutputView(self.job.output).exists:  # it was refused, or killed at once
            return
        if result is None:
            self._check_killed()
        else:
            self._check_ended(plan, result)
        if plan.is_repeated and result is not None and result.summary is not None and self.model.is_done(plan):
            self._repeat(plan)
        if plan.upkeep is not None:
            self._keep_up(plan, has_ended=result is not None and result.summary is not None)

    def _run(self, plan: Plan, disk: KilledDisk) -> RunResult | None:
        """None: it was killed."""
        for host in self.hosts:
            host.configure(deferred_seconds=3_600.0 if plan.lane is Lane.HANDED_IN else 0.0)
        self.job.ahead, self.job.jump = timedelta(hours=plan.hours_ahead), timedelta(hours=plan.hours_jumped)
        settings, manifest = self._settings(plan), self._write_manifest(plan)
        self._recipes[self.job.job(settings).recipe.recipe_id] = plan.recipe
        selection = None
        if plan.redo:
            selection = Selection(redo=digests_of(plan.redo))
        elif plan.limit is not None and not plan.is_pilot:
            selection = Selection(limit=plan.limit)
        try:
            with mock.patch.object(Dialect, "first_poll_seconds", FIRST_POLL_SECONDS):
                return self.job.run(
                    settings,
                    manifest=manifest,
                    selection=selection,
                    bill=self.hosts[1:],
                    disk=disk,
                    pilot_rows=plan.limit if plan.is_pilot else None,
                )
        except BaseException:
            if not disk.is_killed:
                raise
            return None
        finally:
            for host in self.hosts:
                make_ready(host)
                self._tickets.update(waiting(host))

    def _settings(self, plan: Plan) -> dict[str, Any]:
        provider, host = PLACES[plan.place]
        emulator = self.hosts[host]
        cap = plan.cap_ticks + self._billed_in_period(plan.cap_key)
        return {
            "prompt.user": PROMPTS[plan.prompt] + " {title} [[echo:{sku}]]",
            "provider.name": provider,
            "provider.base_url": emulator.base_url("xai") if provider == "xai" else f"{emulator.url}/v1",
            "output.on_recipe_change": plan.policy,
            "limits.retry_failed": "all" if plan.retries_paid else "unpaid",
            "limits.ambiguous": "hold" if plan.holds else "retry",
            "answer.on_truncated": "raise_once" if plan.raises else "fail",
            **ANSWERS[plan.prompt],
            **LANES[plan.lane],
            **({f"limits.{plan.cap_key}": cap / 1e10} if plan.cap_key else {}),
        }

    def _write_manifest(self, plan: Plan) -> Path:
        path = self.job.folder / "photos.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["sku", "image", "title"])
            for row, (cell, colour) in plan.rows.items():
                self._draw_image(row, colour, is_touched=plan.are_touched)
                table.writerow([row, f"images/{row}.png", CELLS[cell]])
        return path

    def _draw_image(self, row: str, colour: str, *, is_touched: bool) -> None:
        path = self.job.folder / "images" / f"{row}.png"
        if colour == "gone":
            path.unlink(missing_ok=True)
        elif is_touched or self._colours.get(row) != colour:
            Image.new("RGB", (20 + ROWS.index(row), 16), colour).save(path)
            self._hashes[row, colour] = sha256(path.read_bytes()).hexdigest()
        self._colours[row] = colour

    def _repeat(self, plan: Plan) -> None:
        """P9: the same run again has nothing to do, so it sends nothing and changes no byte of a table."""
        requests, before = self._requests(), self._parts()
        again = self._run(plan, KilledDisk(None))
        assert again is not None and again.summary is not None, "the same run again was refused"
        assert self._requests() == requests, "a run with nothing to do has sent a request"
        assert self._parts() == before, "a run with nothing to do has changed a table"

    def _requests(self) -> int:
        return sum(host.bill().requests for host in self.hosts)

    def _parts(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.job.output.rglob("part-*.parquet")}

    # ---------------------------------------------------------------------------- the bill

    def _billed_in_period(self, cap_key: str) -> int:
        """The bill since the period of a cap began. The clock of an earlier run may have been ahead."""
        match cap_key:
            case "max_cost_usd":
                return self._billed_ticks()
            case "max_cost_usd_per_day":
                begin = self._today()
            case "max_cost_usd_per_month":
                begin = self._today().replace(day=1)
            case _:
                return 0
        return sum(ticks for day, ticks in self._billed_on.items() if day >= begin)

    def _today(self, jump: timedelta = timedelta()) -> date:
        return (datetime.now(UTC) + self.job.ahead + jump).date()

    def _billed_ticks(self) -> int:
        return sum(host.bill().ticks for host in self.hosts)

    def _read_bill(self, plan: Plan, *, is_killed: bool) -> list[Payment]:
        """What the run has bought."""
        payments: list[Payment] = []
        for number, host in enumerate(self.hosts):
            for _ in range(2 * is_killed):  # requests that were on the wire have arrived by then
                urllib.request.urlopen(f"{host.url}/v1/models").read()
            for entry in host.bill().entries:
                if not entry.ticks or entry.request_id in self.model.payments:
                    continue
                assert entry.echo in plan.requests, f"{entry.echo} was bought, and its image cannot be read"
                assert entry.text == plan.text(entry.echo), f"bought: {entry.text!r}, not {plan.text(entry.echo)!r}"
                assert number == PLACES[plan.place][1], f"{entry.echo} was bought at another host"
                request, is_deferred = plan.requests[entry.echo], entry.lane == "deferred"
                payments.append(Payment(entry.request_id, request, plan.place, entry.ticks, is_deferred, is_killed))
        return payments

    def _check_purchases(
        self, plan: Plan, expected: Expected, result: RunResult | None, payments: list[Payment]
    ) -> None:
        """P1: nothing is bought twice, and everything else is bought."""
        bought = Counter(payment.request for payment in payments)
        if again := bought - expected.most:
            raise AssertionError(f"bought again: {dict(again)}")
        assert expected.rows is None or len(bought) <= expected.rows, f"{len(bought)} rows are above the limit"
        is_refused = result is not None and result.summary is None and not plan.is_pilot
        if result is not None and (is_refused or result.exit_code == 2):
            assert expected.may_refuse, f"refused: {result.message}"
            assert not bought, "bought, and refused"
        elif result is not None:
            assert not expected.must_refuse, "another recipe was not refused"
            assert expected.least <= set(bought), f"not bought: {set(expected.least) - set(bought)}"
        self.model.buy(payments, is_redo=bool(plan.redo))
        self.model.is_behind = self.model.is_behind or result is None
        if result is not None:
            self.model.learn(self._new_lines(), self._tickets)
            is_whole = plan.is_whole and result.summary is not None and plan.policy == "redo"
            self.model.resolve(set(bought), expected, is_whole=is_whole)

    # ---------------------------------------------------------------------------- after a run

    def _check_killed(self) -> None:
        self._check_verify()
        self._check_answers_shown()

    def _check_ended(self, plan: Plan, result: RunResult) -> None:
        self._check_ledger()
        self._check_answers_shown()
        summary = result.summary
        report = self._check_verify()
        verified, booked = report.document()["cost_ticks"], sum(line.ticks or 0 for _, line in self._lines())
        assert verified == booked, f"verify counts {verified} ticks, and the ledger has {booked}"
        if summary is None:
            return
        self._indexed = [plan]
        if plan.limit is None and not plan.redo:
            self.model.last_whole = plan.recipe
        counts = (summary.rows_completed, summary.rows_failed, summary.rows_pending)
        completed = self.model.completed(plan)
        assert sum(counts) == summary.rows_total == len(plan.rows), f"{counts} of {len(plan.rows)} rows (P8)"
        # a limited or stopped run takes a row whose touched image it has not read for a new one
        if summary.stop_reason is None and plan.limit is None and not plan.redo and "gone" not in plan.images:
            assert summary.rows_completed == len(completed), f"{summary.rows_completed} completed, not {completed}"
            if report.manifest is not None:
                found = (report.manifest.completed, report.manifest.failed, report.manifest.pending)
                assert found == counts, f"verify counts {found}, the run {counts}"
        if not self.model.is_in_doubt:
            assert summary.tickets_open == len(self.model.open), f"open: {summary.tickets_open}, not {self.model.open}"
        if plan.is_whole and not result.message:
            here = [each.name for each in self.model.open.values() if each.place == plan.place]
            assert plan.lane is Lane.HANDED_IN or not here, f"open tickets of this place were not collected: {here}"
        self._check_today_shown(plan)

    def _check_verify(self) -> Any:
        report = self.job.verify()
        wrong = [finding.text for finding in report.findings if finding.mark == "wrong"]
        assert not wrong, f"verify: {wrong}"
        return report

    def _lines(self) -> Iterator[tuple[tuple[Any, ...], Line]]:
        """The ledger, each line with what identifies it."""
        cells = {text: cell for cell, text in CELLS.items()}
        for batch in OutputView(self.job.output).rows("attempts"):
            for each in batch.to_pylist():
                line = Line(
                    each["row_id"],
                    cells[each["title"]],
                    self._recipes[each["recipe_id"]],
                    each["state"],
                    each["error_kind"],
                    each["cost_ticks"],
                    each["bound_ticks"],
                    each["provider_request_id"],
                    each["ticket"],
                )
                yield (each["run_id"], each["request_key"], each["attempt"], line), line

    def _new_lines(self) -> list[Line]:
        lines = [(identity, line) for identity, line in self._lines() if identity not in self._lines_read]
        self._lines_read |= {identity for identity, _ in lines}
        return [line for _, line in lines]

    def _check_ledger(self) -> None:
        """P5, P6: the ledger is the bill, and what it lacks is an open ticket or listed with its bound."""
        lines = [line for _, line in self._lines()]
        paid = [line for line in lines if line.ticks]
        assert len({line.name for line in paid}) == len(paid), "an answer is in the ledger twice"
        for line in paid:
            payment = self.model.payments.get(line.name or "")
            assert payment is not None and payment.ticks == line.ticks, f"the bill has no {line}"
        unclear = [line for line in lines if line.is_unclear]
        listed, bounds = Counter(line[:3] for line in unclear), Counter[tuple[Any, ...]]()
        for line in unclear:
            assert line.bound_ticks is not None, f"{line} has no bound"
            bounds[line[:3]] += line.bound_ticks
        interrupted = sum(line.error_kind == "interrupted" for line in unclear)
        assert interrupted <= self.kills * CONCURRENCY, f"{interrupted} were in flight at {self.kills} kills"
        unlisted, ticks = Counter[tuple[Any, ...]](), Counter[tuple[Any, ...]]()
        for payment in self.model.unsettled():
            of = payment.request
            is_open = self.model.open.get(of) == payment or payment.name in self.model.in_doubt[of]
            if not (is_open and payment.is_deferred):
                unlisted[of.row, of.cell, of.recipe] += 1
                ticks[of.row, of.cell, of.recipe] += payment.ticks
        assert unlisted <= listed, f"billed, and neither in the ledger nor listed: {unlisted - listed}"
        assert ticks <= bounds, f"billed above the bounds: {ticks - bounds}"

    def _shown(self) -> dict[str, Shown]:
        shown: dict[str, Shown] = {}
        for batch in rows_of(self.job.output, "completed").batches:
            for row in batch.to_pylist():
                assert row["row_id"] not in shown, f"{row['row_id']} is shown twice"
                shown[row["row_id"]] = Shown(row["title"], row["recipe_id"], row["image_sha256"][0])
        return shown

    def _as_shown(self, request: Request) -> Shown:
        (recipe_id,) = (name for name, recipe in self._recipes.items() if recipe == request.recipe)
        return Shown(CELLS[request.cell], recipe_id, self._hashes[request.row, request.image])

    def _check_answers_shown(self) -> None:
        """``show`` gives only answers to requests that were bought."""
        bought = {(each.request.row, self._as_shown(each.request)) for each in self.model.payments.values()}
        assert bought >= set(self._shown().items()), "an answer is shown that was never bought"

    def _check_today_shown(self, plan: Plan) -> None:
        """Each completed row is shown with today's answer."""
        if plan.limit is not None or plan.redo:  # they keep failures of other cells, and their rows are not shown
            return
        shown, completed = self._shown(), self.model.completed(plan)
        for row, request in completed.items():
            assert shown.get(row) == self._as_shown(request), f"{row} is shown as {shown.get(row)}, not {request}"
        self._check_redone_shown(completed)

    def _check_redone_shown(self, completed: Mapping[str, Request]) -> None:
        """A row that was redone is shown with an answer of a redo."""
        answered = {line.name for _, line in self._lines() if line.state == "ok"}
        redone = {self.model.payments[name].request for name in self.model.redone & answered}
        for batch in rows_of(self.job.output, "completed").batches:
            for row in batch.select(["row_id", "provider_request_id"]).to_pylist():
                if completed.get(row["row_id"]) in redone:
                    assert row["provider_request_id"] in self.model.redone, (
                        f"{row['row_id']} is shown as before its redo"
                    )

    # ---------------------------------------------------------------------------- a command after the run

    def _keep_up(self, plan: Plan, *, has_ended: bool) -> None:
        """Compact or reparse. Both send nothing, and what is shown stays."""
        billed, shown, stored = self._billed_ticks(), self._shown(), self._stored()
        disk = KilledDisk(plan.upkeep_killed_at)
        try:
            if plan.upkeep is Upkeep.REPARSE:
                self._reparse(plan, disk)
            else:
                compact(self.job.output, drop_superseded=plan.upkeep is Upkeep.DROP, disk=disk)
        except BaseException:
            if not disk.is_killed:
                raise
        self.model.learn(self._new_lines(), self._tickets)
        self._check_dropped(plan, stored - self._stored(), is_exact=has_ended and not disk.is_killed)
        assert self._billed_ticks() == billed, f"{plan.upkeep} has sent a request"
        if plan.upkeep is Upkeep.REPARSE:
            self.model.publish(self._stored())
        else:
            assert self._shown() == shown, f"{plan.upkeep} changes what is shown"
        self._check_answers_shown()
        if has_ended:
            self._check_today_shown(plan)
        self._check_verify()

    def _reparse(self, plan: Plan, disk: KilledDisk) -> None:
        job = self.job.job(self._settings(plan))

        async def work() -> None:
            dependencies = RunDependencies(now=self.job.now, disk=disk)
            try:
                await reparse(job, environ=self.job.environ, dependencies=dependencies)
            except JobInvalid as refusal:  # nothing was ever asked under this recipe
                assert "can be read again" in str(refusal), str(refusal)

        anyio.run(work)

    def _stored(self) -> set[str]:
        """The ids of the answers in ``results``."""
        batches = OutputView(self.job.output).rows("results", ["provider_request_id"])
        return {name for batch in batches for name in batch["provider_request_id"].to_pylist()}

    def _check_dropped(self, plan: Plan, names: set[str], *, is_exact: bool) -> None:
        """Only a compaction drops answers, and only superseded ones."""
        stored = {self.model.payments[name].request for name in self._stored()}
        dropped = {self.model.payments[name].request for name in names} - stored  # a redo supersedes the older answer
        indexed = self._indexed if plan.upkeep is Upkeep.DROP else []
        may = {request for each in indexed for request in self.model.superseded(each)}
        assert dropped <= may, f"{plan.upkeep} has dropped {dropped - may}"
        is_exact = is_exact and "gone" not in plan.images
        assert not is_exact or dropped == may, f"{plan.upkeep} has left {may - dropped}"
        self.model.drop(dropped)


# ---------------------------------------------------------------------------------- random plans

SOME = st.sampled_from
PERIODS = ("max_cost_usd_per_day", "max_cost_usd_per_month")
PLANS: st.SearchStrategy[Plan] = st.builds(
    Plan,
    cells=st.tuples(
        *[SOME([None, "shoe", "shoe", "bag", "glove", "belt", "blank", "void", "long"])] * len(ROWS)
    ).filter(any),
    images=st.tuples(*[SOME(["red", "red", "red", "blue", "gone"])] * len(ROWS)),
    are_touched=SOME([False, False, True]),
    prompt=SOME([0, 0, 1, 2]),
    place=SOME([*PLACES]),
    lane=SOME([*Lane]),
    policy=SOME(["redo", "redo", "redo", "refuse", "new_rows_only"]),
    retries_paid=SOME([False, False, False, True]),
    cap_key=SOME(["", "", "", "max_cost_usd", "max_cost_usd_per_run", *PERIODS]),
    cap_ticks=SOME([0, 30_000_000, 60_000_000, 90_000_000]),
    limit=SOME([None, None, None, 1, 2]),
    is_pilot=st.just(False),
    redo=SOME([(), (), (), ("r1",), ("r1", "r2", "r3")]),
    redo_killed_at=st.none() | st.integers(3, 60),
    hours_ahead=SOME([0, 0, 9, -9]),
    hours_jumped=SOME([0, 0, 2, -2]),
    holds=SOME([False, False, False, True]),
    raises=st.booleans(),
    is_repeated=st.booleans(),
    killed_at=st.none() | st.none() | st.integers(3, 60),
    upkeep=st.none() | SOME([*Upkeep]),
    upkeep_killed_at=st.none() | st.none() | st.integers(0, 30),
).map(
    lambda plan: plan._replace(
        is_pilot=plan.limit == 2,
        redo=plan.redo if plan.limit is None else (),
        hours_jumped=0 if plan.cap_key in PERIODS else plan.hours_jumped,  # a run over midnight has two caps
    )
)
