"""The one thing of EXIF that decides how a picture looks: which way is up. Pure."""

from __future__ import annotations

from typing import Literal


def exif_orientation(exif: bytes) -> int:
    """The orientation (1 to 8) an EXIF block asks for; 1 for anything odd: EXIF is damaged more often than pictures."""
    exif = exif.removeprefix(b"Exif\x00\x00")
    if exif[:4] not in (b"II*\x00", b"MM\x00*"):
        return 1
    order: Literal["little", "big"] = "little" if exif.startswith(b"II") else "big"

    def number(at: int, width: int) -> int:
        return int.from_bytes(exif[at : at + width], order)

    table = number(4, 4)
    for entry in range(table + 2, table + 2 + 12 * number(table, 2), 12):
        if entry + 12 > len(exif):
            break
        if number(entry, 2) == 0x0112:
            value = number(entry + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1
