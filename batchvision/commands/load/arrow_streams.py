"""Hand Arrow batches over to a database driver, and report the driver's faults."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pyarrow as pa

#: Turns an exception of the driver during a step into LoadFailed. The argument names the step.
Failures = Callable[[str], AbstractContextManager[None]]


@contextmanager
def handed_over(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatchReader]:
    """A reader of the batches. Where reading them fails, that exception is raised in place of the driver's."""
    faults: list[BaseException] = []

    def watched() -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except BaseException as fault:
            faults.append(fault)
            raise

    try:
        yield pa.RecordBatchReader.from_batches(schema, watched())
    except Exception:
        if faults:
            raise faults[0] from None
        raise
