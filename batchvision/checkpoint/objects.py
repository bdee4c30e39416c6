"""The objects of an output below one URL. Each write names the version that it replaces.

An operation is tried again while the store is away, for at most ``PATIENCE_SECONDS``. Then it raises StoreFault.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, TypeVar

import obstore
from obstore import exceptions as refusals

from batchvision.checkpoint.storage import StoreFault
from batchvision.object_store import open_store, reason

T = TypeVar("T")

#: An operation is tried again for so long. It is shorter than the time for which a lock is certain.
PATIENCE_SECONDS = 45.0
_FIRST_WAIT_SECONDS = 0.2
_LONGEST_WAIT_SECONDS = 5.0
_CHANGED = (refusals.AlreadyExistsError, refusals.PreconditionError, refusals.NotModifiedError)
#: The store is away, or has too much to do.
_PASSING = (refusals.GenericError, refusals.JoinError)
#: A missing bucket and a wrong region arrive as generic errors too. Their status is in the text only.
_FINAL = re.compile(r"status code: 4(?!08|29)\d\d")


class ObjectChanged(Exception):
    """The object is not the version that a write names: another writer was faster."""


class Version(NamedTuple):
    """The version of an object. Each store uses one of the two, or both."""

    e_tag: str | None
    version: str | None


class ListedObject(NamedTuple):
    key: str
    size_bytes: int
    version: Version
    modified_at: datetime  #: by the store's clock


class StoredObject(NamedTuple):
    content: bytes
    version: Version
    modified_at: datetime  #: by the store's clock


class ObjectFolder:
    """Keys are relative to the URL. Methods may be called from several threads. They raise StoreFault."""

    def __init__(self, url: str, store: Any) -> None:
        self.url = url.rstrip("/")
        self._store = store
        #: called before each try of a write: raises where the caller may no longer write
        self.check_write: Callable[[], None] = lambda: None

    @classmethod
    def at(cls, url: str) -> ObjectFolder:
        """The folder at a URL, with the usual variables of the environment (``AWS_ENDPOINT_URL`` ...)."""
        return cls(url, open_store(url, retries=1))  # ``_tried`` does the others

    def list(self, prefix: str = "") -> list[ListedObject]:
        def listed() -> list[ListedObject]:
            found = obstore.list(self._store, prefix or None).collect()
            return [ListedObject(each["path"], each["size"], _version(each), each["last_modified"]) for each in found]

        return self._tried("list", prefix, listed)

    def get(self, key: str) -> StoredObject | None:
        """An object. A missing one has ``None``."""

        def got() -> StoredObject | None:
            try:
                found = obstore.get(self._store, key)
                return StoredObject(bytes(found.bytes()), _version(found.meta), found.meta["last_modified"])
            except (refusals.NotFoundError, FileNotFoundError):
                return None

        return self._tried("read", key, got)

    def put(self, key: str, content: bytes, expected: Version | None) -> Version:
        """Replace the version ``expected`` of an object, or make a new one (``None``). Raises ObjectChanged.

        An object that already has this content is fine: an earlier try may have written it.
        """
        mode: Any = "create" if expected is None else {k: v for k, v in expected._asdict().items() if v is not None}

        def put() -> Version:
            self.check_write()
            try:
                return _version(obstore.put(self._store, key, content, mode=mode, use_multipart=False))
            except _CHANGED as changed:
                found = self.get(key)
                if found is not None and found.content == content:
                    return found.version
                raise ObjectChanged(key) from changed

        return self._tried("write", key, put)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects. Missing ones are fine."""

        def delete(key: str) -> None:
            self.check_write()
            obstore.delete(self._store, key)

        for key in keys:
            self._tried("delete", key, partial(delete, key))

    def prove(self) -> None:
        """Write, replace, read and delete an object, as a run does. Raises StoreFault with the step that fails."""
        key, content = f".batchvision/check-{secrets.token_hex(8)}", [b"first", b"second", b"third"]
        first = self.put(key, content[0], None)
        self.put(key, content[1], first)
        try:
            self.put(key, content[2], first)
        except ObjectChanged:
            found = self.get(key)
        else:
            raise StoreFault(f"{self.url} takes no conditional writes (If-Match): two runs could write at once")
        if found is None or found.content != content[1]:
            raise StoreFault(f"{self.url} does not give back what was written")
        self.delete([key])

    def _tried(self, doing: str, key: str, operation: Callable[[], T]) -> T:
        until, wait = time.monotonic() + PATIENCE_SECONDS, _FIRST_WAIT_SECONDS
        while True:
            try:
                return operation()
            except _PASSING as fault:
                if _FINAL.search(str(fault)):
                    raise self._refused(doing, key, fault) from fault
                if time.monotonic() + wait > until:
                    what = f"{self.url} did not {doing} {key or 'its objects'} for {PATIENCE_SECONDS:g} s"
                    raise StoreFault(f"{what} ({reason(fault)})") from fault
            except StoreFault:
                raise
            except (refusals.BaseError, OSError) as fault:  # a missing bucket, no right
                raise self._refused(doing, key, fault) from fault
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)

    def _refused(self, doing: str, key: str, fault: Exception) -> StoreFault:
        return StoreFault(f"{self.url} refused to {doing} {key or 'its objects'} ({reason(fault)})")


def _version(found: Any) -> Version:
    return Version(found.get("e_tag"), found.get("version"))
