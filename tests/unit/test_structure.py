"""Measures that keep the package readable: unique names, short files and functions, few arguments, plain inits."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import batchvision

PACKAGE = Path(batchvision.__file__).parent
MODULES = {path.relative_to(PACKAGE): ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60
MOST_ARGUMENTS = 7


def public_types(module: ast.Module) -> Iterator[str]:
    """Names of classes and type aliases of a module that have no leading underscore."""
    for node in module.body:
        match node:
            case ast.ClassDef(name=name) if not name.startswith("_"):
                yield name
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Subscript() | ast.BinOp()) if (
                name[0].isupper() and not name.isupper()
            ):
                yield name


def functions() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path, module in MODULES.items():
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


def test_no_public_class_or_type_alias_has_the_name_of_another_one() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path, module in MODULES.items():
        for name in public_types(module):
            places[name].append(str(path))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_no_file_is_longer_than_400_lines() -> None:
    lines = {str(path): len((PACKAGE / path).read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {path: count for path, count in lines.items() if count > MOST_LINES} == {}


def test_no_function_is_longer_than_60_lines() -> None:
    lines = {f"{path}:{node.name}": (node.end_lineno or 0) - node.lineno + 1 for path, node in functions()}
    assert {name: count for name, count in lines.items() if count > MOST_LINES_OF_A_FUNCTION} == {}


def test_no_init_method_has_more_than_7_arguments() -> None:
    counts = {
        f"{path}:{node.lineno}": len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs) - 1
        for path, node in functions()
        if node.name == "__init__"
    }
    assert {place: count for place, count in counts.items() if count > MOST_ARGUMENTS} == {}


def test_a_package_init_holds_names_only() -> None:
    logic = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.For, ast.While, ast.With, ast.Try)
    found = {
        str(path)
        for path, module in MODULES.items()
        if path.name == "__init__.py"
        and path.parent != Path()
        and any(isinstance(node, logic) for node in ast.walk(module))
    }
    assert found == set()
