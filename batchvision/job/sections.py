"""The sections of a job file: names, types, ranges and defaults.

Each section validates itself alone. ``checks.py`` validates across sections, files and dialects.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from batchvision.job.limits import DeliverySection, LimitsSection, OutputSection
from batchvision.job.loading import LoadSection
from batchvision.job.notify import NotifySection
from batchvision.job.price_keys import PricesSection
from batchvision.job.values import (
    Count,
    Flag,
    Names,
    RowLimit,
    RowShare,
    Section,
    Text,
    not_json,
    one_or_many,
    page_choice,
)
from batchvision.secrets import has_password

# ---------------------------------------------------------------------------------- the sections


class ManifestSection(Section):
    """The table, its columns, and the folder of its images."""

    path: Text
    """The table of images: `.csv`, `.tsv` or `.jsonl` (also with `.gz` or `.zst` behind it), `.parquet`, a folder of
    Parquet files, a folder of images, or the output of another job. All but the last may also lie in an object store
    (`s3://`, `gs://`, `az://`; a folder ends in `/`). A folder of images is listed anew at each run; its columns are
    `id`, the path with its suffix, and `image`. An output gives its current answers with their columns, and by default
    `id = "row_id"`, `images = "image_ref"` and the `root` of its job. Example: `path = "photos.csv"`."""
    query: Text | None = None
    """An SQL query whose rows are the manifest. `path` is then the database: `duckdb:///file.db`,
    `postgresql://user@host/database` or `env:NAME`. It is asked once a run. Example: `query = "select id, image from
    photos"`."""
    where: Text | None = None
    """An SQL expression over the columns. Rows for which it is not true are left out, and keep their answers. It needs
    the extra `duckdb`. Example: `where = "answer_label_confidence < 0.8"`."""
    id: Names | None = None
    """The column, or the columns, that name a row. Answers are kept by it. Default: a hash of the image references
    and of the cells that the prompt reads. Example: `id = "sku"`."""
    images: Names = ("image",)
    """The columns with images: a path, a URL, a data URI or the bytes themselves. A cell may hold several images, as
    a list or a JSON array. An empty cell is skipped. Example: `images = ["front", "back"]`."""
    root: Text | None = None
    """The folder that images must lie in, also in an object store (`s3://bucket/photos`). Default: the manifest's
    folder. Example: `root = "photos"`."""
    keep: Annotated[tuple[Text, ...] | dict[Text, Text], BeforeValidator(one_or_many)] = ()
    """Columns that are copied to the results. A table renames them: new name = column. Example: `keep = ["title",
    "price"]`."""
    image_separator: Annotated[str, Field(min_length=1)] | None = None
    """Splits a text cell into several images. Example: `image_separator = ";"`."""
    image_identity: Literal["content", "ref"] = "content"
    """What makes an image another one. `content`: its bytes. `ref`: its path or URL, so that a changed file under the
    same name is not asked again. Example: `image_identity = "ref"`."""
    image_version: Text | None = None
    """A column whose cell stands for the content of the image. The row is asked again when the cell changes. Example:
    `image_version = "etag"`."""
    on_bad_image: Literal["fail_row", "skip_image"] = "fail_row"
    """What an unreadable image does to a row of several images. `fail_row`: the row fails. `skip_image`: the row is
    asked with the images that are left. Example: `on_bad_image = "skip_image"`."""
    max_changed: RowShare = RowLimit(None, Fraction(1, 5))
    """More of the answered rows than this, and at least 100, would be asked again because their cells or images
    changed: the run stops first and names the columns and the cost. Example: `max_changed = "5%"`."""
    on_row_change: Literal["refuse", "redo", "keep"] = "refuse"
    """What a run does where so many rows have changed. `refuse`: it stops first. `redo`: it asks them again. `keep`:
    it keeps their answers. Example: `on_row_change = "keep"`."""
    ignore_url_parameters: Names = ()
    """Parameters of image URLs that do not change the image, such as a version number. Example:
    `ignore_url_parameters = ["v", "width"]`."""

    @field_validator("id", "images")
    @classmethod
    def _named_once(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is not None and not names:
            raise ValueError("it is empty; name at least one column")
        if names and len(set(names)) < len(names):
            raise ValueError("it names a column twice")
        return names

    @model_validator(mode="after")
    def _database_without_password(self) -> Self:
        if self.query is not None and has_password(self.path):
            raise ValueError('`path` holds a password; write `path = "env:DATABASE_URL"` and set the URL there')
        if self.query is None and self.path.startswith(("duckdb:", "postgresql:", "postgres:")):
            raise ValueError("`path` names a database; add the `query` whose rows are the manifest")
        return self


class ExampleSection(Section):
    """A few-shot turn. ``user`` absent: the prompt itself, where it reads no column."""

    user: Text | None = None
    """The user's turn of the example. Default: the prompt itself, where it reads no column. Example: `user = "Which
    category? Title: Trail shoe"`."""
    images: Names = ()
    """The images of the example: paths relative to the job file, or data URIs. Example: `images =
    ["examples/shoe.jpg"]`."""
    answer: Text | dict[str, Any]
    """The answer that the model should have given: text, or a table where the answer is JSON. Example: `answer =
    "shoe"`."""


class PromptSection(Section):
    """The text for the model."""

    system: str | None = None
    """The system prompt. It is the same for all rows and is sent as it stands. Example: `system = "You label product
    photos."`."""
    system_file: Text | None = None
    """A text file with the system prompt, in place of `system`. Example: `system_file = "system.txt"`."""
    user: Text | None = None
    """The prompt of each row. `{title}` is the row's cell, `{image}` and `{image:front}` place an image, `{{` and
    `}}` are braces. Example: `user = "Describe {title} in one sentence."`."""
    user_file: Text | None = None
    """A text file with the prompt, in place of `user`. Example: `user_file = "prompt.txt"`."""
    column: Text | None = None
    """The column with the whole prompt of each row, sent as it stands, in place of `user`. Example: `column =
    "prompt"`."""
    images_first: Flag = False
    """Sends the images before the text. It changes nothing where the prompt places its images. Example: `images_first
    = true`."""
    example: tuple[ExampleSection, ...] = ()
    """Few-shot examples: turns that the model sees before each row. Each is a table `[[prompt.example]]`; its keys
    stand below."""

    @model_validator(mode="after")
    def _said_once(self) -> Self:
        if self.system is not None and self.system_file is not None:
            raise ValueError("system and system_file are both set; keep one")
        given = [name for name in ("user", "user_file", "column") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both set; keep one of user, user_file and column")
        if not given:
            raise ValueError('there is no prompt; set user = "...", user_file = "prompt.txt" or column = "prompt"')
        return self


class AnswerSection(Section):
    """The form of an answer: labels, a schema, both, or plain text (neither)."""

    model_config = ConfigDict(populate_by_name=True)

    labels: tuple[str, ...] = ()
    """The labels to choose from. The answer becomes the column `answer_label`. Example: `labels = ["shoe", "bag",
    "other"]`."""
    labels_file: Text | None = None
    """A CSV file of labels, with the columns `value` and `description`. The descriptions are part of the prompt.
    Example: `labels_file = "categories.csv"`."""
    labels_many: Flag = False
    """Lets the model choose several labels. `answer_label` is then a list. Example: `labels_many = true`."""
    labels_fallback: Text | None = None
    """The label for rows that no other label fits. The model is offered it where it is one of the labels. Example:
    `labels_fallback = "other"`."""
    labels_confidence: Flag = False
    """Asks the model how sure it is, and adds the column `answer_label_confidence`. Example: `labels_confidence =
    true`."""
    #: a file, or the schema itself as a table; in the job file the key is ``schema``
    json_schema: Text | dict[str, Any] | None = Field(default=None, alias="schema")
    """A JSON schema: a file, or the schema itself as a table. Each answer is checked, and each property becomes a
    column `answer_<property>`. Example: `schema = "answer.schema.json"`."""
    on_truncated: Literal["fail", "raise_once"] = "fail"
    """What to do with an answer that was cut at `max_tokens`. `fail`: the row fails. `raise_once`: it is asked once
    more with a larger limit. Example: `on_truncated = "raise_once"`."""
    expected: Text | dict[Text, Text] | None = None
    """The column with the right answers, where they are known. An empty cell means not known. With a schema: a table of
    property and column. They are never sent, and may be added when all answers are paid. Example: `expected = "gold"`.
    """
    expected_file: Text | None = None
    """A table of right answers in place of `expected`, with the columns `row_id` and `answer`, or `row_id` and one
    column for each property. A saved review of a report is one. Example: `expected_file = "review.csv"`."""

    @model_validator(mode="after")
    def _labelled_once(self) -> Self:
        if self.labels and self.labels_file is not None:
            raise ValueError("labels and labels_file are both set; keep one")
        if self.expected is not None and self.expected_file is not None:
            raise ValueError("expected and expected_file are both set; keep one")
        return self


class ProviderSection(Section):
    """The provider, its model and its connection."""

    name: Text
    """The provider: `xai`, `openrouter`, `openai` (any compatible server, with `base_url`) or `emulator`. Example:
    `name = "xai"`."""
    model: Text
    """The model. Any name is sent as it is. Example: `model = "grok-4.3"`."""
    base_url: Text | None = None
    """Where the provider's API begins. Default: the provider's own address. Example: `base_url =
    "http://127.0.0.1:8080/v1"`."""
    api_key_env: Text | None = None
    """The environment variable that holds the key. Default: by provider, `XAI_API_KEY`, `OPENROUTER_API_KEY` or
    `OPENAI_API_KEY`. Example: `api_key_env = "TEAM_XAI_KEY"`."""
    api_key_file: Text | None = None
    """A file that holds the key and nothing else. Example: `api_key_file = "/run/secrets/xai"`."""
    api_key_command: Text | tuple[Text, ...] | None = Field(default=None, repr=False)
    """A command that prints the key. Example: `api_key_command = ["pass", "show", "xai"]`."""
    api_key_header: Text | None = None
    """The header that carries the key, in place of `Authorization: Bearer`. Example: `api_key_header = "api-key"`."""
    http: Literal["auto", "lean", "httpx"] = "auto"
    """How requests travel. `lean`: batchvision's own connections, for direct ones. `httpx`: httpx's. `auto`: `httpx`
    where a proxy is used, otherwise `lean`. Example: `http = "httpx"`."""
    proxy: Text | None = Field(default=None, repr=False)
    """The proxy of a company network. User and password in it are secrets. `none` turns proxies off. Default:
    HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY of the environment. Example: `proxy =
    "http://proxy.example:3128"`."""
    ca_file: Text | None = None
    """A file of certificates that are trusted beside those of the system. Example: `ca_file = "company-ca.pem"`."""
    client_cert: Text | None = None
    """A file with a certificate and its key, for servers that ask for one. Example: `client_cert = "client.pem"`."""
    detail: Literal["auto", "low", "high"] = "auto"
    """How closely the model looks at an image. `low` costs fewer tokens. Example: `detail = "low"`."""
    image_mode: Literal["auto", "url", "inline"] = "auto"
    """How image URLs travel. `url`: the provider downloads them. `inline`: batchvision downloads them and sends the
    bytes. `auto`: as `url`, and inlined where the provider's download fails. Example: `image_mode = "inline"`."""
    prompt_cache: Literal["auto", "off"] = "auto"
    """Sends what lets the provider cache the beginning that all prompts share. `off` sends nothing of it. Example:
    `prompt_cache = "off"`."""
    response_format: Literal["auto", "json_schema", "json_object", "prompt"] = "auto"
    """How the schema reaches the model. `json_schema` and `json_object` name a form of the API, `prompt` tells the
    schema in the prompt, `auto` takes the best form that the server knows. Example: `response_format = "prompt"`."""
    allow_plain_http: Flag = False
    """Allows `http://` to another machine. The key and the answers then travel unencrypted. Example:
    `allow_plain_http = true`."""
    headers: dict[str, str] = Field(default_factory=dict, repr=False)
    """More headers for each request. A value `env:NAME` is read from the environment and is a secret. Example:
    `headers = { "X-Team" = "env:TEAM_TOKEN" }`."""
    prices: PricesSection = PricesSection()
    """Your own prices, over those that are known of the model. The keys stand below, under `[provider.prices]`."""
    prices_file: Text | None = None
    """A TOML file with the prices of many models, for many jobs: a table for each model, with the keys of
    `[provider.prices]`. Example: `prices_file = "prices.toml"`."""
    response_cache: Flag = False
    """OpenRouter only: takes the answer to a request that OpenRouter has answered before, for nothing. Example:
    `response_cache = true`."""
    response_cache_ttl_seconds: Annotated[Count, Field(le=86_400)] | None = None
    """How long OpenRouter keeps such an answer. Example: `response_cache_ttl_seconds = 3600`."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Parameters of the API, sent as they are: `temperature`, `max_tokens`, `seed`, `reasoning_effort`. `max_tokens`
    bounds what a row can cost. Example: `parameters = { temperature = 0, max_tokens = 2000 }`."""

    @field_validator("headers")
    @classmethod
    def _plain_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        _reject_odd_headers(headers)
        return headers

    @field_validator("api_key_header")
    @classmethod
    def _header_name(cls, name: str | None) -> str | None:
        if name is not None and not _is_header_name(name):
            raise ValueError("it is no header name")
        return name

    @field_validator("parameters")
    @classmethod
    def _json_parameters(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        for name, value in parameters.items():
            if wrong := not_json(value):
                raise ValueError(f"{name} holds {wrong}, which JSON cannot say; write it as text or as a number")
        return parameters

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        names = ("api_key_env", "api_key_file", "api_key_command")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both set; keep one")
        if self.http == "lean" and self.proxy not in (None, "none"):
            raise ValueError('http = "lean" uses no proxy; leave http out, or set proxy = "none"')
        return self


def _is_header_name(name: str) -> bool:
    return bool(name) and all(c.isascii() and (c.isalnum() or c in "!#$%&'*+-.^_`|~") for c in name)


def _reject_odd_headers(headers: Mapping[str, str]) -> None:
    """Raises ValueError for an impossible header."""
    for name, value in headers.items():
        if not _is_header_name(name):
            raise ValueError(f"{name!r} is no header name")
        if not value.isprintable():
            raise ValueError(f"the value of {name} holds a line break or a control character")


#: A name or an address, in brackets where it is IPv6, and perhaps a port.
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s/@:?#\[\]]+)(?::[0-9]{1,5})?")


class ImagesSection(Section):
    """The accepted images, and their preparation before sending."""

    max_bytes: Count = 10 * 1024 * 1024
    """The most bytes of an image, before base64. Larger images are scaled down. Example: `max_bytes = 5000000`."""
    max_side: Count | None = None
    """The longest side in pixels. Larger images are scaled down. Default: only images over `max_bytes` are. Example:
    `max_side = 1024`."""
    max_pixels: Count = 100_000_000
    """An image with more pixels fails as `image_too_large` and is not decoded. Example: `max_pixels = 200000000`."""
    strip_metadata: Flag = False
    """Removes GPS position, camera and notes from each image before it is sent. Example: `strip_metadata = true`."""
    allow_private_hosts: Flag = False
    """Lets images be downloaded from private addresses, such as a server in your own network. Example:
    `allow_private_hosts = true`."""
    headers: dict[str, dict[str, str]] = Field(default_factory=dict, repr=False)
    """Request headers for private image hosts, by host. Values may be `"env:NAME"`. No other host is sent them, also
    not after a redirect. Example: `headers = { "img.example.com" = { Authorization = "env:IMG_TOKEN" } }`."""
    proxy: Text | None = Field(default=None, repr=False)
    """The proxy of image downloads, which then resolves the names of hosts. Default: downloads connect directly,
    whatever the environment says. Example: `proxy = "http://proxy.example.com:3128"`."""
    background: Literal["auto", "white", "black"] = "auto"
    """The colour under transparent pixels, where an image must be flattened. `auto`: white or black, whichever keeps
    the contrast. Example: `background = "white"`."""
    page: Annotated[Literal["first", "all"] | int, BeforeValidator(page_choice)] = "first"
    """Of a file with several pages or frames: the `first`, `all`, or the number of one. Example: `page = 2`."""

    @field_validator("headers")
    @classmethod
    def _headers_of_hosts(cls, headers: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        for host, values in headers.items():
            if not _HOST.fullmatch(host):
                raise ValueError(f"{host!r} is no host; write its name alone, such as img.example.com")
            _reject_odd_headers(values)
            if any(name.lower() in ("host", "content-length", "transfer-encoding") for name in values):
                raise ValueError("Host, Content-Length and Transfer-Encoding are set by batchvision; remove them")
        return headers


SECTIONS: dict[str, type[Section]] = {
    "manifest": ManifestSection,
    "prompt": PromptSection,
    "answer": AnswerSection,
    "provider": ProviderSection,
    "images": ImagesSection,
    "delivery": DeliverySection,
    "limits": LimitsSection,
    "output": OutputSection,
    "load": LoadSection,
    "notify": NotifySection,
}


def key_of(name: str, field: Any) -> str:
    """A field's name in the job file."""
    return field.alias or name


def keys_of(section: type[BaseModel]) -> tuple[str, ...]:
    return tuple(key_of(name, field) for name, field in section.model_fields.items())
