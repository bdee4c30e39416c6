"""Images in object stores: downloaded with many requests at once, or signed for the provider."""

from __future__ import annotations

import anyio

from batchvision.errors import ImageTooLarge, ImageUnreachable, ImageUnreadable, JobInvalid
from batchvision.images.source import ReserveBytes
from batchvision.object_store import ObjectMissing, ObjectUnreachable, get_object, signed_url

#: Downloads at once.
CONNECTIONS = 64
#: Life of a signature. A request may wait that long for its permit. Stores allow at most seven days.
SIGNED_SECONDS = 6 * 3600.0


class ObjectImages:
    """Each failure is a fault of the row that names the object."""

    def __init__(self) -> None:
        self._connections = anyio.CapacityLimiter(CONNECTIONS)

    async def fetch(self, url: str, max_bytes: int, reserve: ReserveBytes | None = None) -> bytes:
        """Raises ImageUnreadable (missing), ImageTooLarge, or ImageUnreachable."""
        async with self._connections:
            try:
                content = await get_object(url, max_bytes, reserve)
            except ObjectMissing:
                raise ImageUnreadable(f"no such object: {url}") from None
            except (ObjectUnreachable, JobInvalid) as fault:
                raise ImageUnreachable(f"{url}: the store refused or did not answer: {fault}") from fault
        if content is None:
            raise ImageTooLarge(f"{url} has more than {max_bytes:,} bytes: scale it down")
        return content

    async def sign(self, url: str) -> str:
        """Raises ImageUnreachable where these credentials cannot sign."""
        try:
            return signed_url(url, SIGNED_SECONDS)
        except (ObjectUnreachable, JobInvalid) as fault:
            raise ImageUnreachable(
                f'{url} cannot be signed ({fault}): use keys that can, or set provider.image_mode = "inline"'
            ) from fault
