"""What a merged part says of itself: the files that it was made of, and where their rows are in it now. Pure.

The rule: a merged part stands for every file it names. Its one rename is the moment of the change: from then on those
files count no more, whether or not they are still there. Its name holds the hash of its bytes, so that it can be
checked though nobody has listed it, and so that no two merged parts, and no sealed one, have the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

#: In a merged part's metadata.
MADE_OF = b"batchvision.made_of"
_DIGEST_DIGITS = 16
_NAME = re.compile(r"part-(?P<shard>\d+of\d+)-(?P<run>.+)-(?P<seq>\d{6,})(?:-m(?P<digest>[0-9a-f]{16}))?\.parquet")


class Name(NamedTuple):
    """What the name of a dated part says. ``digest``: how the sha256 of a merged one begins; None: it was sealed."""

    shard: str
    run_id: str
    seq: int
    digest: str | None

    @classmethod
    def of(cls, name: str) -> Name | None:
        """None: it is no name of ours."""
        part = _NAME.fullmatch(name)
        return None if part is None else cls(part["shard"], part["run"], int(part["seq"]), part["digest"])

    def agrees(self, sha256: Iterable[str]) -> bool:
        """Whether a merged part has, or had before columns were added to it, the bytes that its name says."""
        return self.digest is None or any(each.startswith(self.digest) for each in sha256)


class Ancestor(NamedTuple):
    """A file that a part was made of, itself or through others; its rows are ``start`` to ``stop`` of the part.

    ``sha256``: of its bytes, those that it had before columns were added to it first. ``rows``: how many it had.
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
    """The stem of the sealed part that begins the file of this name: what is made of it begins with the same, and so
    stands in its place in the order of the names."""
    part = _NAME.fullmatch(name)
    if part is None:
        raise ValueError(f"{name} is no name of a dated part")
    return f"part-{part['shard']}-{part['run']}-{part['seq']}"


def merged_name(first: str, sha256: str) -> str:
    """``first``: as :func:`first_of` gives it."""
    return f"{first}-m{sha256[:_DIGEST_DIGITS]}.parquet"


def written(ancestors: Iterable[Ancestor]) -> bytes:
    """For a part's metadata."""
    return json.dumps([[*each[:2], list(each.sha256), *each[3:]] for each in ancestors], separators=(",", ":")).encode()


def read(metadata: Mapping[bytes, bytes] | None) -> tuple[Ancestor, ...]:
    """From a part's metadata; none where it was sealed as it is. ValueError: it does not hold what was written."""
    try:
        return tuple(_ancestor(*each) for each in json.loads((metadata or {}).get(MADE_OF, b"[]")))
    except (TypeError, RecursionError) as fault:
        raise ValueError(f"its list of what it was made of is not one ({fault})") from fault


def _ancestor(name: str, rows: int, sha256: list[str], start: int, stop: int) -> Ancestor:
    ancestor = Ancestor(name, rows, tuple(map(str, sha256)), start, stop)
    if Name.of(name) is None or not 0 <= start <= stop or rows < stop - start:
        raise ValueError(f"it says that it was made of {ancestor}")
    return ancestor
