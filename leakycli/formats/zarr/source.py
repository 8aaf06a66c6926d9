"""Read Zarr: hierarchies by their metadata documents, arrays chunk by chunk."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from leakycli.errors import CorruptError, LeakyError, StorageError, UnsupportedError, UsageError, counted, listed, shown
from leakycli.formats.base import METADATA, ArrayInfo, Chunking, Member, Outline, Reader, Source, Usage
from leakycli.formats.zarr import chunks, comparing, conventions, hierarchy, metadata, result
from leakycli.formats.zarr.codecs import UnknownCodec
from leakycli.formats.zarr.hierarchy import Node
from leakycli.formats.zarr.masks import Mask
from leakycli.formats.zarr.metadata import ArrayDocument
from leakycli.formats.zarr.tree import DOCUMENTS, Entry, ZipTree, opened, states_of
from leakycli.function.rule import Rule
from leakycli.regions import Box, Grid, Presence

if TYPE_CHECKING:
    from leakycli.stores.remote import Remote

#: Most write units of an array: one bit of memory each.
_MOST_UNITS = 1 << 34


@dataclass(slots=True)
class Strays:
    """Files in an array's folder that are neither its documents nor its chunks.

    count: how many. example: the key of one, below the array's. other: the key of one that would be a chunk if chunk keys were of another
    form; None where there is none.
    """

    count: int = 0
    example: str = ""
    other: str | None = None

    def add(self, key: str, document: ArrayDocument) -> None:
        self.count += 1
        self.example = self.example or key
        if self.other is None and document.otherwise_keyed(key):
            self.other = key


class ZarrSource:
    """An array or a group with all that is under it, of version 2 or 3, in a folder or a zip archive, or behind a URL.

    Members are the nodes of the hierarchy, named by their path below the source. Arrays of floats are transformed when nobody names them,
    but for those that say where the others' values are; all else is copied.
    """

    def __init__(self, path: str | Remote) -> None:
        """Raises StorageError, CorruptError or UnsupportedError, each naming the path or the document."""
        self.tree, self._root = opened(path)
        self.format = "zarr.zip" if isinstance(self.tree, ZipTree) else "zarr"
        self.documents: dict[str, ArrayDocument] = {}
        self._presence: dict[str, Presence | None] = {}
        self._strays: dict[str, Strays] = {}
        try:
            self.nodes: dict[str, Node] = {node.path: node for node in hierarchy.nodes(self.tree, self._root)}
            if not self.nodes:
                raise self._no_node()
            members = tuple(self._member(node) for node in self.nodes.values())
            supporting = self._supporting()
            self.members = tuple(replace(member, unasked=False) if member.key in supporting else member for member in members)
            if not any(member.array or member.problem for member in self.members):
                raise CorruptError(f"{self.tree.where(self._root)}: holds no arrays")
        except BaseException:
            self.tree.close()
            raise
        self.warnings: tuple[str, ...] = tuple(self._oddities())
        self.opened: dict[str, Any] = {"metadata_blake2b": _digest(self.nodes.values()), **self.tree.identity()}

    def _no_node(self) -> LeakyError:
        where = self.tree.where(self._root)
        if self._root and self.tree.listed and not self.tree.holds(self._root) and not any(self.tree.children(self._root)):
            return StorageError(f"cannot read {where}: the archive holds nothing of this name")
        text = f"{where}: is no Zarr array or group: it has no {', '.join(DOCUMENTS)}"
        if inner := hierarchy.inner_nodes(self.tree, self._root):
            text += f"; {self.tree.where(hierarchy.under(self._root, inner[0]))} is one"
        return CorruptError(text)

    def _supporting(self) -> set[str]:
        arrays = {
            path: conventions.Described(node.attributes, conventions.dimensions(node.fields.get("dimension_names"), node.attributes))
            for path, node in self.nodes.items()
            if node.is_array
        }
        return conventions.supporting(arrays, {path: node.attributes for path, node in self.nodes.items() if not node.is_array})

    def _oddities(self) -> Iterator[str]:
        """Warnings of nodes that consolidated metadata list and that have no document, and of floats that are copied for their type."""
        for member in self.members:
            if member.key and member.problem is not None and metadata.is_others_float(self.nodes[member.key].fields):
                yield f"{member.problem}; copied as it is"
        for group in self.nodes.values():
            gone = sorted(path for path in hierarchy.promised(group) if hierarchy.under(group.path, path) not in self.nodes)
            if gone:
                yield f"{group.where}: its consolidated metadata list {listed(gone)}, which {_has(len(gone))} no document; left out of them"

    def key(self, member: Member, name: str = "") -> str:
        """The key in the tree of `member`, or of something under it."""
        return "/".join(part for part in (self._root, member.key, name) if part)

    def sequential(self, member: Member) -> bool:
        return False

    def reader(self, member: Member) -> Reader[Box]:
        assert member.array is not None
        array = self.key(member), member.array, self.documents[member.key], self._listed(member)
        try:
            return chunks.ChunkReader(self.tree.objects(), *array)
        except UnknownCodec as unknown:
            from leakycli.formats.zarr.fallback import FallbackReader

            return FallbackReader(self.tree, *array, str(unknown))

    def mask(self, member: Member, rule: Rule) -> Mask | None:
        mask = result.mask_of(self.documents[member.key], rule)
        return mask if mask.marks else None

    def stored(self, member: Member) -> Presence | None:
        """Raises CorruptError where a folder is in a chunk's place, or the chunks have keys of another form than the document says."""
        presence = self._listed(member)
        strays = self._strays.get(member.key)
        if presence is not None and not presence.count and strays is not None and strays.other is not None:
            document = self.documents[member.key]
            keyed = f"the separator {document.separator!r}" + (f" and keys that begin with {document.prefix!r}" if document.prefix else "")
            skip = f", or leave the array as is: --skip {shown(shlex.quote(member.name))}" if member.name else ""
            raise CorruptError(
                f"{self.tree.where(self.key(member))}: none of its chunks is found, but {counted(strays.count, 'file')} of other names, "
                f"such as {shown(strays.other)}; its document says {keyed}: correct it (dimension_separator, chunk_key_encoding){skip}"
            )
        return None if presence is None or presence.count == presence.size else presence

    def strays(self, member: Member) -> Iterator[Entry]:
        """The files in an array's folder that are neither its documents nor its chunks."""
        self._listed(member)
        if self._strays.get(member.key, Strays()).count:
            document, node = self.documents[member.key], self.nodes[member.key]
            for entry in hierarchy.files(self.tree, self._root, node):
                name = self.below(member, entry.key)
                if name not in METADATA and document.chunk_index(name) is None:
                    yield entry

    def below(self, member: Member, key: str) -> str:
        """A key of the tree, as it is below that of `member`."""
        under = self.key(member)
        return key[len(under) + 1 if under else 0 :]

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
            found, strays = Presence(grid.size), Strays()
            for entry in self.tree.walk(under):
                key = self.below(member, entry.key)
                index = document.chunk_index(key)
                if index is not None:
                    if entry.folder:
                        raise CorruptError(f"{self.tree.where(entry.key)}: is a folder where a chunk belongs")
                    if entry.problem is not None:
                        raise entry.problem
                    found.add(grid.number(index))
                elif not entry.folder and key not in METADATA:
                    if self.tree.files and document.is_above_chunks(key):
                        # zarr takes all that would be in it for chunks that never were.
                        raise CorruptError(f"{self.tree.where(entry.key)}: is a file where a folder of chunks belongs")
                    strays.add(key, document)
            self._presence[member.key], self._strays[member.key] = found, strays
        return found

    def copy_problem(self, member: Member, other: Source, there: Member) -> str | None:
        assert isinstance(other, ZarrSource)
        return comparing.copy_problem((self, member), (other, there))

    def document_problem(self, member: Member, other: Source, there: Member, rule: Rule) -> str | None:
        assert isinstance(other, ZarrSource)
        return comparing.document_problem((self, member), (other, there), rule)

    def files(self, member: Member) -> Iterator[Entry]:
        """All files that belong to `member`: an array with its chunks, or a group's documents and what is beside them."""
        if not self.tree.listed:
            return (Entry(key, False) for key in self._possible(member) if self.tree.holds(key))
        return hierarchy.files(self.tree, self._root, self.nodes[member.key])

    def _possible(self, member: Member) -> Iterator[str]:
        """Every key that may belong to `member`."""
        yield from (self.key(member, name) for name in METADATA)
        if (document := self.documents.get(member.key)) is not None:
            grid = Grid(document.shape, document.unit)
            yield from (self.key(member, document.chunk_key(grid.index(number))) for number in range(grid.size))

    def identity(self, used: Collection[Member] = ()) -> dict[str, Any]:
        """Of the documents, and of every file and folder that belongs to the members `used`: a chunk that is read has been the same
        all the time between two calls that give the same."""
        texts = (replace(node, texts=hierarchy.texts_of(self.tree, hierarchy.under(self._root, path))) for path, node in self.nodes.items())
        states = states_of(self.tree, [(self.key(member), member.array is not None or member.problem is not None) for member in used])
        return {"metadata_blake2b": _digest(texts), **({"files": states} if states else {}), **self.tree.identity()}

    def close(self) -> None:
        self.tree.close()

    def _member(self, node: Node) -> Member:
        if not node.is_array:
            return Member(node.path, node.path)
        key, where, floating = node.path, node.where, metadata.is_floating(node.fields)
        outline = Outline(*metadata.outlined(node.fields), None)
        try:
            document = metadata.parse(node.fields, node.attributes, where)
            self.documents[key] = document
            chunking = Chunking(document.chunks, document.shards, document.codecs, document.fill_value)
            outline = Outline(document.shape, document.dtype_name, chunking)
            metadata.check_transformable(document, where)
            assert document.dtype is not None
            if (attribute := conventions.reinterpreted(document.attributes, document.dtype.kind)) is not None:
                raise UnsupportedError(f"{where}: has {attribute}, so that readers take its numbers for others; convert it first")
            _check_installed(document, where)
            info = ArrayInfo(key, document.shape, document.dtype, False, replace(chunking, held=chunks.reading(document)))
            return Member(key, key, info, unasked=not key or bool(floating), reserved=self._reserved(document, where))
        except LeakyError as error:
            # It matters only if it is transformed. Of what type it is may be unclear; floats are, and what has no leaky ReLU is not.
            return Member(key, key, None, error, not key or floating is not False, outline=outline)

    def _reserved(self, document: ArrayDocument, where: str) -> LeakyError | None:
        """Why the array is not transformed unless it is named by its own path; None for most."""
        if not (packing := conventions.packing(document.attributes)):
            return None
        return UnsupportedError(
            f"{where}: has {' and '.join(packing)}, so that its stored numbers are not its values; leave it out with --skip, or name it by "
            "its own path to transform the numbers"
        )


def _check_installed(document: ArrayDocument, where: str) -> None:
    """Raise UsageError where a codec of the array is known and not installed."""
    try:
        chunks.chain_of(document)
    except UnknownCodec:
        from leakycli.formats.zarr.installed import missing_codec

        if (missing := missing_codec(document)) is not None:
            raise UsageError(f"{where}: {missing}") from None


def _digest(nodes: Iterable[Node]) -> str:
    """Of all documents of some nodes."""
    digest = hashlib.blake2b(digest_size=16)
    for node in nodes:
        for name, text in node.texts.items():
            digest.update(f"{node.path}/{name}\0{len(text)}\0".encode("utf-8", "surrogateescape") + text)
    return digest.hexdigest()


def _has(count: int) -> str:
    return "has" if count == 1 else "have"
