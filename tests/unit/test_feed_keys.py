"""Keys over columns are the keys row by row, and both stay still for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from batchvision import keys
from batchvision.images import ImageFolder, stamp
from batchvision.job import Job
from batchvision.manifest.parquet_child import normalised
from batchvision.prompt import Template
from batchvision.records import ImageKind, ImageRef
from batchvision.runner.feed.batch_images import BatchImages, ImageColumns, are_plain, frame
from batchvision.runner.feed.keying import prompts_of, row_ids, skip_digests
from batchvision.secrets import Secret, Secrets

ROOT = Path(__file__).parent
HERE = Path(__file__).name  #: a job wants its manifest to exist; nothing here reads it
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def job(**changes: Any) -> Job:
    manifest = {"path": HERE, "id": "id", **changes.pop("manifest", {})}
    table = {"name": "j", "manifest": manifest, "prompt": changes.pop("prompt", {"user": "Describe {title}."})}
    return Job.from_mapping({**table, "provider": {"name": "emulator", "model": "m"}}, ROOT)


def batch(**columns: Any) -> pa.RecordBatch:
    arrays = [normalised(array if isinstance(array, pa.Array) else pa.array(array)) for array in columns.values()]
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))


def images(of: pa.RecordBatch, *names: str, separator: str | None = None, version: str | None = None) -> BatchImages:
    return BatchImages(of, ImageColumns(names or ("image",), separator, version, ImageFolder(ROOT), "content"))


# ---------------------------------------------------------------------------------- row_ids


def ids_of(of: pa.RecordBatch, job: Job) -> pa.Array:
    return row_ids(of, job, Secrets())


def test_an_id_that_holds_a_secret_of_the_run_is_masked() -> None:
    found = row_ids(batch(id=["a key-of-this-run b", "c"]), job(), Secrets(Secret("key-of-this-run")))
    assert found.to_pylist() == ["a *** b", "c"]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array([2**53 + 1, -1, None]), ["9007199254740993", "-1", None]),
        (pa.array([2**64 - 1], pa.uint64()), ["18446744073709551615"]),
        (pa.array(["007", "", " a "]), ["007", None, " a "]),
        (pa.array([b"\x00\xfe"]), ["00fe"]),
        (pa.array([bytes(range(16))], pa.uuid()), ["00010203-0405-0607-0809-0a0b0c0d0e0f"]),
        (pa.array(["x", "y", "x"]).dictionary_encode(), ["x", "y", "x"]),
        (pa.array([1.5]), ["1.5"]),
        (pa.array([True]), ["true"]),
    ],
)
def test_ids_of_any_scalar_type_are_exact_text(ids: pa.Array, expected: list[str | None]) -> None:
    assert ids_of(batch(id=ids), job()).to_pylist() == expected


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_whole_numbers_lose_no_digit(numbers: list[int]) -> None:
    assert ids_of(batch(id=pa.array(numbers, pa.int64())), job()).to_pylist() == [str(number) for number in numbers]


@given(st.lists(st.tuples(text.filter(bool), text.filter(bool)), min_size=2, max_size=6, unique=True))
def test_ids_of_several_columns_never_meet(pairs: list[tuple[str, str]]) -> None:
    found = ids_of(
        batch(a=[first for first, _ in pairs], b=[second for _, second in pairs]), job(manifest={"id": ["a", "b"]})
    ).to_pylist()
    assert len(set(found)) == len(pairs)


def test_an_id_of_several_columns_is_readable_and_needs_them_all() -> None:
    found = ids_of(
        batch(a=["x", "x|y", "x", "x"], b=[1, 2, None, 3], c=["p", "\\", "p", ""]),
        job(manifest={"id": ["a", "b", "c"]}),
    )
    assert found.to_pylist() == ["x|1|p", "x\\|y|2|\\\\", None, None]


def content_ids(**columns: Any) -> list[str]:
    table = {"name": "j", "manifest": {"path": HERE}, "prompt": {"user": "Describe {title}."}}
    of = Job.from_mapping({**table, "provider": {"name": "emulator", "model": "m"}}, ROOT)
    return list(ids_of(batch(**columns), of).to_pylist())


def test_without_id_columns_the_content_names_the_row_and_always_will() -> None:
    assert content_ids(image=["a.jpg", "https://h/b.jpg", None], title=["Boot", None, ""]) == [
        "01e890db19321d0f",
        "0e2bcf80a959274b",
        "6762e902ae79ce81",
    ]


def test_a_content_id_depends_on_refs_and_prompt_cells_alone() -> None:
    first, again, other_title, other_image, null_title, empty_title = content_ids(
        image=["a.jpg", "a.jpg", "a.jpg", "b.jpg", "a.jpg", "a.jpg"],
        title=["x", "x", "y", "x", None, ""],
        unread=["1", "2", "3", "4", "5", "6"],
    )
    assert first == again
    assert len({first, other_title, other_image, null_title, empty_title}) == 5


def test_a_content_id_survives_a_new_signature() -> None:
    signed = "https://bucket.s3.amazonaws.com/a.jpg?X-Amz-Signature={}&X-Amz-Date={}"
    first, second = content_ids(image=[signed.format("aa", 1), signed.format("bb", 2)], title=["x", "x"])
    assert first == second


def test_a_content_id_of_bytes_is_that_of_the_bytes() -> None:
    one, two, three = content_ids(image=pa.array([b"x", b"x", b"y"]), title=["t", "t", "t"])
    assert one == two != three


# ---------------------------------------------------------------------------------- texts


@pytest.mark.parametrize(
    "template", ["Describe {a} and {b}.", "{a}", "no column", "{{{a}}}", "{image} {a} {image:front}"]
)
@given(rows=st.lists(st.tuples(text, text), min_size=1, max_size=4))
def test_templates_over_columns_render_like_templates_over_rows(template: str, rows: list[tuple[str, str]]) -> None:
    asked = job(prompt={"user": template}, manifest={"images": ["front"]})
    found = prompts_of(batch(a=[a for a, _ in rows], b=[b for _, b in rows]), asked)
    parsed = Template.parse(template)
    expected = [parsed.render({"a": a, "b": b}) for a, b in rows]
    texts = [keys.hashed_text(prompt) for prompt in expected]
    assert (found.texts if isinstance(found.texts, str) else found.texts.to_pylist()) == (
        texts if parsed.columns else texts[0]
    )
    prompts = found.of_rows(pa.array(range(len(rows)), pa.int64()))
    assert [tuple(filter(None, prompt)) for prompt in prompts] == [tuple(filter(None, prompt)) for prompt in expected]


def test_null_is_nothing_in_a_template_and_lists_and_numbers_read_plainly() -> None:
    of = batch(title=[None, "x"], tags=[["a", None, "b"], None], price=[1.5, None])
    asked = job(prompt={"user": "<{title}|{tags}|{price}>"})
    assert prompts_of(of, asked).texts.to_pylist() == ["<|a, b|1.5>", "<x||>"]


def test_a_prompt_column_is_sent_verbatim_and_null_stays_null() -> None:
    asked = job(prompt={"column": "ask"})
    assert prompts_of(batch(ask=["{title} {{", None, ""]), asked).texts.to_pylist() == ["{title} {{", None, ""]


# ---------------------------------------------------------------------------------- stamps and keys


hosts = st.from_regex(r"[a-z0-9.-]{1,8}(:[0-9]{1,4})?", fullmatch=True)
plain_urls = st.builds("{}://{}{}".format, st.sampled_from(["http", "https"]), hosts, text.map(lambda path: f"/{path}"))


@given(st.one_of(plain_urls, st.builds("https://{}".format, text)))
def test_a_plain_url_has_the_stamp_that_images_gives(url: str) -> None:
    assume(are_plain(pa.array([url])))
    ref = ImageRef(ImageKind.URL, url, "image")
    (found,) = images(batch(image=[url])).stamps().to_pylist()
    assert found == frame(stamp(ref, ImageFolder(ROOT), "content"))
    assert images(batch(image=[url])).of_rows([0]) == [(ref,)]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["https://h/a?b", "http://h"], False),
        (["https://h/a", None, "http://h:80"], True),
        ([None], True),
        (["https://h/a", "https://H/a"], False),
        (["https://h/a b"], False),
        (["https://h/#"], False),
        (["https://u@h/"], False),
        (["h.jpg", "https://h/"], False),
        (["https://h/a", ""], False),
    ],
)
def test_a_column_is_plain_where_every_cell_is(cells: list[str | None], expected: bool) -> None:
    assert are_plain(pa.array(cells, pa.string())) is expected
    assert are_plain(pa.array(["a b?", *cells, "#"], pa.string()).slice(1, len(cells))) is expected


MIXED = ["https://h/a.jpg", "https://H/a.jpg?sig=1#x", None, "a.jpg", '["https://h/a.jpg", "b.jpg"]', "data:,x", " "]


def test_stamps_are_the_same_beside_any_other_cell() -> None:
    together = images(batch(image=MIXED)).stamps().to_pylist()
    alone = [images(batch(image=pa.array([cell], pa.string()))).stamps().to_pylist()[0] for cell in MIXED]
    assert together == alone
    assert together[2] == together[6] == ""


def test_stamps_of_several_columns_are_joined_in_their_order() -> None:
    of = batch(front=["https://h/1", None], back=["2.jpg", "https://h/3"])
    first, second = images(of, "front", "back").stamps().to_pylist()
    assert first == frame("url:https://h/1") + frame("missing:2.jpg")
    assert second == frame("url:https://h/3")
    assert [ref.slot for ref in images(of, "front", "back").of_rows([0])[0]] == ["front", "back"]


def test_a_version_cell_stands_for_the_content() -> None:
    of = batch(image=["https://h/1", "a.jpg"], etag=["v1", None])
    found = images(of, version="etag").stamps().to_pylist()
    assert found == [frame("version:url:https://h/1:v1"), frame("missing:a.jpg")]


def test_a_separator_cuts_urls_too() -> None:
    of = batch(image=["https://h/1|https://h/2"])
    assert len(images(of, separator="|").of_rows([0])[0]) == 2
    assert images(of, separator="|").stamps().to_pylist() == [frame("url:https://h/1") + frame("url:https://h/2")]


@given(rows=st.lists(st.tuples(text, st.lists(text, max_size=3)), min_size=1, max_size=5))
def test_keys_over_columns_are_the_keys_of_each_row(rows: list[tuple[str, list[str]]]) -> None:
    texts, stamps = zip(*rows, strict=True)
    framed = pa.array(["".join(frame(each) for each in stamp_) for stamp_ in stamps], pa.string())
    expected = [keys.skip_key("recipe", text_, stamp_) for text_, stamp_ in rows]
    assert skip_digests("recipe", pa.array(texts, pa.string()), framed).hex() == "".join(expected)
    same = [keys.skip_key("recipe", texts[0], stamp_) for stamp_ in stamps]
    assert skip_digests("recipe", texts[0], framed).hex() == "".join(same)
