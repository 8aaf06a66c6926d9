"""The `.npy` format: what is read, what is written, byte for byte, from files and through pipes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from leakycli import Options, apply, dry_run
from leakycli.cli import _run
from leakycli.errors import CorruptError
from tests.conftest import Run

Array = NDArray[Any]

TYPES = ("float16", "float32", "float64", "int32", "int64")


def defined(x: Array, alpha: float = 0.2, dtype: str | None = None) -> Array:
    """Leaky ReLU by its definition, whole arrays at a time, in native byte order; NaN must not meet an integer."""
    x = x.astype(x.dtype.newbyteorder("="))
    out = np.dtype(dtype or (x.dtype if x.dtype.kind == "f" else "float32"))
    with np.errstate(all="ignore"):
        if out.kind == "f":
            own = x.dtype if x.dtype.kind == "f" else np.dtype("float32")
            compute = max(own, out, key=lambda d: d.itemsize)
            slope = compute.type(alpha)
            # float16 takes its product in float32.
            wide = np.promote_types(compute, np.float32)
            z = x.astype(wide)
            return np.asarray(np.where(z > 0, z, wide.type(slope) * z).astype(out))
        limits = np.iinfo(out)
        z = np.rint(np.where(x > 0, x, np.float64(alpha) * x.astype(np.float64)))
        low, high = z < float(limits.min), z >= float(limits.max) + (out.itemsize < 8)
        y = np.where(low | high, 0, z).astype(out)
        y = np.where(low, limits.min, np.where(high, limits.max, y))
        if x.dtype.kind != "f":
            y = np.where(x > 0, np.minimum(x.astype(object), limits.max), y)
        return np.asarray(y.astype(out))


def same(found: Array, expected: Array) -> bool:
    """Whether two arrays have one type (byte order included), shape and bits; any NaN equals any other."""
    if (found.dtype, found.shape) != (expected.dtype, expected.shape):
        return False
    a, b = found.astype(found.dtype.newbyteorder("=")).ravel(), expected.astype(expected.dtype.newbyteorder("=")).ravel()
    bits = a.view(f"u{a.itemsize}") == b.view(f"u{b.itemsize}")
    return bool((bits | ((a != a) & (b != b))).all())


def values(dtype: str, shape: tuple[int, ...] = (7, 11, 13), special: bool = True) -> Array:
    """Numbers of both signs, and those at which something is easily wrong."""
    kind, size, random = np.dtype(dtype), int(np.prod(shape)), np.random.default_rng(7)
    if kind.kind == "f":
        x = (random.standard_normal(size) * 100).astype(kind)
        extremes = [0.0, -0.0, np.inf, -np.inf, 0.5, -2.5, -7.5, float(np.finfo(kind).max), float(np.finfo(kind).min), 2.0**15, -(2.0**15)]
    else:
        info = np.iinfo(kind)
        x = random.integers(max(info.min, -(10**6)), min(info.max, 10**6), size, dtype=kind, endpoint=True)
        extremes = [0, info.max, info.min, 1, min(info.max, 2**24 + 1)]
    if special:
        x[: len(extremes)] = np.array(extremes[:size], kind)
    return x.reshape(shape)


def saved(x: Array) -> bytes:
    """The file that `numpy.save` makes of `x`."""
    stream = BytesIO()
    np.save(stream, x)
    return stream.getvalue()


def npy(header: str, data: bytes, version: int = 1) -> bytes:
    """A `.npy` file with just this header, not padded."""
    text = header.encode("utf-8" if version == 3 else "latin-1")
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, "little") + text + data


def arrays_section(path: Path) -> Any:
    return json.loads(path.read_bytes())["arrays"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextlib.contextmanager
def feeding(fifo: Path, data: bytes) -> Iterator[None]:
    """Someone else writes `data` to `fifo`, whenever it is read."""

    def feed() -> None:
        with contextlib.suppress(BrokenPipeError), open(fifo, "wb", buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield
    finally:
        # Lets a writer go that no reader came for.
        os.close(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))
        thread.join()


@pytest.mark.parametrize("dtype_out", TYPES)
@pytest.mark.parametrize("dtype_in", TYPES)
def test_every_pair_of_types_agrees_with_the_definition_and_verifies(here: Path, dtype_in: str, dtype_out: str) -> None:
    x = values(dtype_in)
    np.save("in.npy", x)
    apply("in.npy", "out.npy", Options(alpha=0.3, dtype=dtype_out))
    assert same(np.load("out.npy"), defined(x, 0.3, dtype_out))
    assert _run(["verify", "in.npy", "out.npy", "--quiet"]) == 0


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_integers_become_float32_by_default(here: Path, dtype: str) -> None:
    x = values(dtype)
    np.save("in.npy", x)
    apply("in.npy", "out.npy")
    assert same(np.load("out.npy"), defined(x))


@pytest.mark.parametrize("dtype", TYPES)
def test_the_command_line_gives_what_the_library_gives(leakycli: Run, tmp_path: Path, dtype: str) -> None:
    x = values(dtype)
    np.save(tmp_path / "in.npy", x)
    done = leakycli("apply", "in.npy", "out.npy", "--alpha", "-0.3", "--dtype", dtype)
    assert (done.returncode, done.stderr) == (0, b"")
    apply(str(tmp_path / "in.npy"), str(tmp_path / "library.npy"), Options(alpha=-0.3, dtype=dtype))
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "library.npy").read_bytes()
    assert same(np.load(tmp_path / "out.npy"), defined(x, -0.3, dtype))


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("fortran", [False, True])
def test_each_version_of_the_format_is_read(here: Path, version: tuple[int, int], fortran: bool) -> None:
    x = np.asarray(values("float32", (5, 6)), order="F" if fortran else "C")
    with open("in.npy", "wb") as file, warnings.catch_warnings():
        # numpy warns that old programs cannot read the newer versions.
        warnings.simplefilter("ignore")
        np.lib.format.write_array(file, x, version)
    apply("in.npy", "out.npy")
    assert Path("out.npy").read_bytes() == saved(np.asarray(defined(x), order="F" if fortran else "C"))


SHAPES: list[tuple[int, ...]] = [(), (1,), (5,), (0,), (3, 0), (0, 3), (1, 1), (4, 6), (2, 3, 4), (1,) * 33]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", ">f8", ">i8", "|i1", ">u2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_output_is_byte_for_byte_what_numpy_saves(here: Path, shape: tuple[int, ...], dtype: str, order: Any) -> None:
    native = np.dtype(dtype).newbyteorder("=").name
    x = np.asarray(values(native, shape, special=False).astype(dtype), order=order)
    np.save("in.npy", x)
    apply("in.npy", "out.npy")
    y = defined(x)
    expected = y.astype(y.dtype if x.dtype.isnative else y.dtype.newbyteorder("S"), order=order)
    assert Path("out.npy").read_bytes() == saved(expected)


@pytest.mark.parametrize("dtype_out", TYPES)
@pytest.mark.parametrize("dtype_in", [">f2", ">f4", ">f8", ">i4", ">i8"])
def test_a_byte_swapped_array_keeps_its_byte_order_in_every_type(here: Path, dtype_in: str, dtype_out: str) -> None:
    x = values(np.dtype(dtype_in).newbyteorder("=").name).astype(dtype_in)
    np.save("in.npy", x)
    report = apply("in.npy", "out.npy", Options(dtype=dtype_out))
    found = np.load("out.npy")
    assert found.dtype.str == ">" + np.dtype(dtype_out).str[1:]
    assert same(found.astype(dtype_out), defined(x, 0.2, dtype_out))
    assert report.arrays[0].dtype_after == dtype_out
    assert _run(["verify", "in.npy", "out.npy", "-q"]) == 0


def test_a_byte_swapped_array_has_the_report_of_its_native_twin(here: Path) -> None:
    x = values("float32")
    np.save("native.npy", x)
    np.save("swapped.npy", x.astype(">f4"))
    assert apply("native.npy", "a.npy").arrays == apply("swapped.npy", "b.npy").arrays


def test_an_array_without_elements_has_a_report_without_numbers(here: Path) -> None:
    np.save("in.npy", np.empty((3, 0), np.float32))
    after = apply("in.npy", "out.npy").to_dict()["arrays"][0]["after"]
    assert (after["count"], after["min"], after["max"], after["mean"], after["std"]) == (0, None, None, None, None)


def test_bytes_after_the_array_are_ignored_with_a_warning(here: Path) -> None:
    x = values("float32")
    Path("in.npy").write_bytes(saved(x) + b"left over")
    apply("in.npy", "out.npy")
    assert Path("out.npy").read_bytes() == saved(defined(x))
    warned = json.loads(Path("out.npy.report.json").read_bytes())["warnings"]
    assert len(warned) == 1
    assert "in.npy" in warned[0]
    assert "9 bytes" in warned[0]


def test_a_warning_is_shown_on_the_terminal_as_well(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("in.npy").write_bytes(saved(values("float32")) + b"left over")
    assert _run(["apply", "in.npy", "out.npy"]) == 0
    assert "warning: in.npy: 9 bytes" in capsys.readouterr().out


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("pad", range(4))
def test_elements_may_begin_anywhere(here: Path, version: int, pad: int) -> None:
    x = values("float32")
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (7, 11, 13)}" + " " * pad + "\n"
    Path("in.npy").write_bytes(npy(header, x.tobytes(), version))
    apply("in.npy", "out.npy", Options(verify=True))
    assert Path("out.npy").read_bytes() == saved(defined(x))


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3L,)}\n",
        "{'shape': (3L, ), 'fortran_order': False, 'descr': '<f4'}",
        "{'fortran_order': False, 'shape': (3,), 'descr': '<f4', }          \n",
        '  {"descr": "<f4",\n "fortran_order": False, "shape": (3,)}',
        "{'descr': 'float32', 'fortran_order': False, 'shape': (3,)}\n",
        "{'descr': '<f4', 'fortran_order': True, 'shape': (3,)}\n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}" + " " * 9000 + "\n",
    ],
    ids=["python 2", "python 2, other order", "trailing comma", "spread out", "dtype by name", "1-D Fortran", "much padding"],
)
def test_headers_that_others_write_are_read(here: Path, header: str) -> None:
    x = np.array([-1, 0, 1], np.float32)
    Path("in.npy").write_bytes(npy(header, x.tobytes()))
    apply("in.npy", "out.npy")
    assert same(np.load("out.npy"), defined(x))


def test_sixty_four_dimensions_are_read(here: Path) -> None:
    np.save("in.npy", np.full((1,) * 64, -1, np.float32))
    apply("in.npy", "out.npy")
    assert np.load("out.npy").shape == (1,) * 64


def test_data_goes_through_pipes_and_the_report_to_standard_error(leakycli: Run) -> None:
    x = values("float32")
    done = leakycli("apply", "-", "-", stdin=saved(x))
    assert done.returncode == 0
    assert done.stdout == saved(defined(x))
    assert b"alpha 0.2" in done.stderr


def test_a_large_array_goes_through_pipes_with_several_workers(leakycli: Run) -> None:
    x = values("float16", (3, 1_500_000))
    done = leakycli("apply", "-", "-", "--quiet", "--workers", "3", stdin=saved(x))
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == saved(defined(x))


@pytest.mark.parametrize(
    "x", [np.float64(-3), np.empty((0,), np.float32), np.asarray(values("float32", (5, 4)), order="F")], ids=["0-d", "empty", "F"]
)
def test_odd_arrays_go_through_pipes(leakycli: Run, x: Array) -> None:
    done = leakycli("apply", "-", "-", "--quiet", stdin=saved(x))
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == saved(np.asarray(defined(np.asarray(x)), order="F" if x.ndim == 2 else "C"))


def test_standard_input_to_a_file_and_a_file_to_standard_output(leakycli: Run, tmp_path: Path) -> None:
    x = values("float32")
    assert leakycli("apply", "-", "out.npy", stdin=saved(x)).returncode == 0
    assert (tmp_path / "out.npy").read_bytes() == saved(defined(x))
    np.save(tmp_path / "in.npy", x)
    done = leakycli("apply", "in.npy", "-", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, saved(defined(x)), b"")
    assert sorted(os.listdir(tmp_path)) == ["in.npy", "out.npy", "out.npy.report.json"]


def test_two_runs_in_a_pipeline(tmp_path: Path) -> None:
    x = values("float32", (3, 700_000))
    np.save(tmp_path / "in.npy", x)
    line = '"$0" -m leakycli apply in.npy - -q --alpha 0.5 | "$0" -m leakycli apply - out.npy -q --alpha 0.5'
    subprocess.run(["sh", "-c", line, sys.executable], cwd=tmp_path, check=True, timeout=60)
    assert same(np.load(tmp_path / "out.npy"), defined(defined(x, 0.5), 0.5))


def test_a_fifo_is_read_as_a_stream(here: Path) -> None:
    os.mkfifo("in.npy")
    x = values("float32", (3, 900_000))
    with feeding(here / "in.npy", saved(x)):
        report = apply("in.npy", "out.npy")
    assert Path("out.npy").read_bytes() == saved(defined(x))
    assert report.source.identity is None


@pytest.mark.parametrize("left", [0, 4, 9, 40, 128, 4_000])
def test_a_stream_that_ends_early_is_corrupt(here: Path, left: int) -> None:
    os.mkfifo("in.npy")
    with feeding(here / "in.npy", saved(values("float32"))[:left]), pytest.raises(CorruptError, match=r"^in\.npy: ") as caught:
        apply("in.npy", "out.npy")
    assert caught.value.exit_code == 3
    assert os.listdir() == ["in.npy"]


@pytest.mark.parametrize(
    ("left", "dest"), [(0, "out.npy"), (4, "-"), (9, "out.npy"), (40, "-"), (128, "out.npy"), (4_000, "out.npy"), (4_000, "-")]
)
def test_standard_input_that_ends_early_has_exit_code_3(leakycli: Run, tmp_path: Path, left: int, dest: str) -> None:
    done = leakycli("apply", "-", dest, stdin=saved(values("float32"))[:left])
    assert done.returncode == 3
    assert done.stderr.startswith(b"leakycli: standard input: ")
    assert done.stderr.count(b"\n") == 1
    assert os.listdir(tmp_path) == []


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5 million float32 elements with every kind of value: three regions."""
    folder = tmp_path_factory.mktemp("large")
    x = values("float32", (5_000_000,))
    x[1_234_567::777_777] = np.nan
    np.save(folder / "in.npy", x.reshape(1000, 5000))
    return folder


def test_an_array_of_several_regions_is_whole(large: Path) -> None:
    apply(str(large / "in.npy"), str(large / "whole.npy"), Options(workers=2, reports=("none",)))
    assert same(np.load(large / "whole.npy"), defined(np.load(large / "in.npy")))


@pytest.mark.parametrize("dtype", [None, "float16", "float64"])
def test_the_report_is_the_same_for_any_number_of_workers_and_any_memory(large: Path, dtype: str | None) -> None:
    source, dest = str(large / "in.npy"), str(large / "out.npy")
    reports = []
    for workers, slack in ((1, None), (4, None), (4, 1 << 20), (3, 1 << 30)):
        # The process itself grows from run to run, and counts.
        least = dry_run(source, dest, Options(dtype=dtype, workers=1, overwrite=True)).memory.projected
        options = Options(dtype=dtype, workers=workers, memory=None if slack is None else least + slack, overwrite=True)
        reports.append(apply(source, dest, options).to_dict())
    assert [report["cost"]["workers"] for report in reports] == [1, 3, 1, 3]
    for report in reports:
        del report["cost"]
        assert report == reports[0]


def test_a_stream_has_the_arrays_section_of_the_file(large: Path) -> None:
    fifo = large / "fifo.npy"
    os.mkfifo(fifo)
    with feeding(fifo, (large / "in.npy").read_bytes()):
        streamed = apply(str(fifo), str(large / "streamed.npy"))
    assert streamed.arrays == apply(str(large / "in.npy"), str(large / "direct.npy")).arrays


@pytest.mark.parametrize("workers", ["1", "4"])
def test_the_process_stays_inside_its_memory_bound(leakycli: Run, large: Path, tmp_path: Path, workers: str) -> None:
    done = leakycli("apply", large / "in.npy", "out.npy", "--memory", "96M", "--workers", workers, "--json")
    assert done.returncode == 0, done.stderr
    cost = json.loads(done.stdout)["cost"]
    assert cost["memory_bound"] == 96 << 20
    assert cost["memory_measured"] <= cost["memory_bound"]
    assert cost["memory_projected"] <= cost["memory_bound"]
    if sys.platform == "linux":
        assert cost["memory_measured"] <= cost["memory_projected"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_array_of_3_gib_stays_within_128_mib(leakycli: Run, tmp_path: Path, dtype: str) -> None:
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (3 << 28,)})
    with open(tmp_path / "in.npy", "wb") as file:
        file.write(header.getvalue())
        file.truncate(len(header.getvalue()) + (3 << 30))
    done = leakycli("apply", "in.npy", "out.npy", "--memory", "128M", "--dtype", dtype, "--json", timeout=600)
    assert (done.returncode, done.stderr) == (0, b"")
    cost = json.loads(done.stdout)["cost"]
    assert cost["memory_measured"] <= cost["memory_projected"] <= 128 << 20
    found = np.load(tmp_path / "out.npy", mmap_mode="r")
    assert found.shape == (3 << 28,)
    assert found.dtype == dtype
    assert not found[:: 1 << 16].any()
