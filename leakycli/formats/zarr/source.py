"""Reading Zarr: hierarchies by their metadata documents, arrays through zarr."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from types import EllipsisType
from typing import Any

import numpy as np
from zarr.abc.store import ByteRequest, RangeByteRequest
from zarr.core.buffer import Buffer, default_buffer_prototype

from leakycli.errors import CorruptError, LeakyError, SourceChangedError, UnsupportedError, shown
from leakycli.formats.base import METADATA, Array, ArrayInfo, Chunking, Member, Outline, Source, Usage
from leakycli.formats.zarr import conventions, engine, metadata
from leakycli.formats.zarr.metadata import ArrayDocument
from leakycli.formats.zarr.soundness import Inspector
from leakycli.formats.zarr.store import Watched
from leakycli.formats.zarr.tree import DOCUMENTS, Entry, Tree, ZipTree, opened
from leakycli.regions import Box, Grid, Presence
from leakycli.stores.remote import Remote

#: Largest metadata document read, in bytes.
_LONGEST_DOCUMENT = 64 << 20


#: Levels of a metadata document.
_DEEPEST = 100

#: Most write units of an array: one bit of memory each.
_MOST_UNITS = 1 << 34


class ZarrSource:
    """An array or a group with all that is under it, of version 2 or 3, in a folder or a zip archive.

    Members are named by their path below the source. Arrays of floats are transformed when nobody names them, but for those that say where
    the others' values are; all else is not.
    """

    def __init__(self, path: str | Remote) -> None:
        """Raises StorageError, CorruptError or UnsupportedError, each naming the path or the document."""
        self.tree, self._root = opened(path)
        self.format = "zarr.zip" if isinstance(self.tree, ZipTree) else "zarr"
        self.warnings: tuple[str, ...] = ()
        self.documents: dict[str, ArrayDocument] = {}
        self._groups: dict[str, dict[str, Any]] = {}
        self._presence: dict[str, Presence | None] = {}
        self._digest = hashlib.blake2b(digest_size=16)
        try:
            members = tuple(self._members(""))
            supporting = conventions.supporting(self.documents, self._groups)
            self.members = tuple(replace(member, unasked=False) if member.key in supporting else member for member in members)
            if not self.members:
                raise CorruptError(f"{self.tree.where(self._root)}: is no Zarr array or group: it has no {', '.join(DOCUMENTS)}")
            if not any(member.array or member.problem for member in self.members):
                raise CorruptError(f"{self.tree.where(self._root)}: holds no arrays")
        except BaseException:
            self.tree.close()
            raise
        self.opened: dict[str, Any] = {"metadata_blake2b": self._digest.hexdigest(), **self.tree.identity()}

    def key(self, member: Member, name: str = "") -> str:
        """The key in the tree of `member`, or of something under it."""
        return "/".join(part for part in (self._root, member.key, name) if part)

    def sequential(self, member: Member) -> bool:
        return False

    def reader(self, member: Member) -> ZarrReader:
        assert member.array is not None
        reader = PlainReader if member.array.chunking is not None and member.array.chunking.plain else ZarrReader
        return reader(self.tree, self.key(member), member.array, self.documents[member.key], self._listed(member))

    def stored(self, member: Member) -> Presence | None:
        """Raises CorruptError where a folder is in a chunk's place."""
        presence = self._listed(member)
        return None if presence is None or presence.count == presence.size else presence

    def usage(self, member: Member) -> Usage | None:
        if member.key not in self.documents:
            return None
        presence = self._listed(member)
        if presence is None:
            return None
        files = (entry for entry in self.tree.walk(self.key(member)) if not entry.folder)
        size = sum(self.tree.size(entry.key) if entry.size is None else entry.size for entry in files)
        return Usage(presence.count, presence.size, size)

    def _listed(self, member: Member) -> Presence | None:
        """The write units that are stored; None where there is no listing."""
        if not self.tree.listed:
            return None
        found = self._presence.get(member.key)
        if found is None:
            document, under = self.documents[member.key], self.key(member)
            grid = Grid(document.shape, document.unit)
            if grid.size > _MOST_UNITS:
                where = self.tree.where(under)
                raise UnsupportedError(f"{where}: has {grid.size} chunks, more than {_MOST_UNITS} are not kept track of")
            found = Presence(grid.size)
            skip = len(under) + 1 if under else 0
            for entry in self.tree.walk(under):
                index = document.chunk_index(entry.key[skip:])
                if index is None:
                    if self.tree.files and not entry.folder and document.is_above_chunks(entry.key[skip:]):
                        # zarr takes all that would be in it for chunks that never were.
                        raise CorruptError(f"{self.tree.where(entry.key)}: is a file where a folder of chunks belongs")
                    continue
                if entry.folder:
                    raise CorruptError(f"{self.tree.where(entry.key)}: is a folder where a chunk belongs")
                found.add(grid.number(index))
            self._presence[member.key] = found
        return found

    def copy_problem(self, member: Member, other: Source, there: Member) -> str | None:
        assert isinstance(other, ZarrSource)
        ours, theirs = (
            {entry.key[len(key) + 1 if key else 0 :] for entry in own}
            for own, key in ((self.files(member), self.key(member)), (other.files(there), other.key(there)))
        )
        if ours != theirs:
            return f"has not the keys of its source: {shown(sorted(ours ^ theirs)[0])} is in one of them only"
        for name in sorted(ours):
            # A group's consolidated metadata follow those of the arrays.
            if member.array is None and member.problem is None and name in ("zarr.json", ".zmetadata"):
                continue
            if self.tree.read(self.key(member, name)) != other.tree.read(other.key(there, name)):
                return f"is no copy of its source: {shown(name)} differs"
        return None

    def files(self, member: Member) -> Iterator[Any]:
        """All that belongs to `member`: an array with its chunks, or a group's documents and what is beside them."""
        under = self.key(member)
        if not self.tree.listed:
            yield from (Entry(key, False) for key in self._possible(member) if self.tree.holds(key))
        elif member.array is not None or member.problem is not None:
            yield from (entry for entry in self.tree.walk(under) if not entry.folder)
        else:
            names = [entry for entry in self.tree.children(under) if not entry.folder]
            if any(entry.key.rpartition("/")[2] == "zarr.json" for entry in names):
                # Version 3 is what was read; documents of version 2 beside it would be wrong of what is written.
                names = [entry for entry in names if entry.key.rpartition("/")[2] not in (".zgroup", ".zattrs", ".zmetadata")]
            yield from names

    def _possible(self, member: Member) -> Iterator[str]:
        """Every key that may belong to `member`."""
        yield from (self.key(member, name) for name in METADATA)
        if (document := self.documents.get(member.key)) is not None:
            grid = Grid(document.shape, document.unit)
            yield from (self.key(member, document.chunk_key(grid.index(number))) for number in range(grid.size))

    def identity(self) -> dict[str, Any]:
        digest = hashlib.blake2b(digest_size=16)
        for member in self.members:
            for name, text in self._texts(self.key(member)).items():
                digest.update(f"{member.key}/{name}\0{len(text)}\0".encode("utf-8", "surrogateescape") + text)
        return {"metadata_blake2b": digest.hexdigest(), **self.tree.identity()}

    def close(self) -> None:
        self.tree.close()

    def _texts(self, here: str) -> dict[str, bytes]:
        """The metadata documents directly under the key `here`, by name."""
        names = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
        found = self.tree.read_all([f"{here}/{name}" if here else name for name in names])
        return {name: text for name, text in zip(names, found, strict=True) if text is not None}

    def _members(self, key: str) -> Iterator[Member]:
        """The node under `key` and all below it."""
        here = "/".join(part for part in (self._root, key) if part)
        texts = self._texts(here)
        if not any(name in texts for name in DOCUMENTS):
            return
        for name, text in texts.items():
            self._digest.update(f"{key}/{name}\0{len(text)}\0".encode("utf-8", "surrogateescape") + text)
        document = "zarr.json" if "zarr.json" in texts else ".zarray" if ".zarray" in texts else ".zgroup"
        where = self.tree.where(f"{here}/{document}" if here else document)
        fields = _parsed(texts[document], where)
        node = fields.get("node_type") if document == "zarr.json" else "array" if document == ".zarray" else "group"
        if node == "array":
            attributes = {}
            if ".zattrs" in texts and document == ".zarray":
                attributes = _parsed(texts[".zattrs"], self.tree.where(f"{here}/.zattrs" if here else ".zattrs"))
            yield self._array(key, fields, attributes, where)
            return
        if node != "group":
            raise CorruptError(f"{where}: its node_type is neither array nor group")
        metadata.check_group(fields, where)
        self._groups[key] = fields.get("attributes", {})
        for name in (".zmetadata", ".zattrs"):
            if name in texts and document == ".zgroup":
                self._groups[key] = _parsed(texts[name], self.tree.where(f"{here}/{name}" if here else name))
        yield Member(key, key)
        for entry in self.tree.children(here):
            if entry.folder:
                name = entry.key.rpartition("/")[2]
                yield from self._members(f"{key}/{name}" if key else name)

    def _array(self, key: str, fields: dict[str, Any], attributes: dict[str, Any], where: str) -> Member:
        outline = None
        try:
            document = metadata.parse(fields, attributes, where)
            self.documents[key] = document
            chunking = Chunking(document.chunks, document.shards, document.codecs, document.fill_value)
            outline = Outline(document.shape, document.dtype_name, chunking)
            metadata.check_transformable(document, where)
            assert document.dtype is not None
            chunking = replace(
                chunking,
                turned=document.turned,
                at_once=engine.at_once(document, self.tree.files),
                plain=engine.is_plain(document, self.tree.files),
            )
            info = ArrayInfo(key, document.shape, document.dtype, False, chunking)
            return Member(key, key, info, unasked=not key or info.dtype.kind == "f", reserved=self._reserved(document, where))
        except LeakyError as error:
            # It matters only if it is chosen; and what has no leaky ReLU is chosen by name only.
            return Member(key, key, None, error, not key or not isinstance(error, UnsupportedError), outline=outline)

    def _reserved(self, document: ArrayDocument, where: str) -> LeakyError | None:
        """Why the array is not transformed unless it is named by its own path; None for most."""
        if not (packing := conventions.packing(document.attributes)):
            return None
        return UnsupportedError(
            f"{where}: has {' and '.join(packing)}, so that its stored numbers are not its values; leave it out with --skip, or name it by "
            "its own path to transform the numbers"
        )


class ZarrReader:
    """Reads boxes of an array, from any number of threads."""

    sequential = False
    decodes = False
    cumulative = False
    pipeline: str | None

    def __init__(self, tree: Tree, key: str, info: ArrayInfo, document: ArrayDocument, stored: Presence | None) -> None:
        """stored: the write units that were there when the source was opened, and must be when they are read; None: any may be missing."""
        self.info = info
        self._tree, self._key, self._document, self._stored = tree, key, document, stored
        self._grid = Grid(document.shape, document.unit)
        try:
            # Plain files are looked at before: not all who read those ask the store for them.
            self._store = tree.store() if tree.files else Watched(tree.store(), self._look)
            self._array = engine.OpenArray(self._store, key, document, tree.files)
            self.pipeline = self._array.pipeline
            self._inspector = Inspector(document)
        except Exception as error:
            raise self._unopened(error) from None
        self._prototype = default_buffer_prototype()

    def _unopened(self, error: Exception) -> LeakyError:
        found = engine.explained(error, self._tree.where(self._key), "cannot read")
        if not isinstance(found, CorruptError) or isinstance(error, LeakyError):
            return found
        text = shown(" ".join(str(error).split()))[:200] or type(error).__name__
        return CorruptError(f"{self._tree.where(self._key)}: cannot be opened: {text}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._tree, self._key, self.info, self._document, self._stored)

    def fetch(self, region: Box, buffer: Array) -> None:
        raise NotImplementedError("boxes are read as they are needed")

    def read(self, region: Box, buffer: Array) -> tuple[Array, None]:
        x: Array = buffer[: region.size * self.info.dtype.itemsize].view(self.info.dtype).reshape(region.shape)
        keys = [(number, self._chunk(number)) for number in self._grid.units(region) if self._expected(number)] if self._tree.files else []
        for number, key in keys:
            self._inspect(number, key)
        try:
            self._read(region, x, len(keys))
        except Exception as error:
            raise self._diagnosed(region, error) from None
        for _, key in keys:
            # What is gone zarr takes for what never was.
            if not self._tree.holds(key):
                raise self._gone(key)
        return x, None

    def _expected(self, number: int) -> bool:
        return self._stored is not None and number in self._stored

    def _look(self, key: str, found: Buffer | None, part: ByteRequest | None) -> None:
        """Raise what is wrong with what zarr is about to get."""
        index = self._document.chunk_index(key[len(self._key) + 1 if self._key else 0 :])
        if index is None:
            return
        number = self._grid.number(index)
        if found is None:
            if self._expected(number):
                raise self._gone(key)
            return
        data = found.to_bytes()
        if part is None:
            problem = self._inspector.problem(io.BytesIO(data), self._grid.box(index).shape == self._grid.unit)
        else:
            problem = self._inspector.part_problem(data, part.start) if isinstance(part, RangeByteRequest) else None
        if problem is not None:
            raise CorruptError(f"{self._tree.where(key)}: cannot be decoded: {problem}")

    def _inspect(self, number: int, key: str) -> None:
        """Raise what the decoders pass over, and what the system says; a pipeline in another language may not tell it."""
        where = self._tree.where(key)
        try:
            with self._tree.open(key) as file:
                problem = self._inspector.problem(file, self._grid.box(self._grid.index(number)).shape == self._grid.unit)
        except FileNotFoundError:
            raise self._gone(key) from None
        except OSError as error:
            raise engine.explained(error, where, "cannot read") from None
        if problem is not None:
            raise CorruptError(f"{where}: cannot be decoded: {problem}")

    def _gone(self, key: str) -> LeakyError:
        return SourceChangedError(f"{self._tree.where(key)}: was deleted while it was read; restore it and run again")

    def _read(self, region: Box, x: Array, units: int = 1) -> None:
        self._array.at(units).get_basic_selection(region.slices, out=self._prototype.nd_buffer.from_numpy_array(x))

    def _chunk(self, number: int) -> str:
        return "/".join(part for part in (self._key, self._document.chunk_key(self._grid.index(number))) if part)

    def _diagnosed(self, region: Box, error: Exception) -> LeakyError:
        """The error of the first write unit in `region` that has one."""
        if isinstance(error, LeakyError):
            return error
        for number in self._grid.units(region):
            box = self._grid.box(self._grid.index(number))
            where = self._tree.where(self._chunk(number))
            try:
                self._read(box, np.empty(box.shape, self.info.dtype))
            except Exception as inner:
                return engine.explained(inner, where, "cannot read")
        return engine.explained(error, self._tree.where(self._key), "cannot read")

    def commit(self, payloads: list[Any]) -> None:
        pass

    def finish(self) -> None:
        pass

    def close(self) -> None:
        self._store.close()


class PlainReader(ZarrReader):
    """Reads boxes of an array whose write units are files of plain elements: without zarr, which would read them into memory of its own."""

    def __init__(self, tree: Tree, key: str, info: ArrayInfo, document: ArrayDocument, stored: Presence | None) -> None:
        # zarr has opened it, too: it may refuse what the document says.
        super().__init__(tree, key, info, document, stored)
        self.pipeline = None
        self._fill = 0 if document.fill_value is None else document.fill_value

    def read(self, region: Box, buffer: Array) -> tuple[Array, None]:
        x: Array = buffer[: region.size * self.info.dtype.itemsize].view(self.info.dtype).reshape(region.shape)
        for number in self._grid.units(region):
            unit = self._grid.box(self._grid.index(number))
            common = unit.common(region)
            self._read_unit(number, common.within(unit) or (...,), x[common.within(region) or ...])
        return x, None

    def _read_unit(self, number: int, selection: tuple[slice | EllipsisType, ...], x: Array) -> None:
        """Put what `selection` selects of a write unit into `x`."""
        key = self._chunk(number)
        try:
            with self._tree.open(key) as file:
                size, belong = os.fstat(file.fileno()).st_size, prod(self._grid.unit) * self.info.dtype.itemsize
                if size != belong:
                    raise CorruptError(f"{self._tree.where(key)}: cannot be decoded: it has {size} bytes, where {belong} belong")
                whole = x if x.shape == self._grid.unit and x.flags.c_contiguous else np.empty(self._grid.unit, self.info.dtype)
                view, done = whole.reshape(-1).view(np.uint8).data, 0
                while done < size:
                    if not (count := os.readv(file.fileno(), [view[done:]])):
                        raise SourceChangedError(f"{self._tree.where(key)}: ended at byte {done}: it became shorter while it was read")
                    done += count
        except (FileNotFoundError, NotADirectoryError):
            if self._expected(number):
                raise self._gone(key) from None
            x[...] = self._fill
            return
        except OSError as error:
            raise engine.explained(error, self._tree.where(key), "cannot read") from None
        if whole is not x:
            x[...] = whole[selection]


def _parsed(text: bytes, where: str) -> dict[str, Any]:
    """A metadata document. Raises CorruptError where it is no JSON object."""
    try:
        if len(text) > _LONGEST_DOCUMENT:
            raise CorruptError(f"{where}: has {len(text)} bytes; a metadata document of more than {_LONGEST_DOCUMENT} is not read")
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, LeakyError):
            raise
        raise CorruptError(f"{where}: is no JSON: {shown(str(error)) or type(error).__name__}") from None
    if not isinstance(fields, dict):
        raise CorruptError(f"{where}: is no JSON object")
    if text.count(b"[") + text.count(b"{") > _DEEPEST and _deeper(fields, _DEEPEST):
        raise CorruptError(f"{where}: is nested in more than {_DEEPEST} levels")
    return fields


def _deeper(value: Any, most: int) -> bool:
    """Whether a JSON value has more levels than `most`: level by level, as what goes down by calls ends at some hundreds."""
    level = [value]
    for _ in range(most):
        level = [
            inner for each in level for inner in (each.values() if isinstance(each, dict) else each) if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True
