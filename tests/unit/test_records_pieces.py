"""A request's pieces: their lengths are known before they are encoded, and what leaves is what the length says."""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st

from batchvision.records import Base64, as_sent, joined


@given(st.binary(max_size=300))
def test_the_length_is_that_of_the_base64(content: bytes) -> None:
    piece = Base64(content)
    assert piece.encoded() == base64.b64encode(content)
    assert len(piece) == len(piece.encoded())


@given(st.lists(st.binary(max_size=40) | st.builds(Base64, st.binary(max_size=40))))
def test_pieces_are_sent_in_order_and_as_long_as_said(pieces: list[bytes | Base64]) -> None:
    sent = as_sent(pieces)
    assert [len(piece) for piece in sent] == [len(piece) for piece in pieces]
    assert joined(pieces) == b"".join(sent)
    assert all(after is before for before, after in zip(pieces, sent, strict=True) if isinstance(before, bytes))
