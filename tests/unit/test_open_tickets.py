"""Which tickets a run may collect."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from checkpoint_rows import START as NOW
from checkpoint_rows import an_intent

from batchvision.checkpoint.journal_records import Accepted
from batchvision.checkpoint.record_json import decode, encode
from batchvision.records import Exchange
from batchvision.runner.opening import OpenTickets, place_of

HERE = "https://api.x.ai/v1"


@pytest.mark.parametrize(
    ("base_url", "place"),
    [
        ("https://api.x.ai/v1", HERE),
        ("https://API.x.ai/v1/", HERE),
        ("https://api.x.ai/v1?api-version=2", HERE),
        ("https://user:word@api.x.ai/v1#top", HERE),
        ("http://127.0.0.1:8765/v1", "http://127.0.0.1:8765/v1"),
        ("https://api.x.ai/v2", "https://api.x.ai/v2"),
    ],
)
def test_a_place_is_the_base_url_without_user_query_and_fragment(base_url, place):
    assert place_of(base_url) == place


def a_ticket(number, place, provider="xai"):
    intent = an_intent(number)._replace(provider=provider)
    return Exchange(intent, ticket=f"t{number}", ticket_at=NOW, ticket_place=place)


def test_tickets_are_sorted_by_provider_place_and_age():
    tickets = [
        a_ticket(1, HERE),
        a_ticket(2, "https://old.example/v1"),
        a_ticket(3, None),
        a_ticket(4, HERE, "openrouter"),
    ]
    young = OpenTickets.sorted(tickets, "xai", HERE, NOW + timedelta(hours=23))
    assert young.here == ("x1", "x3")
    expiry = NOW + timedelta(hours=24)
    assert young.elsewhere == {"xai at https://old.example/v1": (1, expiry), f"openrouter at {HERE}": (1, expiry)}
    old = OpenTickets.sorted(tickets, "xai", HERE, expiry)
    assert (old.here, old.elsewhere, old.expired) == (("x1", "x3"), {}, ("x2", "x4"))
    assert young.not_here_ticks == old.not_here_ticks == 2 * tickets[0].intent.bound_ticks
    words = " / ".join(young.sentences())
    assert "1 open tickets were given by xai at https://old.example/v1" in words


def test_a_ticket_record_of_an_earlier_version_has_no_place_and_may_have_been_read():
    plain = Accepted("x-1", "t1", NOW)
    assert b"place" not in encode(plain, str)
    assert b"unread" not in encode(plain, str)
    for entry in (plain, Accepted("x-1", "t1", NOW, HERE, True)):
        assert decode(json.loads(encode(entry, str))) == entry
