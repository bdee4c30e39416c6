"""Image files from what other projects publish: fetched once by pip into a folder, read from the archives.

Rule: nothing of it is part of this repository, and no file of it is executed or trusted.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

#: What pip is asked for, and the folder inside that holds images ("" for any). Pillow's tests are in its source only.
SOURCES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("--no-binary", "Pillow", "Pillow"), "Tests/images/"),
    (("scikit-image",), ""),
    (("scikit-learn",), ""),
    (("matplotlib",), ""),
)
ENDING = re.compile(
    r"\.(jp[eg]|jpeg|jfif|a?png|gif|webp|avif|tiff?|bmp|dib|mpo|heic|jp2|j2k|jxl|ico|icns|psd|tga|dds|pcx|p[gp]m|sgi|eps"
    r"|fli|blp|bin|fpx|cur|svg|[we]mf|pdf|xpm|im|msp|qoi)$",
    re.IGNORECASE,
)
MOST_BYTES = 16 * 1024 * 1024


def download(folder: Path) -> None:
    """Fetch what is not there yet. Raises CalledProcessError."""
    for wanted, _ in SOURCES:
        target = folder / wanted[-1]
        if not any(target.glob("*.*")):
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(target), *wanted]
            subprocess.run(command, check=True)


def found(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file in the archives with the name of an image, also of files that are no images."""
    for wanted, inside in SOURCES:
        for archive in sorted((folder / wanted[-1]).glob("*.*")):
            for name, content in _members(archive):
                is_wanted = f"/{inside}" in f"/{name}" and ENDING.search(name)
                if is_wanted and len(content) <= MOST_BYTES:
                    yield f"{wanted[-1]}/{PurePosixPath(name).name}", content


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            for info in wheel.infolist():
                if info.file_size <= MOST_BYTES:
                    yield info.filename, wheel.read(info)
        return
    with tarfile.open(archive) as source:
        for member in source:
            if member.isfile() and member.size <= MOST_BYTES and (opened := source.extractfile(member)):
                yield member.name, opened.read()
