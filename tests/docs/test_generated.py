"""What the documents take from the code is what the code says now."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import click
import pytest

from leakycli import errors
from tests.kit.pages import ROOT


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """docs/generate.py, which is no package's."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATED = ["README.md", "docs/api.md", "docs/cli.md", "docs/leakycli.1", "docs/semantics.md"]


@pytest.mark.parametrize("path", GENERATED)
def test_a_generated_file_is_up_to_date(generate: ModuleType, path: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == generate.generated()[path], "run python docs/generate.py"


def test_every_generated_file_is_compared(generate: ModuleType) -> None:
    assert sorted(generate.generated()) == GENERATED


def test_the_pages_have_each_option_and_its_variable(generate: ModuleType) -> None:
    page, manual = (ROOT / "docs" / "cli.md").read_text(), (ROOT / "docs" / "leakycli.1").read_text().replace("\\-", "-")
    options = [
        (name, option) for name, command in generate.commands().items() for option in command.params if isinstance(option, click.Option)
    ]
    assert len(options) > 30
    for name, option in options:
        assert f"`{option.opts[0]}" in page
        assert option.opts[0] in manual
        if option.allow_from_autoenv and option.expose_value:
            assert f"`LEAKYCLI_{name.upper()}_{str(option.name).upper()}`" in page


def test_the_exit_codes_are_those_of_the_errors(generate: ModuleType) -> None:
    documented = {int(code) for codes in generate.EXIT_CODES for code in codes.split(", ")}
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.LeakyError)]
    assert {c.exit_code for c in classes} | {0, 130, 143, 129} == documented


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
def test_the_man_page_has_no_faults() -> None:
    command = ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(ROOT / "docs" / "leakycli.1")]
    done = subprocess.run(
        command, capture_output=True, text=True, env={"MANROFFSEQ": "", "MANWIDTH": "80", "PATH": "/usr/bin:/bin"}, check=True
    )
    assert done.stderr == ""
    assert done.stdout


def pages() -> list[Path]:
    return sorted(path for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "sample_data" / "README.md"])


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_link_to_a_file_or_heading_leads_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text(encoding="utf-8")):
        found = page.parent / target if target else page
        assert found.exists(), f"{page.name}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}
            assert anchor in anchors, f"{page.name}: {target}#{anchor}"
