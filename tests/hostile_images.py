"""Hostile image files: drawn, damaged with a seed, and decompression bombs, each with its expected end.

The acceptance test uses a few dozen of them, ``scripts/corpus`` adds hundreds from other projects. Pillow decides the
expected end, by other code than batchvision uses.
"""

from __future__ import annotations

import io
import random
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

from PIL import Image, ImageDraw

MAX_PIXELS = 100_000_000
JUDGED_PIXELS = 30_000_000  #: Pillow examines no larger image
FEWEST_A_SIDE = 8  #: the provider takes no smaller image
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"


class Fate(Enum):
    """The expected end of a file."""

    UNCHANGED = "sent byte for byte, and accepted"
    CONVERTED = "sent converted, and accepted"
    ACCEPTED = "accepted, unchanged or converted"
    FAILED = "a failed row"
    ANY = "accepted or a failed row"


# ---------------------------------------------------------------------------------- the expected end


def fate_of(content: bytes) -> Fate:
    """Ask Pillow, in this process. Not for bombs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                pixels = image.width * image.height
                if pixels > JUDGED_PIXELS:
                    return Fate.FAILED if pixels > MAX_PIXELS else Fate.ANY
                is_plain, is_odd = _is_plain(image, content), _is_odd(image, content)
                image.load()
                is_too_small = min(image.size) < FEWEST_A_SIDE
            if image.format == "PNG":
                with Image.open(io.BytesIO(content)) as image:
                    image.verify()  # checksums, to the very end
        except Exception:  # noqa: BLE001 - whatever Pillow raises, the file is bad
            return Fate.FAILED
    end = {b"\xff\xd8": b"\xff\xd9", PNG_START[:2]: PNG_END}.get(content[:2], b"")
    if end not in content[-(1 << 16) :]:
        return Fate.FAILED  # Pillow reads on where the end is missing
    if is_too_small:
        return Fate.FAILED
    if is_odd:
        return Fate.ACCEPTED
    return Fate.UNCHANGED if is_plain else Fate.CONVERTED


def fate_when_damaged(content: bytes) -> Fate:
    """As :func:`fate_of`; but where EXIF or a frame's header is damaged, what is plain is a matter of taste."""
    fate = fate_of(content)
    return Fate.ACCEPTED if fate in (Fate.UNCHANGED, Fate.CONVERTED) else fate


def _is_odd(image: Image.Image, content: bytes) -> bool:
    """Whole, but told in a way that one may or may not call plain: junk in a header, EXIF as text, a broken MPO.

    Also a PNG with the header of an animation and one frame, and an orientation in XMP alone, which browsers ignore.
    """
    if "mp" in image.info or any(str(name).startswith("Raw profile") for name in image.info):
        return True
    is_turned = b"tiff:Orientation" in content and b"eXIf" not in content
    if content.startswith(PNG_START) and (b"acTL" in content or is_turned) and getattr(image, "n_frames", 1) == 1:
        return True
    at = 2
    while (
        content.startswith(b"\xff\xd8") and content[at : at + 1] == b"\xff" and content[at + 1] not in (0, 0xDA, 0xFF)
    ):
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return content.startswith(b"\xff\xd8") and content[at : at + 2] != b"\xff\xda"


def _is_plain(image: Image.Image, content: bytes) -> bool:
    if image.format not in ("JPEG", "PNG") or getattr(image, "n_frames", 1) != 1:
        return False
    is_clear = image.format == "PNG" and (image.mode in ("LA", "RGBA") or "transparency" in image.info)
    if image.mode not in ("L", "RGB") and not is_clear:
        return False
    if image.getexif().get(0x0112, 1) not in range(9) or image.getexif().get(0x0112, 1) > 1:
        return False
    if image.format == "JPEG":
        return content.endswith(b"\xff\xd9")
    is_eight_bit = content[24:25] == b"\x08" or (content[25:26] == b"\x03" and is_clear)
    return image.format == "PNG" and is_eight_bit and content.endswith(PNG_END)


# ---------------------------------------------------------------------------------- files of our own


def drawn(mode: str = "RGB", size: tuple[int, int] = (320, 200), seed: int = 0) -> Image.Image:
    rng = random.Random(seed)
    image = Image.effect_noise(size, 40).convert("RGB")
    pen = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = rng.randrange(size[0]), rng.randrange(size[1])
        pen.ellipse((x, y, x + size[0] // 4, y + size[1] // 4), fill=rng.choice(("red", "green", "blue", "gold")))
    return image if mode == "RGB" else image.convert(mode)


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, image_format, **options)
    return target.getvalue()


def _two_more() -> dict[str, Any]:
    return {"save_all": True, "append_images": [drawn(seed=1), drawn(seed=2)]}


def own_files() -> dict[str, bytes]:
    """One of each kind there is to send."""
    turned = Image.Exif()
    turned[0x0112] = 6
    wide = Image.new("I;16", (200, 100), 0x8000)
    files = {
        "plain.jpg": encoded(drawn(), "JPEG"),
        "plain-grey.jpg": encoded(drawn("L"), "JPEG"),
        "plain-progressive.jpg": encoded(drawn(), "JPEG", progressive=True),
        "plain.png": encoded(drawn(), "PNG"),
        "plain-grey.png": encoded(drawn("L"), "PNG"),
        "turned.jpg": encoded(drawn(), "JPEG", exif=turned),
        "turned.png": encoded(drawn(), "PNG", exif=turned),
        "cmyk.jpg": encoded(drawn("CMYK"), "JPEG"),
        "pair.mpo.jpg": encoded(drawn(), "MPO", **_two_more()),
        "clear.png": encoded(drawn("RGBA"), "PNG"),
        "palette.png": encoded(drawn("P"), "PNG"),
        "bilevel.png": encoded(drawn("1"), "PNG"),
        "wide.png": encoded(wide, "PNG"),
        "moving.png": encoded(drawn(), "PNG", **_two_more()),
        "still.gif": encoded(drawn("P"), "GIF"),
        "moving.gif": encoded(drawn(), "GIF", **_two_more()),
        "photo.webp": encoded(drawn(), "WEBP"),
        "lossless.webp": encoded(drawn("RGBA"), "WEBP", lossless=True),
        "moving.webp": encoded(drawn(), "WEBP", **_two_more()),
        "photo.avif": encoded(drawn(), "AVIF"),
        "plain.bmp": encoded(drawn(), "BMP"),
        "scan.tiff": encoded(drawn("1"), "TIFF", compression="group4"),
        "print.tif": encoded(drawn("CMYK"), "TIFF"),
        "lzw.tif": encoded(drawn(), "TIFF", compression="tiff_lzw"),
        "deep.tif": encoded(wide, "TIFF"),
        "pages.tif": encoded(drawn(), "TIFF", **_two_more()),
    }
    return files | {"jpeg-named.png": files["plain.jpg"], "webp-named.jpg": files["photo.webp"]}


def bombs() -> dict[str, bytes]:
    """Small files that would be gigabytes, or take for ever. None may be sent as it is, and none may cost much."""
    clear = Image.new("RGBA", (9_900, 9_900), (1, 2, 3, 4))
    return {
        "bomb-400mp.png": encoded(Image.new("1", (20_000, 20_000)), "PNG"),
        "bomb-98mp-clear.png": encoded(clear, "PNG", compress_level=1),
        "bomb-268mp.webp": _webp_header(16_383, 16_383),
        "bomb-36mp.webp": encoded(Image.new("RGB", (6_000, 6_000)), "WEBP", quality=1, method=0),
        "bomb-4gp.gif": b"GIF89a\xff\xff\xff\xff\x80\x00\x00" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\x02\x00;",
        "bomb-4gp.jpg": _with_jpeg_size(encoded(drawn("CMYK"), "JPEG"), 65_500, 65_500),
        "bomb-90mp.jpg": _with_jpeg_size(encoded(drawn("CMYK"), "JPEG"), 9_500, 9_500),
        "bomb-900mp.bmp": _bmp_header(30_000, 30_000),
        "bomb-text.png": _with_chunk(encoded(drawn("P"), "PNG"), b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 28), 9)),
        "bomb-profile.png": _with_chunk(encoded(drawn("P"), "PNG"), b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 28))),
        "bomb-98mp.tif": encoded(Image.new("RGB", (9_900, 9_900)), "TIFF", compression="tiff_deflate"),
        "bomb-400mp.tif": encoded(Image.new("1", (20_000, 20_000)), "TIFF", compression="group4"),
    }


def _webp_header(width: int, height: int) -> bytes:
    body = (
        b"WEBPVP8X" + struct.pack("<II", 10, 0) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _bmp_header(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(64)


def _with_jpeg_size(content: bytes, width: int, height: int) -> bytes:
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]


def _with_chunk(content: bytes, kind: bytes, body: bytes) -> bytes:
    """A PNG with one more chunk after its header."""
    checksum = zlib.crc32(kind + body)
    return content[:33] + struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum) + content[33:]


def impostors() -> dict[str, bytes]:
    return {
        "empty.jpg": b"",
        "words.jpg": b"this is no picture\n",
        "page.png": b"<!doctype html><title>404</title>",
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>',
        "secret.jpg": b"root:x:0:0:root:/root:/bin/sh\n" * 40,
        "script.jpg": b"#!/bin/sh\nrm -rf /\n",
        "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n",
        "magic-only.jpg": b"\xff\xd8\xff\xd9",
        "magic-only.png": b"\x89PNG\r\n\x1a\n",
        "magic-only.gif": b"GIF89a",
        "magic-only.tif": b"II*\x00\x08\x00\x00\x00",
        "magic-only.bmp": b"BM",
        "magic-only.webp": b"RIFF\x04\x00\x00\x00WEBP",
        "magic-only.avif": b"\x00\x00\x00\x14ftypavif\x00\x00\x00\x00avif",
    }


def damaged(files: Mapping[str, bytes], seed: int, each: int) -> Iterator[tuple[str, bytes]]:
    """``each`` damages of every file; the same for the same seed."""
    for name, content in sorted(files.items()):
        if len(content) < 64:
            continue
        rng = random.Random(f"{seed}:{name}")
        for number in range(each):
            how = _DAMAGES[(number + rng.randrange(len(_DAMAGES))) % len(_DAMAGES)]
            yield f"{how.__name__.strip('_')}-{number}-{name}", how(bytearray(content), rng)


def _cut(content: bytearray, rng: random.Random) -> bytes:
    return bytes(content[: rng.randrange(1, len(content))])


def _flip(content: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 3, 30))):
        content[rng.randrange(8, len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def _zero(content: bytearray, rng: random.Random) -> bytes:
    at, length = rng.randrange(8, len(content)), rng.choice((16, 512, 4096))
    content[at : at + length] = bytes(len(content[at : at + length]))
    return bytes(content)


def _headed(content: bytearray, rng: random.Random) -> bytes:
    """Wild numbers where sizes and offsets are."""
    for _ in range(4):
        at = rng.randrange(4, min(len(content) - 4, 80))
        content[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4), rng.randbytes(4)))
    return bytes(content)


def _torn(content: bytearray, rng: random.Random) -> bytes:
    """A piece is missing in the middle."""
    at = rng.randrange(8, len(content))
    del content[at : at + rng.randrange(1, 1 + len(content) // 4)]
    return bytes(content)


def _tailed(content: bytearray, rng: random.Random) -> bytes:
    return bytes(content) + rng.randbytes(100)


_DAMAGES = (_cut, _flip, _zero, _headed, _torn, _tailed)
