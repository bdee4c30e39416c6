"""Whether a path still leads to the file that this run has opened. A folder may be removed or replaced meanwhile.

The writer checks the lock and the journal by their full paths, after each sync and before the acknowledgement.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NamedTuple

from batchvision.errors import DiskFailed

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ELOOP)


class Identity(NamedTuple):
    """A file system and the number of a file in it."""

    device: int
    inode: int

    @classmethod
    def of(cls, file: Path | int) -> Identity:
        """Of a name or of an open descriptor. Raises OSError."""
        found = os.fstat(file) if isinstance(file, int) else file.stat()
        return cls(found.st_dev, found.st_ino)

    def is_at(self, path: Path) -> bool:
        """Whether ``path`` leads to this file. Raises OSError where the file system does not answer."""
        try:
            return Identity.of(path) == self
        except OSError as fault:
            if fault.errno in _GONE:
                return False
            raise


def output_gone(output: Path, path: Path) -> DiskFailed:
    """The error for a removed or replaced lock or journal."""
    return DiskFailed(
        f"{output} was removed or replaced while the run went on: {path.name} is not the file that this run has "
        "opened. Nothing more was sent; answers that were in flight, or not yet in the tables, went with the folder. "
        "Put it back from a copy if there is one, then start the same run again."
    )
