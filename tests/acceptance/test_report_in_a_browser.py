"""The report in a real browser: it works by keyboard, loads nothing, and hostile text stays text."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

from batchvision.commands.report import OtherSide, collect, html_of
from batchvision.commands.run import run
from batchvision.emulator import EmulatorOptions, start_in_thread
from batchvision.job import Job

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt install chromium)")

HOSTILE_ID = '"><img src=x onerror=alert(1)>'
HOSTILE_TITLE = "<script>alert(2)</script>"
LABELS = ("shoe", "bag", "<b>hat</b>", '"><img src=x onerror=alert(3)>', "<script>alert(4)</script>")
MOST_BYTES = 30_000_000


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 rows of five labels, of which some fail. ``other`` beside it holds their answers under another prompt."""
    folder = tmp_path_factory.mktemp("browser")
    for name in ("red", "blue"):
        Image.effect_noise((600, 400), 60).convert("RGB").save(folder / f"{name}.jpg")
    with (folder / "rows.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "image", "title"])
        for number in range(38):
            fault = " [[fault:refusal]]" if number % 9 == 4 else ""
            rows.writerow([f"row {number}", ("red.jpg", "blue.jpg")[number % 2], f"thing {number}{fault}"])
        rows.writerow([HOSTILE_ID, "red.jpg", HOSTILE_TITLE])
        rows.writerow(["gone", "gone.jpg", "gone"])
    with start_in_thread(EmulatorOptions()) as emulator:
        settings = {
            "name": HOSTILE_TITLE,
            "manifest": {"path": "rows.csv", "id": "id", "keep": ["title"]},
            "prompt": {"user": f"{HOSTILE_TITLE} {{title}}"},
            "answer": {"labels": list(LABELS)},
            "provider": {"name": "emulator", "model": "grok-4.3", "base_url": f"{emulator.url}/v1"},
            "output": {"path": "out"},
        }
        other = {**settings, "prompt": {"user": "Which category has {title}?"}, "output": {"path": "other"}}
        for each in (settings, other):
            assert run(Job.from_mapping(each, folder), environ={}).exit_code == 3
    return folder / "out"


class Opened:
    """A page, with everything that it wrote to the console and asked the network for."""

    def __init__(self, page: Any, path: Path) -> None:
        self.page = page
        self.faults: list[str] = []
        self.requests: list[str] = []
        self._address = path.as_uri()
        page.on("console", lambda message: self.faults.append(message.text))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("dialog", lambda dialog: (self.faults.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: self.requests.append(request.url))
        self.go()

    def go(self, anchor: str = "") -> None:
        self.page.goto(self._address + anchor)

    def visible(self) -> list[str]:
        return self.page.eval_on_selector_all(".card:not([hidden])", "cards => cards.map(card => card.dataset.id)")

    def wait_for_rows(self, count: int) -> None:
        from playwright.sync_api import expect

        expect(self.page.locator(".card:not([hidden])")).to_have_count(count)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    @property
    def loaded(self) -> list[str]:
        return [url for url in self.requests if not url.startswith(("data:", "blob:", self._address))]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def file(output: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html_of(collect(output, rows=100)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def compared(output: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report beside the other output."""
    path = tmp_path_factory.mktemp("compared") / "report.html"
    against = OtherSide.of_output(output.with_name("other"))
    path.write_text(html_of(collect(output, rows=100, against=against)), encoding="utf-8")
    return path


@pytest.fixture
def opened(browser: Any, file: Path) -> Iterator[Opened]:
    page = browser.new_page(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    opened = Opened(page, file)
    yield opened
    assert opened.faults == []
    assert opened.loaded == []
    page.close()


def test_hostile_text_stays_text(opened: Opened) -> None:
    assert opened.page.inner_text("h1") == HOSTILE_TITLE
    assert HOSTILE_ID in opened.visible()
    assert (
        opened.page.eval_on_selector_all("img", "all => all.filter(each => !each.src.startsWith('data:')).length") == 0
    )
    assert opened.page.locator("script").count() == 1
    assert opened.page.locator(".card b").count() == 0


def test_every_image_of_the_gallery_is_shown(opened: Opened) -> None:
    opened.page.eval_on_selector_all(
        "img", "all => Promise.all(all.map(each => (each.loading = 'eager', each.decode())))"
    )
    widths = opened.page.eval_on_selector_all("img", "all => all.map(each => each.naturalWidth)")
    assert len(widths) == 39
    assert min(widths) > 100


def test_search_and_filters_narrow_the_rows(opened: Opened) -> None:
    everything = opened.visible()
    opened.page.keyboard.press("/")
    opened.page.keyboard.type("thing 12")
    opened.wait_for_rows(1)
    assert opened.visible() == ["row 12"]
    opened.page.fill("#search", "")
    opened.page.select_option("#filter", "refused")
    opened.wait_for_rows(4)
    assert sorted(opened.visible()) == ["row 13", "row 22", "row 31", "row 4"]
    opened.page.click('button.link[data-filter="image_unreadable"]')
    assert opened.visible() == ["gone"]
    opened.page.select_option("#filter", "")
    assert opened.visible() == everything


def test_a_review_by_keyboard_is_saved_as_csv(opened: Opened) -> None:
    answered = opened.page.eval_on_selector_all(
        ".card:not(.failed)", "cards => cards.map(card => [card.dataset.id, card.dataset.answer])"
    )
    failed = len(opened.visible()) - len(answered)
    opened.press(*["j"] * (failed + 1), "r", "j", "w", "j", "l")
    third = answered[2]
    other = next(label for label in LABELS if label != third[1])
    opened.page.locator(".card:focus-within select").select_option(other)
    opened.press("Escape", "j", "r", "u")
    assert opened.page.inner_text("#progress") == "3 reviewed, 2 wrong"
    with opened.page.expect_download() as download:
        opened.press("s")
    with Path(download.value.path()).open(newline="", encoding="utf-8") as saved:
        rows = list(csv.DictReader(saved))
    (first, given), (second, seen), (last, label) = answered[:3]
    assert download.value.suggested_filename == "review.csv"
    assert rows == [
        {"row_id": first, "answer": given, "verdict": "right", "given": given},
        {"row_id": second, "answer": "", "verdict": "wrong", "given": seen},
        {"row_id": last, "answer": other, "verdict": "wrong", "given": label},
    ]
    opened.page.select_option("#reviewed", "wrong")
    assert opened.visible() == [second, last]


@pytest.mark.parametrize("row_id", ["row 17", HOSTILE_ID])
def test_an_anchor_leads_to_its_row(opened: Opened, row_id: str) -> None:
    opened.go("#row=" + quote(row_id))
    opened.page.reload()
    assert opened.page.evaluate("document.activeElement.dataset.id") == row_id


@pytest.mark.parametrize("kind", ["file", "compared"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_window_and_axe_finds_no_serious_fault(
    browser: Any, request: pytest.FixtureRequest, kind: str, width: int, scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    opened = Opened(page, request.getfixturevalue(kind))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(page).response["violations"]
    page.close()
    assert [
        (each["id"], each["nodes"][0]["html"][:200]) for each in found if each["impact"] in ("serious", "critical")
    ] == []
    assert opened.faults == []


def test_only_different_rows_are_shown_by_keyboard_and_their_text_stays_text(browser: Any, compared: Path) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    opened = Opened(page, compared)
    everything = opened.visible()
    opened.press("d")
    different = opened.visible()
    sides = page.eval_on_selector_all(
        ".card:not([hidden])",
        "cards => cards.map(card => Array.from(card.querySelectorAll('.sides .tag'), tag => tag.textContent))",
    )
    assert 0 < len(different) < len(everything)
    assert all(len(labels) == 2 and labels[0] != labels[1] for labels in sides)
    assert {label for labels in sides for label in labels} <= set(LABELS)
    assert page.locator("script").count() == 1
    assert page.locator(".sides b, .sides img, table b, table img").count() == 0
    opened.press("j", "r", "d")
    assert opened.visible() == everything
    assert page.evaluate("document.activeElement.dataset.id") == different[0]
    assert page.inner_text("#progress") == "1 reviewed, 0 wrong"
    assert (opened.faults, opened.loaded) == ([], [])
    page.close()


def test_on_paper_it_has_a_light_background_and_nothing_to_press(browser: Any, file: Path) -> None:
    page = browser.new_page(viewport={"width": 1000, "height": 900}, color_scheme="dark")
    page.goto(file.as_uri())
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator(".card").first.is_visible()
    for kind in (".controls", ".verdict", ".skip"):
        assert not page.locator(kind).first.is_visible()
    page.close()


def test_it_is_read_without_a_script(browser: Any, file: Path) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(file.as_uri())
    assert page.locator(".card").count() == 40
    assert not page.locator(".controls").is_visible()
    page.close()


def test_two_thousand_rows_stay_under_30_megabytes_and_are_searched_and_reviewed(
    browser: Any, output: Path, tmp_path: Path
) -> None:
    report = collect(output, rows=40)
    answered = (card for card in report.cards if card.thumbnail and not card.is_failed)
    largest = max(answered, key=lambda card: len(card.thumbnail or ""))
    cards = tuple(largest._replace(row_id=f"row {number}") for number in range(2_000))
    (tmp_path / "report.html").write_text(html_of(replace(report, cards=cards)), encoding="utf-8")
    assert (tmp_path / "report.html").stat().st_size < MOST_BYTES
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    opened = Opened(page, tmp_path / "report.html")
    opened.press("/")
    page.keyboard.type("row 1987")
    opened.wait_for_rows(1)
    opened.press("Escape")
    page.evaluate("document.activeElement.blur()")
    opened.press("j", "w")
    page.fill("#search", "")
    opened.wait_for_rows(2_000)
    page.select_option("#reviewed", "wrong")
    assert opened.visible() == ["row 1987"]
    assert opened.faults == []
    page.close()
