"""The storage of an output: this machine's disk, or an object store with a local copy."""

from __future__ import annotations

from pathlib import Path

from batchvision.checkpoint.disk import LocalDisk
from batchvision.checkpoint.storage import Disk
from batchvision.errors import JobInvalid


def disk_at(output: Path, url: str | None, sync_seconds: float, *, group_readable: bool = False) -> Disk:
    """``url``: the object store of which ``output`` is the local copy. Raises JobInvalid."""
    if url is None:
        return LocalDisk(group_readable=group_readable)
    try:  # the extra s3
        from batchvision.checkpoint.local_copy import LocalCopy
        from batchvision.checkpoint.mirror import MirroredDisk
        from batchvision.checkpoint.objects import ObjectFolder
    except ModuleNotFoundError as missing:
        raise JobInvalid(f"output.path = {url!r} needs the extra s3: pip install 'batchvision[s3]'") from missing
    objects, copy = ObjectFolder.at(url), LocalCopy(output)
    return MirroredDisk(objects, copy, sync_seconds, group_readable=group_readable)
