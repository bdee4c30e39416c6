"""Files are found however a table spells their paths, and a message says what else a cell was meant to be."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from batchvision.errors import ImageForbidden, ImageUnreadable
from batchvision.images import ImageFolder
from batchvision.images.references import stamp, with_size
from batchvision.records import ImageKind, ImageRef

NAME = "Café/Müller ñ.jpg"
NFC, NFD = (unicodedata.normalize(form, NAME) for form in ("NFC", "NFD"))


def put(root: Path, name: str, content: bytes = b"photo") -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def ref(reference: str) -> ImageRef:
    return ImageRef(ImageKind.PATH, reference, "image")


@pytest.mark.parametrize("stored", [NFC, NFD, f"{NFD.split('/')[0]}/{NFC.split('/')[1]}"])
@pytest.mark.parametrize("asked", [NFC, NFD])
def test_a_file_is_found_in_either_unicode_form(tmp_path: Path, stored: str, asked: str) -> None:
    put(tmp_path, stored)
    assert ImageFolder(tmp_path).read(asked, 100) == b"photo"
    assert ImageFolder(tmp_path).read(str(tmp_path / asked), 100) == b"photo"
    assert stamp(ref(asked), ImageFolder(tmp_path), "content").startswith(f"path:{asked}:5:")
    assert with_size(ref(asked), ImageFolder(tmp_path)).size_bytes == 5


@pytest.mark.parametrize("asked", [r"sub\a.jpg", r".\sub\a.jpg", r"sub/..\sub\a.jpg", " sub/a.jpg", "sub/a.jpg\t"])
def test_a_path_is_found_despite_backslashes_and_surrounding_blanks(tmp_path: Path, asked: str) -> None:
    put(tmp_path, "sub/a.jpg")
    if ".." in asked:  # what leads upward is not respelled
        with pytest.raises(ImageUnreadable):
            ImageFolder(tmp_path).read(asked, 100)
        return
    assert ImageFolder(tmp_path).read(asked, 100) == b"photo"


def test_an_existing_path_is_never_replaced_by_another_spelling(tmp_path: Path) -> None:
    for name in (r"sub\a.jpg", " b.jpg", NFD):
        put(tmp_path, name, b"as written")
    for name in ("sub/a.jpg", "b.jpg", NFC):
        put(tmp_path, name, b"other")
    for name in (r"sub\a.jpg", " b.jpg", NFD):
        assert ImageFolder(tmp_path).read(name, 100) == b"as written"


@pytest.mark.parametrize("asked", [r"..\secret.jpg", r"inside\..\..\secret.jpg", " ../secret.jpg", r"link\secret.jpg"])
def test_no_spelling_leads_out_of_the_root(tmp_path: Path, asked: str) -> None:
    put(tmp_path, "secret.jpg")
    put(tmp_path, "root/inside/a.jpg")
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    with pytest.raises((ImageForbidden, ImageUnreadable)):
        ImageFolder(tmp_path / "root").read(asked, 100)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("//img.example.com/a.jpg", "write https: before it: https://img.example.com/a.jpg"),
        ("www.example.com/a.jpg", "https://www.example.com/a.jpg"),
        ("img.example.com/sub/a.jpg?token=canary", "https://img.example.com/sub/a.jpg"),
        ("https:/img.example.com/a.jpg", "write https://img.example.com/a.jpg"),
        (r"C:\photos\a.jpg", "path of a Windows machine"),
        (r"\\server\share\a.jpg", "path of a Windows machine"),
        ("a.jpg;b.jpg", "manifest.image_separator"),
        ("a.jpg, b.jpg", "manifest.image_separator"),
    ],
)
def test_a_missing_file_is_reported_with_its_probable_meaning(tmp_path: Path, asked: str, words: str) -> None:
    with pytest.raises((ImageForbidden, ImageUnreadable)) as caught:
        ImageFolder(tmp_path).read(asked, 100)
    assert words in caught.value.message


def test_a_missing_file_of_an_ordinary_name_is_reported_without_guesses(tmp_path: Path) -> None:
    for name in ("a.jpg", "sub/a.b.jpg", "photos.v2/a.jpg"):
        with pytest.raises(ImageUnreadable, match=r"\(root is [^)]+\)$"):
            ImageFolder(tmp_path).read(name, 100)


def test_no_message_holds_an_image(tmp_path: Path) -> None:
    for text in ("QUJD" * 100, "QUJD" * 1000, "/" + "QUJD" * 100, "é" * 5000):
        with pytest.raises((ImageForbidden, ImageUnreadable)) as caught:
            ImageFolder(tmp_path).read(text, 100)
        assert "QUJDQUJD" not in caught.value.message
        assert "éé" not in caught.value.message
        assert f"text of {len(text):,} characters" in caught.value.message
