"""How the command's process takes memory and gives it back: a run holds little, and what a batch has held is returned.

Rule: only for a process of our own. As a library batchvision leaves its host's allocator, and its modules, alone.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

#: Of glibc's mallopt: the size from which memory is mapped, and so returned when freed; how much may lie unused at the
#: end of the heap; and in how many heaps threads may scatter.
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD, _M_ARENA_MAX = -3, -1, -8
#: Photos and their base64 stay below: mapped anew for each, they cost twice the CPU of the whole request.
_MAPPED_BYTES = 4 * 1024 * 1024
_LEFT_BYTES = 1024 * 1024
#: What pyarrow imports beside its Parquet reader to reach tables elsewhere, if it was built with it: 4 MiB of a run.
#: Manifests and outputs are files, so it is told here what it is told where it was built without.
_REMOTE = ("pyarrow._s3fs", "pyarrow._gcsfs", "pyarrow._azurefs", "pyarrow._hdfs")


def give_memory_back() -> None:
    """Before pyarrow is imported: its own pool keeps what it has once had (35 MiB of a run's 190)."""
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    for name in _REMOTE:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # an import of it raises ModuleNotFoundError
    with suppress(ImportError, OSError, AttributeError):  # elsewhere than on glibc there is nothing to set
        import ctypes

        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _LEFT_BYTES)
