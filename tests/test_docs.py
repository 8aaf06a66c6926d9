"""What the documents say is run: a page that no test reads is a page that will be wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

import leakycli
from leakycli import errors

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, containing: str) -> str:
    """The one code block of the README in `language` that contains a text."""
    found = [b for b in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if containing in b]
    assert len(found) == 1
    return str(found[0])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the README's examples name."""
    x = np.linspace(-1, 1, 1000, dtype=np.float32)
    for name in ("a", "big", "layer1", "layer2"):
        np.save(tmp_path / f"{name}.npy", x)
    np.savez(tmp_path / "layers.npz", conv1=x, labels=np.arange(3))
    acts = zarr.open_group(tmp_path / "acts.zarr", mode="w")
    acts.create_array("conv1", data=x, chunks=(100,))
    (tmp_path / "results").mkdir()
    (tmp_path / "run1" / "deep").mkdir(parents=True)
    np.save(tmp_path / "run1" / "deep" / "c.npy", x)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_line_of_the_usage_block_works(folder: Path) -> None:
    lines = [line.split("  #")[0].strip() for line in block("sh", "leakycli info").splitlines()]
    assert len(lines) > 8
    (folder / "leakycli").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m leakycli "$@"\n')
    (folder / "producer").write_text("#!/bin/sh\ncat a.npy\n")
    (folder / "consumer").write_text("#!/bin/sh\ncat >consumed.npy\n")
    for name in ("leakycli", "producer", "consumer"):
        (folder / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    for line in lines:
        # Examples stand on their own: an earlier one's result is no reason for the next to be refused.
        for used in ("b.npy", "b.npz", "half.npy", "conv1.npy", "out.npy", "out.npz"):
            if line.startswith("leakycli apply"):
                (folder / used).unlink(missing_ok=True)
                for store in ("b.zarr", "leaky.zarr"):
                    shutil.rmtree(folder / store, ignore_errors=True)
        if line.startswith("leakycli verify"):
            leakycli.apply("a.npy", "b.npy")
        done = subprocess.run(["sh", "-ec", line], env=env, capture_output=True, timeout=60)
        assert (done.returncode, done.stderr if "| consumer" not in line else b"") == (0, b""), line
    assert np.load(folder / "consumed.npy").size == 1000
    assert (folder / "results" / "layer1.npy").exists()


def test_the_python_block_works(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, object] = {}
    exec(compile(block("python", "import leakycli"), "README.md", "exec"), scope)
    np.testing.assert_array_equal(scope["y"], np.array([-0.1, 2.0]))
    out = capsys.readouterr().out
    assert "median" in out
    assert "Losses(overflowed=0" in out


@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
def test_the_examples_of_zarr_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "zarr.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        exec(compile(example, "docs/zarr.md", "exec"), {})
    assert "'activity': 'transformed', 'count': 'copied', 'depth': 'copied'" in capsys.readouterr().out
    assert len(list((tmp_path / "leaky_image.zarr" / "labels").rglob("zarr.json"))) == 4


def test_exit_codes_are_those_of_the_errors() -> None:
    table = README.split("### Exit codes")[1].split("## More")[0]
    documented = {int(code) for code in re.findall(r"^\| (\d+)", table, re.MULTILINE)}
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.LeakyError)]
    assert len(classes) > 5
    assert {c.exit_code for c in classes} | {0, 130} == documented


def test_every_field_of_the_report_is_explained() -> None:
    page = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    schema = json.loads((ROOT / "leakycli" / "report" / "schema.json").read_text(encoding="utf-8"))
    objects = [schema, *(schema["$defs"][name] for name in schema["$defs"] if "properties" in schema["$defs"][name])]
    fields = {name for described in objects for name in described["properties"]} - {"tool", "version", "python", "numpy", "zarr", "system"}
    assert len(fields) > 50
    for name in fields:
        assert f"`{name}`" in page or name in ("compressor", "zarr_format"), name


def test_the_examples_of_the_report_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    lines = [line.split("  #")[0].strip() for line in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)[0].splitlines()]
    assert len(lines) == 4
    np.save("in.npy", np.linspace(-1, 1, 1000))
    for line in (*lines[:1], *lines[2:]):
        done = subprocess.run([sys.executable, "-m", *line.split()], capture_output=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, b""), line
    assert Path("out.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_every_file_that_the_documents_link_to_is_there() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "sample_data" / "README.md"]
    links = [(page, link) for page in pages for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8"))]
    assert links
    for page, link in links:
        assert (page.parent / link).exists(), f"{page}: {link}"


def test_the_tests_that_hold_the_promises_are_there() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = set(re.findall(r"((?:\w+/)*test_\w+\.py)(?:::(test_\w+))?", text))
    assert len(named) > 15
    for file, test in named:
        code = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert f"def {test}(" in code if test else "def test_" in code, (file, test)
