"""Files and archives as they are found: what systems add, odd names, large dictionaries, sparse layouts, sources that change."""

from __future__ import annotations

import json
import lzma
import os
import struct
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from leakycli import Options, apply, dry_run, info, verify
from leakycli.engine import events
from leakycli.errors import CorruptError, LeakyError, SourceChangedError, StorageError, UnsupportedError, UsageError
from tests.cli.test_cli import Command, X, here, run
from tests.formats.test_npy import defined

__all__ = ["here", "run"]

APPLE_DOUBLE = b"\0\5\26\7\0\2\0\0Mac OS X        " + bytes(96)


def saved(array: Any) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def archive(path: str, files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> str:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("dest", ["out.npz", "out.zarr", "out.npy"])
def test_an_archive_of_macos_is_read_with_a_note(run: Command, method: int, dest: str) -> None:
    files = {
        "x.npy": saved(X),
        "__MACOSX/._x.npy": APPLE_DOUBLE,
        "__MACOSX/sub/._y.npy": b"",
        "._z.npy": APPLE_DOUBLE,
        ".DS_Store": b"\0\0\0\1Bud1",
        "Thumbs.db": b"\xd0\xcf\x11\xe0",
        "sub/": b"",
    }
    archive("in.npz", files, method)
    code, out, err = run("apply", "in.npz", dest)
    assert (code, err) == (0, "")
    assert "warning: in.npz: 3 members of macOS's own (__MACOSX/._x.npy, __MACOSX/sub/._y.npy, ._z.npy)" in out
    if dest == "out.npz":
        with zipfile.ZipFile(dest) as file:
            assert {name: file.read(name) for name in files if name != "x.npy"} == {n: d for n, d in files.items() if n != "x.npy"}
        with np.load(dest) as found:
            assert np.array_equal(found["x"], defined(X))
        assert run("verify", "in.npz", dest)[0] == 0
    elif dest == "out.zarr":
        assert np.array_equal(zarr.open_array(dest, path="x", mode="r")[...], defined(X))
        assert "what is no array was left out: __MACOSX/._x" in out
    assert run("apply", "in.npz", f"2{dest}", "--skip", "__MACOSX*", "-q")[0] == 0


def test_an_array_in_an_archive_may_be_called_as_what_macos_adds(run: Command) -> None:
    archive("in.npz", {"x.npy": saved(X), "._y.npy": saved(X), "__MACOSX/z.npy": saved(X)})
    assert run("apply", "in.npz", "out.npz", "-q")[0] == 0
    with np.load("out.npz") as found:
        assert all(np.array_equal(found[name], defined(X)) for name in ("x", "._y", "__MACOSX/z"))


@pytest.mark.parametrize("name", ["x.npz", "x.NPZ", "x.zip", "x.dat", "x"])
def test_an_npy_is_read_under_any_name(run: Command, name: str) -> None:
    Path(name).write_bytes(saved(X))
    assert run("apply", name, "y.npy", "-q") == (0, "", "")
    assert np.array_equal(np.load("y.npy"), defined(X))
    assert run("verify", name, "y.npy")[0] == 0


def with_dictionary(data: bytes, dictionary: int, declared: int | None = None) -> bytes:
    """An archive of one LZMA member as 7-Zip makes it. declared: the size of the dictionary that its header claims."""
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": dictionary, "preset": 0}]
    packer = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=filters)
    body = packer.compress(data) + packer.flush()
    body = b"\x10\x02\5\0" + bytes([93]) + struct.pack("<L", declared or dictionary) + body
    name, crc = b"x.npy", zipfile.crc32(data)  # type: ignore[attr-defined]
    fields = struct.pack("<5H3L2H", 63, 2, 14, 0, 33, crc, len(body), len(data), len(name), 0)
    local = b"PK\3\4" + fields + name + body
    central = b"PK\1\2" + struct.pack("<H", 63) + fields + struct.pack("<3H2L", 0, 0, 0, 0, 0) + name
    return local + central + b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 1, 1, len(central), len(local), 0)


def test_an_lzma_member_with_a_large_dictionary_is_read_where_memory_allows(here: Path) -> None:
    x = np.zeros(6 << 20, np.float32)
    x[-5:] = -1
    Path("in.npz").write_bytes(with_dictionary(saved(x), 64 << 20))
    archive("stored.npz", {"x.npy": saved(x)})
    apply("in.npz", "out.npz")
    with np.load("out.npz") as found:
        assert np.array_equal(found["x"], defined(x))
    least = dry_run("in.npz", "new.npz", Options(workers=1)).memory.projected
    assert least - dry_run("stored.npz", "new.npz", Options(workers=1)).memory.projected > 20 << 20
    with pytest.raises(UsageError, match=r"in\.npz: a memory bound of .* is too small: this run needs \d+"):
        apply("in.npz", "new.npz", Options(workers=1, memory=least - (12 << 20)))
    assert not Path("new.npz").exists()
    # So does what is only copied.
    x_too = dry_run("in.npz", "new.npz", Options(workers=1, skip=("y",), patterns_met=True)).memory.projected
    assert abs(x_too - least) < 4 << 20


def test_a_dictionary_is_not_believed_to_be_larger_than_its_data(here: Path) -> None:
    Path("in.npz").write_bytes(with_dictionary(saved(X), 1 << 16, 0xFFFFFFFF))
    assert info("in.npz").members[0].memory < 1 << 16
    apply("in.npz", "out.npz")
    with np.load("out.npz") as found:
        assert np.array_equal(found["x"], defined(X))


def renamed_over(path: str) -> None:
    os.replace(archive("other", {"a0.npy": saved(X)}), path)


def written_over(path: str) -> None:
    archive(path, {"a0.npy": saved(X)})


def cut_off(path: str) -> None:
    os.truncate(path, 100)


def filled_with_others(path: str) -> None:
    Path(path).write_bytes(bytes(os.path.getsize(path)))


CHANGES: list[Callable[[str], None]] = [renamed_over, written_over, cut_off, filled_with_others, os.unlink]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_that_changes_while_it_is_read_is_changed_and_not_damaged(
    here: Path, change: Callable[[str], None], method: int
) -> None:
    rng = np.random.default_rng(1)
    archive("live.npz", {f"a{i}.npy": saved(rng.standard_normal(300_000).astype(np.float32)) for i in range(3)}, method)
    done = False

    def observe(event: events.Event) -> None:
        nonlocal done
        if isinstance(event, events.RegionDone) and not done:
            done = True
            change("live.npz")

    with pytest.raises(StorageError, match=r"live\.npz: .*while it was read; run again") as raised:
        apply("live.npz", "out.npz", Options(workers=1), observe)
    assert isinstance(raised.value, SourceChangedError) == (change is not os.unlink)
    assert raised.value.exit_code == 1
    assert done
    assert not os.path.exists("out.npz")


def test_a_damaged_archive_that_does_not_change_is_damaged(here: Path) -> None:
    archive("in.npz", {"a.npy": saved(X)})
    data = bytearray(Path("in.npz").read_bytes())
    data[60] ^= 1
    data[data.index(b"\x93NUMPY") + 130] ^= 1
    Path("in.npz").write_bytes(data)
    with pytest.raises(CorruptError):
        apply("in.npz", "out.npz")


# Layouts of which some arrays say where the others are


SPARSE: dict[str, tuple[dict[str, Any], str]] = {
    "csr": (
        {"indices": np.array([0]), "indptr": np.array([0, 1]), "format": np.array(b"csr"), "shape": np.array([1, 2]), "data": X[0]},
        "data",
    ),
    "coo": ({"row": np.array([0]), "col": np.array([1]), "format": np.array(b"coo"), "shape": np.array([1, 2]), "data": X[0]}, "data"),
    "coo of SciPy 1.13": ({"coords": np.array([[0]]), "format": np.array("coo"), "shape": np.array([1, 2]), "data": X[0]}, "data"),
    "dia": ({"offsets": np.array([0]), "format": np.array(b"dia"), "shape": np.array([1, 2]), "data": X[0]}, "data"),
    "sparse": ({"coords": np.array([[0]]), "shape": np.array([2]), "data": X[0], "fill_value": np.float32(0)}, "data fill_value"),
}


@pytest.mark.parametrize("kind", SPARSE)
def test_a_sparse_matrix_is_recognised_and_its_positions_are_kept(run: Command, kind: str) -> None:
    arrays, values = SPARSE[kind]
    np.savez("in.npz", **arrays)
    way = " ".join(f"--only {name}" for name in values.split())
    for more in ([], ["--skip", "format"] if "format" in arrays else ["--skip", "shape"]):
        code, _, err = run("apply", "in.npz", "out.npz", *more)
        assert code == 3
        assert "sparse" in err
        assert way in err
        assert not Path("out.npz").exists()
    assert run("apply", "in.npz", "out.npz", *way.split(), "-q") == (0, "", "")
    with np.load("out.npz") as found:
        for name, x in arrays.items():
            assert np.array_equal(found[name], defined(np.asarray(x)) if name in values.split() else x)
            assert found[name].dtype == np.asarray(x).dtype
    assert verify("in.npz", "out.npz", Options(only=tuple(values.split()))).equal


def test_integers_of_an_archive_are_transformed_and_the_report_says_so(run: Command) -> None:
    np.savez("in.npz", x=X, labels=np.array([-1, 2]))
    out = run("apply", "in.npz", "out.npz")[1]
    assert "warning: in.npz: integers of a .npz are transformed unless skipped" in out
    assert "labels" in json.loads(Path("out.npz.report.json").read_text())["warnings"][0]
    assert "warning" not in run("apply", "in.npz", "out2.npz", "--skip", "labels")[1]
    assert "warning" not in run("apply", "in.npz", "out3.npz", "--only", "*")[1]
    assert "In a .npz, integers are transformed" in " ".join(run("apply", "--help")[1].split())


def test_no_temporary_name_is_in_a_message(run: Command) -> None:
    archive("in.npz", {"a.npy": saved(X), "a/b.npy": saved(X)})
    code, _, err = run("apply", "in.npz", "out.zarr")
    assert code != 0
    assert "partial" not in err


def test_each_type_of_ml_dtypes_is_refused_with_the_view_that_reads_it(here: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4"):
        x = np.array([-1, 2, 3]).astype(getattr(ml_dtypes, name))
        np.save("in.npy", x)
        with pytest.raises((UnsupportedError, LeakyError)) as raised:
            apply("in.npy", "out.npy")
        text = str(raised.value)
        assert "ml_dtypes" in text
        if name == "bfloat16":
            found = np.load("in.npy").view(ml_dtypes.bfloat16).astype("float32")
        elif name == "float8_e5m2":
            offset = int(text.partition("offset=")[2].partition(")")[0])
            found = np.frombuffer(Path("in.npy").read_bytes(), "u1", offset=offset).view(ml_dtypes.float8_e5m2).astype("float32").reshape(3)
        else:
            continue
        assert np.array_equal(found, [-1, 2, 3])
