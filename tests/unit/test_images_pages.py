"""Files with several pages, frames or channels: which are sent, and that it is said once which are not."""

from __future__ import annotations

import io
import json
import logging
import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from batchvision.errors import ImageTooLarge, ImageUnreadable
from batchvision.images import DecodingPool, ImageFolder, ImageSettings, ImageSource, LeastSize, prepare_bytes
from batchvision.prompt import Conversation
from batchvision.records import ImageKind, ImagePreparation, ImageRef, ImageSlot, Payload, Recipe

COLOURS = ("red", "lime", "blue")
SEEN = {"red": (254, 0, 0), "lime": (0, 255, 1), "blue": (0, 0, 254)}


def pages(image_format: str, colours: tuple[str, ...] = COLOURS, **options: Any) -> bytes:
    first, *others = [Image.new("RGB", (40, 30), colour) for colour in colours]
    target = io.BytesIO()
    first.save(target, image_format, save_all=True, append_images=others, **options)
    return target.getvalue()


TIFF = pages("TIFF")


def colour_of(content: bytes) -> str:
    pixel = Image.open(io.BytesIO(content)).convert("RGB").getpixel((20, 15))
    assert isinstance(pixel, tuple)
    return min(SEEN, key=lambda name: sum(abs(a - b) for a, b in zip(SEEN[name], pixel, strict=True)))


@pytest.mark.parametrize("image_format", ["TIFF", "GIF", "WEBP", "PNG", "AVIF"])
@pytest.mark.parametrize(("page", "colour"), [("first", "red"), (1, "red"), (2, "lime"), (3, "blue")])
def test_the_page_that_is_named_is_sent(image_format: str, page: str | int, colour: str) -> None:
    ready = prepare_bytes(pages(image_format), ImagePreparation(page=page))
    assert (ready.media_type, ready.pages, ready.more) == ("image/jpeg", 3, ())
    assert colour_of(ready.content) == colour


@pytest.mark.parametrize("image_format", ["TIFF", "GIF", "WEBP", "PNG", "AVIF"])
def test_all_pages_are_sent_in_their_order(image_format: str) -> None:
    with DecodingPool(1) as pool:
        ready = prepare_bytes(pages(image_format), ImagePreparation(page="all"), pool.convert)
    sent = [ready.content, *(page.inline for page in ready.more)]
    assert [colour_of(content) for content in sent] == list(COLOURS)
    assert all((page.width, page.height) == (40, 30) for page in ready.more)


@pytest.mark.parametrize("page", ["first", "all", 2, 7])
def test_a_file_of_one_page_is_sent_for_each_setting_of_page(page: str | int) -> None:
    for image_format in ("PNG", "TIFF", "WEBP", "GIF"):
        ready = prepare_bytes(pages(image_format, ("lime",)), ImagePreparation(page=page))
        assert (colour_of(ready.content), ready.pages, ready.more) == ("lime", 1, ())


def test_a_page_that_is_not_there_fails_the_row_with_the_count() -> None:
    with pytest.raises(ImageUnreadable, match=r"it has 3 pages, but images\.page asks for page 4"):
        prepare_bytes(TIFF, ImagePreparation(page=4))


def test_pages_are_held_together_to_the_bytes_and_the_number_of_one_image() -> None:
    with pytest.raises(ImageTooLarge, match=r"3 pages together .* images\.max_side"):
        prepare_bytes(TIFF, ImagePreparation(page="all", max_bytes=1500))
    many = pages("GIF", COLOURS * 40)
    with pytest.raises(ImageTooLarge, match=r"120 pages .* name one page"):
        prepare_bytes(many, ImagePreparation(page="all"))
    assert prepare_bytes(many, ImagePreparation()).pages == 120


def test_directories_that_lead_in_a_circle_end_the_count() -> None:
    """The last directory names the first as the next one."""
    (first,) = struct.unpack_from("<I", TIFF, 4)
    at = first
    while True:
        (entries,) = struct.unpack_from("<H", TIFF, at)
        link = at + 2 + 12 * entries
        (at,) = struct.unpack_from("<I", TIFF, link)
        if not at:
            break
    circle = TIFF[:link] + struct.pack("<I", first) + TIFF[link + 4 :]
    ready = prepare_bytes(circle, ImagePreparation())
    assert (colour_of(ready.content), ready.pages) == ("red", 3)


@pytest.mark.parametrize("image_format", ["TIFF", "GIF"])
def test_damage_behind_the_first_page_is_no_fault_of_it(image_format: str) -> None:
    content = pages(image_format)
    ready = prepare_bytes(content[: len(content) * 3 // 4], ImagePreparation())
    assert colour_of(ready.content) == "red"


# ---------------------------------------------------------------------------------- a run's source


def ref(content: bytes, path: str = "") -> ImageRef:
    return ImageRef(ImageKind.BYTES, path, "image", content)


@pytest.mark.anyio
async def test_unsent_pages_are_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = ImageSource(ImageFolder(tmp_path), ImageSettings(ImagePreparation()))
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            await source.payload(ref(TIFF, f"scan{number}.tif"))
    (record,) = caplog.records
    assert record.getMessage().startswith("scan0.tif has 3 pages or frames, of which the first is sent")
    assert "images.page" in record.getMessage()


@pytest.mark.anyio
@pytest.mark.parametrize("page", ["all", 2])
async def test_a_chosen_page_causes_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, page: str | int
) -> None:
    await ImageSource(ImageFolder(tmp_path), ImageSettings(ImagePreparation(page=page))).payload(ref(TIFF))
    await ImageSource(ImageFolder(tmp_path), ImageSettings(ImagePreparation())).payload(ref(pages("TIFF", ("red",))))
    assert not caplog.records


@pytest.mark.anyio
async def test_hidden_channels_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Red, green, blue and infrared: Pillow shows the first three."""
    target = io.BytesIO()
    Image.new("RGBX", (40, 30), "lime").save(target, "TIFF")
    payload = await ImageSource(ImageFolder(tmp_path), ImageSettings(ImagePreparation())).payload(
        ref(target.getvalue(), "field.tif")
    )
    assert payload.inline is not None
    assert colour_of(payload.inline) == "lime"
    (record,) = caplog.records
    assert record.getMessage().startswith("field.tif has 4 channels, of which some cannot be shown")


@pytest.mark.anyio
async def test_all_pages_are_one_image_to_the_keys_and_several_to_the_provider(tmp_path: Path) -> None:
    one = await ImageSource(ImageFolder(tmp_path), ImageSettings(ImagePreparation())).payload(ref(TIFF))
    whole = await ImageSource(ImageFolder(tmp_path), ImageSettings(ImagePreparation(page="all"))).payload(ref(TIFF))
    assert (whole.identity, whole.sha256, whole.reference) == (one.identity, one.sha256, one.reference)
    assert [(page.width, page.height) for page in (whole, *whole.more)] == [(40, 30)] * 3
    recipe = Recipe(provider="xai", model="m", system=None, user="See {image} and {image}.", user_column=None)
    other = Payload("i", "r", "image", None, url="https://h/b.jpg")
    sent = Conversation(recipe).messages(("See ", ImageSlot(""), " and ", ImageSlot(""), "."), [whole, other]).decode()
    assert sent.count('"url":"data:image/jpeg;base64,') == 3
    assert sent.index("See ") < sent.index("data:image") < sent.index(" and ") < sent.index("https://h/b.jpg")
    parts = json.loads(sent)[0]["content"]
    assert [part["type"] for part in parts] == ["text", *["image_url"] * 3, "text", "image_url", "text"]
    assert {part["image_url"]["detail"] for part in parts if part["type"] == "image_url"} == {"auto"}


# ---------------------------------------------------------------------------------- too few pixels


@pytest.mark.anyio
async def test_an_image_with_too_few_pixels_is_found_before_it_is_sent(tmp_path: Path) -> None:
    source = ImageSource(ImageFolder(tmp_path), ImageSettings(ImagePreparation(), least=LeastSize(8, 512)))
    for size in ((7, 100), (100, 7), (22, 23), (1, 1)):
        for image_format in ("PNG", "WEBP"):
            target = io.BytesIO()
            Image.new("RGB", size).save(target, image_format)
            with pytest.raises(ImageUnreadable, match=rf"{size[0]} x {size[1]} pixels are too few .* 8 a side and 512"):
                await source.payload(ref(target.getvalue()))
    target = io.BytesIO()
    Image.new("RGB", (8, 64)).save(target, "PNG")
    assert (await source.payload(ref(target.getvalue()))).width == 8
