"""All HTTP of batchvision as a client. Only this package imports httpx.

client (requests to a provider: one deadline, billed or not) · endpoint (base URL and headers) · lean (the direct
transport) over connection (sockets) and arrival (a response as it comes in) · pooled (httpx's own transport) · network
(which of them, by proxy and tls) · no_way (faults that stay) · body (decoded under a cap) · deadlines · downloads
(of images) by fetch, hop by hop (hops), to judged addresses (resolving), politely (hosts).
"""

from batchvision.http.client import ProviderClient
from batchvision.http.downloads import ImageAccess
from batchvision.http.endpoint import Endpoint
from batchvision.http.lean import LeanTransport
from batchvision.http.library import httpx
from batchvision.http.network import Network
from batchvision.http.proxy import NONE as NO_PROXY
from batchvision.http.tls import Trust

__all__ = ["NO_PROXY", "Endpoint", "ImageAccess", "LeanTransport", "Network", "ProviderClient", "Trust", "httpx"]
