"""The parent's side of the child process that reads Parquet (see ``parquet_child``).

Rule: each way in which the child can end becomes a ``JobInvalid`` that names the file and, where known, the row group
and the column. Batches are validated here before use.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

from batchvision.errors import JobInvalid
from batchvision.images import child_environment
from batchvision.manifest import parquet_child
from batchvision.manifest.parquet_child import REPLY, REQUEST, read_exactly

#: The child may take this much memory beyond its libraries, and at most half of the machine's or container's memory. It
#: holds a page twice: packed and unpacked.
MEMORY_BYTES = 4 * 1024 * 1024 * 1024
#: The child ends itself after this time without a batch.
DEADLINE_SECONDS = 300
#: A batch is at most this large, or has one row.
BATCH_BYTES = 32 * 1024 * 1024
MOST_ROW_BYTES = 256 * 1024 * 1024
#: A larger reply is not accepted: the largest row with its framing.
_MOST_REPLY_BYTES = MOST_ROW_BYTES + 16 * 1024 * 1024
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
CHILD_SCRIPT = Path(parquet_child.__file__)


class ParquetColumns(NamedTuple):
    """The columns of one file; those in ``byte_columns`` hold bytes."""

    names: list[str]
    byte_columns: list[str]


class _Fault(Exception):
    """A sentence about the file in two halves; the row group and the column go between them."""

    def __init__(self, before: str, after: str, *, is_slow: bool = False) -> None:
        super().__init__(before, after)
        self.before, self.after, self.is_slow = before, after, is_slow

    def about(self, name: str, where: str = "") -> JobInvalid:
        return JobInvalid(f"{name}{self.before}{where}{self.after}")


class ParquetReader:
    """One child process, which reads one file after another. It ends with ``close``, or when the reader is dropped."""

    def __init__(self) -> None:
        self._connection, child = socket.socketpair()
        with child:
            limits = map(str, (child.fileno(), _memory_bytes(), DEADLINE_SECONDS))
            try:
                self._process = subprocess.Popen(
                    (sys.executable, "-S", "-P", str(CHILD_SCRIPT), *limits),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[child.fileno()],
                    env={**child_environment(), "ARROW_DEFAULT_MEMORY_POOL": "system"},
                    start_new_session=True,  # the terminal's Ctrl-C is for the run
                )
            except OSError as error:
                self._connection.close()
                raise JobInvalid(f"no process could be started to read Parquet: {error.strerror}.") from error
        self._has_replied = False
        self.close = weakref.finalize(self, _end, self._process, self._connection)

    def columns(self, name: str, file: BinaryIO, needed: Sequence[str]) -> ParquetColumns:
        """The columns of ``file``. Raises JobInvalid, also for a ``needed`` column of a refused type."""
        try:
            (message, _), *_ = self._replies(file, needed, None)
        except _Fault as fault:
            raise fault.about(name) from fault
        return ParquetColumns(message["columns"], message["byte_columns"])

    def batches(self, name: str, file: BinaryIO, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Those of ``columns`` that ``file`` has, normalised. Raises JobInvalid.

        A caller that stops early has to close the reader.
        """
        row_group, where = None, ""
        try:
            for message, batch in self._replies(file, columns, columns):
                if batch is not None:
                    yield batch
                elif "row_group" in message:
                    row_group = message["row_group"]
                    where = f" in row group {row_group + 1} of {message['row_groups']}"
        except _Fault as fault:
            if row_group is not None and not fault.is_slow:
                where += _column_at_fault(file, columns, row_group)
            raise fault.about(name, where) from fault

    def _replies(
        self, file: BinaryIO, needed: Sequence[str], columns: Sequence[str] | None, row_group: int | None = None
    ) -> Iterator[tuple[dict[str, Any], pa.RecordBatch | None]]:
        """The child's replies to one request. Raises _Fault."""
        question = {"needed": list(needed), "columns": columns, "row_group": row_group}
        bounds = {"batch_bytes": BATCH_BYTES, "most_row_bytes": MOST_ROW_BYTES}
        request = json.dumps(question | bounds).encode()
        try:
            socket.send_fds(self._connection, [REQUEST.pack(len(request))], [file.fileno()])
            self._connection.sendall(request)
            while "end" not in (reply := self._reply())[0]:
                yield reply
        except (EOFError, OSError) as error:
            raise self._ended() from error
        except (pa.ArrowException, ValueError, KeyError) as error:
            raise _damaged(str(error)) from error

    def _reply(self) -> tuple[dict[str, Any], pa.RecordBatch | None]:
        length, batch_length = REPLY.unpack(read_exactly(self._connection, bytearray(REPLY.size)))
        if max(length, batch_length) > _MOST_REPLY_BYTES:
            raise EOFError
        self._has_replied = True
        message = json.loads(read_exactly(self._connection, bytearray(length)))
        if "damaged" in message:
            raise _damaged(message["damaged"])
        if "unreadable" in message:
            raise _Fault(" cannot be read", f": {message['unreadable']}.")
        if "refused" in message:
            raise _Fault("", f": {message['refused']}.")
        if "too_large" in message:
            raise _too_large(f"it does not fit into the {_memory_bytes() // 1024**2:,} MiB for reading Parquet")
        if not batch_length:
            return message, None
        content = read_exactly(self._connection, pa.allocate_buffer(batch_length))
        batch = pa.ipc.open_stream(content).read_next_batch()
        batch.validate(full=True)
        return message, batch

    def _ended(self) -> _Fault:
        """Say how the child has ended."""
        self._connection.close()
        code = self._process.wait()
        if code == -signal.SIGALRM:
            return _Fault("", f": no row could be read in {DEADLINE_SECONDS} s. Write the file again.", is_slow=True)
        if code == -signal.SIGKILL:
            return _too_large("the process that read it was killed, most likely for lack of memory")
        if code > 0 and not self._has_replied:
            return _Fault("", f": no process starts that reads it. See the error of `{sys.executable} {CHILD_SCRIPT}`.")
        how = signal.Signals(-code).name if code < 0 else f"exit {code}"
        return _Fault(
            " is damaged",
            f", or too large: pyarrow crashed ({how}). Write the file again, with smaller row groups.",
        )


def _damaged(words: str) -> _Fault:
    return _Fault(" is damaged or cut short", f": {words}. Write the file again.")


def _too_large(words: str) -> _Fault:
    return _Fault(" is too large", f": {words}. Write the file again with smaller row groups.")


def _column_at_fault(file: BinaryIO, columns: Sequence[str], row_group: int) -> str:
    """Read the columns of a row group one by one, in a child of their own, to name the first that fails."""
    with closing(ParquetReader()) as reader:
        for column in columns:
            try:
                for _ in reader._replies(file, [], [column], row_group):
                    pass
            except _Fault:
                return f", column {column!r}"
    return ""


def _memory_bytes() -> int:
    present = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):  # no Linux, or a container without a limit
        present = min(present, int(_CGROUP_LIMIT.read_text(encoding="ascii")))
    return min(MEMORY_BYTES, present // 2)


def _end(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    connection.close()
    process.kill()
    process.wait()
