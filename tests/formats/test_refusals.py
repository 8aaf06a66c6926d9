"""Refusals, judged: for each what it is, the exit code, and the words that name the way out. Every refusal has some.

`test_each_refusal_names_a_way_out` is the table; a refusal that is added belongs into it.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leakycli import leaky_relu
from leakycli.errors import LeakyError
from tests.cli.test_cli import Command, here, run
from tests.formats.test_bad_input import check_line

__all__ = ["here", "run"]

X = np.array([-1, 2], np.float32)


def saved(array: Any, **more: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **more)
    return buffer.getvalue()


def header(text: str, version: int = 1) -> bytes:
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(text)) + text.encode() + bytes(64)


def described(descr: str, shape: str = "(3,)") -> bytes:
    return header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n")


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in files.items():
            file.writestr(name, data)
    return buffer.getvalue()


def npz(**arrays: Any) -> bytes:
    return zipped(**{f"{name}.npy": saved(array) for name, array in arrays.items()})


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        file.addfile(tarfile.TarInfo("x.npy"))
    return buffer.getvalue()


def method(number: int) -> bytes:
    """An archive whose member says that it has that compression method."""
    data = bytearray(npz(x=X))
    data[8:10] = struct.pack("<H", number)
    at = data.index(b"PK\1\2")
    data[at + 10 : at + 12] = struct.pack("<H", number)
    return bytes(data)


# The same bytes in every process: they are in the names of tests.
GZIP, ZIP = gzip.compress(saved(X), mtime=0), npz(a=X, b=X)
NIFTI = struct.pack("<i", 348) + bytes(340) + b"n+1\0" + bytes(100)

#: Files of other kinds: bytes, how the kind is called, and the way out.
KINDS: dict[str, tuple[bytes, str, str]] = {
    "gzip": (GZIP, "gzip", "zcat in.npy | leakycli apply - DEST"),
    "bzip2": (b"BZh91AY&SY" + bytes(30), "bzip2", "bzcat in.npy | leakycli apply - DEST"),
    "xz": (lzma.compress(saved(X)), "xz", "xzcat in.npy | leakycli apply - DEST"),
    "zstd": (b"\x28\xb5\x2f\xfd\4\0", "zstd", "zstdcat in.npy | leakycli apply - DEST"),
    "lz4": (b"\x04\x22\x4d\x18d@", "lz4", "lz4cat in.npy | leakycli apply - DEST"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4", "7z archive", "7z x in.npy"),
    "tar": (tar(), "tar archive", "tar xf in.npy"),
    "HTML": (b"<!DOCTYPE html>\n<html><head><title>Sign in", "HTML page", "download the file itself"),
    "HTML after spaces": (b"\n\n  <HTML lang=de><body>404", "HTML page", "download the file itself"),
    "XHTML": (b"<?xml version='1.0'?><html xmlns=''>", "HTML page", "download the file itself"),
    "an error of S3": (b"<?xml version='1.0'?><Error><Code>NoSuchKey", "XML", "download the file itself"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer", "git lfs pull"),
    "git-annex": (b"/annex/objects/SHA256E-s1--0.npy\n", "git-annex pointer", "git annex get"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(40), "HDF5", "h5py"),
    "MATLAB 5": (b"MATLAB 5.0 MAT-file, Platform: GLNXA64" + bytes(90), "MATLAB", "scipy.io.loadmat"),
    "MATLAB 7.3": (b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n", "MATLAB", "h5py"),
    "netCDF": (b"CDF\1\0\0\0\0", "netCDF", "xarray"),
    "NIfTI": (NIFTI, "NIfTI", "nibabel"),
    "FITS": (b"SIMPLE  =                    T", "FITS", "astropy"),
    "DICOM": (bytes(128) + b"DICM", "DICOM", "pydicom"),
    "pickle": (pickle.dumps([1.0, 2.0]), "pickle", "numpy.save"),
    "pickle of protocol 2": (pickle.dumps({"a": 1}, 2), "pickle", "numpy.save"),
    "safetensors": (struct.pack("<Q", 20) + b'{"x":{"dtype":"F32"}', "safetensors", "safetensors.numpy"),
    "Parquet": (b"PAR1\x15\4", "Parquet", "pandas"),
    "JSON": (b"[[1.0, 2.0]]", "JSON", "json.load"),
    "CSV": (b"1.0,2.0\n3.0,4.0\n", "text", "numpy.loadtxt"),
    "text in UTF-8": ("größe 1.0\n".encode(), "text", "numpy.loadtxt"),
    "PNG": (b"\x89PNG\r\n\x1a\n", "PNG", "imageio"),
    "TIFF": (b"II*\0\x08\0\0\0", "TIFF", "tifffile"),
    "AppleDouble": (b"\0\5\26\7\0\2\0\0" + bytes(90), "macOS", "without the '._'"),
    "GGUF": (b"GGUF\3\0\0\0", "GGUF", "gguf"),
    "nobody knows": (b"\x01\x02\x03\x04" * 9, "begins with", "numpy.save"),
    "empty": (b"", "empty", "see whether its program failed"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_kind_is_called_that(run: Command, kind: str) -> None:
    data, called, way = KINDS[kind]
    for name in ("in.npy", "in.npz"):
        Path(name).write_bytes(data)
        for command in (["apply", name, "out.npy"], ["info", name]):
            code, out, err = run(*command)
            assert (code, out) == (3, "")
            check_line(err, name)
            assert called in err
            assert way.replace("in.npy", name) in err
            assert "--skip" not in err
    assert not Path("out.npy").exists()


@pytest.mark.parametrize(
    ("data", "called", "way"),
    [
        (GZIP, "gzip", "zcat | leakycli apply - DEST"),
        (ZIP, "zip archive", "save it to a file"),
        (b"<html>", "HTML page", "download"),
        (KINDS["Git LFS"][0], "Git LFS pointer", "git lfs pull"),
        (KINDS["HDF5"][0], "HDF5", "h5py"),
        (pickle.dumps([1]), "pickle", "numpy.save"),
        (b"", "empty", "program failed"),
        (saved(X)[:-1], "ended after 7 of 8 bytes", "what writes it failed"),
    ],
)
def test_what_comes_on_standard_input_is_called_that(leakycli: Callable[..., Any], data: bytes, called: str, way: str) -> None:
    done = leakycli("apply", "-", "out.npy", stdin=data)
    assert done.returncode == 3
    text = done.stderr.decode()
    check_line(text, "standard input")
    assert called in text
    assert way in text
    assert "PATH" not in text


#: Everything else: files, the command line, the exit code, and the words of the way out.
REFUSALS: dict[str, tuple[dict[str, bytes], str, int, str]] = {
    "cut off": ({"in.npy": saved(X)[:-1]}, "in.npy out.npy", 3, "get the file again"),
    "cut off in its header": ({"in.npy": saved(X)[:40]}, "in.npy out.npy", 3, "get the file again"),
    "cut off in its magic": ({"in.npy": b"\x93NUM"}, "in.npy out.npy", 3, "get the file again"),
    "another version": ({"in.npy": b"\x93NUMPY\7\0" + bytes(99)}, "in.npy out.npy", 3, "save it again"),
    "a number of numpy in the header": ({"in.npy": described("'<f4'", "(np.int64(3),)")}, "in.npy out.npy", 3, "np.int64(3)"),
    "a header of JSON": ({"in.npy": header('{"descr": "<f4", "fortran_order": false, "shape": [3]}')}, "in.npy out.npy", 3, "false"),
    "no shape": ({"in.npy": described("'<f4'", "[3]")}, "in.npy out.npy", 3, "save the array again"),
    "no dtype": ({"in.npy": described("'<q9'")}, "in.npy out.npy", 3, "save the array again"),
    "65 dimensions": ({"in.npy": described("'<f4'", repr((1,) * 65))}, "in.npy out.npy", 3, "reshape"),
    "strings": ({"in.npy": saved(np.array(["a"]))}, "in.npy out.npy", 3, "astype('float32')"),
    "byte strings": ({"in.npy": saved(np.array([b"a"]))}, "in.npy out.npy", 3, "astype('float32')"),
    "booleans": ({"in.npy": saved(np.array([True]))}, "in.npy out.npy", 3, "astype('uint8')"),
    "complex": ({"in.npy": saved(X.astype("c8"))}, "in.npy out.npy", 3, "real and imaginary"),
    "dates": ({"in.npy": saved(np.array(["2020"], "M8[D]"))}, "in.npy out.npy", 3, "astype('int64')"),
    "times": ({"in.npy": saved(np.array([1], "m8[s]"))}, "in.npy out.npy", 3, "astype('int64')"),
    "objects": (
        {"in.npy": saved(np.array([1, None], object), allow_pickle=True)},
        "in.npy out.npy",
        3,
        "allow_pickle=True).astype('float32')",
    ),
    "structured": ({"in.npy": saved(np.zeros(2, "i4,f4"))}, "in.npy out.npy", 3, "fields as arrays"),
    "bfloat16": ({"in.npy": described("'<V2'")}, "in.npy out.npy", 3, ".view(ml_dtypes.bfloat16).astype('float32')"),
    "float8_e4m3fn": ({"in.npy": described("'<V1'")}, "in.npy out.npy", 3, ".view(ml_dtypes.float8_e4m3fn)"),
    "float8_e5m2": ({"in.npy": described("'<f1'")}, "in.npy out.npy", 3, ".view(ml_dtypes.float8_e5m2).astype('float32').reshape(3,)"),
    "complex32": ({"in.npy": described("'<W4'")}, "in.npy out.npy", 3, ".view(ml_dtypes.complex32).astype('complex64')"),
    "a void type": ({"in.npy": described("'|V7'")}, "in.npy out.npy", 3, "make an array of numbers"),
    "strings in an archive": ({"in.npz": npz(x=X, s=np.array(["a"]))}, "in.npz out.npz", 3, "--skip s"),
    "booleans in an archive": ({"in.npz": npz(x=X, mask=np.array([True]))}, "in.npz out.npz", 3, "--skip mask"),
    "a member of another kind": ({"in.npz": zipped(**{"x.npy": saved(X), "h.npy": b"<html>"})}, "in.npz out.npz", 3, "--skip h"),
    "strings from npz to Zarr": ({"in.npz": npz(x=X, s=np.array(["a"]))}, "in.npz out.zarr --skip s", 3, "DEST a name in .npz"),
    "strings from npz to Zarr, called that": ({"in.npz": npz(x=X, s=np.array(["a"]))}, "in.npz out.zarr --skip s", 3, "from npz to zarr"),
    "a name that Zarr has no place for": ({"in.npz": zipped(**{"../x.npy": saved(X)})}, "in.npz out.zarr", 3, "DEST a name in .npz"),
    "Deflate64": ({"in.npz": method(9)}, "in.npz out.npz", 3, "(Deflate64) is not read; unpack the archive"),
    "PPMd": ({"in.npz": method(98)}, "in.npz out.npz", 3, "(PPMd) is not read; unpack the archive"),
    "an archive that is cut off": ({"in.npz": ZIP[:-30]}, "in.npz out.npz", 3, "get the file again"),
    "an archive of text": ({"in.npz": zipped(**{"a.txt": b"a"})}, "in.npz out.npz", 3, "a.txt; unpack it"),
    "an archive of PyTorch": ({"in.npz": zipped(**{"m/data.pkl": b"", "m/data/0": bytes(8)})}, "in.npz out.npz", 3, "torch.load"),
    "a spreadsheet": ({"in.npz": zipped(**{"[Content_Types].xml": b"<xml>"})}, "in.npz out.npz", 3, "CSV"),
    "several arrays to a pipe": ({"in.npz": ZIP}, "in.npz -", 2, "--to npz"),
    "several arrays to an npy": ({"in.npz": ZIP}, "in.npz out.npy", 2, "a name in .npz"),
    "alpha too large": ({"in.npy": saved(X.astype("f2"))}, "in.npy out.npy --alpha 1e5", 2, "smaller alpha"),
    "NaN to an integer": ({"in.npy": saved(np.array([np.nan]))}, "in.npy out.npy --dtype int32", 4, "--nan N"),
    "a loss": ({"in.npy": saved(np.array([1e30]))}, "in.npy out.npy --dtype float16 --strict", 4, "wider --dtype"),
    "no space for a suffix": ({"in.npy": saved(X)}, "in.npy out.txt", 2, "must end in .npy"),
    "DEST is there": ({"in.npy": saved(X), "out.npy": b"x"}, "in.npy out.npy", 2, "--overwrite"),
    "DEST is the source": ({"in.npy": saved(X)}, "in.npy in.npy --overwrite", 2, "never written to"),
    "DEST is missing from the line": ({"in.npy": saved(X)}, "in.npy", 2, "DEST is missing"),
    "the folder of DEST is missing": ({"in.npy": saved(X)}, "in.npy no/out.npy", 1, "create it first"),
    "the source is missing": ({}, "no.npy out.npy", 1, "No such file"),
    "the list is missing": ({}, "--files-from no.txt out/", 1, "No such file"),
    "memory too small": ({"in.npy": saved(X)}, "in.npy out.npy --memory 1K", 2, "this run needs"),
    "chunks for an npy": ({"in.npy": saved(X)}, "in.npy out.npy --chunks 1", 2, "for Zarr"),
    "a suffix against --to": ({"in.npy": saved(X)}, "in.npy out.npy --to npz", 2, "make them agree"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_each_refusal_names_a_way_out(run: Command, name: str) -> None:
    files, arguments, wanted, way = REFUSALS[name]
    for path, data in files.items():
        Path(path).write_bytes(data)
    code, out, err = run("apply", *arguments.split())
    assert (code, out) == (wanted, "")
    check_line(err, way)
    assert "a object" not in err
    assert ".partial" not in err


def test_messages_recommend_no_option_that_the_command_or_function_lacks(run: Command) -> None:
    Path("folder").mkdir()
    Path("in.npz").write_bytes(npz(x=X, s=np.array(["a"])))
    for command, path in (("info", "folder"), ("info", "in.npz"), ("info", "no.npy")):
        _, out, err = run(command, path)
        for option in ("--recursive", "--skip", "--only"):
            assert option not in out + err
    code, _, err = run("verify", "folder", "in.npy")
    assert code == 1
    assert "--recursive" not in err
    for x, more in ((np.array(["a"]), {}), (np.array([None]), {}), (np.array([np.nan]), {"dtype": "int32"}), (X, {"alpha": 1e300})):
        with pytest.raises(LeakyError) as raised:
            leaky_relu(x, **more)
        assert "--" not in str(raised.value)
        assert "nan=" not in str(raised.value)
        assert "pickle" not in str(raised.value)


def test_info_says_damaged_of_what_is_damaged_and_repeats_no_names(run: Command) -> None:
    Path("in.npz").write_bytes(zipped(**{"x.npy": saved(X), "s.npy": saved(np.array(["a"])), "cut.npy": saved(X)[:-1]}))
    out = run("info", "in.npz")[1]
    assert "s: not supported: an array of strings" in out
    assert "cut: damaged: is cut off" in out
    assert out.count("in.npz") == 1


def test_an_error_inside_a_batch_names_its_file(run: Command) -> None:
    for name in ("a.npy", "b.npy"):
        np.save(name, X)
    Path("out").mkdir()
    code, out, err = run("apply", "a.npy", "b.npy", "out", "--chunks", "2", "--json")
    assert code == 6
    assert [line.split(": ")[1] for line in err.splitlines()[:2]] == ["a.npy", "b.npy"]
    assert [json.loads(line)["exit_code"] for line in out.splitlines()[:2]] == [2, 2]
