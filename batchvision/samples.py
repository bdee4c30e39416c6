"""Draw the sample images of the demo and write their manifest ``photos.csv``. The bytes are always the same.

Nothing is downloaded and no system font is used, so that the demo works from the wheel alone.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from math import cos, pi, sin
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIZE = (640, 480)
SCALE = 3  #: images are drawn three times as large and scaled down, to smooth edges
MANIFEST_NAME = "photos.csv"

Colour = str
Point = tuple[float, float]
ROTATED = 6  #: EXIF orientation: a viewer turns the image to the right


class Sample(NamedTuple):
    """One drawn product."""

    sku: str
    image: str
    title: str
    draw: Callable[[Canvas], None]


class Canvas:
    """An image under work. Coordinates are those of the final image."""

    def __init__(self, wall: Colour, table: Colour, horizon: float = 330) -> None:
        self._image = Image.new("RGB", (SIZE[0] * SCALE, SIZE[1] * SCALE), wall)
        self._draw = ImageDraw.Draw(self._image)
        self.box((0, horizon, *SIZE), table)

    def finished(self) -> Image.Image:
        return self._image.resize(SIZE, Image.Resampling.LANCZOS)

    def box(self, corners: Sequence[float], fill: Colour, radius: float = 0, outline: Colour | None = None) -> None:
        self._draw.rounded_rectangle(self._large(corners), radius * SCALE, fill, outline, 4 * SCALE if outline else 1)

    def oval(
        self, corners: Sequence[float], fill: Colour | None, outline: Colour | None = None, width: int = 4
    ) -> None:
        self._draw.ellipse(self._large(corners), fill, outline, width * SCALE)

    def shape(self, points: Sequence[Point], fill: Colour) -> None:
        self._draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill)

    def line(self, points: Sequence[Point], fill: Colour, width: float) -> None:
        """A line with round ends and joints."""
        large = [(x * SCALE, y * SCALE) for x, y in points]
        self._draw.line(large, fill, round(width * SCALE), joint="curve")
        for x, y in (large[0], large[-1]):
            half = width * SCALE / 2
            self._draw.ellipse((x - half, y - half, x + half, y + half), fill)

    def arc(self, corners: Sequence[float], start: float, end: float, fill: Colour, width: float) -> None:
        self._draw.arc(self._large(corners), start, end, fill, round(width * SCALE))

    def pie(self, corners: Sequence[float], start: float, end: float, fill: Colour) -> None:
        self._draw.pieslice(self._large(corners), start, end, fill)

    def text(self, middle: Point, words: str, size: float, fill: Colour) -> None:
        font = ImageFont.load_default(size * SCALE)
        self._draw.text((middle[0] * SCALE, middle[1] * SCALE), words, fill, font, anchor="mm", align="center")

    def shadow(self, corners: Sequence[float], strength: int = 90) -> None:
        """A soft dark oval below an object."""
        mask = Image.new("L", self._image.size, 0)
        ImageDraw.Draw(mask).ellipse(self._large(corners), fill=strength)
        self._image.paste("black", mask=mask.filter(ImageFilter.BoxBlur(14 * SCALE)))

    def _large(self, corners: Sequence[float]) -> tuple[float, float, float, float]:
        left, top, right, bottom = (value * SCALE for value in corners)
        return left, top, right, bottom


def curve(start: Point, pull_one: Point, pull_two: Point, end: Point, steps: int = 40) -> list[Point]:
    """The points of a cubic Bezier curve."""
    points = []
    for step in range(steps + 1):
        t = step / steps
        weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
        along = (start, pull_one, pull_two, end)
        points.append(
            (
                sum(w * p[0] for w, p in zip(weights, along, strict=True)),
                sum(w * p[1] for w, p in zip(weights, along, strict=True)),
            )
        )
    return points


# ---------------------------------------------------------------------------------- the products


def _shoe(on: Canvas) -> None:
    on.shadow((110, 350, 560, 400))
    upper = [
        *curve((150, 200), (140, 260), (130, 300), (136, 350)),
        (540, 350),
        *curve((540, 350), (552, 300), (470, 290), (410, 270)),
        *curve((410, 270), (360, 250), (330, 200), (300, 160)),
        *curve((300, 160), (280, 200), (200, 215), (150, 200)),
    ]
    on.shape(upper, "#d8342b")
    on.shape(
        [
            *curve((540, 350), (552, 306), (500, 296), (456, 286)),
            *curve((456, 286), (440, 310), (436, 330), (440, 350)),
        ],
        "#f4efe6",
    )
    on.shape(
        [
            *curve((150, 200), (142, 250), (132, 300), (136, 350)),
            (196, 350),
            *curve((196, 350), (190, 300), (190, 260), (206, 210)),
        ],
        "#9e1f1c",
    )
    on.box((126, 342, 552, 382), "#fbfaf6", radius=18)
    on.box((126, 366, 552, 386), "#35383d", radius=10)
    on.shape(
        [
            *curve((215, 325), (270, 330), (330, 300), (372, 258)),
            *curve((372, 258), (350, 318), (290, 344), (215, 325)),
        ],
        "#f7f3ea",
    )
    for step in range(5):
        x, y = 304 + step * 27, 186 + step * 23
        on.line([(x - 20, y + 20), (x + 16, y + 4)], "#fdfcf8", 7)


def _bag(on: Canvas) -> None:
    on.shadow((150, 385, 490, 430))
    on.arc((230, 60, 410, 330), 180, 360, "#6b3f1d", 15)
    body = [
        (170, 190),
        (470, 190),
        *curve((470, 190), (500, 280), (506, 350), (496, 405)),
        (144, 405),
        *curve((144, 405), (134, 350), (140, 280), (170, 190)),
    ]
    on.shape(body, "#b9773a")
    flap = [
        (170, 190),
        (470, 190),
        *curve((470, 190), (476, 300), (400, 318), (320, 318)),
        *curve((320, 318), (240, 318), (164, 300), (170, 190)),
    ]
    on.shape(flap, "#96591f")
    for step in range(23):
        angle = pi * (step + 1) / 24
        on.oval(
            (318 + 138 * cos(angle), 204 + 102 * sin(angle), 323 + 138 * cos(angle), 209 + 102 * sin(angle)), "#e8c08d"
        )
    on.box((296, 292, 344, 346), "#e3b341", radius=9)
    on.oval((311, 310, 329, 328), "#7d5a12")
    on.oval((222, 182, 250, 210), "#e3b341")
    on.oval((390, 182, 418, 210), "#e3b341")


def _cup(on: Canvas) -> None:
    on.shadow((150, 380, 480, 425))
    on.oval((160, 372, 470, 418), "#e9eef0")
    on.oval((190, 376, 440, 406), "#cfd8db")
    on.arc((390, 210, 500, 330), 270, 90, "#2a7f8e", 24)
    on.shape(
        [
            (200, 180),
            (440, 180),
            *curve((440, 180), (440, 300), (420, 360), (380, 392)),
            (260, 392),
            *curve((260, 392), (220, 360), (200, 300), (200, 180)),
        ],
        "#3aa0b1",
    )
    on.shape([(200, 226), (440, 226), (439, 262), (201, 262)], "#f2f7f7")
    on.oval((200, 154, 440, 206), "#e4f1f3")
    on.oval((214, 162, 426, 200), "#4a2c17")
    on.oval((250, 166, 350, 182), "#6b4426")
    for x in (270, 320, 370):
        on.line(curve((x, 140), (x - 28, 112), (x + 28, 86), (x, 56)), "#f6f1e8", 7)


def _lamp(on: Canvas) -> None:
    on.shape([(196, 220), (444, 220), (540, 400), (100, 400)], "#57617a")
    on.shadow((210, 392, 430, 436))
    on.box((312, 214, 328, 410), "#c9a24b")
    on.oval((228, 388, 412, 432), "#a9853a")
    on.oval((228, 380, 412, 420), "#d3ae58")
    on.oval((286, 196, 354, 264), "#fff6c9")
    on.shape([(252, 70), (388, 70), (470, 226), (170, 226)], "#f6c945")
    on.shape([(252, 70), (300, 70), (262, 226), (170, 226)], "#fbdb76")
    on.oval((170, 212, 470, 240), "#fff1b8")
    on.line([(400, 232), (400, 284)], "#c9a24b", 3)
    on.oval((393, 280, 407, 294), "#d3ae58")


def _chair(on: Canvas) -> None:
    on.shadow((170, 416, 480, 456), 70)
    for (x, y), foot in (
        ((214, 300), (190, 430)),
        ((420, 300), (450, 430)),
        ((250, 290), (240, 400)),
        ((392, 290), (404, 400)),
    ):
        on.line([(x, y), foot], "#7a4b25", 15)
    on.box((204, 70, 240, 300), "#8a5730", radius=10)
    on.box((396, 70, 432, 300), "#8a5730", radius=10)
    for y in (84, 138, 192):
        on.box((214, y, 422, y + 32), "#a56a3b", radius=10)
    on.shape([(196, 262), (440, 262), (474, 316), (164, 316)], "#2f6f4f")
    on.box((160, 306, 478, 336), "#275c42", radius=12)


def _sign(on: Canvas) -> None:
    on.box((306, 330, 334, 480), "#6f5b46")
    on.box((90, 76, 550, 350), "#12352b", radius=26)
    on.box((104, 90, 536, 336), "#1b4d3e", radius=18, outline="#f3e9d2")
    on.text((320, 146), "CORNER CAFE", 46, "#f3e9d2")
    on.line([(180, 186), (460, 186)], "#d9a441", 4)
    on.text((320, 228), "OPEN 8 AM - 6 PM", 34, "#f3e9d2")
    on.text((320, 290), "Coffee $3.50   Cake $4.20", 27, "#e9c46a")


def _apple(on: Canvas) -> None:
    on.shadow((170, 382, 470, 430))
    on.shape(
        [
            *curve((320, 170), (250, 110), (140, 160), (160, 270)),
            *curve((160, 270), (175, 370), (250, 430), (320, 400)),
            *curve((320, 400), (390, 430), (465, 370), (480, 270)),
            *curve((480, 270), (500, 160), (390, 110), (320, 170)),
        ],
        "#7cb342",
    )
    on.shape(
        [
            *curve((190, 230), (200, 180), (240, 160), (276, 172)),
            *curve((276, 172), (240, 190), (216, 220), (206, 268)),
        ],
        "#b5d97c",
    )
    on.line(curve((320, 186), (318, 150), (326, 120), (346, 92)), "#6d4a26", 12)
    on.shape(
        [*curve((336, 132), (360, 70), (430, 60), (462, 80)), *curve((462, 80), (440, 130), (390, 146), (336, 132))],
        "#3f7d2c",
    )
    on.line(curve((346, 126), (380, 106), (410, 92), (444, 84)), "#66a047", 3)


def _clock(on: Canvas) -> None:
    on.shadow((190, 400, 450, 436), 60)
    on.line([(228, 372), (204, 416)], "#7b2d43", 18)
    on.line([(412, 372), (436, 416)], "#7b2d43", 18)
    on.line([(320, 110), (320, 62)], "#7b2d43", 10)
    on.oval((302, 48, 338, 74), "#7b2d43")
    for left in (184, 368):
        on.oval((left, 60, left + 88, 148), "#c2526f")
    on.oval((180, 96, 460, 400), "#a83b5a")
    on.oval((204, 122, 436, 376), "#fdf8f0")
    for hour in range(12):
        angle = hour * pi / 6
        reach = 0.8 if hour % 3 else 0.74
        on.line(
            [
                (320 + 116 * reach * sin(angle), 249 - 127 * reach * cos(angle)),
                (320 + 103 * sin(angle), 249 - 113 * cos(angle)),
            ],
            "#4b3b40",
            8 if hour % 3 == 0 else 4,
        )
    on.line([(320, 249), (272, 210)], "#2e2529", 11)
    on.line([(320, 249), (384, 196)], "#2e2529", 7)
    on.oval((309, 238, 331, 260), "#d98324")


def _umbrella(on: Canvas) -> None:
    on.pie((110, 90, 530, 430), 180, 360, "#3d5a98")
    on.pie((180, 90, 460, 430), 180, 360, "#f4d35e")
    on.pie((258, 90, 382, 430), 180, 360, "#3d5a98")
    for left, width in ((110, 70), (180, 78), (258, 124), (382, 78), (460, 70)):
        on.oval((left, 246, left + width, 274), "#e3e9f1")
    on.line([(320, 70), (320, 92)], "#5b4a3f", 7)
    on.line([(320, 252), (320, 376)], "#5b4a3f", 10)
    on.arc((315, 344, 373, 408), 0, 180, "#5b4a3f", 10)
    on.oval((363, 371, 373, 381), "#5b4a3f")


# ---------------------------------------------------------------------------------- the set

SAMPLES: tuple[Sample, ...] = (
    Sample("SH-1001", "shoe.jpg", "Red running shoe", _shoe),
    Sample("BG-2002", "bag.png", "Leather shoulder bag", _bag),
    Sample("CU-3003", "cup.jpg", "Stoneware coffee cup", _cup),
    Sample("LA-4004", "lamp.webp", "Table lamp with a brass foot", _lamp),
    Sample("CH-5005", "chair.jpg", "Wooden kitchen chair", _chair),
    Sample("SI-6006", "sign.png", "Cafe sign", _sign),
    Sample("FR-7007", "apple.jpg", "Green apple", _apple),
    Sample("CL-8008", "clock.jpg", "Alarm clock", _clock),
    Sample("UM-9009", "umbrella.png", "Striped umbrella", _umbrella),
)
_STUDIOS: dict[str, tuple[Colour, Colour]] = {
    "shoe.jpg": ("#dfe7ec", "#c3ced6"),
    "bag.png": ("#f3e6d3", "#dcc7a6"),
    "cup.jpg": ("#c9b79c", "#8a6a4a"),
    "lamp.webp": ("#39415a", "#2b3145"),
    "chair.jpg": ("#efe3dc", "#d8c0ae"),
    "sign.png": ("#a9cbe0", "#8fb996"),
    "apple.jpg": ("#fbe9e1", "#e8b9a0"),
    "clock.jpg": ("#d5dcd0", "#aab8a4"),
    "umbrella.png": ("#e3e9f1", "#c5cfdd"),
}
_ON_ITS_SIDE = "clock.jpg"  #: stored rotated, so that the demo shows a rotation being undone


def draw_samples(folder: Path) -> Path:
    """Draw all samples into ``folder``, which is made if needed. Returns the path of their manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    for sample in SAMPLES:
        canvas = Canvas(*_STUDIOS[sample.image])
        sample.draw(canvas)
        _save(canvas.finished(), folder / sample.image)
    manifest = folder / MANIFEST_NAME
    with manifest.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("id", "image", "title"))
        rows.writerows((sample.sku, sample.image, sample.title) for sample in SAMPLES)
    return manifest


def _save(image: Image.Image, path: Path) -> None:
    options: dict[str, Any] = {".jpg": {"quality": 88}, ".webp": {"quality": 88}}.get(path.suffix, {"optimize": True})
    if path.name == _ON_ITS_SIDE:
        marks = Image.Exif()
        marks[0x0112] = ROTATED
        image, options = image.transpose(Image.Transpose.ROTATE_90), options | {"exif": marks.tobytes()}
    image.save(path, **options)
