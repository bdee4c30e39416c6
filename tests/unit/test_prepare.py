"""A row becomes a request: keys from what is asked, messages with its images, a fault where an image is bad."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import pytest
from PIL import Image

from batchvision import keys
from batchvision.errors import ImageUnreachable, ImageUnreadable, RowInvalid
from batchvision.images import ImageFolder, ImageSettings, ImageSource
from batchvision.money import Estimator
from batchvision.prompt import Conversation
from batchvision.records import ImageKind, ImagePreparation, ImageRef, ImageSlot, Payload, Prompt, Recipe, Request, Row
from batchvision.runner.prepare import Preparer
from batchvision.ticks import Prices

pytestmark = pytest.mark.anyio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

SIGNED = "https://images.example.com/a.png?w=1&X-Amz-Signature=canary5164cafe"
RECIPE = Recipe("xai", "grok-4.3", None, "What is it?", None, {"max_tokens": 100}, recipe_id="recipe")


def drawn(color: str) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (32, 16), color).save(target, "PNG")
    return target.getvalue()


class Fetcher:
    """Has one image, or none, for every URL."""

    def __init__(self, content: bytes | None = None) -> None:
        self.content = content

    async def fetch(self, url: str, max_bytes: int, reserve: Any = None) -> bytes:
        if self.content is None:
            raise ImageUnreachable("nobody there")
        return self.content


async def here(work: Callable[[*Ts], T], /, *args: *Ts) -> T:
    return work(*args)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("red", "blue"):
        (tmp_path / f"{name}.png").write_bytes(drawn(name))
    (tmp_path / "torn.png").write_bytes(drawn("red")[:30])
    return tmp_path


def preparer(root: Path, *, fetcher: Fetcher | None = None, image_mode: str = "auto", **settings: Any) -> Preparer:
    chosen = ImageSettings(ImagePreparation(), image_mode, allow_private_hosts=True)
    images = ImageSource(ImageFolder(root), chosen, fetch=fetcher or Fetcher(), offload=here)
    return Preparer(
        "recipe",
        Conversation(RECIPE),
        images,
        Estimator(RECIPE, Prices(10_000_000, 10_000_000, 100_000_000)),
        **settings,
    )


def row(
    *references: str, prompt: Prompt = ("What is it?",), slots: tuple[str, ...] = ("image",) * 9, **changes: Any
) -> Row:
    images = tuple(
        ImageRef(ImageKind.URL if reference.startswith("https:") else ImageKind.PATH, reference, slot)
        for reference, slot in zip(references, slots, strict=False)
    )
    settings: dict[str, Any] = {"position": 1, "row_id": "a", "prompt": prompt, "images": images, "keep": ("thing",)}
    return Row(**{**settings, "skip_key": "skip", **changes})


def parts_of(request: Request) -> list[dict[str, Any]]:
    (turn,) = json.loads(request.messages)
    parts: list[dict[str, Any]] = turn["content"]
    return parts


# ---------------------------------------------------------------------------------- keys


async def test_a_request_carries_its_row_and_the_keys_of_what_is_asked(photos: Path) -> None:
    request = await preparer(photos).prepare(row("red.png"))
    assert (request.row_id, request.skip_key, request.keep) == ("a", "skip", ("thing",))
    (digest,) = request.image_sha256
    payload = Payload(f"sha256:{digest}", "red.png", "", digest)
    assert request.request_key == keys.request_key_of("recipe", ("What is it?",), [payload])
    assert request.image_ref == ("red.png",)
    assert [part["type"] for part in parts_of(request)] == ["text", "image_url"]


async def test_the_same_content_under_another_name_is_the_same_request(photos: Path) -> None:
    (photos / "copy.png").write_bytes((photos / "red.png").read_bytes())
    mine = preparer(photos)
    red, copy, blue = [await mine.prepare(row(name, row_id=name)) for name in ("red.png", "copy.png", "blue.png")]
    assert red.request_key == copy.request_key != blue.request_key
    assert red.image_ref != copy.image_ref


@pytest.mark.parametrize("other", [row("red.png", prompt=("And now?",)), row("red.png", "red.png"), row()])
async def test_another_text_or_other_images_are_another_request(photos: Path, other: Row) -> None:
    mine = preparer(photos)
    assert (await mine.prepare(row("red.png"))).request_key != (await mine.prepare(other)).request_key


async def test_images_in_other_order_are_another_request(photos: Path) -> None:
    mine = preparer(photos)
    one, other = await mine.prepare(row("red.png", "blue.png")), await mine.prepare(row("blue.png", "red.png"))
    assert one.request_key != other.request_key
    assert one.image_sha256 == other.image_sha256[::-1]


async def test_which_column_an_image_is_from_counts_where_the_prompt_places_it_by_column(photos: Path) -> None:
    mine, placed = preparer(photos), (ImageSlot("front"), " and ", ImageSlot("back"))
    front = row("red.png", "blue.png", prompt=placed, slots=("front", "back"))
    back = row("red.png", "blue.png", prompt=placed, slots=("back", "front"))
    assert (await mine.prepare(front)).request_key != (await mine.prepare(back)).request_key
    front, back = (row("red.png", slots=(slot,)) for slot in ("front", "back"))
    assert (await mine.prepare(front)).request_key == (await mine.prepare(back)).request_key


# ---------------------------------------------------------------------------------- images


async def test_a_bad_image_fails_its_row_or_is_left_out_as_the_job_says(photos: Path) -> None:
    torn = row("torn.png", "blue.png")
    with pytest.raises(ImageUnreadable, match=r"image 1 of 2, torn\.png: truncated PNG"):
        await preparer(photos).prepare(torn)
    request = await preparer(photos, skip_bad_images=True).prepare(torn)
    assert request.image_ref == ("blue.png",)
    assert request.request_key == (await preparer(photos).prepare(row("blue.png"))).request_key


async def test_a_row_of_nothing_but_bad_images_fails_by_the_first(photos: Path) -> None:
    with pytest.raises(ImageUnreadable, match="truncated PNG"):
        await preparer(photos, skip_bad_images=True).prepare(row("torn.png", "missing.png"))


async def test_a_row_with_a_problem_is_invalid_before_anything_is_read(photos: Path) -> None:
    with pytest.raises(RowInvalid, match="no id"):
        await preparer(photos).prepare(row("missing.png", problem="it has no id"))


async def test_a_url_is_handed_over_and_its_signature_known_as_a_secret(photos: Path) -> None:
    request = await preparer(photos).prepare(row(SIGNED))
    assert request.has_urls
    assert parts_of(request)[1]["image_url"]["url"] == SIGNED
    assert request.image_sha256 == (None,)
    assert "canary5164cafe" not in str(request.image_ref)
    assert [secret.reveal() for secret in request.credentials] == ["canary5164cafe"]


async def test_inlining_its_url_changes_neither_key_nor_reference(photos: Path) -> None:
    mine = preparer(photos, fetcher=Fetcher(drawn("red")))
    asked = await mine.prepare(row(SIGNED))
    inlined = await mine.inlined(row(SIGNED), asked)
    assert (inlined.request_key, inlined.image_ref) == (asked.request_key, asked.image_ref)
    assert parts_of(inlined)[1]["image_url"]["url"].startswith("data:image/png;base64,")
    assert not inlined.has_urls
    assert inlined.image_sha256 != (None,)


async def test_where_the_job_hands_over_every_url_none_is_left_to_inline(photos: Path) -> None:
    assert not (await preparer(photos, may_inline_urls=False).prepare(row(SIGNED))).has_urls


async def test_a_url_that_cannot_be_downloaded_fails_its_row(photos: Path) -> None:
    mine = preparer(photos, image_mode="inline")
    with pytest.raises(ImageUnreachable):
        await mine.prepare(row(SIGNED))


# ---------------------------------------------------------------------------------- sizes


async def test_the_size_of_its_images_is_known_without_reading_them(photos: Path) -> None:
    size = (photos / "red.png").stat().st_size
    several = row("red.png", "red.png", "missing.png", SIGNED)
    assert await preparer(photos).images.size_bytes(several.images) == 2 * size
    assert await preparer(photos).images.size_bytes(row().images) == 0


async def test_only_a_job_that_raises_max_tokens_has_a_second_and_larger_bound(photos: Path) -> None:
    plain = await preparer(photos).prepare(row("red.png"))
    raised = await preparer(photos, raised_max_tokens=400).prepare(row("red.png"))
    assert plain.raised_estimate is None
    assert raised.raised_estimate is not None
    assert plain.estimate == raised.estimate
    assert plain.estimate.bound_ticks is not None
    assert raised.raised_estimate.bound_ticks == plain.estimate.bound_ticks + 300 * 100
