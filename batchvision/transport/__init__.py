"""Bytes over the wire: the only room that speaks HTTP as a client.

provider (requests to a provider) over connection (sockets) and arrival (an answer as it comes in) · downloads (of
images, begun on demand) by fetch (with aiohttp) · body (a body as it arrives, capped). As nothing else knows them,
another HTTP library is a change of this folder.
"""

from batchvision.transport.downloads import FetchesOnDemand
from batchvision.transport.provider import HttpTransport

__all__ = ["FetchesOnDemand", "HttpTransport"]
