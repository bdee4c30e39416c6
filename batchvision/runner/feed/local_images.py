"""Find out whether the local images exist at all: a folder that is not mounted is no fault of its rows.

Rule: only the first images are looked up, and no file is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchvision.images import ImageFolder, stamp
from batchvision.records import ImageKind, ImageRef
from batchvision.runner.feed.stretch import Stretch

if TYPE_CHECKING:
    from batchvision.job import Job

#: The search ends after this number of local images.
LOOKED_AT = 100
#: Fewer missing images may be the fault of their rows.
LEAST_MISSING = 20
#: The search ends after this number of rows without a local image.
ROWS_LOOKED_AT = 10_000
_ROWS_AT_ONCE = 128


class LocalImages:
    """Counts the first local images of the rows to do."""

    def __init__(self, job: Job) -> None:
        self._files = ImageFolder(job.root)
        self._rows = 0
        self.found = 0
        self.missing = 0
        self.example = ""  #: the first missing image, as the manifest names it

    @property
    def is_settled(self) -> bool:
        """Whether the search has ended."""
        return self.found + self.missing >= LOOKED_AT or self.found > 0 or self._rows >= ROWS_LOOKED_AT

    @property
    def are_all_missing(self) -> bool:
        return not self.found and self.missing >= LEAST_MISSING

    def add(self, stretch: Stretch) -> None:
        """Look up the images of a stretch's rows to do. An image of a done row shows that the folder is there, too."""
        self.found += stretch.tally.counts.images_found
        if stretch.images.are_all_plain:
            self._rows += len(stretch.tally.places)
            return
        places = stretch.sound_places()
        for start in range(0, len(places), _ROWS_AT_ONCE):
            for row in stretch.rows(places[start : start + _ROWS_AT_ONCE]):
                if self.is_settled:
                    return
                self._rows += 1
                for ref in row.images:
                    if ref.kind is ImageKind.PATH:
                        self._look_at(ref._replace(version=None))

    def _look_at(self, ref: ImageRef) -> None:
        if not stamp(ref, self._files, "content").startswith("missing:"):
            self.found += 1
        elif self.missing < LOOKED_AT:
            self.missing += 1
            self.example = self.example or ref.reference
