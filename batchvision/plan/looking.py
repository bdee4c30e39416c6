"""A row as a run would look at it, without sending, decoding or downloading anything."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

from batchvision.checkpoint import KeySet, Standing
from batchvision.errors import RowFault, RowInvalid
from batchvision.estimate import Estimator
from batchvision.feed import Standing as FeedStanding
from batchvision.images.formats import examine
from batchvision.images.preparing import passes_unchanged
from batchvision.images.references import identity
from batchvision.images.source import read_source
from batchvision.job import Job
from batchvision.keys import KEY_BYTES, key_bytes, request_key
from batchvision.plan.counts import ImageCounts
from batchvision.prepare import identities
from batchvision.records import Estimate, ImageKind, ImagePreparation, ImageRef, ImageSize, Payload, Row

#: By length of the text and sizes of the images.
ESTIMATES_KEPT = 10_000


class Seen(NamedTuple):
    """A row that would be sent, as far as it can be known without sending it. ``sizes``: of its images, as sent."""

    row: Row
    sizes: tuple[ImageSize, ...]
    request_key: str
    estimate: Estimate


class Distinct:
    """Identical requests are asked once: which are the first of their kind, and have no answer yet."""

    def __init__(self, standing: FeedStanding) -> None:
        self._answered = standing.answered if isinstance(standing, Standing) else None
        self._seen = KeySet()

    def first(self, seen: Sequence[Seen]) -> list[Seen]:
        """Those of ``seen`` whose requests would be sent."""
        return [seen[place] for place in self.first_places(b"".join([key_bytes(each.request_key) for each in seen]))]

    def first_places(self, request_keys: bytes) -> list[int]:
        """The places of those requests that would be sent; 16 bytes a key, one behind the other."""
        asked = [request_keys[at : at + KEY_BYTES] for at in range(0, len(request_keys), KEY_BYTES)]
        known = self._seen.contains_packed(request_keys)
        if self._answered is not None:
            known |= self._answered.contains_packed(request_keys)
        places = dict(zip(reversed(asked), reversed(range(len(asked))), strict=True))  # the first of each
        for key in places:
            self._seen.add(key)
        return [place for place in sorted(places.values()) if not known[place]]


class Looking:
    """Looks at rows as a run would, and counts their images. Decodes and downloads nothing."""

    def __init__(self, job: Job, estimator: Estimator) -> None:
        self.estimator = estimator
        self.images = ImageCounts()
        self._recipe = job.recipe
        self._root = job.root
        self._identity_mode = job.manifest.image_identity
        #: nothing is learned while one only looks, and most requests are alike in what an estimate goes by
        self._estimate = lru_cache(ESTIMATES_KEPT)(estimator.estimate)
        self._skips_bad_images = job.manifest.on_bad_image == "skip_image"

    def at(self, row: Row) -> Seen:
        """Raises RowFault where nothing could be sent."""
        if row.problem is not None:
            raise RowInvalid(row.problem)
        payloads: list[Payload] = []
        first_fault: RowFault | None = None
        for ref in row.images:
            try:
                payloads.append(self._image(ref))
            except RowFault as fault:
                if not self._skips_bad_images:
                    raise
                first_fault = first_fault or fault
        if not payloads and first_fault is not None:
            raise first_fault
        key = request_key(self._recipe.recipe_id, row.text, identities(row.text, payloads))
        sizes = tuple([(payload.width, payload.height) for payload in payloads])
        return Seen(row, sizes, key, self._estimate(len(row.text), sizes))

    def _image(self, ref: ImageRef) -> Payload:
        """One image, by its bytes; without what it would be converted to."""
        mode, preparation, counts = self._identity_mode, self._recipe.images, self.images
        if ref.kind is ImageKind.URL:
            counts.add_urls(1)
            return Payload(identity(ref, mode, None), ref.reference, ref.slot, None)
        content = read_source(ref, self._root, preparation)
        header = examine(content)
        counts.count += 1
        counts.bytes += len(content)
        counts.by_format[header.format.value] += 1
        counts.to_convert += not passes_unchanged(content, header, preparation)
        counts.measure(header.width, header.height)
        digest = sha256(content).hexdigest()
        width, height = _size_as_sent(header.width, header.height, preparation)
        return Payload(identity(ref, mode, digest), ref.reference, ref.slot, digest, width=width, height=height)


def _size_as_sent(width: int | None, height: int | None, preparation: ImagePreparation) -> ImageSize:
    """In pixels, once it has been prepared; as far as ``max_side`` decides it."""
    if not width or not height:
        return width, height
    shrink = min(1.0, (preparation.max_side or max(width, height)) / max(width, height))
    return max(1, round(width * shrink)), max(1, round(height * shrink))
