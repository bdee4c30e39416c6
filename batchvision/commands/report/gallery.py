"""The rows of the gallery, with thumbnails: different and failed rows, then a random sample of each label."""

from __future__ import annotations

import base64
import heapq
from collections.abc import Iterator, Mapping
from enum import IntEnum
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple, Self

from batchvision.commands.report.answers import PLAIN, AnswerForm, label_of, value_text
from batchvision.commands.report.values import Beside, Card
from batchvision.errors import BatchvisionError
from batchvision.images import DecodingPool, ImageFolder, examine, kind_of
from batchvision.job import FIXED_COLUMNS
from batchvision.records import ImageKind, ImagePreparation

THUMBNAIL_SIDE = 240
ANSWER_CHARACTERS = 600
DETAIL_CHARACTERS = 200
MOST_IMAGE_BYTES = 64 * 1024 * 1024


def lot_of(row_id: str, seed: int) -> int:
    """A random number of a row. The rows with the smallest ones are drawn, in any order of the rows."""
    return int.from_bytes(blake2b(f"{seed}:{row_id}".encode(), digest_size=6).digest())


class GalleryGroup(IntEnum):
    """The groups of the gallery, in the order in which they are shown."""

    DIFFERENT = 0  #: rows with another answer in the other output
    FAILED = 1  #: rows of ``failures``
    WRONG = 2  #: answers that are not the known ones
    ANSWERED = 3


class _Candidate(NamedTuple):
    """A row that may be drawn. Rows with the smallest lots are drawn; ``order`` is the negative lot."""

    order: int
    row_id: str
    row: dict[str, Any]
    is_failed: bool
    beside: Beside | None


class Gallery:
    """Chooses at most ``rows`` rows. The same rows and the same seed give the same choice.

    ``expected``: row_id -> known answer, of the rows with a wrong answer. ``form``: of the answers.
    """

    def __init__(
        self, rows: int, seed: int = 0, expected: Mapping[str, str] | None = None, form: AnswerForm = PLAIN
    ) -> None:
        self.rows_seen = 0
        self._form = form
        self._rows = rows
        self._seed = seed
        self._expected = expected or {}
        #: of each kind of row the candidates with the smallest lots, at most ``rows``
        self._lots: dict[tuple[GalleryGroup, str], list[_Candidate]] = {}

    def add(self, row: dict[str, Any], *, is_failed: bool, beside: Beside | None = None) -> None:
        """Consider a row of ``results`` or ``failures``. Each row_id comes at most once in each table."""
        self.rows_seen += 1
        kind = row["error_kind"] if is_failed else label_of(row)
        if beside is not None and beside.change.is_different:
            group, kind = GalleryGroup.DIFFERENT, beside.label  # pairs of labels would hold too many rows
        elif is_failed:
            group = GalleryGroup.FAILED
        else:
            group = GalleryGroup.WRONG if row["row_id"] in self._expected else GalleryGroup.ANSWERED
        lots = self._lots.setdefault((group, kind), [])
        candidate = _Candidate(-lot_of(row["row_id"], self._seed), row["row_id"], row, is_failed, beside)
        if len(lots) < self._rows:
            heapq.heappush(lots, candidate)
        elif lots and candidate > lots[0]:
            heapq.heapreplace(lots, candidate)

    def cards(self, thumbnails: Thumbnails) -> Iterator[Card]:
        """The chosen rows: different ones, then at most half failures, at most half of the rest wrong answers, then
        answers by label."""
        left = self._rows
        for group in GalleryGroup:
            drawn = self._drawn(group)
            later = sum(len(lots) for (other, _), lots in self._lots.items() if other > group)
            chosen = drawn[: left if group is GalleryGroup.DIFFERENT else max(left // 2, left - later)]
            left -= len(chosen)
            if group is GalleryGroup.ANSWERED:
                chosen.sort(key=lambda each: (label_of(each.row), each.row_id))
            for each in chosen:
                yield self._card(each, thumbnails)

    def _drawn(self, group: GalleryGroup) -> list[_Candidate]:
        """One row of each kind or label after the other, in the order of their lots."""
        kinds = [sorted(lots, reverse=True) for (found, _), lots in sorted(self._lots.items()) if found == group]
        drawn = [lots[place] for place in range(self._rows) for lots in kinds if place < len(lots)]
        return drawn[: self._rows]

    def _card(self, candidate: _Candidate, thumbnails: Thumbnails) -> Card:
        row, is_failed, beside = candidate.row, candidate.is_failed, candidate.beside
        references = [reference for reference in row.get("image_ref") or () if reference]
        thumbnail, reason = thumbnails.of(references)
        answer = "" if is_failed else self._form.text(row)
        shown = row["error_message"] or "" if is_failed else answer if self._form.main or beside else ""
        return Card(
            row_id=row["row_id"],
            is_failed=is_failed,
            label=row["error_kind"] if is_failed else label_of(row),
            answer=answer,
            shown=_shortened(shown, ANSWER_CHARACTERS),
            expected=None if is_failed else self._expected.get(row["row_id"]),
            details=tuple(self._details(row)),
            cost_usd=_usd(row.get("row_cost_ticks")),
            image=", ".join(references),
            thumbnail=thumbnail,
            no_thumbnail=reason,
            beside=beside and beside._replace(answer=beside.answer and _shortened(beside.answer, ANSWER_CHARACTERS)),
        )

    def _details(self, row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """The kept cells and the other answer columns."""
        for name, value in row.items():
            if name not in FIXED_COLUMNS and name != self._form.main and value is not None:
                yield name.removeprefix("answer_"), _shortened(value_text(value), DETAIL_CHARACTERS)


def _shortened(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"


def _usd(ticks: int | None) -> str:
    return "" if not ticks else f"${ticks / 10**10:.6f}"


class Thumbnails:
    """Makes thumbnails of the local images of a run. No URL is downloaded.

    ``config``: the settings of the run, with the folder of its images. Decoding processes do the work.
    """

    def __init__(self, config: Mapping[str, Any] | None) -> None:
        root = None if config is None else config.get("manifest", {}).get("root")
        self._folder = None if root is None else ImageFolder(Path(root))
        pixels = 0 if config is None else int(config.get("images", {}).get("max_pixels") or 0)
        self._preparation = ImagePreparation(
            max_side=THUMBNAIL_SIDE, max_pixels=pixels or ImagePreparation().max_pixels
        )
        self._pool = DecodingPool()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    def of(self, references: list[str]) -> tuple[str | None, str]:
        """A data URI of the first image, or ``None`` and the reason."""
        if not references:
            return None, "no image"
        reference = references[0]
        match kind_of(reference):
            case ImageKind.PATH if self._folder is not None:
                return self._local(self._folder, reference)
            case ImageKind.URL | ImageKind.OBJECT:
                return None, "an image at a URL: a report downloads nothing"
            case _:
                return None, "the image stands in the manifest"

    def _local(self, folder: ImageFolder, reference: str) -> tuple[str | None, str]:
        try:
            content = folder.read(reference, MOST_IMAGE_BYTES)
            small = self._pool.thumbnail(content, examine(content), self._preparation)
        except BatchvisionError as fault:
            return None, fault.message
        return "data:image/webp;base64," + base64.b64encode(small).decode("ascii"), ""
