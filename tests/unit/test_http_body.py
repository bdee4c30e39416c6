"""The cap on decoded bytes holds however a body is cut into pieces."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchvision.http.body import KEPT_OF_TOO_LONG, MOST_MEMBERS, Body

ENCODERS = {"gzip": gzip.compress, "deflate": zlib.compress, "": bytes, "x-gzip": gzip.compress}


def fed(body: Body, content: bytes, cuts: list[int]) -> Body:
    at = 0
    for cut in [*sorted(cut % (len(content) + 1) for cut in cuts), len(content)]:
        body.feed(content[at:cut])
        at = cut
    return body


@given(st.binary(max_size=2_000), st.sampled_from(sorted(ENCODERS)), st.lists(st.integers(0, 5_000), max_size=8))
def test_a_body_is_the_same_however_it_is_cut(content: bytes, coding: str, cuts: list[int]) -> None:
    body = fed(Body(coding, 10_000), ENCODERS[coding](content), cuts)
    assert body.content() == content
    assert body.is_readable


@given(st.binary(min_size=1, max_size=500), st.sampled_from(["gzip", "deflate", "br", ""]))
def test_no_bytes_make_it_raise(content: bytes, coding: str) -> None:
    body = Body(coding, 100)
    body.feed(content)
    body.feed(content)
    assert len(body.content()) <= KEPT_OF_TOO_LONG


@pytest.mark.parametrize("coding", ["gzip", "deflate", ""])
def test_at_the_cap_it_is_whole_and_one_byte_above_it_is_not(coding: str) -> None:
    at, above = Body(coding, 1_000), Body(coding, 1_000)
    at.feed(ENCODERS[coding](bytes(1_000)))
    wants_more = above.feed(ENCODERS[coding](bytes(1_001)))
    assert at.is_readable
    assert above.is_too_long
    assert not above.is_readable
    assert not wants_more


def test_a_bomb_is_never_inflated_beyond_the_cap() -> None:
    body = Body("gzip", 2_000_000)
    body.feed(gzip.compress(bytes(100_000_000), 9))
    assert body.is_too_long
    assert len(body.content()) == KEPT_OF_TOO_LONG


def test_damage_in_the_middle_is_seen() -> None:
    packed = bytearray(gzip.compress(b"some text " * 100))
    packed[-6] ^= 0xFF  # its checksum
    body = Body("gzip", 10_000)
    body.feed(bytes(packed))
    assert body.is_damaged
    assert not body.is_readable


@pytest.mark.parametrize("wbits", [-15, 15, 31])
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_deflate_of_every_form_is_read_however_small_its_first_piece_is(wbits: int, size: int) -> None:
    packer = zlib.compressobj(wbits=wbits)
    packed = packer.compress(b"some text " * 100) + packer.flush()
    body = Body("deflate", 10_000)
    for start in range(0, len(packed), size):
        body.feed(packed[start : start + size])
    assert body.content() == b"some text " * 100
    assert body.is_readable


def test_members_of_nothing_without_end_are_damage() -> None:
    """Each costs a decompressor, and none of them a byte of what is allowed."""
    members = gzip.compress(b"") * 1000
    body = Body("gzip", 10_000)
    fed = 0
    while body.feed(members):
        fed += 1
    assert 9 <= fed <= MOST_MEMBERS // 1000
    assert not body.is_readable


def test_an_unrequested_encoding_is_kept_but_not_readable() -> None:
    body = Body("br", 10_000)
    body.feed(b"\x8b\x02\x80{}\x03")
    assert body.content() == b"\x8b\x02\x80{}\x03"
    assert not body.is_readable


def test_an_empty_body_is_complete_in_each_encoding() -> None:
    assert Body("gzip", 10).is_readable
