"""Golden vectors: these hashes decide what is bought again, so they may never change with an upgrade."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchvision import keys
from batchvision.records import Payload


def request_key(recipe: str, text: str, identities: list[str]) -> str:
    return keys.request_key_of(recipe, (text,), [Payload(each, "a.jpg", "", None) for each in identities])


def test_the_recipe_id_of_a_document_never_changes() -> None:
    assert keys.recipe_id({}) == "fc13b1891445bad00c9f7df67aec635a"
    assert (
        keys.recipe_id({"model": "grok-4.3", "user": "Describe {title} – größer"}) == "1f7e3686cbad8c68cd003f343fdaef55"
    )


def test_the_request_key_of_a_row_never_changes() -> None:
    assert request_key("r", "Describe it.", ["sha256:ab", "sha256:cd"]) == "dc4459eff61d2198f6f65cf4aef611c4"
    assert request_key("r", "", []) == "7d08ede3ed04eb0d98e0cc6d7573b3f3"


def test_the_skip_key_of_a_row_never_changes() -> None:
    assert keys.skip_key("r", "Describe it.", ["path:a.jpg:10:99"]) == "2896d7ba8a81d8e391bf36ed1cf24466"


def test_the_digest_of_a_done_row_never_changes() -> None:
    assert keys.row_digest("sku-1", "0" * 32).hex() == "1505fa8c16e85fa42129612fe5824019"


def test_the_order_of_a_documents_keys_does_not_matter() -> None:
    assert keys.recipe_id({"a": 1, "b": [1, 2]}) == keys.recipe_id({"b": [1, 2], "a": 1})
    assert keys.recipe_id({"b": [1, 2]}) != keys.recipe_id({"b": [2, 1]})


def test_moving_a_character_from_one_part_to_the_next_gives_another_key() -> None:
    assert request_key("r", "ab", ["c"]) != request_key("r", "a", ["bc"])
    assert request_key("r", "a", ["b", "c"]) != request_key("r", "a", ["bc"])
    assert keys.row_digest("a", "bc") != keys.row_digest("ab", "c")


def test_a_request_key_is_never_a_skip_key() -> None:
    assert request_key("r", "t", ["i"]) != keys.skip_key("r", "t", ["i"])


def test_a_lone_surrogate_has_a_key_too() -> None:
    assert len(request_key("r", "\ud800", [])) == 32


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_different_parts_have_different_keys(left: list[str], right: list[str]) -> None:
    same = request_key("r", "t", left) == request_key("r", "t", right)
    assert same == (left == right)
