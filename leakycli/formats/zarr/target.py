"""Write Zarr: results that mirror a Zarr source have its metadata documents, adapted; all others have those that zarr would make.

Chunks go to a folder, or under a URL. A `.zarr.zip` is a folder packed as the last step: stored, in the order that zarr reads best,
documents first.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from leakycli import stopping
from leakycli._version import __version__
from leakycli.errors import LossError, SourceChangedError, UnsupportedError, UsageError, counted, shown
from leakycli.formats.base import METADATA, ArrayInfo, Begun, Chunking, Held, Layout, Member, Source, Writer
from leakycli.formats.zarr import chunks, consolidated, masks, metadata, new, result, translate
from leakycli.formats.zarr.codecs import UnknownCodec
from leakycli.formats.zarr.hierarchy import Node
from leakycli.formats.zarr.metadata import ArrayDocument, Document
from leakycli.formats.zarr.place import FolderPlace, Place, UrlPlace
from leakycli.formats.zarr.source import ZarrSource
from leakycli.formats.zipfile import pack
from leakycli.function.rule import Rule
from leakycli.function.stats import NanError
from leakycli.regions import Box, Grid
from leakycli.system import sync_path

if TYPE_CHECKING:
    from leakycli.stores.remote import Remote

_COMPRESSOR = "zstd:3"


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
        if had is not None and isinstance(source, ZarrSource):
            had = replace(had, held=_writing(metadata.adapt(source.documents[member.key], dtype, None)[0]))
        return ArrayInfo(array.name, array.shape, dtype, False, had)
    for given, option in ((layout.chunks, "--chunks"), (layout.shards, "--shards")):
        if given is not None and len(given) != len(array.shape):
            raise UsageError(
                f"{name}{option} has {counted(len(given), 'length')}, the array {counted(len(array.shape), 'dimension')} {array.shape}"
            )
    inner = layout.chunks or (had.chunks if had else new.default_chunks(array.shape, dtype.itemsize))
    shards = layout.shards or (had.shards if had and layout.chunks is None and layout.zarr_format != 2 else None)
    if shards is not None:
        if (layout.zarr_format or _format_of(source, member)) == 2:
            raise UsageError(f"{name}--shards is for Zarr format 3; format 2 has none")
        if any(s % c for s, c in zip(shards, inner, strict=True)):
            raise UsageError(f"{name}shards {shards} are not made of whole chunks {inner} (--shards, --chunks)")
    compressor = layout.compressor or _COMPRESSOR
    if layout.compressor is None and had is not None and new.is_compressor(had.codecs):
        compressor = had.codecs
    new.check_compressor(compressor)
    if (problem := metadata.too_large(compressor, inner, dtype)) is not None:
        raise UsageError(f"{name}{problem}; choose smaller chunks (--chunks) or another compressor (--compressor)")
    chunking = Chunking(inner, shards, compressor, had.fill if had else None)
    made = ArrayInfo(array.name, array.shape, dtype.newbyteorder("="), False, chunking)
    held = _writing(new.document(made, layout.zarr_format or _format_of(source, member)))
    return replace(made, chunking=replace(chunking, held=held))


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


def _format_of(source: Source, member: Member) -> int:
    return source.documents[member.key].zarr_format if isinstance(source, ZarrSource) else 3


def check_compressor(text: str | None) -> None:
    """Raise UsageError for an unknown one."""
    if text is not None:
        new.check_compressor(text)


def _writing(fields: Document) -> Held:
    """Memory for writing the array that a document describes."""
    return chunks.writing(metadata.parse(fields, {}, "the result"))


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
        if not isinstance(path, str):
            self._place = UrlPlace(path)
            return
        if packed:
            self._archive = path
        self._place = FolderPlace(f"{path}.folder" if packed else path, begun, flush)

    def writer(self, info: ArrayInfo, source: Source, member: Member, rule: Rule | None = None, begun: Begun | None = None) -> Writer[Box]:
        assert info.chunking is not None
        key = member.name if source.format != "npy" else ""
        if (key or source.format == "npz") and not _may_be_key(key):
            raise UnsupportedError(
                f"array {shown(key)}: this name cannot be one in a Zarr hierarchy; save it under another name, or give DEST a name in .npz"
            )
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
        try:
            return chunks.ChunkWriter(self._place.objects(), key, info, document, write_empty, self._place)
        except UnknownCodec as unknown:
            from leakycli.formats.zarr.fallback import FallbackWriter

            return FallbackWriter(self._place, key, info, document, write_empty, str(unknown))

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
            return self._new(info, said.fill, attributes, zarr_format, said.names, document)
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
        return self._new(info, None, attributes, zarr_format, None, None)

    def _new(
        self,
        info: ArrayInfo,
        fill: np.generic | None,
        attributes: Document,
        zarr_format: int,
        names: list[str | None] | None,
        before: ArrayDocument | None,
    ) -> dict[str, Document]:
        """The documents of a new array. before: those of its source, of which the form of chunk keys is kept."""
        keys = None
        if before is not None and zarr_format in (before.zarr_format, 2):
            keys = "default" if before.prefix else "v2", before.separator
        fields = new.document(info, zarr_format, names if zarr_format == 3 else None, keys)
        if fill is not None:
            fields["fill_value"] = metadata.encode_fill(fill, zarr_format)
        elif before is not None and zarr_format == 2:
            fields["fill_value"] = None
        if zarr_format == 3:
            return {"zarr.json": fields | {"attributes": attributes}}
        return {".zarray": fields} | ({".zattrs": attributes} if attributes else {})

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
        for names, done in ((copied, "copied"), (left, "left out")):
            if names:
                self._warn(key, [_told(names, done)])

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
            self._warn(member.key, [_told(strays, "copied")])

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


def _told(strays: list[str], done: str) -> str:
    """What to say of files in an array's folder that are no chunks of it. done: with them."""
    are = "is no chunk" if len(strays) == 1 else "are no chunks"
    return f"{counted(len(strays), 'file')} in its folder {are} of it, such as {shown(strays[0])}; {done}"


def _may_be_key(name: str) -> bool:
    """Whether an array of that name can lie in a hierarchy, under its name and among zarr's own documents."""
    parts = name.split("/")
    odd = any(part in ("", ".", "..", "zarr.json") or part.startswith(("__", ".z")) for part in parts)
    return not odd and "\0" not in name and "\\" not in name


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
