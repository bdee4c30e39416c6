"""The rooms stand in layers; nothing imports upward or in a circle (imports inside functions count)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import batchvision

PACKAGE = Path(batchvision.__file__).parent

#: From the ground up. A new room is added here, in the layer that its rule allows.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset(
        {
            "errors",
            "records",
            "keys",
            "offload",
            "eventloop",
            "descriptors",
            "interruption",
            "secrets",
            "stopping",
            "wording",
            "wakeup",
        }
    ),
    frozenset({"job", "recipe", "prompt", "money", "spending", "retry", "refusals", "estimate", "providers"}),
    frozenset({"outcome", "manifest", "images", "checkpoint", "http", "pacing", "caps", "caching", "pricelist"}),
    frozenset({"budget", "feed", "key_renewal", "prepare"}),
    frozenset({"exchange", "guards"}),
    frozenset({"lanes"}),
    frozenset({"open_tickets", "plan", "runner", "waits", "wiring", "summary"}),
    frozenset({"pilot", "status", "progress", "check", "demo", "verify", "reparse"}),
    frozenset({"cli", "__main__"}),
)
#: The emulator is a stranger to the client it tests, and samples only draw.
STRANGERS: dict[str, frozenset[str]] = {"emulator": frozenset({"records"}), "samples": frozenset()}
HEIGHT = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}

#: Libraries that one room alone may import.
ONLY_IN: dict[str, frozenset[str]] = {
    "httptools": frozenset({"http"}),
    "httpx": frozenset({"http"}),
    "httpx2": frozenset({"http"}),
    "aiohttp": frozenset({"emulator"}),
    "yarl": frozenset(),
    "aiolimiter": frozenset({"pacing", "http"}),
    "click": frozenset({"cli", "__main__"}),
    "tqdm": frozenset({"progress"}),
}


def _modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:  # the package's own __init__ names the public faces of all rooms, lazily
            found[name] = path
    return found


MODULES = _modules()


def _imports(path: Path) -> Iterator[str]:
    """Every absolute module name that ``path`` imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative imports hide which room is meant"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def _own_imports(path: Path) -> Iterator[str]:
    for name in _imports(path):
        top, _, rest = name.partition(".")
        if top == "batchvision" and rest and rest != "__version__":
            yield rest


def _room(module: str) -> str:
    return module.partition(".")[0]


def _module_of(name: str) -> str:
    """The module that holds ``name`` (``records.Row`` -> ``records``)."""
    while name not in MODULES and "." in name:
        name = name.rpartition(".")[0]
    return name


def test_every_room_has_a_layer() -> None:
    rooms = {_room(module) for module in MODULES}
    unknown = rooms - HEIGHT.keys() - STRANGERS.keys()
    assert not unknown, f"give these rooms a layer in this test and a line in CONTRIBUTING.md: {sorted(unknown)}"


def test_every_room_has_its_line_in_contributing() -> None:
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = {_room(module) for module in MODULES} - {"__main__"}
    unnamed = [room for room in rooms if f"`{room}.py`" not in text and f"`{room}/`" not in text]
    assert not unnamed, f"CONTRIBUTING.md does not say what these rooms are for: {sorted(unnamed)}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nothing_imports_upward(module: str) -> None:
    room = _room(module)
    for name in _own_imports(MODULES[module]):
        other = _room(name)
        if other == room:
            continue
        if room in STRANGERS:
            assert other in STRANGERS[room], f"{module} may not know {name}"
        elif other in STRANGERS:
            assert HEIGHT[room] >= HEIGHT["demo"], f"{module} is product code and imports {name}"
        else:
            assert HEIGHT[other] <= HEIGHT[room], f"{module} imports {name}, which stands above it"


def test_there_are_no_circles_between_rooms_or_modules() -> None:
    between_modules = {
        module: {_module_of(name) for name in _own_imports(path)} - {module} for module, path in MODULES.items()
    }
    between_rooms: dict[str, set[str]] = {}
    for module, others in between_modules.items():
        between_rooms.setdefault(_room(module), set()).update({_room(other) for other in others} - {_room(module)})
    for graph in (between_rooms, between_modules):
        try:
            tuple(TopologicalSorter(graph).static_order())
        except CycleError as circle:
            pytest.fail(f"a circle of imports: {' <- '.join(circle.args[1])}")


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_a_library_with_one_owner_is_imported_by_it_alone(library: str) -> None:
    users = {
        _room(module) for module, path in MODULES.items() if any(n.split(".")[0] == library for n in _imports(path))
    }
    assert users <= ONLY_IN[library], (
        f"{library} belongs to {sorted(ONLY_IN[library])}, but is imported by {sorted(users)}"
    )


def test_the_layer_test_sees_imports_inside_functions(tmp_path: Path) -> None:
    path = tmp_path / "probe.py"
    path.write_text("def f():\n    from batchvision.cli import main\n    import batchvision.runner.session\n")
    assert set(_own_imports(path)) == {"cli.main", "runner"}
