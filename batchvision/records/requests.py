"""Rows, images, recipes, and the requests made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from batchvision.secrets import Secret

TICKS_PER_USD = 10_000_000_000

#: A kept cell as JSON can hold it. Dates, decimals and binaries are text; the Arrow type of the column is kept.
Cell = str | int | float | bool | None
JsonObject = Mapping[str, Any]


class Lane(StrEnum):
    """How requests travel."""

    ONLINE = "online"  #: ask and wait for the answer
    DEFERRED = "deferred"  #: submit, poll for the answer, read it once
    BATCH = "batch"  #: submit thousands, read them when the provider is done


class Purpose(StrEnum):
    """Why a run sends requests. Intents and run summaries hold it as a field."""

    RUN = "run"  #: answer the rows to do
    PILOT = "pilot"  #: answer rows of all sizes, to learn the cost of the rest
    SWEEP = "sweep"  #: ask rows again under another setting, to compare; results go to the ledger only
    REDO = "redo"  #: ask completed rows again; the new answer supersedes the older one

    def mark(self, run_id: str) -> str:
        """``run_id`` with the purpose at its end, for people."""
        return run_id if self is Purpose.RUN else f"{run_id}-{self}"

    @classmethod
    def of_run_id(cls, run_id: str) -> Purpose:
        """The purpose in a run_id: for the ledger and for journals of earlier versions, which lack the field."""
        return next((each for each in (cls.PILOT, cls.SWEEP, cls.REDO) if run_id.endswith(f"-{each}")), cls.RUN)


class ImageKind(StrEnum):
    """Where the bytes of an image are."""

    PATH = "path"  #: a local file, relative to the manifest's root or absolute
    URL = "url"  #: http or https
    DATA = "data"  #: a data: URI in the cell
    BYTES = "bytes"  #: a binary cell
    OBJECT = "object"  #: s3://, gs:// or az://
    UNSUPPORTED = "unsupported"  #: other schemes: an error of that row


class ImageRef(NamedTuple):
    """One image as the manifest names it.

    ``reference`` is a path, URL or data URI; for BYTES the path of the struct, or "".
    ``slot`` is the column of the image, for ``{image:slot}``. ``version`` is the cell of ``image_version``, if any.
    ``size_bytes`` of a local file, as the feed found it: 0 if it is missing, ``None`` if the feed did not look.
    ``known_by``: the URL without ``manifest.ignore_url_parameters``; ``None`` if the job names no parameters.
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
    ``position`` is the row's 1-based number in the manifest, for messages. ``known_as``: the request_key of the row
    under another spelling of its URLs.
    """

    position: int
    row_id: str
    prompt: Prompt
    images: tuple[ImageRef, ...]
    keep: tuple[Cell, ...]
    skip_key: str
    problem: str | None = None
    known_as: str | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """A few-shot turn: a question of a user and the wanted answer."""

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
    """The form of an answer. ``schema`` is the JSON schema as sent; ``None``: plain text."""

    schema: JsonObject | None = None
    labels: tuple[Label, ...] = ()
    labels_many: bool = False
    labels_confidence: bool = False
    labels_fallback: str | None = None
    #: the schema for checking answers, with the user's own limits; ``None``: ``schema``
    check_schema: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class ImagePreparation:
    """How an image is prepared before it is sent (``[images]`` of the job)."""

    max_bytes: int = 10 * 1024 * 1024
    max_side: int | None = None
    max_pixels: int = 100_000_000
    strip_metadata: bool = False
    background: str = "auto"  #: auto, white or black: the colour under transparent pixels of a flattened image
    page: str | int = "first"  #: first, all, or a number from 1: the page or frame to send


@dataclass(frozen=True, slots=True)
class Recipe:
    """The part of a job that decides its answers. ``recipe_id`` is the hash of its document."""

    provider: str
    model: str
    system: str | None
    user: str | None  #: the template; ``None`` if ``user_column`` is sent verbatim
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


#: Width and height in pixels, if known.
ImageSize = tuple[int | None, int | None]


class Estimate(NamedTuple):
    """The likely need of a request, and the bound of its cost. Ticks are ``None`` without a known price.

    ``tokens`` include ``output_tokens`` (of the answer) and ``cached_tokens`` (read from the provider's cache). The
    estimate was made of ``text_tokens`` and the ``sizes`` of the images; the usage of the answer is compared with them.
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
    """One image of a request: either a URL that the provider downloads, or checked bytes.

    ``identity`` enters the request_key. ``sha256`` is of the source bytes; ``None`` for a URL. ``reference`` is the
    image reference as it is shown and stored: redacted, without data URIs and signatures. ``more``: further pages as
    JPEGs, sent behind the first (``images.page = "all"``).
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


class Tries(NamedTuple):
    """The attempts of a request in this run, the current one included."""

    spent: int = 1  #: attempts that count toward limits.max_attempts
    unspent: int = 0  #: 429s and failed connects before this one
    empties: int = 0  #: empty answers so far
    raised: bool = False  #: max_tokens has been raised once
    downloads: int = 0  #: image URLs the provider failed to download so far
    probe: bool = False  #: sent during an outage: a failure of the provider spends no attempt


class Request(NamedTuple):
    """The request of one row. ``messages`` is the JSON array of chat messages."""

    row_id: str
    request_key: str
    skip_key: str
    messages: bytes
    image_ref: tuple[str, ...]
    image_sha256: tuple[str | None, ...]
    keep: tuple[Cell, ...]
    estimate: Estimate
    has_urls: bool = False  #: an image is sent as a URL, so a retry may inline it
    raised_estimate: Estimate | None = None  #: for the one retry with a larger max_tokens, if the job allows it
    credentials: tuple[Secret, ...] = ()  #: of the image URLs; masked in the raw answer
    is_redo: bool = False  #: the row has an answer to this request, and is asked again
