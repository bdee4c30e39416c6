"""The HTTP client of batchvision, on httpx. Only this package imports httpx.

``client`` sends requests to an endpoint and reports whether they may have been billed. ``network`` chooses the
transport: ``lean`` with its ``connection`` and ``arrival`` connects directly, and ``pooled`` is httpx's own, for the
proxies of ``proxy``. ``tls`` holds the trusted certificates. ``lasting_faults`` recognises errors that stay until a
setting changes. ``body`` decodes up to a bound, and ``upload`` streams a file.
``notices`` posts messages about runs. ``downloads``, ``fetch``, ``hops`` and ``hosts`` download images.
"""

from batchvision.http.client import Endpoint, ProviderClient
from batchvision.http.downloads import ImageAccess
from batchvision.http.lean import LeanTransport
from batchvision.http.library import httpx
from batchvision.http.network import Network
from batchvision.http.notices import post_notice
from batchvision.http.proxy import NONE as NO_PROXY
from batchvision.http.tls import Trust
from batchvision.http.upload import FileUpload

__all__ = [
    "NO_PROXY",
    "Endpoint",
    "FileUpload",
    "ImageAccess",
    "LeanTransport",
    "Network",
    "ProviderClient",
    "Trust",
    "httpx",
    "post_notice",
]
