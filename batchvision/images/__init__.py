"""Turn an image reference of the manifest into bytes, or a URL, that a provider accepts.

``references`` name and identify images, and recognise public hosts. ``source`` loads them from ``files``, ``data_uris``
or ``downloads``. ``formats`` examines bytes without decoding. ``preparing`` decides about conversion. ``convert`` and
``flatten`` do it with Pillow, mostly in the decoding processes of ``pool`` and ``worker``.
"""

from batchvision.images.data_uris import as_data_uri
from batchvision.images.files import FileFacts, ImageFiles, ImageFolder
from batchvision.images.formats import ImageFormat, examine, sniff
from batchvision.images.objects import ObjectImages
from batchvision.images.pool import DecodingPool, child_environment
from batchvision.images.preparing import Converter, LeastSize, passes_unchanged, prepare_bytes
from batchvision.images.references import (
    below_object_root,
    check_host,
    identity,
    is_public,
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
from batchvision.images.source import (
    Fetcher,
    ImageSettings,
    ImageSource,
    Objects,
    ReserveBytes,
    load_local,
    read_source,
)

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
    "ObjectImages",
    "Objects",
    "ReserveBytes",
    "as_data_uri",
    "below_object_root",
    "check_host",
    "child_environment",
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
