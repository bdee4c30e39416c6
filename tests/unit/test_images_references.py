"""Identity follows the image and not its signature; nothing shown holds image data or a credential."""

from __future__ import annotations

import base64
import os
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchvision.errors import ImageTooLarge, ImageUnreachable, ImageUnreadable
from batchvision.images.references import (
    check_url,
    identity,
    kind_of,
    read_data_uri,
    redact_reference,
    redact_url,
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
        ("s3://bucket/a.jpg", ImageKind.UNSUPPORTED),
        ("gs://bucket/a.jpg", ImageKind.UNSUPPORTED),
    ],
)
def test_a_reference_tells_its_kind(reference: str, kind: ImageKind) -> None:
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
        "data:image/png;base64,AAA",
        "data:image/png;base64,AA==AA==",
        "data:image/png;base64,AAAA\n",
        "data:image/png;base64,ÄÖ",
    ],
)
def test_a_damaged_data_uri_is_unreadable_and_its_redaction_holds_none_of_it(uri: str) -> None:
    with pytest.raises(ImageUnreadable):
        read_data_uri(uri, 100)
    assert redact_reference(ref(ImageKind.DATA, uri)).rpartition("=")[2] == sha256(uri.encode()).hexdigest()


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
    before = stamp(a, tmp_path, "content")
    assert before == f"path:a.jpg:{len(PIXELS)}:1"
    os.utime(photo, ns=(2, 2))
    assert stamp(a, tmp_path, "content") != before
    assert stamp(ref(ImageKind.PATH, str(photo)), tmp_path, "content").endswith(f":{len(PIXELS)}:2")
    assert stamp(ref(ImageKind.PATH, f"file://{photo}"), tmp_path, "content").endswith(f":{len(PIXELS)}:2")
    assert identity(a, "content", DIGEST) == f"sha256:{DIGEST}"


@pytest.mark.parametrize("reference", ["b.jpg", "a\x00.jpg", "\ud800", "file://host/a.jpg"])
def test_a_missing_file_has_a_stamp_that_says_so(tmp_path: Path, reference: str) -> None:
    assert stamp(ref(ImageKind.PATH, reference), tmp_path, "content") == f"missing:{reference}"


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
def test_what_needs_no_reading_has_its_identity_for_a_stamp(
    image: ImageRef, mode: str, expected: str, tmp_path: Path
) -> None:
    assert stamp(image, tmp_path, mode) == expected
    assert identity(image, mode, DIGEST) == expected
