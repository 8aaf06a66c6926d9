"""The layers of DESIGN: imports point downward only, click stays in cli/, heavy packages are imported where they are used."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import leakycli

PACKAGE = Path(leakycli.__file__).parent

#: The rooms from top to bottom: a module may import from its own room, and from those on lines below.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("__init__",),
    ("api",),
    ("progress",),
    ("engine",),
    ("formats", "destination", "report"),
    ("options",),
    ("arguments",),
    ("stores", "function"),
    ("regions",),
    ("stopping", "system", "tuning"),
    ("errors", "_version"),
)

#: What else a module may import, and why.
EXCEPTIONS = {
    # The documents of a Zarr are what makes it one, and so are written last.
    ("destination.object_store", "formats"),
    # A report holds how an array is cut up on disk.
    ("report.model", "formats"),
    # Reports are read from where arrays are: paths and URLs.
    ("report.saved", "formats"),
    # A hierarchy is shown as a tree, a file as a list.
    ("report.terminal", "formats"),
}

#: Packages that may be imported at a module's top level, and below which module only.
OWNERS = {
    "click": "cli",
    "google_crc32c": "formats.zarr",
    "zarr": "formats.zarr",
    "numcodecs": "formats.zarr",
    "dask": "engine.executors",
    "distributed": "engine.executors",
}

#: Never at top level: they cost more than a small run.
LAZY = {"rich", "zarr", "dask", "distributed", "fsspec", "jinja2"}


def modules() -> list[str]:
    found = [path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".") for path in PACKAGE.rglob("*.py")]
    assert len(found) > 20
    return sorted(found)


def room(module: str) -> str:
    """The folder, or the module beside the folders, that `module` is in."""
    return module.split(".")[0]


def layer(module: str) -> int:
    """The line of LAYERS that `module` is on."""
    found = [i for i, names in enumerate(LAYERS) if room(module) in names]
    assert found, f"{module} has no layer: add it to LAYERS"
    return found[0]


def imports(module: str, top_level_only: bool = False) -> set[str]:
    """What `module` imports at run time, absolute; names imported only for annotations are left out."""
    tree = ast.parse((PACKAGE / (module.replace(".", "/") + ".py")).read_text())
    found: set[str] = set()
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if top_level_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        pending += ast.iter_child_nodes(node)
    return found


def own_modules(names: set[str]) -> set[str]:
    known = set(modules())
    targets = set()
    for name in names:
        if name.split(".")[0] != "leakycli":
            continue
        name = name.removeprefix("leakycli").lstrip(".")
        while name and name not in known and f"{name}.__init__" not in known:
            name = name.rpartition(".")[0]
        targets.add(name if name in known else f"{name}.__init__" if name else "__init__")
    return targets


@pytest.mark.parametrize("module", modules())
def test_imports_point_downward(module: str) -> None:
    for target in own_modules(imports(module)):
        allowed = room(target) == room(module) or layer(target) > layer(module) or (module, room(target)) in EXCEPTIONS
        assert allowed, f"{module} imports {target}, which is no room below it"


def test_every_exception_is_needed() -> None:
    for module, target in EXCEPTIONS:
        assert target in {room(each) for each in own_modules(imports(module))}, f"{module} does not import {target} any more"


def test_no_import_cycles() -> None:
    graph = {module: own_modules(imports(module)) - {module} for module in modules()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for target in graph[module]:
                visit(target, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("module", modules())
def test_packages_are_imported_by_their_owner_only(module: str) -> None:
    for name in imports(module):
        owner = OWNERS.get(name.split(".")[0])
        assert owner is None or module == owner or module.startswith(f"{owner}."), f"{module} imports {name}"


@pytest.mark.parametrize("module", modules())
def test_heavy_packages_are_imported_when_used(module: str) -> None:
    heavy = {name for name in imports(module, top_level_only=True) if name.split(".")[0] in LAZY}
    assert not heavy or module.startswith("formats.zarr"), f"{module} imports {heavy} at its top level"


@pytest.mark.parametrize(
    "module",
    [
        "function.kernel",
        "function.compiled",
        "function.reference",
        "function.rule",
        "function.sample",
        "function.stats",
        "regions",
        "engine.plan",
    ],
)
def test_pure_modules_touch_no_file_clock_environment_or_log(module: str) -> None:
    assert not {name.split(".")[0] for name in imports(module)} & {"os", "io", "pathlib", "time", "datetime", "logging"}
