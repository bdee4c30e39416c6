"""Images: from a reference in the manifest to bytes (or a URL) a provider takes. The jail lives here.

formats, exif (what the bytes are) · convert, deep, flatten, pages (Pillow, only there) · pool, worker, parcels (the
same in other processes) · preparing (as it is, or converted) · reading, jail, spelling (local files) · data_uris ·
addresses (what is public) · downloads (once each) · references (names, identity, redaction) · source (the face:
``ImageSource``).
"""

from batchvision.images.addresses import check_host, is_public
from batchvision.images.data_uris import as_data_uri
from batchvision.images.pool import DecodingPool
from batchvision.images.preparing import Converter, LeastSize, Prepared, prepare_bytes
from batchvision.images.references import kind_of, named_url, redact_reference, redact_url, several_in, stamp, with_size
from batchvision.images.source import Fetcher, ImageSource, Offload, Reserve, load_local, threads

__all__ = [
    "Converter",
    "DecodingPool",
    "Fetcher",
    "ImageSource",
    "LeastSize",
    "Offload",
    "Prepared",
    "Reserve",
    "as_data_uri",
    "check_host",
    "is_public",
    "kind_of",
    "load_local",
    "named_url",
    "prepare_bytes",
    "redact_reference",
    "redact_url",
    "several_in",
    "stamp",
    "threads",
    "with_size",
]
