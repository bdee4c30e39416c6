"""Which fault hits which try: markers, counts, probabilities."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchvision.emulator.faults import (
    ONLINE,
    POLLED,
    STREAMED,
    SUBMITTED,
    FaultKind,
    FaultMarker,
    FaultPicker,
    Stage,
    read_echo,
    read_markers,
    without_markers,
)


def picker(seed: int = 0, **rates: float) -> FaultPicker:
    return FaultPicker(rates, seed)


def test_every_kind_has_a_word_a_stage_and_a_sentence() -> None:
    for kind in FaultKind:
        assert kind.value == kind.name.lower()
        assert isinstance(kind.stage, Stage)
        assert kind.sentence.endswith(".")


def test_a_kind_is_found_by_word_by_dashed_word_and_by_http_status() -> None:
    assert FaultKind.named("server_error") is FaultKind.SERVER_ERROR
    assert FaultKind.named(" Half-Body ") is FaultKind.HALF_BODY
    assert FaultKind.named("529") is FaultKind.OVERLOADED


@pytest.mark.parametrize(
    ("word", "hint"), [("sever_error", "did you mean server_error?"), ("zzz", "there are: rejected")]
)
def test_an_unknown_kind_names_the_most_similar_one(word: str, hint: str) -> None:
    with pytest.raises(ValueError, match="no fault the emulator knows") as caught:
        FaultKind.named(word)
    assert hint in str(caught.value)


def test_markers_are_read_in_order_and_leave_a_clean_prompt() -> None:
    text = "Describe [[fault:empty:2]] this\n[[echo:row 7]] shoe [[fault:500]]"
    assert read_markers(text) == (FaultMarker(FaultKind.EMPTY, 2), FaultMarker(FaultKind.SERVER_ERROR, None))
    assert read_echo(text) == "row 7"
    assert without_markers(text) == "Describe this shoe"


@given(st.text())
def test_any_text_without_markers_is_left_alone_but_for_white_space(text: str) -> None:
    if "[[fault:" not in text and "[[echo:" not in text:
        assert without_markers(text) == " ".join(text.split())
        assert read_markers(text) == ()


def test_a_marker_without_a_count_always_fires() -> None:
    choose = picker()
    markers = read_markers("[[fault:rejected]]")
    assert [choose.pick(1, markers, ONLINE) for _ in range(3)] == [FaultKind.REJECTED] * 3


def test_a_counted_marker_fires_so_often_for_each_request_and_then_the_next_one_does() -> None:
    choose = picker()
    markers = read_markers("[[fault:rate_limited:2]] [[fault:empty:1]]")
    tries = [choose.pick(1, markers, ONLINE) for _ in range(4)]
    assert tries == [FaultKind.RATE_LIMITED, FaultKind.RATE_LIMITED, FaultKind.EMPTY, None]
    assert choose.pick(2, markers, ONLINE) is FaultKind.RATE_LIMITED


def test_a_fault_waits_for_its_stage() -> None:
    choose = picker()
    markers = read_markers("[[fault:stream_cut]] [[fault:poll_error:1]]")
    assert choose.pick(1, markers, ONLINE) is None
    assert choose.pick(1, markers, SUBMITTED) is None
    assert choose.pick(1, markers, STREAMED) is FaultKind.STREAM_CUT
    assert [choose.pick(1, markers, POLLED) for _ in range(2)] == [FaultKind.POLL_ERROR, None]


def test_a_fault_that_does_not_apply_is_passed_over_without_being_counted() -> None:
    choose = picker()
    markers = read_markers("[[fault:image_download_failed:1]]")
    assert choose.pick(1, markers, ONLINE, (FaultKind.IMAGE_DOWNLOAD_FAILED,)) is None
    assert choose.pick(1, markers, ONLINE) is FaultKind.IMAGE_DOWNLOAD_FAILED


def test_dice_depend_on_the_seed_and_the_request_and_not_on_the_order() -> None:
    forth, back = picker(3, server_error=0.3, empty=0.2), picker(3, server_error=0.3, empty=0.2)
    first = {number: forth.pick(number, (), ONLINE) for number in range(300)}
    second = {number: back.pick(number, (), ONLINE) for number in reversed(range(300))}
    other = {number: picker(4, server_error=0.3, empty=0.2).pick(number, (), ONLINE) for number in range(300)}
    assert first == second
    assert first != other


def test_rates_are_kept_roughly_and_a_second_try_throws_again() -> None:
    choose = picker(server_error=0.25)
    hits = [number for number in range(2000) if choose.pick(number, (), ONLINE)]
    again = [number for number in hits if choose.pick(number, (), ONLINE)]
    assert 400 < len(hits) < 600
    assert 0 < len(again) < len(hits) / 2


def test_rates_of_poll_faults_do_not_hit_submissions() -> None:
    choose = picker(poll_error=1.0)
    assert choose.pick(1, (), SUBMITTED) is None
    assert choose.pick(1, (), POLLED) is FaultKind.POLL_ERROR
