"""The metadata of a merged part: its source files, and where their rows are in it now. Pure.

A merged part replaces every file that it names. Its rename is the commit point: from then on readers ignore the source
files. Its name holds the hash of its bytes. So it can be checked without a summary, and no two parts share a name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

#: Metadata key of a merged part.
MADE_OF = b"batchvision.made_of"
_DIGEST_DIGITS = 16
_NAME = re.compile(r"part-(?P<shard>\d+of\d+)-(?P<run>.+)-(?P<seq>\d{6,})(?:-m(?P<digest>[0-9a-f]{16}))?\.parquet")


class Name(NamedTuple):
    """The fields of a dated part's name. Only a merged part has a ``digest``, the beginning of its sha256."""

    shard: str
    run_id: str
    seq: int
    digest: str | None

    @classmethod
    def of(cls, name: str) -> Name | None:
        """Parse a name. Other names give ``None``."""
        part = _NAME.fullmatch(name)
        return None if part is None else cls(part["shard"], part["run"], int(part["seq"]), part["digest"])

    def agrees(self, sha256: Iterable[str]) -> bool:
        """Whether one of the hashes, of the part or of its unpadded forms, matches the name."""
        return self.digest is None or any(each.startswith(self.digest) for each in sha256)


class Ancestor(NamedTuple):
    """A direct or indirect source of a merged part. Its rows are ``start`` to ``stop`` of the part.

    ``sha256``: its hashes, of unpadded forms first. ``rows``: its number of rows.
    """

    name: str
    rows: int
    sha256: tuple[str, ...]
    start: int
    stop: int


def is_merged(name: str) -> bool:
    part = _NAME.fullmatch(name)
    return part is not None and part["digest"] is not None


def first_of(name: str) -> str:
    """The stem of the first sealed part in the file. Merged parts keep it, and so keep the order of names."""
    part = _NAME.fullmatch(name)
    if part is None:
        raise ValueError(f"{name} is no name of a dated part")
    return f"part-{part['shard']}-{part['run']}-{part['seq']}"


def merged_name(first: str, sha256: str) -> str:
    """The name of a merged part. ``first`` comes from :func:`first_of`."""
    return f"{first}-m{sha256[:_DIGEST_DIGITS]}.parquet"


def written(ancestors: Iterable[Ancestor]) -> bytes:
    """Encode ancestors for a part's metadata."""
    return json.dumps([[*each[:2], list(each.sha256), *each[3:]] for each in ancestors], separators=(",", ":")).encode()


def read(metadata: Mapping[bytes, bytes] | None) -> tuple[Ancestor, ...]:
    """Decode ancestors from a part's metadata; a sealed part has no ancestors. Raises ValueError on damage."""
    try:
        return tuple(_ancestor(*each) for each in json.loads((metadata or {}).get(MADE_OF, b"[]")))
    except (TypeError, RecursionError) as fault:
        raise ValueError(f"its list of what it was made of is not one ({fault})") from fault


def _ancestor(name: str, rows: int, sha256: list[str], start: int, stop: int) -> Ancestor:
    ancestor = Ancestor(name, rows, tuple(map(str, sha256)), start, stop)
    if Name.of(name) is None or not 0 <= start <= stop or rows < stop - start:
        raise ValueError(f"it says that it was made of {ancestor}")
    return ancestor
