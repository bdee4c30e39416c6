"""Job: one frozen, validated object for all rooms.

Rule: a Job that exists is right. Its files have been read, its recipe is made; only the key is asked for later.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from batchvision.errors import JobInvalid
from batchvision.job.checks import Check, Sections
from batchvision.job.columns import KeepColumn
from batchvision.job.files import under
from batchvision.job.key import find_key, is_named, key_source, resolved, without_user
from batchvision.job.limits import DeliverySection, LimitsSection, OutputSection
from batchvision.job.loading import LoadSection
from batchvision.job.notify import NotifySection
from batchvision.job.places import snapshot_path
from batchvision.job.prices import FilePrices
from batchvision.job.problems import sentences, unknown_key
from batchvision.job.sections import (
    SECTIONS,
    AnswerSection,
    ImagesSection,
    ManifestSection,
    PromptSection,
    ProviderSection,
    key_of,
)
from batchvision.job.sources import TOP_LEVEL, merged, opens, read_toml
from batchvision.job.values import JobName, Section, Zone
from batchvision.object_store import is_object_url
from batchvision.prompt import Template
from batchvision.records import Recipe
from batchvision.secrets import MASK, Secret, Secrets, url_credentials

_SECRET_NAME = re.compile(r"auth|key|token|secret|cookie|passw|credential|signature", re.IGNORECASE)


class _Top(Section):
    """The keys outside any section."""

    name: JobName
    """The job's name, in every row of the tables. One output belongs to one job name. Default: the file's name
    without `.toml`. Example: `name = "nightly-captions"`."""
    timezone: Zone = "UTC"
    """The time zone of daily and monthly caps. The date in `run_date=` is always UTC. Example: `timezone =
    "Europe/Zurich"`."""


class Job(BaseModel):
    """What to run. Made by :meth:`load` or :meth:`from_mapping`, which raise JobInvalid with every problem."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True, defer_build=True)  # sections are validated

    name: str
    timezone: str
    manifest: ManifestSection
    prompt: PromptSection
    answer: AnswerSection
    provider: ProviderSection
    images: ImagesSection
    delivery: DeliverySection
    limits: LimitsSection
    output: OutputSection
    notify: NotifySection
    load_section: LoadSection  #: [load]; the name ``load`` is taken by the constructor

    base_dir: Path  #: the job file's folder
    manifest_path: Path
    root: Path  #: the folder in which local images must lie
    output_path: Path  #: of an output in an object store: its local copy
    keep_columns: tuple[KeepColumn, ...]
    template: Template | None  #: ``None`` where the cells of ``prompt.column`` are sent verbatim
    recipe: Recipe
    example_images: tuple[str, ...]  #: absolute paths (or data URIs) of the examples' images, in order
    base_url: str
    key_env: str | None  #: the variable of the key
    file_prices: FilePrices | None  #: the model's prices in ``provider.prices_file``
    expected_columns: dict[str, str]  #: property of the answer -> column of the manifest with the right answer
    origins: dict[str, str]  #: dotted key -> "flag", "environment NAME", "job file" or "default", for every setting

    @classmethod
    def load(
        cls,
        path: str | Path,
        overrides: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Self:
        """The job of a TOML file. ``overrides``: dotted keys from flags. ``environ``: by default that of the process.

        Raises JobInvalid, which lists all problems at once.
        """
        if is_object_url(str(path)):
            raise JobInvalid(f"{path} is the URL of an output: give the path of the job file")
        file = Path(path).expanduser().absolute()
        written = read_toml(file)
        settings = {"name": file.stem, **written}
        job = cls.from_mapping(settings, file.parent, overrides, os.environ if environ is None else environ)
        if "name" not in written and job.origins["name"] == "job file":
            job.origins["name"] = "default"
        return job

    @classmethod
    def from_mapping(
        cls,
        mapping: Mapping[str, Any],
        base_dir: str | Path = ".",
        overrides: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Self:
        """The job of a table like a job file's; relative paths are relative to ``base_dir``.

        The environment counts only where ``environ`` is given. Raises JobInvalid.
        """
        table, origins = merged(mapping, environ or {}, overrides or {})
        problems: list[str] = []
        top, sections = _validated(table, origins, problems)
        base = Path(base_dir).expanduser().absolute()
        check = Check(base, Sections(**sections))
        problems += _shown_secrets(origins)
        resolved = check.resolve()
        problems += check.problems
        if problems or resolved is None or top is None:
            raise JobInvalid(problems)
        sections["manifest"] = check.sections.manifest
        known = {"base_dir": base, "origins": _with_defaults(sections, origins), **vars(resolved)}
        sections["load_section"] = sections.pop("load")
        return cls.model_construct(name=top.name, timezone=top.timezone, **sections, **known)

    # ------------------------------------------------------------------------------ columns

    @property
    def output_url(self) -> str | None:
        """The place of the output in an object store. ``output_path`` is its local copy then."""
        return self.output.path if is_object_url(self.output.path) else None

    @property
    def snapshot_path(self) -> Path | None:
        """The file of ``output.snapshot``."""
        name = self.output.snapshot
        return None if name is None else snapshot_path(name, self.output_path, self.base_dir)

    @property
    def object_root(self) -> str | None:
        """The object store prefix that images lie in, where they are not local. Default: the manifest's own."""
        if self.manifest.root is None and is_object_url(self.manifest.path):
            return self.manifest.path.rpartition("/")[0]
        return self.manifest.root if is_object_url(self.manifest.root or "") else None

    @property
    def manifest_name(self) -> str:
        """The manifest's path or URL, for messages."""
        is_remote = self.manifest.query is not None or is_object_url(self.manifest.path)
        return self.manifest.path if is_remote else str(self.manifest_path)

    @property
    def id_columns(self) -> tuple[str, ...]:
        """Empty: the id is made of the image refs and the cells that the prompt reads."""
        return self.manifest.id or ()

    @property
    def prompt_columns(self) -> tuple[str, ...]:
        """The columns that the prompt reads."""
        if self.template is not None:
            return self.template.columns
        return (self.prompt.column,) if self.prompt.column is not None else ()

    def asking(self, recipe: Recipe) -> Self:
        """The same manifest under another recipe and its prompt, to compute rows and keys."""
        template = None if recipe.user is None else Template.parse(recipe.user)
        return self.model_copy(update={"recipe": recipe, "template": template})

    # ------------------------------------------------------------------------------ provider

    @property
    def base_url_secrets(self) -> tuple[Secret, ...]:
        """Values of the base URL's query under a name that looks like a key's."""
        query = parse_qsl(urlsplit(self.base_url).query)
        named = (Secret(value) for name, value in query if _SECRET_NAME.search(name))
        return (*named, *url_credentials(self.base_url))

    def api_key(self, environ: Mapping[str, str] | None = None) -> Secret | None:
        """The key from the environment, a file or a command; ``None`` where the provider needs no key.

        Raises JobInvalid with the exact next step.
        """
        return find_key(self.provider, self.base_dir, self.key_env, os.environ if environ is None else environ)

    @property
    def key_source(self) -> str | None:
        """The source of the key, for messages; ``None`` where the provider wants no key."""
        return key_source(self.provider, self.base_dir, self.key_env)

    def request_headers(self, environ: Mapping[str, str] | None = None) -> tuple[dict[str, str], tuple[Secret, ...]]:
        """``provider.headers`` with their values, and the values to mask: those from the environment, and those under a
        name like a key's. Raises JobInvalid for a variable that is not set."""
        return _with_secrets("provider.headers", self.provider.headers, os.environ if environ is None else environ)

    def image_headers(
        self, environ: Mapping[str, str] | None = None
    ) -> tuple[dict[str, dict[str, str]], tuple[Secret, ...]]:
        """``images.headers`` by host, and the values to mask. Raises JobInvalid for a variable that is not set."""
        found = {
            host: _with_secrets(f"images.headers.{host}", values, os.environ if environ is None else environ)
            for host, values in self.images.headers.items()
        }
        headers = {host: values for host, (values, _) in found.items()}
        return headers, tuple(secret for _, secrets in found.values() for secret in secrets)

    def image_proxy(self, environ: Mapping[str, str] | None = None) -> str | None:
        """``images.proxy``, its user and password included. Raises JobInvalid for a variable that is not set."""
        if self.images.proxy is None:
            return None
        return resolved("images.proxy", self.images.proxy, os.environ if environ is None else environ)

    def proxy(self, environ: Mapping[str, str] | None = None) -> str | None:
        """``provider.proxy``, its user and password included. Raises JobInvalid for a variable that is not set."""
        if self.provider.proxy is None:
            return None
        return resolved("provider.proxy", self.provider.proxy, os.environ if environ is None else environ)

    def file(self, path: str | None) -> Path | None:
        """A file that the job names, absolute."""
        return None if path is None else under(self.base_dir, path)

    # ------------------------------------------------------------------------------ config show

    def config(self) -> dict[str, Any]:
        """The resolved settings, JSON-ready and without secrets; :attr:`origins` has the same keys, dotted."""
        models = {name: self.load_section if name == "load" else getattr(self, name) for name in SECTIONS}
        sections = {name: model.model_dump(mode="json", by_alias=True) for name, model in models.items()}
        shown: dict[str, Any] = {"name": self.name, "timezone": self.timezone, **sections}
        shown["manifest"]["root"] = self.object_root or str(self.root)
        provider = shown["provider"]
        provider["base_url"] = Secrets(*self.base_url_secrets, of_one_answer=True).mask(self.base_url)
        provider["api_key_env"] = self.key_env
        provider["headers"] = _shown_headers(self.provider.headers)
        shown["images"]["headers"] = {host: _shown_headers(values) for host, values in self.images.headers.items()}
        for name in ("ping_url", "url"):
            if (url := getattr(self.notify, name)) is not None and not is_named(url):
                shown["notify"][name] = MASK
        if "/" in (self.limits.share or ""):
            shown["limits"]["share"] = str(self.file(self.limits.share))
        if self.images.proxy is not None:
            shown["images"]["proxy"] = without_user(self.images.proxy)
        if self.provider.proxy is not None:
            provider["proxy"] = without_user(self.provider.proxy)
        if self.provider.api_key_command is not None:
            provider["api_key_command"] = MASK
        return shown


def _with_secrets(
    key: str, given: Mapping[str, str], environ: Mapping[str, str]
) -> tuple[dict[str, str], tuple[Secret, ...]]:
    """Headers with their values, and the values to mask, with the token of ``Bearer TOKEN`` by itself too."""
    headers = {name: resolved(f"{key}.{name}", value, environ) for name, value in given.items()}
    hidden = [headers[name] for name, value in given.items() if is_named(value)]
    hidden += [value for name, value in headers.items() if _SECRET_NAME.search(name)]
    words = [word for value in hidden for word in value.split()[1:]]
    return headers, tuple(Secret(value) for value in dict.fromkeys((*hidden, *words)))


def _shown_headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {
        name: MASK if _SECRET_NAME.search(name) and not is_named(value) else value for name, value in headers.items()
    }


def _validated(
    table: Mapping[str, Any], origins: Mapping[str, str], problems: list[str]
) -> tuple[_Top | None, dict[str, Any]]:
    """Validate each section by itself, so that a mistake in one section does not hide mistakes in another."""
    top: _Top | None = None
    try:
        top = _Top.model_validate({name: table[name] for name in TOP_LEVEL if name in table})
    except ValidationError as error:
        problems += sentences("", error, origins)
    problems += [unknown_key(key, origins) for key in table if key not in SECTIONS and key not in TOP_LEVEL]
    sections: dict[str, Any] = {}
    for name, model in SECTIONS.items():
        given = table.get(name, {})
        if name == "output" and isinstance(given, Mapping) and "name" in table:  # the default path holds the job's name
            given = {"path": f"out/{table['name']}", **given}
        try:
            sections[name] = model.model_validate(given)
        except ValidationError as error:
            problems += sentences(name, error, origins)
            sections[name] = _what_is_left(model, given, error)
    return top, sections


def _shown_secrets(origins: Mapping[str, str]) -> list[str]:
    """Problems for secrets on the command line, which the process list and the shell's history show."""
    return [
        f"{key} looks like a secret, and others see the flags of a command; set it in the job file or the environment"
        for key, origin in origins.items()
        if origin == "flag" and key.startswith("provider.headers.") and _SECRET_NAME.search(key)
    ]


def _what_is_left(model: type[Section], given: Any, error: ValidationError) -> Section | None:
    """The section without its wrong keys, so that the checks across sections can find further problems."""
    wrong = {found["loc"][0] for found in error.errors(include_url=False) if found["loc"]}
    if not isinstance(given, Mapping) or not wrong:
        return None
    rest = {key: value for key, value in given.items() if key not in wrong}
    if model is ProviderSection and "model" in wrong:
        rest["model"] = "?"
    try:
        return model.model_validate(rest)
    except ValidationError:
        return None


def _with_defaults(sections: Mapping[str, Section], origins: Mapping[str, str]) -> dict[str, str]:
    """The origin of every setting, in the order of the job file."""
    found: dict[str, str] = {}
    for name in TOP_LEVEL:
        found[name] = origins.get(name, "default")
    for section, model in SECTIONS.items():
        for field_name, field in model.model_fields.items():
            key = f"{section}.{key_of(field_name, field)}"
            value = getattr(sections[section], field_name)
            if opens(tuple(key.split("."))):
                below = list(value) if isinstance(value, dict) else list(type(value).model_fields)
                found |= {f"{key}.{name}": origins.get(f"{key}.{name}", "default") for name in below}
            else:
                found[key] = origins.get(key, "default")
    return found
