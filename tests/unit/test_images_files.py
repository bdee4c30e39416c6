"""Local images come from inside the root only, as regular files only; everything else is not even opened."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from batchvision.errors import ImageForbidden, ImageTooLarge, ImageUnreadable
from batchvision.images.files import ImageFolder, local_path

LIMIT = 1_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """photos/a.jpg, photos/sub/b.jpg, and beside the root a secret."""
    photos = tmp_path / "photos"
    (photos / "sub").mkdir(parents=True)
    (photos / "a.jpg").write_bytes(b"picture a")
    (photos / "sub" / "b.jpg").write_bytes(b"picture b")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    return photos


@pytest.mark.parametrize("reference", ["a.jpg", "./a.jpg", "sub/../a.jpg", "sub//../a.jpg"])
def test_a_file_inside_is_read_however_its_path_is_spelled(root: Path, reference: str) -> None:
    assert ImageFolder(root).read(reference, LIMIT) == b"picture a"


def test_absolute_paths_and_file_urls_inside_are_read(root: Path) -> None:
    (root / "ä b.jpg").write_bytes(b"umlaut")
    assert ImageFolder(root).read(str(root / "sub" / "b.jpg"), LIMIT) == b"picture b"
    assert ImageFolder(root).read(f"file://{root}/sub/b.jpg", LIMIT) == b"picture b"
    assert ImageFolder(root).read(f"FILE://localhost{root}/%C3%A4%20b.jpg", LIMIT) == b"umlaut"


def test_links_that_stay_inside_are_followed(root: Path) -> None:
    (root / "link.jpg").symlink_to("sub/b.jpg")
    (root / "folder").symlink_to(root / "sub")
    assert ImageFolder(root).read("link.jpg", LIMIT) == b"picture b"
    assert ImageFolder(root).read("folder/b.jpg", LIMIT) == b"picture b"


def test_a_root_that_is_itself_a_link_is_a_root(root: Path, tmp_path: Path) -> None:
    (tmp_path / "door").symlink_to(root)
    assert ImageFolder(tmp_path / "door").read("a.jpg", LIMIT) == b"picture a"


@pytest.mark.parametrize(
    "reference",
    [
        "../secret.jpg",
        "sub/../../secret.jpg",
        "../photos/../secret.jpg",
        "{outside}/secret.jpg",
        "file://{outside}/secret.jpg",
        "file://{outside}/photos/%2e%2e/secret.jpg",
        "/etc/passwd",
        "file:///etc/passwd",
        "file:/etc/passwd",
        "../no-such-file.jpg",
        "/proc/self/environ",
        "/dev/zero",
        "file://fileserver/share/a.jpg",
        "link-to-secret.jpg",
        "link-to-outside/secret.jpg",
    ],
)
def test_no_path_outside_the_root_is_read(root: Path, reference: str) -> None:
    (root / "link-to-secret.jpg").symlink_to(root.parent / "secret.jpg")
    (root / "link-to-outside").symlink_to("..")
    with pytest.raises(ImageForbidden) as caught:
        ImageFolder(root).read(reference.format(outside=root.parent), LIMIT)
    assert caught.value.message


@pytest.mark.parametrize("reference", ["/proc/self/environ", "/sys/kernel/notes", "/dev/null", "/dev/fd/0"])
def test_files_of_the_kernel_are_no_images_even_below_the_root_slash(reference: str) -> None:
    with pytest.raises((ImageForbidden, ImageUnreadable)):
        ImageFolder(Path("/")).read(reference, LIMIT)


def test_a_fifo_a_socket_and_a_folder_are_no_images_and_nothing_waits_for_them(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(root / "fifo.jpg")
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.jpg")
        for name in ("fifo.jpg", "socket.jpg", "sub", "."):
            with pytest.raises(ImageForbidden, match="not a regular file"):
                ImageFolder(root).read(name, LIMIT)


def test_a_link_in_a_circle_is_forbidden(root: Path) -> None:
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")
    with pytest.raises(ImageForbidden, match="circle"):
        ImageFolder(root).read("one", LIMIT)


@pytest.mark.parametrize("swapped", ["sub/b.jpg", "sub"])
def test_a_link_created_after_the_check_is_not_followed(
    root: Path, swapped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root.parent / "b.jpg").write_bytes(b"secret")
    resolve = Path.resolve

    def resolve_then_swap(path: Path, strict: bool = False) -> Path:
        resolved = resolve(path, strict)
        if path.name == "b.jpg":
            (root / swapped).rename(root / "moved")
            (root / swapped).symlink_to(root.parent / "b.jpg" if swapped.endswith(".jpg") else root.parent)
        return resolved

    monkeypatch.setattr(Path, "resolve", resolve_then_swap)
    with pytest.raises((ImageForbidden, ImageUnreadable)):
        ImageFolder(root).read("sub/../sub/b.jpg", LIMIT)


@pytest.mark.parametrize("swapped", ["sub/b.jpg", "sub"])
def test_a_link_created_between_two_rows_is_not_followed(root: Path, swapped: str) -> None:
    (root.parent / "b.jpg").write_bytes(b"secret")
    assert ImageFolder(root).read("sub/b.jpg", LIMIT) != b"secret"
    (root / swapped).rename(root / "moved")
    (root / swapped).symlink_to(root.parent / "b.jpg" if swapped.endswith(".jpg") else root.parent)
    with pytest.raises(ImageForbidden, match="outside"):
        ImageFolder(root).read("sub/b.jpg", LIMIT)


def test_a_missing_file_is_named_with_its_root(root: Path) -> None:
    with pytest.raises(ImageUnreadable) as caught:
        ImageFolder(root).read("c.jpg", LIMIT)
    assert caught.value.message == f"no such file: c.jpg (root is {root})"
    with pytest.raises(ImageUnreadable, match="no such file"):
        ImageFolder(root).read("a.jpg/c.jpg", LIMIT)


def test_sizes_are_checked_before_a_byte_is_read(root: Path) -> None:
    with (root / "huge.jpg").open("wb") as file:
        file.truncate(10 * 1024**3)  # a hole: it takes no disk, and would not fit into memory
    (root / "empty.jpg").touch()
    with pytest.raises(ImageTooLarge, match="10,737,418,240 bytes"):
        ImageFolder(root).read("huge.jpg", LIMIT)
    with pytest.raises(ImageUnreadable, match="empty"):
        ImageFolder(root).read("empty.jpg", LIMIT)


@pytest.mark.parametrize("reference", ["a\x00.jpg", "\ud800.jpg", "x" * 5000, "file://[bad/a.jpg"])
def test_names_no_file_can_have_are_unreadable(root: Path, reference: str) -> None:
    with pytest.raises(ImageUnreadable):
        ImageFolder(root).read(reference, LIMIT)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_says_so(root: Path) -> None:
    (root / "a.jpg").chmod(0)
    with pytest.raises(ImageUnreadable, match="Permission denied"):
        ImageFolder(root).read("a.jpg", LIMIT)


def test_no_descriptor_is_left_open(root: Path) -> None:
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("needs /proc")
    before = len(list(folder.iterdir()))
    for reference in ("a.jpg", "sub/b.jpg", "sub", "c.jpg", "sub/c.jpg", "../secret.jpg", "a.jpg/x"):
        try:
            ImageFolder(root).read(reference, LIMIT)
        except (ImageForbidden, ImageUnreadable):
            continue
    assert len(list(folder.iterdir())) == before


def test_only_file_urls_are_parsed() -> None:
    assert local_path("a%20b.jpg") == "a%20b.jpg"
    assert local_path("file:///a%20b.jpg") == "/a b.jpg"
