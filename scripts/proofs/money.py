"""``scripts/money``: three runs under faults of every kind, one of them killed, compared with the bill to the tick.

The emulator's bill is the truth. The ledger holds every answer that arrived whole at a living process. The rest of the
bill is listed by row as ambiguous, each row within its bounds. ``verify`` must agree.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emulated_provider import IMAGE_RULES
from harness import Workbench

import proofs.pilot
from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread
from batchvision.emulator.faults import ONLINE, FaultKind
from batchvision.emulator.ledger import Bill
from proofs.reckoning import UNSURE, read_table

#: Faults that end a run, not a row; they are proved elsewhere.
ENDING = {
    FaultKind.BAD_KEY,
    FaultKind.UNAUTHORIZED,
    FaultKind.FORBIDDEN,
    FaultKind.CREDIT,
    FaultKind.CREDIT_429,
    FaultKind.PAYMENT_REQUIRED,
    FaultKind.MODEL_NOT_FOUND,
    FaultKind.NOT_FOUND,
    FaultKind.IMAGE_DOWNLOAD_FAILED,  # hits URLs only
}
RATES_OF = [kind for kind in FaultKind if kind.stage in ONLINE and kind not in ENDING]
CONCURRENCY = 32


@dataclass
class Account:
    """The findings. ``wrong`` has a sentence for each broken promise."""

    rows: int
    requests: int = 0
    by_fault: dict[str, int] = field(default_factory=dict)
    billed_ticks: int = 0
    delivered_ticks: int = 0
    ledger_ticks: int = 0
    unread_ticks: int = 0  #: delivered to a process that was killed before it had them on disk
    untold_ticks: int = 0  #: delivered in answers that do not say their cost
    unlisted_ticks: int = 0
    unsure_attempts: int = 0
    unsure_billed_ticks: int = 0
    unsure_bound_ticks: int = 0
    exits: list[int] = field(default_factory=list)
    verify: str = ""
    wrong: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        for name in self.__dataclass_fields__:
            if name not in ("wrong", "by_fault"):
                value = getattr(self, name)
                yield f"  {name.replace('_', ' '):<22} {value:,}" if isinstance(value, int) else f"  {name:<22} {value}"
        yield f"  {'faults':<22} {sum(self.by_fault.values()):,} of {len(self.by_fault)} kinds"
        yield from (f"  NOT RIGHT: {sentence}" for sentence in self.wrong)


def play(folder: Path, rows: int, seed: int, share: float = 0.10) -> Account:
    """Three runs of ``rows`` rows. The first one is killed."""
    bench = Workbench(folder)
    rates = {str(kind): share / len(RATES_OF) for kind in RATES_OF}
    options = EmulatorOptions(
        seed=seed, ledger_entries=20 * rows, latency_seconds=(0.0, 0.05), slow_seconds=0.05, fault_rates=rates
    )
    with start_in_thread(options) as emulator:
        job = bench.job(
            bench.manifest(bench.rows(rows)),
            provider=f'base_url = "{emulator.base_url()}"\nparameters = {{ max_tokens = 300 }}',
            limits=f'concurrency = {CONCURRENCY}\nrequest_timeout_seconds = 3\nmax_failed = "100%"',
        )
        killed = _killed_on_its_way(bench, emulator, job, rows)
        exits = [killed]
        for _ in range(2):
            done = bench.call("run", job, "--json", "--log-format", "json", timeout=900)
            exits.append(done.returncode)
        bill = emulator.bill()
    checked = bench.call("verify", "out", "--json", timeout=300)
    account = Account(rows, exits=exits, by_fault=dict(bill.by_fault))
    reckon(account, bill, folder / "out")
    _heard(account, checked.returncode, checked.stdout)
    return account


def _killed_on_its_way(bench: Workbench, emulator: RunningEmulator, job: Path, rows: int) -> int:
    running = bench.start(job)
    deadline = time.monotonic() + 600
    while emulator.bill().delivered < rows // 3 and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    running.kill()
    running.communicate(timeout=60)
    return running.returncode


# ---------------------------------------------------------------------------------- the reckoning


def reckon(account: Account, bill: Bill, output: Path) -> None:
    """Every entry of the bill is looked for in the ledger."""
    ledger = read_table(output, "attempts")
    booked = {row["provider_request_id"]: row for row in ledger if row["provider_request_id"]}
    account.requests, account.billed_ticks = bill.requests, bill.ticks
    account.delivered_ticks = bill.ticks_delivered
    account.ledger_ticks = sum(row["cost_ticks"] or 0 for row in ledger)
    unseen: defaultdict[str, list[int]] = defaultdict(list)
    for entry in bill.entries:
        row = booked.get(entry.request_id)
        if row is not None and row["cost_ticks"] is not None:
            if row["cost_ticks"] != entry.ticks:
                account.wrong.append(f"{entry.echo}: the ledger says {row['cost_ticks']}, the bill {entry.ticks}")
        elif row is not None and row["state"] not in UNSURE:
            account.untold_ticks += entry.ticks
            if entry.ticks > (row["bound_ticks"] or 0):
                account.wrong.append(f"{entry.echo}: cost {entry.ticks}, unsaid, and its bound is {row['bound_ticks']}")
        elif entry.ticks:
            unseen[entry.echo].append(entry.ticks)
            account.unread_ticks += entry.ticks if entry.delivered_whole else 0
    seen = account.ledger_ticks + account.unread_ticks + account.untold_ticks
    if seen != bill.ticks_delivered:
        account.wrong.append(f"{bill.ticks_delivered} ticks were delivered whole, {seen} are accounted for")
    _check_unsure(account, ledger, unseen)


def _check_unsure(account: Account, ledger: list[dict[str, Any]], unseen: dict[str, list[int]]) -> None:
    """A billed answer that did not arrive is listed under its row, within the listed bounds."""
    unsure = [row for row in ledger if row["state"] in UNSURE]
    listed = Counter(row["row_id"] for row in unsure)
    bounds: Counter[str] = Counter()
    for row in unsure:
        if row["bound_ticks"] is None:
            account.wrong.append(f"{row['row_id']}: an attempt of unknown end has no bound")
        bounds[row["row_id"]] += row["bound_ticks"] or 0
    for name, ticks in unseen.items():
        if len(ticks) > listed[name] or sum(ticks) > bounds[name]:
            account.unlisted_ticks += sum(ticks)
            account.wrong.append(f"{name}: billed {len(ticks)} times unseen, {listed[name]} listed; {ticks}")
    account.unsure_attempts, account.unsure_bound_ticks = len(unsure), sum(bounds.values())
    account.unsure_billed_ticks = sum(map(sum, unseen.values()))


def _heard(account: Account, code: int, said: str) -> None:
    document = json.loads(said)
    account.verify = f"exit {code}, {document['cost_ticks']:,} ticks"
    if code != 0 or document["cost_ticks"] != account.ledger_ticks:
        wrong = [each["says"] for each in document["findings"] if each["mark"] == "wrong"]
        account.wrong.append(f"verify does not agree: {account.verify} {wrong}")
    if document["ambiguous_attempts"] != account.unsure_attempts:
        account.wrong.append(f"verify counts {document['ambiguous_attempts']} attempts of unknown end")


def missing_kinds(account: Account) -> list[str]:
    """Kinds of faults that hit nothing: then nothing was proved of them."""
    return [str(kind) for kind in RATES_OF if not account.by_fault.get(str(kind))]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/money", description=__doc__)
    parser.add_argument("--rows", type=int, help="default: 5,000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=0.10, help="of requests that meet a fault")
    pilots = parser.add_argument_group("is what a pilot says of the whole true?", description=proofs.pilot.__doc__)
    pilots.add_argument(
        "--pilot", type=int, metavar="N", help="prove that instead: N rows asked, of 2,000 unless --rows"
    )
    pilots.add_argument("--seeds", type=int, default=20)
    pilots.add_argument("--rule", choices=list(IMAGE_RULES), default="tiles", help="how the provider counts images")
    pilots.add_argument("--restless", type=float, default=0.2, help="how much thinking differs: variance over mean")
    pilots.add_argument("--sabotage", action="store_true", help="ask the first N rows: must not pass")
    chosen = parser.parse_args(arguments)
    if chosen.pilot:
        rows = chosen.rows or 2_000
        return proofs.pilot.prove(
            rows, chosen.pilot, chosen.seeds, chosen.rule, chosen.restless, sabotage=chosen.sabotage
        )
    with tempfile.TemporaryDirectory(prefix="batchvision-money-") as name:
        started = time.monotonic()
        account = play(Path(name), chosen.rows or 5_000, chosen.seed, chosen.share)
    if missing := missing_kinds(account):
        account.wrong.append(f"faults that hit nothing: {', '.join(missing)}")
    print("\n".join(account.lines()))
    print(f"{'NOT RIGHT' if account.wrong else 'to the tick'} ({time.monotonic() - started:.0f} s)")
    return 1 if account.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
