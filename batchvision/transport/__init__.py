"""Bytes over the wire: the only importer of httpx and aiohttp clients.

provider (requests to a provider) · fetch (downloads of images) · body (a body as it arrives, capped). As nothing
else knows them, another HTTP library is a change of this folder.
"""

from batchvision.transport.fetch import HttpFetcher
from batchvision.transport.provider import HttpTransport

__all__ = ["HttpFetcher", "HttpTransport"]
