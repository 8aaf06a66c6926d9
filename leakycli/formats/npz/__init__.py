"""NumPy's `.npz` format: a zip archive with one `.npy` file for each array, read and written in streams."""

from __future__ import annotations

from leakycli.errors import CorruptError, shown
from leakycli.formats.base import DOCUMENTS, Layout, Member, Source, Target, check_unchunked
from leakycli.formats.npy import carries, result_array
from leakycli.formats.npz.source import NpzSource
from leakycli.formats.npz.target import Compressor, NpzTarget

__all__ = [
    "Compressor",
    "NpzSource",
    "NpzTarget",
    "carries",
    "check_layout",
    "compresses",
    "create_target",
    "open_source",
    "result_array",
]


def open_source(path: str) -> Source:
    """The archive at `path`. Raises CorruptError where it holds no `.npy`, but a Zarr in a folder of its own."""
    if (inner := _zarr_inside(path)) is not None:
        raise CorruptError(f"{shown(path)}: is no Zarr array or group itself, but {shown(inner)} is; give that path")
    return NpzSource(path)


def _zarr_inside(path: str) -> str | None:
    """The path of a Zarr array or group in the folders of an archive that holds no `.npy`; None where there is none."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as opened:
            names = opened.namelist()
    # A hostile directory trips zipfile in several ways; whoever opens it says so.
    except Exception:
        return None
    if any(name.endswith(".npy") for name in names):
        return None
    folders = {name.rpartition("/")[0] for name in names if name.rpartition("/")[2] in DOCUMENTS}
    return f"{path}/{min(folders, key=lambda folder: (folder.count('/'), folder))}" if folders else None


def create_target(path: str, packed: bool, layout: Layout, begun: bool, flush: bool) -> Target:
    """See `formats.create_target`."""
    return NpzTarget(path, Compressor.parse(layout.compressor), stream=1 if path == "-" else None, begun=begun, flush=flush)


def check_layout(layout: Layout) -> None:
    """Raise UsageError for what a `.npz` file does not have."""
    check_unchunked(".npz", layout)
    Compressor.parse(layout.compressor)


def compresses(layout: Layout, source: Source, member: Member) -> bool:
    """Whether `member` is compressed, and so written front to back."""
    return Compressor.of(Compressor.parse(layout.compressor), source, member).compresses
