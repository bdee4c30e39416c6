"""The report shows what an output holds, in one file that loads nothing and in which every value stays text."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest
from click.testing import CliRunner
from sealed_output import Output, an_output

from batchvision.cli.report import command
from batchvision.commands.report import Report, charts, collect, html_of
from batchvision.commands.report.answers import AnswerForm
from batchvision.commands.report.gallery import Gallery, Thumbnails
from batchvision.commands.report.values import (
    Beside,
    Change,
    Comparison,
    LabelAgreement,
    PropertyAgreement,
    RunPoint,
    TimeSpan,
)
from batchvision.emulator import EmulatorOptions, start_in_thread
from batchvision.errors import JobInvalid
from batchvision.records import AnswerSpec, RateSample, Recipe

HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>'


class Elements(HTMLParser):
    """The elements of a page: tag and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.found if found == tag]


def row(row_id: str, label: str = "shoe") -> dict[str, object]:
    return {
        "row_id": row_id,
        "answer_label": label,
        "output_text": label,
        "image_ref": [],
        "row_cost_ticks": 5 * 10**6,
        "title": "x",
    }


def failed(row_id: str, kind: str = "refused") -> dict[str, object]:
    return {**row(row_id), "error_kind": kind, "error_message": "the model declined"}


def form_of(schema: dict[str, object]) -> AnswerForm:
    return AnswerForm.of(Recipe("xai", "grok-4.3", None, "Describe it.", None, answer=AnswerSpec(schema)))


def chosen(gallery: Gallery) -> list[tuple[str, bool]]:
    with Thumbnails(None) as thumbnails:
        return [(card.row_id, card.is_failed) for card in gallery.cards(thumbnails)]


# ---------------------------------------------------------------------------------- the gallery


def test_failures_come_first_and_take_at_most_half_where_there_are_answers() -> None:
    gallery = Gallery(10)
    for number in range(30):
        gallery.add(failed(f"f{number}"), is_failed=True)
        gallery.add(row(f"r{number}"), is_failed=False)
    assert [is_failed for _, is_failed in chosen(gallery)] == [True] * 5 + [False] * 5
    assert gallery.rows_seen == 60


def test_failures_take_the_room_that_answers_leave() -> None:
    gallery = Gallery(10)
    for number in range(30):
        gallery.add(failed(f"f{number}"), is_failed=True)
    gallery.add(row("r0"), is_failed=False)
    assert [is_failed for _, is_failed in chosen(gallery)] == [True] * 9 + [False]


def test_each_label_and_each_kind_of_failure_is_shown_before_one_is_shown_twice() -> None:
    gallery = Gallery(8)
    for number in range(100):
        gallery.add(row(f"r{number}"), is_failed=False)
        gallery.add(failed(f"f{number}"), is_failed=True)
    gallery.add(row("rare", "umbrella"), is_failed=False)
    gallery.add(failed("odd", "truncated"), is_failed=True)
    names = [row_id for row_id, _ in chosen(gallery)]
    assert "rare" in names and "odd" in names


def test_wrong_answers_come_after_failures_and_name_the_known_answer() -> None:
    gallery = Gallery(8, expected={"r7": "bag"})
    for number in range(20):
        gallery.add(row(f"r{number}"), is_failed=False)
    gallery.add(failed("f1"), is_failed=True)
    with Thumbnails(None) as thumbnails:
        cards = list(gallery.cards(thumbnails))
    assert [(card.row_id, card.expected) for card in cards[:2]] == [("f1", None), ("r7", "bag")]
    assert len(cards) == 8
    assert [card.expected for card in cards[2:]] == [None] * 6


def test_the_same_seed_draws_the_same_rows_and_another_one_others() -> None:
    def drawn(seed: int, order: int) -> list[tuple[str, bool]]:
        gallery = Gallery(10, seed)
        for number in range(200)[::order]:
            gallery.add(row(f"r{number}"), is_failed=False)
        return chosen(gallery)

    assert drawn(1, 1) == drawn(1, -1) != drawn(2, 1)


def test_a_long_answer_is_shown_in_part_and_reviewed_whole() -> None:
    text = "word " * 500
    gallery = Gallery(1)
    gallery.add({**row("r1", ""), "output_text": text}, is_failed=False)
    with Thumbnails(None) as thumbnails:
        (card,) = gallery.cards(thumbnails)
    assert card.answer == text
    assert text.startswith(card.shown.removesuffix("…")) and len(card.shown) < len(text)


def test_the_only_property_of_a_schema_is_the_answer_that_is_reviewed() -> None:
    schema = {"type": "object", "properties": {"colour": {"type": "string"}}}
    answer = {**row("r1", ""), "output_json": '{"colour": "red"}', "answer_colour": "red", "answer_label": None}
    gallery = Gallery(1, form=form_of(schema))
    gallery.add(answer, is_failed=False)
    with Thumbnails(None) as thumbnails:
        (card,) = gallery.cards(thumbnails)
    assert (card.answer, dict(card.details)) == ("red", {"title": "x"})


def test_several_properties_are_reviewed_as_json_and_shown_one_by_one() -> None:
    schema = {"type": "object", "properties": {"colour": {"type": "string"}, "laces": {"type": "boolean"}}}
    text = '{"colour": "red", "laces": true}'
    answer = {**row("r1", ""), "output_json": text, "answer_colour": "red", "answer_laces": True, "answer_label": None}
    gallery = Gallery(1, form=form_of(schema))
    gallery.add(answer, is_failed=False)
    with Thumbnails(None) as thumbnails:
        (card,) = gallery.cards(thumbnails)
    assert (card.answer, card.shown) == (text, "")
    assert dict(card.details) == {"title": "x", "colour": "red", "laces": "true"}


def test_a_gallery_of_no_rows_still_counts_them() -> None:
    gallery = Gallery(0)
    gallery.add(row("r1"), is_failed=False)
    gallery.add(failed("f1"), is_failed=True)
    assert (chosen(gallery), gallery.rows_seen) == ([], 2)


# ---------------------------------------------------------------------------------- the page


LABELS = {"answer": {"labels": ["red", "blue"]}}


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Output:
    with start_in_thread(EmulatorOptions()) as emulator:
        output = an_output(tmp_path_factory.mktemp("report"), emulator.url, **LABELS)
        output.run()
    return output


@pytest.fixture(scope="module")
def report(sealed: Output) -> Report:
    return collect(sealed.path, rows=50)


def test_a_report_has_the_rows_and_the_cost_of_its_output(sealed: Output, report: Report) -> None:
    answered, failed_rows = sealed.rows("results"), sealed.rows("failures")
    assert report.rows_known == len(answered) + len(failed_rows) == len(report.cards)
    assert {card.row_id for card in report.cards if card.is_failed} == {each["row_id"] for each in failed_rows}
    assert sum(span.cost_ticks for span in report.spans) == sum(
        each["cost_ticks"] or 0 for each in sealed.rows("attempts") if each["run_id"] == report.timed.run_id
    )
    assert sum(each.rows for each in report.failures) == len(failed_rows)


def test_each_setting_names_its_source(report: Report) -> None:
    sources = {each.key: each.source for each in report.settings}
    assert (sources["provider.model"], sources["limits.max_attempts"]) == ("job file", "default")


def test_local_images_have_webp_thumbnails(report: Report) -> None:
    shown = [card for card in report.cards if card.thumbnail]
    assert shown
    for card in shown:
        assert base64.b64decode(card.thumbnail.partition(",")[2]).startswith(b"RIFF")


def test_the_page_loads_nothing_and_its_policy_names_its_own_script_and_style(report: Report) -> None:
    page = html_of(report)
    elements = Elements(page)
    assert [each for each in elements.named("link") + elements.named("iframe") if each] == []
    assert all((each.get("src") or "").startswith("data:image/webp;base64,") for each in elements.named("img"))
    assert elements.named("script") == [{}]
    policy = next(each["content"] for each in elements.named("meta") if "http-equiv" in each)
    for tag in ("style", "script"):
        text = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(sha256(text[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_text_of_rows_never_becomes_markup(report: Report) -> None:
    card = report.cards[0]._replace(
        row_id=HOSTILE,
        label=HOSTILE,
        answer=HOSTILE,
        shown=HOSTILE,
        image=HOSTILE,
        details=((HOSTILE, HOSTILE),),
        no_thumbnail=HOSTILE,
    )
    asked = report.asked._replace(system=HOSTILE, user=HOSTILE, labels=((HOSTILE, HOSTILE),), schema=HOSTILE)
    labels = tuple(each._replace(label=HOSTILE) for each in report.labels[:1])
    kinds = tuple(each._replace(example=HOSTILE, example_id=HOSTILE) for each in report.failures)
    agreement = (LabelAgreement(HOSTILE, 2, 1, ((HOSTILE, 1),)),)
    properties = (PropertyAgreement(HOSTILE, 2, 1), PropertyAgreement(HOSTILE, 2, 2))
    compared = Comparison(HOSTILE, HOSTILE, 2, 1, 1, 0, 0, None, agreement, properties, 2, 5, 4, accuracy=(HOSTILE,))
    card = card._replace(beside=Beside(Change.CHANGED, HOSTILE, HOSTILE, 5))
    page = html_of(replace(report, cards=(card,), asked=asked, labels=labels, failures=kinds, comparison=compared))
    elements = Elements(page)
    assert elements.named("script") == [{}]
    assert [each for _, each in elements.found if any(name.startswith("on") for name in each)] == []
    assert [each["data-id"] for each in elements.named("li") if "data-id" in each] == [HOSTILE]


def test_the_script_is_short_and_plain() -> None:
    script = (files("batchvision.commands.report") / "page.js").read_text()
    assert len(script.splitlines()) <= 400
    assert not re.search(r"innerHTML|insertAdjacentHTML|eval\(|https?:", script)


def test_an_output_without_an_ended_run_has_a_report(sealed: Output, tmp_path: Path) -> None:
    killed = sealed.copy(tmp_path / "killed")
    for path in (killed.path / "runs").glob("*.json"):
        path.unlink()
    found = collect(killed.path, rows=5)
    assert "No run has ended yet" in html_of(found)
    assert found.rows_known > 0


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"rows_failed": 0, "rows_pending": 0}, "Every row has an answer."),
        ({"rows_failed": 2, "rows_pending": 0}, "Finished within the allowed failures."),
        ({"rows_failed": 0, "rows_pending": 5}, "The rows that were chosen by --limit or --sample have answers."),
    ],
)
def test_the_sentence_about_a_good_end_counts_failed_and_pending_rows(
    sealed: Output, rows: dict[str, int], words: str
) -> None:
    found = collect(sealed.path, rows=5)
    assert found.latest is not None
    ended = replace(found.latest, exit_code=0, **rows)
    assert words in html_of(replace(found, status=replace(found.status, latest=ended)))


def test_the_command_writes_the_file_and_names_it(sealed: Output, tmp_path: Path) -> None:
    to = tmp_path / "morning.html"
    done = CliRunner().invoke(command, [str(sealed.path), "-o", str(to), "--rows", "3"])
    assert done.exit_code == 0, done.output
    assert "morning.html" in done.output
    assert to.read_text().count('<li class="card') == 3
    assert [path.name for path in tmp_path.iterdir()] == ["morning.html"]


def test_a_folder_without_an_output_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(JobInvalid, match="no output"):
        collect(tmp_path / "nothing", rows=5)


# ---------------------------------------------------------------------------------- charts


@pytest.mark.parametrize(
    ("value", "rounded"),
    [(0.0, 1.0), (0.003, 0.005), (1.0, 1.0), (1.1, 2.0), (37.0, 50.0), (51.0, 100.0), (100.0, 100.0)],
)
def test_an_axis_ends_at_the_next_round_value(value: float, rounded: float) -> None:
    assert charts._round_up(value) == pytest.approx(rounded)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "$0"),
        (0.025, "$0.025"),
        (2.5, "$2.5"),
        (50.0, "$50"),
        (1250.0, "$1,250"),
        (12500.0, "$12.5k"),
        (2e6, "$2M"),
    ],
)
def test_the_words_of_an_axis_are_short(value: float, words: str) -> None:
    assert charts._short_usd(value) == words


def test_marks_stay_inside_their_chart() -> None:
    spans = [TimeSpan(number * 10.0, 10.0, number, 1, 2, 10**8, 0.5, 2.0) for number in range(60)]
    point = RunPoint("r", datetime(2026, 11, 30, tzinfo=UTC), 5, 1, 0, 3, None, 10**9, 60.0)
    made = [
        charts.answers_chart(spans),
        charts.cost_chart(spans),
        charts.latency_chart(spans),
        charts.runs_chart([point]),
    ]
    for svg in made:
        for x, y, width, height in re.findall(r'x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', svg):
            assert float(x) >= 0 and float(x) + float(width) <= charts.WIDTH
            assert float(y) >= 0 and float(y) + float(height) <= charts.HEIGHT
        assert "<title>" in svg or "polyline" in svg


def test_the_rate_chart_marks_pauses_and_429s_and_ends_with_the_run() -> None:
    samples = [
        RateSample(0.0, 60.0, sent=600, rate_limited=60, paused_seconds=30.0, rate_per_second=10.0),
        RateSample(60.0, 60.0, sent=100, rate_per_second=10.0),
    ]
    svg = charts.rate_chart(samples, 70.0)
    assert "0:00: paused for 30 s" in svg
    assert "0:00: 600 sent, 60 answers 429" in svg
    width = charts.WIDTH - charts.LEFT - charts.RIGHT
    (pause,) = re.findall(r'class="pause" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', svg)
    assert float(pause[1]) == pytest.approx(width * 30 / 70, abs=1)
    sent = re.findall(r'class="ok" x="[\d.]+" y="[\d.]+" width="[\d.]+" height="([\d.]+)"', svg)
    assert float(sent[1]) == pytest.approx(float(sent[0]), abs=0.2)  # 100 requests in 10 s are 600 a minute
    (limited,) = re.findall(r'class="again" x="[\d.]+" y="[\d.]+" width="[\d.]+" height="([\d.]+)"', svg)
    assert float(limited) == pytest.approx(float(sent[0]) / 10, abs=0.2)


def test_a_span_of_no_answers_has_no_latency_and_draws_none() -> None:
    spans = [TimeSpan(0.0, 1.0, 0, 1, 0, 0, None, None), TimeSpan(1.0, 1.0, 0, 1, 0, 0, None, None)]
    assert "polyline" not in charts.latency_chart(spans)
