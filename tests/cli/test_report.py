"""`leakycli report`: a saved report shown again, or made a page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from leakycli.report import html
from leakycli.report.json import parse
from leakycli.report.terminal import report_text
from tests.conftest import Run
from tests.kit import reports
from tests.kit.golden import GOLDEN
from tests.kit.schema import validate


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "r.json"
    path.write_text(reports.report().to_json())
    return path


def test_a_saved_report_is_shown_again(leakycli: Run, saved: Path) -> None:
    done = leakycli("report", "r.json")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == report_text(reports.report())


def test_a_report_from_a_pipe_is_made_a_page(leakycli: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.linspace(-1, 1, 100))
    done = leakycli("apply", "in.npy", "out.npy", "--json")
    shown = leakycli("report", "-", "page.html", stdin=done.stdout)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, b"", b"")
    assert (tmp_path / "page.html").read_text() == html.render(parse(done.stdout, "out"))


def test_a_report_of_version_1_becomes_one_of_this_version(leakycli: Run, tmp_path: Path) -> None:
    assert leakycli("report", GOLDEN / "version1.json", "new.json").returncode == 0
    validate(json.loads((tmp_path / "new.json").read_text()))
    assert b"NaN replaced" in leakycli("report", "new.json").stdout


def test_a_report_is_replaced_and_nothing_else_is(leakycli: Run, saved: Path, tmp_path: Path) -> None:
    assert leakycli("report", "r.json", "page.html").returncode == 0
    first = (tmp_path / "page.html").read_bytes()
    (tmp_path / "page.html").write_bytes(first + b"\n")
    assert leakycli("report", "r.json", "page.html").returncode == 0
    assert (tmp_path / "page.html").read_bytes() == first
    (tmp_path / "mine.html").write_text("<h1>mine</h1>")
    (tmp_path / "folder.html").mkdir()
    for name in ("mine.html", "folder.html"):
        done = leakycli("report", "r.json", name)
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.decode() == f"leakycli: {name}: exists and is no report of leakycli; choose another name\n"
    assert (tmp_path / "mine.html").read_text() == "<h1>mine</h1>"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.html", "mine.html", "page.html", "r.json"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("nix.json",), 1, "cannot read nix.json: No such file"),
        (("r.json", "page.pdf"), 2, "page.pdf: a report's suffix says its kind; it must end in .json or .html"),
        (("r.json", "nix/page.html"), 1, "cannot write nix/page.html: No such file"),
        (("in.npy",), 3, "in.npy: is no JSON"),
        (("huge.json",), 3, "huge.json: cost.bytes_read: expected a whole number"),
        ((), 2, "Missing argument 'REPORT.json'"),
    ],
)
def test_what_cannot_be_shown_is_one_line(
    leakycli: Run, saved: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    np.save(tmp_path / "in.npy", np.arange(3.0))
    (tmp_path / "huge.json").write_text(saved.read_text().replace('"bytes_read": 16000128', f'"bytes_read": {"9" * 400}'))
    done = leakycli("report", *arguments)
    assert (done.returncode, done.stdout) == (code, b"")
    assert said in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


def test_a_full_disk_leaves_the_old_page(leakycli: Run, saved: Path) -> None:
    done = leakycli("report", "r.json", "/dev/full")
    assert done.returncode == 2


def test_apply_writes_a_page_beside_the_report(leakycli: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.linspace(-1, 1, 100))
    done = leakycli("apply", "in.npy", "out.npy", "--report", "page.html")
    assert done.returncode == 0
    assert done.stdout.decode().splitlines()[-2:] == ["report: out.npy.report.json", "report: page.html"]
    report = parse((tmp_path / "out.npy.report.json").read_bytes(), "x")
    assert (tmp_path / "page.html").read_text() == html.render(report)
    (tmp_path / "mine.html").write_text("mine")
    done = leakycli("apply", "in.npy", "other.npy", "--report", "mine.html")
    assert (done.returncode, (tmp_path / "mine.html").read_text()) == (2, "mine")
    assert not (tmp_path / "other.npy").exists()


def test_a_small_run_loads_neither_templates_nor_rich(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess
    import sys

    np.save(tmp_path / "in.npy", np.arange(10.0))
    code = (
        "import sys, leakycli.cli\n"
        "assert leakycli.cli._run(['apply', 'in.npy', 'out.npy']) == 0\n"
        "assert leakycli.cli._run(['info', 'in.npy']) == 0\n"
        "assert leakycli.cli._run(['report', 'out.npy.report.json']) == 0\n"
        "assert not {'jinja2', 'rich', 'zarr', 'dask', 'fsspec'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
