"""The child process that reads the Parquet files of a manifest with pyarrow and sends their rows to the parent.

On a damaged file pyarrow may abort, crash, loop or exhaust the memory. That ends this process and not the run.

Rule: this module runs as a script. It imports only pyarrow and the standard library.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

#: A request is its length followed by JSON. A reply is its two lengths, JSON, and a batch as an Arrow IPC stream.
REQUEST = struct.Struct(">I")
REPLY = struct.Struct(">IQ")
BATCH_ROWS = 8192
#: Least size of an element of a list. In Arrow a null takes no byte, and in Python a pointer.
_ELEMENT_BYTES = 8
#: Read buffer of each column, beside its page.
_BUFFER_BYTES = 256 * 1024
#: Extension types that mean no more than their storage type.
_HARMLESS = frozenset({"arrow.uuid", "arrow.json"})
_Reply = tuple[dict[str, Any], pa.RecordBatch | None]


class _Refused(Exception):
    """The file is not damaged, and is not read for another reason."""


def main() -> None:
    """Serve requests until the parent closes the connection."""
    descriptor, memory_bytes, deadline_seconds = map(int, sys.argv[1:])
    connection = socket.socket(fileno=descriptor)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process even inside a native loop
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the run drains first, and closes the connection then
    _limit_memory(memory_bytes)
    while True:
        head, descriptors, *_ = socket.recv_fds(connection, REQUEST.size, 1)
        if not head or not descriptors:
            os._exit(0)
        request = json.loads(read_exactly(connection, bytearray(REQUEST.unpack(head)[0])))
        with os.fdopen(descriptors[0], "rb", buffering=0) as file:
            replies = _answered(pa.PythonFile(file, "r"), request)
            while True:
                signal.alarm(deadline_seconds)
                reply = next(replies, None)
                signal.alarm(0)  # the parent may take its time
                if reply is None:
                    break
                _send(connection, *reply)


def read_exactly(connection: socket.socket, buffer: Any) -> Any:
    """Fill ``buffer`` from the connection. Raises EOFError where the sender has closed it."""
    view = memoryview(buffer)
    while view:
        count = connection.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return buffer


def _send(connection: socket.socket, message: dict[str, Any], batch: pa.RecordBatch | None) -> None:
    sink = pa.BufferOutputStream()
    if batch is not None:
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
    text, content = json.dumps(message).encode(), sink.getvalue()
    try:
        connection.sendall(REPLY.pack(len(text), len(content)) + text)
        connection.sendall(content)
    except OSError:  # the parent has gone
        os._exit(0)


def _limit_memory(room_bytes: int) -> None:
    """Let the kernel refuse more than ``room_bytes`` on top of the memory in use now (not on macOS)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # Linux only: if the machine runs out of memory, this process goes first
        Path("/proc/self/oom_score_adj").write_text("1000")
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()
        held = int(pages[5]) * os.sysconf("SC_PAGE_SIZE")
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        most = held + room_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


# ---------------------------------------------------------------------------------- a request


def _answered(source: pa.NativeFile, request: dict[str, Any]) -> Iterator[_Reply]:
    """The replies to one request: the file's columns, the batches, then an end or a fault.

    ``needed``: columns with a type to check. ``columns``: those to read; null where only the schema is wanted.
    ``row_group``: the only one to read. ``batch_bytes``: a batch is halved until it is as small, or a single row.
    ``most_row_bytes``: a larger row is refused.
    """
    try:
        with pq.ParquetFile(
            source, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
        ) as file:
            schema = file.schema_arrow
            for name in request["needed"]:
                for place in schema.get_all_field_indices(name):
                    _reject_type(schema.field(place))
            byte_columns = [
                field.name
                for field in schema
                if any(types.is_binary(normal_type(part.type)) for part in _with_parts(field))
            ]
            yield {"columns": schema.names, "byte_columns": byte_columns}, None
            if request["columns"] is not None:
                yield from _batches(file, request)
        yield {"end": True}, None
    except MemoryError:
        yield {"too_large": True}, None
    except _Refused as error:
        yield {"refused": str(error)}, None
    except OSError as error:
        yield {"damaged" if error.errno is None else "unreadable": _first_line(error)}, None
    except Exception as error:  # noqa: BLE001 - a damaged file makes pyarrow raise errors of any class
        yield {"damaged": _first_line(error)}, None


def _first_line(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0].rstrip(".")
    return "".join(character if character.isprintable() else "?" for character in line) or type(error).__name__


def _batches(file: pq.ParquetFile, request: dict[str, Any]) -> Iterator[_Reply]:
    """The rows of the columns that the file has, row group by row group."""
    stored = [name for name in request["columns"] if name in file.schema_arrow.names]
    only, count = request["row_group"], file.metadata.num_row_groups
    for number in range(count) if only is None else [only]:
        yield {"row_group": number, "row_groups": count}, None
        for batch in _row_group(file, number, stored, request["batch_bytes"]):
            for part in _parts(batch, request["batch_bytes"], request["most_row_bytes"]):
                yield {}, part


def _row_group(file: pq.ParquetFile, number: int, columns: list[str], batch_bytes: int) -> Iterator[pa.RecordBatch]:
    """The rows of one row group, normalised. Where a batch does not fit into memory, go on with smaller ones."""
    group = file.metadata.row_group(number)
    if not columns:
        for start in range(0, group.num_rows, BATCH_ROWS):
            yield pa.RecordBatch.from_arrays([pa.nulls(min(BATCH_ROWS, group.num_rows - start))], names=[""])
        return
    chunks = [group.column(place) for place in range(group.num_columns)]
    stored_bytes = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.partition(".")[0] in columns)
    rows = max(1, min(BATCH_ROWS, batch_bytes * group.num_rows // max(1, stored_bytes)))
    given = 0
    while given < group.num_rows:
        read = 0
        try:
            for batch in file.iter_batches(batch_size=rows, row_groups=[number], columns=columns, use_threads=False):
                read += batch.num_rows
                if read > given:  # fewer were given by an earlier try
                    fresh = batch.slice(batch.num_rows - (read - given))
                    fresh.validate(full=True)
                    yield pa.RecordBatch.from_arrays(
                        [normalised(fresh.column(name)) for name in columns], names=columns
                    )
                    given = read
            if read < group.num_rows:
                raise ValueError(f"it ends after {read:,} of {group.num_rows:,} rows")
        except (MemoryError, pa.ArrowCapacityError, pa.ArrowNotImplementedError):
            if rows == 1:
                raise
            rows = max(1, rows // 8)


def _parts(batch: pa.RecordBatch, batch_bytes: int, most_row_bytes: int) -> Iterator[pa.RecordBatch]:
    """``batch``, cut into halves until each is small enough."""
    size = sum(map(_size, batch.columns))
    if size <= batch_bytes or (batch.num_rows == 1 and size <= most_row_bytes):
        yield batch
    elif batch.num_rows == 1:
        raise _Refused(f"a row has {size:,} bytes, and {most_row_bytes:,} are the most")
    else:
        half = batch.num_rows // 2
        yield from _parts(batch.slice(0, half), batch_bytes, most_row_bytes)
        yield from _parts(batch.slice(half), batch_bytes, most_row_bytes)


def _size(array: pa.Array) -> int:
    """Bytes of a normalised array."""
    if types.is_list(array.type):
        elements = array.flatten()
        return 4 * len(array) + max(_size(elements), _ELEMENT_BYTES * len(elements))
    if types.is_struct(array.type):
        return len(array) + sum(map(_size, array.flatten()))
    return int(array.nbytes)


# ---------------------------------------------------------------------------------- types


def normalised(array: pa.Array) -> pa.Array:
    """``array`` without dictionaries, views, large and extension types. 16 fixed bytes become the text of a UUID."""
    if isinstance(array.type, pa.BaseExtensionType):
        return normalised(array.storage)
    if types.is_dictionary(array.type):
        return normalised(array.dictionary_decode())
    if types.is_fixed_size_binary(array.type) and array.type.byte_width == 16:
        texts = [None if raw is None else str(UUID(bytes=raw)) for raw in array.to_pylist()]
        return pa.array(texts, pa.string())
    target = normal_type(array.type)
    return array if target == array.type else array.cast(target)


def normal_type(given: pa.DataType) -> pa.DataType:
    """The type of the result of :func:`normalised`. Inside nested types, 16 fixed bytes stay binary."""
    if isinstance(given, pa.BaseExtensionType):
        return normal_type(given.storage_type)
    if types.is_dictionary(given):
        return normal_type(given.value_type)
    if types.is_large_string(given) or types.is_string_view(given):
        return pa.string()
    if types.is_large_binary(given) or types.is_binary_view(given) or types.is_fixed_size_binary(given):
        return pa.binary()
    if _is_list(given):
        return pa.list_(normal_type(given.value_type))
    if types.is_struct(given):
        return pa.struct([pa.field(field.name, normal_type(field.type)) for field in given])
    if types.is_map(given):
        return pa.map_(normal_type(given.key_type), normal_type(given.item_type))
    if types.is_float16(given):
        return pa.float32()  # exact
    return given


def _is_list(given: pa.DataType) -> bool:
    """Lists of each of the five kinds, without maps."""
    kinds = (
        types.is_list,
        types.is_large_list,
        types.is_fixed_size_list,
        types.is_list_view,
        types.is_large_list_view,
    )
    return any(is_kind(given) for is_kind in kinds)


def _reject_type(field: pa.Field) -> None:
    """Raise _Refused for an unknown extension type, ValueError for a damaged time zone, also deep in a column."""
    if not all(map(_has_readable_zone, _with_parts(field))):
        raise ValueError(f"the time zone of the column {field.name!r} is no text")
    if found := next(filter(None, map(_extension_of, _with_parts(field))), None):
        raise _Refused(
            f"the column {field.name!r} has the extension type {found!r}, which is not read. "
            "Write it as plain text, numbers or bytes"
        )


def _with_parts(field: pa.Field) -> Iterable[pa.Field]:
    yield field
    given = field.type.storage_type if isinstance(field.type, pa.BaseExtensionType) else field.type
    if types.is_dictionary(given):
        yield from _with_parts(pa.field(field.name, given.value_type))
    elif _is_list(given):
        yield from _with_parts(given.value_field)
    elif types.is_map(given):
        yield from chain(_with_parts(given.key_field), _with_parts(given.item_field))
    elif types.is_struct(given):
        yield from chain.from_iterable(map(_with_parts, given))


def _has_readable_zone(field: pa.Field) -> bool:
    try:
        return not types.is_timestamp(field.type) or field.type.tz is None or bool(field.type.tz)
    except UnicodeDecodeError:
        return False


def _extension_of(field: pa.Field) -> str | None:
    """The name of an extension type that is not known to be harmless, registered or not."""
    named = (field.metadata or {}).get(b"ARROW:extension:name", b"").decode("utf-8", "replace")
    name = field.type.extension_name if isinstance(field.type, pa.BaseExtensionType) else named
    return None if not name or name in _HARMLESS else str(name)


if __name__ == "__main__":
    main()
