"""The bill adds up, and repeated generations are counted."""

from __future__ import annotations

import json

from batchvision.emulator.bodies import Generated
from batchvision.emulator.faults import FaultKind
from batchvision.emulator.ledger import Ledger, OpenEntry
from batchvision.emulator.tickets import Tickets


def bought(ledger: Ledger, content_hash: int, ticks: int, echo: str = "", delivered: bool = True) -> OpenEntry:
    entry = ledger.open("xai")
    entry.content_hash, entry.echo = content_hash, echo
    ledger.generated(entry, f"id-{entry.number}", ticks)
    ledger.answered(entry, 200)
    if delivered:
        ledger.delivered(entry)
    return entry


def test_sums_hold_charges_and_deliveries() -> None:
    ledger = Ledger(10)
    bought(ledger, 1, 100)
    bought(ledger, 2, 50, delivered=False)
    refused = ledger.open("xai")
    ledger.fault(refused, FaultKind.REJECTED)
    ledger.answered(refused, 400)
    ledger.delivered(refused)
    ledger.polled(202)
    bill = ledger.bill()
    assert (bill.requests, bill.polls, bill.generated, bill.delivered) == (3, 1, 2, 1)
    assert (bill.ticks, bill.ticks_delivered) == (150, 100)
    assert bill.by_status == {200: 2, 202: 1, 400: 1}
    assert bill.by_fault == {"rejected": 1}
    assert [entry.delivered_whole for entry in bill.entries] == [True, False, False]


def test_an_answer_is_delivered_once() -> None:
    ledger = Ledger(10)
    ledger.delivered(bought(ledger, 1, 100))
    assert ledger.bill().ticks_delivered == 100


def test_the_same_request_bought_again_is_counted() -> None:
    ledger = Ledger(10)
    for content_hash in (1, 1, 2, 1):
        bought(ledger, content_hash, 5, echo=f"row-{content_hash}")
    assert ledger.bill().generated_again == 2
    assert ledger.bill().by_echo() == {"row-1": 3, "row-2": 1}


def test_single_entries_are_the_newest_and_sums_are_complete() -> None:
    ledger = Ledger(3)
    for number in range(10):
        bought(ledger, number, 1)
    bill = ledger.bill()
    assert [entry.number for entry in bill.entries] == [8, 9, 10]
    assert bill.ticks == 10


def test_a_bill_is_a_picture_and_reads_as_json() -> None:
    ledger = Ledger(3)
    bought(ledger, 1, 7, echo="a")
    before = ledger.bill()
    bought(ledger, 2, 7)
    assert before.requests == 1
    document = json.loads(json.dumps(before.to_document()))
    assert document["entries"][0]["echo"] == "a"
    assert document["by_status"] == {"200": 1}
    assert "entries" not in before.to_document(with_entries=False)


def test_tickets_are_found_until_they_are_collected_or_expire() -> None:
    now = 0.0
    tickets = Tickets(lambda: now)
    generated: Generated = object.__new__(Generated)
    for name in ("a", "b"):
        tickets.accept(name, generated, OpenEntry(1, "xai", 0.0), None, wait_seconds=5, life_seconds=100)
    ticket = tickets.find("a")
    assert ticket is not None
    assert not tickets.is_ready(ticket)
    now = 5.0
    assert tickets.is_ready(ticket)
    tickets.forget("a")
    assert tickets.find("a") is None
    now = 100.0
    assert tickets.find("b") is None
    assert len(tickets) == 0


def test_expired_tickets_do_not_pile_up() -> None:
    now = 0.0
    tickets = Tickets(lambda: now)
    generated: Generated = object.__new__(Generated)
    for number in range(100):
        now = float(number)
        tickets.accept(str(number), generated, OpenEntry(1, "xai", 0.0), None, wait_seconds=0, life_seconds=10)
    assert len(tickets) <= 11
