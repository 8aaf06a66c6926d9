"""The pages on speed, out of made-up measurements: which rows are told, and in which words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import page

ROOT = Path(__file__).parents[2]


def row(name: str, peer: str, ratio: float, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "peer": peer,
        "seconds": ratio,
        "peer_seconds": 1.0,
        "ratio": ratio,
        "spread": [ratio * 0.9, ratio * 1.1],
        "accepted": 1.0,
        "goal": 0.5,
        "memory": 90 << 20,
        "projected": 100 << 20,
        "bound": 512 << 20,
        "floor": False,
        "peer_memory": 2000 << 20,
        "size_ratio": None,
        "differs": False,
        **more,
    }


def result(python: str, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    versions = {"Python": python, "leakycli": "9.9"}
    command = "python -m benchmarks --size 2048 --runs 3"
    return {
        "date": "2030-01-01",
        "machine": "A machine",
        "versions": versions,
        "command": command,
        "rows": rows,
        "singles": [],
        "growth": [],
        **more,
    }


ROWS = [row("npy float32", "cp", 1.25), row("npy float32", "numpy script", 0.125), row("npy float32", "cp (floor)", 3.0, floor=True)]


def test_the_story_is_of_the_newest_python_and_says_where_leakycli_is_slower() -> None:
    text = page.story([result("3.13.0", ROWS, note="A remark."), result("3.9.9", [row("old", "cp", 7.0)])])
    assert "| npy float32 | 0.12 s | numpy script: 1.00 s | 8.0 x faster |" in text
    assert "- npy float32: 1.25 x the time of cp." in text
    assert "A remark." in text
    assert "old" not in text
    assert "floor" not in text


def test_the_tables_have_every_row() -> None:
    text = page.tables([result("3.13.0", ROWS), result("3.9.9", [row("old", "cp", 7.0)])])
    assert len(re.findall(r"^\| (?:npy|old)", text, re.MULTILINE)) == 4
    assert "**short**" in text


def test_the_figures_go_into_the_readme(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- measured -->\nold\n<!-- end -->\nafter\n")
    page.write([result("3.13.0", ROWS)], tmp_path, readme)
    text = readme.read_text()
    assert text.startswith("before\n<!-- measured -->\n- **Speed**: a float32 `.npy` of 2 GiB takes 1.2 s, where `cp` takes 1.0 s")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "old" not in text
    assert (tmp_path / "performance-tables.md").exists()


def test_the_picture_is_well_formed() -> None:
    picture = ElementTree.fromstring(page.bars(ROWS))
    assert len(picture.findall("{http://www.w3.org/2000/svg}rect")) == 3


def test_the_figures_of_the_readme_are_those_of_the_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    if "<!-- measured -->" not in readme:
        pytest.fail("README.md has no place for measured figures")
    figures = readme.split("<!-- measured -->\n")[1].split("<!-- end -->")[0].splitlines()
    assert len(figures) == 2
    told = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8").splitlines()
    assert all(line in told for line in figures)
