"""The snapshot of an output: one Parquet file with the current answer of each row of the manifest."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow as pa

from batchvision.checkpoint import (
    IN_MANIFEST,
    STATE_FOLDER,
    Disk,
    LocalDisk,
    Store,
    sha256_of,
    write_batches,
)
from batchvision.commands.read import OutputTable, read
from batchvision.errors import DiskFailed
from batchvision.job import Job
from batchvision.runner import RunDependencies, wiring


def write_job_snapshot(job: Job, dependencies: RunDependencies) -> None:
    """Write ``output.snapshot``, where the job has one.

    A snapshot inside an output in an object store is put there too, and needs the lock of the output. Blocking.
    Raises DiskFailed, CheckpointDamaged, OutputHeld.
    """
    path = job.snapshot_path
    if path is None:
        return
    with ExitStack() as stack:
        disk: Disk = LocalDisk()
        if path.parent == job.output_path:
            disk = wiring.disk_of(job, dependencies)
            if job.output_url is not None:
                stack.enter_context(Store.lock(job.output_path, disk=disk))
        write_snapshot(job.output_path, path, disk)


def write_snapshot(output: Path, path: Path, disk: Disk) -> bool:
    """Replace the file at ``path`` by one rename, and return True. A file with the same bytes is left alone.

    Raises DiskFailed, CheckpointDamaged.
    """
    table = read(output)
    schema = pa.schema([field for field in table.schema if field.name != IN_MANIFEST])
    try:
        with _one_writer(output), disk.growing(path) as file:
            write_batches(file, schema, _rows_in_manifest(table))
            if path.exists() and sha256_of(path) == file.sha256:
                return False
            file.publish(path)
            return True
    except OSError as fault:
        raise DiskFailed(
            f"the snapshot {path} was not written: {fault.strerror or fault}. Every answer is in {output}",
            next_step="free space or repair the disk: the next run writes the snapshot",
            key="output.snapshot",
        ) from fault


def _rows_in_manifest(table: OutputTable) -> Iterator[pa.RecordBatch]:
    for batch in table:
        rows = batch.filter(batch[IN_MANIFEST])
        if rows.num_rows:
            yield rows


@contextmanager
def _one_writer(output: Path) -> Iterator[None]:
    """Shards that end together write one after the other. The last one reads the rows of all."""
    descriptor = os.open(output / STATE_FOLDER / "snapshot.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
