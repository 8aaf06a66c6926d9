"""The `.npz` format: which archives are read, what is written, what is copied, and that any tool for zip archives agrees."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import warnings
import zipfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from leakycli import Options, apply, info, system, verify
from leakycli.errors import CorruptError, UsageError
from leakycli.report.model import Report
from tests.conftest import Run
from tests.formats.test_npy import TYPES, defined, same, saved, values

Array = NDArray[Any]
Members = Mapping[str, Array | bytes]
Changes = Callable[[zipfile.ZipFile], None]

METHODS = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED, "bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}

#: Small ones, of which `_archives` makes archives.
PLAIN = {"b.npy": values("float32", (40,)), "a.npy": values("float64", (3, 5)), "c/d.npy": values("int16", (30,))}


def as_bytes(member: Array | bytes) -> bytes:
    return member if isinstance(member, bytes) else saved(member)


def archive(
    path: Path,
    members: Mapping[str, Array | bytes],
    method: int = zipfile.ZIP_STORED,
    level: int | None = None,
    change: Changes | None = None,
) -> Path:
    """Make an archive; `change` may falsify what its directory will say."""
    with zipfile.ZipFile(path, "w", method, compresslevel=level) as made:
        for name, member in members.items():
            made.writestr(zipfile.ZipInfo(name), as_bytes(member), method, level)
        if change is not None:
            change(made)
    return path


def expected(x: Array, **options: Any) -> Array:
    """Leaky ReLU by its definition, in the byte order of `x`."""
    y = defined(x, **options)
    return y if x.dtype.isnative else y.astype(y.dtype.newbyteorder("S"))


def members(path: Path) -> dict[str, bytes]:
    """Every member's data, checked by zipfile."""
    with zipfile.ZipFile(path) as opened:
        assert opened.testzip() is None
        return {name: opened.read(name) for name in opened.namelist()}


def arrays(path: Path) -> dict[str, Array]:
    """Every array of a sound archive, as numpy reads it."""
    with zipfile.ZipFile(path) as opened:
        assert opened.testzip() is None
    with np.load(path) as loaded:
        return {name: loaded[name] for name in loaded.files if isinstance(loaded[name], np.ndarray)}


def methods(path: Path) -> dict[str, int]:
    with zipfile.ZipFile(path) as opened:
        return {entry.filename: entry.compress_type for entry in opened.infolist()}


def raw(path: Path, name: str) -> bytes:
    """A member's compressed bytes, found by its local header."""
    with zipfile.ZipFile(path) as opened:
        entry = opened.getinfo(name)
    data, at = path.read_bytes(), entry.header_offset
    start = at + 30 + sum(struct.unpack("<2H", data[at + 26 : at + 30]))
    return data[start : start + entry.compress_size]


def unzip_agrees(path: Path) -> bool:
    """Whether Info-ZIP finds nothing wrong; also where it is not installed."""
    if shutil.which("unzip") is None:
        return True
    done = subprocess.run(["unzip", "-t", path], capture_output=True, timeout=120)
    return done.returncode == 0 and b"No errors detected" in done.stdout


def run(source: Path, dest: Path, **options: Any) -> Report:
    return apply(str(source), str(dest), Options(**options))


def equal(source: Path, dest: Path, **options: Any) -> bool:
    return verify(str(source), str(dest), Options(**options)).equal


@pytest.fixture
def to_stdout(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """What a run in this process writes to standard output."""

    def written(source: Path, **options: Any) -> bytes:
        path, kept = tmp_path_factory.mktemp("stdout") / "written", os.dup(1)
        try:
            with open(path, "wb") as file:
                os.dup2(file.fileno(), 1)
                apply(str(source), "-", Options(**options))
        finally:
            os.dup2(kept, 1)
            os.close(kept)
        return path.read_bytes()

    return written


def kinds(dtype: str) -> dict[str, Array]:
    """Arrays of every layout."""
    x = values(dtype)
    return {
        "c": x,
        "fortran": np.asfortranarray(x),
        "scalar": x.reshape(-1)[11].reshape(()),
        "empty": x[:0],
        "swapped": x.astype(x.dtype.newbyteorder("S")),
        "swapped fortran": np.asfortranarray(x.astype(x.dtype.newbyteorder("S"))),
        "one": x.reshape(-1)[20:21],
    }


def npy_named(given: Mapping[str, Array | bytes]) -> dict[str, Array | bytes]:
    return {f"{name}.npy": member for name, member in given.items()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_and_layout_goes_through_every_method(tmp_path: Path, dtype: str, method: str) -> None:
    given = kinds(dtype)
    source, dest = archive(tmp_path / "in.npz", npy_named(given), METHODS[method]), tmp_path / "out.npz"
    before = source.read_bytes()
    report = run(source, dest)
    found = arrays(dest)
    assert list(found) == list(given)
    for name, x in given.items():
        assert same(found[name], expected(x)), name
        assert found[name].flags.f_contiguous == x.flags.f_contiguous, name
    assert [(array.name, array.action) for array in report.arrays] == [(name, "transformed") for name in given]
    assert equal(source, dest)
    assert unzip_agrees(dest)
    assert set(methods(dest).values()) == {zipfile.ZIP_STORED if method == "stored" else zipfile.ZIP_DEFLATED}
    assert source.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["in.npz", "out.npz", "out.npz.report.json"]


@pytest.mark.parametrize("out", TYPES)
@pytest.mark.parametrize("method", ["stored", "deflated"])
def test_every_type_can_be_written(tmp_path: Path, out: str, method: str) -> None:
    given = {dtype: values(dtype) for dtype in (*TYPES, "uint8", "int16", "uint64")}
    source, dest = archive(tmp_path / "in.npz", npy_named(given), METHODS[method]), tmp_path / "out.npz"
    run(source, dest, dtype=out, alpha=0.3, verify=True)
    found = arrays(dest)
    for name, x in given.items():
        assert same(found[name], expected(x, alpha=0.3, dtype=out)), name
    assert equal(source, dest, dtype=out, alpha=0.3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", kinds("float32"))
def test_npz_to_npy(tmp_path: Path, kind: str, method: str) -> None:
    given = kinds("float32")
    source, dest = archive(tmp_path / "in.npz", npy_named(given), METHODS[method]), tmp_path / "out.npy"
    report = run(source, dest, only=(kind,), verify=True)
    found = np.load(dest)
    assert same(found, expected(given[kind]))
    assert found.flags.f_contiguous == given[kind].flags.f_contiguous
    assert [array.name for array in report.arrays] == [kind]
    assert equal(source, dest, only=(kind,))


@pytest.mark.parametrize("compressor", [None, "stored", "deflate", "deflate:9"])
@pytest.mark.parametrize("kind", kinds("float16"))
def test_npy_to_npz(tmp_path: Path, kind: str, compressor: str | None) -> None:
    x = kinds("float16")[kind]
    source, dest = tmp_path / "in.npy", tmp_path / "out.npz"
    source.write_bytes(saved(x))
    run(source, dest, compressor=compressor, verify=True)
    found = arrays(dest)
    assert list(found) == ["arr_0"]
    assert same(found["arr_0"], expected(x))
    assert set(methods(dest).values()) == {zipfile.ZIP_STORED if compressor in (None, "stored") else zipfile.ZIP_DEFLATED}
    assert equal(source, dest)
    assert unzip_agrees(dest)


def test_npz_to_npy_and_back_is_the_same_array(tmp_path: Path) -> None:
    x = np.abs(values("float32"))
    archive(tmp_path / "a.npz", {"arr_0.npy": x}, zipfile.ZIP_DEFLATED)
    run(tmp_path / "a.npz", tmp_path / "b.npy")
    run(tmp_path / "b.npy", tmp_path / "c.npz", compressor="deflate")
    assert same(arrays(tmp_path / "c.npz")["arr_0"], x)


@pytest.mark.parametrize("method", METHODS)
def test_an_array_of_an_npz_to_standard_output(tmp_path: Path, to_stdout: Callable[..., bytes], method: str) -> None:
    given = kinds("float64")
    source = archive(tmp_path / "in.npz", npy_named(given), METHODS[method])
    for name, x in given.items():
        written = to_stdout(source, only=(name,))
        assert same(np.load(BytesIO(written)), expected(x)), name
    assert os.listdir(tmp_path) == ["in.npz"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("compressor", [None, "stored", "deflate:7"])
def test_an_npz_to_standard_output(tmp_path: Path, to_stdout: Callable[..., bytes], method: str, compressor: str | None) -> None:
    given = npy_named(kinds("float32")) | {"note.txt": b"a note " * 100, "nothing": b""}
    source, dest = archive(tmp_path / "in.npz", given, METHODS[method]), tmp_path / "out.npz"
    dest.write_bytes(to_stdout(source, to="npz", compressor=compressor, skip=("one",)))
    found = members(dest)
    assert list(found) == list(given)
    assert found["note.txt"] == given["note.txt"]
    assert found["one.npy"] == as_bytes(given["one.npy"])
    for name, x in kinds("float32").items():
        if name != "one":
            assert same(arrays(dest)[name], expected(x)), name
    assert equal(source, dest, skip=("one",))
    # Info-ZIP need not know bzip2 and lzma, which copied members keep.
    if method in ("stored", "deflated") or compressor is not None:
        assert unzip_agrees(dest)


def test_an_npz_through_a_pipe(leakycli: Run, tmp_path: Path) -> None:
    x = values("float32", (300_000,))
    np.savez_compressed(tmp_path / "in.npz", x=x, y=x[:10])
    done = leakycli("apply", "in.npz", "-", "--to", "npz")
    assert done.returncode == 0, done.stderr
    with np.load(BytesIO(done.stdout)) as found:
        assert same(found["x"], expected(x))
        assert same(found["y"], expected(x[:10]))
    (tmp_path / "piped.npz").write_bytes(done.stdout)
    assert unzip_agrees(tmp_path / "piped.npz")
    done = leakycli("apply", "in.npz", "-", "--only", "y")
    assert done.returncode == 0, done.stderr
    assert same(np.load(BytesIO(done.stdout)), expected(x[:10]))


class Stream:
    """A file that cannot seek nor tell, as a pipe."""

    def __init__(self) -> None:
        self.written = bytearray()

    def write(self, data: bytes) -> int:
        self.written += data
        return len(data)

    def flush(self) -> None:
        pass


def _with_descriptors(path: Path, method: int) -> None:
    stream = Stream()
    with zipfile.ZipFile(cast("Any", stream), "w", method) as made:
        for name, x in PLAIN.items():
            with made.open(name, "w") as member:
                member.write(saved(x))
        assert all(entry.flag_bits & 8 for entry in made.infolist())
    path.write_bytes(stream.written)


def _with_zip64(path: Path, method: int) -> None:
    with zipfile.ZipFile(path, "w", method) as made:
        for name, x in PLAIN.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = method
            with made.open(entry, "w", force_zip64=True) as member:
                member.write(saved(x))


def _with_extras_and_comments(path: Path, method: int) -> None:
    with zipfile.ZipFile(path, "w", method) as made:
        for name, x in PLAIN.items():
            entry = zipfile.ZipInfo(name, (2024, 2, 29, 23, 59, 58))
            entry.extra, entry.comment = struct.pack("<2H6s", 0x4242, 6, b"extra!"), b"PK\5\6 a comment"
            made.writestr(entry, saved(x), method)
        made.comment = b"of the archive " * 20


_archives: dict[str, Callable[[Path], object]] = {
    "savez": lambda path: np.savez(path, **cast("Any", {name.removesuffix(".npy"): x for name, x in PLAIN.items()})),
    "savez_compressed": lambda path: np.savez_compressed(path, **cast("Any", {name.removesuffix(".npy"): x for name, x in PLAIN.items()})),
    "level 9": lambda path: archive(path, PLAIN, zipfile.ZIP_DEFLATED, 9),
    "level 1": lambda path: archive(path, PLAIN, zipfile.ZIP_DEFLATED, 1),
    "level 0": lambda path: archive(path, PLAIN, zipfile.ZIP_DEFLATED, 0),
    "descriptors, stored": lambda path: _with_descriptors(path, zipfile.ZIP_STORED),
    "descriptors, deflated": lambda path: _with_descriptors(path, zipfile.ZIP_DEFLATED),
    "ZIP64, stored": lambda path: _with_zip64(path, zipfile.ZIP_STORED),
    "ZIP64, deflated": lambda path: _with_zip64(path, zipfile.ZIP_DEFLATED),
    "extras, stored": lambda path: _with_extras_and_comments(path, zipfile.ZIP_STORED),
    "extras, deflated": lambda path: _with_extras_and_comments(path, zipfile.ZIP_DEFLATED),
}


@pytest.mark.parametrize("maker", _archives)
def test_archives_of_every_maker_are_read_and_their_order_and_method_kept(tmp_path: Path, maker: str) -> None:
    source, dest, part = (tmp_path / name for name in ("in.npz", "out.npz", "part.npz"))
    _archives[maker](source)
    run(source, dest, verify=True)
    found = members(dest)
    assert list(found) == list(PLAIN)
    for name, x in PLAIN.items():
        assert same(np.load(BytesIO(found[name])), expected(x)), name
    assert methods(dest) == methods(source)
    assert unzip_agrees(dest)
    # The same with all but one copied.
    run(source, part, only=("a",), verify=True)
    assert list(members(part)) == list(PLAIN)
    assert members(part) == members(source) | {"a.npy": found["a.npy"]}
    assert methods(part) == methods(source)
    for name in PLAIN:
        assert raw(part, name) == (raw(dest, name) if name == "a.npy" else raw(source, name))
    assert unzip_agrees(part)


def test_each_member_keeps_its_own_method_and_bzip2_and_lzma_become_deflated(tmp_path: Path) -> None:
    source, dest = tmp_path / "in.npz", tmp_path / "out.npz"
    with zipfile.ZipFile(source, "w") as made:
        for name, method in METHODS.items():
            made.writestr(f"{name}.npy", saved(values("float32")), method)
            made.writestr(f"{name} copied.npy", saved(values("float32")), method)
    run(source, dest, skip=("* copied",))
    kept = {f"{name} copied.npy": method for name, method in METHODS.items()}
    assert methods(dest) == kept | {f"{name}.npy": 0 if name == "stored" else 8 for name in METHODS}
    assert list(methods(dest)) == list(methods(source))
    for name in kept:
        assert raw(dest, name) == raw(source, name)
    assert equal(source, dest, skip=("* copied",))


@pytest.mark.parametrize("method", ["bzip2", "lzma"])
def test_a_copied_member_keeps_what_its_header_says_of_its_method(tmp_path: Path, method: str) -> None:
    """LZMA's bit 1 says that the data ends with a marker; without it some readers refuse the data."""
    source, dest = archive(tmp_path / "in.npz", {"a.npy": PLAIN["a.npy"], "b.npy": PLAIN["b.npy"]}, METHODS[method]), tmp_path / "out.npz"
    run(source, dest, only=("a",))
    with zipfile.ZipFile(source) as had, zipfile.ZipFile(dest) as has:
        before, after = had.getinfo("b.npy"), has.getinfo("b.npy")
    assert after.flag_bits & 6 == before.flag_bits & 6
    assert after.extract_version >= before.extract_version


def test_two_runs_give_the_same_bytes(tmp_path: Path, to_stdout: Callable[..., bytes]) -> None:
    source = archive(tmp_path / "in.npz", npy_named(kinds("float32")) | {"note": b"text" * 99}, zipfile.ZIP_DEFLATED)
    for compressor in (None, "stored", "deflate", "deflate:9"):
        written = []
        for name in ("one.npz", "two.npz"):
            run(source, tmp_path / name, compressor=compressor, overwrite=True)
            os.utime(source)
            written.append((tmp_path / name).read_bytes())
        assert written[0] == written[1]
        assert to_stdout(source, to="npz", compressor=compressor) == to_stdout(source, to="npz", compressor=compressor)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("compressor", "becomes"), [("stored", 0), ("deflate", 8), *((f"deflate:{level}", 8) for level in range(1, 10))])
def test_a_compressor_is_for_every_member(tmp_path: Path, method: str, compressor: str, becomes: int) -> None:
    given: Members = {"a.npy": values("float32"), "b.npy": values("float32"), "note.txt": b"a note " * 100, "nothing": b""}
    source, dest = archive(tmp_path / "in.npz", given, METHODS[method]), tmp_path / "out.npz"
    run(source, dest, compressor=compressor, only=("a",), verify=True)
    found = members(dest)
    assert set(methods(dest).values()) == {becomes}
    assert found == {name: as_bytes(member) for name, member in given.items()} | {"a.npy": found["a.npy"]}
    assert same(np.load(BytesIO(found["a.npy"])), expected(values("float32")))
    assert unzip_agrees(dest)
    if becomes == 8:
        assert len(raw(dest, "note.txt")) < 100


def test_a_higher_level_is_smaller(tmp_path: Path) -> None:
    x = np.random.default_rng(1).integers(0, 9, 50_000).astype("f4")
    source, sizes = archive(tmp_path / "in.npz", {"x.npy": x}), []
    for compressor in ("stored", "deflate:1", "deflate", "deflate:9"):
        run(source, tmp_path / "out.npz", compressor=compressor, overwrite=True)
        sizes.append((tmp_path / "out.npz").stat().st_size)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[2] > sizes[3]


_UNKNOWN = ["deflate:0", "deflate:10", "deflate:", "deflate:x", "deflate:²", "stored:1", "stored:", "foo", "", "Stored", "zstd", "\x1b[31m"]


@pytest.mark.parametrize("compressor", _UNKNOWN)
def test_an_unknown_compressor_is_refused(tmp_path: Path, compressor: str) -> None:
    for source in (archive(tmp_path / "in.npz", PLAIN), tmp_path / "in.npy"):
        (tmp_path / "in.npy").write_bytes(saved(PLAIN["a.npy"]))
        with pytest.raises(UsageError, match="compressor") as raised:
            run(source, tmp_path / "out.npz", compressor=compressor)
        assert raised.value.exit_code == 2
        assert str(raised.value).isprintable()
    assert sorted(os.listdir(tmp_path)) == ["in.npy", "in.npz"]


@pytest.mark.parametrize("compressor", ["stored", "deflate", "foo"])
def test_a_compressor_is_not_for_an_npy(tmp_path: Path, compressor: str) -> None:
    with pytest.raises(UsageError, match="compressor"):
        run(archive(tmp_path / "in.npz", PLAIN), tmp_path / "out.npy", compressor=compressor, only=("a",))
    assert os.listdir(tmp_path) == ["in.npz"]


MANY = {f"layer{i}/{part}.npy": values("float32", (i + 3, 4)) for i in range(3) for part in ("kernel", "bias")}


@pytest.mark.parametrize(
    ("only", "skip", "chosen"),
    [
        ((), (), "0k 0b 1k 1b 2k 2b"),
        (("layer1/*",), (), "1k 1b"),
        (("*/kernel",), (), "0k 1k 2k"),
        (("layer[02]/bias",), (), "0b 2b"),
        (("layer?/bias", "layer0/*"), (), "0k 0b 1b 2b"),
        ((), ("*/bias",), "0k 1k 2k"),
        ((), ("*/bias", "layer2*"), "0k 1k"),
        (("*/kernel",), ("layer1/*",), "0k 2k"),
        (("*",), ("*/bias",), "0k 1k 2k"),
        (("layer[!0]/kernel",), (), "1k 2k"),
    ],
)
@pytest.mark.parametrize("method", ["stored", "deflated", "lzma"])
def test_patterns_choose_and_the_rest_is_copied(
    tmp_path: Path, only: tuple[str, ...], skip: tuple[str, ...], chosen: str, method: str
) -> None:
    source, dest = archive(tmp_path / "in.npz", MANY | {"note.txt": b"note"}, METHODS[method]), tmp_path / "out.npz"
    report = run(source, dest, only=only, skip=skip, verify=True)
    wanted = {f"layer{c[0]}/{'kernel' if c[1] == 'k' else 'bias'}.npy" for c in chosen.split()}
    found = members(dest)
    assert list(found) == [*MANY, "note.txt"]
    for name, x in MANY.items():
        if name in wanted:
            assert same(np.load(BytesIO(found[name])), expected(x)), name
        else:
            assert raw(dest, name) == raw(source, name), name
    assert raw(dest, "note.txt") == raw(source, "note.txt")
    actions = [(array.name, array.action) for array in report.arrays]
    assert actions == [(name.removesuffix(".npy"), "transformed" if name in wanted else "copied") for name in MANY]
    assert [array["action"] for array in json.loads((tmp_path / "out.npz.report.json").read_text())["arrays"]] == [a for _, a in actions]
    assert equal(source, dest, only=only, skip=skip)


@pytest.mark.parametrize("dest", ["out.npz", "out.npy"])
@pytest.mark.parametrize(
    "options", [{"only": ("none",)}, {"only": ("b", "none")}, {"skip": ("*",)}, {"only": ("a",), "skip": ("a",)}, {"skip": ("nothing",)}]
)
def test_patterns_that_leave_nothing_are_refused_with_the_names_there_are(tmp_path: Path, dest: str, options: dict[str, Any]) -> None:
    source = archive(tmp_path / "in.npz", PLAIN)
    with pytest.raises(UsageError, match=r"in\.npz.*there are: b, a, c/d"):
        run(source, tmp_path / dest, **options)
    assert os.listdir(tmp_path) == ["in.npz"]


@pytest.mark.parametrize("options", [{}, {"only": ("*",)}])
def test_several_arrays_into_one_npy_are_refused_with_their_names(tmp_path: Path, options: dict[str, Any]) -> None:
    source = archive(tmp_path / "in.npz", PLAIN)
    with pytest.raises(UsageError, match=r"in\.npz.*several.*out\.npy.*--only.*: b, a, c/d") as raised:
        run(source, tmp_path / "out.npy", **options)
    assert raised.value.exit_code == 2
    with pytest.raises(UsageError, match="b, a, c/d"):
        apply(str(source), "-", Options(**options))
    assert os.listdir(tmp_path) == ["in.npz"]


def test_of_several_members_with_one_name_the_last_counts_and_a_warning_says_so(tmp_path: Path) -> None:
    source, dest = tmp_path / "in.npz", tmp_path / "out.npz"
    with warnings.catch_warnings(), zipfile.ZipFile(source, "w") as made:
        warnings.simplefilter("ignore")
        for name, x in (("a", values("float32", (5,))), ("b", values("float64", (6,))), ("a", values("float16", (7,)))):
            made.writestr(f"{name}.npy", saved(x))
        made.writestr("note", b"first")
        made.writestr("note", b"last")
    report = run(source, dest, verify=True)
    with zipfile.ZipFile(dest) as opened:
        assert sorted(opened.namelist()) == ["a.npy", "b.npy", "note"]
    assert same(arrays(dest)["a"], expected(values("float16", (7,))))
    assert same(arrays(dest)["b"], expected(values("float64", (6,))))
    assert members(dest)["note"] == b"last"
    assert len(report.warnings) == 1
    assert "in.npz" in report.warnings[0]


@pytest.mark.parametrize("method", METHODS)
def test_an_array_counts_under_any_name(tmp_path: Path, method: str) -> None:
    x = values("float32")
    given: Members = {"plain": x, "with.dot.bin": x, "x.npy": x, "x.NPY": x, "folder/": b"", "almost": saved(x)[:5], "text.txt": b"text"}
    source, dest = archive(tmp_path / "in.npz", given, METHODS[method]), tmp_path / "out.npz"
    report = run(source, dest, verify=True)
    found = members(dest)
    assert list(found) == list(given)
    for name, member in given.items():
        if isinstance(member, bytes):
            assert found[name] == member, name
        else:
            assert same(np.load(BytesIO(found[name])), expected(x)), name
    assert [array.name for array in report.arrays] == ["plain", "with.dot.bin", "x", "x.NPY"]
    run(source, tmp_path / "out.npy", only=("plain",))
    assert same(np.load(tmp_path / "out.npy"), expected(x))


@pytest.mark.parametrize("method", METHODS)
def test_what_follows_an_array_in_its_member_is_ignored(tmp_path: Path, method: str) -> None:
    source, dest = archive(tmp_path / "in.npz", {"a.npy": saved(PLAIN["a.npy"]) + b"rest" * 99_999}, METHODS[method]), tmp_path / "out.npz"
    run(source, dest, verify=True)
    assert same(arrays(dest)["a"], expected(PLAIN["a.npy"]))


def test_an_archive_is_known_by_its_content_not_its_name(tmp_path: Path) -> None:
    source = archive(tmp_path / "in.npy", {"a.npy": PLAIN["a.npy"]})
    run(source, tmp_path / "out.npy")
    assert same(np.load(tmp_path / "out.npy"), expected(PLAIN["a.npy"]))
    found = info(str(source))
    assert found.format == "npz"
    assert [member.name for member in found.members] == ["a"]


def test_a_file_whose_folder_has_an_odd_name(tmp_path: Path) -> None:
    folder = tmp_path / "[a] b\n\x1b[1m"
    folder.mkdir()
    run(archive(folder / "in.npz", PLAIN), folder / "out.npz", verify=True)
    assert same(arrays(folder / "out.npz")["a"], expected(PLAIN["a.npy"]))


@pytest.mark.parametrize("method", ["stored", "deflated"])
@pytest.mark.parametrize("compressor", [None, "stored", "deflate"])
def test_workers_and_memory_leave_no_trace(tmp_path: Path, method: str, compressor: str | None) -> None:
    x = np.round(np.random.default_rng(3).standard_normal(3_100_001)).astype("f4")
    x[::7919] = np.nan
    source = archive(tmp_path / "in.npz", {"small.npy": x[:9], "x.npy": x, "y.npy": x[:5]}, METHODS[method], 1)
    written, reports = set(), set()
    y = expected(x)
    for workers, extra in ((1, None), (4, 700 << 20), (2, 150 << 20)):
        memory = None if extra is None else system.resident() + extra
        dest = tmp_path / "out.npz"
        report = run(source, dest, workers=workers, memory=memory, compressor=compressor, overwrite=True)
        written.add(dest.read_bytes())
        reports.add(json.dumps(report.to_dict()["arrays"]))
    assert same(arrays(dest)["x"], y)
    assert len(written) == len(reports) == 1
    assert report.arrays[1].before is not None
    assert report.arrays[1].before.nan == int(np.isnan(x).sum())
    assert equal(source, dest)
    assert unzip_agrees(dest)


def test_the_report_of_an_array_does_not_depend_on_how_it_was_stored(tmp_path: Path) -> None:
    x, reports = np.resize(values("float32", (997,)), 700_000), set()
    (tmp_path / "in.npy").write_bytes(saved(x))
    sources = [archive(tmp_path / f"{name}.npz", {"x.npy": x}, method, 1) for name, method in METHODS.items()]
    for source in (tmp_path / "in.npy", *sources):
        for dest in ("out.npy", "out.npz"):
            array = run(source, tmp_path / dest, overwrite=True).to_dict()["arrays"][0]
            reports.add(json.dumps(array | {"name": ""}))
    assert len(reports) == 1


def rebuilt(path: Path, replace: Mapping[str, Array | bytes | None]) -> None:
    """The archive again, with some members replaced, or, with None, left out."""
    with zipfile.ZipFile(path) as opened:
        kept = [(entry, opened.read(entry)) for entry in opened.infolist()]
    with zipfile.ZipFile(path, "w") as made:
        for entry, data in kept:
            member = replace.get(entry.filename, data)
            if member is not None:
                made.writestr(zipfile.ZipInfo(entry.filename), as_bytes(member), entry.compress_type)


@pytest.fixture(params=["stored", "deflated"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A source and its destination; "kept" and "note" are copied."""
    x = values("float32", (60, 70))
    given: Members = {
        "x.npy": x,
        "f.npy": np.asfortranarray(x),
        "long.npy": values("float32", (700_000,)),
        "kept.npy": x,
        "note": b"note" * 9,
    }
    source, dest = archive(tmp_path / "in.npz", given, METHODS[request.param]), tmp_path / "out.npz"
    run(source, dest, skip=("kept",))
    assert equal(source, dest, skip=("kept",))
    return source, dest


@pytest.mark.parametrize(("name", "index"), [("x", (17, 3)), ("f", (17, 3)), ("x", (0, 0)), ("f", (59, 69)), ("long", (699_999,))])
def test_verify_finds_a_changed_element(pair: tuple[Path, Path], name: str, index: tuple[int, ...]) -> None:
    source, dest = pair
    y = arrays(dest)[name]
    y[index] = 12345.0
    rebuilt(dest, {f"{name}.npy": y})
    comparison = verify(str(source), str(dest), Options(skip=("kept",)))
    assert not comparison.equal
    differing = [array for array in comparison.arrays if array.difference or array.problem]
    assert [array.name for array in differing] == [name]
    assert differing[0].index == index
    assert differing[0].difference is not None
    assert differing[0].difference.count == 1
    assert differing[0].difference.found == 12345.0
    message = comparison.message()
    assert "out.npz" in message
    assert name in message
    assert str(list(index)) in message


@pytest.mark.parametrize("name", ["kept.npy", "note"])
@pytest.mark.parametrize("how", ["changed", "longer", "shorter", "emptied", "missing"])
def test_verify_finds_that_a_copy_is_none(pair: tuple[Path, Path], name: str, how: str) -> None:
    source, dest = pair
    data = members(dest)[name]
    changed = {"changed": data[:-1] + b"\1", "longer": data + b"\0", "shorter": data[:-1], "emptied": data[:0], "missing": None}
    if name == "kept.npy" and how == "shorter":
        # That would be no `.npy` file.
        changed[how] = saved(values("float32", (60, 69)))
    if name == "kept.npy" and how == "emptied":
        changed[how] = saved(values("float32", (0, 70)))
    rebuilt(dest, {name: changed[how]})
    comparison = verify(str(source), str(dest), Options(skip=("kept",)))
    problems = {array.name: array.problem for array in comparison.arrays if array.problem}
    assert list(problems) == [name.removesuffix(".npy")]
    if how == "changed":
        assert str(len(data) - 1) in (problems[name.removesuffix(".npy")] or "")
    if how == "missing":
        assert "missing" in (problems[name.removesuffix(".npy")] or "")
    assert "out.npz" in comparison.message()


@pytest.mark.parametrize(
    ("replaced", "says"),
    [(None, "missing"), (values("float64", (60, 70)), "float64"), (values("float32", (70, 60)), "shape"), (b"text", "")],
)
def test_verify_says_that_an_array_is_missing_or_of_another_kind(
    pair: tuple[Path, Path], replaced: Array | bytes | None, says: str, tmp_path: Path
) -> None:
    source, dest = pair
    rebuilt(dest, {"x.npy" if not isinstance(replaced, bytes) else "note": replaced})
    comparison = verify(str(source), str(dest), Options(skip=("kept",)))
    assert not comparison.equal
    assert says in comparison.message()


@pytest.mark.parametrize("workers", [1, 3])
def test_verify_counts_all_differences_of_an_array_of_many_regions(tmp_path: Path, workers: int) -> None:
    x = values("float32", (2_000_000,))
    source, dest = archive(tmp_path / "in.npz", {"x.npy": x}, zipfile.ZIP_DEFLATED, 1), tmp_path / "out.npz"
    run(source, dest)
    y = arrays(dest)["x"]
    y[[1_234_567, 600_001, 1_999_999]] += 1
    rebuilt(dest, {"x.npy": y})
    found = verify(str(source), str(dest), Options(workers=workers)).arrays[0]
    assert found.index == (600_001,)
    assert found.difference is not None
    assert found.difference.count == 3


def test_verify_compares_an_npy_with_an_npz_and_the_other_way_round(tmp_path: Path) -> None:
    x = values("float32")
    (tmp_path / "in.npy").write_bytes(saved(x))
    archive(tmp_path / "in.npz", {"x.npy": x}, zipfile.ZIP_DEFLATED)
    for source in ("in.npy", "in.npz"):
        for dest in ("out.npy", "out.npz"):
            run(tmp_path / source, tmp_path / dest, overwrite=True)
            assert equal(tmp_path / source, tmp_path / dest)
            assert not equal(tmp_path / source, tmp_path / dest, alpha=0.1)


def test_a_copied_member_that_is_damaged_in_dest_is_found_by_verify(pair: tuple[Path, Path]) -> None:
    source, dest = pair
    data = bytearray(dest.read_bytes())
    at = data.rindex(raw(dest, "kept.npy"))
    data[at + 200] ^= 1
    dest.write_bytes(data)
    try:
        comparison = verify(str(source), str(dest), Options(skip=("kept",)))
    except CorruptError as error:
        message = str(error)
    else:
        assert not comparison.equal
        message = comparison.message()
    assert "out.npz" in message
    assert "kept" in message


@pytest.mark.slow
def test_more_members_than_a_directory_without_zip64_counts(tmp_path: Path) -> None:
    small = saved(np.array([-1.0], "f4"))
    source = archive(tmp_path / "in.npz", {f"{i}.npy": small for i in range(66_000)})
    run(source, tmp_path / "out.npz", reports=("none",))
    with zipfile.ZipFile(tmp_path / "out.npz") as opened:
        assert len(opened.namelist()) == 66_000
        assert same(np.load(BytesIO(opened.read("65999.npy"))), np.array([-0.2], "f4"))
    assert unzip_agrees(tmp_path / "out.npz")


def _large(path: Path, size: int, method: int) -> None:
    """An archive of `size` float32: all 0, but for the first and the last, which are -5; and a small one behind."""
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as made:
        with made.open("large.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(cast("Any", member), {"descr": "<f4", "fortran_order": False, "shape": (size,)})
            edge, zeros = np.array([-5], "<f4").tobytes(), bytes(1 << 22)
            member.write(edge)
            for at in range(0, size - 2, 1 << 20):
                member.write(zeros[: 4 * min(1 << 20, size - 2 - at)])
            member.write(edge)
        made.writestr("small.npy", saved(np.array([-1, 1], "f4")))


def _check_large(path: Path, size: int) -> None:
    with zipfile.ZipFile(path) as opened:
        with opened.open("large.npy") as member:
            assert np.lib.format.read_magic(cast("Any", member)) == (1, 0)
            assert np.lib.format.read_array_header_1_0(cast("Any", member))[0] == (size,)
            y, at = np.frombuffer(member.read(1 << 22), "<f4"), 0
            assert y[0] == -1
            zero = y[1:]
            while y.size:
                at += y.size
                last, zero = y[-1], zero if at <= y.size else y
                y = np.frombuffer(member.read(1 << 22), "<f4")
                assert not (zero if y.size else zero[:-1]).any()
        assert (at, last) == (size, -1)
        assert same(np.load(BytesIO(opened.read("small.npy"))), np.array([-0.2, 1], "f4"))


@pytest.mark.slow
@pytest.mark.parametrize("compressor", ["stored", "deflate"])
def test_a_member_and_an_archive_over_4_gib(tmp_path: Path, compressor: str) -> None:
    size = (1 << 30) + 12_345
    source, dest = tmp_path / "in.npz", tmp_path / "out.npz"
    _large(source, size, zipfile.ZIP_DEFLATED)
    try:
        run(source, dest, compressor=compressor)
        assert (dest.stat().st_size > 1 << 32) == (compressor == "stored")
        _check_large(dest, size)
        assert unzip_agrees(dest)
        # What was just written is read as well, from beyond 4 GiB.
        assert equal(source, dest)
        run(dest, tmp_path / "again.npy", only=("small",), alpha=1)
        assert same(np.load(tmp_path / "again.npy"), np.array([-0.2, 1], "f4"))
    finally:
        source.unlink()
        dest.unlink(missing_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["deflated", "bzip2", "lzma"])
def test_a_member_of_3_gib_keeps_the_memory_bound(leakycli: Run, tmp_path: Path, method: str) -> None:
    size = 3 << 28 if method == "deflated" else 1 << 27
    _large(tmp_path / "in.npz", size, METHODS[method])
    done = leakycli("apply", "in.npz", "out.npz", "--memory", "128M", "--json", "--verify", timeout=600)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cost"]["memory_measured"] <= 128 << 20
    _check_large(tmp_path / "out.npz", size)
