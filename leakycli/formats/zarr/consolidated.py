"""Consolidated metadata: the documents of all nodes below a group, once more in the group's own. Pure: JSON values in, JSON values out.

They are rebuilt from the documents that were written, so that they cannot be stale. In version 3 they are `consolidated_metadata` in the
group's `zarr.json`, as zarr-python has them; in version 2 the file `.zmetadata`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from leakycli.formats.zarr.metadata import Document

#: The documents of nodes by path below the group, then by name. The group's own have the path "".
Documents = Mapping[str, Mapping[str, Document]]

_KEY = "consolidated_metadata"


def with_consolidated(group: Document, documents: Documents, before: Mapping[str, Any]) -> Document:
    """A version 3 group's document with its consolidated metadata rebuilt. before: entries of the source, whose order is kept."""
    block = group.get(_KEY)
    block = block if isinstance(block, dict) else {"kind": "inline", "must_understand": False}
    return {**group, _KEY: {**block, "metadata": _entries_v3(documents, before)}}


def zmetadata(documents: Documents, before: Mapping[str, Any]) -> Document:
    """A version 2 group's `.zmetadata`. before: entries of the source, whose order is kept."""
    entries: dict[str, Document] = {}
    for path in _whole(documents, {".zgroup", ".zarray"}):
        for name in (".zgroup", ".zarray", ".zattrs"):
            key = f"{path}/{name}" if path else name
            document = documents[path].get(name)
            if document is None and name == ".zattrs" and key in before:
                # Some writers list empty attributes that have no file.
                document = {}
            if document is not None:
                # zarr-python notes in a group's entry that it is consolidated, too.
                was = before.get(key)
                entries[key] = was if isinstance(was, dict) and _without(was) == _without(document) else document
    return {"zarr_consolidated_format": 1, "metadata": {key: entries[key] for key in _ordered(entries, before)}}


def _entries_v3(documents: Documents, before: Mapping[str, Any]) -> dict[str, Document]:
    entries: dict[str, Document] = {}
    for path in _whole(documents, {"zarr.json"}):
        if not path:
            continue
        document = documents[path]["zarr.json"]
        was = before.get(path)
        if document.get("node_type") == "group":
            # An entry has the metadata consolidated in its group only where the source's had them.
            had = was.get(_KEY) if isinstance(was, dict) else None
            inner = had.get("metadata") if isinstance(had, dict) else None
            document = _without(document)
            if isinstance(inner, dict) and inner:
                below = {each[len(path) + 1 :]: found for each, found in documents.items() if each.startswith(f"{path}/")}
                document[_KEY] = {**had, "metadata": _entries_v3(below, inner)} if isinstance(had, dict) else had
            elif not isinstance(was, dict) or _KEY in was:
                document[_KEY] = {"kind": "inline", "must_understand": False, "metadata": {}} if had is None else had
        entries[path] = was if isinstance(was, dict) and was == document else document
    return {path: entries[path] for path in _ordered(entries, before)}


def _without(document: Document) -> Document:
    return {key: value for key, value in document.items() if key != _KEY}


def _whole(documents: Documents, names: set[str]) -> list[str]:
    """The nodes that have one of the documents `names`, and in which all groups around have: readers find no others."""
    found: set[str] = set()
    for path in sorted(documents):
        above = path.rpartition("/")[0]
        if names & documents[path].keys() and (not above or above in found):
            found.add(path)
    return sorted(found)


def _ordered(entries: Iterable[str], before: Iterable[str]) -> list[str]:
    there = dict.fromkeys(entries)
    first = dict.fromkeys(key for key in before if key in there)
    return [*first, *(key for key in there if key not in first)]
