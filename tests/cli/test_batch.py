"""A batch: its total, its failures, lists of sources that keep the tree."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakycli.cli.batch import Batch, Done, Failure, entry_of, placed, read_list, write_list
from leakycli.errors import StorageError
from tests.conftest import Run

NAMES = st.text(st.sampled_from("ab\n \udcff.é"), min_size=1, max_size=4).filter(lambda name: name.strip(".") and "\0" not in name)


def test_the_total_says_what_was_done_and_what_failed() -> None:
    batch = Batch(6, "results", began=0)
    for i in range(2):
        batch.add(Done("", 1000, 2048, 1024, {"overflowed": 1, "clipped": 0, "masked": i}))
    batch.add(Done("", 7, 7, 7, {"overflowed": 7}, already=True))
    batch.failures += [Failure("a\x1b.npy", "a\x1b.npy", "a.npy: bad\x1b", 3), Failure("b.npy", "b.npy", "b.npy: worse", 1)]
    total = batch.values()["total"]
    assert total.pop("seconds") > 0
    assert total == {
        "sources": 6,
        "done": 2,
        "already": 1,
        "failed": 2,
        "not_begun": 1,
        "elements": 2000,
        "bytes_read": 4096,
        "bytes_written": 2048,
        "losses": {"overflowed": 2, "clipped": 0, "masked": 1},
        "failures": [
            {"source": "a\\x1b.npy", "error": "a.npy: bad\\x1b", "exit_code": 3},
            {"source": "b.npy", "error": "b.npy: worse", "exit_code": 1},
        ],
    }
    first, *failed = batch.text().splitlines()
    assert first.startswith("6 sources: 2 done, 1 already complete, 2 failed, 1 not begun; 2,000 elements; 4 KiB read, 2 KiB written, ")
    assert "; lost: 2 overflowed, 1 became the missing value" in first
    assert failed == ["failed: a.npy: bad\\x1b", "failed: b.npy: worse"]


@given(st.lists(NAMES, max_size=6))
def test_a_list_holds_any_names(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    path = str(tmp_path_factory.mktemp("list") / "failed.txt")
    write_list(path, names)
    assert read_list(path) == tuple(names)
    assert os.listdir(os.path.dirname(path)) == ["failed.txt"]


def test_a_list_with_a_nul_in_it_is_separated_by_nul(tmp_path: Path) -> None:
    (tmp_path / "l").write_bytes(b"a\nb\0c\0")
    assert read_list(str(tmp_path / "l")) == ("a\nb", "c")
    (tmp_path / "l").write_bytes(b"a\n\nb")
    assert read_list(str(tmp_path / "l")) == ("a", "b")


def test_a_list_that_cannot_be_written_or_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    for call in (lambda: read_list(str(tmp_path / "no")), lambda: write_list(str(tmp_path / "no" / "l"), ["a"])):
        with pytest.raises(StorageError, match="no"):
            call()


@given(st.lists(NAMES, min_size=1, max_size=4), st.integers(0, 4), st.sampled_from(["", "/", "./", "../", "x/", "/x/./y/"]))
def test_an_entry_of_a_list_leads_to_the_same_place(parts: list[str], cut: int, root: str) -> None:
    """Of a tree: its place below the folder that was named stays."""
    place = "/".join(parts[min(cut, len(parts) - 1) :])
    source, dest = root + "/".join(parts), f"results/{place}"
    entry = entry_of(source, dest, "results")
    found, where = placed(entry)
    assert os.path.normpath(found) == os.path.normpath(source)
    assert (where or os.path.basename(found)) == place


@pytest.mark.parametrize(
    ("source", "dest", "entry"),
    [
        ("run1/deep/c.npy", "results/run1/deep/c.npy", "./run1/deep/c.npy"),
        ("run1/deep/c.npy", "results/deep/c.npy", "run1/./deep/c.npy"),
        ("/data/run1/deep/c.npy", "results/run1/deep/c.zarr", "/data/./run1/deep/c.npy"),
        ("./a/b.npy", "results/b.npy", "a/b.npy"),
        ("a.npy", "results/a.npy", "a.npy"),
        ("s3://bucket/a.zarr", "results/a.zarr", "s3://bucket/a.zarr"),
    ],
)
def test_entries_as_they_are_written(source: str, dest: str, entry: str) -> None:
    assert entry_of(source, dest, "results") == entry


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree in which one file of three is bad."""
    (tmp_path / "run1" / "deep").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    for name in ("a.npy", "deep/b.npy"):
        np.save(tmp_path / "run1" / name, np.linspace(-1, 1, 100))
    (tmp_path / "run1" / "deep" / "bad\n.npy").write_bytes(b"bad")
    return tmp_path


@pytest.mark.parametrize("source", ["run1", "run1/", "./run1", "run1/."])
def test_what_failed_can_be_tried_again_in_its_place(leakycli: Run, tree: Path, source: str) -> None:
    done = leakycli("apply", "-r", source, "out", "--failed-to", "failed")
    assert done.returncode == 6
    before = sorted(str(path.relative_to(tree)) for path in (tree / "out").rglob("*.npy"))
    np.save(tree / "run1" / "deep" / "bad\n.npy", np.linspace(-1, 1, 100))
    again = leakycli("apply", "--files-from", "failed", "out", "--failed-to", "failed")
    assert (again.returncode, again.stderr) == (0, b"")
    (new,) = sorted({str(path.relative_to(tree)) for path in (tree / "out").rglob("*.npy")} - set(before))
    assert os.path.dirname(new) == next(os.path.dirname(path) for path in before if path.endswith("b.npy"))
    assert (tree / "failed").read_bytes() == b""


def test_reports_have_a_folder_of_their_own(leakycli: Run, tree: Path) -> None:
    assert leakycli("apply", "-r", "run1", "out", "--report-dir", "reports/here").returncode == 6
    found = sorted(str(path.relative_to(tree / "reports")) for path in (tree / "reports").rglob("*") if path.is_file())
    assert found == ["here/run1/a.npy.report.json", "here/run1/deep/b.npy.report.json"]
    assert not list((tree / "out").rglob("*.json"))
    assert leakycli("apply", "run1/a.npy", "single.npy", "--report-dir", "reports").returncode == 0
    assert (tree / "reports" / "single.npy.report.json").exists()
    assert leakycli("apply", "-r", "run1", "out", "--overwrite", "--report", "none").returncode == 6
    assert not list((tree / "out").rglob("*.json"))


def test_a_list_that_cannot_be_written_is_refused_before_the_work(leakycli: Run, tree: Path) -> None:
    for path in ("no/failed", "out"):
        done = leakycli("apply", "-r", "run1", "out", "--failed-to", path)
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.startswith(f"leakycli: cannot write {path}: ".encode())
    assert not list((tree / "out").iterdir())


def test_a_list_from_find_keeps_the_tree(leakycli: Run, tree: Path) -> None:
    listed = subprocess.run(["find", ".", "-name", "[ab].npy", "-print0"], cwd=tree, capture_output=True, check=True).stdout
    assert leakycli("apply", "--files-from", "-", "out", stdin=listed).returncode == 0
    assert sorted(str(path.relative_to(tree / "out")) for path in (tree / "out").rglob("*.npy")) == ["run1/a.npy", "run1/deep/b.npy"]
