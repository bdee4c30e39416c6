"""Load an image reference as a checked payload: find it, read it, check its content, convert it where necessary.

Blocking work never runs on the event loop. Each fault is a RowFault and names the next step.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, Protocol

from batchvision.errors import ImageUnreachable, ImageUnreadable, RowInvalid
from batchvision.eventloop import ByteBudget, Offload, threads
from batchvision.images.data_uris import read_data_uri
from batchvision.images.downloads import Downloads
from batchvision.images.files import ImageFiles, ImageFolder
from batchvision.images.formats import ImageHeader, examine
from batchvision.images.pool import MOST_PROCESSES, DecodingPool
from batchvision.images.preparing import (
    ANY_SIZE,
    Converter,
    LeastSize,
    Prepared,
    as_it_is,
    convert_here,
    part_sent,
    prepare_bytes,
)
from batchvision.images.reading import FileReaders
from batchvision.images.references import (
    check_host,
    check_object,
    check_url,
    identity,
    kind_of,
    redact_reference,
    redact_url,
    several_in,
    url_identity,
    with_size,
)
from batchvision.records import ImageKind, ImagePreparation, ImageRef, Payload

log = logging.getLogger(__name__)

#: Larger sources are not read: the limit bounds memory, and no reasonable photo comes near it.
MAX_SOURCE_BYTES = 128 * 1024 * 1024
#: Bound of the bytes of downloads that arrive or are converted.
MAX_DOWNLOADED_BYTES = 160 * 1024 * 1024
#: Threads that wait for decoding processes. Images that need no decoder have their own threads.
DECODING_THREADS = 2 * MOST_PROCESSES

#: Awaited before this number of bytes is held.
ReserveBytes = Callable[[int], Awaitable[None]]


class Fetcher(Protocol):
    """Downloads an image; see ``http.fetch``."""

    async def fetch(self, url: str, max_bytes: int, reserve: ReserveBytes | None = None) -> bytes: ...


class Objects(Fetcher, Protocol):
    """Downloads and signs objects; see ``objects``."""

    async def sign(self, url: str) -> str:
        """A URL under which the provider can read the object for some hours."""
        ...


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """The settings of a job for its images.

    ``mode``: url, inline or auto (URLs are handed over unless a payload is asked for inline). ``identity``: content or
    ref. ``least``: the smallest image that the provider takes.
    """

    preparation: ImagePreparation
    mode: str = "auto"
    identity: str = "content"
    allow_private_hosts: bool = False
    least: LeastSize = ANY_SIZE
    object_root: str | None = None  #: objects must lie below it


class _Undecoded(NamedTuple):
    """An image that a decoder must convert."""

    content: bytes
    header: ImageHeader


def load_local(reference: str, root: Path, preparation: ImagePreparation, slot: str = "") -> Payload:
    """The payload of a file or data: URI that the job itself names, for its examples. Blocking."""
    kind = kind_of(reference)
    if kind not in (ImageKind.PATH, ImageKind.DATA):
        raise RowInvalid(f"{redact_url(reference)}: an example's image must be a file: download it and name its path")
    ref = ImageRef(kind, reference, slot)
    content = read_source(ref, ImageFolder(root), preparation)
    return inline_payload(ref, content, prepare_bytes(content, preparation), "content")


def read_source(ref: ImageRef, files: ImageFiles, preparation: ImagePreparation) -> bytes:
    """The source bytes of an image that is not a URL. Blocking."""
    limit = max_source_bytes(preparation)
    match ref.kind:
        case ImageKind.PATH:
            return files.read(ref.reference, limit)
        case ImageKind.DATA:
            return read_data_uri(ref.reference, limit)
        case ImageKind.BYTES:
            return ref.content or b""
        case ImageKind.URL | ImageKind.OBJECT | ImageKind.UNSUPPORTED:
            if (count := several_in(ref.reference)) > 1:
                raise RowInvalid(
                    f"the cell {ref.slot!r} holds {count} URLs: set manifest.image_separator to what stands between "
                    "them, to send them as several images"
                )
            raise ImageUnreachable(
                f"{redact_url(ref.reference)}: this scheme is not read yet. Copy the images to a folder, "
                "or use s3://, gs://, az:// or https:// URLs"
            )


def max_source_bytes(preparation: ImagePreparation) -> int:
    return max(MAX_SOURCE_BYTES, preparation.max_bytes)


def inline_payload(ref: ImageRef, content: bytes, prepared: Prepared, identity_mode: str) -> Payload:
    """The payload of an image: identified by its source bytes ``content``, sent as ``prepared``."""
    digest = sha256(content).hexdigest()
    return Payload(
        identity=identity(ref, identity_mode, digest),
        reference=redact_reference(ref, digest),
        slot=ref.slot,
        sha256=digest,
        inline=prepared.content,
        media_type=prepared.media_type,
        width=prepared.width,
        height=prepared.height,
        more=prepared.more,
    )


class ImageSource:
    """Gives the payload of any image reference of one job.

    ``fetch`` may be ``None`` where no URL is inlined. ``convert`` decodes images that cannot be sent unchanged. By
    default a pool of decoding processes does, which ends with this object. With ``offload``, as for virtual time, all
    work runs there and in this process.
    """

    def __init__(
        self,
        files: ImageFiles,
        settings: ImageSettings,
        *,
        fetch: Fetcher | None = None,
        objects: Objects | None = None,
        convert: Converter | None = None,
        offload: Offload | None = None,
    ) -> None:
        self._files = files
        self._settings = settings
        self._fetcher = fetch
        self._objects = objects
        self._has_warned = False
        self._offload = offload or threads()
        self._decode = offload or threads(DECODING_THREADS)
        self._readers = None if offload is not None else FileReaders()
        self._downloads, self._bytes = Downloads(), ByteBudget(MAX_DOWNLOADED_BYTES)
        if convert is None and offload is None:
            pool = DecodingPool()
            weakref.finalize(self, pool.close)
            convert = pool.convert
        self._convert: Converter = convert or convert_here

    async def size_bytes(self, refs: Sequence[ImageRef]) -> int:
        """The size of these images together, from references and file sizes: no image is read.

        A URL that is downloaded counts as the largest image that is sent, a URL that is handed over as nothing.
        """
        if any(ref.kind is ImageKind.PATH and ref.size_bytes is None for ref in refs):
            refs = await self._offload(lambda: [with_size(ref, self._files) for ref in refs])
        total = 0
        for ref in refs:
            match ref.kind:
                case ImageKind.URL:
                    total += self._settings.preparation.max_bytes if self._settings.mode == "inline" else 0
                case ImageKind.OBJECT:
                    total += self._settings.preparation.max_bytes if self._settings.mode != "url" else 0
                case ImageKind.BYTES:
                    total += len(ref.content or b"")
                case ImageKind.DATA:
                    total += len(ref.reference)
                case _:
                    total += ref.size_bytes or 0
        return total

    async def payload(self, ref: ImageRef, inline: bool = False) -> Payload:
        """The image, checked and ready to be placed in a request. Raises a RowFault."""
        if ref.kind is ImageKind.OBJECT:
            return await self._object(ref, is_inlined=inline or self._settings.mode != "url")
        if ref.kind is not ImageKind.URL:
            if ref.kind is ImageKind.PATH and self._readers is not None:
                return await self._decoded(ref, await self._readers.read(ref.reference, partial(self._load, ref)))
            return await self._decoded(ref, await self._offload(self._load, ref))
        check_url(ref.reference)
        if not self._settings.allow_private_hosts:
            check_host(ref.reference)
        if inline or self._settings.mode == "inline":
            return await self._downloaded(ref, url_identity(ref.reference), self._fetcher)
        return Payload(
            identity=identity(ref, self._settings.identity, None),
            reference=redact_url(ref.reference),
            slot=ref.slot,
            sha256=None,
            url=ref.reference,
        )

    async def _object(self, ref: ImageRef, *, is_inlined: bool) -> Payload:
        """An object is private by default, so its bytes are sent. As a URL it is signed anew for each request."""
        check_object(ref.reference, self._settings.object_root)
        if self._objects is None:
            raise ImageUnreachable(f"{ref.reference}: nothing here can download it")
        if is_inlined:
            return await self._downloaded(ref, ref.reference, self._objects)
        return Payload(
            identity=identity(ref, self._settings.identity, None),
            reference=ref.reference,
            slot=ref.slot,
            sha256=None,
            url=await self._objects.sign(ref.reference),
        )

    async def _downloaded(self, ref: ImageRef, name: str, fetcher: Fetcher | None) -> Payload:
        """Download an image once a run. Other rows, and the same URL with another signature, reuse the payload."""
        payload = await self._downloads.get(name, partial(self._download, ref, fetcher))
        return payload._replace(
            identity=identity(ref, self._settings.identity, payload.sha256),
            reference=redact_reference(ref),
            slot=ref.slot,
        )

    async def _download(self, ref: ImageRef, fetcher: Fetcher | None) -> Payload:
        if fetcher is None:
            raise ImageUnreachable(f"{redact_reference(ref)}: nothing here can download it")
        async with AsyncExitStack() as held:

            async def reserve(size_bytes: int) -> None:
                await held.aclose()  # a further try must not wait for bytes while it holds those of the first
                await held.enter_async_context(self._bytes.hold(size_bytes))

            limit = max_source_bytes(self._settings.preparation)
            content = await fetcher.fetch(ref.reference, limit, reserve)
            return await self._decoded(ref, await self._offload(self._examined, ref, content))

    async def _decoded(self, ref: ImageRef, found: Payload | _Undecoded) -> Payload:
        return found if isinstance(found, Payload) else await self._decode(self._converted, ref, found)

    # ---------------------------------------------------------------------------- blocking

    def _load(self, ref: ImageRef) -> Payload | _Undecoded:
        return self._examined(ref, read_source(ref, self._files, self._settings.preparation))

    def _examined(self, ref: ImageRef, content: bytes) -> Payload | _Undecoded:
        header = examine(content)
        prepared = as_it_is(content, header, self._settings.preparation)
        return _Undecoded(content, header) if prepared is None else self._payload(ref, content, prepared)

    def _converted(self, ref: ImageRef, image: _Undecoded) -> Payload:
        prepared = prepare_bytes(image.content, self._settings.preparation, self._convert, image.header)
        return self._payload(ref, image.content, prepared)

    def _payload(self, ref: ImageRef, content: bytes, prepared: Prepared) -> Payload:
        width, height, least = prepared.width, prepared.height, self._settings.least
        if min(width, height) < least.side or width * height < least.pixels:
            raise ImageUnreadable(
                f"{width} x {height} pixels are too few for the provider, which takes {least.side} a side and "
                f"{least.pixels:,} in all at least: use a larger image, or scale this one up"
            )
        payload = inline_payload(ref, content, prepared, self._settings.identity)
        if not self._has_warned and (part := part_sent(prepared, self._settings.preparation)):
            self._has_warned = True
            log.warning("%s %s. This is said once; other files may be alike.", payload.reference, part)
        return payload
