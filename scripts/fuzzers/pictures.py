"""Image headers, image references and replies of a decoder process. Hostile bytes raise a fault of the row at most."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from hostile_images import drawn, encoded, impostors
from PIL import Image

from batchvision.errors import ImageTooLarge, ImageUnreadable, RowFault
from batchvision.images import ImageFolder, kind_of, redact_reference, redact_url, stamp
from batchvision.images.data_uris import read_data_uri
from batchvision.images.decoder_messages import REPLY_BYTES, TASK_BYTES, DecoderEnding, unpack_reply, unpack_task
from batchvision.images.formats import ImageFormat, ImageHeader, check_pixels, examine, without_metadata
from batchvision.images.references import check_host, check_url, identity, may_be_public, url_identity
from batchvision.records import ImageKind, ImagePreparation, ImageRef
from batchvision.secrets import Secrets

CANARY = "canary-0123456789"
_SECRETS = Secrets()
_WANTED = ImagePreparation()
_ROOT = Path("/nowhere")


class Pictures:
    """The first byte chooses the kind of the rest: an image, a reference, or a reply of a decoder."""

    name = "image"

    def seeds(self) -> Sequence[bytes]:
        images = [*_small_images(), *impostors().values()]
        references = [
            "https://u:p@h.example/a.jpg?X-Amz-Signature=s&v=1#x",
            "http://[::ffff:127.0.0.1]:80/a",
            "http://0x7f.1/a",
            "data:image/png;base64,iVBORw0KGgo=",
            "data:,x",
            "file:///a/%2e%2e/b.png",
            "file://host/a",
            "s3://bucket/key",
            "a/b.jpg",
        ]
        replies = [bytes(REPLY_BYTES), bytes(TASK_BYTES), b"\x03" + b"\xff" * TASK_BYTES]
        seeds = [b"\0" + image for image in images]
        seeds += [b"\1" + reference.encode() for reference in references]
        return seeds + [b"\2" + reply for reply in replies]

    def tokens(self) -> Sequence[bytes]:
        markers = [bytes([0xFF, kind]) for kind in (0xC0, 0xC2, 0xC4, 0xD8, 0xD9, 0xDA, 0xDB, 0xDD, 0xE0, 0xE1, 0xE2)]
        markers += [b"\xff\xe1\x00\x10Exif\x00\x00II*\x00\x08\x00\x00\x00", b"MPF\x00", b"\x00\x02", b"\xff\xff"]
        chunks = [b"IHDR", b"IDAT", b"IEND\xaeB`\x82", b"tRNS", b"acTL", b"eXIf", b"zTXt", b"\x00\x00\x00\x00"]
        words = ["@", "//", "?sig=", "%40", "[::1]", "1.1.1.1", "%zz", "\u3002", "\uff11", ";base64,", "....", "#"]
        words += ["http://", "https://", "file:", "data:", ":99999", "\\", "&token=", ".internal"]
        return [*markers, *chunks, b"ftypavif", b"VP8X", b"VP8L", *(word.encode() for word in words)]

    def run(self, content: bytes) -> str:
        choice, rest = content[:1], content[1:]
        match choice:
            case b"\1":
                return _reference(rest.decode("utf-8", "surrogateescape"))
            case b"\2":
                return _says(rest)
            case _:
                return _image(rest)


def _small_images() -> list[bytes]:
    """So small that most changes fall into their headers."""
    turned = Image.Exif()
    turned[0x0112], turned[0x010E] = 6, "words"
    upright = Image.Exif()
    upright[0x010E] = "words"
    image, grey = drawn(size=(16, 12)), drawn("L", (16, 12))
    two = {"save_all": True, "append_images": [drawn(size=(16, 12), seed=1)]}
    jpegs = [encoded(image, "JPEG", **how) for how in ({}, {"exif": turned}, {"exif": upright}, {"comment": b"x"})]
    jpegs += [encoded(image, "JPEG", progressive=True, icc_profile=b"p"), encoded(grey, "JPEG", restart_marker_rows=1)]
    pngs = [encoded(image, "PNG", **how) for how in ({}, {"exif": turned}, two)] + [encoded(grey, "PNG")]
    others = [encoded(image, name) for name in ("MPO", "WEBP", "GIF", "BMP", "TIFF", "AVIF")]
    webps = [encoded(image, "WEBP", lossless=True), encoded(image, "WEBP", exif=turned)]
    return [*jpegs, *pngs, *others, *webps]


def _image(content: bytes) -> str:
    try:
        header = examine(content)
        check_pixels(header.width, header.height, _WANTED)
    except (ImageUnreadable, ImageTooLarge) as fault:
        return _words(fault)
    if header.is_plain:
        _check_plain(content, header)
    return f"{header.format} {header.is_plain} {header.orientation} {(header.width or 0).bit_length()}"


def _check_plain(content: bytes, header: ImageHeader) -> None:
    """A plain image has the size of its header. Without metadata it is still plain."""
    assert header.format in (ImageFormat.JPEG, ImageFormat.PNG) and header.width and header.height
    try:
        with Image.open(BytesIO(content), formats=["JPEG", "PNG", "MPO"]) as image:
            seen = image.size
    except Exception:  # noqa: BLE001 - what Pillow cannot open, a provider refuses
        seen = (header.width, header.height)
    assert seen == (header.width, header.height), f"{seen} is not {header.width} x {header.height}"
    try:
        stripped = without_metadata(content, header)
    except ImageUnreadable:
        return
    again = examine(stripped)
    assert again.is_plain and (again.width, again.height) == (header.width, header.height)
    assert without_metadata(stripped, again) == stripped and len(stripped) <= len(content)


def _reference(text: str) -> str:
    kind = kind_of(text)
    ref = ImageRef(kind, text, "")
    shown, stamped = redact_reference(ref), stamp(ref, ImageFolder(_ROOT), "content")
    for url in (f"https://u:{CANARY}@{text}", f"http://{text}?sig={CANARY}"):
        shown_url = _SECRETS.mask(redact_url(url))  # as in every output; the second URL has a query inside a query
        assert CANARY not in shown_url, shown_url
    identity(ref, "content", None if kind is not ImageKind.PATH else "0" * 64)
    try:
        if kind is ImageKind.DATA:
            assert len(shown) < 200
            return f"data {len(read_data_uri(text, 1000)).bit_length()}"
        if kind is ImageKind.URL:
            check_url(text)
            assert text.isprintable() or not text.isascii(), text
            assert redact_url(shown) == shown, "redacted twice is another text"
            assert url_identity(url_identity(text)) == url_identity(text)
            check_host(text)
    except RowFault as fault:
        return _words(fault)
    return f"{kind} {stamped.partition(':')[0]} {may_be_public(text[:100])}"


def _says(raw: bytes) -> str:
    """Only a process of ours writes tasks; a reply may come from one that an image has taken over."""
    try:
        reply = unpack_reply(raw[:REPLY_BYTES].ljust(REPLY_BYTES, b"\0"))
    except ValueError:
        return "no reply"
    assert isinstance(reply.ending, DecoderEnding) and reply.length >= 0
    if len(raw) >= TASK_BYTES:
        with suppress(IndexError):  # a format or a background that no task of ours has
            assert unpack_task(raw[:TASK_BYTES]).length >= 0
    return f"{reply.ending.name}"


def _words(fault: RowFault) -> str:
    assert fault.message
    return "".join(letter for letter in fault.message if letter.isascii() and letter.isalpha())[:30]
