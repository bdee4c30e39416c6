"""The way to the provider and to the images: headers, keys, network and connections."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

from batchvision.eventloop import Offload
from batchvision.http import NO_PROXY, Endpoint, ImageAccess, Network, ProviderClient, httpx
from batchvision.images import (
    DecodingPool,
    ImageSource,
    ObjectImages,
)
from batchvision.job import Job
from batchvision.providers import dialect
from batchvision.runner.dependencies import RunDependencies
from batchvision.runner.lanes import POLLERS
from batchvision.runner.provider_calls import KeyRenewal
from batchvision.runner.wiring import images_of, least_image_of
from batchvision.secrets import Secret, Secrets


class Access(NamedTuple):
    """The headers of every request, the secrets to mask, and the network to the provider."""

    headers: Mapping[str, str]
    secrets: tuple[Secret, ...]
    network: Network | None  #: ``None``: a transport of the caller reaches the provider
    images: ImageAccess = ImageAccess()


def access_of(
    job: Job, key: Secret | None, environ: Mapping[str, str] | None, transport: httpx.AsyncBaseTransport | None = None
) -> Access:
    """Raises JobInvalid for missing variables, proxies and files."""
    given, secrets = job.request_headers(environ)
    headers = _headers_of(job, key, given)
    network = None if transport is not None else _network_of(job, environ)
    keys = () if key is None else (key,)
    images, of_images = ImageAccess.of(job, os.environ if environ is None else environ)
    of_ways = (*(network.secrets if network else ()), *images.secrets)
    return Access(headers, (*keys, *secrets, *of_images, *job.base_url_secrets, *of_ways), network, images)


def _headers_of(job: Job, key: Secret | None, given: Mapping[str, str]) -> Mapping[str, str]:
    speaks, name = dialect(job.provider.name), job.provider.api_key_header
    if key is None or name is None or name.lower() == "authorization":
        return speaks.headers(key, given)
    return speaks.headers(None, {**given, name: key.reveal()})


def key_of(
    job: Job, key: Secret | None, environ: Mapping[str, str] | None, secrets: Secrets, offload: Offload
) -> KeyRenewal:
    """The key of the job, with the command that renews it."""
    given, _ = job.request_headers(environ)
    first = _headers_of(job, key, given)

    def headers_of(new: Secret) -> Mapping[str, str]:
        return {name: value for name, value in _headers_of(job, new, given).items() if first.get(name) != value}

    ask = job.api_key if job.provider.api_key_command is not None else None
    return KeyRenewal(key, ask, headers_of, secrets, offload)


def _network_of(job: Job, environ: Mapping[str, str] | None) -> Network:
    provider = job.provider
    return Network.to(
        job.base_url,
        os.environ if environ is None else environ,
        http=provider.http,
        proxy=NO_PROXY if provider.http == "lean" else job.proxy(environ),
        ca_file=job.file(provider.ca_file),
        client_cert=job.file(provider.client_cert),
    )


@asynccontextmanager
async def connected(
    job: Job, access: Access, secrets: Secrets, dependencies: RunDependencies
) -> AsyncIterator[tuple[ProviderClient, ImageSource]]:
    """The client of the provider, and the source of images. Their connections and processes end with the run."""
    async with AsyncExitStack() as stack:
        endpoint = Endpoint(job.base_url, access.headers, allow_plain_http=job.provider.allow_plain_http)
        if access.network is not None:
            own = access.network.transport(job.limits.concurrency + POLLERS)
            transport: httpx.AsyncBaseTransport = await stack.enter_async_context(own)
        elif dependencies.transport is not None:
            transport = dependencies.transport
        else:
            raise RuntimeError("an access without a network needs a transport of the caller's")
        client = ProviderClient(endpoint, transport, secrets, network=access.network, clock=dependencies.now)
        convert = None if dependencies.offload is not None else stack.enter_context(DecodingPool()).convert
        fetch = await stack.enter_async_context(access.images.fetcher())
        yield client, images_of(job, fetch, dependencies, convert, least_image_of(job), ObjectImages())
