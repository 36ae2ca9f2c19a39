"""Which rooms may import from which: the table of docs/architecture.md, held against the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import goskill

ROOT = Path(goskill.__file__).parent
BASE = ("errors", "files", "seeds", "settings", "terminal")  # modules that anything may import
BELOW: dict[str, tuple[str, ...]] = {
    "kernels": (),
    "ops": ("kernels",),
    "nn": ("ops",),
    "models": ("nn", "ops"),
    "data": ("envs", "kernels"),
    "envs": (),
    "evaluation": (),
    "figures": ("evaluation",),
    "training": ("data", "nn", "models", "ops"),
    "rollouts": ("data", "envs", "evaluation"),
    "methods": ("training", "rollouts", "models", "nn", "ops", "data", "envs", "evaluation"),
    "compat": ("data",),
    "experiments": (
        *("methods", "training", "rollouts", "evaluation", "figures", "models", "nn", "ops", "data", "envs"),
        "doctor",
    ),
    "commands": ("experiments", "methods", "training", "rollouts", "evaluation", "figures", "data", "envs"),
}


def modules() -> list[Path]:
    return [
        path
        for path in ROOT.rglob("*.py")
        if path.relative_to(ROOT).parts[0] not in ("bench", "kernels") and path.parent != ROOT
    ]


def imported(path: Path, *, at_start: bool) -> Iterator[str]:
    """Modules of goskill that a file imports; ``at_start`` leaves out those within functions and for types only."""
    for node in _statements(ast.parse(path.read_text(encoding="utf-8")), at_start):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("goskill."))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "goskill":
            for alias in node.names:
                submodule = ROOT.joinpath(*f"{node.module}.{alias.name}".split(".")[1:])
                found = submodule.with_suffix(".py").exists() or submodule.is_dir()
                yield node.module
                if found:
                    yield f"{node.module}.{alias.name}"


def _statements(tree: ast.AST, at_start: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if at_start and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if at_start and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from _statements(node, at_start)


@pytest.mark.parametrize(
    "room", sorted(path.name for path in ROOT.iterdir() if (path / "__init__.py").exists())
)
def test_every_room_is_in_the_table(room: str) -> None:
    assert room in BELOW or room in ("bench", "kernels")


def test_imports_point_one_way() -> None:
    wrong = []
    for path in modules():
        room = path.relative_to(ROOT).parts[0]
        allowed = {room, *BELOW[room], *BASE, "_core"}
        for name in imported(path, at_start=False):
            target = name.split(".")[1] if "." in name else ""
            if target and target not in allowed:
                wrong.append(f"{path.relative_to(ROOT)} -> {name}")
    assert not wrong


def test_no_method_is_imported_by_name_from_above() -> None:
    """Rooms above find methods through the registry."""
    families = {path.name for path in (ROOT / "methods").iterdir() if path.is_dir()} - {
        "sequence",
        "__pycache__",
    }
    wrong = [
        f"{path.relative_to(ROOT)} -> {name}"
        for path in modules()
        if path.relative_to(ROOT).parts[0] != "methods"
        for name in imported(path, at_start=False)
        if name.split(".")[1:2] == ["methods"] and name.split(".")[2:3] and name.split(".")[2] in families
    ]
    assert not wrong


def test_no_modules_import_each_other_in_a_circle() -> None:
    names = {_name(path): path for path in ROOT.rglob("*.py") if "bench" not in path.parts}
    graph = {
        name: {i for i in imported(path, at_start=True) if i in names} - {name}
        for name, path in names.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name in done:
            return
        for following in sorted(graph[name]):
            visit(following, (*trail, name))
        done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_files_of_one_name_are_of_different_methods_or_suites_only() -> None:
    """The same name in two rooms has to mean the same interface: parts of methods, suites and package files."""
    places: dict[str, set[str]] = {}
    for path in modules():
        parts = path.relative_to(ROOT).parts
        if path.name != "__init__.py":
            room = parts[0] if parts[0] in ("methods", "envs") else "/".join(parts[:-1])
            places.setdefault(path.name, set()).add(room)
    shared = {name: sorted(rooms) for name, rooms in places.items() if len(rooms) > 1}
    assert not shared


def test_public_classes_have_names_of_their_own() -> None:
    places: dict[str, list[str]] = {}
    for path in modules():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert not {name: where for name, where in places.items() if len(where) > 1}


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")
