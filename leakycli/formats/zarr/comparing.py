"""Compare what a reader sees of two hierarchies beside the elements of transformed arrays: documents, consolidated ones, copied files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from leakycli.errors import shown
from leakycli.formats.base import METADATA, Member
from leakycli.formats.zarr import result, translate
from leakycli.formats.zarr.hierarchy import Node
from leakycli.formats.zarr.metadata import Document
from leakycli.function.rule import Rule
from leakycli.function.stats import NanError

if TYPE_CHECKING:
    from leakycli.formats.zarr.source import ZarrSource

#: Bytes of two files that are compared at once.
_PIECE = 1 << 20

#: A member and the source that it is in.
End = tuple["ZarrSource", Member]


def copy_problem(ours: End, theirs: End) -> str | None:
    """How the second is no copy of the first, in words; None where it is one, or a translation into the other version of Zarr."""
    (source, member), (other, there) = ours, theirs
    node, found = source.nodes[member.key], other.nodes[there.key]
    if node.is_array != found.is_array:
        return f"is {'an array' if found.is_array else 'a group'}, expected {'an array' if node.is_array else 'a group'}"
    if node.zarr_format != found.zarr_format:
        return _translation_problem(ours, theirs)
    return _files_problem(ours, theirs, node) or _consolidated_problem(node, other, found)


def document_problem(ours: End, theirs: End, rule: Rule) -> str | None:
    """What of the documents of a transformed array is not as it should be, or which file beside its chunks, in words."""
    (source, member), (other, there) = ours, theirs
    document, found, node = source.documents[member.key], other.documents[there.key], other.nodes[there.key]
    try:
        fill = None if document.fill_value is None else result.mask_of(document, rule).result(document.fill_value)
    except NanError:
        fill = None
    expected = result.said(document, rule, fill, node.zarr_format, source.stored(member) is None)
    for what, one, two in (
        ("attributes", _shown(expected.attributes), _shown(found.attributes)),
        ("dimension_names", expected.names, None if found.dimension_names is None else list(found.dimension_names)),
        ("fill_value", _bits(expected.fill, rule.dtype, node.zarr_format), _bits(found.fill_value, rule.dtype, node.zarr_format)),
    ):
        if one != two:
            return f"its {what} differ{'s' if what == 'fill_value' else ''} from what they should be"
    for entry in source.strays(member):
        name = source.below(member, entry.key)
        if entry.problem is None and found.chunk_index(name) is None and _differ(source, entry.key, other, other.key(there, name)):
            return f"is no copy of its source: {shown(name)} differs"
    return None


def _bits(fill: Any, dtype: np.dtype[Any], zarr_format: int) -> bytes | None:
    """The bits of a fill value; in version 3, none is zero."""
    if fill is None:
        return bytes(dtype.itemsize) if zarr_format == 3 else None
    return bytes(np.asarray(fill, dtype).tobytes())


def _shown(attributes: Document) -> str:
    """Attributes as text that is equal where they are; without what was noted of the run."""
    return json.dumps({name: value for name, value in attributes.items() if name != "leakycli"}, sort_keys=True)


def _files_problem(ours: End, theirs: End, node: Node) -> str | None:
    (source, member), (other, there) = ours, theirs
    names, found = ({end.below(m, entry.key) for entry in end.files(m) if entry.problem is None} for end, m in (ours, theirs))
    if names != found:
        return f"has not the files of its source: {shown(sorted(names ^ found)[0])} is in one of them only"
    for name in sorted(names):
        if not node.is_array and name in ("zarr.json", ".zmetadata"):
            # Consolidated metadata follow the arrays, and are looked at for themselves.
            mine, its = (_own(json.loads(end.tree.read(end.key(m, name)) or b"{}")) for end, m in (ours, theirs))
            if name == "zarr.json" and _shown(mine) != _shown(its):
                return f"is no copy of its source: {name} differs"
        elif _differ(source, source.key(member, name), other, other.key(there, name)):
            return f"is no copy of its source: {shown(name)} differs"
    return None


def _own(fields: Document) -> Document:
    return {key: value for key, value in fields.items() if key != "consolidated_metadata"}


def _consolidated_problem(node: Node, other: ZarrSource, found: Node) -> str | None:
    """How the consolidated metadata of a result's group are not those of the documents in it."""
    if (node.consolidated is None) != (found.consolidated is None):
        return f"has {'no' if found.consolidated is None else 'what it should not have:'} consolidated metadata"
    if found.consolidated is None:
        return None
    under = f"{found.path}/" if found.path else ""
    below = {path[len(under) :] if path != found.path else "": each for path, each in other.nodes.items() if f"{path}/".startswith(under)}
    expected = translate.consolidated_entries(below, found.zarr_format, found.consolidated)
    for name in sorted(expected.keys() ^ found.consolidated.keys()):
        return f"its consolidated metadata {'lack' if name in expected else 'have'} {shown(name)}"
    for name, entry in expected.items():
        if _shown(entry) != _shown(found.consolidated[name]):
            return f"its consolidated metadata have other fields of {shown(name)} than the document there"
    return None


def _translation_problem(ours: End, theirs: End) -> str | None:
    """How a group or an array that was copied is not the same in the other version of Zarr."""
    (source, member), (other, there) = ours, theirs
    node, found = source.nodes[member.key], other.nodes[there.key]
    if not node.is_array:
        if _shown(node.attributes) != _shown(found.attributes):
            return "its attributes differ from those of its source"
        for name in _beside(ours) | _beside(theirs):
            if _differ(source, source.key(member, name), other, other.key(there, name)):
                return f"is no copy of its source: {shown(name)} differs"
        return _consolidated_problem(node, other, found)
    return translate.difference((source.tree.store(), source.key(member), node), (other.tree.store(), other.key(there), found))


def _beside(end: End) -> set[str]:
    """The files of a group beside its documents."""
    source, member = end
    return {name for entry in source.files(member) if entry.problem is None and (name := source.below(member, entry.key)) not in METADATA}


def _differ(one: ZarrSource, key: str, two: ZarrSource, there: str) -> bool:
    """Whether two files differ, or one of them is missing; in pieces, so that neither is held as a whole."""
    if not (one.tree.holds(key) and two.tree.holds(there)):
        return True
    return any(a != b for a, b in zip_longest(_cut(one.tree.pieces(key)), _cut(two.tree.pieces(there))))


def _cut(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of one size, but for the last."""
    held = bytearray()
    for piece in pieces:
        held += piece
        while len(held) >= _PIECE:
            yield bytes(held[:_PIECE])
            del held[:_PIECE]
    if held:
        yield bytes(held)
