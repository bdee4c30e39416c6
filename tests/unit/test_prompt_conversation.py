from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchvision.prompt import Conversation, Template, build_answer_spec, joined
from batchvision.records import AnswerSpec, Example, ImageSlot, Label, Payload, Prompt, Recipe

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


def recipe(**changes: Any) -> Recipe:
    settings: dict[str, Any] = {
        "provider": "xai",
        "model": "m",
        "system": None,
        "user": "Describe it.",
        "user_column": None,
        **changes,
    }
    return Recipe(**settings)


def inline(slot: str = "image", content: bytes = PNG, media_type: str = "image/png") -> Payload:
    return Payload("sha256:x", "a.png", slot, "x", inline=content, media_type=media_type)


def linked(url: str, slot: str = "image") -> Payload:
    return Payload(f"url:{url}", url, slot, None, url=url)


def said(conversation: Conversation, prompt: str | Prompt, *payloads: Payload) -> list[str]:
    """The user's parts: texts as they are, images by their URL in angle brackets. A ``str`` is a template."""
    prompt = Template.parse(prompt).render({}) if isinstance(prompt, str) else prompt
    user = json.loads(conversation.messages(prompt, payloads))[-1]
    assert user["role"] == "user"
    return [part["text"] if part["type"] == "text" else f"<{part['image_url']['url']}>" for part in user["content"]]


def test_a_request_is_the_system_message_and_the_users_parts() -> None:
    raw = Conversation(recipe(system="Be brief.", detail="high")).messages(("Größe?",), [linked("https://x/a.jpg")])
    assert raw.decode() == (
        '[{"role":"system","content":"Be brief."},'
        '{"role":"user","content":[{"type":"text","text":"Größe?"},'
        '{"type":"image_url","image_url":{"url":"https://x/a.jpg","detail":"high"}}]}]'
    )


def test_an_inline_image_is_a_data_uri_of_its_bytes() -> None:
    raw = Conversation(recipe()).messages(("t",), [inline()])
    url = json.loads(raw)[0]["content"][1]["image_url"]["url"]
    kind, _, encoded = url.partition(";base64,")
    assert kind == "data:image/png"
    assert base64.b64decode(encoded) == PNG


def test_text_comes_first_and_images_first_turns_it() -> None:
    assert said(Conversation(recipe()), "t", linked("a"), linked("b")) == ["t", "<a>", "<b>"]
    assert said(Conversation(recipe(images_first=True)), "t", linked("a"), linked("b")) == ["<a>", "<b>", "t"]


def test_each_plain_marker_takes_the_next_image_and_the_rest_follow() -> None:
    text = "first {image} then {image} end"
    images = [linked(name) for name in "abc"]
    assert said(Conversation(recipe()), text, *images) == ["first ", "<a>", " then ", "<b>", " end", "<c>"]
    assert said(Conversation(recipe(images_first=True)), text, *images)[0] == "<c>"


def test_a_named_marker_takes_all_images_of_its_slot_even_when_plain_ones_come_before() -> None:
    images = [linked("f1", "front"), linked("s", "side"), linked("f2", "front")]
    assert said(Conversation(recipe()), "{image}|{image:front}|", *images) == ["<s>", "|", "<f1>", "<f2>", "|"]


def test_a_marker_without_an_image_leaves_nothing() -> None:
    assert said(Conversation(recipe()), "a{image}b{image:front}", linked("x")) == ["a", "<x>", "b"]
    assert said(Conversation(recipe()), "a{image}b{image:back}") == ["a", "b"]


def test_a_slot_named_twice_shows_its_images_once() -> None:
    assert said(Conversation(recipe()), "{image:f}-{image:f}", linked("x", "f")) == ["<x>", "-"]


def test_blanks_between_images_are_no_parts_of_their_own() -> None:
    assert said(Conversation(recipe()), "a{image} \n{image}", linked("x"), linked("y")) == ["a", "<x>", "<y>"]


def test_a_message_always_has_content() -> None:
    assert said(Conversation(recipe()), "") == [""]
    assert said(Conversation(recipe()), "", linked("x")) == ["<x>"]


def test_examples_stand_between_the_system_and_the_row() -> None:
    examples = (Example("What is {{this}}? {image}", ("a.png",), "A {shoe}."), Example("And now?", (), "Nothing."))
    made = Conversation(recipe(system="S", examples=examples, example_image_sha256=("1",)), [linked("ex")])
    messages = json.loads(made.messages(("row",), []))
    assert [message["role"] for message in messages] == [
        "system", "user", "assistant", "user", "assistant", "user",
    ]  # fmt: skip
    assert messages[1]["content"][0]["text"] == "What is {this}? "
    assert messages[1]["content"][1]["image_url"]["url"] == "ex"
    assert messages[2]["content"] == "A {shoe}."
    assert messages[5]["content"] == [{"type": "text", "text": "row"}]


def test_examples_without_their_images_are_refused() -> None:
    with pytest.raises(ValueError, match="1 images, not 0"):
        Conversation(recipe(examples=(Example("u", ("a.png",), "a"),)))


def test_labels_with_descriptions_are_explained_in_the_system_message() -> None:
    spec = build_answer_spec(labels=[Label("shoe", "anything worn on a foot"), Label("bag")])
    messages = json.loads(Conversation(recipe(system="S", answer=spec)).messages(("t",), []))
    assert messages[0]["content"] == "S\n\nThe labels:\n- shoe: anything worn on a foot\n- bag"
    alone = json.loads(Conversation(recipe(answer=spec)).messages(("t",), []))
    assert alone[0]["content"].startswith("The labels:\n")


def test_labels_without_descriptions_are_in_the_schema_alone() -> None:
    spec = AnswerSpec(schema={"properties": {}}, labels=(Label("shoe"),))
    assert json.loads(Conversation(recipe(answer=spec)).messages(("t",), []))[0]["role"] == "user"


def test_every_row_shares_the_bytes_of_the_prefix() -> None:
    made = Conversation(recipe(system="S" * 50, examples=(Example("q", (), "a"),)))
    one, two = made.messages(("one",), []), made.messages(("two",), [inline()])
    shared = len('[{"role":"system","content":""},') + 50
    assert one[: shared + 80] == two[: shared + 80]


def test_a_lone_surrogate_is_sent_as_its_escape() -> None:
    assert b"\\ud800" in Conversation(recipe()).messages(("\ud800",), [])


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\x00")),
    st.lists(st.sampled_from(["front", "back"]), max_size=4),
    st.lists(st.sampled_from(["", "front", "back", "none"]), max_size=4),
    st.booleans(),
)
def test_every_image_is_sent_exactly_once(text: str, slots: list[str], markers: list[str], first: bool) -> None:
    payloads = [linked(f"https://x/{number}", slot) for number, slot in enumerate(slots)]
    marked = joined([text, *(part for marker in markers for part in (ImageSlot(marker), text))])
    parts = said(Conversation(recipe(images_first=first)), marked, *payloads)
    shown = [part for part in parts if part.startswith("<https://x/")]
    assert sorted(shown) == sorted(f"<{payload.url}>" for payload in payloads)


@given(st.text(st.characters(exclude_characters="\x00")), st.binary(max_size=64))
def test_any_text_and_bytes_make_valid_json(text: str, content: bytes) -> None:
    user = json.loads(Conversation(recipe()).messages((text,), [inline(content=content)]))[0]
    assert text == "" or user["content"][0]["text"] == text
    assert base64.b64decode(user["content"][-1]["image_url"]["url"].partition(",")[2]) == content
