"""Read and write arrays with zarr's own pipeline, for codecs that codecs.py does not know: lossy filters, extensions, two compressors.

zarr reads a missing chunk as fill value, and blosc reads past the end of a truncated chunk. So everything that zarr reads is checked first.
The decoded size of a hostile chunk is not bounded on this path.
"""

from __future__ import annotations

import json
import os
import threading
import warnings
from typing import Any, Protocol

import numpy as np
import zarr
import zarr.core.codec_pipeline
import zarr.core.sync
from zarr.abc.store import ByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, default_buffer_prototype

from leakycli.errors import CorruptError, LeakyError, SourceChangedError, StorageError, UnsupportedError, shown, storage_error
from leakycli.formats.base import Array, ArrayInfo
from leakycli.formats.zarr import installed  # noqa: F401  (registers a codec that zarr lacks)
from leakycli.formats.zarr.chunks import Written
from leakycli.formats.zarr.codecs import ShardIndex, UnknownCodec
from leakycli.formats.zarr.filters import Bytes, Damage, as_bytes, check_blosc
from leakycli.formats.zarr.metadata import ArrayDocument, Codecs, codec_chain
from leakycli.formats.zarr.store import Overlaid, Watched
from leakycli.regions import Box, Grid, Presence

#: zarr's configuration is the process's own: one at a time, and only around opening.
_OPENING = threading.Lock()

#: From Python 3.12 on zarr has a faster pipeline.
_FUSED = "zarr.core.codec_pipeline.FusedCodecPipeline"


class _Tree(Protocol):
    """Where an array is kept."""

    def where(self, key: str) -> str: ...

    def store(self) -> Store: ...


class _Place(_Tree, Written, Protocol):
    """Where an array is written."""


class _Looked(Watched):
    """Checks all that zarr reads. Without this, newer versions of zarr read files past `Watched`."""

    @property
    def _supports_sync_io(self) -> bool:
        return False

    def _with_store(self, store: Store) -> _Looked:
        return type(self)(store, self._look)


class _Opened:
    """The common part of reader and writer."""

    sequential = False
    decodes = False
    cumulative = False

    def __init__(self, tree: _Tree, key: str, info: ArrayInfo, document: ArrayDocument, reason: str) -> None:
        self.info, self.pipeline = info, f"zarr ({reason})"
        self._tree, self._key, self._document, self._reason = tree, key, document, reason
        self._grid = Grid(document.shape, document.unit)

    def _open(self, store: Store, write_empty: bool | None) -> zarr.Array[Any]:
        """Open the array.

        write_empty: whether to write chunks that hold only the fill value; None to open it for reading.
        """
        config: dict[str, Any] = {"array.order": "C", "array.write_empty_chunks": bool(write_empty)}
        if hasattr(zarr.core.codec_pipeline, "FusedCodecPipeline"):
            config["codec_pipeline.path"] = _FUSED
        with _OPENING, warnings.catch_warnings():
            _start_loop()
            warnings.simplefilter("ignore")  # of parts of the format that are not final
            with zarr.config.set(config):
                mode: Any = "r" if write_empty is None else "r+"
                return zarr.open_array(store, path=self._key, mode=mode, zarr_format=2 if self._document.zarr_format == 2 else 3)

    def _chunk(self, number: int) -> str:
        key = self._document.chunk_key(self._grid.index(number))
        return f"{self._key}/{key}" if self._key else key

    def finish(self) -> None:
        pass

    def close(self) -> None:
        self._store.close()

    _store: Store


class FallbackReader(_Opened):
    """Reads boxes of an array, from any number of threads."""

    def __init__(self, tree: _Tree, key: str, info: ArrayInfo, document: ArrayDocument, stored: Presence | None, reason: str) -> None:
        """Raises CorruptError, StorageError.

        stored: the chunks that existed when the source was opened. A missing one of these is an error. None if unknown.
        reason: why it goes through zarr, for the report.
        """
        super().__init__(tree, key, info, document, reason)
        self._stored = stored
        store = tree.store()
        if (canonical := document.canonical) is not None:
            store = Overlaid(store, f"{key}/zarr.json" if key else "zarr.json", json.dumps(canonical).encode())
        self._store = _Looked(store, self._look)
        try:
            self._array = self._open(self._store, None)
        except Exception as error:
            raise _explained(error, tree.where(key), "cannot read", "cannot be opened") from None
        self._check = _Check(document, tree.where(key))
        self._prototype = default_buffer_prototype()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._tree, self._key, self.info, self._document, self._stored, self._reason)

    def fetch(self, region: Box, buffer: Array) -> None:
        raise NotImplementedError("boxes are read as they are needed")

    def read(self, region: Box, buffer: Array) -> tuple[Array, None]:
        x: Array = buffer[: region.size * self.info.dtype.itemsize].view(self.info.dtype).reshape(region.shape)
        for number in self._grid.units(region):
            # One by one, so that an error names its chunk.
            box = self._grid.box(self._grid.index(number)).common(region)
            out = x[box.within(region) or ...]
            try:
                # zarr needs contiguous memory.
                place = out if out.flags.c_contiguous else np.empty(out.shape, out.dtype)
                self._array.get_basic_selection(box.slices, out=self._prototype.nd_buffer.from_numpy_array(place))
            except Exception as error:
                raise _explained(error, self._tree.where(self._chunk(number)), "cannot read", "cannot be decoded") from None
            if place is not out:
                out[...] = place
        return x, None

    def _look(self, key: str, found: Buffer | None, asked: ByteRequest | None) -> None:
        """Raise if what zarr is about to get is missing or damaged."""
        index = self._document.chunk_index(key[len(self._key) + 1 if self._key else 0 :])
        if index is None:
            return
        if found is None:
            if self._stored is not None and self._grid.number(index) in self._stored:
                raise SourceChangedError(f"{self._tree.where(key)}: was deleted while it was read; restore it and run again")
            return
        try:
            self._check(as_bytes(found.to_bytes()), asked)
        except Damage as damage:
            raise CorruptError(f"{self._tree.where(key)}: cannot be decoded: {damage}") from None

    def commit(self, payloads: list[Any]) -> None:
        pass


class _Check:
    """Checks the headers of blosc chunks, in shards too."""

    def __init__(self, document: ArrayDocument, where: str) -> None:
        self._chain, self._index = codec_chain(document), None
        if self._chain and self._chain[-1][0] == "sharding_indexed":
            settings = self._chain[-1][1]
            self._chain = codec_chain(document, settings.get("codecs"))
            try:
                self._index = ShardIndex(
                    document.unit, settings.get("chunk_shape"), settings.get("index_codecs"), settings.get("index_location", "end")
                )
            except UnknownCodec as error:
                raise UnsupportedError(f"{where}: has {error}") from None

    _index: ShardIndex | None

    def __call__(self, data: Bytes, asked: ByteRequest | None) -> None:
        if self._index is None:
            _check_chunk(data, self._chain)
        elif asked is None:
            for offset, length in self._index.of(data).tolist():
                if offset + length <= data.size:  # the others are not stored
                    _check_chunk(data[offset : offset + length], self._chain)
        elif not isinstance(asked, SuffixByteRequest) and data.size != self._index.size:
            _check_chunk(data, self._chain)


def _check_chunk(data: Bytes, chain: Codecs) -> None:
    for name, _ in reversed(chain):
        if name == "crc32c":
            data = data[:-4]
        elif name == "blosc":
            check_blosc(data)
            return
        else:
            return


class FallbackWriter(_Opened):
    """Writes boxes of whole chunks (or shards), from any number of threads."""

    def __init__(self, place: _Place, key: str, info: ArrayInfo, document: ArrayDocument, write_empty: bool, reason: str) -> None:
        """Raises CorruptError, StorageError.

        write_empty: also write chunks that hold only the fill value.
        reason: why it goes through zarr, for the report.
        """
        super().__init__(place, key, info, document, reason)
        self._write_empty, self._place = write_empty, place
        self._store = place.store()
        self._array = self._open(self._store, write_empty)
        self._complete = self._array if document.shards is None else self._open(self._store, True)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._place, self._key, self.info, self._document, self._write_empty, self._reason)

    def write(self, region: Box, y: Array) -> Box:
        for number in self._grid.units(region):
            box = self._grid.box(self._grid.index(number))
            chunk = y[box.within(region) or ...]
            try:
                (self._complete if self._has_payloads(chunk) else self._array)[box.slices or ...] = chunk
            except Exception as error:
                found = _explained(error, self._tree.where(self._chunk(number)), "cannot write", "cannot be encoded")
                raise found if isinstance(found, OSError) else UnsupportedError(str(found)) from None
        return region

    def _has_payloads(self, chunk: Array) -> bool:
        """Whether a shard has NaN with another payload than the fill value: zarr takes them for equal, and would leave them out."""
        fill = self._document.fill_value
        if self._complete is self._array or fill is None or fill == fill:
            return False
        native = np.ascontiguousarray(chunk, chunk.dtype.newbyteorder("="))
        bits = np.dtype(f"u{native.itemsize}")
        return bool((np.isnan(native) & (native.view(bits) != np.asarray(fill, native.dtype).view(bits))).any())

    def commit(self, payloads: list[Any]) -> None:
        self._place.wrote(self._chunk(number) for region in payloads for number in self._grid.units(region))

    def state(self) -> Any:
        return None


def _start_loop() -> None:
    """Start the thread that zarr works in. zarr would wait for ever for one that could not be started. Raises StorageError."""
    try:
        zarr.core.sync._get_loop()
    except RuntimeError as error:
        zarr.core.sync.loop[0] = None
        raise StorageError(
            f"cannot read or write Zarr: {shown(str(error))}: the process has reached a limit of threads or memory (ulimit -u, -v)"
        ) from None


def _explained(error: Exception, where: str, doing: str, what: str) -> LeakyError:
    """Turn an error of zarr or a codec into a LeakyError.

    doing, what: words for the message, as in "cannot read" and "cannot be decoded".
    """
    if isinstance(error, LeakyError):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        name = error.filename if isinstance(error.filename, (str, os.PathLike)) else where
        return storage_error(error, name, doing)
    if isinstance(error, MemoryError):
        return CorruptError(f"{where}: {what}: it needs more memory than there is")
    text = shown(" ".join(str(error).split()))[:200]
    return CorruptError(f"{where}: {what}: {text or type(error).__name__}")
