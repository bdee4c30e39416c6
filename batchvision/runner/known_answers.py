"""Compare the current answers of an output with the known answers of the job.

Known answers are never sent. They are no part of recipe or keys, so they may be added when all answers are paid.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from batchvision.accuracy import SampleKind, measure, unguarded
from batchvision.checkpoint import OutputView
from batchvision.errors import JobInvalid
from batchvision.job import TEXT, Job, main_property
from batchvision.manifest import LocalInput, Manifest, needed_columns, open_table
from batchvision.prompt import answer_columns, check_answer
from batchvision.records import JsonObject
from batchvision.runner.feed.keying import row_ids
from batchvision.secrets import Secrets
from batchvision.wording import counted

log = logging.getLogger(__name__)

#: Rows with a wrong answer that are listed by row.
WRONG_LISTED = 200
_TEXT_COLUMN = "output_text"
#: The expected label of a row of which only a wrong answer is known.
ANOTHER = "(another)"
#: Answers of more different values are text. They have no measures by label.
MOST_LABELS = 50


class KnownAnswer(NamedTuple):
    """The ``right`` answer, or ``None`` where a review only found that ``wrong`` is not the right one."""

    right: str | None
    wrong: str | None = None


#: row_id -> property -> known answer, in the spelling of :func:`_spellings`
KnownAnswers = dict[str, dict[str, KnownAnswer]]


def accuracy_of(job: Job, manifest: Manifest, secrets: Secrets) -> JsonObject:
    """Property -> measures of the current answers, for the summary. Blocking.

    Rows without an answer count as unanswered. Rows that show an image of the prompt's examples do not count. Raises
    JobInvalid for a known answer that cannot be read.
    """
    known = known_answers(job, manifest, secrets)
    view, spelling, columns = OutputView(job.output_path), _spellings(job), _columns(job)
    examples = set(job.recipe.example_image_sha256)
    answered: dict[str, dict[str, str | None]] = {}
    for batch in view.current_results(job.recipe.recipe_id, ("row_id", "image_sha256", *columns.values())):
        for row in batch.to_pylist():
            if row["row_id"] not in known:
                continue
            if examples.intersection(row["image_sha256"] or ()):
                del known[row["row_id"]]
                continue
            answered[row["row_id"]] = {
                name: None if row[column] is None else spelling[name](row[column]) for name, column in columns.items()
            }
    found = {name: _measured(name, known, answered) for name in columns}
    return {name: document for name, document in found.items() if document is not None}


def _columns(job: Job) -> dict[str, str]:
    """Property -> column of the results."""
    return {column.property: column.name for column in answer_columns(job.recipe.answer)} or {TEXT: _TEXT_COLUMN}


def _measured(
    name: str, known: KnownAnswers, answered: Mapping[str, Mapping[str, str | None]]
) -> dict[str, Any] | None:
    pairs = list(_pairs(name, known, answered))
    accuracy = measure((expected, answer) for _, expected, answer in pairs)
    if accuracy is None:
        return None
    document = accuracy.document()
    if len(accuracy.labels) > MOST_LABELS:
        del document["labels"], document["matrix"]
    wrong = [each for each in pairs if each[2] is not None and each[1] != each[2]]
    keys = ("row_id", "expected", "answered")
    document["wrong"] = [dict(zip(keys, each, strict=True)) for each in wrong[:WRONG_LISTED]]
    return document


def _pairs(
    name: str, known: KnownAnswers, answered: Mapping[str, Mapping[str, str | None]]
) -> Iterator[tuple[str, str, str | None]]:
    """row_id, expected and answer. A row of which only a wrong answer is known counts while it has that answer."""
    for row_id, properties in known.items():
        if name in properties:
            expected, answer = properties[name], answered.get(row_id, {}).get(name)
            if expected.right is not None:
                yield row_id, expected.right, answer
            elif answer == expected.wrong:
                yield row_id, ANOTHER, answer


# ---------------------------------------------------------------------------------- the known answers


def right_answers(job: Job, manifest: Manifest, secrets: Secrets) -> dict[str, dict[str, str]]:
    """row_id -> property -> right answer. Blocking. Raises JobInvalid.

    Rows of a review without the right answer are left out, with a warning: without them the accuracy is too high.
    """
    known = known_answers(job, manifest, secrets)
    found = {
        row_id: {name: answer.right for name, answer in properties.items() if answer.right is not None}
        for row_id, properties in known.items()
    }
    right = {row_id: properties for row_id, properties in found.items() if properties}
    if len(right) < len(known):
        log.warning(
            "the verdict on %s is wrong and the right answer is missing: without it the accuracy is too high; write it "
            "into the column answer of %s",
            counted(len(known) - len(right), "row"),
            job.answer.expected_file,
        )
    return right


def has_known_answers(job: Job) -> bool:
    return bool(job.expected_columns or job.answer.expected_file)


class AnswerCheck:
    """Compares answers under the recipe of ``job`` with right answers."""

    def __init__(self, job: Job) -> None:
        self._spec = job.recipe.answer
        self._columns = _columns(job)
        self._spelling = _spellings(job)

    def is_right(self, right: Mapping[str, str], text: str) -> bool:
        """Whether a valid answer has the right value of each property. ``text``: the answer, or its JSON."""
        values = {_TEXT_COLUMN: text, **check_answer(self._spec, text).columns}
        return all(self._is_equal(name, values.get(self._columns.get(name, "")), right[name]) for name in right)

    def _is_equal(self, name: str, value: Any, right: str) -> bool:
        try:
            return value is not None and self._spelling[name](value) == right
        except ValueError:  # the recipe of a sweep gives the property another type
            return False


def known_answers(job: Job, manifest: Manifest, secrets: Secrets) -> KnownAnswers:
    """The right answers by row_id. A repeated row_id has those of its first row. Raises JobInvalid."""
    spelling = _spellings(job)
    known: KnownAnswers = {}
    rows = _of_file(job) if job.answer.expected_file is not None else _of_manifest(job, manifest, secrets)
    for row_id, cells in rows:
        found = {}
        for name, cell in cells.items():
            if not _is_empty(cell.right):
                found[name] = KnownAnswer(_read(row_id, name, cell.right, spelling[name]))
            elif not _is_empty(cell.wrong):
                found[name] = KnownAnswer(None, _read(row_id, name, cell.wrong, spelling[name]))
        if found:
            known.setdefault(row_id, found)
    return known


class _Cells(NamedTuple):
    """Cells of a known answer, as they were read."""

    right: Any
    wrong: Any = None


def _is_empty(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _read(row_id: str, name: str, cell: Any, spelling: Callable[[Any], str]) -> str:
    try:
        return spelling(cell)
    except ValueError:
        raise JobInvalid(f"the known answer of row {row_id} for {name} is {cell!r}, which no answer can be") from None


def _of_manifest(job: Job, manifest: Manifest, secrets: Secrets) -> Iterator[tuple[str, dict[str, _Cells]]]:
    columns = job.expected_columns
    needed = needed_columns(job)
    if job.id_columns:  # images are not read then
        needed = {name: needed[name] for name in dict.fromkeys((*job.id_columns, *columns.values()))}
    for batch in manifest.batches(list(needed)):
        ids = row_ids(batch, job, secrets)
        cells = {name: batch[column].to_pylist() for name, column in columns.items()}
        for place, row_id in enumerate(ids.to_pylist()):
            if row_id is not None:
                yield row_id, {name: _Cells(values[place]) for name, values in cells.items()}


def _of_file(job: Job) -> Iterator[tuple[str, dict[str, _Cells]]]:
    path = job.file(job.answer.expected_file)
    if path is None:
        raise RuntimeError("the job names no file of known answers")
    table = open_table(LocalInput(path), {"row_id": "[answer] expected_file"})
    properties = [column.property for column in answer_columns(job.recipe.answer)] or [TEXT]
    main = main_property(job.recipe.answer)
    named = [name for name in properties if name in table.columns and name != main]
    has_answers = "answer" in table.columns and (main is not None or "answer" not in properties)
    if main is not None and not has_answers and main in table.columns:
        named.append(main)
    if not has_answers and not named:
        raise JobInvalid(f"answer.expected_file: {path} has no column answer, and none named like a property")
    others = [name for name in ("answer", *_REVIEW) if has_answers and name in table.columns]
    for batch in table.batches(list(dict.fromkeys(("row_id", *named, *others)))):
        for row in batch.to_pylist():
            if row["row_id"] is None:
                continue
            if kind := row.get("sample"):
                if kind == SampleKind.LEAST_CONFIDENT:
                    raise JobInvalid(
                        f"answer.expected_file: {path} lists the least confident answers, which say nothing about the "
                        "accuracy of all rows. Review a random sample: batchvision report OUT --export-review FILE"
                    )
                row = {name: unguarded(cell) if isinstance(cell, str) else cell for name, cell in row.items()}
            row_id = str(row["row_id"])
            found = {name: _Cells(row[name]) for name in named}
            if has_answers:
                reviewed = _reviewed(row_id, row)
                found |= {main: reviewed} if main is not None else _of_properties(row_id, reviewed, properties)
            yield row_id, found


#: Columns of a review, beside ``answer``.
_REVIEW = ("verdict", "given", "sample")


def _reviewed(row_id: str, row: Mapping[str, Any]) -> _Cells:
    """The right answer of a row of a saved review, or the answer that it found wrong. Raises JobInvalid."""
    verdict = str(row.get("verdict") or "").strip().casefold()
    if verdict not in ("", "right", "wrong"):
        raise JobInvalid(
            f"answer.expected_file: the verdict of row {row_id} is {verdict!r}; it is right, wrong or empty"
        )
    if not _is_empty(row["answer"]):
        return _Cells(row["answer"])
    return _Cells(row.get("given")) if verdict == "right" else _Cells(None, row.get("given") if verdict else None)


def _of_properties(row_id: str, reviewed: _Cells, properties: Sequence[str]) -> dict[str, _Cells]:
    """The right answer as a JSON object, by property. A wrong object does not say which property is wrong."""
    if _is_empty(reviewed.right):
        return {}
    try:
        right = json.loads(reviewed.right)
        return {name: _Cells(right[name]) for name in properties if name in right}
    except (ValueError, TypeError):
        names = ", ".join(properties)
        raise JobInvalid(
            f"answer.expected_file: the answer of row {row_id} is no JSON object of the properties {names}"
        ) from None


# ---------------------------------------------------------------------------------- spellings


def _spellings(job: Job) -> dict[str, Callable[[Any], str]]:
    """For each property, a function that gives equal values the same text. It raises ValueError for another type."""
    labels = {label.value.casefold(): label.value for label in job.recipe.answer.labels}
    found: dict[str, Callable[[Any], str]] = {TEXT: _text}
    for column in answer_columns(job.recipe.answer):
        match column.type_name:
            case "int64" | "float64":
                found[column.property] = _number
            case "bool":
                found[column.property] = _truth
            case "json":
                found[column.property] = _json
            case name if name.startswith("list<"):
                found[column.property] = lambda value: _list(value, labels)
            case _:
                found[column.property] = lambda value: labels.get(_text(value).casefold(), _text(value))
    return found


def _text(value: Any) -> str:
    return " ".join(str(value).split())


def _number(value: Any) -> str:
    return f"{float(value):g}"


def _truth(value: Any) -> str:
    match str(value).strip().casefold():
        case "true" | "yes" | "1":
            return "true"
        case "false" | "no" | "0":
            return "false"
    raise ValueError("neither true nor false")


def _json(value: Any) -> str:
    return json.dumps(json.loads(value) if isinstance(value, str) else value, sort_keys=True, ensure_ascii=False)


def _list(value: Any, labels: Mapping[str, str]) -> str:
    """A list in any order: of an Arrow list, a JSON array, or text with commas."""
    if isinstance(value, str):
        value = json.loads(value) if value.lstrip().startswith("[") else value.split(",")
    return ", ".join(sorted(labels.get(_text(each).casefold(), _text(each)) for each in value))
