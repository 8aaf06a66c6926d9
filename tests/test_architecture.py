"""The page that says where things are: they are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import leakycli
from leakycli import errors

PACKAGE = Path(leakycli.__file__).parent
PAGE = Path(__file__).parents[1] / "ARCHITECTURE.md"
TEXT = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""


#: Those below cli/ are named as "a module for each command", those of npz/ and zarr/ not at all.
MODULES = sorted(
    path.stem for path in PACKAGE.rglob("*.py") if not path.stem.startswith("_") and path.parent.name not in ("cli", "npz", "zarr")
)


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
    assert found, f"ARCHITECTURE.md has no section {title}"
    return found.group(1)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_is_on_the_page(module: str) -> None:
    assert re.search(rf"\b{module}\b", section("The tree")), f"{module} is not in the tree"


@pytest.mark.parametrize(("name", "where"), re.findall(r"^\| `(\w+)` \| (\S+) \|", section("The ten types to know"), re.MULTILINE))
def test_the_central_types_are_where_it_says(name: str, where: str) -> None:
    code = ast.parse((PACKAGE / where.replace("\\", "")).read_text(encoding="utf-8"))
    assert name in {node.name for node in code.body if isinstance(node, ast.ClassDef)}


def test_there_are_ten_of_them() -> None:
    assert len(re.findall(r"^\| `\w+` \|", section("The ten types to know"), re.MULTILINE)) == 10


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "docs/design.md"])
def test_every_path_of_a_module_exists(page: str) -> None:
    text = (PAGE.parent / page).read_text(encoding="utf-8")
    for path in re.findall(r"(?<![\w/.])((?:\w+/)*\w+\.py)\b", text.replace("\\", "")):
        assert (PACKAGE / path).exists() or (PAGE.parent / path).exists() or list(PACKAGE.rglob(path)), f"{page} names {path}"


def test_the_tree_of_errors_is_that_of_the_classes() -> None:
    tree = (errors.__doc__ or "").partition("    LeakyError")[2]
    drawn = dict(re.findall(r"^ +(\w+Error)(?:, \w+)?(?: \((\d)\))?", f"    LeakyError{tree}", re.MULTILINE))
    known = {name: each for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, errors.LeakyError)}
    assert drawn.keys() == known.keys()
    for name, code in drawn.items():
        assert not code or int(code) == known[name].exit_code
