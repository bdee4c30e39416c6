"""Check key, model, manifest, folders and extras of a job before a run. Costs nothing.

The provider gets one GET for its list of models.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from batchvision.errors import BatchvisionError, JobInvalid, ModelNotFound, RequestRejected, StopRun
from batchvision.job import Job
from batchvision.money import FRESH_FOR, ListedPrices, quote, recall, remember
from batchvision.object_store import ObjectUnreachable, list_objects, signed_url
from batchvision.providers import Dialect, ModelListing, dialect
from batchvision.runner import fallback_warning, shared_budget_path, system_warning
from batchvision.secrets import Secret, Secrets
from batchvision.ticks import format_usd

if TYPE_CHECKING:
    from batchvision.http import Network

MODELS_TIMEOUT_SECONDS = 30.0
REFUSED = 5
INVALID = 2

#: Extra and its purpose by the module that it installs.
EXTRAS: Mapping[str, tuple[str, str]] = {
    "pillow_heif": ("heic", "HEIC images"),
    "duckdb": ("duckdb", "loading into DuckDB"),
}

ListModels = Callable[[Dialect, str, Secret | None, Mapping[str, str]], Awaitable[tuple[ModelListing, ...]]]


@dataclass(frozen=True, slots=True)
class CheckFinding:
    """The result of one check. ``exit_code`` is 0 if all is well."""

    topic: str
    text: str
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class CheckReport:
    """All findings. ``exit_code`` is 2 (invalid job), 5 (refused by the provider) or 0."""

    findings: tuple[CheckFinding, ...]

    @property
    def exit_code(self) -> int:
        codes = {finding.exit_code for finding in self.findings}
        return next((code for code in (INVALID, REFUSED) if code in codes), 0)

    def document(self) -> dict[str, Any]:
        """JSON content for ``check --json``."""
        findings = [{"topic": f.topic, "ok": f.exit_code == 0, "says": f.text} for f in self.findings]
        return {"ok": self.exit_code == 0, "exit_code": self.exit_code, "findings": findings}


async def list_models(
    speaks: Dialect,
    base_url: str,
    key: Secret | None,
    headers: Mapping[str, str],
    *,
    allow_plain_http: bool = False,
    network: Network | None = None,
    secrets: Secrets | None = None,
) -> tuple[ModelListing, ...]:
    """List the provider's models by one free GET. Raises the error of its answer.

    Without ``network`` the proxy of the environment is used. The key and the
    password of a proxy are added to ``secrets``, which are masked.
    """
    from batchvision.checkpoint import masked_answer
    from batchvision.http import Endpoint, Network, ProviderClient

    network = network or Network.to(base_url, os.environ)
    secrets = Secrets() if secrets is None else secrets
    secrets.add(*([] if key is None else [key]), *network.secrets)
    endpoint = Endpoint(base_url, speaks.headers(key, headers), allow_plain_http=allow_plain_http)
    async with network.transport(1) as transport:
        client = ProviderClient(endpoint, transport, secrets, network=network)
        raw = await client.send("GET", speaks.models_path, None, MODELS_TIMEOUT_SECONDS)
    return speaks.read_models(masked_answer(raw, secrets))


def current_models(speaks: Dialect, base_url: str, *, refresh: bool, secrets: Secrets | None = None) -> ListedPrices:
    """The remembered list of models if it is fresh, otherwise a new one, which is remembered."""
    import anyio

    known, now = recall(speaks.name, base_url), datetime.now(UTC)
    if known is not None and not refresh and now - known.at < FRESH_FOR:
        return known
    models = anyio.run(partial(list_models, speaks, base_url, key_from_environment(speaks), {}, secrets=secrets))
    remember(speaks.name, base_url, models, now)
    return ListedPrices(models, now)


def key_from_environment(speaks: Dialect, environ: Mapping[str, str] | None = None) -> Secret | None:
    """The key in the provider's usual environment variable, or ``None``."""
    found = os.environ if environ is None else environ
    value = found.get(speaks.default_key_env or "", "").strip()
    return Secret(value) if value else None


async def check(
    job: Job,
    *,
    environ: Mapping[str, str] | None = None,
    ask: ListModels | None = None,
    secrets: Secrets | None = None,
) -> CheckReport:
    """Run all checks. Problems become findings and are not raised. The job's secrets are added to ``secrets``."""
    findings = [
        *_manifest(job),
        _root(job),
        _output(job),
        *_extras(),
        *_load(job, environ),
        *_share(job),
        *_labels(job),
        *_prompt(job),
    ]
    try:
        key = job.api_key(environ)
    except JobInvalid as error:
        findings += [CheckFinding("key", problem, INVALID) for problem in error.problems]
    else:
        speaks = dialect(job.provider.name).with_key_from(job.key_source)
        findings.append(CheckFinding("key", "found" if key is not None else f"{speaks.name} needs none"))
        findings += await _reached(job, speaks, key, environ, ask, Secrets() if secrets is None else secrets)
    return CheckReport(tuple(findings))


def _manifest(job: Job) -> Iterator[CheckFinding]:
    from batchvision.runner.feed import survey

    try:
        found = survey(job)
    except JobInvalid as error:
        yield from (CheckFinding("manifest", problem, INVALID) for problem in error.problems)
    else:
        yield CheckFinding("manifest", f"{job.manifest_name}: {found.rows:,} rows")


def _root(job: Job) -> CheckFinding:
    if job.object_root is not None:
        return _object_root(job, job.object_root)
    if job.root.is_dir():
        return CheckFinding("images", f"local images are looked up in {job.root}")
    return CheckFinding("images", f"there is no folder {job.root}: correct [manifest] root", INVALID)


def _object_root(job: Job, root: str) -> CheckFinding:
    """The objects can be listed, and a URL signed where images may be handed over as URLs."""
    signs = job.provider.image_mode != "inline"
    folder = root.rstrip("/") + "/"
    try:
        next(list_objects(folder), None)
        if signs:
            signed_url(f"{folder}check", seconds=60)
    except ObjectUnreachable as error:
        return CheckFinding("images", f"{folder} cannot be listed{' or signed' if signs else ''}: {error}", INVALID)
    except JobInvalid as error:
        return CheckFinding("images", error.message, INVALID)
    return CheckFinding("images", f"images are looked up in {folder}: listed{', and URLs signed' if signs else ''}")


def _output(job: Job) -> CheckFinding:
    """The output can be written if its nearest existing folder can. One in an object store is tried."""
    if job.output_url is not None:
        return _object_store(job, job.output_url)
    folder = job.output_path
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
        return CheckFinding("output", f"{job.output_path} can be written")
    return CheckFinding("output", f"{folder} cannot be written: choose another [output] path, or --out", INVALID)


def _object_store(job: Job, url: str) -> CheckFinding:
    from batchvision.checkpoint import prove_store

    try:
        prove_store(url)
    except StopRun as error:
        return CheckFinding("output", error.message, INVALID)
    return CheckFinding("output", f"{url} can be read, written and locked; its local copy is {job.output_path}")


def _load(job: Job, environ: Mapping[str, str] | None) -> Iterator[CheckFinding]:
    """The destination of ``load.to``, with its extra. Connects to nothing."""
    from batchvision.commands.load import job_destination

    try:
        destination = job_destination(job, environ)
    except JobInvalid as error:
        yield CheckFinding("load", error.message, INVALID)
    else:
        if destination is not None:
            yield CheckFinding("load", f"into {destination.name} at the end of each run")


def _share(job: Job) -> Iterator[CheckFinding]:
    try:
        path = shared_budget_path(job)
    except JobInvalid as error:
        yield CheckFinding("limits", error.message, INVALID)
    else:
        if path is not None:
            yield CheckFinding("limits", f"shared with the processes that use {path}")


def _labels(job: Job) -> Iterator[CheckFinding]:
    if warning := fallback_warning(job):
        yield CheckFinding("labels", warning)


def _prompt(job: Job) -> Iterator[CheckFinding]:
    if warning := system_warning(job):
        yield CheckFinding("prompt", warning)


def _extras() -> Iterator[CheckFinding]:
    for module, (extra, gives) in EXTRAS.items():
        if find_spec(module) is None:
            yield CheckFinding("extras", f"not installed, only needed for {gives}: pip install 'batchvision[{extra}]'")


async def _reached(
    job: Job,
    speaks: Dialect,
    key: Secret | None,
    environ: Mapping[str, str] | None,
    ask: ListModels | None,
    secrets: Secrets,
) -> list[CheckFinding]:
    """Findings about the network, then about the provider's answer."""
    from batchvision.runner import access_of

    try:
        access = access_of(job, key, environ)
    except JobInvalid as error:
        return [CheckFinding("network", problem, INVALID) for problem in error.problems]
    secrets.add(*access.secrets)
    asked = ask or partial(
        list_models,
        allow_plain_http=job.provider.allow_plain_http,
        network=access.network,
        secrets=secrets,
    )
    return [CheckFinding("network", str(access.network)), *await _provider(job, speaks, access.headers, asked)]


async def _provider(job: Job, speaks: Dialect, headers: Mapping[str, str], ask: ListModels) -> list[CheckFinding]:
    try:
        models = await ask(speaks, job.base_url, None, headers)  # the key is one of the headers
        remember(speaks.name, job.base_url, models, datetime.now(UTC))
    except (ModelNotFound, RequestRejected) as error:
        text = f"{job.base_url} has no list of models, so that {job.provider.model} could not be looked up"
        return [CheckFinding("provider", f"{text} ({error.what})"), _prices(job)]
    except StopRun as error:
        return [CheckFinding("provider", error.message, error.exit_code)]
    except BatchvisionError as error:
        return [CheckFinding("provider", f"{job.base_url} did not list its models: {error.message}", REFUSED)]
    answers = CheckFinding("provider", f"{job.base_url} answers")
    return [answers, _model(job.provider.model, speaks.name, models), _prices(job)]


def _prices(job: Job) -> CheckFinding:
    """The prices for plans and caps. Unknown prices do not fail the check."""
    quoted = quote(job)
    if quoted.prices is None:
        return CheckFinding(
            "prices", "not known: caps and plans need [provider] prices, { input = 1.25, output = 2.5 }"
        )
    cents = (format_usd(quoted.prices.input_ticks_per_mtok), format_usd(quoted.prices.output_ticks_per_mtok))
    dated = f", of {quoted.as_of}" if quoted.as_of else ""
    text = f"{cents[0]} in, {cents[1]} out for a million tokens ({quoted.source}{dated})"
    return CheckFinding("prices", quoted.warning(datetime.now(UTC).date(), job) or text)


def _model(name: str, provider: str, models: Sequence[ModelListing]) -> CheckFinding:
    known = {alias: model for model in models for alias in (model.name, *model.aliases)}
    model = known.get(name)
    if not models:
        return CheckFinding("model", f"{provider} lists no models, so that {name} could not be looked up")
    if model is None:
        near = difflib.get_close_matches(name, known, n=3) or sorted(known)[:3]
        return CheckFinding("model", f"{provider} does not list {name!r}; it has {', '.join(near)} ...", REFUSED)
    if model.takes_images is False:
        return CheckFinding("model", f"{name} takes no images: choose another with batchvision models", REFUSED)
    return CheckFinding("model", f"{name} is there")
