from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchvision.secrets import MASK, Secret, Secrets, url_credentials

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
    secrets = Secrets(Secret("abcdefgh"), Secret("abcdefgh-ijkl"))
    assert secrets.mask("abcdefgh-ijkl abcdefgh") == f"{MASK} {MASK}"


def test_text_without_the_key_is_left_alone() -> None:
    body = b"\xff\xfe not text, 50% off &#38; \\/ a signature?sig"
    assert Secrets(Secret(KEY)).mask_bytes(body) == body
    assert Secrets().mask("anything") == "anything"


def test_a_value_too_short_to_be_a_key_masks_nothing() -> None:
    for word in ("a", "EMPTY", "none", "test"):
        assert Secrets(Secret(word)).mask(f"row {word}: a banana") == f"row {word}: a banana"


@given(st.text(), st.text())
def test_no_text_around_the_key_keeps_it(before: str, after: str) -> None:
    masked = Secrets(Secret(KEY)).mask(json.dumps(before + KEY + after, ensure_ascii=False))
    assert KEY not in masked


# ---------------------------------------------------------------------------------- encoded, escaped


@given(st.binary(max_size=9), st.binary(max_size=9))
def test_no_base64_of_text_with_the_key_in_it_tells_the_key(before: bytes, after: bytes) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        encoded = encode(before + KEY.encode() + after).decode()
        masked = Secrets(Secret(KEY)).mask(encoded)
        assert MASK in masked
        left = [len(piece) for piece in masked.split(MASK)]
        assert sum(left) <= len(encoded) - len(KEY)


def _json(character: str) -> str:
    return f"\\u{ord(character):04X}"


@pytest.mark.parametrize(
    "escape",
    [
        _json,
        lambda c: _json(c).lower().replace("\\", "\\\\\\\\"),
        lambda c: f"%{ord(c):02x}",
        lambda c: f"%25{ord(c):02X}",
        lambda c: f"&#{ord(c)};",
        lambda c: f"&#x{ord(c):X};",
        lambda c: "\\" + c if c == "/" else c,
        lambda c: c if c.isalnum() else _json(c),
    ],
)
def test_the_key_is_masked_whichever_of_its_characters_are_escaped(escape: Callable[[str], str]) -> None:
    text = "before " + "".join(map(escape, KEY)) + " after"
    assert Secrets(Secret(KEY)).mask(text) == f"before {MASK} after"
    assert Secrets(Secret(KEY)).mask_bytes(text.encode()) == f"before {MASK} after".encode()


@given(st.lists(st.booleans(), min_size=len(KEY), max_size=len(KEY)))
def test_the_key_is_masked_in_json_that_escapes_some_of_it(escaped: list[bool]) -> None:
    text = "".join(_json(c) if flag else c for c, flag in zip(KEY, escaped, strict=True))
    assert json.loads(f'"{text}"') == KEY
    assert KEY not in json.loads(f'"{Secrets(Secret(KEY)).mask(text)}"')


@pytest.mark.parametrize("key", ['abc"def"ghi', "abc\\def\\ghi", "<tag>&more"])
def test_a_key_with_quotes_or_backslashes_is_masked_in_json_and_html(key: str) -> None:
    for text in (json.dumps(key), json.dumps(json.dumps(key)), key):
        assert MASK in Secrets(Secret(key)).mask(text)
        assert "def" not in Secrets(Secret(key)).mask(text)
    assert html.unescape(Secrets(Secret("tag>more1")).mask("tag&#62;more1")) == MASK


@given(st.text(alphabet=KEY + "\\u0%&#;x/=?sig", max_size=60))
def test_masking_what_is_masked_changes_nothing_and_bytes_are_as_text(text: str) -> None:
    secrets = Secrets(Secret(KEY))
    once = secrets.mask(text)
    assert secrets.mask(once) == once
    assert secrets.mask_bytes(text.encode()) == once.encode()


def test_a_document_is_masked_throughout() -> None:
    document = {"a": [KEY, 1, None, True], "b": {"c": (f"x {KEY}",)}, "d": 1.5}
    masked = Secrets(Secret(KEY)).mask_document(document)
    assert masked == {"a": [MASK, 1, None, True], "b": {"c": [f"x {MASK}"]}, "d": 1.5}


def test_nothing_shows_what_the_secrets_are() -> None:
    secrets = Secrets(Secret(KEY))
    assert KEY not in f"{secrets} {secrets!r}"


# ---------------------------------------------------------------------------------- signed URLs

SIGNED = (
    "https://bucket.s3.amazonaws.com/a.jpg?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAEXAMPLE%2F2026&"
    "X-Amz-Date=20261120T000000Z&X-Amz-Security-Token=tok%2Fen&X-Amz-Signature=c0ffee00c0ffee00"
)
OPEN = ("AKIAEXAMPLE", "tok%2Fen", "c0ffee00c0ffee00")


@pytest.mark.parametrize(
    "write",
    [
        str,
        lambda url: quote(url, safe=""),
        lambda url: quote(quote(url, safe=""), safe=""),
        json.dumps,
        html.escape,
        lambda url: json.dumps(url).replace("&", "\\u0026").replace("=", "\\u003d"),
        lambda url: f"see [it]({url}) and <{url}>, '{url}'",
    ],
)
def test_the_credentials_of_a_signed_url_are_masked_in_any_text(write: Callable[[str], str]) -> None:
    masked = Secrets().mask(write(SIGNED))
    assert not [part for part in OPEN if part in masked]
    assert "a.jpg" in masked
    assert Secrets().mask_bytes(write(SIGNED).encode()).decode() == masked


@pytest.mark.parametrize(
    "url",
    [
        "https://acc.blob.core.windows.net/c/a.jpg?sv=2024&se=2026-12-01&sig=Zm9vYmFyMTIz%3D",
        "https://storage.googleapis.com/b/a.jpg?X-Goog-Algorithm=G&X-Goog-Signature=Zm9vYmFyMTIz",
        "https://d1.cloudfront.net/a.jpg?Expires=1&Signature=Zm9vYmFyMTIz&Key-Pair-Id=K1",
    ],
)
def test_signatures_of_the_usual_stores_are_known(url: str) -> None:
    assert "Zm9vYmFyMTIz" not in Secrets().mask(url)


@pytest.mark.parametrize("write", [str, lambda url: quote(url, safe=""), lambda url: url.replace("/", "\\/")])
@pytest.mark.parametrize("password", ["pa55word", "p%40ss%3Aword", "pa55:word"])
def test_the_password_in_a_url_is_masked(write: Callable[[str], str], password: str) -> None:
    masked = Secrets().mask(write(f"see https://reader:{password}@host.example/a.jpg?size=2"))
    assert "word" not in masked and "ss" not in masked
    assert "reader" in masked and "size" in masked
    assert Secrets().mask(masked) == masked


def test_what_only_looks_like_a_signature_stays() -> None:
    for text in (
        "signature: none",
        "a=1&size=big",
        "design=flat?",
        "the sig=natures",
        "https://x/?page=2",
        "https://x:8080/a@b",
        "see https://x.com: write to me@x.com",
        "https://me@x.com/a",
    ):
        assert Secrets().mask(text) == text


def test_what_opens_an_images_url_is_known_by_name() -> None:
    url = "https://user:pass-word-1@x.com/a.jpg?size=large-enough&token=abcdefgh1&api_key=k%2Fe%2Fy-12345"
    found = {secret.reveal() for secret in url_credentials(url)}
    assert found == {"pass-word-1", "abcdefgh1", "k%2Fe%2Fy-12345", "k/e/y-12345"}
    assert url_credentials("https://x.com/a.jpg?size=large-enough") == ()
    assert url_credentials("http://[broken") == ()


def _escapes_of_a_key() -> list[str]:
    return [KEY, quote(KEY, safe=""), html.escape(KEY), "".join(f"&#{ord(c)};" for c in KEY), KEY.replace("/", "\\/")]


_PIECES = ["?", "&", "%3f", "%2526", "&amp;", "\\u0026", "sig", "X-Amz-Signature", "Signature", "=", "%3D", "\\u003d"]
_PIECES += ["https:", ":", "//", "\\/\\/", "%2F%2F", "user", "@", "%40", "\\u0040", "abc", " ", *_escapes_of_a_key()]


@given(st.lists(st.sampled_from(_PIECES), max_size=14))
def test_what_is_looked_for_first_misses_nothing_that_the_patterns_would_find(pieces: list[str]) -> None:
    secrets, text = Secrets(Secret(KEY)), "".join(pieces)
    expected = text
    for form in secrets._text._forms:
        expected = expected.replace(form, MASK)
    for pattern, _, instead in secrets._text._searches:
        expected = pattern.sub(instead, expected)
    assert secrets.mask(text) == expected


def test_a_key_that_is_added_later_is_hidden_beside_the_first_also_through_a_bound_method() -> None:
    secrets = Secrets(Secret("first-secret-key"))
    mask, mask_bytes = secrets.mask, secrets.mask_bytes
    secrets.add(Secret("second-secret-key"))
    assert mask("first-secret-key, second-secret-key") == "***, ***"
    assert mask_bytes(b"second-secret-key") == b"***"
