"""The storage of an output: this machine's disk, or an object store with a local copy. Only here is it chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batchvision.checkpoint.disk import LocalDisk, disk_failures
from batchvision.checkpoint.storage import Disk
from batchvision.errors import JobInvalid


def disk_at(output: Path, url: str | None, sync_seconds: float, *, group_readable: bool = False) -> Disk:
    """``url``: the object store of which ``output`` is the local copy. Raises JobInvalid."""
    if url is None:
        return LocalDisk(group_readable=group_readable)
    with _needs_extra(url):
        from batchvision.checkpoint.local_copy import LocalCopy
        from batchvision.checkpoint.mirror import MirroredDisk
        from batchvision.checkpoint.objects import ObjectFolder
    objects, copy = ObjectFolder.at(url), LocalCopy(output)
    return MirroredDisk(objects, copy, sync_seconds, group_readable=group_readable)


def fetch_output(url: str, copy: Path) -> Path:
    """Fetch an output for reading, beside ``copy``, which belongs to runs. Returns the folder.

    It needs no lock: a run may be at work. Raises JobInvalid, DiskFailed, CheckpointDamaged.
    """
    with _needs_extra(url):
        from batchvision.checkpoint.local_copy import LocalCopy
        from batchvision.checkpoint.objects import ObjectFolder
    output = copy.parent / "readers" / copy.name
    with disk_failures(f"fetching {url}"):
        LocalCopy(output).follow(ObjectFolder.at(url))
    return output


def prove_store(url: str) -> None:
    """Prove that an output at this URL can be read, written and locked. Raises JobInvalid, DiskFailed."""
    with _needs_extra(url):
        from batchvision.checkpoint.objects import ObjectFolder
    with disk_failures(f"checking {url}"):
        ObjectFolder.at(url).prove()


@contextmanager
def _needs_extra(url: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as missing:
        raise JobInvalid(f"{url} needs the extra s3: pip install 'batchvision[s3]'") from missing
