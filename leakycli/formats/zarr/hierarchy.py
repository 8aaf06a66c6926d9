"""The inventory of a hierarchy: what each file below its root belongs to.

A folder with a Zarr document is a node: an array or a group. All files in an array's folder are the array's. A folder without a document
belongs to the nearest group around it, with the files in it, but for nodes that lie below it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from leakycli.errors import CorruptError, LeakyError, UnsupportedError, shown
from leakycli.formats.base import METADATA
from leakycli.formats.zarr import metadata
from leakycli.formats.zarr.tree import DOCUMENTS, Entry, Tree, too_long

#: Largest metadata document read, in bytes.
_LONGEST_DOCUMENT = 64 << 20

#: Levels of a metadata document.
_DEEPEST = 100

#: Folders that are looked into for a node, where a root has no document.
_MOST_LOOKED_INTO = 1000


@dataclass(frozen=True)
class Node:
    """An array or a group, by its path below the root of the hierarchy.

    texts: its documents as they are stored, by name. name: of the document that counts. fields, attributes: what that says.
    consolidated: the entries of a group's consolidated metadata (None without). folders: those without a document that belong to a group.
    where: how to call the document in a message.
    """

    path: str
    is_array: bool
    name: str
    fields: dict[str, Any]
    attributes: dict[str, Any]
    where: str
    texts: dict[str, bytes]
    consolidated: dict[str, Any] | None = None
    folders: list[str] = field(default_factory=list)

    @property
    def zarr_format(self) -> int:
        return 3 if self.name == "zarr.json" else 2

    @property
    def superseded(self) -> set[str]:
        """Names of documents that do not count: those of version 2 beside a `zarr.json`."""
        return set(METADATA) - {"zarr.json"} if self.name == "zarr.json" else set()


def nodes(tree: Tree, root: str) -> Iterator[Node]:
    """The node under the key `root` and all below it, groups before what is in them, in the order of their names.

    Yields nothing where there is no document under `root`. Raises CorruptError, UnsupportedError, StorageError.
    """
    first = _node(tree, root, "")
    if first is None:
        return
    yield first
    if first.is_array:
        return
    if not tree.listed:
        yield from _promised(tree, root, first)
        return
    yield from _below(tree, root, first, "")


def _below(tree: Tree, root: str, group: Node, path: str) -> Iterator[Node]:
    """The nodes below the folder `path`, which is that of `group` or belongs to it."""
    for entry in tree.children(under(root, path)):
        if not entry.folder:
            continue
        inner = under(path, entry.key.rpartition("/")[2])
        node = _node(tree, root, inner)
        if node is None:
            group.folders.append(inner)
            yield from _below(tree, root, group, inner)
        else:
            yield node
            if not node.is_array:
                yield from _below(tree, root, node, inner)


def _promised(tree: Tree, root: str, first: Node) -> Iterator[Node]:
    """The nodes that the root's consolidated metadata tell of, where there is no listing."""
    if first.consolidated is None:
        raise UnsupportedError(
            f"{tree.where(root)}: is a group without consolidated metadata, and a web server does not tell what is in it; "
            "give the URL of an array"
        )
    for path in sorted(promised(first)):
        if path:
            node = _node(tree, root, path)
            if node is None:
                raise CorruptError(f"{first.where}: its consolidated metadata list {shown(path)}, which is not there")
            yield node


def promised(group: Node) -> set[str]:
    """The paths, below a group, of the nodes that its consolidated metadata list."""
    entries = group.consolidated or {}
    if group.zarr_format == 3:
        return set(entries)
    names = (key.rpartition("/") for key in entries)
    return {path for path, _, name in names if name in (".zarray", ".zgroup")}


def files(tree: Tree, root: str, node: Node) -> Iterator[Entry]:
    """All files that belong to `node`, in no order; documents that do not count are left out."""
    if node.is_array:
        entries = (entry for entry in tree.walk(under(root, node.path)) if not entry.folder)
    else:
        entries = (entry for path in (node.path, *node.folders) for entry in tree.children(under(root, path)) if not entry.folder)
    own = {under(under(root, node.path), name) for name in node.superseded}
    return (entry for entry in entries if entry.key not in own)


def under(path: str, name: str) -> str:
    """The path of `name` in the folder `path`."""
    return f"{path}/{name}" if path and name else path or name


def texts_of(tree: Tree, key: str) -> dict[str, bytes]:
    """The metadata documents directly under `key`, by name."""
    names = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
    found = tree.read_all([under(key, name) for name in names], _LONGEST_DOCUMENT)
    return {name: text for name, text in zip(names, found, strict=True) if text is not None}


def _node(tree: Tree, root: str, path: str) -> Node | None:
    """The node in the folder `path`; None where it has no document."""
    here = under(root, path)
    texts = texts_of(tree, here)
    name = next((name for name in DOCUMENTS if name in texts), None)
    if name is None:
        return None

    def parsed(name: str) -> dict[str, Any]:
        return parsed_document(texts[name], tree.where(under(here, name)))

    where, fields = tree.where(under(here, name)), parsed(name)
    kind = fields.get("node_type") if name == "zarr.json" else "array" if name == ".zarray" else "group"
    if kind not in ("array", "group"):
        raise CorruptError(f"{where}: its node_type is neither array nor group")
    attributes = fields.get("attributes", {}) if name == "zarr.json" else parsed(".zattrs") if ".zattrs" in texts else {}
    if kind == "array":
        return Node(path, True, name, fields, attributes if isinstance(attributes, dict) else {}, where, texts)
    metadata.check_group(fields, where)
    consolidated = parsed(".zmetadata") if name == ".zgroup" and ".zmetadata" in texts else fields.get("consolidated_metadata")
    entries = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    return Node(path, False, name, fields, attributes, where, texts, entries if isinstance(entries, dict) else None)


def inner_nodes(tree: Tree, root: str) -> list[str]:
    """Paths of the nodes nearest below a folder `root` that is none itself, of those found among the first folders."""
    if not tree.listed:
        return []
    level, looked = [""], 0
    while level and looked < _MOST_LOOKED_INTO:
        below: list[str] = []
        found: list[str] = []
        for path in level:
            looked += 1
            for entry in tree.children(under(root, path)):
                if entry.folder:
                    inner = under(path, entry.key.rpartition("/")[2])
                    (found if any(tree.holds(under(entry.key, name)) for name in DOCUMENTS) else below).append(inner)
        if found:
            return found
        level = below
    return []


def parsed_document(text: bytes, where: str) -> dict[str, Any]:
    """A metadata document. Raises CorruptError where it is no JSON object."""
    try:
        if len(text) > _LONGEST_DOCUMENT:
            raise too_long(where, len(text), _LONGEST_DOCUMENT)
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
