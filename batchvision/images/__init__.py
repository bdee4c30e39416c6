"""Images: from a reference in the manifest to bytes (or a URL) a provider takes. The jail lives here.

formats, exif (what the bytes are) · convert, deep, flatten, pages (Pillow, only there) · pool, worker, parcels (the
same in other processes) · preparing (as it is, or converted) · reading, jail, spelling (local files) · data_uris ·
addresses (what is public) · downloads (once each) · references (names, identity, redaction) · source (the face:
``ImageSource``).
"""

from batchvision.images.addresses import check_host, is_public
from batchvision.images.data_uris import as_data_uri
from batchvision.images.files import FileFacts, ImageFiles, ImageFolder
from batchvision.images.formats import ImageFormat, examine, sniff
from batchvision.images.pool import DecodingPool
from batchvision.images.preparing import Converter, LeastSize, Prepared, passes_unchanged, prepare_bytes
from batchvision.images.references import (
    identity,
    kind_of,
    named_url,
    needs_reading,
    redact_reference,
    redact_url,
    several_in,
    stamp,
    trimmed_url,
    with_size,
    without_parameters,
)
from batchvision.images.source import Fetcher, ImageSettings, ImageSource, Reserve, load_local, read_source

__all__ = [
    "Converter",
    "DecodingPool",
    "Fetcher",
    "FileFacts",
    "ImageFiles",
    "ImageFolder",
    "ImageFormat",
    "ImageSettings",
    "ImageSource",
    "LeastSize",
    "Prepared",
    "Reserve",
    "as_data_uri",
    "check_host",
    "examine",
    "identity",
    "is_public",
    "kind_of",
    "load_local",
    "named_url",
    "needs_reading",
    "passes_unchanged",
    "prepare_bytes",
    "read_source",
    "redact_reference",
    "redact_url",
    "several_in",
    "sniff",
    "stamp",
    "trimmed_url",
    "with_size",
    "without_parameters",
]
