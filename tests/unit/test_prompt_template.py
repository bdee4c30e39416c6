from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchvision.keys import hashed_text
from batchvision.prompt import ColumnField, Template, TemplateError, joined
from batchvision.records import ImageSlot, Prompt

plain = st.text(st.characters(codec="utf-8", exclude_characters="{}\x00"))


def whole(text: str) -> Prompt:
    return (text,) if text else ()


names = st.text(st.characters(codec="utf-8", exclude_characters='{}\x00"\n'), min_size=1).filter(
    lambda name: name == name.strip() and name != "image" and not name.startswith("image:")
)


def test_a_template_is_texts_columns_and_image_slots_in_order() -> None:
    template = Template.parse("A {title} of {image}, see {image:back}{image}.")
    assert template.parts == (
        "A ",
        ColumnField("title"),
        " of ",
        ImageSlot(""),
        ", see ",
        ImageSlot("back"),
        ImageSlot(""),
        ".",
    )
    assert template.columns == ("title",)
    assert template.slots == ("", "back")


def test_columns_are_named_once_in_order_of_first_appearance() -> None:
    assert Template.parse("{b} {a} {b}").columns == ("b", "a")


def test_doubled_braces_are_text_and_neighbouring_texts_are_one() -> None:
    assert Template.parse('Answer {{"a": 1}}.').parts == ('Answer {"a": 1}.',)


def test_a_column_name_may_hold_spaces_and_is_trimmed() -> None:
    assert Template.parse("{ Product Name }").columns == ("Product Name",)


def test_a_cell_is_inserted_as_it_is_and_never_read_as_a_template() -> None:
    assert Template.parse("<{t}>").render({"t": "{image} {{x}}"}) == ("<{image} {{x}}>",)


def test_a_prompt_has_a_slot_where_the_template_places_an_image() -> None:
    prompt = Template.parse("a{title}{image}b{image:front}").render({"title": "T"})
    assert prompt == ("aT", ImageSlot(""), "b", ImageSlot("front"))


def test_keys_hash_a_slot_as_its_name_between_two_nuls() -> None:
    assert hashed_text(("a", ImageSlot(""), "b", ImageSlot("front"))) == "a\x00\x00b\x00front\x00"
    assert hashed_text(("plain",)) == "plain"


def test_a_missing_cell_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        Template.parse("{t}").render({})


@pytest.mark.parametrize(
    ("text", "place", "advice"),
    [
        ("ab {title", "line 1, column 4", "never closed"),
        ("ab\ncd }", "line 2, column 4", "}}"),
        ("{}", "line 1, column 1", "names no column"),
        ("{ }", "line 1, column 1", "names no column"),
        ('say {"a": 1}', "line 1, column 5", "{{ and }}"),
        ("{a{b}}", "line 1, column 1", "never closed"),
        ("{image:}", "line 1, column 1", "{image}"),
        ("one\ntwo\x00", "line 2, column 4", "NUL"),
    ],
)
def test_a_mistake_names_its_place_and_what_to_write(text: str, place: str, advice: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template.parse(text)
    assert str(caught.value).startswith(place)
    assert advice in str(caught.value)


@given(plain)
def test_text_without_braces_renders_as_itself(text: str) -> None:
    assert Template.parse(text).render({}) == whole(text)


@given(st.lists(st.tuples(plain, names), max_size=5), plain)
def test_every_column_is_replaced_by_its_cell(parts: list[tuple[str, str]], end: str) -> None:
    text = "".join(f"{before}{{{name}}}" for before, name in parts) + end
    cells = {name: f"<{number}>{{}}" for number, (_, name) in enumerate(parts)}
    expected = "".join(before + cells[name] for before, name in parts) + end
    assert Template.parse(text).render(cells) == whole(expected)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00")))
def test_any_text_with_its_braces_doubled_is_that_text(text: str) -> None:
    assert Template.parse(text.replace("{", "{{").replace("}", "}}")).render({}) == whole(text)


@given(st.text(st.sampled_from('{}a \n:image\x00"')))
def test_any_text_parses_or_is_a_template_error(text: str) -> None:
    try:
        template = Template.parse(text)
    except TemplateError as error:
        assert str(error).startswith("line ")
    else:
        prompt = template.render(dict.fromkeys(template.columns, ""))
        assert joined(prompt) == prompt
