"""Whatever is wrong with a job is said at once, each thing in a sentence that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from job_files import MINIMAL, load, problems, with_lines, write_job

from batchvision.errors import JobInvalid
from batchvision.job import Job

MANY_MISTAKES = """
nam = "x"
timezone = "Mars/One"
[manifest]
path = "nowhere.csv"
keep = ["provider"]
requests_per_minute = 5
[prompt]
user = "Describe {title"
[answer]
schema = "no.json"
labels = ["a", "a"]
[provider]
name = "openrouter"
model = ""
base_url = "ftp://x"
[provider.parameters]
n = 3
stream = true
[delivery]
lane = "deferred"
[limits]
max_attemps = 3
concurrency = 0
[limts]
x = 1
"""


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    told = problems(tmp_path, MANY_MISTAKES)
    for expected in [
        "nam is not a key; did you mean name?",
        "limts is not a key; did you mean limits?",
        "timezone = 'Mars/One'",
        f"manifest.path: there is no manifest at {tmp_path / 'nowhere.csv'}",
        "manifest.requests_per_minute is not a key here; requests_per_minute belongs in [limits]",
        "manifest.keep: the column provider of 'provider' is already a column of the tables",
        "prompt.user: line 1, column 10",
        f"answer.schema: there is no file {tmp_path / 'no.json'}",
        "[answer]: the label 'a' is there more than once",
        "provider.model = ''",
        "provider.base_url = 'ftp://x'",
        "provider.parameters.n is set by batchvision: a row has one answer",
        "provider.parameters.stream is set by batchvision: set delivery.stream",
        'delivery.lane = "deferred": openrouter has no such lane; choose "online"',
        "limits.max_attemps is not a key; did you mean limits.max_attempts?",
        "limits.concurrency = 0: it should be greater than 0",
    ]:
        assert any(problem.startswith(expected) for problem in told), expected
    assert len(told) == 16


def test_an_empty_job_file_names_what_a_job_needs(tmp_path: Path) -> None:
    assert problems(tmp_path, "") == (
        "manifest.path is missing; set it in the job file",
        '[prompt]: there is no prompt; set user = "...", user_file = "prompt.txt" or column = "prompt"',
        "provider.name is missing; set it in the job file",
        "provider.model is missing; set it in the job file",
    )


def test_a_job_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobInvalid, match=r"there is no job file .*none\.toml"):
        Job.load(tmp_path / "none.toml")
    with pytest.raises(JobInvalid, match="is a folder"):
        Job.load(tmp_path)


def test_a_job_file_that_is_no_toml_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(JobInvalid, match=r"not valid TOML.*line 2"):
        Job.load(write_job(tmp_path, 'name = "x"\npath = photos.csv\n'))
    path = write_job(tmp_path)
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(JobInvalid, match="not UTF-8"):
        Job.load(path)


def test_a_job_in_python_needs_a_name(tmp_path: Path) -> None:
    write_job(tmp_path)
    settings = {"manifest": {"path": "photos.csv"}, "prompt": {"user": "u"}, "output": {"path": "o"}}
    with pytest.raises(JobInvalid, match="name is missing"):
        Job.from_mapping({**settings, "provider": {"name": "emulator", "model": "m"}}, tmp_path)


@pytest.mark.parametrize(
    ("section", "line", "says"),
    [
        ("manifest", "id = []", "manifest.id = []: it is empty; name at least one column"),
        ("manifest", 'images = ["a", "a"]', "it names a column twice"),
        ("manifest", 'images = [""]', "manifest.images[1] = '': it is empty"),
        (
            "manifest",
            'on_bad_image = "skip"',
            "manifest.on_bad_image = 'skip': it should be 'fail_row' or 'skip_image'",
        ),
        ("manifest", 'root = "nowhere"', "manifest.root: there is no folder"),
        ("manifest", 'root = "a\\u0000"', "manifest.root = 'a\\x00': it holds a NUL character"),
        ("manifest", "keep = 3", "manifest.keep = 3"),
        ("manifest", 'keep = ["名前"]', "gives no column name; rename it: keep = { new_name ="),
        ("manifest", 'keep = ["a b", "A_B"]', "is already the kept column 'a b'"),
        ("manifest", 'keep = ["run_date"]', "a column of the tables themselves"),
        ("prompt", 'user_file = "u.txt"', "user and user_file are both set; keep one"),
        ("prompt", 'column = "prompt"', "user and column are both set"),
        ("prompt", 'system = "a"\nsystem_file = "b"', "system and system_file are both set"),
        ("prompt", 'system_file = "none.txt"', "prompt.system_file: there is no file"),
        ("prompt", 'images_first = "yes"', "prompt.images_first = 'yes'"),
        ("answer", 'labels = ["a"]\nlabels_file = "l.csv"', "labels and labels_file are both set"),
        ("answer", 'labels_file = "none.csv"', "answer.labels_file: there is no file"),
        ("answer", "labels_many = true", "labels_many is set but there are no labels"),
        ("answer", 'schema = { type = "string" }', "the schema's root must be an object"),
        ("answer", 'on_truncated = "raise"', "'fail' or 'raise_once'"),
        ("provider", 'detail = "ultra"', "'auto', 'low' or 'high'"),
        ("provider", 'base_url = "https://u:secret@x/v1"', "provider.base_url holds a user or password"),
        ("provider", 'base_url = "https://x/v1#part"', "has a fragment"),
        ("provider", 'api_key_header = "x y"', "it is no header name"),
        ("provider", 'http = "lean"\nproxy = "http://proxy:3128"', "uses no proxy"),
        ("provider", 'api_key_header = "api-key"\nheaders = { API-Key = "x" }', "api-key holds the key"),
        ("provider", 'base_url = "api.x.ai/v1"', 'write it like "https://api.example.com/v1"'),
        ("provider", 'base_url = "https://x:99999"', "write it like"),
        ("provider", 'headers = { Authorization = "Bearer x" }', "Authorization is made from the key"),
        ("provider", 'headers = { "a b" = "x" }', "'a b' is no header name"),
        ("provider", 'headers = { a = "x\\ny" }', "the value of a holds a line break"),
        ("provider", 'api_key_env = "A"\napi_key_file = "b"', "api_key_env and api_key_file are both set"),
        ("provider", "prices = { inpt = 1 }", "provider.prices.inpt is not a key; did you mean provider.prices.input?"),
        ("provider", "prices = { input = -1 }", "provider.prices.input = -1: it should be greater than or equal to 0"),
        ("provider", "parameters = { response_format = {} }", "it is made from answer.schema"),
        ("provider", "parameters = { messages = [] }", "they are made from [prompt]"),
        ("provider", "parameters = { deferred = true }", "delivery.lane"),
        ("provider", "parameters = { stop = 2026-01-01 }", "stop holds a date, which JSON cannot say"),
        ("provider", "parameters = { temperature = nan }", "temperature holds nan"),
        ("images", "max_side = 0", "images.max_side = 0: it should be greater than 0"),
        ("images", "max_bytes = true", "write a number, not true or false"),
        ("delivery", 'lane = "slow"', "'online', 'deferred', 'batch' or 'auto'"),
        ("delivery", 'lane = "deferred"\nstream = true', "only the online lane streams"),
        ("limits", "max_cost_usd = -1", "limits.max_cost_usd = -1"),
        ("limits", "max_cost_usd = inf", "limits.max_cost_usd"),
        ("limits", "requests_per_minute = 0", "greater than 0"),
        ("limits", "max_failed = 0.2", 'write a number of rows (50) or a part of them ("20%")'),
        ("limits", 'failed_ok = "150%"', "write a number of rows"),
        ("limits", 'retry_failed = "refusd"', "'refusd' is no kind of failure; there are unpaid, all, none and"),
        ("limits", 'ambiguous = "maybe"', "'retry' or 'hold'"),
        ("output", 'path = "ftp://host/x"', "name a local folder, or an object store with s3://, gs://, az://"),
        ("output", 'path = "photos.csv"', "is a file; name a folder"),
        ("output", "compress = true", "output.compress is not a key; there are: path, "),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, section: str, line: str, says: str) -> None:
    told = problems(tmp_path, with_lines(**{section: line}))
    assert any(says in problem for problem in told), told
    assert len(told) == 1


def test_a_manifest_at_a_web_address_is_refused_with_the_choices(tmp_path: Path) -> None:
    (told,) = problems(tmp_path, MINIMAL.replace("photos.csv", "https://example.com/photos.parquet"))
    assert "name a local file or folder, or an object store with s3://, gs://, az://" in told


@pytest.mark.parametrize("path", ["x" * 5000, "~no-such-user/photos.csv", "photos.csv/below"])
def test_a_path_that_cannot_be_is_a_manifest_that_is_not_there(tmp_path: Path, path: str) -> None:
    (told,) = problems(tmp_path, MINIMAL.replace("photos.csv", path))
    assert told.startswith("manifest.path: there is no manifest at ")


def test_an_unknown_provider_names_those_there_are(tmp_path: Path) -> None:
    (told,) = problems(tmp_path, MINIMAL.replace("emulator", "xia"))
    assert told.startswith("provider.name: there is no provider 'xia'")
    assert "openrouter" in told


def test_a_slot_in_the_prompt_must_be_an_image_column(tmp_path: Path) -> None:
    (told,) = problems(tmp_path, MINIMAL.replace("{title}", "{image:front}"))
    assert told == "prompt.user: {image:front} is none of manifest.images, which has: image"


def test_a_kept_column_must_not_be_named_like_an_answer(tmp_path: Path) -> None:
    (told,) = problems(tmp_path, with_lines(manifest='keep = ["Answer Label"]', answer='labels = ["a"]'))
    assert "is already the answer's property 'label'" in told


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (
            'usr = "a"\nuser = "b"\nanswer = "c"',
            "prompt.example[1].usr is not a key; did you mean prompt.example[1].user?",
        ),
        ('user = "a"', "prompt.example[1].answer is missing"),
        ('answer = "a"', "prompt.example[1].user is missing; write what the user asks"),
        ('user = "a {title}"\nanswer = "b"', "prompt.example[1].user reads {title}, but an example has no row"),
        ('user = "a {"\nanswer = "b"', "prompt.example[1].user: line 1, column 3"),
        ('user = "a"\nanswer = "b"\nimages = ["none.png"]', "none.png cannot be read: No such file"),
        ('user = "a"\nanswer = "b"\nimages = ["https://x/a.png"]', "is no file; download it"),
        ('user = "a"\nanswer = 3', "prompt.example[1].answer = 3: it should be text"),
    ],
)
def test_a_mistake_in_an_example_names_its_number(tmp_path: Path, lines: str, says: str) -> None:
    told = problems(tmp_path, f"{MINIMAL}[[prompt.example]]\n{lines}\n")
    assert any(says in problem for problem in told), told


def test_an_example_must_be_an_answer_that_the_job_would_take(tmp_path: Path) -> None:
    text = with_lines(answer='labels = ["shoe"]') + '[[prompt.example]]\nuser = "a"\nanswer = "hat"\n'
    (told,) = problems(tmp_path, text)
    assert told.startswith("prompt.example[1].answer is not what [answer] asks for")


@pytest.mark.parametrize(
    ("content", "says"), [("{", "is not JSON"), ("[]", "holds no JSON object"), ("", "is not JSON")]
)
def test_a_schema_file_that_holds_no_schema_is_named(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "s.json").write_text(content)
    (told,) = problems(tmp_path, with_lines(answer='schema = "s.json"'))
    assert says in told


def test_empty_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    (told,) = problems(tmp_path, with_lines(prompt='system_file = "empty.txt"'))
    assert "is empty" in told
    (told,) = problems(tmp_path, with_lines(answer='labels_file = "empty.txt"'))
    assert "holds no labels" in told
    (tmp_path / "latin.txt").write_bytes(b"\xe9")
    (told,) = problems(tmp_path, with_lines(prompt='system_file = "latin.txt"'))
    assert "not UTF-8" in told


@pytest.mark.parametrize(("mark", "name"), [(";", "a semicolon"), ("\t", "a tab")])
def test_labels_with_an_unnamed_separator_are_a_problem(tmp_path: Path, mark: str, name: str) -> None:
    (tmp_path / "l.csv").write_text(f"shoe{mark}on a foot\nbag{mark}carries\n")
    (told,) = problems(tmp_path, with_lines(answer='labels_file = "l.csv"'))
    assert f"every line has {name}" in told
    assert f"write value{mark}description as the first line" in told


def test_a_message_never_repeats_a_header(tmp_path: Path) -> None:
    for headers in ('{ X-Key = ["sk-123"] }', '{ "X Key" = "sk-123" }', '"sk-123"'):
        assert "sk-123" not in " ".join(problems(tmp_path, with_lines(provider=f"headers = {headers}")))


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
trees = st.recursive(
    values,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
)
keys = st.sampled_from(
    ["manifest.path", "manifest.keep", "prompt.user", "prompt.example", "answer.labels", "answer.schema", "provider",
     "provider.parameters", "provider.headers", "provider.prices", "limits.max_failed", "limits.retry_failed", "name",
     "images", "timezone", "provider.base_url", "provider.api_key_command", "output.path"]
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=200)
@given(keys, trees)
def test_any_content_of_a_job_file_is_a_job_or_invalid(tmp_path: Path, key: str, value: object) -> None:
    try:
        job = load(tmp_path, MINIMAL, **{key.replace(".", "__"): value})
    except JobInvalid as error:
        assert all(error.problems)
    else:
        assert job.config()


def test_batches_of_openrouter_are_refused_with_the_reason_and_the_way_out(tmp_path: Path) -> None:
    told = problems(tmp_path, MINIMAL, provider__name="openrouter", delivery__lane="batch")
    assert len(told) == 1
    assert told[0].startswith('delivery.lane = "batch" is not possible with openrouter: its batches refuse images')
    assert 'Set delivery.lane = "online"' in told[0]
