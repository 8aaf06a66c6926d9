"""Writing Zarr: what mirrors a Zarr source is made from its metadata documents, all else by zarr's own defaults.

Chunks go to a folder, or under a URL. A `.zarr.zip` is a folder packed as the last step: stored, in the order that zarr reads best,
documents first.
"""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numcodecs
import numpy as np
import zarr
import zarr.codecs

from leakycli import stopping
from leakycli._version import __version__
from leakycli.errors import LeakyError, LossError, SourceChangedError, UnsupportedError, UsageError, counted, shown
from leakycli.formats.base import METADATA, Array, ArrayInfo, Begun, Chunking, Layout, Member, Source
from leakycli.formats.zarr import consolidated, engine, masks, metadata, result, translate
from leakycli.formats.zarr.hierarchy import Node
from leakycli.formats.zarr.metadata import ArrayDocument, Document
from leakycli.formats.zarr.place import FolderPlace, Place, UrlPlace
from leakycli.formats.zarr.source import ZarrSource
from leakycli.formats.zipfile import pack
from leakycli.function.rule import Rule
from leakycli.function.stats import NanError
from leakycli.regions import Box, Grid, Index
from leakycli.stores.remote import Remote
from leakycli.system import sync_path

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
    name = f"array {shown(array.name)}: " if array.name else ""
    if mirrors(layout, source):
        if had is not None and (problem := metadata.too_large(had.codecs, had.chunks, dtype)) is not None:
            raise UnsupportedError(f"{name}{problem}; choose smaller chunks (--chunks) or another compressor (--compressor)")
        return ArrayInfo(array.name, array.shape, dtype, False, had)
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
    if (problem := metadata.too_large(compressor, chunks, dtype)) is not None:
        raise UsageError(f"{name}{problem}; choose smaller chunks (--chunks) or another compressor (--compressor)")
    chunking = Chunking(chunks, shards, compressor, had.fill if had else None, plain=compressor == "none" and shards is None)
    return ArrayInfo(array.name, array.shape, dtype.newbyteorder("="), False, chunking)


def carries(layout: Layout, source: Source, member: Member) -> bool:
    """Whether an array that is not transformed is read and written as an array: into another version of Zarr.

    Raises UsageError where that cannot be.
    """
    if not isinstance(source, ZarrSource) or layout.zarr_format is None:
        return False
    node = source.nodes[member.key]
    if not node.is_array or node.zarr_format == layout.zarr_format:
        return False
    if member.array is None:
        translate.check_array((source.tree.store(), source.key(member), node), layout.zarr_format)
    return member.array is not None


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
        self._nodes: set[str] = set()
        #: Arrays that an earlier run had begun and every chunk of which is written: key, document, how many chunks.
        self._kept: list[tuple[str, ArrayDocument, int]] = []
        self._consolidated: dict[str, dict[str, Any]] = {}
        self._archive: str | None = None
        self._place: Place
        if isinstance(path, Remote):
            self._place = UrlPlace(path)
            return
        if packed:
            self._archive = path
        self._place = FolderPlace(f"{path}.folder" if packed else path, begun, flush)

    def writer(self, info: ArrayInfo, source: Source, member: Member, rule: Rule | None = None, begun: Begun | None = None) -> ZarrWriter:
        assert info.chunking is not None
        key = member.name if source.format != "npy" else ""
        if (key or source.format == "npz") and not _may_be_key(key):
            raise UnsupportedError(f"array {shown(key)}: this name cannot be one in a Zarr hierarchy")
        mirror = mirrors(self._layout, source)
        if not mirror and begun is None and self._begun:
            # Of an array that it has not told of.
            self._place.clear(key)
        if isinstance(source, ZarrSource):
            documents = self._from_zarr(source, member, info, rule, mirror)
        else:
            documents = self._from_elsewhere(key, source, info, rule)
        for name, fields in documents.items():
            self._write_document(key, name, fields)
        self._nodes.add(key)
        # Where it is not told what the source stores, all of it was read.
        write_empty = mirror and info.chunking.shards is None and isinstance(source, ZarrSource) and source.tree.listed
        document = self._document(key)
        if begun is not None and write_empty:
            stored = source.stored(member)
            self._kept.append((key, document, Grid(document.shape, document.unit).size if stored is None else stored.count))
        if isinstance(source, ZarrSource):
            self._copy_strays(source, member, key, document)
        if isinstance(self._place, FolderPlace) and engine.is_plain(document, files=True) and document.dtype == info.dtype:
            return PlainWriter(self._place, key, info, document, write_empty)
        return ZarrWriter(self._place, key, info, document, write_empty)

    def _warn(self, key: str, warnings: Iterable[str]) -> None:
        """Of the array under `key`."""
        self.warnings += [f"{f'array {shown(key)}: ' if key else ''}{warning}" for warning in warnings]

    def _from_zarr(self, source: ZarrSource, member: Member, info: ArrayInfo, rule: Rule | None, mirror: bool) -> dict[str, Document]:
        """The documents of an array that comes from a Zarr, by name."""
        key, document, node = member.name, source.documents[member.key], source.nodes[member.key]
        zarr_format = self._layout.zarr_format or document.zarr_format
        fill, whole = _result_fill(info, rule, source, member), source.stored(member) is None
        try:
            said = result.said(document, rule, fill, zarr_format, whole)
        except UsageError as error:
            raise UsageError(f"array {shown(key)}: {error}") from None
        self._warn(key, said.warnings)
        attributes = said.attributes
        if rule is not None:
            attributes.pop("leakycli", None)
            if self._layout.provenance:
                attributes["leakycli"] = provenance(rule)
        if not mirror:
            return self._new(key, info, said.fill, attributes, zarr_format, said.names, document)
        adapted, beside, warned = metadata.adapt(document, info.dtype, said.fill, attributes)
        self._warn(key, warned)
        if beside is None:
            return {"zarr.json": adapted}
        return {".zarray": adapted} | ({".zattrs": beside} if beside or ".zattrs" in node.texts else {})

    def _from_elsewhere(self, key: str, source: Source, info: ArrayInfo, rule: Rule | None) -> dict[str, Document]:
        """The documents of an array that comes from a `.npy` or `.npz`, by name; and those of the groups around it."""
        zarr_format = self._layout.zarr_format or 3
        if source.format == "npz" or key:
            self._ensure_groups(key, zarr_format)
        attributes = {"leakycli": provenance(rule)} if rule is not None and self._layout.provenance else {}
        return self._new(key, info, None, attributes, zarr_format, None, None)

    def _new(
        self,
        key: str,
        info: ArrayInfo,
        fill: np.generic | None,
        attributes: Document,
        zarr_format: int,
        names: list[str | None] | None,
        before: ArrayDocument | None,
    ) -> dict[str, Document]:
        """The documents of a new array, as zarr makes them. before: those of its source, of which the form of chunk keys is kept."""
        assert info.chunking is not None
        keys: dict[str, Any] = {}
        if before is not None and before.zarr_format == zarr_format:
            keys["chunk_key_encoding"] = {
                "name": "default" if before.prefix else "v2",
                "separator": before.separator,
            }
        elif before is not None and zarr_format == 2:
            keys["chunk_key_encoding"] = {"name": "v2", "separator": before.separator}
        memory = zarr.storage.MemoryStore()
        with warnings.catch_warnings(), _creating(key):
            warnings.simplefilter("ignore")
            zarr.create_array(
                memory,
                shape=info.shape,
                dtype=info.dtype,
                chunks=tuple(info.chunking.chunks),
                shards=info.chunking.shards,
                filters=(),
                compressors=_compressors(info.chunking.codecs, zarr_format),
                fill_value=0,
                zarr_format=2 if zarr_format == 2 else 3,
                dimension_names=names if zarr_format == 3 else None,
                order="C" if zarr_format == 2 else None,
                **keys,
            )
        name = "zarr.json" if zarr_format == 3 else ".zarray"
        fields: Document = json.loads(memory._store_dict[name].to_bytes())
        if fill is not None:
            fields["fill_value"] = metadata.encode_fill(fill, zarr_format)
        elif before is not None and zarr_format == 2:
            fields["fill_value"] = None
        if zarr_format == 3:
            return {name: {**fields, "attributes": attributes}}
        return {name: fields} | ({".zattrs": attributes} if attributes else {})

    def _ensure_groups(self, key: str, zarr_format: int) -> None:
        """Groups above the array `key`, where there are none yet."""
        parts = key.split("/")[:-1]
        for depth in range(len(parts) + 1):
            group = "/".join(parts[:depth])
            name = "zarr.json" if zarr_format == 3 else ".zgroup"
            if group in self._nodes:
                raise UnsupportedError(f"array {shown(key)}: cannot lie in the array {shown(group)}")
            if self._place.read(_under(group, name)) is None:
                fields = {"zarr_format": zarr_format} | ({"node_type": "group", "attributes": {}} if zarr_format == 3 else {})
                self._write_document(group, name, fields)

    def _copy_strays(self, source: ZarrSource, member: Member, key: str, document: ArrayDocument) -> None:
        """Copy the files in an array's folder that are no chunks of it, and say so."""
        copied, left = [], []
        for entry in source.strays(member):
            name = source.below(member, entry.key)
            if entry.problem is not None or document.chunk_index(name) is not None:
                # It would be a chunk in the result's grid, or is a broken link.
                left.append(name)
            else:
                copied.append(name)
                self._copy_file(source, entry.key, _under(key, name))
        for names, done in ((copied, "copied as they are"), (left, "left out")):
            if names:
                self._warn(key, [f"{len(names)} files in its folder are no chunks of it, as {shown(names[0])}; {done}"])

    def _copy_file(self, source: ZarrSource, key: str, to: str) -> None:
        stopping.check()
        if not source.tree.holds(key):
            raise SourceChangedError(f"{source.tree.where(key)}: was deleted while it was read; restore it and run again")
        self._place.write_pieces(to, source.tree.pieces(key))

    def copy(self, source: Source, member: Member) -> None:
        """Take over a group's documents and what is beside them, or an array with all its chunks, byte for byte.

        Into another version of Zarr, documents are translated, and arrays written anew.
        """
        assert isinstance(source, ZarrSource), "only a hierarchy has nodes to copy"
        self._note(source, member)
        node, document = source.nodes[member.key], source.documents.get(member.key)
        translated = self._translated(node)
        if translated and node.is_array:
            assert self._layout.zarr_format is not None
            place = (source.tree.store(), source.key(member), node)
            translate.copy_array(place, self._place.store(), member.key, self._layout.zarr_format)
            self._place.wrote(entry.key for entry in self._place.walk(member.key) if not entry.folder)
            return
        self._write_translated(node)
        strays: list[str] = []
        for entry in source.files(member):
            name = source.below(member, entry.key)
            if entry.problem is not None:
                self._warn(member.key, [f"{shown(name)} was left out: it is neither a file nor a folder"])
            elif not (translated and name in METADATA):
                self._copy_file(source, entry.key, _under(member.key, name))
                if document is not None and name not in METADATA and document.chunk_index(name) is None:
                    strays.append(name)
        if strays:
            self._warn(member.key, [f"{len(strays)} files in its folder are no chunks of it, as {shown(strays[0])}; copied as they are"])

    def _translated(self, node: Node) -> bool:
        return self._layout.zarr_format not in (None, node.zarr_format)

    def _write_translated(self, node: Node) -> None:
        """The documents of a group that goes into another version of Zarr."""
        if self._translated(node) and not node.is_array:
            assert self._layout.zarr_format is not None
            if lost := translate.lost_keys(node):
                self.warnings.append(f"{node.where}: {', '.join(map(shown, lost))} has no place in Zarr format 2, and was left out")
            for name, fields in translate.group_documents(node, self._layout.zarr_format).items():
                self._write_document(node.path, name, fields)

    def state(self) -> Any:
        return None

    def restore(self, info: ArrayInfo | None, source: Source, member: Member, rule: Rule | None, state: Any) -> None:
        if info is not None:
            self.writer(info, source, member, rule, Begun(None)).close()
            return
        assert isinstance(source, ZarrSource)
        self._note(source, member)
        node = source.nodes[member.key]
        self._write_translated(node)
        for name, text in node.texts.items():
            # Those of a place that holds them back are lost with the run that wrote them.
            if not self._translated(node) and name not in node.superseded and self._place.read(_under(member.key, name)) is None:
                self._place.write(_under(member.key, name), text)

    def _note(self, source: ZarrSource, member: Member) -> None:
        """Of a node that is copied: where it is, and whether its metadata are consolidated."""
        self._nodes.add(member.key)
        node = source.nodes[member.key]
        if node.consolidated is not None:
            self._consolidated[member.key] = {} if self._translated(node) else node.consolidated

    def ensure(self) -> None:
        self._place.ensure()

    def finish(self) -> int:
        """Complete the groups' documents, and pack; returns the size in bytes."""
        if self._begun:
            self._place.tidy()
            self._check_kept()
        if self._consolidated:
            self._consolidate()
        if self._archive is not None:
            size = pack(self._place.path, self._archive)
            if self._flush:
                sync_path(self._archive)
            return size
        files = (entry for entry in self._place.walk("") if not entry.folder)
        return sum(self._place.size(entry.key) if entry.size is None else entry.size for entry in files)

    def _check_kept(self) -> None:
        """Raise UsageError where a chunk that an earlier run had written is gone. As many are there as the source stores."""
        for key, document, count in self._kept:
            below = len(_under(key, ""))
            found = sum(not entry.folder and document.chunk_index(entry.key[below:]) is not None for entry in self._place.walk(key))
            if found < count:
                lost = counted(count - found, "chunk")
                raise UsageError(
                    f"{self._place.where(key)}: {lost} of an earlier run went missing, so that it cannot be resumed; "
                    "what was left is removed: run again"
                )

    def _consolidate(self) -> None:
        """Rebuild consolidated metadata from the documents that were written."""
        documents: dict[str, dict[str, Document]] = {}
        for key in self._nodes:
            names = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
            texts = zip(names, self._place.read_all([_under(key, name) for name in names]), strict=True)
            documents[key] = {name: json.loads(text) for name, text in texts if text is not None}
        # Inner groups first: their documents are among the entries of those around.
        for group in sorted(self._consolidated, key=lambda path: (-path.count("/"), not path, path)):
            under, before = f"{group}/" if group else "", self._consolidated[group]
            below = {key[len(under) :] if key != group else "": each for key, each in documents.items() if f"{key}/".startswith(under)}
            if "zarr.json" in documents[group]:
                had, name = documents[group]["zarr.json"], "zarr.json"
                fields = documents[group][name] = consolidated.with_consolidated(had, below, before)
            else:
                had, name = json.loads(self._place.read(_under(group, ".zmetadata")) or b"{}"), ".zmetadata"
                fields = consolidated.zmetadata(below, before)
                fields = {**had, "metadata": fields["metadata"]} if "metadata" in had else fields
            if json.dumps(fields) != json.dumps(had):
                self._write_document(group, name, fields)

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


def provenance(rule: Rule) -> str:
    """The attribute that says what was done to an array: JSON as text, as netCDF has no attributes that are objects."""
    done = {
        "version": __version__,
        "function": "leaky_relu",
        "alpha": rule.alpha,
        "dtype_before": rule.source.name,
        "dtype_after": rule.dtype.name,
    }
    return json.dumps(done | ({} if rule.nan is None else {"nan": rule.nan}))


def _result_fill(info: ArrayInfo, rule: Rule | None, source: Source, member: Member) -> np.generic | None:
    """What the fill value becomes; None where it stands for nothing and has no value in the result's type.

    Raises LossError where it is NaN, has no integer, and stands for elements.
    """
    fill = info.chunking.fill if info.chunking else None
    if fill is None or rule is None:
        return fill
    try:
        if isinstance(source, ZarrSource):
            return result.mask_of(source.documents[member.key], rule).result(fill)
        return masks.transformed(fill, rule)
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
        self._all: engine.OpenArray | None = None

    def write(self, region: Box, y: Array) -> Box:
        try:
            self._open_for(y).at(sum(1 for _ in self._grid.units(region)))[region.slices or ...] = y
        except Exception as error:
            where = self._place.where(self._chunk(next(iter(self._grid.units(region)))))
            found = engine.explained(error, where, "cannot write")
            raise found if isinstance(found, OSError) else UnsupportedError(f"cannot write {where}: {shown(str(error))[:200]}") from None
        return region

    def _open_for(self, y: Array) -> engine.OpenArray:
        """The array, to write `y`: with all chunks of a shard where some are of NaN with another payload than the fill value's."""
        fill = self._document.fill_value
        if self._document.shards is None or fill is None or fill == fill:
            return self._array
        bits = np.dtype(f"u{y.itemsize}")
        native = np.ascontiguousarray(y, y.dtype.newbyteorder("="))
        if not (np.isnan(native) & (native.view(bits) != np.asarray(fill, native.dtype).view(bits))).any():
            return self._array
        if self._all is None:
            place, key, _, document, _ = self._parts
            self._all = engine.OpenArray(place.store(), key, document, place.files, True)
        return self._all

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
