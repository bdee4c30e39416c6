"""Images: from a reference in the manifest to bytes (or a URL) a provider takes. The jail lives here.

formats (what the bytes are) · convert (Pillow, only there) · jail (local files) · references (names, identity,
redaction) · source (the face: ``ImageSource``).
"""

from batchvision.images.references import kind_of, redact_reference, redact_url, stamp
from batchvision.images.source import (
    Fetcher,
    ImageSource,
    Offload,
    Prepared,
    load_local,
    prepare_bytes,
    threads,
)

__all__ = [
    "Fetcher",
    "ImageSource",
    "Offload",
    "Prepared",
    "kind_of",
    "load_local",
    "prepare_bytes",
    "redact_reference",
    "redact_url",
    "stamp",
    "threads",
]
