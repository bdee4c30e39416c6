"""Makes ``docs/job-file.md``: every key of a job file, from the models in ``batchvision/job/``.

Rule: nothing is written here twice. The meaning and an example of a key are the text below its field in the model:
``meaning. Default: words, where the value alone does not say it. Example: `key = value`.``
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from batchvision.job import model
from batchvision.job.sections import SECTIONS, key_of
from batchvision.job.values import RowLimit

PAGE = Path(__file__).parents[2] / "docs" / "job-file.md"

HEAD = """\
# The job file

A job is one TOML file. This page lists every key. It is made by `scripts/docs` from the models in `batchvision/job/`.

- A required key has no default. All others may be left out.
- Paths are relative to the job file. Image references are relative to `manifest.root`.
- A flag beats the environment, the environment beats the file: `--concurrency 64` or `--set limits.concurrency=64`,
  then `BATCHVISION_LIMITS__CONCURRENCY=64`, then `concurrency = 64` under `[limits]`.
- `batchvision config show JOB` prints each value and where it came from.
- `batchvision check JOB` tests a job and costs nothing.

`jobs/` holds jobs to start from, with every line explained.
"""

#: The name of a type of value on the page.
_WORDS = {
    "Text": "text",
    "str": "text",
    "JobName": "text",
    "Zone": "text",
    "LocalTime": "time of day",
    "Names": "text or list",
    "Flag": "true or false",
    "Count": "whole number",
    "int": "whole number",
    "Amount": "number",
    "Money": "USD",
    "RowShare": "number or share",
    "RowPart": "share",
    "dict": "table",
    "tuple": "list",
}


class Written(NamedTuple):
    """What stands in the source of a field."""

    annotation: ast.expr
    text: str  #: the text below it


class Key(NamedTuple):
    """One line of the page."""

    name: str
    meaning: str
    value: str
    default: str
    example: str | None  #: TOML, or None if the key is a table with listed keys


class Table(NamedTuple):
    """The keys below one header of the job file. ``header`` "": outside any section."""

    header: str
    section: type[BaseModel]
    says: str
    keys: tuple[Key, ...]


# ---------------------------------------------------------------------------------- reading the models


@cache
def _fields_of(section: type[BaseModel]) -> dict[str, Written]:
    source = ast.parse(Path(inspect.getfile(section)).read_text(encoding="utf-8"))
    body = next(node.body for node in source.body if isinstance(node, ast.ClassDef) and node.name == section.__name__)
    found = {}
    for node, below in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = Written(node.annotation, _text_of(below))
    return found


def _text_of(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.split())
    return ""


def _key(section: type[BaseModel], name: str, field: FieldInfo) -> Key:
    written, shown = _fields_of(section)[name], key_of(name, field)
    meaning, _, example = written.text.partition(" Example: ")
    meaning, _, default = meaning.partition(" Default: ")
    is_table = bool(_inner(field))
    where = f"{section.__name__}.{name}"
    if not meaning or not (example or is_table):
        raise SystemExit(
            f"{where}: write below it what it does and `Example: {shown} = ...` (see {Path(__file__).name})"
        )
    return Key(
        shown,
        meaning,
        _value(written.annotation) if not is_table else "table",
        default.rstrip(".") or _default(field),
        None if is_table else example.rstrip(".").strip("`"),
    )


def _value(node: ast.expr) -> str:
    """The allowed values, in words."""
    match node:
        case ast.BinOp():
            return " or ".join(word for word in (_value(node.left), _value(node.right)) if word)
        case ast.Subscript(value=ast.Name("Annotated"), slice=ast.Tuple(elts=[first, *_])):
            return _value(first)
        case ast.Subscript(value=ast.Name("Literal"), slice=values):
            names = values.elts if isinstance(values, ast.Tuple) else [values]
            return ", ".join(f'`"{ast.literal_eval(name)}"`' for name in names)
        case ast.Subscript(value=ast.Name(name)) | ast.Name(name):
            return _WORDS[name]
        case ast.Constant(None):
            return ""
    raise SystemExit(f"{ast.unparse(node)}: no words for this kind of value")


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    match default:
        case _ if default is PydanticUndefined:
            return "required"
        case RowLimit():
            return f"`{default.rows}`" if default.part is None else f"`{_quoted(str(default))}`"
        case None | () | {} | BaseModel():
            return "none"
        case bool():
            return f"`{str(default).lower()}`"
        case int() | float():
            return f"`{default:g}`" if default < 1e6 else f"`{default:.0f}`"
        case tuple():
            return f"`[{', '.join(_quoted(each) for each in default)}]`"
        case _:
            return f"`{_quoted(str(default))}`"


def _quoted(text: str) -> str:
    return f'"{text}"'


def _inner(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a key holds, or a list of it."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _tables(header: str, section: type[BaseModel]) -> Iterator[Table]:
    keys = tuple(_key(section, name, field) for name, field in section.model_fields.items())
    yield Table(header, section, " ".join((section.__doc__ or "").split()), keys)
    for name, field in section.model_fields.items():
        if (inner := _inner(field)) is not None:
            path = f"{header.strip('[]')}.{key_of(name, field)}"
            yield from _tables(f"[[{path}]]" if get_args(field.annotation) else f"[{path}]", inner)


def tables() -> Iterator[Table]:
    """All keys, in the order of the models. Raises SystemExit where a key is not explained."""
    yield from _tables("", model._Top)
    for name, section in SECTIONS.items():
        yield from _tables(f"[{name}]", section)


# ---------------------------------------------------------------------------------- writing the page


def page() -> str:
    return HEAD + "".join(map(_shown, tables()))


def _shown(table: Table) -> str:
    title = f"`{table.header}`" if table.header else "Outside any section"
    rows = [
        f"| `{key.name}` | {key.meaning} | {key.value} | {key.default} | {f'`{key.example}`' if key.example else ''} |"
        for key in table.keys
    ]
    lines = ["| key | what it does | value | default | example |", "|---|---|---|---|---|", *rows]
    return f"\n## {title}\n\n{_in_markdown(table.says)}\n\n" + "\n".join(lines) + "\n"


def _in_markdown(text: str) -> str:
    return text.replace("``", "`")


def main(arguments: list[str]) -> int:
    """Write the page. With ``--check`` only report whether it is up to date."""
    wanted = page()
    if "--check" not in arguments:
        PAGE.write_text(wanted, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == wanted:
        return 0
    print(f"{PAGE.name} is not what the models say: run scripts/docs", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
