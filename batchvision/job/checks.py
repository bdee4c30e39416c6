"""Resolve a job: read its files, parse its template, make its recipe, and collect problems across sections.

Each check takes the sections it needs and adds sentences to one list. A section that did not validate is ``None``, and
the checks that need it add nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from batchvision.errors import InvalidAnswer, JobInvalid
from batchvision.job.columns import KeepColumn, clashes, expected_columns, keep_columns
from batchvision.job.files import decoded, exists, labels_of, under
from batchvision.job.limits import DeliverySection, LimitsSection, OutputSection
from batchvision.job.loading import LoadSection
from batchvision.job.notify import NotifySection
from batchvision.job.places import columns_of_output, find_places, is_output
from batchvision.job.prices import FilePrices, file_prices
from batchvision.job.recipe import with_id
from batchvision.job.sections import (
    AnswerSection,
    ExampleSection,
    ImagesSection,
    ManifestSection,
    PromptSection,
    ProviderSection,
)
from batchvision.prompt import (
    SpecInvalid,
    Template,
    TemplateError,
    answer_columns,
    build_answer_spec,
    check_answer,
)
from batchvision.records import AnswerSpec, Example, ImagePreparation, Label, Recipe

if TYPE_CHECKING:
    from batchvision.providers import Dialect


@dataclass(slots=True)
class Sections:
    """The sections by name; ``None`` for a section that did not validate."""

    manifest: ManifestSection | None = None
    prompt: PromptSection | None = None
    answer: AnswerSection | None = None
    provider: ProviderSection | None = None
    images: ImagesSection | None = None
    delivery: DeliverySection | None = None
    output: OutputSection | None = None
    limits: LimitsSection | None = None
    load: LoadSection | None = None
    notify: NotifySection | None = None


@dataclass(frozen=True)
class Resolved:
    """The values that follow from a valid job."""

    manifest_path: Path
    root: Path
    output_path: Path
    keep_columns: tuple[KeepColumn, ...]
    template: Template | None
    recipe: Recipe
    example_images: tuple[str, ...]
    base_url: str
    key_env: str | None
    file_prices: FilePrices | None
    expected_columns: Mapping[str, str]


@dataclass(slots=True)
class Check:
    """One pass over a job. It collects ``problems``; :meth:`resolve` returns a value only without problems."""

    base_dir: Path
    sections: Sections
    problems: list[str] = field(default_factory=list)

    def resolve(self) -> Resolved | None:
        places = find_places(self.base_dir, self.sections.manifest, self.sections.output, self.problems)
        if places and is_output(places.manifest_path) and self.sections.manifest:
            self.sections.manifest = columns_of_output(self.sections.manifest)
        dialect, base_url, key_env = self._provider()
        template = self._template()
        spec = self._answer_spec()
        examples, example_paths, hashes = self._examples(template, spec)
        keep, expected = self._keep(spec), self._expected(spec)
        listed = self._prices_file()
        s = self.sections
        if self.problems or not (s.prompt and s.provider and s.images and dialect and places and spec):
            return None
        recipe = Recipe(
            provider=s.provider.name,
            model=s.provider.model,
            system=self._text("prompt.system_file", s.prompt.system, s.prompt.system_file),
            user=self._text("prompt.user_file", s.prompt.user, s.prompt.user_file),
            user_column=s.prompt.column,
            parameters=s.provider.parameters,
            examples=examples,
            example_image_sha256=hashes,
            answer=spec,
            images_first=s.prompt.images_first,
            detail=s.provider.detail,
            images=ImagePreparation(**{each.name: getattr(s.images, each.name) for each in fields(ImagePreparation)}),
        )
        if self.problems:
            return None
        return Resolved(*places, keep, template, with_id(recipe), example_paths, base_url, key_env, listed, expected)

    # ------------------------------------------------------------------------------ files

    def path(self, text: str) -> Path:
        return under(self.base_dir, text)

    def _read(self, key: str, text: str) -> str | None:
        path = self.path(text)
        try:
            return decoded(path.read_bytes())
        except FileNotFoundError:
            self.problems.append(f"{key}: there is no file {path}; paths are relative to the job file")
        except UnicodeDecodeError:
            self.problems.append(f"{key}: {path} is not UTF-8 text; save it as UTF-8")
        except OSError as error:
            self.problems.append(f"{key}: {path} cannot be read: {error.strerror}")
        return None

    def _text(self, key: str, inline: str | None, file: str | None) -> str | None:
        """A text given inline or as a file, without the last line break of an editor."""
        if file is None:
            return inline
        text = self._read(key, file)
        if text is not None and not text.strip():
            self.problems.append(f"{key}: {self.path(file)} is empty")
        return None if text is None else text.rstrip("\n")

    # ------------------------------------------------------------------------------ provider

    def _provider(self) -> tuple[Dialect | None, str, str | None]:
        section = self.sections.provider
        if section is None:
            return None, "", None
        from batchvision import providers  # a plug-in may import batchvision.job

        try:
            dialect = providers.dialect(section.name)
        except JobInvalid as error:
            self.problems += [f"provider.name: {problem}" for problem in error.problems]
            return None, "", None
        for name in sorted(section.parameters.keys() & dialect.reserved_parameters.keys()):
            self.problems.append(
                f"provider.parameters.{name} is set by batchvision: {dialect.reserved_parameters[name]}"
            )
        if "authorization" in {name.lower() for name in section.headers}:
            self.problems.append("provider.headers: Authorization is made from the key; set api_key_env instead")
        if (section.api_key_header or "").lower() in {name.lower() for name in section.headers}:
            self.problems.append(f"provider.headers: {section.api_key_header} holds the key (provider.api_key_header)")
        if section.response_cache and not dialect.has_response_cache:
            self.problems.append(f"provider.response_cache: {dialect.name} has none; remove it (OpenRouter has)")
        self._lane(dialect)
        base_url = (section.base_url or dialect.default_base_url).rstrip("/")
        self._base_url(base_url)
        # for a self-hosted server with OpenAI's API the default variable is optional
        has_other_source = section.api_key_file or section.api_key_command
        return dialect, base_url, None if has_other_source else section.api_key_env or dialect.default_key_env

    def _lane(self, dialect: Dialect) -> None:
        delivery = self.sections.delivery
        if delivery is None:
            return
        if delivery.lane_used == "batch" and dialect.batch_form is None:
            self.problems.append(dialect.batch_refusal())
        elif delivery.lane_used not in dialect.lanes:
            there = ", ".join(sorted(f'"{lane}"' for lane in dialect.lanes))
            self.problems.append(f'delivery.lane = "{delivery.lane}": {dialect.name} has no such lane; choose {there}')
        if delivery.stream and delivery.lane_used != "online":
            self.problems.append('delivery.stream: only the online lane streams; set lane = "online" or stream = false')

    def _base_url(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            valid = False
        if not valid:
            shown = "" if "@" in url else f" = {url!r}"
            self.problems.append(f'provider.base_url{shown}: write it like "https://api.example.com/v1"')
        elif parts.username is not None or parts.password is not None:
            self.problems.append("provider.base_url holds a user or password; give the key by api_key_env instead")
        elif parts.fragment:
            self.problems.append("provider.base_url has a fragment (#); end it with the path, or with ?name=value")

    def _prices_file(self) -> FilePrices | None:
        section = self.sections.provider
        text = self._read("provider.prices_file", section.prices_file) if section and section.prices_file else None
        if section is None or text is None:
            return None
        try:
            return file_prices(text, section.model)
        except ValueError as error:
            self.problems.append(f"provider.prices_file: {error}")
            return None

    # ------------------------------------------------------------------------------ prompt and answer

    def _template(self) -> Template | None:
        section = self.sections.prompt
        if section is None or section.column is not None:
            return None
        text = self._text("prompt.user_file", section.user, section.user_file)
        if text is None:
            return None
        key = "prompt.user" if section.user is not None else "prompt.user_file"
        template = self._parsed(key, text)
        if template is not None:
            self._slots(key, template)
        return template

    def _parsed(self, key: str, text: str) -> Template | None:
        try:
            return Template.parse(text)
        except TemplateError as error:
            self.problems.append(f"{key}: {error}")
            return None

    def _slots(self, key: str, template: Template) -> None:
        manifest = self.sections.manifest
        for slot in template.slots if manifest else ():
            if slot and manifest and slot not in manifest.images:
                there = ", ".join(manifest.images)
                self.problems.append(f"{key}: {{image:{slot}}} is none of manifest.images, which has: {there}")

    def _labels(self, section: AnswerSection) -> tuple[Label, ...]:
        if section.labels_file is None:
            return tuple(Label(value) for value in section.labels)
        text = self._read("answer.labels_file", section.labels_file)
        if text is None:
            return ()
        try:
            labels = tuple(labels_of(text))
        except ValueError as error:
            self.problems.append(f"answer.labels_file: {self.path(section.labels_file)}: {error}")
            return ()
        if not labels:
            self.problems.append(f"answer.labels_file: {self.path(section.labels_file)} holds no labels")
        return labels

    def _schema(self, section: AnswerSection) -> Mapping[str, Any] | None:
        given = section.json_schema
        if given is None or isinstance(given, Mapping):
            return given
        text = self._read("answer.schema", given)
        if text is None:
            return None
        try:
            schema = json.loads(text)
        except ValueError as error:
            self.problems.append(f"answer.schema: {self.path(given)} is not JSON: {error}")
            return None
        if not isinstance(schema, dict):
            self.problems.append(f"answer.schema: {self.path(given)} holds no JSON object")
            return None
        return schema

    def _answer_spec(self) -> AnswerSpec | None:
        section = self.sections.answer
        if section is None:
            return None
        before = len(self.problems)
        labels, schema = self._labels(section), self._schema(section)
        if section.labels_file and not labels:  # the problem is in the list already
            return None
        try:
            spec = build_answer_spec(
                schema, labels, section.labels_many, section.labels_confidence, section.labels_fallback
            )
        except SpecInvalid as error:
            self.problems += [f"[answer]: {problem}" for problem in error.problems]
            return None
        return spec if len(self.problems) == before else None

    def _keep(self, spec: AnswerSpec | None) -> tuple[KeepColumn, ...]:
        if self.sections.manifest is None:
            return ()
        keep = keep_columns(self.sections.manifest.keep)
        keeps_reasoning = self.sections.output is not None and self.sections.output.keep_reasoning
        self.problems += clashes(keep, answer_columns(spec) if spec else (), keeps_reasoning=keeps_reasoning)
        return keep

    def _expected(self, spec: AnswerSpec | None) -> Mapping[str, str]:
        """The column of the known answers of each property."""
        section = self.sections.answer
        if section is None or spec is None:
            return {}
        if section.expected_file is not None and not exists(self.path(section.expected_file)):
            path = self.path(section.expected_file)
            self.problems.append(f"answer.expected_file: there is no file {path}; paths are relative to the job file")
        limits = self.sections.limits
        if limits and limits.min_accuracy and not (section.expected or section.expected_file):
            self.problems.append(
                "limits.min_accuracy needs known answers: set answer.expected (a column) or answer.expected_file"
            )
        try:
            return expected_columns(section.expected, spec)
        except ValueError as error:
            self.problems.append(f"answer.expected: {error}")
            return {}

    # ------------------------------------------------------------------------------ examples

    def _examples(
        self, template: Template | None, spec: AnswerSpec | None
    ) -> tuple[tuple[Example, ...], tuple[str, ...], tuple[str, ...]]:
        """The examples, the paths (or data URIs) of their images, and the hashes of the images."""
        section = self.sections.prompt
        examples, paths, hashes = [], list[str](), list[str]()
        for number, given in enumerate(section.example if section else (), start=1):
            key = f"prompt.example[{number}]"
            examples.append(Example(self._example_user(key, given, template), given.images, _answer_text(given, spec)))
            self._example_answer(key, examples[-1].answer, spec)
            for image in given.images:
                if "://" in image:
                    self.problems.append(f"{key}.images: {image} is no file; download it, as its bytes decide answers")
                    continue
                paths.append(image if image.startswith("data:") else str(self.path(image)))
                hashes.append(self._image_sha256(key, paths[-1]))
        return tuple(examples), tuple(paths), tuple(hashes)

    def _example_user(self, key: str, given: ExampleSection, template: Template | None) -> str:
        if given.user is not None:
            own = self._parsed(f"{key}.user", given.user)
            if own is not None and own.columns:
                self.problems.append(
                    f"{key}.user reads {{{own.columns[0]}}}, but an example has no row; write its text out "
                    "({{ }} are braces)"
                )
            return given.user
        if template is None or template.columns:
            self.problems.append(f"{key}.user is missing; write what the user asks in this example")
            return ""
        prompt = self.sections.prompt
        return (self._text("prompt.user_file", prompt.user, prompt.user_file) if prompt else None) or ""

    def _example_answer(self, key: str, answer: str, spec: AnswerSpec | None) -> None:
        if spec is None:
            return
        try:
            check_answer(spec, answer)
        except InvalidAnswer as error:
            self.problems.append(f"{key}.answer is not what [answer] asks for: {error}")

    def _image_sha256(self, key: str, image: str) -> str:
        if image.startswith("data:"):
            return sha256(image.encode()).hexdigest()
        try:
            return sha256(Path(image).read_bytes()).hexdigest()
        except OSError as error:
            self.problems.append(f"{key}.images: {image} cannot be read: {error.strerror}")
            return ""


def _answer_text(given: ExampleSection, spec: AnswerSpec | None) -> str:
    """An example's answer as the model would write it: JSON where JSON is asked for."""
    if isinstance(given.answer, str):
        labels = {label.value for label in spec.labels} if spec else set()
        bare = spec is not None and given.answer in labels and len(answer_columns(spec)) == 1
        if not bare or spec is None:
            return given.answer
        return json.dumps({"label": [given.answer] if spec.labels_many else given.answer}, ensure_ascii=False)
    return json.dumps(given.answer, ensure_ascii=False, default=str)
