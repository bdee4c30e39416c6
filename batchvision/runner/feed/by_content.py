"""Find out whether a row that looks new asks the same as a request that was sent for it.

Rule: the request_key decides. An image that exists is read again. A missing image counts with its stored hash. A URL
counts as stored when it differs only in ignored parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import TYPE_CHECKING

from batchvision.checkpoint import StoredRequest
from batchvision.errors import RowFault
from batchvision.images import ImageFolder, identity, needs_reading, read_source, trimmed_url
from batchvision.keys import request_key_of
from batchvision.records import ImageKind, ImageRef, Payload, Row

if TYPE_CHECKING:
    from batchvision.job import Job


class ByContent:
    """Compares rows of today's manifest with stored requests."""

    def __init__(self, job: Job) -> None:
        self._recipe = job.recipe
        self._files = ImageFolder(job.root)
        self._mode = job.manifest.image_identity
        self._ignored = frozenset(job.manifest.ignore_url_parameters)
        self._skips_bad_images = job.manifest.on_bad_image == "skip_image"
        self.images_read = 0

    def request_key(self, row: Row) -> str | None:
        """The key by the content of the row's images. ``None``: an image is unreadable, so the row is not sent."""
        if row.known_as is not None:
            return row.known_as
        try:
            return self._key(row, list(self._payloads(row)))
        except RowFault:
            return None

    def is_request_of(self, stored: StoredRequest, row: Row) -> bool:
        """Whether the row asks the same as a stored request. Its images may be missing."""
        if not len(stored.image_ref) == len(stored.image_sha256) == len(row.images):
            return False
        images = zip(row.images, stored.image_ref, stored.image_sha256, strict=True)
        try:
            payloads = [self._as_sent(ref, name, digest) for ref, name, digest in images]
        except RowFault:
            return False
        return self._key(row, payloads) == stored.request_key

    def spelled_key(self, row: Row) -> str | None:
        """The key that the row has while no parameter is ignored. ``None``: it names no ignored parameter."""
        if all(ref.known_by in (None, ref.reference) for ref in row.images):
            return None
        return self.request_key(row._replace(images=tuple(ref._replace(known_by=None) for ref in row.images)))

    def _as_sent(self, ref: ImageRef, name: str, digest: str | None) -> Payload:
        """A missing image with its stored hash, a URL in its stored spelling. Raises RowFault for an unusable image."""
        if ref.kind is ImageKind.URL:
            if trimmed_url(ref.reference, self._ignored) == trimmed_url(name, self._ignored):
                ref = ref._replace(reference=name, known_by=None)
        elif ref.size_bytes != 0:
            return self._payload(ref)
        return Payload(identity(ref, self._mode, digest), name, ref.slot, digest)

    def _key(self, row: Row, payloads: list[Payload]) -> str:
        return request_key_of(self._recipe.recipe_id, row.prompt, payloads)

    def _payloads(self, row: Row) -> Iterator[Payload]:
        """The identities of the images for the request_key. Raises RowFault where the row cannot be sent."""
        fault: RowFault | None = None
        usable = 0
        for ref in row.images:
            try:
                yield self._payload(ref)
                usable += 1
            except RowFault as found:
                if not self._skips_bad_images:
                    raise
                fault = fault or found
        if fault is not None and not usable:
            raise fault

    def _payload(self, ref: ImageRef) -> Payload:
        if not needs_reading(ref, self._mode):
            return Payload(identity(ref, self._mode, None), ref.reference, ref.slot, None)
        self.images_read += 1
        digest = sha256(read_source(ref, self._files, self._recipe.images)).hexdigest()
        return Payload(identity(ref, self._mode, digest), ref.reference, ref.slot, digest)
