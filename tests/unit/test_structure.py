"""Measures that keep the package readable: few arguments, plain inits."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import batchvision

PACKAGE = Path(batchvision.__file__).parent
MODULES = {path.relative_to(PACKAGE): ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
MOST_ARGUMENTS = 7


def functions() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path, module in MODULES.items():
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


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
