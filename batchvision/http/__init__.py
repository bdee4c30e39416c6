"""All HTTP of batchvision as a client. Only this package imports httpx.

client (requests to a provider, one deadline, billed or not) · endpoint (base URL and headers) · lean (the direct
transport) over connection (sockets) and arrival (a response as it comes in) · body (decoded under a cap) · tls (roots)
· deadlines · downloads, fetch, hosts (images).
"""

from batchvision.http.client import ProviderClient
from batchvision.http.downloads import FetchesOnDemand
from batchvision.http.endpoint import Endpoint
from batchvision.http.lean import LeanTransport
from batchvision.http.library import httpx

__all__ = ["Endpoint", "FetchesOnDemand", "LeanTransport", "ProviderClient", "httpx"]
