"""Packages stand in layers; nothing imports upward or in a circle (imports inside functions count)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import batchvision

PACKAGE = Path(batchvision.__file__).parent

#: From the ground up. A new package is added here, in the layer that its rule allows.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset(
        {
            "descriptors",
            "errors",
            "eventloop",
            "interruption",
            "keys",
            "object_store",
            "records",
            "secrets",
            "stopping",
            "ticks",
            "wording",
        }
    ),
    frozenset({"accuracy", "job", "prompt", "money", "providers"}),
    frozenset({"manifest", "images", "http", "limits", "checkpoint"}),
    frozenset({"runner"}),
    frozenset({"commands"}),
    frozenset({"cli", "__main__"}),
)
#: Packages inside a package that are imported by their own names.
INNER_PACKAGES = frozenset({"runner.feed", "runner.lanes"})
#: The emulator is a stranger to the client it tests, and samples only draw.
STRANGERS: dict[str, frozenset[str]] = {"emulator": frozenset({"records"}), "samples": frozenset()}
HEIGHT = {package: height for height, packages in enumerate(LAYERS) for package in packages}

#: Libraries that one package alone may import.
ONLY_IN: dict[str, frozenset[str]] = {
    "httptools": frozenset({"http"}),
    "httpx": frozenset({"http"}),
    "httpx2": frozenset({"http"}),
    "aiohttp": frozenset({"emulator"}),
    "yarl": frozenset(),
    "aiolimiter": frozenset({"http"}),
    "click": frozenset({"cli", "__main__"}),
    "tqdm": frozenset({"cli"}),
}


def _modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:  # the package's own __init__ names the public faces of all packages, lazily
            found[name] = path
    return found


MODULES = _modules()


def _imports(path: Path) -> Iterator[str]:
    """Every absolute module name that ``path`` imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative imports hide which package is meant"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def _own_imports(path: Path) -> Iterator[str]:
    for name in _imports(path):
        top, _, rest = name.partition(".")
        if top == "batchvision" and rest and rest != "__version__":
            yield rest


def _top(module: str) -> str:
    return module.partition(".")[0]


def _module_of(name: str) -> str:
    """The module that holds ``name`` (``records.Row`` -> ``records``)."""
    while name not in MODULES and "." in name:
        name = name.rpartition(".")[0]
    return name


def test_every_package_has_a_layer() -> None:
    packages = {_top(module) for module in MODULES}
    unknown = packages - HEIGHT.keys() - STRANGERS.keys()
    assert not unknown, f"give these packages a layer in this test and a line in CONTRIBUTING.md: {sorted(unknown)}"


def test_every_package_has_its_line_in_contributing() -> None:
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    packages = {_top(module) for module in MODULES} - {"__main__"}
    unnamed = [package for package in packages if f"`{package}.py`" not in text and f"`{package}/`" not in text]
    assert not unnamed, f"CONTRIBUTING.md does not say what these packages are for: {sorted(unnamed)}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nothing_imports_upward(module: str) -> None:
    package = _top(module)
    for name in _own_imports(MODULES[module]):
        other = _top(name)
        if other == package:
            continue
        if package in STRANGERS:
            assert other in STRANGERS[package], f"{module} may not know {name}"
        elif other in STRANGERS:
            assert HEIGHT[package] >= HEIGHT["commands"], f"{module} is product code and imports {name}"
        else:
            assert HEIGHT[other] <= HEIGHT[package], f"{module} imports {name}, which stands above it"


def _package(module: str) -> str:
    """The package by which a module is imported from elsewhere."""
    first, second = [*module.split("."), "", ""][:2]
    is_inner = f"{first}.{second}" in INNER_PACKAGES or (first in ("commands", "cli") and second)
    return f"{first}.{second}" if is_inner else first


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_package_is_imported_and_not_the_modules_inside_it(module: str) -> None:
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        source = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        top, _, imported = source.partition(".")
        if top == "batchvision" and imported and _top(imported) != _top(module):
            assert imported == _package(imported), f"{module} imports {imported}: import {_package(imported)}"


def test_there_are_no_circles_between_packages_or_modules() -> None:
    between_modules = {
        module: {_module_of(name) for name in _own_imports(path)} - {module} for module, path in MODULES.items()
    }
    between_packages: dict[str, set[str]] = {}
    for module, others in between_modules.items():
        between_packages.setdefault(_top(module), set()).update({_top(other) for other in others} - {_top(module)})
    for graph in (between_packages, between_modules):
        try:
            tuple(TopologicalSorter(graph).static_order())
        except CycleError as circle:
            pytest.fail(f"a circle of imports: {' <- '.join(circle.args[1])}")


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_a_library_with_one_owner_is_imported_by_it_alone(library: str) -> None:
    users = {
        _top(module) for module, path in MODULES.items() if any(n.split(".")[0] == library for n in _imports(path))
    }
    assert users <= ONLY_IN[library], (
        f"{library} belongs to {sorted(ONLY_IN[library])}, but is imported by {sorted(users)}"
    )


def test_the_layer_test_sees_imports_inside_functions(tmp_path: Path) -> None:
    path = tmp_path / "probe.py"
    path.write_text("def f():\n    from batchvision.cli import main\n    import batchvision.runner\n")
    assert set(_own_imports(path)) == {"cli.main", "runner"}
