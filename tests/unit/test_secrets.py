from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from batchvision.secrets import MASK, Secret, Secrets

KEY = "xai-Abc/123+def=="


def test_a_secret_never_shows_itself() -> None:
    secret = Secret(KEY)
    assert KEY not in f"{secret} {secret!r} {[secret]}"
    assert secret.reveal() == KEY


def test_an_empty_secret_is_false() -> None:
    assert not Secret("")
    assert Secret(KEY)


def test_the_key_is_masked_in_text_and_in_bytes() -> None:
    secrets = Secrets(Secret(KEY))
    assert secrets.mask(f"Bearer {KEY} was refused") == f"Bearer {MASK} was refused"
    assert secrets.mask_bytes(f'{{"error":"{KEY}"}}'.encode()) == b'{"error":"***"}'


def test_the_key_is_masked_in_a_url() -> None:
    assert Secrets(Secret(KEY)).mask("https://x/?k=xai-Abc%2F123%2Bdef%3D%3D&a=1") == "https://x/?k=***&a=1"


def test_a_key_that_begins_another_leaves_nothing_of_the_longer_one() -> None:
    secrets = Secrets(Secret("abcd"), Secret("abcdefgh"))
    assert secrets.mask("abcdefgh abcd") == f"{MASK} {MASK}"


def test_text_without_the_key_is_left_alone() -> None:
    body = b"\xff\xfe not text"
    assert Secrets(Secret(KEY)).mask_bytes(body) is body
    assert Secrets().mask("anything") == "anything"


def test_a_value_too_short_to_be_a_key_masks_nothing() -> None:
    assert Secrets(Secret("a")).mask("banana") == "banana"


@given(st.text(), st.text())
def test_no_text_around_the_key_keeps_it(before: str, after: str) -> None:
    masked = Secrets(Secret(KEY)).mask(json.dumps(before + KEY + after, ensure_ascii=False))
    assert KEY not in masked
