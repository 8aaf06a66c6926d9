"""Files of other kinds, told by how they begin, each with the way to get an array out of it.

Nothing is decoded here. Magic numbers are those of the formats' own specifications, or of file(1)'s list where there is none.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from leakycli.errors import shown

#: Bytes that tell the kind: those of a tar archive begin at 257, of a NIfTI image at 344, of HDF5 behind MATLAB's header at 512.
ENOUGH = 520


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of file. offset, magic: the bytes that tell it. name: what to call it, as in "is ...". way: how to get an array out of it.

    In `way`, PATH is the file's name as a shell takes it.
    """

    magic: bytes
    name: str
    way: str
    offset: int = 0


_SAVE = "numpy.save writes it as .npy"


def _compressed(magic: bytes, name: str, program: str) -> Kind:
    return Kind(magic, f"compressed with {name}", f"decompress it on the way: {program} PATH | leakycli apply - DEST")


_KINDS = (
    _compressed(b"\x1f\x8b", "gzip", "zcat"),
    _compressed(b"BZh", "bzip2", "bzcat"),
    _compressed(b"\xfd7zXZ\0", "xz", "xzcat"),
    _compressed(b"]\0\0", "lzma", "xzcat"),
    _compressed(b"\x28\xb5\x2f\xfd", "zstd", "zstdcat"),
    _compressed(b"\x04\x22\x4d\x18", "lz4", "lz4cat"),
    _compressed(b"\x1f\x9d", "compress", "zcat"),
    Kind(b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first: 7z x PATH"),
    Kind(b"Rar!\x1a\7", "a RAR archive", "unpack it first: unrar x PATH"),
    Kind(b"ustar", "a tar archive", "unpack it first: tar xf PATH", 257),
    Kind(b"MATLAB 7.3", "a MATLAB file of version 7.3 (HDF5)", f"read a variable with h5py.File; {_SAVE}"),
    Kind(b"MATLAB 5.0", "a MATLAB file", f"read a variable with scipy.io.loadmat; {_SAVE}"),
    Kind(b"\x89HDF\r\n\x1a\n", "an HDF5 file (or netCDF4)", f"read a data set with h5py.File; {_SAVE}"),
    Kind(b"CDF\1", "a netCDF file", f"read a variable with xarray.open_dataset; {_SAVE}, or Dataset.to_zarr the whole"),
    Kind(b"CDF\2", "a netCDF file", f"read a variable with xarray.open_dataset; {_SAVE}, or Dataset.to_zarr the whole"),
    Kind(b"CDF\5", "a netCDF file", f"read a variable with xarray.open_dataset; {_SAVE}, or Dataset.to_zarr the whole"),
    Kind(b"n+1\0", "a NIfTI image", f"read it with nibabel.load(...).get_fdata(); {_SAVE}", 344),
    Kind(b"ni1\0", "a NIfTI header", f"read it with nibabel.load(...).get_fdata(); {_SAVE}", 344),
    Kind(b"DICM", "a DICOM image", f"read it with pydicom.dcmread(...).pixel_array; {_SAVE}", 128),
    Kind(b"SIMPLE  =", "a FITS file", f"read it with astropy.io.fits.getdata; {_SAVE}"),
    Kind(b"PAR1", "a Parquet file", f"read a column with pandas.read_parquet; {_SAVE}"),
    Kind(b"ARROW1", "an Arrow file", f"read a column with pyarrow.feather.read_table; {_SAVE}"),
    Kind(b"GGUF", "a GGUF file", f"read a tensor with gguf.GGUFReader; {_SAVE}"),
    Kind(b"{", "JSON text", f"read it with json.load and numpy.array; {_SAVE}"),
    Kind(b"[", "JSON text", f"read it with json.load and numpy.array; {_SAVE}"),
    Kind(b"\x89PNG\r\n", "a PNG image", f"read it with imageio.imread; {_SAVE}"),
    Kind(b"\xff\xd8\xff", "a JPEG image", f"read it with imageio.imread; {_SAVE}"),
    Kind(b"GIF8", "a GIF image", f"read it with imageio.imread; {_SAVE}"),
    Kind(b"II*\0", "a TIFF image", f"read it with tifffile.imread; {_SAVE}"),
    Kind(b"MM\0*", "a TIFF image", f"read it with tifffile.imread; {_SAVE}"),
    Kind(b"%PDF", "a PDF document", "give the file that holds the array"),
    Kind(b"\x7fELF", "a program", "give the file that holds the array"),
    Kind(b"\0\5\x16\7", "what macOS keeps beside a file (AppleDouble)", "give the file without the '._' before its name"),
    Kind(b"SQLite format 3\0", "an SQLite database", f"read it with pandas.read_sql; {_SAVE}"),
)

_ZIP = Kind(b"PK\3\4", "a zip archive (a .npz is one)", "it cannot be read from a pipe: save it to a file, and give that")
_LFS = Kind(b"version https://git-lfs", "a Git LFS pointer, which stands for a file that is not there", "get the file with: git lfs pull")
_ANNEX = Kind(b"", "a git-annex pointer, which stands for a file that is not there", "get the file with: git annex get PATH")
_HTML = Kind(b"", "an HTML page, as a download that fails leaves", "download the file itself; the page may say why it was not given")
_XML = Kind(b"<", "an XML document, as an object store sends instead of a file", "read what it says, and download the file itself")
_PICKLE = Kind(
    b"",
    "a Python pickle, which is not read as it can run any code",
    f"if you trust it, load it with numpy.load(..., allow_pickle=True) or pickle.load; {_SAVE}",
)
_SAFETENSORS = Kind(b"", "a safetensors file", f"read a tensor with safetensors.numpy.load_file; {_SAVE}")
_TEXT = Kind(b"", "text", f"if it is numbers, read it with numpy.loadtxt (delimiter=',' for CSV); {_SAVE}")

_SAFETENSORS_START = re.compile(rb"[\s\S]{4}\0{4}\{[\s\"}]")
_PICKLE_START = re.compile(rb"\x80[\2-\5]")


def kind(start: bytes) -> Kind | None:
    """The kind of a file that begins with `start`, its first `ENOUGH` bytes or all there are; None for one that is not known."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start[:4] in (b"PK\3\4", b"PK\5\6"):
        return _ZIP
    if start.startswith(_LFS.magic):
        return _LFS
    if b"/annex/objects/" in start.split(b"\n", 1)[0]:
        return _ANNEX
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")) or (text.startswith(b"<") and b"<html" in text):
        return _HTML
    if text.startswith((b"<?xml", b"<error")):
        return _XML
    if _SAFETENSORS_START.match(start):
        return _SAFETENSORS
    if _PICKLE_START.match(start):
        return _PICKLE
    printable = _is_text(start)
    for known in _KINDS:
        at = text if known.magic in (b"{", b"[") else start
        if at[known.offset :].startswith(known.magic) and (printable or known.magic not in (b"{", b"[")):
            return known
    return _TEXT if start.strip() and printable else None


def _is_text(start: bytes) -> bool:
    # A character may be cut off at the end.
    text = start.decode("utf-8", "ignore")
    return len(start) - len(text.encode()) < 4 and all(c.isprintable() or c in "\t\r\n\f" for c in text)


def described(start: bytes, path: str) -> str:
    """How to call a file that begins with `start`, and what to do with it, as the rest of a message: "is ...; ...".

    path: where it is; "-" for standard input, before which another program can be put; "" for a member of an archive.
    """
    found = kind(start)
    if found is None:
        return f"is not a .npy file: it begins with {start[:6]!r}; find out what wrote it, and save its array with numpy.save"
    if not path:
        return f"is {found.name}, and no .npy file"
    way = found.way.replace(" PATH", "") if path == "-" else found.way.replace("PATH", shown(shlex.quote(path)))
    return f"is {found.name}, and no .npy file; {way}"
