from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchvision.errors import InvalidAnswer
from batchvision.prompt import build_answer_spec, check_answer
from batchvision.records import AnswerSpec, Label

LABELS = (Label("shoe"), Label("bag"))
PRODUCT = build_answer_spec(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "count": {"type": "integer", "minimum": 0},
            "price": {"type": "number"},
            "new": {"type": "boolean"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "box": {"type": "object", "properties": {"w": {"type": "integer"}}, "required": ["w"]},
        },
        "required": ["name"],
    }
)
ONE = build_answer_spec(labels=LABELS)
ONE_OR_OTHER = build_answer_spec(labels=LABELS, fallback="other")
MANY = build_answer_spec(labels=LABELS, many=True)
MANY_OR_OTHER = build_answer_spec(labels=LABELS, many=True, fallback="other")
SPECS = (AnswerSpec(), PRODUCT, ONE, ONE_OR_OTHER, MANY, MANY_OR_OTHER)


def refused(spec: AnswerSpec, text: str) -> str:
    with pytest.raises(InvalidAnswer) as caught:
        check_answer(spec, text)
    return str(caught.value)


def test_plain_text_is_any_text_and_has_no_json() -> None:
    answer = check_answer(AnswerSpec(), "A red shoe.")
    assert answer.output_json is None
    assert answer.columns == {}


def test_values_get_the_types_of_their_columns() -> None:
    text = '{"name": "x", "count": 3.0, "price": 2, "new": true, "tags": ["a"], "box": {"w": 1}}'
    answer = check_answer(PRODUCT, text)
    assert answer.output_json == text
    assert answer.columns == {
        "answer_name": "x",
        "answer_count": 3,
        "answer_price": 2.0,
        "answer_new": True,
        "answer_tags": ["a"],
        "answer_box": '{"w": 1}',
    }
    assert type(answer.columns["answer_count"]) is int
    assert type(answer.columns["answer_price"]) is float


def test_what_is_optional_may_be_null_or_absent() -> None:
    assert check_answer(PRODUCT, '{"name": "x"}').columns["answer_count"] is None
    assert check_answer(PRODUCT, '{"name": "x", "count": null}').columns["answer_count"] is None


@pytest.mark.parametrize(
    "text",
    [
        '\n\n  {"label": "shoe"}',
        '```json\n{"label": "shoe"}\n```',
        '\n```\n{"label": "shoe"}\n```\n',
        '```JSON\r\n{"label": "shoe"}```',
        '\ufeff{"label": "shoe"}',
    ],
)
def test_blank_lines_and_a_fence_are_forgiven(text: str) -> None:
    answer = check_answer(ONE, text)
    assert answer.output_json == '{"label": "shoe"}'
    assert answer.columns == {"answer_label": "shoe"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ("A shoe.", "not JSON"),
        ('{"name": "x"', "not JSON"),
        ('{"name": "x"} and more', "not JSON"),
        ("[1]", "is not of type"),
        ("null", "is not of type"),
        ('{"name": "x", "name": "y"}', "'name' is there twice"),
        ('{"name": "x", "price": NaN}', "NaN"),
        ('{"name": "x", "price": -Infinity}', "-Infinity"),
        ('{"name": "x", "price": 1e999}', "too large"),
        ('{"name": "x", "count": 9223372036854775808}', "does not fit 64 bits"),
        ('{"name": "x", "count": 1e19}', "at count: the number does not fit the column answer_count"),
        ('{"name": "x", "count": %s}' % ("9" * 5000), "does not fit 64 bits"),
        ('{"name": "x", "price": %s}' % ("9" * 400), "does not fit 64 bits"),
        ('{"name": "x", "count": -1}', "at count: -1 is less than the minimum"),
        ('{"name": "xxxxxxxxxxxxxxxxxxxxx"}', "at name"),
        ('{"name": "x", "tags": ["a", 1]}', "at tags.1"),
        ('{"name": "x", "new": "yes"}', "at new"),
        ('{"name": "x", "box": {"w": "1"}}', "at box.w"),
        ('{"name": "x", "extra": 1}', "extra"),
        ('{"count": 1}', '"name" is a required property'),
        ('{"name": "x", "tags": %s}' % ("[" * 5000 + "]" * 5000), "deep"),
    ],
)
def test_what_the_schema_does_not_allow_is_refused_with_its_place(text: str, says: str) -> None:
    assert says in refused(PRODUCT, text)


def test_a_message_stays_short_whatever_the_answer_is() -> None:
    assert len(refused(PRODUCT, json.dumps({"name": "x" * 100_000}))) < 400


def test_a_label_outside_the_list_is_refused() -> None:
    assert "hat" in refused(ONE, '{"label": "hat"}')
    assert "Shoe" in refused(ONE, '{"label": "Shoe"}')
    assert "hat" in refused(MANY, '{"label": ["shoe", "hat"]}')


def test_a_bare_label_is_an_answer_where_only_a_label_is_asked_for() -> None:
    assert check_answer(ONE, "shoe").output_json == '{"label": "shoe"}'
    assert check_answer(ONE, '"bag"').columns == {"answer_label": "bag"}
    assert check_answer(MANY, "bag").columns == {"answer_label": ["bag"]}
    assert "not JSON" in refused(build_answer_spec(labels=LABELS, confidence=True), "shoe")


@pytest.mark.parametrize("text", ['{"label": "hat"}', '{"label": null}', "{}", "I cannot tell.", '{"label": ["shoe"]}'])
def test_the_fallback_stands_in_where_none_of_the_labels_is_named(text: str) -> None:
    answer = check_answer(ONE_OR_OTHER, text)
    assert answer.columns == {"answer_label": "other"}
    assert json.loads(answer.output_json or "") == {"label": "other"}


def test_the_fallback_leaves_a_named_label_alone() -> None:
    assert check_answer(ONE_OR_OTHER, '{"label":"bag"}').output_json == '{"label":"bag"}'
    assert check_answer(MANY_OR_OTHER, '{"label": ["bag", "hat"]}').columns == {"answer_label": ["bag"]}
    assert check_answer(MANY_OR_OTHER, '{"label": []}').columns == {"answer_label": ["other"]}
    assert check_answer(MANY_OR_OTHER, '{"label": "hat"}').columns == {"answer_label": ["other"]}


def test_the_fallback_mends_no_other_property() -> None:
    spec = build_answer_spec(
        {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}, LABELS, fallback="other"
    )
    assert check_answer(spec, '{"n": 1, "label": "hat"}').columns == {"answer_n": 1, "answer_label": "other"}
    assert "at n" in refused(spec, '{"n": "x", "label": "hat"}')
    assert "not JSON" in refused(spec, "hat")


def test_half_an_emoji_is_replaced_as_no_table_can_store_it() -> None:
    answer = check_answer(PRODUCT, '{"name": "a\\ud83d"}')
    assert answer.columns["answer_name"] == "a\ufffd"
    assert answer.output_json == '{"name": "a\ufffd"}'
    assert check_answer(PRODUCT, '{"name": "a\ud83d"}').columns["answer_name"] == "a\ufffd"
    assert check_answer(PRODUCT, '{"name": "\\ud83d\\ude00"}').columns["answer_name"] == "😀"


def test_a_spec_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(
        "batchvision.prompt.check.compile_schema", lambda schema: compiled.append(schema) or (lambda v: None)
    )
    spec = build_answer_spec(labels=LABELS)
    for _ in range(3):
        check_answer(spec, '{"label": "bag"}')
    assert len(compiled) == 1


def test_more_specs_than_are_kept_are_still_checked_right() -> None:
    specs = [build_answer_spec(labels=(Label(f"l{number}"),)) for number in range(100)]
    for number, spec in enumerate(specs + specs):
        name = f"l{number % 100}"
        assert check_answer(spec, name).columns == {"answer_label": name}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["shoe", "hat"]),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(st.sampled_from(["name", "count", "price", "tags", "box", "label"]) | st.text(), children)
    ),
    max_leaves=8,
)


def storable(value: Any) -> bool:
    match value:
        case str():
            return value.encode() is not None
        case float():
            return math.isfinite(value)
        case int():
            return -(2**63) <= value < 2**63
        case list():
            return all(storable(one) for one in value)
    return value is None


@given(st.text() | json_values.map(json.dumps) | st.text(st.sampled_from('{}[]":,`\n\\ud8name1e9-')))
@example("\ud800")
@example("[" * 100_000)
@example('{"name":' * 400)
def test_any_text_is_an_answer_or_an_invalid_answer_and_nothing_else(text: str) -> None:
    for spec in SPECS:
        try:
            answer = check_answer(spec, text)
        except InvalidAnswer as error:
            assert str(error)
        else:
            assert answer.output_json is None or json.loads(answer.output_json) is not None
            assert all(storable(value) for value in answer.columns.values())
