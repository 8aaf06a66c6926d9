"""The files that package the project agree with pyproject.toml and with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import leakycli

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

#: conda-forge's names, where they differ from PyPI's.
CONDA = {"isal": "python-isal"}


def test_the_conda_recipe_asks_for_what_the_package_asks_for() -> None:
    recipe = (ROOT / "packaging" / "conda" / "recipe.yaml").read_text(encoding="utf-8")
    run = recipe.split("  run:\n")[1].split("\n\n")[0]
    asked = dict(re.findall(r"- (\S+)(?: (\S+))?", run))
    assert asked.pop("python") == PROJECT["requires-python"]
    needed = {}
    for dependency in PROJECT["dependencies"]:
        requirement, _, marker = dependency.partition(";")
        found = re.fullmatch(r"([\w-]+)(.*)", requirement.strip())
        assert found is not None
        if not marker:
            needed[CONDA.get(found[1], found[1])] = found[2]
    assert asked == needed


def test_each_python_of_the_classifiers_is_tested() -> None:
    versions = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert versions[0] == PROJECT["requires-python"].removeprefix(">=")
    ci = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert f"python: {[*versions]}".replace("'", '"') in ci


def test_each_session_that_ci_names_is_there() -> None:
    ci = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    named = re.search(r"session: \[(.*)\]", ci)
    assert named is not None
    nox = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    for session in named[1].split(", "):
        assert f"\ndef {session}(session" in nox


@pytest.mark.parametrize(
    ("page", "line"), [("CITATION.cff", "version: {}"), ("packaging/conda/recipe.yaml", '  version: "{}"')], ids=["citation", "conda"]
)
def test_the_version_is_the_same_everywhere(page: str, line: str) -> None:
    assert line.format(leakycli.__version__) in (ROOT / page).read_text(encoding="utf-8").splitlines()


def test_the_container_gets_all_that_the_package_is_built_from() -> None:
    kept = [line[1:] for line in (ROOT / ".containerignore").read_text().splitlines() if line.startswith("!")]
    for name in ("leakycli", "pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]):
        assert name in kept
    assert (ROOT / ".dockerignore").read_text() == (ROOT / ".containerignore").read_text()
