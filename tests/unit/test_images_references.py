"""Identity follows the image and not its signature; nothing shown holds image data or a credential."""

from __future__ import annotations

import base64
import os
import re
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchvision.errors import ImageTooLarge, ImageUnreachable, ImageUnreadable
from batchvision.images import ImageFolder, references
from batchvision.images.data_uris import as_data_uri, read_data_uri
from batchvision.images.references import (
    check_url,
    identity,
    kind_of,
    named_url,
    redact_reference,
    redact_url,
    several_in,
    stamp,
    url_identity,
)
from batchvision.records import ImageKind, ImageRef

PIXELS = b"\x89PNG not really"
DIGEST = sha256(PIXELS).hexdigest()
DATA_URI = "data:image/png;base64," + base64.b64encode(PIXELS).decode()
S3 = "https://b.s3.amazonaws.com/shoes/a.jpg"
S3_SIGNED = f"{S3}?X-Amz-Algorithm=AWS4&X-Amz-Credential=AKIA&X-Amz-Expires=60&X-Amz-Signature=canary"
AZURE = "https://acc.blob.core.windows.net/c/a.png"


def ref(kind: ImageKind, reference: str, content: bytes | None = None, version: str | None = None) -> ImageRef:
    return ImageRef(kind, reference, "image", content, version)


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ("a.jpg", ImageKind.PATH),
        ("/srv/a.jpg", ImageKind.PATH),
        ("C:/a.jpg", ImageKind.PATH),
        ("a:b.jpg", ImageKind.PATH),
        ("file:///a.jpg", ImageKind.PATH),
        ("HTTPS://example.com/a.jpg", ImageKind.URL),
        ("http://example.com/a.jpg", ImageKind.URL),
        ("DATA:image/png;base64,AA==", ImageKind.DATA),
        ("s3://bucket/a.jpg", ImageKind.OBJECT),
        ("gs://bucket/a.jpg", ImageKind.OBJECT),
    ],
)
def test_a_reference_has_a_kind(reference: str, kind: ImageKind) -> None:
    assert kind_of(reference) is kind


# ---------------------------------------------------------------------------------- URLs


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (S3_SIGNED, S3),
        (S3_SIGNED + "&versionId=7", S3 + "?versionId=7"),
        (f"{S3}?AWSAccessKeyId=AK&Expires=1&Signature=canary", S3),
        ("https://cdn.example/a?Policy=canary&Signature=canary&Key-Pair-Id=K&w=2", "https://cdn.example/a?w=2"),
        (f"{AZURE}?sv=2024&sr=b&se=2026&sp=r&sig=canary%3D", AZURE),
        ("https://storage.googleapis.com/b/a.jpg?X-Goog-Signature=canary", "https://storage.googleapis.com/b/a.jpg"),
        ("https://user:canary@Example.COM/a.jpg#canary", "https://example.com/a.jpg"),
        ("https://example.com/a.jpg?w=100&token=canary", "https://example.com/a.jpg?w=100"),
        ("https://example.com/a.jpg?X%2DAmz%2DSignature=canary", "https://example.com/a.jpg"),
    ],
)
def test_signatures_and_credentials_are_never_shown(url: str, shown: str) -> None:
    assert redact_url(url) == shown
    assert redact_reference(ref(ImageKind.URL, url)) == shown


def test_a_url_signed_anew_is_the_same_image() -> None:
    assert url_identity(S3_SIGNED) == url_identity(S3_SIGNED.replace("canary", "other").replace("AKIA", "ASIA"))
    assert url_identity(S3_SIGNED) != url_identity(S3_SIGNED.replace("a.jpg", "b.jpg"))
    assert url_identity(f"{AZURE}?sp=r&sig=one") == url_identity(f"{AZURE}?sp=rw&sig=two") == AZURE


def test_parameters_that_may_choose_the_image_are_identity() -> None:
    assert url_identity("https://example.com/image?sp=1") != url_identity("https://example.com/image?sp=2")
    assert url_identity("https://example.com/get?token=1") != url_identity("https://example.com/get?token=2")
    assert url_identity("https://example.com/a.jpg?token=1") == url_identity("https://example.com/a.jpg?token=2")


@given(st.text(max_size=60))
def test_no_text_makes_redaction_raise(text: str) -> None:
    for url in (text, "https://" + text, "https://h/?" + text):
        assert isinstance(redact_url(url) + url_identity(url), str)


@pytest.mark.parametrize(
    "url",
    [
        "https:///a.jpg",
        "https://exa mple.com/a.jpg",
        "https://h/a.jpg\r\nX: 1",
        "http://[::1",
        "ftp://h/a",
        "http://h:x/",
    ],
)
def test_unusable_urls_are_unreachable(url: str) -> None:
    with pytest.raises(ImageUnreachable, match="not a usable URL"):
        check_url(url)


def test_the_cause_of_an_unusable_url_is_named() -> None:
    for url, words in (
        ("https://h/a b.jpg", "image_separator"),
        ("https://h/a.jpg\nhttps://h/b.jpg", "image_separator"),
        ("https://h\\a.jpg", "backslash"),
        ("https://h/a\x01.jpg", "control character"),
    ):
        with pytest.raises(ImageUnreachable, match=words):
            check_url(url)


def test_blanks_behind_the_host_of_a_url_are_encoded_and_no_others() -> None:
    assert named_url("https://h/my photo 1.jpg?q=a b") == "https://h/my%20photo%201.jpg?q=a%20b"
    for url in ("https://bad host/a.jpg", "https://h/a%20b.jpg", "https://h", "https://h/a\tb.jpg"):
        assert named_url(url) == url


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("https://h/1.jpg,https://h/2.jpg", 2),
        ("https://h/1.jpg, https://h/2.jpg;HTTP://h/3.jpg", 3),
        ("https://h/1.jpg https://h/2.jpg", 2),
        ("https://h/1.jpg\r\nhttps://h/2.jpg\n", 2),
        ("https://h/1.jpg | https://h/2.jpg", 2),
        ("https://h/1.jpg?w=9,https://h/2.jpg?w=9", 2),
        ("https://thumbs.example.com/300x200/https://h/1.jpg", 1),
        ("https://thumbs.example.com/w_300,h_300/https://h/1.jpg", 1),
        ("https://h/draw?layers=https://h/1.jpg,https://h/2.jpg", 1),
        ("https://h/a,b.jpg", 1),
    ],
)
def test_urls_that_stand_in_one_cell_are_counted(text: str, count: int) -> None:
    assert several_in(text.strip()) == count


@given(st.lists(st.sampled_from(["http://", "https://", "HTTP://", "a", ",", " ", ";", "|", "\n", "?", "b/"])))
def test_listed_urls_are_parted_at_one_separator_with_the_blanks_around_it(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert references._listed(text) == re.split(r"(?i)\s*[,;|\s]\s*(?=https?://)", text)


def test_a_million_blanks_in_a_url_are_read_in_linear_time() -> None:
    """A pattern that begins again at each blank would take hours."""
    assert several_in("http://a" + " " * 1_000_000 + "x") == 1


def test_several_urls_in_a_cell_are_shown_without_their_secrets() -> None:
    text = "https://h/1.jpg?w=1&sig=canary,https://user:canary@h/2.jpg?sig=canary"
    assert "canary" not in redact_reference(ref(ImageKind.UNSUPPORTED, text))


def test_usable_urls_pass() -> None:
    check_url("https://example.com:8443/a%20b.jpg?x=ü")


# ---------------------------------------------------------------------------------- data: URIs and bytes


def test_a_data_uri_is_read_and_shown_as_its_hash() -> None:
    assert read_data_uri(DATA_URI, 100) == PIXELS
    assert read_data_uri(DATA_URI.replace("=", "%3D").replace("image/png", "image/png;name=a.png"), 100) == PIXELS
    assert redact_reference(ref(ImageKind.DATA, DATA_URI)) == f"data:image/png;sha256={DIGEST}"


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/png",
        "data:image/png,plain",
        "data:image/png;base64,????",
        "data:image/png;base64,AAAAA",
        "data:image/png;base64,AA==AA==",
        "data:image/png;base64,AA=A",
        "data:image/png;base64,AAAA!",
        "data:image/png,\u00ff%89PNG",
        "data:image/png;base64,ÄÖ",
    ],
)
def test_a_damaged_data_uri_is_unreadable_and_its_redaction_holds_none_of_it(uri: str) -> None:
    with pytest.raises(ImageUnreadable):
        read_data_uri(uri, 100)
    assert redact_reference(ref(ImageKind.DATA, uri)).rpartition("=")[2] == sha256(uri.encode()).hexdigest()


LONG = bytes(range(256)) + PIXELS  # its base64 has + and /, and ends in padding
SPELT = base64.b64encode(LONG).decode()


@pytest.mark.parametrize(
    "uri",
    [
        f"data:image/png;base64,{SPELT}",
        f"data:image/png;base64,{base64.encodebytes(LONG).decode()}",
        f"data:image/png;base64,\r\n{base64.encodebytes(LONG).decode()}".replace("\n", "\r\n"),
        f"data:image/png;base64,{base64.urlsafe_b64encode(LONG).decode()}",
        f"data:image/png;base64,{SPELT.rstrip('=')}",
        f"data:image/png;base64, {SPELT}",
        f"data:image/png;base64,{SPELT} ",
        f"data:image/png;base64,{SPELT.replace('+', '%2B').replace('/', '%2f').replace('=', '%3D')}",
        f"data:;base64,{SPELT}",
        f"DATA:IMAGE/PNG;BASE64,{SPELT}",
        f"data: image/png; base64,{SPELT}",
        f"data:image/png;charset=utf-8;name=a.png;base64,{SPELT}",
    ],
)
def test_data_uris_are_read_in_all_the_forms_that_tools_write(uri: str) -> None:
    assert read_data_uri(uri, len(LONG)) == LONG
    digest = sha256(LONG).hexdigest()
    assert identity(ref(ImageKind.DATA, uri), "content", None) == f"sha256:{digest}"
    assert redact_reference(ref(ImageKind.DATA, uri)).endswith(f";sha256={digest}")


def test_half_a_character_in_a_data_uri_is_unreadable_and_no_crash() -> None:
    uri = "data:image/png,\udcff"
    with pytest.raises(ImageUnreadable):
        read_data_uri(uri, 100)
    assert redact_reference(ref(ImageKind.DATA, uri)).startswith("data:image/png;sha256=")


def test_a_data_uri_may_be_percent_encoded_where_it_is_an_image() -> None:
    assert read_data_uri("data:image/png,%89PNG%0D%0A%1A%0A%00", 100) == b"\x89PNG\r\n\x1a\n\x00"
    with pytest.raises(ImageUnreadable, match="must be base64"):
        read_data_uri("data:image/svg+xml,%3Csvg/%3E", 100)
    with pytest.raises(ImageTooLarge):
        read_data_uri("data:image/png,%89PNG%0D%0A%1A%0A" + "%00" * 200, 100)


JPEG = b"\xff\xd8\xff\xe0" + bytes(range(200))
HEADS = {
    "jpeg": JPEG,
    "png": b"\x89PNG\r\n\x1a\n" + bytes(200),
    "gif": b"GIF89a" + bytes(200),
    "webp": b"RIFF\x10\x00\x00\x00WEBP" + bytes(200),
    "tiff": b"II*\x00" + bytes(200),
    "tiff-big-endian": b"MM\x00*" + bytes(200),
    "avif": b"\x00\x00\x00\x20ftypavif" + bytes(200),
    "heic": b"\x00\x00\x00\x18ftypheic" + bytes(200),
}


@pytest.mark.parametrize("content", HEADS.values(), ids=HEADS)
def test_base64_without_its_head_is_an_image(content: bytes) -> None:
    bare = base64.b64encode(content).decode()
    for text in (
        bare,
        bare.rstrip("="),
        base64.encodebytes(content).decode(),
        base64.urlsafe_b64encode(content).decode(),
    ):
        uri = as_data_uri(text)
        assert uri is not None
        assert read_data_uri(uri, len(content)) == content
    for head in ("image/png;base64,", "image/jpeg; base64,", "base64,"):
        uri = as_data_uri(head + bare)
        assert uri is not None
        assert read_data_uri(uri, len(content)) == content


@pytest.mark.parametrize(
    "text",
    ["a.jpg", "/9j/a.jpg", "/9j/photos", "/9j/" + "A" * 200 + ".jpg", "iVBORw0KGgo.png", "R0lGOD", "base64", "x" * 300],
)
def test_paths_are_no_base64(text: str) -> None:
    assert as_data_uri(text) is None


def test_text_that_is_an_image_is_never_shown_as_a_path() -> None:
    damaged = "QUJD" * 200
    shown = redact_reference(ref(ImageKind.PATH, damaged))
    assert shown == f"text of 800 characters;sha256={sha256(damaged.encode()).hexdigest()}"
    assert redact_reference(ref(ImageKind.PATH, "photos/" + "a" * 200 + ".jpg")) == "photos/" + "a" * 200 + ".jpg"


def test_a_data_uri_over_the_cap_is_not_decoded() -> None:
    with pytest.raises(ImageTooLarge):
        read_data_uri("data:image/png;base64," + "?" * 1_000, 100)


def test_bytes_are_shown_by_their_path_or_their_hash() -> None:
    assert redact_reference(ref(ImageKind.BYTES, "train/1.jpg", PIXELS)) == "train/1.jpg"
    assert redact_reference(ref(ImageKind.BYTES, "", PIXELS)) == f"bytes;sha256={DIGEST}"
    assert redact_reference(ref(ImageKind.BYTES, S3_SIGNED, PIXELS)) == S3
    assert "base64" not in redact_reference(ref(ImageKind.BYTES, DATA_URI, PIXELS))


# ---------------------------------------------------------------------------------- stamps and identities


def test_a_path_s_stamp_changes_with_size_and_time_and_its_identity_with_content_only(tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    photo.write_bytes(PIXELS)
    os.utime(photo, ns=(1, 1))
    a = ref(ImageKind.PATH, "a.jpg")
    before = stamp(a, ImageFolder(tmp_path), "content")
    assert before == f"path:a.jpg:{len(PIXELS)}:1"
    os.utime(photo, ns=(2, 2))
    assert stamp(a, ImageFolder(tmp_path), "content") != before
    assert stamp(ref(ImageKind.PATH, str(photo)), ImageFolder(tmp_path), "content").endswith(f":{len(PIXELS)}:2")
    assert stamp(ref(ImageKind.PATH, f"file://{photo}"), ImageFolder(tmp_path), "content").endswith(f":{len(PIXELS)}:2")
    assert identity(a, "content", DIGEST) == f"sha256:{DIGEST}"


@pytest.mark.parametrize("reference", ["b.jpg", "a\x00.jpg", "\ud800", "file://host/a.jpg"])
def test_a_missing_file_has_a_stamp_that_says_so(tmp_path: Path, reference: str) -> None:
    assert stamp(ref(ImageKind.PATH, reference), ImageFolder(tmp_path), "content") == f"missing:{reference}"


@pytest.mark.parametrize(
    ("image", "mode", "expected"),
    [
        (ref(ImageKind.PATH, "a.jpg"), "ref", "path:a.jpg"),
        (ref(ImageKind.PATH, "a.jpg", version="7"), "content", "version:path:a.jpg:7"),
        (ref(ImageKind.URL, S3_SIGNED), "content", f"url:{S3}"),
        (ref(ImageKind.URL, S3_SIGNED, version="7"), "ref", f"version:url:{S3}:7"),
        (ref(ImageKind.DATA, DATA_URI), "ref", f"sha256:{DIGEST}"),
        (ref(ImageKind.BYTES, "x.jpg", PIXELS), "ref", f"sha256:{DIGEST}"),
        (ref(ImageKind.BYTES, "", PIXELS, "7"), "content", f"version:sha256:{DIGEST}:7"),
    ],
)
def test_an_image_that_is_not_read_has_its_identity_as_stamp(
    image: ImageRef, mode: str, expected: str, tmp_path: Path
) -> None:
    assert stamp(image, ImageFolder(tmp_path), mode) == expected
    assert identity(image, mode, DIGEST) == expected
