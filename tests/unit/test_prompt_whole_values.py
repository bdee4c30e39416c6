from __future__ import annotations

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchvision.prompt import whole_values as module
from batchvision.prompt.spoken import thoughts_in, unfenced, without_thoughts
from batchvision.prompt.whole_values import whole_values


def found_in(text: str) -> list[str]:
    return [text[span.start : span.end] for span in whole_values(text)]


def test_whole_values_stand_in_no_other_one_and_what_is_broken_has_no_parts() -> None:
    assert found_in('a {"b": [1]} c [2, {"d": "}"}] e') == ['{"b": [1]}', '[2, {"d": "}"}]']
    assert found_in('{"a": {"b": 1}, "c') == []
    assert found_in('{"a": {"b": 1} "c"} {"d": 1}') == ['{"d": 1}']
    assert found_in('use {x} or {"x": "y"}') == ['{"x": "y"}']
    assert found_in('{"he said {"a": 1}') == ['{"a": 1}']
    assert found_in('[1, 02] [NaN] [1,] [,1] {"a" 1} {1: 2} [tru] ["\\"]"]') == ['["\\"]"]']


def naive(text: str) -> list[str]:
    """The same, by trying each bracket: quadratic."""
    decoder = json.JSONDecoder(parse_constant=lambda name: (_ for _ in ()).throw(ValueError(name)), strict=False)
    found, position, hidden = [], 0, set[int]()
    for start in range(len(text)):
        if start < position or text[start] not in "[{" or start in hidden:
            continue
        try:
            _, end = decoder.raw_decode(text, start)
        except ValueError:
            hidden |= set(openings_read(text, start))
            continue
        found.append(text[start:end])
        position = end
    return found


def openings_read(text: str, start: int) -> list[int]:
    """The brackets that the value at ``start`` consists of, up to where it breaks: those before which it still may go
    on. A bracket is one of them if the text up to it, closed in some way, is a value."""
    seen, inside, place = [], list[str](), start
    tokens = re.compile(r'\s*(?:([\[{])|([\]}])|([,:])|("(?:[^"\\]|\\.)*")|([-+.\w]+))', re.DOTALL)
    before = ""
    while token := tokens.match(text, place):
        opening, closing, mark, string, atom = token.groups()
        allowed = allowed_after(before, inside)
        kind = opening or closing or mark or ("string" if string else "atom")
        if kind not in allowed or (atom and not is_atom(atom)):
            break
        if opening:
            seen.append(token.end() - 1)
            inside.append(opening)
        if closing:
            inside.pop()
        before = "name" if kind == "string" and allowed_after(before, inside) <= {"string", "}"} else kind
        place = token.end()
    return seen


def is_atom(text: str) -> bool:
    try:
        json.loads(text, parse_constant=lambda name: (_ for _ in ()).throw(ValueError(name)))
    except ValueError:
        return False
    return True


def allowed_after(before: str, inside: list[str]) -> set[str]:
    value = {"{", "[", "string", "atom"}
    match before:
        case "":
            return value
        case "{":
            return {"string", "}"}
        case "[":
            return {*value, "]"}
        case ":":
            return value
        case "name":
            return {":"}
        case ",":
            return {"string"} if inside[-1] == "{" else value
    return {",", "}" if inside[-1] == "{" else "]"} if inside else set()


pieces = st.sampled_from(
    [
        "{",
        "}",
        "[",
        "]",
        '"',
        "\\",
        ",",
        ":",
        " ",
        "a",
        "1",
        "-",
        "true",
        '"a"',
        '"a":',
        '{"a":1}',
        '{"b":[',
        "\n",
        "{x}",
    ]
)


@given(st.lists(pieces, max_size=30).map("".join))
@example('{"a{": 1, "b": {"c": "}"} x} {"d": 2}')
@example('["[1]", [1] 2]')
@example('["\\\\", {"a":1}')
def test_whole_values_are_those_that_json_reads(text: str) -> None:
    if "\\" in text:  # escapes that JSON does not know are left to its reader
        text = re.sub(r'\\(?!["\\])', "", text)
    assert found_in(text) == naive(text)


class Counting:
    """Counts the characters and the tokens that are looked at."""

    def __init__(self) -> None:
        self.steps = 0

    def __call__(self, text: str, position: int) -> re.Match[str] | None:
        found = module._TOKEN.match(text, position)
        self.steps += 1 if found is None else 1 + found.end() - position
        return found


HOSTILE = {
    "brackets": "[",
    "braces": "{",
    "objects in objects": '{"a":',
    "objects in lists": '[{"a":',
    "strings with brackets": '["[',
    "names with brackets": '{"{":["',
    "names and values with brackets": '{"[":"{",',
    "strings never closed": '{"a',
    "escapes": '{"\\"[',
    "more escapes": '["\\\\",["\\',
    "siblings": '[{"a":1},',
    "prose": 'He said "use {json}" and [that] is: ',
    "small values": '{"a":1}',
    "atoms": "[1,2,tru,",
    "blanks": "[   ",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_the_work_grows_with_the_text_and_not_with_its_square(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for repeats in (500, 20_000):
        whole = text * repeats
        counting = Counting()
        monkeypatch.setattr(module, "_token_at", counting)
        whole_values(whole)
        assert 0 < counting.steps <= 4 * len(whole)


@given(st.lists(st.sampled_from(sorted(HOSTILE.values())) | pieces, min_size=1, max_size=8).map("".join))
def test_the_work_is_linear_for_any_repeated_text(text: str) -> None:
    whole = text * 200
    counting = Counting()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_token_at", counting)
        whole_values(whole)
    assert counting.steps <= 4 * len(whole)


# ---------------------------------------------------------------------------------- thoughts and fences


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a", "a"),
        ("<think>a</think>b", "b"),
        ("a</think>b", "b"),
        ("a</think>b</think>c", "c"),
        ("a<think>b</think>c", "ac"),
        ("a<think>b", "a"),
        ("<think>a <think> b</think>c</think>d", "d"),
        ("<think>the user says <think>: odd</think>d", "d"),
        ("<THINKING>a</thinking >b", "b"),
        ("◁think▷a◁/think▷b", "b"),
        ("[THINK]a[/THINK]b", "b"),
        ("<|begin_of_thought|>a<|end_of_thought|>b", "b"),
        ("<unused94>thought a<unused95>b", "b"),
        ("<|channel>thought\na<channel|>b", "b"),
        ("<seed:think>a</seed:think>b", "b"),
        ("a <b>thinking</b> man", "a <b>thinking</b> man"),
    ],
)
def test_thoughts_are_taken_away(text: str, left: str) -> None:
    assert without_thoughts(text) == left


@pytest.mark.parametrize(
    ("text", "thought"),
    [
        ("a", None),
        ("<think> </think>b", None),
        ("<think>a</think>b", "a"),
        ("a</think>b", "a"),
        ("a<think>b</think>c</think>d", "bac"),
        ("a<think>b<think>c", "b<think>c"),
    ],
)
def test_thoughts_can_be_kept(text: str, thought: str | None) -> None:
    assert thoughts_in(text) == thought


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("```\na\n```", "a"),
        ("```json\r\na\r\n```", "a"),
        ("```json a```", "json a"),
        ("~~~\na\n~~~", "a"),
        ("``````", "``````"),
        ("```\na", "```\na"),
        ("\ufeff a ", "a"),
        ("```two words\na\n```", "two words\na"),
    ],
)
def test_a_fence_around_all_of_it_is_taken_away(text: str, left: str) -> None:
    assert unfenced(text) == left
