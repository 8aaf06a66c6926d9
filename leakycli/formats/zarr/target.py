"""Writing Zarr: what mirrors a Zarr source is made from its metadata documents, all else by zarr's own defaults.

Chunks go to a folder, or under a URL. A `.zarr.zip` is a folder packed as the last step: stored, in the order that zarr reads best,
documents first.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import warnings
from collections.abc import Iterator
from typing import Any

import numcodecs
import numpy as np
import zarr
import zarr.codecs

from leakycli import stopping
from leakycli._version import __version__
from leakycli.errors import LeakyError, LossError, SourceChangedError, UnsupportedError, UsageError, shown
from leakycli.formats.base import METADATA, Array, ArrayInfo, Begun, Chunking, Layout, Member, Source, sync_path
from leakycli.formats.zarr import conventions, engine, metadata
from leakycli.formats.zarr.metadata import ArrayDocument
from leakycli.formats.zarr.place import FolderPlace, Place, UrlPlace
from leakycli.formats.zarr.source import ZarrSource
from leakycli.formats.zipfile import pack
from leakycli.function.kernel import NanError
from leakycli.function.rule import Rule
from leakycli.regions import Box, Grid, Index
from leakycli.stores.remote import Remote

#: Bytes of a chunk of a new array, about.
_CHUNK_BYTES = 4 << 20

_COMPRESSOR = "zstd:3"

_BLOSC_CODECS = ("lz4", "lz4hc", "blosclz", "zstd", "zlib")
_SHUFFLES = ("noshuffle", "shuffle", "bitshuffle")


def mirrors(layout: Layout, source: Source) -> bool:
    """Whether results are laid out as their source is."""
    return isinstance(source, ZarrSource) and layout == Layout(provenance=layout.provenance)


def result_array(array: ArrayInfo, dtype: np.dtype[Any], layout: Layout, source: Source, member: Member) -> ArrayInfo:
    """`array` as it will be in a Zarr hierarchy, with values of `dtype`. Raises UsageError where the layout does not suit its shape."""
    had = array.chunking
    if mirrors(layout, source):
        return ArrayInfo(array.name, array.shape, dtype, False, had)
    name = f"array {shown(array.name)}: " if array.name else ""
    for given, option in ((layout.chunks, "--chunks"), (layout.shards, "--shards")):
        if given is not None and len(given) != len(array.shape):
            raise UsageError(f"{name}{option} has {len(given)} lengths, the array {len(array.shape)} dimensions {array.shape}")
    chunks = layout.chunks or (had.chunks if had else default_chunks(array.shape, dtype.itemsize))
    shards = layout.shards or (had.shards if had and layout.chunks is None and layout.zarr_format != 2 else None)
    if shards is not None:
        if (layout.zarr_format or _format_of(source, member)) == 2:
            raise UsageError(f"{name}--shards is for Zarr format 3; format 2 has none")
        if any(s % c for s, c in zip(shards, chunks, strict=True)):
            raise UsageError(f"{name}shards {shards} are not made of whole chunks {chunks} (--shards, --chunks)")
    compressor = layout.compressor or _COMPRESSOR
    if layout.compressor is None and had is not None and (had.codecs == "none" or _compressors(had.codecs, 3, quiet=True) is not None):
        compressor = had.codecs
    _compressors(compressor, 3)
    chunking = Chunking(chunks, shards, compressor, had.fill if had else None, plain=compressor == "none" and shards is None)
    return ArrayInfo(array.name, array.shape, dtype.newbyteorder("="), False, chunking)


def default_chunks(shape: Index, itemsize: int) -> Index:
    """Chunks of about 4 MiB: runs of whole rows, so that an array that comes or goes in order needs little memory."""
    chunks = [max(n, 1) for n in shape]
    for axis in range(len(chunks)):
        inner = itemsize
        for n in chunks[axis + 1 :]:
            inner *= n
        chunks[axis] = max(1, min(chunks[axis], _CHUNK_BYTES // inner))
        if chunks[axis] > 1 or inner <= _CHUNK_BYTES:
            break
    return tuple(chunks)


def _format_of(source: Source, member: Member) -> int:
    return source.documents[member.key].zarr_format if isinstance(source, ZarrSource) else 3


def _compressors(text: str, zarr_format: int, quiet: bool = False) -> Any:
    """zarr's compressor for "none", "zstd:LEVEL", "gzip:LEVEL" or "blosc-CODEC:LEVEL:SHUFFLE". Raises UsageError; None if `quiet`."""
    name, *rest = text.split(":")
    level = int(rest[0]) if rest and re.fullmatch(r"\d{1,2}", rest[0]) else None
    if name == "none" and not rest:
        return ()
    if len(rest) == 0 or level is not None:
        if name == "zstd" and len(rest) < 2 and (level or 3) <= 22:
            return _zstd(3 if level is None else level, zarr_format)
        if name == "gzip" and len(rest) < 2 and (level or 6) <= 9:
            return _gzip(6 if level is None else level, zarr_format)
        codec, shuffle = name.removeprefix("blosc-"), rest[1] if len(rest) > 1 else "shuffle"
        if name.startswith("blosc-") and codec in _BLOSC_CODECS and shuffle in _SHUFFLES and len(rest) < 3 and (level or 5) <= 9:
            return _blosc(codec, 5 if level is None else level, shuffle, zarr_format)
    if quiet:
        return None
    raise UsageError(
        f"compressor {text!r} is not known for Zarr; choose none, zstd:1 to zstd:22, gzip:1 to gzip:9 or blosc-CODEC:LEVEL:SHUFFLE "
        f"(codec {', '.join(_BLOSC_CODECS)}; shuffle {', '.join(_SHUFFLES)})"
    )


def check_compressor(text: str | None) -> None:
    """Raise UsageError for an unknown one."""
    if text is not None:
        _compressors(text, 3)


def _zstd(level: int, zarr_format: int) -> Any:
    return (zarr.codecs.ZstdCodec(level=level),) if zarr_format == 3 else numcodecs.Zstd(level)


def _gzip(level: int, zarr_format: int) -> Any:
    return (zarr.codecs.GzipCodec(level=level),) if zarr_format == 3 else numcodecs.GZip(level)


def _blosc(codec: str, level: int, shuffle: str, zarr_format: int) -> Any:
    if zarr_format == 3:
        # Names were enumerations and are strings; both versions take strings.
        names: dict[str, Any] = {"cname": codec, "shuffle": shuffle}
        return (zarr.codecs.BloscCodec(clevel=level, **names),)
    return numcodecs.Blosc(codec, level, _SHUFFLES.index(shuffle))


class ZarrTarget:
    """A hierarchy to be, in a folder at `path`, or packed into an archive there."""

    def __init__(self, path: str | Remote, layout: Layout, packed: bool = False, begun: bool = False, flush: bool = False) -> None:
        """begun: by an earlier run, which left it there. flush: see `ensure`."""
        self._layout, self._begun, self._flush = layout, begun, flush
        self.warnings: list[str] = []
        self._groups: set[str] = set()
        self._arrays: set[str] = set()
        self._changed: dict[str, dict[str, Any]] = {}
        self._archive: str | None = None
        self._place: Place
        if isinstance(path, Remote):
            self._place = UrlPlace(path)
            return
        if packed:
            self._archive = path
            if begun:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
        self._place = FolderPlace(f"{path}.folder" if packed else path, begun, flush)

    def writer(self, info: ArrayInfo, source: Source, member: Member, rule: Rule | None = None, begun: Begun | None = None) -> ZarrWriter:
        assert info.chunking is not None
        key = member.name if source.format != "npy" else ""
        if (key or source.format == "npz") and not _may_be_key(key):
            raise UnsupportedError(f"array {shown(key)}: this name cannot be one in a Zarr hierarchy")
        fill = _result_fill(info, rule, source, member)
        mirror = mirrors(self._layout, source)
        attributes = dict(source.documents[member.key].attributes) if isinstance(source, ZarrSource) else {}
        if rule is not None:
            said: tuple[str, ...] = ()
            if isinstance(source, ZarrSource):
                attributes, said = conventions.adapted_attributes(attributes, rule, _format_of(source, member))
            self._warn(key, said)
            attributes.pop("leakycli", None)
            if self._layout.provenance:
                attributes["leakycli"] = provenance(rule)
        if mirror:
            assert isinstance(source, ZarrSource)
            self._mirror(source, member, info, fill, attributes)
        else:
            if source.format == "npz" or key:
                self._ensure_groups(key, self._layout.zarr_format or _format_of(source, member))
            if begun is None and self._begun:
                # Of an array that it has not told of.
                self._place.clear(key)
            if begun is None or self._document_at(key) is None:
                self._create(info, key, fill, attributes, source, member)
        self._arrays.add(key)
        # Where it is not told what the source stores, all of it was read.
        write_empty = mirror and info.chunking.shards is None and isinstance(source, ZarrSource) and source.tree.listed
        document = self._document(key)
        if isinstance(self._place, FolderPlace) and engine.is_plain(document, files=True) and document.dtype == info.dtype:
            return PlainWriter(self._place, key, info, document, write_empty)
        return ZarrWriter(self._place, key, info, document, write_empty)

    def _warn(self, key: str, warnings: tuple[str, ...]) -> None:
        """Of the array under `key`."""
        self.warnings += [f"{f'array {shown(key)}: ' if key else ''}{warning}" for warning in warnings]

    def _mirror(self, source: ZarrSource, member: Member, info: ArrayInfo, fill: np.generic | None, attributes: dict[str, Any]) -> None:
        key = member.name
        document, beside, said = metadata.adapt(source.documents[member.key], info.dtype, fill, attributes)
        self._warn(key, said)
        if beside is None:
            self._changed[key] = {"zarr.json": document}
        else:
            self._changed[key] = {".zarray": document, ".zattrs": beside}
        for name, fields in self._changed[key].items():
            if name != ".zattrs" or fields or source.tree.holds(source.key(member, name)):
                self._write_document(key, name, fields)

    def _create(
        self, info: ArrayInfo, key: str, fill: np.generic | None, attributes: dict[str, Any], source: Source, member: Member
    ) -> None:
        assert info.chunking is not None
        zarr_format = self._layout.zarr_format or _format_of(source, member)
        dimensions = source.documents[member.key].dimension_names if isinstance(source, ZarrSource) else None
        if dimensions is not None and zarr_format == 2:
            attributes.setdefault("_ARRAY_DIMENSIONS", list(dimensions))
        with warnings.catch_warnings(), _creating(key):
            warnings.simplefilter("ignore")
            zarr.create_array(
                self._place.store(),
                name=key or None,
                shape=info.shape,
                dtype=info.dtype,
                chunks=tuple(info.chunking.chunks),
                shards=info.chunking.shards,
                filters=(),
                compressors=_compressors(info.chunking.codecs, zarr_format),
                fill_value=fill if fill is not None else 0,
                zarr_format=2 if zarr_format == 2 else 3,
                attributes=attributes,
                dimension_names=dimensions if zarr_format == 3 else None,
                order="C" if zarr_format == 2 else None,
            )

    def _ensure_groups(self, key: str, zarr_format: int) -> None:
        """Groups above the array `key`, where there are none yet."""
        parts = key.split("/")[:-1]
        for depth in range(len(parts) + 1):
            group = "/".join(parts[:depth])
            name = "zarr.json" if zarr_format == 3 else ".zgroup"
            if group in self._arrays:
                raise UnsupportedError(f"array {shown(key)}: cannot lie in the array {shown(group)}")
            if self._place.read(_under(group, name)) is None:
                fields = {"zarr_format": zarr_format} | ({"node_type": "group", "attributes": {}} if zarr_format == 3 else {})
                self._write_document(group, name, fields)

    def copy(self, source: Source, member: Member) -> None:
        """Take over a group's documents, or an array with all its chunks, byte for byte."""
        assert isinstance(source, ZarrSource), "only a hierarchy has nodes to copy"
        if (
            self._layout.zarr_format is not None
            and member.key in source.documents
            and self._layout.zarr_format != _format_of(source, member)
        ):
            raise UsageError(f"array {shown(member.name)}: is copied as it is, and so stays in its Zarr format; leave --zarr-format out")
        self._note_group(member)
        under = source.key(member)
        skip = len(under) + 1 if under else 0
        for entry in source.files(member):
            stopping.check()
            if (data := source.tree.read(entry.key)) is None:
                raise SourceChangedError(f"{source.tree.where(entry.key)}: was deleted while it was read; restore it and run again")
            self._place.write(_under(member.key, entry.key[skip:]), data)

    def state(self) -> Any:
        return None

    def restore(self, info: ArrayInfo | None, source: Source, member: Member, rule: Rule | None, state: Any) -> None:
        if info is not None:
            self.writer(info, source, member, rule, Begun(None)).close()
            return
        assert isinstance(source, ZarrSource)
        self._note_group(member)
        for name in METADATA:
            # Those of a place that holds them back are lost with the run that wrote them.
            if self._place.read(_under(member.key, name)) is None and (text := source.tree.read(source.key(member, name))) is not None:
                self._place.write(_under(member.key, name), text)

    def _note_group(self, member: Member) -> None:
        if member.array is None and member.problem is None:
            self._groups.add(member.key)

    def ensure(self) -> None:
        self._place.ensure()

    def finish(self) -> int:
        """Complete the groups' documents, and pack; returns the size in bytes."""
        if self._begun:
            self._place.tidy()
        for group in sorted(self._groups, reverse=True):
            under = f"{group}/" if group else ""
            changed = {key[len(under) :]: documents for key, documents in self._changed.items() if key.startswith(under)}
            for name in ("zarr.json", ".zmetadata"):
                if changed and (text := self._place.read(under + name)) is not None:
                    fields = json.loads(text)
                    updated = metadata.update_consolidated(fields, changed)
                    if updated != fields:
                        self._write_document(group, name, updated)
        if self._archive is not None:
            size = pack(self._place.path, self._archive)
            if self._flush:
                sync_path(self._archive)
            return size
        files = (entry for entry in self._place.walk("") if not entry.folder)
        return sum(self._place.size(entry.key) if entry.size is None else entry.size for entry in files)

    def close(self) -> None:
        self._place.close()

    def _document_at(self, key: str) -> tuple[str, bytes] | None:
        """The name and the text of the document of an array that was written; None where there is none."""
        names = [_under(key, name) for name in ("zarr.json", ".zarray")]
        found = zip(names, self._place.read_all(names), strict=True)
        return next(((name, text) for name, text in found if text is not None), None)

    def _document(self, key: str) -> ArrayDocument:
        found = self._document_at(key)
        assert found is not None
        return metadata.parse(json.loads(found[1]), {}, self._place.where(found[0]))

    def _write_document(self, key: str, name: str, fields: dict[str, Any]) -> None:
        self._place.write(_under(key, name), json.dumps(fields, indent=2).encode("utf-8", "surrogateescape"))


def _under(key: str, name: str) -> str:
    return f"{key}/{name}" if key else name


def _may_be_key(name: str) -> bool:
    """Whether an array of that name can lie in a hierarchy, under its name and among zarr's own documents."""
    parts = name.split("/")
    odd = any(part in ("", ".", "..", "zarr.json") or part.startswith(("__", ".z")) for part in parts)
    return not odd and "\0" not in name and "\\" not in name


@contextlib.contextmanager
def _creating(key: str) -> Iterator[None]:
    """Say which array zarr cannot make, and why."""
    try:
        yield
    except (LeakyError, OSError):
        raise
    except Exception as error:
        text = shown(" ".join(str(error).split()))[:200] or type(error).__name__
        raise UnsupportedError(f"{f'array {shown(key)}: ' if key else ''}cannot be made in a Zarr hierarchy: {text}") from None


def provenance(rule: Rule) -> dict[str, Any]:
    """The attribute that says what was done to an array."""
    return {
        "version": __version__,
        "function": "leaky_relu",
        "alpha": rule.alpha,
        "dtype_before": rule.source.name,
        "dtype_after": rule.dtype.name,
    } | ({} if rule.nan is None else {"nan": rule.nan})


def _result_fill(info: ArrayInfo, rule: Rule | None, source: Source, member: Member) -> np.generic | None:
    """What the fill value becomes; None where it stands for nothing and has no value in the result's type.

    Raises LossError where it is NaN, has no integer, and stands for elements.
    """
    fill = info.chunking.fill if info.chunking else None
    if fill is None or rule is None:
        return fill
    try:
        return conventions.transformed(fill, rule)
    except NanError:
        if source.stored(member) is not None:
            name = f"array {shown(member.name)}: " if member.name else ""
            raise LossError(
                f"{name}chunks that are not stored are NaN, which has no value in {rule.dtype.name}; say what it becomes (--nan N)"
            ) from None
        return None


class ZarrWriter:
    """Writes boxes of whole write units, from any number of threads."""

    sequential = False
    pipeline: str | None

    def __init__(self, place: Place, key: str, info: ArrayInfo, document: ArrayDocument, write_empty: bool) -> None:
        """write_empty: chunks of nothing but fill values are written too."""
        self.info = info
        self._parts = place, key, info, document, write_empty
        self._place, self._key, self._document = place, key, document
        self._grid = Grid(document.shape, document.unit)
        self._array = engine.OpenArray(place.store(), key, document, place.files, write_empty)
        self.pipeline = self._array.pipeline

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._parts

    def write(self, region: Box, y: Array) -> Box:
        try:
            self._array.at(sum(1 for _ in self._grid.units(region)))[region.slices or ...] = y
        except Exception as error:
            where = self._place.where(self._chunk(next(iter(self._grid.units(region)))))
            found = engine.explained(error, where, "cannot write")
            raise found if isinstance(found, OSError) else UnsupportedError(f"cannot write {where}: {shown(str(error))[:200]}") from None
        return region

    def commit(self, payloads: list[Any]) -> None:
        self._place.wrote(self._chunk(number) for region in payloads for number in self._grid.units(region))

    def state(self) -> Any:
        return None

    def _chunk(self, number: int) -> str:
        return _under(self._key, self._document.chunk_key(self._grid.index(number)))

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


class PlainWriter(ZarrWriter):
    """Writes boxes of whole write units that are files of plain elements: without zarr, which would copy them first."""

    def __init__(self, place: FolderPlace, key: str, info: ArrayInfo, document: ArrayDocument, write_empty: bool) -> None:
        super().__init__(place, key, info, document, write_empty)
        self.pipeline, self._folder = None, place
        self._write_empty = write_empty
        self._fill = np.full(1, 0 if document.fill_value is None else document.fill_value, info.dtype)

    def write(self, region: Box, y: Array) -> Box:
        for number in self._grid.units(region):
            unit = y[self._grid.box(self._grid.index(number)).within(region) or ...]
            if not self._write_empty and self._is_empty(unit):
                continue
            if unit.shape != self._grid.unit or not unit.flags.c_contiguous:
                whole = np.empty(self._grid.unit, self.info.dtype)
                if unit.shape != whole.shape:
                    whole[...] = self._fill
                whole[tuple(map(slice, unit.shape))] = unit
                unit = whole
            self._folder.put(self._chunk(number), unit.reshape(-1).view(np.uint8).data)
        return region

    def _is_empty(self, unit: Array) -> bool:
        """Whether all elements are the fill value, to the bit."""
        fill = self._fill.view(f"u{self._fill.itemsize}")
        first = unit[(slice(0, 1),) * unit.ndim].reshape(1).view(fill.dtype)
        return bool(first == fill) and bool((unit.view(fill.dtype) == fill).all())
