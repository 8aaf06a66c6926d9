"""Opening arrays with zarr: which of its codec pipelines runs, and what its errors mean.

zarr's own default pipeline is slow. From Python 3.12 on zarr has a fused one; on 3.11 the package `zarrs` has another, which is used for
plain files and for what it is known to do right. Regions are shared among workers already, so that threads of their own are no gain.
Where there is nothing to code, in plain files (`is_plain`), none is used.
"""

from __future__ import annotations

import errno
import importlib.metadata
import importlib.util
import os
import re
import sys
import threading
import warnings
from dataclasses import dataclass
from typing import Any

import zarr
import zarr.core.codec_pipeline
import zarr.core.sync
from zarr.abc.store import Store

from leakycli.errors import CorruptError, LeakyError, StorageError, shown, storage_error
from leakycli.formats.zarr.metadata import ArrayDocument, codec_chain

#: zarr's configuration is the process's own: one at a time, and only around opening.
_OPENING = threading.Lock()

_ZARRS_CODECS = {"bytes", "blosc", "zstd", "gzip", "crc32c", "sharding_indexed"}
_ZARRS_COMPRESSORS = {None, "blosc", "zstd", "gzip"}
_ZARRS_TYPES = {"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}


#: Write units after which an array is opened anew. `zarrs` keeps some 160 bytes for each.
_MOST_MET = 1 << 13


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A codec pipeline: how it is called in reports, and zarr's configuration for it."""

    name: str
    config: dict[str, Any]


_DEFAULT = Pipeline("zarr", {})


def pipeline(document: ArrayDocument, files: bool) -> Pipeline:
    """The fastest pipeline that is right for an array. files: whether it is kept in plain files."""
    if hasattr(zarr.core.codec_pipeline, "FusedCodecPipeline"):
        path = "zarr.core.codec_pipeline.FusedCodecPipeline"
        return Pipeline("zarr fused", {"codec_pipeline.path": path})
    if files and _safe_for_zarrs(document) and importlib.util.find_spec("zarrs") is not None:
        return Pipeline(
            f"zarrs {importlib.metadata.version('zarrs')}",
            {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True, "threading.max_workers": 1},
        )
    return _DEFAULT


def is_plain(document: ArrayDocument, files: bool) -> bool:
    """Whether each write unit is a file of its elements as memory has them, in C order: nothing is coded."""
    if not files or document.dtype is None or document.dtype.kind not in "iuf" or document.order != "C":
        return False
    chain = codec_chain(document)
    if document.zarr_format == 2:
        return not chain
    return chain == [("bytes", {"endian": sys.byteorder})] or (document.dtype.itemsize == 1 and chain == [("bytes", {})])


def at_once(document: ArrayDocument, files: bool) -> bool:
    """Whether the pipeline for an array works on all chunks of a call side by side: zarr's own does, and the fused one for archives."""
    return not files or pipeline(document, files) is _DEFAULT


def _safe_for_zarrs(document: ArrayDocument) -> bool:
    """Whether `zarrs` gives what zarr gives: it fails for v2 in big-endian or Fortran order."""
    if document.canonical is not None:
        return False
    if document.dtype is None or document.dtype.name not in _ZARRS_TYPES or document.order != "C" or not document.dtype.isnative:
        return False
    fields = document.document
    if document.zarr_format == 2:
        compressor = fields.get("compressor")
        return (
            not fields.get("filters")
            and (compressor["id"] if compressor else None) in _ZARRS_COMPRESSORS
            and fields["fill_value"] is not None
        )
    return _safe_codecs(fields["codecs"])


def _safe_codecs(codecs: list[Any]) -> bool:
    for codec in codecs:
        name = codec if isinstance(codec, str) else codec["name"]
        configuration = {} if isinstance(codec, str) else codec.get("configuration") or {}
        if name not in _ZARRS_CODECS or configuration.get("endian", "little") != "little":
            return False
        if name == "sharding_indexed" and not _safe_codecs(configuration["codecs"]):
            return False
    return True


class OpenArray:
    """An array that is open, and opened anew now and then: `zarrs` keeps something for every write unit that it has met.

    pipeline: the name of its codec pipeline. See `open_array`.
    """

    def __init__(self, store: Store, key: str, document: ArrayDocument, files: bool, write_empty: bool | None = None) -> None:
        self._parts, self._met = (store, key, document, files, write_empty), 0
        self._array, self.pipeline = open_array(*self._parts)

    def at(self, units: int) -> zarr.Array[Any]:
        """The array, to read or write so many write units."""
        self._met += units
        if self._met > _MOST_MET and self.pipeline.startswith("zarrs"):
            self._met = units
            self._array, _ = open_array(*self._parts)
        return self._array


def open_array(
    store: Store, key: str, document: ArrayDocument, files: bool, write_empty: bool | None = None
) -> tuple[zarr.Array[Any], str]:
    """The array under `key`, and the name of the codec pipeline that it got.

    files: whether it is kept in plain files. write_empty: to be written to, and whether chunks of nothing but fill values are stored.
    Raises what zarr raises on a document that it does not take.
    """
    chosen = pipeline(document, files)
    try:
        return _opened(store, key, document, chosen, write_empty), chosen.name
    except Exception:
        if not chosen.name.startswith("zarrs"):
            raise
        # It knows fewer codecs and fewer of their options, and says so when the array is opened.
        return _opened(store, key, document, _DEFAULT, write_empty), _DEFAULT.name


def _opened(store: Store, key: str, document: ArrayDocument, chosen: Pipeline, write_empty: bool | None) -> zarr.Array[Any]:
    config = {"array.order": "C", "array.write_empty_chunks": bool(write_empty), **chosen.config}
    with _OPENING, warnings.catch_warnings():
        _start_loop()
        warnings.simplefilter("ignore")  # of parts of the format that are not final
        if chosen.name.startswith("zarrs"):
            importlib.import_module("zarrs")
        with zarr.config.set(config):
            mode: Any = "r" if write_empty is None else "r+"
            return zarr.open_array(store, path=key, mode=mode, zarr_format=2 if document.zarr_format == 2 else 3)


def _start_loop() -> None:
    """Start the thread that zarr works in. It would wait for ever for one that could not be started. Raises StorageError."""
    try:
        zarr.core.sync._get_loop()
    except RuntimeError as error:
        zarr.core.sync.loop[0] = None
        raise _no_thread(error) from None


def _no_thread(error: Exception) -> StorageError:
    return StorageError(
        f"cannot read or write Zarr: {shown(str(error))}: the process has reached a limit of threads or memory (ulimit -u, -v)"
    )


def explained(error: Exception, where: str, doing: str) -> LeakyError:
    """What went wrong with the chunk called `where`, out of the error of zarr or of a codec."""
    if isinstance(error, LeakyError):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        return storage_error(error, error.filename or where, doing)
    # zarrs tells the system's errors in words.
    if found := re.search(r"os error (\d+)", str(error)):
        code = int(found[1])
        return storage_error(OSError(code, os.strerror(code) if code in errno.errorcode else shown(str(error))), where, doing)
    if isinstance(error, RuntimeError) and "thread" in str(error):
        return _no_thread(error)
    if isinstance(error, MemoryError):
        return CorruptError(f"{where}: cannot be decoded: it needs more memory than there is")
    text = shown(" ".join(str(error).split()))[:200]
    return CorruptError(f"{where}: cannot be decoded: {text or type(error).__name__}")
