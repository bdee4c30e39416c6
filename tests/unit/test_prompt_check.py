from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchvision.errors import InvalidAnswer
from batchvision.prompt import build_answer_spec, check_answer, names_fallback
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


def test_a_message_stays_short_for_any_answer() -> None:
    assert len(refused(PRODUCT, json.dumps({"name": "x" * 100_000}))) < 400


def test_a_label_outside_the_list_is_refused() -> None:
    assert "hat" in refused(ONE, '{"label": "hat"}')
    assert "shoehorn" in refused(ONE, '{"label": "shoehorn"}')
    assert "hat" in refused(MANY, '{"label": ["shoe", "hat"]}')


def test_a_bare_label_is_an_answer_where_only_a_label_is_asked_for() -> None:
    assert check_answer(ONE, "shoe").output_json == '{"label": "shoe"}'
    assert check_answer(ONE, '"bag"').columns == {"answer_label": "bag"}
    assert check_answer(MANY, "bag").columns == {"answer_label": ["bag"]}
    assert "not JSON" in refused(build_answer_spec(labels=LABELS, confidence=True), "shoe")


NEAR_MISSES = (
    '{"label": "Shoe"}', '{"label": "shoe."}', '{"label": " shoe "}', '{"label": ["shoe"]}', '["shoe"]', '"SHOE"',
    '[{"label": "shoe"}]', '{"answer": {"label": "shoe"}}', '{"category": "shoe"}',
    "Shoe", "shoe.", "**shoe**", "`shoe`", "**Shoe**.", "(shoe)", "- shoe", "# Shoe", "<answer>shoe</answer>",
    "```\nshoe\n```", "```text\nShoe\n```", "label: shoe", "**Label:** shoe", "\\boxed{shoe}", "shoe<|im_end|>",
    "<think>is it a bag? no.</think>\nshoe", "a bag, I think\n</think>\n\nShoe",
    '<think>{"label": "bag"}</think>\n{"label": "shoe"}', '<|begin_of_box|>{"label": "shoe"}<|end_of_box|>',
    "<|begin_of_box|>shoe<|end_of_box|>", '[THINK]a bag?[/THINK]{"label": "shoe"}',
    '<|channel|>analysis<|message|>a {"label": "bag"}?<|end|><|start|>assistant<|channel|>final<|message|>shoe',
    'Here is the JSON:\n```json\n{"label": "shoe"}\n```', '```json\n{"label": "shoe"}\n```\nAnything else?',
    '```json {"label": "shoe"} ```', 'They want {json}. So: {"label": "shoe"}', '{{"label": "shoe"}}',
    'First {"label": "bag"}, no: {"label": "shoe"}', '{"label": "shoe"} or {"label": "hat"}?',
)  # fmt: skip
NO_LABEL = (
    "a green tree", "It is a shoe", "shoe or bag", "not shoe", "shoehorn", "shoe, bag", '["shoe", "bag"]',
    '{"label": "shoehorn"}', '{"label": ["shoe", "bag"]}', '{"label": []}', '{"label": null}', "{}", "[]", "null", "",
    '{"label": {"label": {"label": "shoe"}}}', 'I would say ["shoe"].', 'It is "shoe", I think',
    '{"label": "shoe",}', '{"label": "sho', '{"label": "shoe"', '{"a": {"label": "shoe"}, "b": ', '[{"label": "shoe"}',
    '<think>It could be {"label": "bag"} or {"label": "shoe"}, I am not', "<think>shoe</think>", "shoe</think>",
    '{"label": "shoe"}</think>', '{"label": "shoe", "why": "heels"}', '{"a": "shoe", "b": "bag"}', "```\nshoe\n```\nso",
)  # fmt: skip


@pytest.mark.parametrize("spec", [ONE, ONE_OR_OTHER], ids=["plain", "fallback"])
@pytest.mark.parametrize("text", NEAR_MISSES)
def test_an_answer_that_is_one_label_nearly_spelled_is_that_label(spec: AnswerSpec, text: str) -> None:
    answer = check_answer(spec, text)
    assert answer.columns == {"answer_label": "shoe"}
    assert json.loads(answer.output_json or "") == {"label": "shoe"}


@pytest.mark.parametrize("spec", [ONE, ONE_OR_OTHER], ids=["plain", "fallback"])
@pytest.mark.parametrize("text", NO_LABEL)
def test_what_names_no_label_is_invalid_and_never_the_fallback(spec: AnswerSpec, text: str) -> None:
    assert refused(spec, text)


@pytest.mark.parametrize("text", ["other", "Other.", '{"label": "other"}', '{"label": ["OTHER"]}'])
def test_the_fallback_is_chosen_by_the_model_alone(text: str) -> None:
    answer = check_answer(ONE_OR_OTHER, text)
    assert answer.columns == {"answer_label": "other"}
    assert names_fallback(ONE_OR_OTHER, answer.columns)
    assert not names_fallback(ONE_OR_OTHER, check_answer(ONE_OR_OTHER, "shoe").columns)
    assert not names_fallback(ONE, check_answer(ONE, "shoe").columns)


def test_of_many_labels_each_is_read_and_an_empty_list_means_the_fallback() -> None:
    assert check_answer(MANY, '{"label": ["Shoe", "bag."]}').columns == {"answer_label": ["shoe", "bag"]}
    assert check_answer(MANY, '["shoe", "BAG"]').columns == {"answer_label": ["shoe", "bag"]}
    assert check_answer(MANY, '{"label": "bag"}').columns == {"answer_label": ["bag"]}
    assert check_answer(MANY, '{"label": []}').columns == {"answer_label": []}
    empty = check_answer(MANY_OR_OTHER, '{"label": []}')
    assert empty.columns == {"answer_label": ["other"]}
    assert names_fallback(MANY_OR_OTHER, empty.columns)
    assert "hat" in refused(MANY_OR_OTHER, '{"label": ["bag", "hat"]}')
    assert "hat" in refused(MANY_OR_OTHER, '{"label": "hat"}')


def test_an_exact_label_comes_first_and_nothing_is_forgiven_where_two_could_be_meant() -> None:
    spec = build_answer_spec(labels=[Label("Shoe"), Label("shoe"), Label("C"), Label("C."), Label("bag")])
    for exact in ("Shoe", "shoe", "C", "C."):
        assert check_answer(spec, exact).columns == {"answer_label": exact}
        assert check_answer(spec, f"**{exact}**").columns == {"answer_label": exact}
    for unclear in ("SHOE", "shoe.", "c", "C!"):
        assert refused(spec, unclear)
        assert refused(spec, json.dumps({"label": unclear}))
    assert check_answer(spec, "BAG").columns == {"answer_label": "bag"}


def test_a_label_that_is_json_by_itself_is_a_label() -> None:
    spec = build_answer_spec(labels=[Label("1"), Label("true"), Label("[x]")])
    for label in ("1", "true", "[x]"):
        assert check_answer(spec, label).columns == {"answer_label": label}


def test_a_fallback_that_can_be_confused_with_a_label_is_not_forgiven() -> None:
    spec = build_answer_spec(labels=[Label("Other"), Label("bag")], fallback="other")
    assert check_answer(spec, "other").columns == {"answer_label": "other"}
    assert check_answer(spec, "Other").columns == {"answer_label": "Other"}
    assert refused(spec, "OTHER")


def test_other_properties_than_the_label_are_read_strictly() -> None:
    spec = build_answer_spec(
        {"type": "object", "properties": {"n": {"enum": ["One"]}}, "required": ["n"]}, LABELS, fallback="other"
    )
    assert check_answer(spec, '{"n": "One", "label": "Bag"}').columns == {"answer_n": "One", "answer_label": "bag"}
    assert "at label" in refused(spec, '{"n": "One", "label": "hat"}')
    assert "at n" in refused(spec, '{"n": "one", "label": "bag"}')
    assert "not JSON" in refused(spec, "bag")


# ---------------------------------------------------------------------------------- JSON among other words

BOX = build_answer_spec({"type": "object", "properties": {"w": {"type": "integer"}}, "required": ["w"]})


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ('The box: {"w": 3}.', '{"w": 3}'),
        ('{"w": 1} then {"w": 2}', '{"w": 2}'),
        ('{"w": 1} then {"w": "two"}', '{"w": 1}'),
        ('{"w": 1} then {"w": 2', '{"w": 1}'),
        ('It\'s 3" wide [roughly]: {"w": 3}', '{"w": 3}'),
        ('<think>{"w": 1}</think>{"w": 2} <think>{"w": 3}', '{"w": 2}'),
        ('[{"w": 3}]', '{"w": 3}'),
        ('so [{"w": 3}] it is', '{"w": 3}'),
        ('{"box": {"w": 3}}', '{"w": 3}'),
        ('I used {"w" and "h"}: {"w": 3}', '{"w": 3}'),
        ('{"w": 3, "note</think>": 1} {"w": 4}', '{"w": 4}'),
    ],
)
def test_the_last_whole_object_that_satisfies_the_schema_is_the_answer(text: str, stored: str) -> None:
    assert check_answer(BOX, text).output_json == stored


@pytest.mark.parametrize(
    "text",
    [
        '[[{"w": 3}]]', '{"a": {"b": {"w": 3}}}', '[{"w": 1}, {"w": 2}]', '{"a": {"w": 1}, "b": 2}',
        '{"a": {"w": 1}, "b": "broken', '"{\\"w\\": 3}"', '{"w": 3, "w": 3}', "w: 3", "[3]", '{"w": 3,}',
    ],
)  # fmt: skip
def test_a_part_of_a_value_is_no_answer(text: str) -> None:
    assert refused(BOX, text)


def test_an_empty_object_among_words_is_no_answer() -> None:
    spec = build_answer_spec({"type": "object", "properties": {"w": {"type": "integer"}}})
    assert check_answer(spec, "{}").columns == {"answer_w": None}
    assert refused(spec, "I leave {} empty")
    assert refused(spec, '{"result": {}}')


def test_the_problem_is_that_of_the_last_object() -> None:
    assert refused(BOX, 'no {"w": "one"} but {"w": "two"}') == 'at w: "two" is not of type "integer"'
    assert "nothing follows the model's thoughts" in refused(BOX, '<think>{"w": 3}</think> ')


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
