"""Other spellings of a path that does not exist, and a hint for text that is no path.

An existing path is never replaced. Nothing outside the root is examined.
"""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

#: ``//cdn.example.com/a.jpg``, ``www.example.com/a.jpg``, ``https:/example.com/a.jpg``: URLs without (all of) a scheme.
_HOST = r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,24}(?::\d+)?/"
_SCHEMELESS = re.compile(rf"(?://|www\.|(?={_HOST}))(?P<rest>.+)", re.IGNORECASE | re.DOTALL)
_HALF_SCHEME = re.compile(r"https?:?[/\\]*", re.IGNORECASE)
_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")


def respelled(base: Path, name: str) -> str | None:
    """The spelling of an existing file below ``base``: with slashes for backslashes, in the other Unicode normal form,
    or without surrounding blanks. ``None``: the file does not exist."""
    if "\x00" in name:
        return None
    for spelling in dict.fromkeys((name, name.strip(), name.replace("\\", "/"), name.strip().replace("\\", "/"))):
        found = _found(base, spelling)
        if found is not None and found != name:
            return found
    return None


def _found(base: Path, name: str) -> str | None:
    """Find the file below ``base``, folder by folder."""
    path = Path(name)
    if path.is_absolute():
        if not path.is_relative_to(base):
            return None
        path = path.relative_to(base)
    folder = base
    for part in path.parts:
        forms = (part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part))
        there = next((form for form in forms if os.path.lexists(folder / form)), None) if part != ".." else None
        if there is None:
            return None
        folder = folder / there
    return str(folder.relative_to(base)) if folder != base else None


def hint(name: str) -> str:
    """The end of a message about a missing path: its probable meaning, or ""."""
    bare = name.strip()
    if half := _HALF_SCHEME.match(bare):
        rest = bare[half.end() :].partition("?")[0]
        if half[0].lower() not in ("http", "https") and re.match(_HOST, rest, re.IGNORECASE):
            return f". If it is a URL, write https://{_short(rest)}"
    if found := _SCHEMELESS.fullmatch(bare):
        rest = (f"www.{found['rest']}" if bare.lower().startswith("www.") else found["rest"]).partition("?")[0]
        if re.match(_HOST, rest, re.IGNORECASE):
            return f". If it is a URL, write https: before it: https://{_short(rest)}"
    if _DRIVE.match(bare):
        return ". It is a path of a Windows machine: write it relative to manifest.root, with slashes"
    if len(bare.split(";")) > 1 or len(bare.split(",")) > 1 or "|" in bare:
        return ". If the cell holds several images, set manifest.image_separator"
    return ""


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."
