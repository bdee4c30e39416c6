"""Post a short message to a service of the user's. A failure is a sentence, never an exception."""

from __future__ import annotations

from collections.abc import Mapping

import anyio

from batchvision.errors import BatchvisionError
from batchvision.http.library import httpx
from batchvision.http.network import Network

ATTEMPTS = 3
ATTEMPT_SECONDS = 10.0
PAUSE_SECONDS = 1.0


async def post_notice(url: str, content: bytes, content_type: str, environ: Mapping[str, str]) -> str | None:
    """Post, and try again after errors of the network and of the server. Returns why it failed, without the URL's path,
    which is often a secret. ``environ`` may name a proxy."""
    try:
        network = Network.to(url, environ)
    except BatchvisionError as error:
        return error.message
    failed = ""
    async with httpx.AsyncClient(
        transport=network.transport(1), timeout=ATTEMPT_SECONDS, trust_env=False, headers={"content-type": content_type}
    ) as client:
        for attempt in range(ATTEMPTS):
            if attempt:
                await anyio.sleep(PAUSE_SECONDS * attempt)
            try:
                response = await client.post(url, content=content)
            except (httpx.HTTPError, httpx.InvalidURL, BatchvisionError) as error:
                failed = f"no answer from {network.host}: {str(error) or type(error).__name__}"
                continue
            if response.is_success:
                return None
            failed = f"{network.host} answered {response.status_code}"
            if response.status_code < 500 and response.status_code != 429:
                break
    return failed
