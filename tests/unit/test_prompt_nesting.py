"""How deep JSON is nested is known before it is read."""

from __future__ import annotations

import json

import pytest
from checkpoint_rows import START
from hypothesis import given
from hypothesis import strategies as st

from batchvision.errors import AnswerCutShort, InvalidAnswer
from batchvision.prompt import build_answer_spec, check_answer
from batchvision.prompt.check import MOST_DEPTH, is_deeper
from batchvision.providers import dialect, wire
from batchvision.records import RawAnswer

documents = st.recursive(
    st.none() | st.text(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


def depth_of(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)


@given(documents, st.integers(0, 6), st.booleans())
def test_the_depth_of_json_is_that_of_its_value(document: object, most: int, is_ascii: bool) -> None:
    text = json.dumps(document, ensure_ascii=is_ascii)
    assert is_deeper(text, most) == (depth_of(document) > most)
    assert is_deeper(f"   {text}", most, start=3) == (depth_of(document) > most)


def test_brackets_in_text_do_not_count() -> None:
    assert not is_deeper(json.dumps({"a": '\\"[[[[{{{{' * 50}), 2)
    assert not is_deeper("{} " + "[" * 500)
    assert is_deeper("[" * (MOST_DEPTH + 1))
    assert not is_deeper('"' + "[" * 500)


@pytest.mark.parametrize("deep", [MOST_DEPTH + 1, 500, 5_000, 100_000])
def test_a_deep_answer_is_invalid_and_a_deep_body_is_no_answer(deep: int) -> None:
    nested = "[" * deep + "]" * deep
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    with pytest.raises(InvalidAnswer, match="nested more than 64 deep"):
        check_answer(build_answer_spec(schema, (), False, False, None), nested)
    assert wire.parse(nested) == (None, "JSON nested too deep")
    body = f'{{"choices": [{{"message": {{"content": {nested}}}}}]}}'.encode()
    reading = dialect("xai").read(RawAnswer(200, {}, body, START))
    assert isinstance(reading.error, AnswerCutShort)
    assert "nested too deep" in reading.error.message
