"""Row -> Request: images read and checked, keys from their content, messages as bytes; RowFault for a bad row."""

from __future__ import annotations

from typing import Protocol

from batchvision import keys
from batchvision.errors import RowFault, RowInvalid
from batchvision.images import ImageSource, redact_reference
from batchvision.money import Estimator
from batchvision.prompt import Conversation
from batchvision.records import Estimate, ImageRef, Payload, Request, Row
from batchvision.secrets import url_credentials

#: An image's name takes at most so many characters of a message.
_MOST_SHOWN = 100


class Preparer:
    """Makes requests of rows.

    ``skip_bad_images``: an image that cannot be used is left out, not the row. ``may_inline_urls``: an image URL that
    the provider cannot download may be downloaded here. ``raised_max_tokens``: of the one retry of a truncated answer.
    """

    def __init__(
        self,
        recipe_id: str,
        conversation: Conversation,
        images: ImageSource,
        estimator: Estimator,
        *,
        skip_bad_images: bool = False,
        may_inline_urls: bool = True,
        raised_max_tokens: int | None = None,
    ) -> None:
        self._recipe_id = recipe_id
        self._conversation = conversation
        self._images = images
        self._estimator = estimator
        self._skip_bad_images = skip_bad_images
        self._may_inline_urls = may_inline_urls
        self._raised_max_tokens = raised_max_tokens

    async def weight_bytes(self, row: Row) -> int:
        """About how much memory the row's images take until their request has ended: base64 in the messages, and once
        more in the body while it leaves."""
        return await self._images.size_bytes(row.images) * 8 // 3

    async def prepare(self, row: Row, *, inline: bool = False) -> Request:
        """The request of ``row``; ``inline``: image URLs are downloaded here instead of handed over.

        The request_key of a row stays the same when its URLs are inlined: the same thing is asked, by other means.
        """
        if row.problem is not None:
            raise RowInvalid(row.problem)
        payloads = await payloads_of(self._images, row, inline=inline, skip_bad_images=self._skip_bad_images)
        messages = self._conversation.messages(row.prompt, payloads)
        urls = [payload.url for payload in payloads if payload.url]
        return Request(
            row_id=row.row_id,
            request_key=keys.request_key_of(self._recipe_id, row.prompt, payloads),
            skip_key=row.skip_key,
            messages=messages,
            image_ref=tuple([payload.reference for payload in payloads]),
            image_sha256=tuple([payload.sha256 for payload in payloads]),
            keep=row.keep,
            estimate=self._estimate(row, payloads, len(messages)),
            has_urls=self._may_inline_urls and bool(urls),
            credentials=tuple(secret for url in urls for secret in url_credentials(url)),
            raised_estimate=None
            if self._raised_max_tokens is None
            else self._estimate(row, payloads, len(messages), self._raised_max_tokens),
        )

    async def inlined(self, row: Row, request: Request) -> Request:
        """``request`` again, with its image URLs downloaded here; keys and references stay."""
        inlined = await self.prepare(row, inline=True)
        return inlined._replace(request_key=request.request_key, image_ref=request.image_ref)

    def _estimate(
        self, row: Row, payloads: list[Payload], messages_bytes: int, max_tokens: int | None = None
    ) -> Estimate:
        sizes = [size for payload in payloads for size in payload.sizes()]
        return self._estimator.estimate(len(keys.hashed_text(row.prompt)), sizes, messages_bytes, max_tokens)


class PayloadSource(Protocol):
    async def payload(self, ref: ImageRef, inline: bool = False) -> Payload: ...


async def payloads_of(
    images: PayloadSource, row: Row, *, inline: bool = False, skip_bad_images: bool = False
) -> list[Payload]:
    """The images of ``row`` that are sent, in order; their identities make its request_key. Raises RowFault."""
    payloads: list[Payload] = []
    first_fault: RowFault | None = None
    for place, ref in enumerate(row.images):
        try:
            payloads.append(await images.payload(ref, inline=inline))
        except RowFault as fault:
            first_fault = first_fault or _of_one_image(fault, row, place)
            if not skip_bad_images:
                raise first_fault from None
    if not payloads and first_fault is not None:
        raise first_fault
    return payloads


def _of_one_image(fault: RowFault, row: Row, place: int) -> RowFault:
    """The fault; in a row of several images, also which one has it."""
    if len(row.images) == 1:
        return fault
    shown = redact_reference(row.images[place])[:_MOST_SHOWN]
    return type(fault)(f"image {place + 1} of {len(row.images)}, {shown}: {fault}")
