"""Where settings come from: the job file, the environment, flags; merged into one table that remembers which.

Rule: flag > environment > job file > default. Nothing is judged here but syntax.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from batchvision.errors import JobInvalid
from batchvision.job.sections import SECTIONS, key_of

PREFIX = "BATCHVISION_"
TOP_LEVEL = ("name", "timezone")
Table = dict[str, Any]


def read_toml(path: Path) -> Table:
    """The job file's content. Raises JobInvalid."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise JobInvalid(f"there is no job file {path}; check the path") from None
    except IsADirectoryError:
        raise JobInvalid(f"{path} is a folder; give the path of a job file (.toml)") from None
    except UnicodeDecodeError:
        raise JobInvalid(f"{path} is not UTF-8 text; a job file is a TOML file in UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise JobInvalid(f"{path} is not valid TOML: {error}") from None
    except OSError as error:
        raise JobInvalid(f"{path} cannot be read: {error.strerror}") from None


def merged(
    file: Mapping[str, Any], environ: Mapping[str, str], overrides: Mapping[str, object]
) -> tuple[Table, dict[str, str]]:
    """The settings as one nested table, and where each dotted key came from."""
    table: Table = _copied(file)
    origins = dict.fromkeys(_leaves(file), "job file")
    for name, key, text in _from_environment(environ):
        _put(table, key, _value(key, text), origins, f"environment {name}")
    for dotted, value in overrides.items():
        key = tuple(dotted.split("."))
        _put(table, key, _value(key, value) if isinstance(value, str) else value, origins, "flag")
    return table, origins


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _copied(child) for name, child in value.items()}
    return value


def _leaves(table: Mapping[str, Any], before: tuple[str, ...] = ()) -> Iterator[str]:
    """Dotted keys down to the keys of sections, and of the free tables below them."""
    for name, value in table.items():
        path = (*before, name)
        if isinstance(value, Mapping) and value and opens(path):
            yield from _leaves(value, path)
        else:
            yield ".".join(path)


def opens(path: tuple[str, ...]) -> bool:
    """Whether a table at ``path`` holds settings, rather than being one setting's value."""
    return len(path) == 1 or path in (("provider", "parameters"), ("provider", "headers"), ("provider", "prices"))


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, ...], str]]:
    for name, text in sorted(environ.items()):
        if name.startswith(PREFIX):
            key = tuple(part.lower() for part in name.removeprefix(PREFIX).split("__"))
            if len(key) > 1 or key[0] in TOP_LEVEL:  # other names of one word are not settings
                yield name, key, text


def _put(table: Table, key: tuple[str, ...], value: Any, origins: dict[str, str], origin: str) -> None:
    for depth, part in enumerate(key[:-1], start=1):
        child = table.setdefault(part, {})
        if not isinstance(child, dict):
            raise JobInvalid(f"{'.'.join(key)} ({origin}) cannot be set: {'.'.join(key[:depth])} is no table")
        table = child
    table[key[-1]] = value
    dotted = ".".join(key)
    for known in [name for name in origins if name.startswith(dotted + ".")]:
        del origins[known]
    origins[dotted] = origin


def _value(key: tuple[str, ...], text: str) -> Any:
    """``text`` as the TOML value it is; where the setting is text, as it stands."""
    if _is_text(key):
        return text
    try:
        read = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return read["value"] if list(read) == ["value"] else text


def _is_text(key: tuple[str, ...]) -> bool:
    """Whether nothing but text can stand at ``key``: a model named 4.20 must stay so."""
    if len(key) < 2:
        return True
    section: type[BaseModel] | None = SECTIONS.get(key[0])
    if key[:2] == ("provider", "headers"):
        return True
    fields = {key_of(name, field): field for name, field in section.model_fields.items()} if section else {}
    return len(key) == 2 and key[1] in fields and _only_text(fields[key[1]].annotation)


def _only_text(annotation: Any) -> bool:
    """Whether ``annotation`` allows only text: ``str``, literals of text, or either with ``None``."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _only_text(get_args(annotation)[0])
    if origin is Literal:
        return all(isinstance(word, str) for word in get_args(annotation))
    if origin in (Union, UnionType):
        return all(_only_text(part) for part in get_args(annotation))
    return annotation in (str, type(None))
