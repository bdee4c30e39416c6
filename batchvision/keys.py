"""The hashes that decide what is done already. Pure; their values never change with an upgrade.

Every key is a 128-bit BLAKE2b in 32 hex digits over length-prefixed parts, so that no two different lists of parts
have the same bytes. Golden vectors in the tests hold them still.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from batchvision.records import ImageSlot, Payload, Prompt

KEY_BYTES = 16


def _framed(parts: Iterable[str]) -> bytes:
    framed: list[bytes] = []
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        framed += (b"%d:" % len(raw), raw)
    return b"".join(framed)


@lru_cache(maxsize=8)  # most jobs ask the same of every image
def _start(kind: str, recipe: str, text: str) -> bytes:
    return _framed((kind, recipe, text))


def _hexdigest(framed: bytes) -> str:
    return blake2b(framed, digest_size=KEY_BYTES).hexdigest()


def canonical_json(document: Any) -> str:
    """``document`` as JSON with sorted keys and no spaces: equal documents have equal text."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def recipe_id(document: Mapping[str, Any]) -> str:
    """The hash of everything in a job that decides its answers."""
    return _hexdigest(_framed(["recipe-1", canonical_json(document)]))


def request_key(recipe: str, text: str, image_identities: Iterable[str]) -> str:
    """What is asked for one row: the recipe, the rendered text and the identities of its images, in order."""
    return _hexdigest(_start("request-1", recipe, text) + _framed(image_identities))


def slot_text(name: str) -> str:
    """An image slot as keys hash it, in the form of version 1. No text of a prompt holds a NUL."""
    return f"\x00{name}\x00"


def hashed_text(prompt: Prompt) -> str:
    """A prompt as keys hash it, in the form of version 1."""
    return "".join([part if isinstance(part, str) else slot_text(part.name) for part in prompt])


def request_key_of(recipe: str, prompt: Prompt, payloads: Sequence[Payload]) -> str:
    """The request_key of a prompt with its images. Columns count where the prompt places images by column."""
    is_placed_by_column = any(isinstance(part, ImageSlot) and part.name for part in prompt)
    identities = [
        text for each in payloads for text in ((each.slot, each.identity) if is_placed_by_column else (each.identity,))
    ]
    return request_key(recipe, hashed_text(prompt), identities)


def skip_key(recipe: str, text: str, image_stamps: Iterable[str]) -> str:
    """As :func:`request_key`, but with what is cheap to know of an image (path, size, mtime) for its content."""
    return _hexdigest(_start("skip-1", recipe, text) + _framed(image_stamps))


def key_bytes(key: str) -> bytes:
    """A request_key or skip_key as the 16 bytes that its 32 hex digits say; any other text by its hash."""
    try:
        raw = bytes.fromhex(key)
    except ValueError:
        raw = b""
    if len(raw) == KEY_BYTES:
        return raw
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def row_digest(row_id: str, key: str) -> bytes:
    """A row_id, alone or with one of its keys, in 16 bytes: rows are told apart in memory by it."""
    return blake2b(f"{len(row_id)}:{row_id}{key}".encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def digests_after(head: bytes, texts: Iterable[bytes]) -> bytes:
    """The 16-byte hash of ``head`` and each text behind it, one behind the other: ``head`` is hashed once."""
    begun, found = blake2b(head, digest_size=KEY_BYTES), []
    for text in texts:
        whole = begun.copy()
        whole.update(text)
        found.append(whole.digest())
    return b"".join(found)
