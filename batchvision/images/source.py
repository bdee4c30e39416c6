"""From an image reference to a checked payload: found, read, checked by content, converted where it must be.

Rule: nothing that takes long happens on the event loop; every fault is a RowFault of that row and names the next step.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Protocol, TypeVar, TypeVarTuple

import anyio
import anyio.to_thread

from batchvision.errors import ImageUnreachable, ImageUnreadable, RowInvalid
from batchvision.images.addresses import check_host
from batchvision.images.data_uris import read_data_uri
from batchvision.images.downloads import Downloads, Room
from batchvision.images.formats import Header, examine
from batchvision.images.jail import read_inside
from batchvision.images.pool import MOST_PROCESSES, DecodingPool
from batchvision.images.preparing import (
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

#: No larger source is read: it bounds memory, and the largest photo that makes sense is far below.
MAX_SOURCE_BYTES = 128 * 1024 * 1024
#: Images up to this size that need no conversion are checked on the loop: a thread would cost more.
SMALL_BYTES = 256 * 1024
#: They wait for decoding processes. Images that need none have threads of their own.
DECODING_THREADS = 2 * MOST_PROCESSES

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Offload(Protocol):
    """Runs blocking work off the event loop (inline where tests use virtual time)."""

    def __call__(self, work: Callable[[*Ts], T], /, *args: *Ts) -> Awaitable[T]: ...


#: Asked before so many bytes are held.
Reserve = Callable[[int], Awaitable[None]]


class Fetcher(Protocol):
    """Downloads an image; see ``http.fetch``."""

    async def fetch(self, url: str, max_bytes: int, reserve: Reserve | None = None) -> bytes: ...


def threads(limit: int | None = None, *, may_abandon: bool = False) -> Offload:
    """An Offload onto at most ``limit`` threads at once (default: the processors there are, and at least two).

    ``may_abandon``: a caller that is cancelled does not wait for its thread, which a hung disk may hold for ever.
    """
    limiters: list[anyio.CapacityLimiter] = []  # made on first use: it belongs to the running loop

    async def offload(work: Callable[[*Ts], T], /, *args: *Ts) -> T:
        if not limiters:
            limiters.append(anyio.CapacityLimiter(limit or max(2, os.cpu_count() or 2)))
        return await anyio.to_thread.run_sync(work, *args, limiter=limiters[0], abandon_on_cancel=may_abandon)

    return offload


def load_local(
    reference: str,
    root: Path,
    preparation: ImagePreparation,
    slot: str = "",
) -> Payload:
    """The payload of a file (or data: URI) that a job names itself: the images of its examples. Blocking."""
    kind = kind_of(reference)
    if kind not in (ImageKind.PATH, ImageKind.DATA):
        raise RowInvalid(f"{redact_url(reference)}: an example's image must be a file: download it and name its path")
    ref = ImageRef(kind, reference, slot)
    content = read_source(ref, root, preparation)
    return inline_payload(ref, content, prepare_bytes(content, preparation), "content")


def read_source(ref: ImageRef, root: Path, preparation: ImagePreparation) -> bytes:
    """The source bytes of an image that is not a URL. Blocking."""
    limit = max_source_bytes(preparation)
    match ref.kind:
        case ImageKind.PATH:
            return read_inside(root, ref.reference, limit)
        case ImageKind.DATA:
            return read_data_uri(ref.reference, limit)
        case ImageKind.BYTES:
            return ref.content or b""
        case ImageKind.URL | ImageKind.UNSUPPORTED:
            if (count := several_in(ref.reference)) > 1:
                raise RowInvalid(
                    f"the cell {ref.slot!r} holds {count} URLs: set manifest.image_separator to what stands between "
                    "them, to send them as several images"
                )
            raise ImageUnreachable(
                f"{redact_url(ref.reference)}: this scheme is not read yet. Copy the images to a folder, "
                "or use https:// URLs (presigned ones will do)"
            )


def max_source_bytes(preparation: ImagePreparation) -> int:
    return max(MAX_SOURCE_BYTES, preparation.max_bytes)


def inline_payload(ref: ImageRef, content: bytes, prepared: Prepared, identity_mode: str) -> Payload:
    """The payload of an image: known by its source bytes ``content``, sent as ``prepared``."""
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

    ``image_mode``: url | inline | auto (URLs are handed over unless ``inline`` is asked for). ``image_identity``:
    content | ref. ``fetch`` may be None where no URL is ever inlined. ``convert``: who decodes images that cannot
    travel as they are; None: decoding processes of its own that end with it, or this process where ``offload`` is
    given, for then nothing shall run beside it. ``least``: what the provider takes; smaller images fail their row.
    """

    def __init__(
        self,
        root: Path,
        preparation: ImagePreparation,
        image_mode: str = "auto",
        image_identity: str = "content",
        *,
        fetch: Fetcher | None = None,
        offload: Offload | None = None,
        convert: Converter | None = None,
        allow_private_hosts: bool = False,
        least: LeastSize | None = None,
    ) -> None:
        self._root = root
        self._preparation = preparation
        self._inlines_urls = image_mode == "inline"
        self._identity_mode = image_identity
        self._fetcher = fetch
        self._allow_private_hosts = allow_private_hosts
        self._least = least or LeastSize()
        self._has_warned = False  #: of a file of which a part is not sent
        self._offload = offload or threads()
        self._decode = offload or threads(DECODING_THREADS)
        self._readers = None if offload is not None else FileReaders()
        self._downloads, self._room = Downloads(), Room()
        if convert is None and offload is None:
            pool = DecodingPool()
            weakref.finalize(self, pool.close)
            convert = pool.convert
        self._convert: Converter = convert or convert_here

    async def size_bytes(self, refs: Sequence[ImageRef]) -> int:
        """How large these images are together, where that is cheap to know."""
        if any(ref.kind is ImageKind.PATH and ref.size_bytes is None for ref in refs):
            return await self._offload(self._sizes, refs)
        return self._sizes(refs)

    def _sizes(self, refs: Sequence[ImageRef]) -> int:
        return sum(map(self._size_bytes, refs))

    def _size_bytes(self, ref: ImageRef) -> int:
        """A URL that is downloaded counts as the most it may be sent as, one that is handed over as nothing."""
        match ref.kind:
            case ImageKind.URL:
                return self._preparation.max_bytes if self._inlines_urls else 0
            case ImageKind.BYTES:
                return len(ref.content or b"")
            case ImageKind.DATA:
                return len(ref.reference)
            case _:
                known = with_size(ref, self._root).size_bytes if ref.size_bytes is None else ref.size_bytes
                return known or 0

    async def payload(self, ref: ImageRef, inline: bool = False) -> Payload:
        """The image, checked and ready to be placed in a request. Raises a RowFault."""
        match ref.kind:
            case ImageKind.URL:
                check_url(ref.reference)
                if not self._allow_private_hosts:
                    check_host(ref.reference)
                return await self._downloaded(ref) if inline or self._inlines_urls else self._handed_over(ref)
            case ImageKind.BYTES if ref.content:
                return await self._from_bytes(ref, ref.content)
            case _:
                return await self._from_bytes(ref, await self._read(ref))

    async def _read(self, ref: ImageRef) -> bytes:
        if ref.kind is not ImageKind.PATH or self._readers is None:
            return await self._offload(read_source, ref, self._root, self._preparation)
        return await self._readers.read(ref.reference, partial(read_source, ref, self._root, self._preparation))

    def _handed_over(self, ref: ImageRef) -> Payload:
        return Payload(
            identity=identity(ref, self._identity_mode, None),
            reference=redact_url(ref.reference),
            slot=ref.slot,
            sha256=None,
            url=ref.reference,
        )

    async def _downloaded(self, ref: ImageRef) -> Payload:
        """Once in a run: other rows, and the same URL signed anew, have the same payload under their own name."""
        payload = await self._downloads.get(url_identity(ref.reference), partial(self._download, ref))
        return payload._replace(
            identity=identity(ref, self._identity_mode, payload.sha256),
            reference=redact_url(ref.reference),
            slot=ref.slot,
        )

    async def _download(self, ref: ImageRef) -> Payload:
        if self._fetcher is None:
            raise ImageUnreachable(f"{redact_url(ref.reference)}: nothing here can download it")
        async with self._room.share() as share:
            content = await self._fetcher.fetch(ref.reference, max_source_bytes(self._preparation), share.reserve)
            return await self._from_bytes(ref, content)

    async def _from_bytes(self, ref: ImageRef, content: bytes) -> Payload:
        if len(content) > SMALL_BYTES or self._preparation.strip_metadata:
            found = await self._offload(self._unchanged, ref, content)
        else:
            found = self._unchanged(ref, content)
        if isinstance(found, Payload):
            return found
        return await self._decode(self._converted, ref, content, found)

    def _unchanged(self, ref: ImageRef, content: bytes) -> Payload | Header:
        """Its payload as it is; its header, where it has to be converted."""
        header = examine(content)
        prepared = as_it_is(content, header, self._preparation)
        return header if prepared is None else self._payload(ref, content, prepared)

    def _converted(self, ref: ImageRef, content: bytes, header: Header) -> Payload:
        return self._payload(ref, content, prepare_bytes(content, self._preparation, self._convert, header))

    def _payload(self, ref: ImageRef, content: bytes, prepared: Prepared) -> Payload:
        self._reject_small(prepared)
        payload = inline_payload(ref, content, prepared, self._identity_mode)
        if not self._has_warned and (part := part_sent(prepared, self._preparation)):
            self._has_warned = True
            log.warning("%s %s. This is said once; other files may be alike.", payload.reference, part)
        return payload

    def _reject_small(self, prepared: Prepared) -> None:
        width, height = prepared.width, prepared.height
        if min(width, height) < self._least.side or width * height < self._least.pixels:
            raise ImageUnreadable(
                f"{width} x {height} pixels are too few for the provider, which takes {self._least.side} a side and "
                f"{self._least.pixels:,} in all at least: use a larger image, or scale this one up"
            )
