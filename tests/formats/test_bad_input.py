"""What cannot be done: one line that says so, the exit code that says why, and nothing written."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from leakycli import Options, apply
from leakycli.cli import _run
from leakycli.errors import LeakyError, UsageError
from tests.conftest import Run
from tests.formats.test_npy import defined, same

Snapshot = dict[str, tuple[int, bytes | str | None]]
Refuse = Callable[..., str]


def snapshot(folder: Path) -> Snapshot:
    """Everything under `folder`: mode, and content or target."""
    found: Snapshot = {}
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        content = path.read_bytes() if stat.S_ISREG(mode) else os.readlink(path) if stat.S_ISLNK(mode) else None
        found[str(path.relative_to(folder))] = (mode, content)
    return found


def check_line(text: str, names: str) -> None:
    """One line for people, which names what it is about and holds nothing that steers a terminal."""
    assert text.startswith("leakycli: ")
    assert text.endswith("\n")
    assert text.count("\n") == 1, text
    assert text[:-1].isprintable()
    assert names in text
    assert "Traceback" not in text
    assert "defect" not in text


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refuse(here: Path, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Run a command line that must fail with `code`, one line that holds `names`, and no trace; returns the line."""

    def check(code: int, names: str, *arguments: str | Path) -> str:
        before = snapshot(here)
        found = _run([os.fspath(argument) for argument in arguments])
        out, err = capsys.readouterr()
        check_line(err, names)
        assert found == code, err
        assert out == ""
        assert snapshot(here) == before
        return err

    return check


def saved(x: Any, **options: Any) -> bytes:
    stream = BytesIO()
    np.save(stream, x, **options)
    return stream.getvalue()


def npy(header: str | bytes, version: int = 1, data: bytes = bytes(64)) -> bytes:
    """A `.npy` file with just this header."""
    text = header if isinstance(header, bytes) else header.encode("utf-8" if version == 3 else "latin-1")
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, "little") + text + data


def fields(descr: str = "'<f4'", fortran: str = "False", shape: str = "(4,)") -> bytes:
    return npy(f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}}}\n")


GOOD = saved(np.linspace(-1, 1, 40, dtype=np.float32))

NOT_NPY = {
    "text": b"1.0, 2.0, 3.0\n",
    "empty": b"",
    "one byte": b"\x93",
    "in the magic": GOOD[:4],
    "in the version": GOOD[:7],
    "in the length": GOOD[:9],
    "without a header": GOOD[:10],
    "in the header": GOOD[:60],
    "without data": GOOD[:128],
    "one byte short": GOOD[:-1],
    "magic spoilt": b"\x93NUMPZ" + GOOD[6:],
    "escape sequences for magic": b"\x1b[31m\n\n" + GOOD[8:],
    "pickle": pickle.dumps([1.0, 2.0]),
    "zip": b"PK\3\4" + bytes(100),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "version 9.9": b"\x93NUMPY\x09\x09" + GOOD[8:],
    "version 1.1": b"\x93NUMPY\x01\x01" + GOOD[8:],
    "version 0.0": b"\x93NUMPY\x00\x00" + GOOD[8:],
    "header of 4 GiB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + GOOD[10:],
    "header longer than the file": b"\x93NUMPY\x01\x00\xff\xff" + GOOD[10:],
    "no header at all": npy(""),
}

BAD_HEADERS = {
    "bad utf-8 in version 3": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (4,), '\xff': 1}", 3),
    "not a dict": npy("['<f4', False, (4,)]"),
    "a number": npy("1"),
    "a call": npy("dict(descr='<f4', fortran_order=False, shape=(4,))"),
    "no literal": npy("{'descr': '<f4', 'fortran_order': not True, 'shape': (4,)}"),
    "an unfinished dict": npy("{'descr': '<f4', 'fortran_order': False"),
    "a missing key": npy("{'descr': '<f4', 'shape': (4,)}"),
    "an extra key": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4,), 'more': 1}"),
    "unhashable keys": npy("{[]: 1}"),
    "keys of several types": npy("{1: '<f4', None: False, 'shape': (4,)}"),
    "null bytes": npy("{'descr': '<f4', \0'fortran_order': False, 'shape': (4,)}"),
    "only null bytes": npy("\0" * 118),
    "control characters": npy("\x1b[31m\r\n\x07"),
    "deeply nested": npy("(" * 10_000),
    "deeply nested dicts": npy("{1:" * 5_000),
    "many signs": npy("-" * 50_000 + "1"),
    "a long sum": npy("1" + "+1" * 25_000),
    "a long chain": npy("a" + ".a" * 20_000),
    "an invalid escape": fields(r"'<f4\d'"),
    "a number runs into a word": fields(shape="(1if 1else 2,)"),
    "2**60 elements": fields(shape="(1152921504606846976,)"),
    "2**120 elements": fields(shape="(1152921504606846976, 1152921504606846976)"),
    "a negative shape": fields(shape="(-4,)"),
    "negative twice": fields(shape="(-2, -2)"),
    "a list for shape": fields(shape="[4]"),
    "a number for shape": fields(shape="4"),
    "no shape": fields(shape="None"),
    "a float in shape": fields(shape="(4.0,)"),
    "a bool in shape": fields(shape="(True,)"),
    "a string in shape": fields(shape="('4',)"),
    "a tuple in shape": fields(shape="((4,),)"),
    "a complex in shape": fields(shape="(4j,)"),
    "a dimension of 2**63": fields(shape="(9223372036854775808,)"),
    "a dimension of 10**4000": fields(shape="(1" + "0" * 4000 + ",)"),
    "a dimension of 10**5000": fields(shape="(1" + "0" * 5000 + ",)"),
    "a dimension of 16**4100": fields(shape="(0x1" + "0" * 4100 + ",)"),
    "65 dimensions": fields(shape=repr((1,) * 65)),
    "5000 dimensions": fields(shape=repr((1,) * 5000)),
    "fortran_order 'yes'": fields(fortran="'yes'"),
    "fortran_order 1": fields(fortran="1"),
    "fortran_order None": fields(fortran="None"),
    "descr empty": fields("''"),
    "descr None": fields("None"),
    "descr a number": fields("4"),
    "descr a huge number": fields("0x1" + "0" * 4100),
    "descr a float": fields("1.5"),
    "descr bytes": fields("b'<f4'"),
    "descr a set": fields("{'<f4'}"),
    "descr a dict": fields("{'names': ['a'], 'formats': ['<f4']}"),
    "descr an empty tuple": fields("()"),
    "descr an empty list": fields("[]"),
    "descr half a tuple": fields("('<f4',)"),
    "descr a long tuple": fields("('<f4', 1, 2, 3)"),
    "descr nested tuples": fields("(" * 50 + "'<f4'" + ",)" * 50),
    "descr Ellipsis": fields("..."),
    "descr twice a field": fields("[('a', '<f4'), ('a', '<f4')]"),
    "descr no field": fields("[('a',)]"),
    "descr of a word": fields("'no such type'"),
    "descr of 3-byte floats": fields("'<f3'"),
    "descr of 16-byte integers": fields("'<i16'"),
    "descr with a null byte": fields(r"'<f4\x00'"),
    "descr with a surrogate": fields(r"'\ud800'"),
    "descr with escape sequences": fields(r"'\x1b[31m\n'"),
    "descr with markup": fields("'[red]f4[/red]'"),
    "descr with a comma": fields("','"),
    "descr with brackets": fields("'(((((('"),
    "descr with a large subarray": fields("'(99999999999,)<f4'"),
    "descr repeated": fields("'1f4'"),
    "descr of an old alias": fields("'a4'"),
    "descr of no time unit": fields("'<M8[junk]'"),
    "descr very long": fields("'" + "f4," * 10_000 + "'"),
    "descr with a large void": fields("'|V2147483648'"),
}


class Unpickled:
    """Whoever unpickles one makes a file called `unpickled`."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("unpickled"),)


def _of_kind(dtype: Any) -> bytes:
    return saved(np.zeros(4, dtype))


UNSUPPORTED = {
    "object": (saved(np.array([Unpickled(), 1], object), allow_pickle=True), "object"),
    "object, by hand": (fields("'|O'"), "object"),
    "bool": (_of_kind(bool), "bool"),
    "complex64": (_of_kind("c8"), "complex"),
    "complex128, byte-swapped": (_of_kind(">c16"), "complex"),
    "string": (_of_kind("U5"), "string"),
    "byte string": (_of_kind("S5"), "string"),
    "datetime": (_of_kind("M8[s]"), "datetime"),
    "timedelta": (_of_kind("m8[ns]"), "timedelta"),
    "structured": (_of_kind([("a", "f4"), ("b", "f4")]), "structured"),
    "structured, with one field": (_of_kind([("a", "f4")]), "structured"),
    "subarray": (fields("('<f4', (2,))", shape="(2,)"), "subarray"),
    "bfloat16": (_of_kind("V2"), "bfloat16"),
    "float8": (_of_kind("V1"), "float8"),
    "void": (_of_kind("V7"), "void"),
}
if np.dtype("longdouble").itemsize > 8:
    UNSUPPORTED["longdouble"] = (_of_kind("longdouble"), "float64")

FILES = {**NOT_NPY, **BAD_HEADERS, **{kind: data for kind, (data, _) in UNSUPPORTED.items()}}


@pytest.mark.parametrize("kind", FILES)
def test_a_bad_file_is_refused(here: Path, refuse: Refuse, kind: str) -> None:
    (here / "bad.npy").write_bytes(FILES[kind])
    line = refuse(3, "bad.npy", "apply", "bad.npy", "out.npy")
    assert len(line) < 300
    assert refuse(3, "bad.npy", "info", "bad.npy") == line


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_an_unsupported_kind_is_refused_by_its_name(here: Path, refuse: Refuse, kind: str) -> None:
    data, name = UNSUPPORTED[kind]
    (here / "bad.npy").write_bytes(data)
    assert name in refuse(3, "bad.npy", "apply", "bad.npy", "out.npy")


def test_each_bad_file_of_a_batch_is_one_line_of_the_process(leakycli: Run, tmp_path: Path) -> None:
    names = [f"{number:03}.npy" for number in range(len(FILES))]
    for name, data in zip(names, FILES.values(), strict=True):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "good.npy").write_bytes(GOOD)
    (tmp_path / "out").mkdir()
    done = leakycli("apply", *names, "good.npy", "out/", "--quiet")
    lines = done.stderr.decode().splitlines(keepends=True)
    assert done.returncode == 6
    assert done.stdout == b""
    # The interpreter has warnings of its own for some headers; none may come through.
    assert [line[:17] for line in lines[:-1]] == [f"leakycli: {name}" for name in names]
    for line, name in zip(lines, names, strict=False):
        check_line(line, name)
    check_line(lines[-1], f"{len(names)} of {len(names) + 1} sources failed")
    assert sorted(os.listdir(tmp_path / "out")) == ["good.npy", "good.npy.report.json"]


def test_a_pickle_is_never_loaded(here: Path, refuse: Refuse) -> None:
    (here / "object.npy").write_bytes(saved(np.array([Unpickled()], object), allow_pickle=True))
    (here / "raw.npy").write_bytes(pickle.dumps(Unpickled()))
    for name in ("object.npy", "raw.npy"):
        refuse(3, name, "apply", name, "out.npy")
        refuse(3, name, "verify", name, name)
    assert not (here / "unpickled").exists()


def test_a_bad_result_is_named_by_verify(here: Path, refuse: Refuse) -> None:
    (here / "in.npy").write_bytes(GOOD)
    (here / "out.npy").write_bytes(GOOD[:-1])
    refuse(3, "out.npy", "verify", "in.npy", "out.npy")


def test_a_missing_file(refuse: Refuse) -> None:
    refuse(1, "missing.npy", "apply", "missing.npy", "out.npy")
    refuse(1, "missing.npy", "info", "missing.npy")
    refuse(1, "missing.npy", "verify", "missing.npy", "out.npy")


@pytest.mark.parametrize("dest", ["out.npy", "out/"])
def test_a_folder_as_source_without_recursive(here: Path, refuse: Refuse, dest: str) -> None:
    (here / "tree").mkdir()
    (here / "tree" / "a.npy").write_bytes(GOOD)
    if dest == "out/":
        (here / "out").mkdir()
    assert "--recursive" in refuse(2, "tree", "apply", "tree", dest)


def test_a_loop_of_links_as_source(here: Path, refuse: Refuse) -> None:
    (here / "loop.npy").symlink_to("loop.npy")
    refuse(1, "loop.npy", "apply", "loop.npy", "out.npy")


def test_the_folder_of_dest_is_missing(here: Path, refuse: Refuse) -> None:
    (here / "in.npy").write_bytes(GOOD)
    refuse(1, "nowhere", "apply", "in.npy", "nowhere/out.npy")


def test_the_folder_of_dest_is_a_file(here: Path, refuse: Refuse) -> None:
    (here / "in.npy").write_bytes(GOOD)
    refuse(1, "in.npy/out.npy", "apply", "in.npy", "in.npy/out.npy")


def test_dest_exists(here: Path, refuse: Refuse) -> None:
    (here / "in.npy").write_bytes(GOOD)
    (here / "out.npy").write_bytes(b"precious")
    assert "--overwrite" in refuse(2, "out.npy", "apply", "in.npy", "out.npy")


def test_dest_is_a_folder_for_the_library(here: Path) -> None:
    (here / "in.npy").write_bytes(GOOD)
    (here / "out.npy").mkdir()
    with pytest.raises(LeakyError, match=r"out\.npy: is a folder") as caught:
        apply("in.npy", "out.npy", Options(overwrite=True))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("dest", ["out", "out.txt", "out.npy.gz", "out.npz.", "/dev/null", "/dev/full", ".", ""])
def test_a_dest_of_no_known_format(here: Path, refuse: Refuse, dest: str) -> None:
    (here / "in.npy").write_bytes(GOOD)
    # "." is a folder, in which the result would be the source itself.
    refuse(2, dest, "apply", "in.npy", dest, "--overwrite")


@pytest.mark.parametrize(
    "dest", ["in.npy", "./in.npy", "symbolic.npy", "hard.npy", "folder/../in.npy", "linked/in.npy", "in.npy.partial/../in.npy"]
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_dest_is_the_source_itself(here: Path, refuse: Refuse, dest: str, overwrite: bool) -> None:
    (here / "in.npy").write_bytes(GOOD)
    (here / "folder").mkdir()
    (here / "in.npy.partial").mkdir()
    (here / "linked").symlink_to(".")
    (here / "symbolic.npy").symlink_to("in.npy")
    os.link("in.npy", "hard.npy")
    line = refuse(2, dest if dest != "symbolic.npy" else "in.npy", "apply", "in.npy", dest, *["--overwrite"] * overwrite)
    if overwrite:
        assert "source" in line


def test_dest_is_the_source_itself_by_way_of_a_folder_that_the_run_would_make(here: Path, refuse: Refuse) -> None:
    (here / "in.npy").write_bytes(GOOD)
    dest = "new/../in.npy"
    assert "source" in refuse(2, dest, "apply", "in.npy", dest, "--recursive", "--overwrite")
    with pytest.raises(UsageError, match="source"):
        apply("in.npy", dest, Options(overwrite=True, parents=True))
    assert (here / "in.npy").read_bytes() == GOOD


@pytest.mark.parametrize("source", ["symbolic.npy", "hard.npy", "./in.npy"])
def test_a_link_to_dest_is_no_source_for_it(here: Path, refuse: Refuse, source: str) -> None:
    (here / "in.npy").write_bytes(GOOD)
    (here / "symbolic.npy").symlink_to("in.npy")
    os.link("in.npy", "hard.npy")
    refuse(2, "in.npy", "apply", source, "in.npy", "--overwrite")


@pytest.mark.parametrize("suffix", [".partial", ".partial.journal", ".report.json", ".report.json.partial"])
@pytest.mark.parametrize("linked", [False, True])
def test_a_source_that_the_run_would_write_over_or_remove(here: Path, refuse: Refuse, suffix: str, linked: bool) -> None:
    source = "other.npy" if linked else f"out.npy{suffix}"
    (here / source).write_bytes(GOOD)
    if linked:
        os.link(source, f"out.npy{suffix}")
    refuse(2, "out.npy", "apply", source, "out.npy", "--overwrite")


def test_a_source_that_a_further_report_would_write_over(here: Path, refuse: Refuse) -> None:
    (here / "report.json").write_bytes(GOOD)
    refuse(2, "report.json", "apply", "report.json", "out.npy", "--report", "report.json", "--overwrite")


def test_a_source_beside_a_further_report_is_left_alone(here: Path) -> None:
    (here / "report.json.partial").write_bytes(GOOD)
    apply("report.json.partial", "out.npy", Options(reports=("report.json",)))
    assert (here / "report.json.partial").read_bytes() == GOOD
    assert (here / "report.json").exists()


@pytest.mark.parametrize(
    ("code", "names", "arguments"),
    [
        (2, "--alpha", "--alpha nan"),
        (2, "--alpha", "--alpha inf"),
        (2, "--alpha", "--alpha=-inf"),
        (2, "--alpha", "--alpha 1e999"),
        (2, "--alpha", "--alpha abc"),
        (2, "--alpha", "--alpha="),
        (2, "half.npy", "half.npy --alpha 1e5"),
        (2, "in.npy", "--alpha 1e39"),
        (2, "--workers", "--workers 0"),
        (2, "--workers", "--workers=-1"),
        (2, "--workers", "--workers 1.5"),
        (2, "nan", "--nan 5"),
        (2, "nan", "--nan 5 --dtype float64"),
        (2, "3000000000", "--nan 3000000000 --dtype int32"),
        (2, "-9223372036854775809", "--nan=-9223372036854775809 --dtype int64"),
        (2, "--nan", "--nan 1.5 --dtype int32"),
        (2, "--dtype", "--dtype float8"),
        (2, "--dtype", "--dtype uint8"),
        (2, "--dtype", "--dtype bfloat16"),
        (2, "--frobnicate", "--frobnicate"),
        (2, "--memory", "--memory 1K"),
        (2, "--memory", "--memory abc"),
        (2, "--memory", "--memory 0"),
        (2, "--memory", "--memory=-1G"),
        (2, "--memory", "--memory nan"),
        (2, "--memory", "--memory infG"),
        (2, "--memory", "--memory 5X"),
        (2, "--memory", "--memory="),
        (2, "--progress", "--progress loud"),
        (2, "report.txt", "--report report.txt"),
        (1, "missing.txt", "--files-from missing.txt"),
    ],
)
def test_options_out_of_range(here: Path, refuse: Refuse, code: int, names: str, arguments: str) -> None:
    (here / "in.npy").write_bytes(GOOD)
    (here / "half.npy").write_bytes(saved(np.ones(3, np.float16)))
    given = arguments.split()
    source = [] if given[0] == "half.npy" else ["in.npy"]
    refuse(code, names, "apply", *source, *([given.pop(0)] if not source else []), "out.npy", *given)


@pytest.mark.parametrize(
    "arguments",
    [
        "apply",
        "apply out.npy",
        "apply in.npy - --strict",
        "apply in.npy - --verify",
        "apply in.npy - --json",
        "apply in.npy in.npy -",
        "apply - out.npy --verify",
        "apply - folder/",
        "verify in.npy",
        "verify - in.npy",
        "verify in.npy -",
        "verify in.npy in.npy in.npy",
        "info",
        "nonsense in.npy out.npy",
        "--nonsense",
    ],
)
def test_a_command_line_that_makes_no_sense(here: Path, refuse: Refuse, arguments: str) -> None:
    (here / "in.npy").write_bytes(GOOD)
    (here / "folder").mkdir()
    refuse(2, "", *arguments.split())


def test_options_that_contradict_a_pipe_are_named(here: Path, refuse: Refuse) -> None:
    (here / "in.npy").write_bytes(GOOD)
    for option in ("--strict", "--verify", "--json"):
        refuse(2, option, "apply", "in.npy", "-", option)


def test_an_option_from_the_environment_is_checked(here: Path, refuse: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "in.npy").write_bytes(GOOD)
    monkeypatch.setenv("LEAKYCLI_APPLY_ALPHA", "abc")
    refuse(2, "--alpha", "apply", "in.npy", "out.npy")


def test_a_memory_bound_that_is_too_small_is_refused_with_the_one_that_is_not(leakycli: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.zeros(3_000_000, np.float32))
    before = snapshot(tmp_path)
    done = leakycli("apply", "in.npy", "out.npy", "--memory", "1K")
    check_line(done.stderr.decode(), "--memory")
    assert done.returncode == 2
    assert snapshot(tmp_path) == before
    needed = re.search(r"needs ([\d.]+) ?MiB", done.stderr.decode())
    assert needed is not None
    # The interpreter itself varies a little from run to run.
    assert leakycli("apply", "in.npy", "out.npy", "-q", "--memory", f"{float(needed[1]) + 1} MiB").returncode == 0


def test_a_memory_bound_that_is_too_small_for_verify(here: Path, refuse: Refuse) -> None:
    (here / "in.npy").write_bytes(GOOD)
    refuse(2, "--memory", "verify", "in.npy", "in.npy", "--memory", "1K")


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize(
    ("x", "index"),
    [
        (np.array([1, np.nan, 2, np.nan], np.float32), "[1]"),
        (np.array([[1, 2, 3], [4, 5, np.nan]], np.float64), "[1, 2]"),
        (np.asfortranarray(np.array([[1, 2, 3], [4, np.nan, 6]], np.float16)), "[1, 1]"),
        (np.array([0, np.nan], ">f4"), "[1]"),
        (np.array(np.nan), "[]"),
    ],
    ids=["1-D", "2-D", "Fortran", "byte-swapped", "0-d"],
)
def test_nan_has_no_integer(here: Path, refuse: Refuse, dtype: str, x: Any, index: str) -> None:
    np.save("in.npy", x)
    line = refuse(4, "in.npy", "apply", "in.npy", "out.npy", "--dtype", dtype)
    assert f"index {index} " in line
    assert "--nan" in line


@pytest.mark.parametrize("workers", ["1", "4"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_first_of_several_nan_is_named(here: Path, refuse: Refuse, workers: str, dtype: str) -> None:
    x = np.ones((1000, 10_000), dtype)
    x[450:, 5_000:] = np.nan
    np.save("in.npy", x)
    assert "index [450, 5000] " in refuse(4, "in.npy", "apply", "in.npy", "out.npy", "--dtype", "int32", "--workers", workers)


def test_nan_has_no_integer_in_verify_either(here: Path, refuse: Refuse) -> None:
    np.save("in.npy", np.array([np.nan]))
    np.save("out.npy", np.array([0], np.int32))
    refuse(4, "in.npy", "verify", "in.npy", "out.npy", "--dtype", "int32")


@pytest.mark.parametrize(
    ("x", "options", "counted"),
    [
        (np.array([1e5, -1e9, 1], np.float32), "--dtype float16", "2 elements overflowed"),
        (np.array([3e9, -1e30, np.inf, 5], np.float64), "--dtype int32", "3 were clipped"),
        (np.array([-3e38], np.float32), "--alpha 2", "1 element overflowed"),
        (np.array([2**40], np.int64), "--dtype int32", "1 was clipped"),
    ],
    ids=["float16", "int32", "alpha", "integers"],
)
def test_strict_writes_nothing_when_something_is_lost(here: Path, refuse: Refuse, x: Any, options: str, counted: str) -> None:
    np.save("in.npy", x)
    line = refuse(4, "in.npy", "apply", "in.npy", "out.npy", "--strict", *options.split())
    assert counted in line
    assert _run(["apply", "in.npy", "out.npy", "--quiet", *options.split()]) == 0


def test_strict_lets_rounding_infinity_and_underflow_pass(here: Path) -> None:
    np.save("in.npy", np.array([0.1, np.inf, -1e-30, np.nan]))
    assert _run(["apply", "in.npy", "out.npy", "--quiet", "--strict", "--dtype", "float16"]) == 0


HOSTILE = {
    "newline": "a\nleakycli: done.npy",
    "escape sequence": "\x1b[31mred\x1b]0;title\x07.npy",
    "markup": "[red]x[/red].npy",
    "unclosed markup": "[bold][link=x.npy",
    "emoji code": ":smile:.npy",
    "c1 controls": "\x9b31m.npy",
    "right to left": "\u202egnp.npy",
    "format codes": "%s{0}{name}.npy",
    "option-like": "--alpha.npy",
}
if sys.platform != "darwin":
    # There the file system itself refuses such names.
    HOSTILE["undecodable"] = os.fsdecode(b"\xff\xfe.npy")


@pytest.fixture
def escaped() -> Callable[[str], str]:
    """A file name as it may be shown: what cannot be printed as Python escapes."""
    return lambda name: "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_name_of_a_bad_file_is_shown_escaped(here: Path, refuse: Refuse, escaped: Callable[[str], str], kind: str) -> None:
    name = HOSTILE[kind]
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_bytes(b"nonsense")
    refuse(3, escaped(name), "apply", "--", name, "out.npy")
    refuse(3, escaped(name), "info", "--", name)
    Path(name).write_bytes(saved(np.array([np.nan])))
    refuse(4, escaped(name), "apply", "--dtype", "int32", "--", name, "out.npy")
    Path(name).unlink()
    refuse(1, escaped(name), "apply", "--", name, "out.npy")
    (here / "in.npy").write_bytes(GOOD)
    refuse(1, escaped(name), "apply", "--", "in.npy", f"{name}/out.npy")


def test_hostile_names_of_good_files_work_and_are_shown_escaped(leakycli: Run, tmp_path: Path, escaped: Callable[[str], str]) -> None:
    for name in HOSTILE.values():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(GOOD)
    (tmp_path / "out").mkdir()
    done = leakycli("apply", "--progress", "plain", "--", *HOSTILE.values(), "out", env={"PYTHONIOENCODING": "utf-8"})
    assert done.returncode == 0, done.stderr
    *results, total = done.stdout.decode().splitlines()
    assert total.startswith(f"{len(HOSTILE)} sources: {len(HOSTILE)} done; ")
    for lines in (results, done.stderr.decode().splitlines()):
        assert len(lines) == len(HOSTILE)
        for line, name in zip(lines, HOSTILE.values(), strict=True):
            assert line.isprintable()
            assert escaped(name) in line
    expected = sorted(os.path.basename(name) + suffix for name in HOSTILE.values() for suffix in ("", ".report.json"))
    assert sorted(os.listdir(tmp_path / "out")) == expected


@pytest.mark.parametrize("command", ["apply", "info", "verify", "dry run"])
def test_a_hostile_name_does_not_break_a_whole_report(here: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    for number, name in enumerate(HOSTILE.values()):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(GOOD)
        dest = f"{number}[red]\x1b[31m\n.npy"
        apply(name, dest, Options(overwrite=True))
        arguments = {
            "apply": ["apply", "--overwrite", "--", name, dest],
            "info": ["info", "--", name],
            "verify": ["verify", "--", name, dest],
            "dry run": ["apply", "--dry-run", "--overwrite", "--", name, dest],
        }
        assert _run(arguments[command]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert out.replace("\n", "").isprintable()


def test_hostile_option_values_stay_on_one_line(here: Path, refuse: Refuse) -> None:
    (here / "in.npy").write_bytes(GOOD)
    for option in ("--alpha", "--dtype", "--memory", "--workers", "--nan", "--progress"):
        refuse(2, option, "apply", "in.npy", "out.npy", option, "\x1b[31m\nleakycli: all is well")
    refuse(2, "", "\x1b[31m\nx")


@pytest.mark.parametrize("given", ["a\0b.npy\n", "a\0b.npy\ngood.npy\n"])
def test_a_null_byte_in_a_list_of_files(leakycli: Run, tmp_path: Path, given: str) -> None:
    (tmp_path / "good.npy").write_bytes(GOOD)
    (tmp_path / "out").mkdir()
    done = leakycli("apply", "--files-from", "-", "out", "--quiet", stdin=given.encode())
    check_line(done.stderr.decode().splitlines(keepends=True)[0], r"a\x00b.npy")
    assert done.returncode in (1, 2, 6)


# Everything that a run needs is imported while the process may still read it.
_AS_NOBODY = """
import os, sys
import leakycli.api, leakycli.cli.where, leakycli.cli.apply, leakycli.cli.info, leakycli.progress, leakycli.cli.verify
import leakycli.engine.verify, leakycli.report.terminal, leakycli.formats.npz
from leakycli.cli import _run
import json, concurrent.futures.thread
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sys.exit(_run(sys.argv[1:]))
"""


@pytest.fixture
def unprivileged(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command line as someone for whom permissions count."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", _AS_NOBODY] if os.geteuid() == 0 else [sys.executable, "-m", "leakycli"]
        return subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60)

    return run


@pytest.mark.parametrize("command", [("apply", "secret.npy", "out/out.npy"), ("info", "secret.npy"), ("verify", "secret.npy", "in.npy")])
def test_a_source_without_permission(
    tmp_path: Path, unprivileged: Callable[..., subprocess.CompletedProcess[str]], command: tuple[str, ...]
) -> None:
    for name in ("secret.npy", "in.npy"):
        (tmp_path / name).write_bytes(GOOD)
    tmp_path.chmod(0o755)
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o777)
    (tmp_path / "secret.npy").chmod(0)
    done = unprivileged(*command)
    assert done.returncode == 1
    check_line(done.stderr, "secret.npy")
    assert "Permission denied" in done.stderr
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_without_permission_for_dest(
    tmp_path: Path, unprivileged: Callable[..., subprocess.CompletedProcess[str]], overwrite: bool
) -> None:
    (tmp_path / "in.npy").write_bytes(GOOD)
    tmp_path.chmod(0o755)
    folder = tmp_path / "folder"
    folder.mkdir()
    if overwrite:
        (folder / "out.npy").write_bytes(b"precious")
    folder.chmod(0o555)
    before = snapshot(tmp_path)
    done = unprivileged("apply", "in.npy", "folder/out.npy", *["--overwrite"] * overwrite)
    assert done.returncode == 1
    check_line(done.stderr, "folder/out.npy")
    assert "Permission denied" in done.stderr
    assert snapshot(tmp_path) == before
    folder.chmod(0o755)


def test_a_folder_that_may_not_be_searched(tmp_path: Path, unprivileged: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "in.npy").write_bytes(GOOD)
    (tmp_path / "in.npy").write_bytes(GOOD)
    tmp_path.chmod(0o777)
    folder.chmod(0)
    for arguments in (("closed/in.npy", "out.npy"), ("in.npy", "closed/out.npy")):
        done = unprivileged("apply", *arguments)
        assert done.returncode == 1
        check_line(done.stderr, "closed/")
        assert "Permission denied" in done.stderr
    done = unprivileged("apply", "--recursive", "closed", "tree")
    assert done.returncode == 1
    check_line(done.stderr, "closed")
    folder.chmod(0o755)
    assert sorted(os.listdir(tmp_path)) == ["closed", "in.npy"]


_BASES = (
    GOOD,
    saved(np.asfortranarray(np.arange(-6, 6, dtype=">i4").reshape(3, 4))),
    saved(np.array([-0.0, np.nan, 7, -7], np.float16)),
    npy("{'descr': '<f8', 'fortran_order': False, 'shape': (8L,), }", 2),
    npy("{'descr': '|u1', 'fortran_order': True, 'shape': (8, 8), }", 3),
)
_SNIPPETS = (
    b"'",
    b"(",
    b")",
    b",",
    b"L",
    b"-",
    b"\\",
    b"\0",
    b"0x",
    b"1e9",
    b"True",
    b"None",
    b"{",
    b"}",
    b"|O",
    b"<f2",
    b">i8",
    b"<M8[s]",
    b"V",
    b"\n",
)

_edits = st.lists(
    st.tuples(
        st.integers(0, 199),
        st.integers(0, 12),
        st.one_of(st.binary(max_size=3), st.sampled_from(_SNIPPETS), st.integers(-(2**70), 2**70).map(lambda n: str(n).encode())),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(base=st.sampled_from(_BASES), edits=_edits)
@example(base=GOOD, edits=[(6, 1, b"\x02")])
@example(base=GOOD, edits=[(6, 2, b"\x03\x00")])
@example(base=GOOD, edits=[(21, 3, b"a4")])
def test_an_altered_file_gives_its_result_or_a_leaky_error(base: bytes, edits: list[tuple[int, int, bytes]]) -> None:
    data = base
    for at, removed, added in edits:
        data = data[:at] + added + data[at + removed :]
    folder = Path(tempfile.mkdtemp())
    try:
        source, dest = folder / "in.npy", folder / "out.npy"
        source.write_bytes(data)
        refused = None
        try:
            apply(str(source), str(dest), Options(workers=1, reports=("none",)))
        except LeakyError as error:
            refused = str(error)
        if refused is not None:
            assert str(source) in refused
            assert refused.isprintable()
            assert os.listdir(folder) == ["in.npy"]
        else:
            assert sorted(os.listdir(folder)) == ["in.npy", "out.npy"]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                x = np.load(source, max_header_size=1 << 16)
            y = defined(x)
            assert same(np.load(dest), y if x.dtype.isnative else y.astype(y.dtype.newbyteorder("S")))
        assert source.read_bytes() == data
    finally:
        shutil.rmtree(folder)
