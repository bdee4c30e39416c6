"""Which rows a pilot chooses, how answers are compared, and what can be swept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

import pytest

from batchvision.commands.pilot.agreement import Agreement, agreement, words_in_common
from batchvision.commands.pilot.frame import Choice, SamplingFrame
from batchvision.commands.pilot.paid import Answered
from batchvision.commands.pilot.sweep import MOST_SETTINGS, settings, variants
from batchvision.errors import JobInvalid
from batchvision.job import Job
from batchvision.records import AnswerSpec, Estimate, ImageSize, Row
from batchvision.runner import CountedRequest


def seen(name: str, ticks: int, size: ImageSize = (10, 10), key: str | None = None) -> CountedRequest:
    row = Row(1, name, ("text",), (), (), f"skip-{name}")
    return CountedRequest(row, (size,), key or f"key-{name}", Estimate(ticks // 2, ticks, None))


def frame(rows: int = 200) -> SamplingFrame:
    found = SamplingFrame()
    for number in range(rows):
        found.add(seen(f"r{number}", 100 + number))
    return found


def sizes_of(choice: Choice) -> list[float]:
    return sorted(chosen.ticks for stratum in choice.strata for chosen in stratum.chosen)


def test_rows_of_all_sizes_are_chosen() -> None:
    chosen = sizes_of(frame().choose(20))

    assert len(chosen) == 20
    quarters = [sum(low <= ticks < low + 50 for ticks in chosen) for low in (100, 150, 200, 250)]
    assert min(quarters) >= 3


def test_the_same_seed_chooses_the_same_rows_and_another_seed_different_ones() -> None:
    once, again, other = frame().choose(20), frame().choose(20), frame().choose(20, seed=1)

    assert once.row_ids == again.row_ids
    assert set(once.row_ids) != set(other.row_ids)


def test_the_choice_does_not_hang_on_the_order_of_the_manifest() -> None:
    turned = SamplingFrame()
    for number in reversed(range(200)):
        turned.add(seen(f"r{number}", 100 + number))
    assert set(turned.choose(20).row_ids) == set(frame().choose(20).row_ids)


def test_a_larger_pilot_keeps_most_rows_of_the_smaller_one() -> None:
    small, large = set(frame().choose(20).row_ids), set(frame().choose(40).row_ids)
    assert len(small & large) >= 16


def test_a_pilot_larger_than_the_job_is_all_of_it() -> None:
    choice = frame(7).choose(20)

    assert len(choice.row_ids) == choice.rows == 7
    told = choice.ticks(dict.fromkeys(choice.row_ids, 5.0))
    assert told is not None
    assert (told.low, told.value, told.high) == (35, 35, 35)


def test_rows_of_equal_cost_are_ordered_by_pixels() -> None:
    found = SamplingFrame()
    for number in range(100):
        found.add(seen(f"r{number}", 100, (number + 1, 10)))
    by_place = [int(row_id[1:]) // 25 for row_id in found.choose(8).row_ids]
    assert sum(place < 2 for place in by_place) == 4


def test_the_same_request_is_one_to_choose_from() -> None:
    found = SamplingFrame()
    for number in range(10):
        found.add(seen(f"r{number}", 100, key="same"))
    assert len(found) == 1


# ---------------------------------------------------------------------------------- known answers


def labelled(rows: int, known: int, examples: tuple[str, ...] = ()) -> SamplingFrame:
    """The first ``known`` rows have a known answer: of ten rows six shoes, three bags and one hat."""
    labels = {f"r{number}": ("shoe", "bag", "hat")[(number % 10 > 5) + (number % 10 > 8)] for number in range(known)}
    found = SamplingFrame(labels, examples)
    for number in range(rows):
        found.add(seen(f"r{number}", 100)._replace(image_sha256=(f"image-{number}",)))
    return found


def numbers_of(choice: Choice) -> list[int]:
    return sorted(int(row_id[1:]) for row_id in choice.row_ids)


def test_where_all_answers_are_known_each_label_has_its_share_of_the_chosen_rows() -> None:
    for seed in range(10):
        labels = Counter(
            (number % 10 > 5) + (number % 10 > 8) for number in numbers_of(labelled(500, 500).choose(100, seed))
        )
        assert [labels[each] for each in range(3)] == [
            pytest.approx(60, abs=2),
            pytest.approx(30, abs=3),
            pytest.approx(10, abs=2),
        ]


def test_four_of_five_chosen_rows_have_a_known_answer_and_the_fifth_has_none() -> None:
    choice = labelled(1000, 300).choose(100)
    assert sum(number < 300 for number in numbers_of(choice)) == 80
    assert len(choice.row_ids) == 100
    assert len(choice.known) == 300


def test_where_few_answers_are_known_all_of_them_are_chosen() -> None:
    chosen = numbers_of(labelled(1000, 10).choose(100))
    assert chosen[:10] == list(range(10))
    assert len(chosen) == 100


def test_a_row_that_shows_an_example_has_no_known_answer() -> None:
    choice = labelled(20, 20, examples=("image-3",)).choose(20)
    assert choice.known == {f"r{number}" for number in range(20)} - {"r3"}


@pytest.mark.parametrize("known", [200, 500])
def test_the_cost_of_all_rows_is_estimated_without_bias_from_rows_with_known_answers(known: int) -> None:
    """Hats cost three times as much as shoes, and rows without a known answer cost twice as much as known ones."""

    def cost(number: int) -> float:
        return (1 + 0.5 * (number % 10 > 5) + 1.5 * (number % 10 > 8)) * (1 + (number >= known))

    truth = sum(cost(number) for number in range(500))
    found = labelled(500, known)
    estimates = []
    for seed in range(200):
        choice = found.choose(100, seed)
        estimates.append(choice.ticks({row_id: cost(int(row_id[1:])) for row_id in choice.row_ids}))
    assert fmean(each.value for each in estimates if each) == pytest.approx(truth, rel=0.02)
    assert (
        sum(each.low <= truth <= each.high for each in estimates if each) >= 0.88 * 200
    )  # small samples may miss hats


# ---------------------------------------------------------------------------------- agreement

PLAIN = AnswerSpec()
TYPED = AnswerSpec(
    schema={
        "type": "object",
        "properties": {"label": {"type": "string", "enum": ["red shoe", "red bag"]}, "words": {"type": "string"}},
    }
)


@pytest.mark.parametrize(
    ("left", "right", "share"),
    [
        ("A red shoe", "a red shoe", 1.0),
        ("a red shoe", "A red running shoe.", 6 / 7),
        ("red red", "red", 2 / 3),
        ("a shoe", "the bag", 0.0),
        ("", "", 1.0),
        ("?", "!", 0.0),
        ("ÄPFEL", "äpfel", 1.0),
    ],
)
def test_text_is_alike_by_its_words(left: str, right: str, share: float) -> None:
    assert words_in_common(left, right) == pytest.approx(share)


def typed(label: str, words: str) -> Answered:
    return Answered("raw", f'{{"label": "{label}", "words": "{words}"}}')


def test_of_typed_answers_a_label_is_equal_or_not_and_text_is_compared_by_words() -> None:
    own = {"a": typed("red shoe", "one two"), "b": typed("red shoe", "one two"), "c": typed("red bag", "x")}
    other = {"a": typed("red shoe", "one two"), "b": typed("red bag", "one"), "d": typed("red bag", "x")}

    assert agreement(own, other, TYPED) == Agreement(3, 1, pytest.approx((1 + (0 + 2 / 3) / 2 + 0) / 3))


def test_nothing_to_compare_is_no_agreement() -> None:
    assert agreement({}, {"a": Answered("x", None)}, PLAIN) is None


# ---------------------------------------------------------------------------------- sweeps


def test_each_value_of_a_key_is_combined_with_each_value_of_the_next() -> None:
    found = settings(["detail=low,high", "max_side=512,1024"])

    assert [each.name for each in found] == [
        "detail=low max_side=512",
        "detail=low max_side=1024",
        "detail=high max_side=512",
        "detail=high max_side=1024",
    ]
    assert found[1].overrides == {"provider.detail": "low", "images.max_side": "1024"}


def test_a_swept_file_takes_the_place_of_the_prompt_in_the_job() -> None:
    (found,) = settings(["user_file=a.txt", "system_file=s.txt"])
    assert found.overrides == {
        "prompt.user": None,
        "prompt.column": None,
        "prompt.system": None,
        "prompt.user_file": "a.txt",
        "prompt.system_file": "s.txt",
    }


@pytest.mark.parametrize(
    ("sweep", "says"),
    [
        ("detail", "--sweep takes KEY=VALUE"),
        ("detail=", "--sweep takes KEY=VALUE"),
        ("=low", "cannot be swept"),
        ("limits.max_cost_usd=9", "limits.max_cost_usd cannot be swept"),
        ("provider.base_url=http://x", "cannot be swept"),
        ("output.path=x", "cannot be swept"),
        ("max_side=" + ",".join(map(str, range(1, MOST_SETTINGS + 2))), f"at most {MOST_SETTINGS}"),
    ],
)
def test_an_invalid_sweep_is_refused_before_a_request_is_sent(sweep: str, says: str) -> None:
    with pytest.raises(JobInvalid, match=says):
        settings([sweep])


def test_settings_that_ask_the_same_are_asked_once(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("id,image\na,a.png\n")

    def remake(more: Mapping[str, object]) -> Job:
        settings_of = {
            "name": "j",
            "manifest": {"path": "m.csv", "id": "id"},
            "prompt": {"user": "Describe."},
            "provider": {"name": "xai", "model": "grok-4.3"},
            "output": {"path": "out"},
        }
        return Job.from_mapping(settings_of, tmp_path, dict(more))

    found = list(variants(remake({}), settings(["detail=low,low,auto"]), remake))
    assert [setting.name for setting, _ in found] == ["detail=low", "detail=auto"]
