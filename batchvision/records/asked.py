"""What is asked: a row, its images and recipe, and the request made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from batchvision.secrets import Secret

TICKS_PER_USD = 10_000_000_000

#: A kept cell: what JSON can hold. Dates, decimals, binaries travel as text; the column's Arrow type tells.
Cell = str | int | float | bool | None
JsonObject = Mapping[str, Any]


class Lane(StrEnum):
    """How requests travel."""

    ONLINE = "online"  #: ask and wait for the answer
    DEFERRED = "deferred"  #: hand in, poll for the answer, read it once
    BATCH = "batch"  #: hand in thousands, read them when the provider is done


class Purpose(StrEnum):
    """Why a run sends requests. Intents and run summaries hold it as a field."""

    RUN = "run"  #: answer the rows to do
    PILOT = "pilot"  #: answer rows of all sizes, to learn the cost of the rest
    SWEEP = "sweep"  #: ask rows again under another setting, to compare; results go to the ledger only

    def mark(self, run_id: str) -> str:
        """``run_id`` with the purpose at its end, for people."""
        return run_id if self is Purpose.RUN else f"{run_id}-{self}"

    @classmethod
    def of_run_id(cls, run_id: str) -> Purpose:
        """The purpose in a run_id: for the ledger and for journals of earlier versions, which lack the field."""
        return next((each for each in (cls.PILOT, cls.SWEEP) if run_id.endswith(f"-{each}")), cls.RUN)


class ImageKind(StrEnum):
    """Where the bytes of an image are."""

    PATH = "path"  #: a local file, relative to the manifest's root or absolute
    URL = "url"  #: http or https
    DATA = "data"  #: a data: URI in the cell
    BYTES = "bytes"  #: a binary cell
    UNSUPPORTED = "unsupported"  #: s3:// and other schemes: an error of that row


class ImageRef(NamedTuple):
    """One image as the manifest names it. ``reference``: path, URL or data URI (for BYTES: the struct's path, or "").

    ``slot`` is the column it came from, for ``{image:slot}``. ``version`` is the cell of ``image_version``, if any.
    ``size_bytes``: of a local file, as the feed found it (0: there is none); None where nothing has looked.
    ``known_by``: the URL without the parameters that ``manifest.ignore_url_parameters`` names; None: as it is.
    """

    kind: ImageKind
    reference: str
    slot: str
    content: bytes | None = None
    version: str | None = None
    size_bytes: int | None = None
    known_by: str | None = None


@dataclass(frozen=True, slots=True)
class ImageSlot:
    """A place for images in a prompt: those of the column ``name``, or ("") the next image that has no place."""

    name: str


#: The user prompt of one row: texts, and places for images between them. Neighbouring texts are joined.
Prompt = tuple[str | ImageSlot, ...]


class Row(NamedTuple):
    """One manifest row to do, with its rendered ``prompt``.

    ``problem`` set: the row is ``row_invalid`` for that reason and nothing of it is sent.
    ``position`` is the row's 1-based number in the manifest, for messages.
    """

    position: int
    row_id: str
    prompt: Prompt
    images: tuple[ImageRef, ...]
    keep: tuple[Cell, ...]
    skip_key: str
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """A few-shot turn: what a user might ask, and the answer we would like."""

    user: str
    images: tuple[str, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Label:
    """One allowed answer, with the sentence that explains it to the model."""

    value: str
    description: str | None = None


@dataclass(frozen=True, slots=True)
class AnswerSpec:
    """What an answer must look like. ``schema`` is the JSON schema as sent (None: plain text)."""

    schema: JsonObject | None = None
    labels: tuple[Label, ...] = ()
    labels_many: bool = False
    labels_confidence: bool = False
    labels_fallback: str | None = None
    #: what arriving answers are checked against: ``schema`` with the user's own limits (None: ``schema`` itself)
    check_schema: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class ImagePreparation:
    """What is done to an image before it is sent (``[images]`` of the job)."""

    max_bytes: int = 10 * 1024 * 1024
    max_side: int | None = None
    max_pixels: int = 100_000_000
    strip_metadata: bool = False
    background: str = "auto"  #: auto, white or black: under transparent pixels, where an image must be flattened
    page: str | int = "first"  #: first, all, or a number from 1: of files with several pages or frames


@dataclass(frozen=True, slots=True)
class Recipe:
    """All of a job that decides its answers; ``recipe_id`` is the hash of :meth:`document`."""

    provider: str
    model: str
    system: str | None
    user: str | None  #: the template; None when ``user_column`` is sent verbatim
    user_column: str | None
    parameters: JsonObject = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    #: sha256 of the examples' image files, in order: their bytes decide answers too
    example_image_sha256: tuple[str, ...] = ()
    answer: AnswerSpec = field(default_factory=AnswerSpec)
    images_first: bool = False
    detail: str = "auto"
    images: ImagePreparation = field(default_factory=ImagePreparation)
    recipe_id: str = ""


#: Width and height in pixels, where known.
ImageSize = tuple[int | None, int | None]


class Estimate(NamedTuple):
    """What a request will probably, and at most, need. Ticks are None where no price is known.

    ``tokens`` are all; of them ``output_tokens`` are the answer's, and ``cached_tokens`` are read from the provider's
    cache. ``text_tokens`` and ``sizes`` (of its images) are what it was made of: an answer's usage is compared with it.
    """

    tokens: int
    likely_ticks: int | None
    bound_ticks: int | None
    output_tokens: int = 0
    cached_tokens: int = 0
    text_tokens: int = 0
    sizes: tuple[ImageSize, ...] = ()


class Page(NamedTuple):
    """One further page of an image, ready to be placed in a request."""

    inline: bytes
    width: int
    height: int


class Payload(NamedTuple):
    """One image ready to be placed in a request: either a URL handed over as is, or checked bytes.

    ``identity`` enters the request_key; ``sha256`` is of the source bytes (None for a URL handed over);
    ``reference`` is the image ref as it may be shown and stored (redacted, no data URIs, no signatures).
    ``more``: further pages as JPEGs, sent behind it (``images.page = "all"``).
    """

    identity: str
    reference: str
    slot: str
    sha256: str | None
    url: str | None = None
    inline: bytes | None = None
    media_type: str | None = None
    width: int | None = None
    height: int | None = None
    more: tuple[Page, ...] = ()

    def sizes(self) -> list[ImageSize]:
        """Of all its pages that are sent."""
        return [(self.width, self.height), *((page.width, page.height) for page in self.more)]


class Tries(NamedTuple):
    """How often this request has been tried in this run, the attempt under way included."""

    spent: int = 1  #: attempts that count toward limits.max_attempts
    unspent: int = 0  #: 429s and failed connects before this one
    empties: int = 0  #: empty answers so far
    raised: bool = False  #: max_tokens has been raised once
    downloads: int = 0  #: image URLs the provider failed to download so far
    probe: bool = False  #: sent while the provider seems away: a failure on its side spends no attempt


class Request(NamedTuple):
    """What is asked for one row, ready to travel: ``messages`` is the JSON array of chat messages."""

    row_id: str
    request_key: str
    skip_key: str
    messages: bytes
    image_ref: tuple[str, ...]
    image_sha256: tuple[str | None, ...]
    keep: tuple[Cell, ...]
    estimate: Estimate
    has_urls: bool = False  #: an image travels as a URL, so that inlining it is left to try
    raised_estimate: Estimate | None = None  #: for the one retry with a larger max_tokens, where the job allows it
    credentials: tuple[Secret, ...] = ()  #: of the image URLs handed over: masked in whatever comes back
