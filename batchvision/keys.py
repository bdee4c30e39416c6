"""The hashes that identify recipes, requests and rows. Pure; their values never change with an upgrade.

Every key is a 128-bit BLAKE2b in 32 hex digits over length-prefixed parts, so that different lists of parts never have
the same bytes. Golden vectors in the tests hold the values.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from batchvision.records import ImageSlot, Payload, Prompt

KEY_BYTES = 16


def _hash(*parts: str) -> str:
    framed: list[bytes] = []
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        framed += (b"%d:" % len(raw), raw)
    return blake2b(b"".join(framed), digest_size=KEY_BYTES).hexdigest()


def canonical_json(document: Any) -> str:
    """``document`` as JSON with sorted keys and no spaces: equal documents have equal text."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def recipe_id(document: Mapping[str, Any]) -> str:
    """The hash of a recipe document: everything in a job that decides its answers."""
    return _hash("recipe-1", canonical_json(document))


def slot_text(name: str) -> str:
    """An image slot as keys hash it, in the form of version 1. No text of a prompt holds a NUL."""
    return f"\x00{name}\x00"


def hashed_text(prompt: Prompt) -> str:
    """A prompt as keys hash it, in the form of version 1."""
    return "".join([part if isinstance(part, str) else slot_text(part.name) for part in prompt])


def request_key_of(recipe: str, prompt: Prompt, payloads: Sequence[Payload]) -> str:
    """The hash of a request: recipe, prompt, and the identities of the images in order.

    Columns count where the prompt places images by column.
    """
    is_placed_by_column = any(isinstance(part, ImageSlot) and part.name for part in prompt)
    identities = [
        text for each in payloads for text in ((each.slot, each.identity) if is_placed_by_column else (each.identity,))
    ]
    return _hash("request-1", recipe, hashed_text(prompt), *identities)


def skip_key(recipe: str, text: str, image_stamps: Iterable[str]) -> str:
    """As :func:`request_key_of`, with cheap facts of an image (path, size, mtime) in place of its content."""
    return _hash("skip-1", recipe, text, *image_stamps)


def key_bytes(key: str) -> bytes:
    """The 16 bytes of a request_key or skip_key; the hash of any other text."""
    try:
        raw = bytes.fromhex(key)
    except ValueError:
        raw = b""
    if len(raw) == KEY_BYTES:
        return raw
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def row_digest(row_id: str, key: str) -> bytes:
    """The hash of a row_id, alone or with one of its keys, in 16 bytes; identifies rows in memory."""
    return blake2b(f"{len(row_id)}:{row_id}{key}".encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def digests_after(head: bytes, texts: Iterable[bytes]) -> bytes:
    """The 16-byte hashes of ``head`` followed by each text, concatenated. ``head`` is hashed once."""
    begun, found = blake2b(head, digest_size=KEY_BYTES), []
    for text in texts:
        whole = begun.copy()
        whole.update(text)
        found.append(whole.digest())
    return b"".join(found)
