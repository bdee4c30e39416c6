"""Lost answers and double payments: the emulator's bill compared with the output.

The bill is the truth. The tables are read as a user reads them, and the journal right after a kill as text, without
the code that wrote it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import pyarrow.parquet as pq

from batchvision.emulator.ledger import Bill

UNSURE = ("ambiguous", "lost_after_read")


class OnDisk(NamedTuple):
    """The exchanges in the journal of a dead process, by id."""

    rows: dict[str, str]  #: of every exchange, its row
    answers: dict[str, str]  #: the provider's id of each answer
    tickets: dict[str, str]  #: tickets without an answer
    in_flight: frozenset[str]  #: exchanges that were sent, perhaps, and nothing more is known
    accepted: frozenset[str]  #: all tickets, those with an answer too


def on_disk(output: Path) -> OnDisk:
    """Read ``open.log`` and the unsealed segments of each shard; lines that are not whole count for nothing."""
    rows: dict[str, str] = {}
    answers: dict[str, str] = {}
    tickets: dict[str, str] = {}
    open_: set[str] = set()
    accepted: set[str] = set()
    for record in chain.from_iterable(map(_unsealed, sorted((output / ".batchvision").glob("*of*")))):
        name = record.get("exchange_id", "")
        match record["kind"]:
            case "intent":
                rows[name] = record["row_id"]
                open_.add(name)
            case "ticket":
                tickets[name] = record["ticket"]
                accepted.add(record["ticket"])
            case "answer":
                answers[name] = _provider_id(record)
                tickets.pop(name, None)
            case "closed" | "void" | "exchange_removed":
                open_.discard(name)
                tickets.pop(name, None)
    return OnDisk(rows, answers, tickets, frozenset(open_ - answers.keys() - tickets.keys()), frozenset(accepted))


def _unsealed(shard: Path) -> Iterable[dict[str, Any]]:
    """A group of ``open.log`` counts with its last record only."""
    records, group, sealed = list[dict[str, Any]](), list[dict[str, Any]](), 0
    for record in _records(shard / "open.log") if (shard / "open.log").exists() else ():
        group.append(record)
        if "last" in record:
            records, group = [*records, *group], []
            sealed = max([sealed, *(each["seq"] for each in records if each["kind"] == "sealed")])
    for path in sorted(shard.glob("journal-*.log")):
        if int(path.stem.removeprefix("journal-")) > sealed:
            records += _records(path)
    return records


def _records(path: Path) -> Iterable[dict[str, Any]]:
    for line in path.read_bytes().split(b"\n"):
        if line[:9] == b"%08x " % crc32(line[9:]):
            yield json.loads(line[9:])


def _provider_id(record: dict[str, Any]) -> str:
    try:
        return str(json.loads(record.get("body", ""))["id"])
    except (ValueError, KeyError, TypeError):
        return ""


def read_table(output: Path, table: str) -> list[dict[str, Any]]:
    paths = sorted((output / table).rglob("part-*.parquet"))
    return [row for path in paths for row in pq.ParquetFile(path).read().to_pylist()]


# ---------------------------------------------------------------------------------- one output, gone through


@dataclass
class Tally:
    """Sums over outputs, and a sentence for everything that should not be."""

    outputs: int = 0
    kills: int = 0
    not_reached: int = 0  #: a planned death that the run ended before
    acknowledged: int = 0  #: answers and tickets that were on disk when a process was killed
    delivered: int = 0
    ambiguous: int = 0
    lost_after_read: int = 0
    lost: int = 0
    paid_twice: int = 0
    paid_twice_unlisted: int = 0
    most_in_flight: int = 0
    faults: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        for each in fields(self):
            mine, its = getattr(self, each.name), getattr(other, each.name)
            setattr(self, each.name, max(mine, its) if each.name == "most_in_flight" else mine + its)

    def lines(self) -> list[str]:
        words = [each.name for each in fields(self) if each.name != "faults"]
        return [f"  {word.replace('_', ' '):<22} {getattr(self, word):>8,}" for word in words]


class Reckoner:
    """Follows one output from kill to kill, and adds up at the end."""

    def __init__(self, output: Path, concurrency: int) -> None:
        self._output = output
        self._concurrency = concurrency
        self._answers: dict[str, str] = {}
        self._tickets: dict[str, str] = {}
        self._sealed: set[str] = set()
        self._asked: set[str] = set()
        self.in_flight: dict[str, str] = {}
        self.tally = Tally(outputs=1)

    def killed(self, bill: Bill, last_words: str) -> None:
        """Call it after each kill, before anything is started again."""
        left = on_disk(self._output)
        ledger = read_table(self._output, "attempts")
        self._answers |= left.answers
        self._sealed |= {row["provider_request_id"] for row in ledger if row["provider_request_id"]}
        self._tickets |= left.tickets
        fresh = {name: left.rows[name] for name in left.in_flight if name not in self.in_flight}
        self.in_flight |= fresh
        self.tally.kills += 1
        self.tally.most_in_flight = max(self.tally.most_in_flight, len(fresh))
        if len(fresh) > self._concurrency:
            self._say(f"{len(fresh)} requests were in flight at a kill, with concurrency {self._concurrency}")
        self._asked |= set(left.rows.values()) | {row["row_id"] for row in ledger}
        if unknown := {entry.echo for entry in bill.entries if entry.echo} - self._asked:
            self._say(f"asked, and no intent was on disk: {_some(unknown)}")
        self._check_last_words(last_words, left)

    def _check_last_words(self, last_words: str, left: OnDisk) -> None:
        """An answer may be read, and a ticket asked for, only when it is on disk."""
        _, _, row = last_words.partition("row=")
        if row and row in {left.rows[name] for name in left.in_flight}:
            self._say(f"the answer of {row} was being read and was not on disk")
        if " poll:" in last_words and (ticket := last_words.rpartition("/")[2]) not in left.tickets.values():
            self._say(f"ticket {ticket} was asked for and was not on disk")

    def settle(self, bill: Bill, summary: dict[str, Any], rows: Iterable[str]) -> Tally:
        """The output is complete: hold it against the bill."""
        results, attempts = read_table(self._output, "results"), read_table(self._output, "attempts")
        failures = {row["row_id"]: row["error_kind"] for row in read_table(self._output, "failures")}
        tally, unsure = self.tally, [row for row in attempts if row["state"] in UNSURE]
        tally.acknowledged = len(self._sealed | set(self._answers.values())) + len(self._tickets)
        tally.delivered = bill.delivered
        tally.ambiguous = sum(row["state"] == "ambiguous" for row in unsure)
        tally.lost_after_read = len(unsure) - tally.ambiguous
        self._check_rows(results, failures, list(rows), summary)
        self._check_acknowledged(attempts)
        self._check_bill(bill, attempts, unsure)
        self._check_listed(unsure, summary)
        return tally

    # ---------------------------------------------------------------------------- the questions

    def _check_rows(
        self, results: list[dict[str, Any]], failures: dict[str, str], rows: list[str], summary: dict[str, Any]
    ) -> None:
        ids = [row["row_id"] for row in results]
        if len(ids) != len(set(ids)):
            self._say(f"in results twice: {_some(row for row, times in Counter(ids).items() if times > 1)}")
        if any(kind != "lost_after_read" for kind in failures.values()):
            self._say(f"failed: {failures}")
        if missing := set(rows) - set(ids) - set(failures):
            self._say(f"neither completed nor failed after the last run: {_some(missing)}")
        for row in results:
            if row["row_id"] not in row["output_text"]:
                self._say(f"{row['row_id']} has the answer of another row")
        if summary["exit_code"] != (3 if failures else 0):
            self._say(f"the last run left with exit {summary['exit_code']}: {summary['message']}")

    def _check_acknowledged(self, attempts: list[dict[str, Any]]) -> None:
        """Every answer on disk at a kill is in the ledger."""
        known = {row["provider_request_id"] for row in attempts}
        lost = [answer for answer in (*self._answers.values(), *self._sealed) if answer and answer not in known]
        tickets = {row["ticket"] for row in attempts if row["state"] in ("ok", "lost_after_read")}
        lost += [name for name, ticket in self._tickets.items() if ticket not in tickets]
        if lost:
            self.tally.lost += len(lost)
            self._say(f"acknowledged and not in the ledger: {_some(lost)}")

    def _check_bill(self, bill: Bill, attempts: list[dict[str, Any]], unsure: list[dict[str, Any]]) -> None:
        """Every delivered answer is in the ledger with its price, or its row is listed as unsure.

        The charges of a row beyond its first answer are within its listed bounds.
        """
        booked = Counter(row["provider_request_id"] for row in attempts if row["provider_request_id"])
        listed = Counter(row["row_id"] for row in unsure)
        if twice := [name for name, times in booked.items() if times > 1]:
            self._say(f"in the ledger twice: {_some(twice)}")
        missing = Counter(e.echo for e in bill.entries if e.delivered_whole and e.request_id not in booked)
        for row, times in missing.items():
            if times > listed[row]:
                self.tally.lost += times - listed[row]
                self._say(f"{row}: {times} answers were delivered and are not in the ledger, {listed[row]} are listed")
        for row, times in bill.by_echo().items():
            if times > 1:
                self.tally.paid_twice += times - 1
            if times - 1 > listed[row]:
                self.tally.paid_twice_unlisted += times - 1 - listed[row]
                self._say(f"{row} was charged {times} times, and {listed[row]} of its attempts are listed as unsure")
        charged = sum(entry.ticks for entry in bill.entries if entry.request_id in booked)
        ledger = sum(row["cost_ticks"] or 0 for row in attempts)
        if charged != ledger:
            self._say(f"the ledger says {ledger} ticks, the bill {charged} for the same answers")

    def _check_listed(self, unsure: list[dict[str, Any]], summary: dict[str, Any]) -> None:
        """A row is unsure only if the journal showed it in flight at a kill. Each is listed once."""
        ambiguous = Counter(row["row_id"] for row in unsure if row["state"] == "ambiguous")
        in_flight = Counter(self.in_flight.values())
        if ambiguous != in_flight:
            self._say(f"in flight at the kills: {_some(in_flight)}; listed as ambiguous: {_some(ambiguous)}")
        if summary["rows_ambiguous"] > self._concurrency:
            self._say(f"rows_ambiguous is {summary['rows_ambiguous']}, with concurrency {self._concurrency}")

    def _say(self, fault: str) -> None:
        self.tally.faults.append(fault)


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
