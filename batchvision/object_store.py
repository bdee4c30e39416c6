"""Read objects at ``s3://``, ``gs://`` and ``az://`` URLs with obstore. Credentials come from the usual environment.

obstore is an extra: it is imported when a store is opened. A key is taken as it stands: no part of it is decoded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple

from batchvision.errors import JobInvalid

OBJECT_STORES = ("s3://", "gs://", "az://")
#: The deadline of one try. A write that began under a certain lock of an output ends before the lock expires.
REQUEST_SECONDS = 45
_CHUNK_BYTES = 4 * 1024 * 1024


class ObjectMissing(Exception):
    """There is no object of this name."""


class ObjectUnreachable(Exception):
    """The store refused, or gave no answer. The message is the store's reason."""


class ObjectUrl(NamedTuple):
    """``bucket``: such as ``s3://photos``. ``key`` has no slash at its start."""

    bucket: str
    key: str

    @classmethod
    def of(cls, url: str) -> ObjectUrl:
        scheme, _, rest = url.partition("://")
        bucket, _, key = rest.partition("/")
        return cls(f"{scheme}://{bucket}", key)


class ObjectFacts(NamedTuple):
    key: str
    size_bytes: int
    modified_at: datetime


def is_object_url(text: str) -> bool:
    return text.startswith(OBJECT_STORES)


def open_store(url: str, *, retries: int = 3) -> Any:
    """An obstore store for a URL, which may end in a prefix. ``retries``: of obstore itself, for errors that pass.

    Raises JobInvalid for a missing extra, and for a URL or an environment that cannot be used.
    """
    try:
        import obstore
        from obstore import exceptions
    except ModuleNotFoundError as missing:
        raise JobInvalid(f"{url} needs the extra s3: pip install 'batchvision[s3]'") from missing
    client: Any = {
        "timeout": f"{REQUEST_SECONDS}s",
        "connect_timeout": "10s",
        "allow_http": os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"),
    }
    retry: Any = {"max_retries": retries, "retry_timeout": timedelta(seconds=10 * retries)}
    try:
        return obstore.store.from_url(url, client_options=client, retry_config=retry)
    except (exceptions.BaseError, ValueError) as fault:
        raise JobInvalid(f"{url} cannot be opened: {reason(fault)}") from fault


def _bucket(url: str) -> Any:
    return _opened(url, os.environ.get("AWS_ENDPOINT_URL"))


@lru_cache(maxsize=64)
def _opened(url: str, endpoint: str | None) -> Any:
    """``endpoint``: another endpoint is another store."""
    return open_store(url)


async def get_object(url: str, max_bytes: int, reserve: Callable[[int], Awaitable[None]] | None = None) -> bytes | None:
    """The content of an object; ``None`` where it has more than ``max_bytes``. ``reserve`` is awaited with its size.

    Raises ObjectMissing, ObjectUnreachable, JobInvalid.
    """
    place = ObjectUrl.of(url)
    store = _bucket(place.bucket)
    import obstore

    with _faults():
        found = await obstore.get_async(store, place.key)
        size_bytes = found.meta["size"]
        if size_bytes > max_bytes:
            return None
        if reserve is not None:
            await reserve(size_bytes)
        return bytes(await found.bytes_async())


def fetch_object(url: str, file: BinaryIO) -> ObjectFacts:
    """Write an object into a file, piece by piece. Blocking. Raises ObjectMissing, ObjectUnreachable, JobInvalid."""
    place = ObjectUrl.of(url)
    store = _bucket(place.bucket)
    import obstore

    with _faults():
        found = obstore.get(store, place.key)
        for chunk in found.stream(min_chunk_size=_CHUNK_BYTES):
            file.write(chunk)
        return ObjectFacts(place.key, found.meta["size"], found.meta["last_modified"])


def list_objects(url: str) -> Iterator[ObjectFacts]:
    """The objects below a URL that ends in a slash, in the order of their keys. Blocking. Raises ObjectUnreachable."""
    place = ObjectUrl.of(url)
    store = _bucket(place.bucket)
    import obstore

    with _faults():
        for batch in obstore.list(store, place.key or None):
            yield from (ObjectFacts(each["path"], each["size"], each["last_modified"]) for each in batch)


def signed_url(url: str, seconds: float) -> str:
    """A URL under which anyone can read the object for so long. Raises ObjectUnreachable without such credentials."""
    place = ObjectUrl.of(url)
    store = _bucket(place.bucket)
    import obstore

    with _faults():
        return str(obstore.sign(store, "GET", place.key, timedelta(seconds=seconds)))


@contextmanager
def _faults() -> Iterator[None]:
    from obstore import exceptions

    try:
        yield
    except (exceptions.NotFoundError, FileNotFoundError) as fault:
        if "NoSuchBucket" in str(fault):
            raise ObjectUnreachable("NoSuchBucket") from fault
        raise ObjectMissing from fault
    except (exceptions.BaseError, OSError) as fault:
        raise ObjectUnreachable(reason(fault)) from fault


def reason(fault: Exception) -> str:
    """The store's error code, or the first line of obstore's message, which ends in debug output."""
    text = str(fault).strip()
    if code := re.search(r"<Code>(\w+)</Code>", text):
        return code[1]
    return (text.splitlines() or [type(fault).__name__])[0][:300]
