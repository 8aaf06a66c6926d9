"""Which source goes where: the table of trees, slashes, DEST there or not, and a second run; what is skipped on the way, with a note."""

from __future__ import annotations

import os
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from leakycli.cli import where
from leakycli.errors import UsageError
from tests.cli.test_cli import Command, X, here, results, run, tree
from tests.formats.test_bad_input import snapshot
from tests.formats.test_npy import defined

__all__ = ["here", "run"]

TREE = ["a.npy", "sub/b.npy", "sub/deep/C.NPY"]

#: What a source says that is a folder, and how results in it are called under DEST.
NAMED = {"run1": "run1/", "./run1": "run1/", "link": "link/", "x/../run1": "run1/"}
CONTENTS = {"run1/": "", "run1//": "", "run1/.": "", "./run1/": "", "link/": "", "run1/sub/../": ""}


@pytest.mark.parametrize(("source", "under"), [*NAMED.items(), *CONTENTS.items()])
@pytest.mark.parametrize(("dest", "there"), list(product(["results", "results/", "./results", "results/."], [False, True])))
def test_where_a_tree_goes_depends_on_the_command_line_alone(run: Command, source: str, under: str, dest: str, there: bool) -> None:
    tree("run1", TREE)
    Path("x").mkdir()
    os.symlink("run1", "link")
    Path("run1/notes.txt").write_text("no array")
    if there:
        Path("results").mkdir()
    assert run("apply", "-r", source, dest, "-q") == (0, "", "")
    wanted = sorted(f"{under}{name}" for name in TREE)
    found = {str(path.relative_to("results")): path for path in Path("results").rglob("*") if path.is_file() and path.suffix != ".json"}
    assert sorted(found) == wanted
    assert np.array_equal(np.load(found[f"{under}sub/deep/C.NPY"]), defined(X + 2))
    # Once more: the same places, so that all is done already.
    before = snapshot(Path())
    assert run("apply", "-r", source, dest, "-q", "--resume")[0] == 0
    assert snapshot(Path()) == before
    code, _, err = run("apply", "-r", source, dest, "-q")
    assert code == 6
    assert err.count("exists; give --overwrite") == len(TREE)
    assert snapshot(Path()) == before


@pytest.mark.parametrize("source", ["run1", "run1/"])
def test_an_interrupted_tree_is_resumed_in_its_place(run: Command, source: str) -> None:
    tree("run1", ["a.npy", "b.npy"])
    whole = run("apply", "-r", source, "results", "-q")
    assert whole == (0, "", "")
    wanted = results("results")
    lost = Path("results", wanted[1])
    lost.unlink()
    Path(f"{lost}.report.json").unlink()
    assert run("apply", "-r", source, "results", "-q", "--resume")[0] == 0
    assert results("results") == wanted
    assert np.array_equal(np.load(lost), defined(X + 1))
    assert not list(Path("results").rglob("*.partial*"))


def test_the_working_directory_stands_for_what_is_in_it(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    tree("run1", TREE)
    monkeypatch.chdir("run1")
    for n, (source, there) in enumerate(product([".", "./", "./."], [False, True])):
        dest = Path(f"../out{n}")
        if there:
            dest.mkdir()
        assert run("apply", "-r", source, str(dest), "-q") == (0, "", "")
        assert sorted(str(path.relative_to(dest)) for path in dest.rglob("*") if path.is_file() and path.suffix != ".json") == TREE


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(
    ("source", "dest", "names", "way"),
    [
        ("run1/sub/..", "out", "run1/sub/..", "run1/sub/../"),
        ("run1", "out.npy", "out.npy", "out.npy/"),
        ("run1/", "out.npz", "out.npz", "out.npz/"),
        ("run1", "out.zarr", "out.zarr", "out.zarr/"),
    ],
)
def test_what_may_mean_two_things_is_refused_and_told_apart(
    run: Command, source: str, dest: str, names: str, way: str, there: bool
) -> None:
    tree("run1", TREE)
    if there:
        Path(dest).mkdir()
    before = snapshot(Path())
    code, out, err = run("apply", "-r", source, dest)
    assert (code, out) == (2, "")
    assert names in err
    assert way in err
    assert snapshot(Path()) == before


def test_a_folder_with_the_suffix_of_an_array_takes_a_tree_with_a_slash(run: Command) -> None:
    tree("run1", TREE)
    assert run("apply", "-r", "run1/", "out.npy/", "-q") == (0, "", "")
    assert results("out.npy") == ["a.npy", "sub/b.npy"]


def test_two_trees_whose_contents_would_meet_are_refused(run: Command) -> None:
    tree("one", ["a.npy"])
    tree("two", ["a.npy"])
    Path("out").mkdir()
    code, _, err = run("apply", "-r", "one/", "two/", "out")
    assert code == 2
    assert "one/a.npy and two/a.npy would both become out/a.npy" in err
    assert run("apply", "-r", "one", "two", "out", "-q") == (0, "", "")
    assert results("out") == ["one/a.npy", "two/a.npy"]


def test_the_help_says_what_a_slash_means(run: Command) -> None:
    out = " ".join(run("apply", "--help")[1].split())
    assert "DIR goes to DEST/DIR" in out
    assert "DIR/ to DEST itself" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["in.npy"], "DEST is missing"),
        (["--files-from", "list.txt", "out"], "the list is empty"),
    ],
)
def test_what_is_missing_from_the_line_is_named(run: Command, arguments: list[str], words: str) -> None:
    Path("list.txt").write_text("\n")
    Path("out").mkdir()
    code, out, err = run("apply", *arguments)
    assert (code, out) == (2, "")
    assert words in err


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("source", ["nowhere", "nowhere/", "nowhere.npy"])
@pytest.mark.parametrize("dest", ["out", "out/"])
def test_a_tree_that_is_missing_is_named_and_not_its_destination(run: Command, source: str, dest: str, there: bool) -> None:
    if there:
        Path("out").mkdir()
    code, out, err = run("apply", "-r", source, dest)
    assert (code, out) == (1, "")
    assert f"cannot read {source}: there is no such file or folder" in err
    assert Path("out").exists() == there


APPLE_DOUBLE = b"\0\5\26\7\0\2\0\0Mac OS X        " + bytes(96)


@pytest.mark.parametrize("content", [APPLE_DOUBLE, b"", b"\0\5\26"], ids=["whole", "empty", "cut off"])
def test_what_macos_leaves_beside_files_is_skipped_with_a_note(run: Command, content: bytes) -> None:
    tree("tree", ["a.npy", "sub/b.npy"])
    shutil.copytree("tree", "tree/__MACOSX")
    for name in ("tree/._a.npy", "tree/sub/._b.npy", "tree/._acts.zarr", "tree/__MACOSX/._a.npy"):
        Path(name).write_bytes(content)
    for name in ("tree/.DS_Store", "tree/Thumbs.db", "tree/desktop.ini", "tree/Icon\r"):
        Path(name).write_bytes(b"\0\0\0\1Bud1")
    code, _, err = run("apply", "-r", "tree/", "out")
    assert code == 0
    assert err.count("\n") == 1
    assert err.startswith("leakycli: note: skipped 4 files of macOS's own")
    assert "tree/._a.npy" in err
    # Arrays are arrays wherever they are.
    assert results("out") == ["__MACOSX/a.npy", "__MACOSX/sub/b.npy", "a.npy", "sub/b.npy"]


def test_an_array_may_be_called_as_what_macos_leaves(run: Command) -> None:
    tree("tree", ["._a.npy", "b.npy"])
    assert run("apply", "-r", "tree/", "out", "-q") == (0, "", "")
    assert results("out") == ["._a.npy", "b.npy"]


def test_what_macos_leaves_is_skipped_in_a_list_too_but_not_when_it_is_all_there_is(run: Command) -> None:
    Path("._a.npy").write_bytes(APPLE_DOUBLE)
    Path("out").mkdir()
    code, _, err = run("apply", "in.npy", "._a.npy", "out")
    assert code == 0
    assert "note: skipped 1 file" in err
    assert results("out") == ["in.npy"]
    code, _, err = run("apply", "._a.npy", "out.npy")
    assert code == 3
    assert "macOS" in err


def test_links_to_folders_are_not_followed_and_a_note_says_so(run: Command) -> None:
    tree("more", ["c.npy"])
    tree("tree", ["a.npy"])
    os.symlink("../more", "tree/link")
    code, _, err = run("apply", "-r", "tree/", "out")
    assert code == 0
    assert err.startswith("leakycli: note: did not follow 1 link to folders: tree/link")
    assert results("out") == ["a.npy"]


def test_jobs_do_not_depend_on_what_is_at_the_destination(here: Path) -> None:
    tree("run1", TREE)
    for source in ("run1", "run1/", "run1/.", "./run1"):
        first = where.resolve_jobs([source], "out", recursive=True)
        Path("out").mkdir()
        second = where.resolve_jobs([source], "out", recursive=True)
        Path("out").rmdir()
        assert first == second
    with pytest.raises(UsageError, match="give --recursive"):
        where.resolve_jobs(["run1"], "out")
