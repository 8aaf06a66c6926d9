"""Choosing arrays: what `--only` and `--skip` mean for every kind of name, in every format that has names, and in a batch."""

from __future__ import annotations

import itertools
import os
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from leakycli import Options, apply, info, verify
from leakycli.engine import tasks
from leakycli.errors import UsageError
from leakycli.formats import ArrayInfo, Member
from tests.cli.test_cli import Command, X, here, run

__all__ = ["here", "run"]

#: Kinds of names that arrays have in the wild.
NAMES = [
    "weights",
    "layers[0]",
    "layers0",
    "['params']['Dense_0']['kernel']",
    "(0)",
    "{a}",
    "a*b",
    "what?",
    "[!x]",
    "with space",
    "-dash",
    "--skip",
    "$HOME",
    "'quoted'",
    unicodedata.normalize("NFD", "données"),
    "données_2",
    "μ",  # what Python makes of the micro sign
    "層1",
    "A",
    "a",
]


def made(folder: Path, format: str, names: list[str]) -> str:
    """A source of arrays of these names, each of negative numbers of its own."""
    path = str(folder / f"in.{format}")
    arrays = {name: np.full(3, -1.0 - i, np.float32) for i, name in enumerate(names)}
    if format == "npz":
        with open(path, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    else:
        group = zarr.open_group(path, mode="w", zarr_format=3)
        for name, x in arrays.items():
            group.create_array(name, data=x)
    return path


def transformed(path: str, dest: str) -> set[str]:
    """The names of the arrays that are not as they were."""
    if path.endswith(".npz"):
        with np.load(path) as before, np.load(dest) as after:
            return {name for name in before if not np.array_equal(before[name], after[name])}
    names = list(zarr.open_group(path, mode="r").array_keys())
    old, new = ({name: np.asarray(zarr.open_array(p, path=name, mode="r")[...]) for name in names} for p in (path, dest))
    return {name for name in old if not np.array_equal(old[name], new[name])}


def chosen(option: str, *patterns: str) -> Options:
    return Options(only=patterns) if option == "only" else Options(skip=patterns)


@settings(max_examples=20)
@given(
    names=st.lists(st.sampled_from(NAMES), min_size=2, max_size=6, unique=True),
    form=st.sampled_from([None, "NFC", "NFD", "NFKC"]),
    option=st.sampled_from(["only", "skip"]),
    format=st.sampled_from(["npz", "zarr"]),
    data=st.data(),
)
def test_a_name_in_any_form_means_its_array_and_no_other(
    names: list[str], form: str | None, option: str, format: str, data: st.DataObject
) -> None:
    stored = data.draw(st.sampled_from(names))
    typed = stored if form is None else unicodedata.normalize(form, stored)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        source, dest = made(Path(folder), format, names), f"{folder}/out.{format}"
        options = chosen(option, typed)
        apply(source, dest, options)
        wanted = {stored} if option == "only" else set(names) - {stored}
        assert transformed(source, dest) == wanted
        assert verify(source, dest, options).equal


@given(
    names=st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=8, unique=True),
    pattern=st.text(alphabet="ab*?[]!-é/.'", min_size=1, max_size=6),
    option=st.sampled_from(["only", "skip"]),
)
def test_a_pattern_means_something_or_is_an_error_that_lists_the_names(names: list[str], pattern: str, option: str) -> None:
    members = tuple(Member(name, name, ArrayInfo(name, (1,), np.dtype("f4"))) for name in names)
    selection = tasks.selection(chosen(option, pattern))
    try:
        found = selection.choose(members, "in.npz")
    except UsageError as error:
        assert f"(--{option}" in str(error) or "no array is left" in str(error) or "may be either" in str(error)
        return
    assert found
    if option == "skip":
        assert len(found) < len(members)
    if pattern in names:
        assert [member.name for member in found] == ([pattern] if option == "only" else [name for name in names if name != pattern])


@pytest.mark.parametrize("format", ["npz", "zarr"])
@pytest.mark.parametrize("option", ["--only", "--skip"])
@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("lables", "did you mean labels?"),
        ("zzz", "there are: labels, x, y[0]"),
        ("LABELS", "there are"),
        ("y[*]q", "brackets"),
        ("", "there are"),
    ],
)
def test_a_pattern_that_meets_nothing_is_refused_with_the_names(run: Command, format: str, option: str, pattern: str, hint: str) -> None:
    source = made(Path(), format, ["labels", "x", "y[0]"])
    code, out, err = run("apply", source, f"out.{format}", option, pattern)
    assert (code, out) == (2, "")
    assert option in err
    assert hint in err
    assert "labels" in err
    assert not os.path.exists(f"out.{format}")


def test_an_exact_name_wins_over_a_pattern(run: Command) -> None:
    source = made(Path(), "npz", ["layers[0]", "layers0", "layers1"])
    assert run("apply", source, "out.npz", "--only", "layers[0]", "-q")[0] == 0
    assert transformed(source, "out.npz") == {"layers[0]"}
    assert run("apply", source, "out2.npz", "--only", "layers[01]", "-q")[0] == 0
    assert transformed(source, "out2.npz") == {"layers0", "layers1"}
    assert run("apply", source, "out3.npz", "--only", "layers[[]0]", "-q")[0] == 0
    assert transformed(source, "out3.npz") == {"layers[0]"}


def test_a_pattern_meets_names_in_another_unicode_form(run: Command) -> None:
    source = made(Path(), "npz", [unicodedata.normalize("NFD", "données_1"), "données_2", "x"])
    assert run("apply", source, "out.npz", "--skip", "donné*", "-q")[0] == 0
    assert transformed(source, "out.npz") == {"x"}


def test_a_name_that_may_be_either_of_two_is_refused_and_each_can_be_typed(run: Command) -> None:
    names = ["\u1e9b\u0323", "\u1e9b\u0323".encode().decode(), "\u017f\u0323\u0307"]
    assert len(set(names)) == 2
    source = made(Path(), "npz", sorted(set(names)))
    code, _, err = run("apply", source, "out.npz", "--skip", "\u017f\u0307\u0323")
    assert code == 2
    assert "\\u1e9b\\u0323" in err
    for n, name in enumerate(sorted(set(names))):
        assert run("apply", source, f"out{n}.npz", "--skip", name, "-q")[0] == 0
        assert name not in transformed(source, f"out{n}.npz")


def test_members_with_and_without_the_suffix_are_told_apart(run: Command) -> None:
    import io
    import zipfile

    buffer = io.BytesIO()
    np.save(buffer, X)
    with zipfile.ZipFile("in.npz", "w") as file:
        file.writestr("x", buffer.getvalue())
        file.writestr("x.npy", buffer.getvalue())
    assert [member.name for member in info("in.npz").members] == ["x", "x.npy"]
    assert run("apply", "in.npz", "out.npz", "--only", "x.npy", "-q")[0] == 0
    with np.load("out.npz") as found:
        assert np.array_equal(found["x"], X)
        assert not np.array_equal(found["x.npy"], X)
    assert run("apply", "in.npz", "out.zarr", "-q")[0] == 0
    assert sorted(zarr.open_group("out.zarr", mode="r").array_keys()) == ["x", "x.npy"]


def test_to_skip_a_group_is_refused_and_its_arrays_are_named(run: Command) -> None:
    group = zarr.open_group("in.zarr", mode="w")
    group.create_array("g/a", data=X)
    group.create_array("b", data=X)
    code, _, err = run("apply", "in.zarr", "out.zarr", "--skip", "g")
    assert code == 2
    assert "'g/*'" in err
    assert run("apply", "in.zarr", "out.zarr", "--skip", "g/*", "-q")[0] == 0


def test_an_npy_has_one_array_without_a_name(run: Command) -> None:
    for option in ("--only", "--skip"):
        code, _, err = run("apply", "in.npy", "out.npy", option, "x")
        assert code == 2
        assert f"has no name: leave out {option}" in err


# Batches


def batch(sources: dict[str, list[str]]) -> list[str]:
    for name, arrays in sources.items():
        np.savez(name, **dict.fromkeys(arrays, X))  # type: ignore[arg-type]
    Path("out").mkdir(exist_ok=True)
    return list(sources)


def test_in_a_batch_a_pattern_may_meet_nothing_in_some_sources(run: Command) -> None:
    sources = batch({"a.npz": ["x", "labels"], "b.npz": ["x"], "c.npz": ["x", "labels"]})
    assert run("apply", *sources, "out/", "--skip", "labels", "-q") == (0, "", "")
    for name in sources:
        assert transformed(name, f"out/{name}") == {"x"}
    # A result's parameters are those of the batch.
    assert run("verify", "b.npz", "out/b.npz")[0] == 0
    assert run("verify", "b.npz", "out/b.npz", "--skip", "lables")[0] == 2


@pytest.mark.parametrize("option", ["--skip", "--only"])
@pytest.mark.parametrize("more", [(), ("--dry-run",), ("--resume",), ("--files-from", "list.txt")])
def test_in_a_batch_a_pattern_that_meets_nothing_anywhere_is_refused_before_anything_is_written(
    run: Command, option: str, more: tuple[str, ...]
) -> None:
    sources = batch({"a.npz": ["x", "labels"], "b.npz": ["x", "y"]})
    Path("list.txt").write_text("in.npy\n")
    for patterns in ([option, "lables"], [option, "x", option, "lables"]):
        code, out, err = run("apply", *sources, "out/", *patterns, *more)
        assert (code, out) == (2, "")
        assert "lables" in err
        assert "did you mean labels?" in err
        assert "x, labels, y" in err
        assert os.listdir("out") == []


def test_in_a_batch_a_source_that_cannot_be_read_does_not_hide_a_typo(run: Command) -> None:
    sources = batch({"a.npz": ["x", "labels"]})
    Path("bad.npz").write_bytes(b"nonsense")
    code, _, err = run("apply", *sources, "bad.npz", "missing.npz", "out/", "--skip", "lables")
    assert code == 2
    assert "2 could not be read" in err
    assert run("apply", *sources, "bad.npz", "out/", "--skip", "labels", "-q")[0] == 6
    assert transformed("a.npz", "out/a.npz") == {"x"}


def test_in_a_batch_a_source_without_any_chosen_array_fails_and_says_so(run: Command) -> None:
    sources = batch({"a.npz": ["x"], "b.npz": ["y"]})
    code, _, err = run("apply", *sources, "out/", "--only", "x")
    assert code == 6
    assert err.splitlines()[0].startswith("leakycli: b.npz: no array is left to transform")
    assert os.path.exists("out/a.npz")


@pytest.mark.parametrize(
    ("arrays", "pattern", "wanted"),
    [
        (["x", "labels"], "zzz", "no array in any of the 2 sources is named zzz (--skip); there are: x, labels; nothing was written"),
        (["x"], "zzz", "no array in any of the 2 sources is named zzz (--skip); there are: x; nothing was written"),
    ],
)
def test_in_a_batch_arrays_without_names_are_not_listed(run: Command, arrays: list[str], pattern: str, wanted: str) -> None:
    batch({"a.npz": arrays})
    np.save("in.npy", X)
    code, _, err = run("apply", "a.npz", "in.npy", "out/", "--skip", pattern)
    assert code == 2
    assert err == f"leakycli: {wanted}\n"
    _, _, err = run("apply", "a.npz", "in.npy", "out/", "--only", "x")
    assert "in.npy: no array is left to transform (--only, --skip); there is one array, which has no name\n" in err


def test_every_array_that_has_no_leaky_relu_is_named_at_once_with_the_way_past(run: Command) -> None:
    kinds = {"s": np.array(["a"]), "b": np.array([True]), "o o": np.array([1, None], object), "d": np.array(["2020-01-01"], "M8[D]")}
    np.savez("in.npz", x=X, **kinds)  # type: ignore[arg-type]
    code, _, err = run("apply", "in.npz", "out.npz")
    assert code == 3
    assert "4 arrays cannot be transformed: s, b, o o, d" in err
    given = "--skip s --skip b --skip 'o o' --skip d"
    assert given in err
    assert run("apply", "in.npz", "out.npz", "-q", *itertools.chain(*(("--skip", name) for name in kinds)))[0] == 0
    # To skip what was asked for by its name would be no way out.
    code, _, err = run("apply", "in.npz", "out2.npz", "--only", "s")
    assert code == 3
    assert "--skip" not in err
    assert "astype('float32')" in err
    with np.load("out.npz", allow_pickle=True) as found:
        assert list(found["s"]) == ["a"]
        assert found["o o"][1] is None
