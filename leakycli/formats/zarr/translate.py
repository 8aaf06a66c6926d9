"""From version 2 of Zarr to version 3 and back: groups' documents, and arrays of types that leaky ReLU does not know."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from leakycli.errors import UsageError, shown
from leakycli.formats.zarr import consolidated
from leakycli.formats.zarr.conventions import dimensions
from leakycli.formats.zarr.hierarchy import Node, parsed_document
from leakycli.formats.zarr.metadata import Document

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store

#: Where an array is: a store, its key there, its node.
Place = tuple["Store", str, Node]


def group_documents(node: Node, zarr_format: int) -> dict[str, Document]:
    """The documents of a group in a version of Zarr that is not its own; its consolidated metadata are rebuilt later."""
    if zarr_format == 3:
        return {"zarr.json": {"zarr_format": 3, "node_type": "group", "attributes": node.attributes}}
    return {".zgroup": {"zarr_format": 2}} | ({".zattrs": node.attributes} if node.attributes else {})


def lost_keys(node: Node) -> list[str]:
    """Keys of a version 3 group's document that version 2 has no place for."""
    return sorted(node.fields.keys() - {"zarr_format", "node_type", "attributes", "consolidated_metadata"}) if node.zarr_format == 3 else []


def consolidated_entries(below: Mapping[str, Node], zarr_format: int, before: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a group's consolidated metadata, by the documents of the nodes `below` it (its own has the path "")."""
    documents = {path: {name: parsed_document(text, node.where) for name, text in node.texts.items()} for path, node in below.items()}
    if zarr_format == 3:
        found: dict[str, Any] = consolidated.with_consolidated({}, documents, before)["consolidated_metadata"]["metadata"]
    else:
        found = consolidated.zmetadata(documents, before)["metadata"]
    return found


def check_array(source: Place, zarr_format: int) -> None:
    """Raise UsageError where an array cannot be written in that version."""
    import zarr

    _new(source, zarr.storage.MemoryStore(), "", zarr_format)


def copy_array(source: Place, store: Store, key: str, zarr_format: int) -> None:
    """Write an array, as it is, in another version of Zarr. Chunk by chunk, through zarr, which knows types that have no leaky ReLU."""
    array, made = _new(source, store, key, zarr_format)
    for box in _boxes(array):
        made[box] = array[box]


def difference(one: Place, two: Place) -> str | None:
    """How two arrays of different versions differ, in words; None where they do not."""
    try:
        ours, theirs = _opened(one), _opened(two)
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            return f"has shape {theirs.shape} and dtype {theirs.dtype}, expected {ours.shape} and {ours.dtype}"
        for box in _boxes(ours):
            a, b = np.asarray(ours[box]), np.asarray(theirs[box])
            if not (np.array_equal(a, b, equal_nan=a.dtype.kind in "fc") or a.tobytes() == b.tobytes()):
                return "is no copy of its source: its elements differ"
    except Exception as error:
        return f"cannot be compared with its source: {shown(' '.join(str(error).split()))[:200]}"
    return None


def _new(source: Place, store: Store, key: str, zarr_format: int) -> tuple[zarr.Array[Any], zarr.Array[Any]]:
    """An array, opened, and a new one like it in another version."""
    import zarr

    node = source[2]
    try:
        array = _opened(source)
        attributes, names = dict(array.attrs), dimensions(node.fields.get("dimension_names"), node.attributes)
        attributes.pop("_ARRAY_DIMENSIONS", None)
        if names is not None and zarr_format == 2:
            attributes["_ARRAY_DIMENSIONS"] = [name or f"dim_{axis}" for axis, name in enumerate(names)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = zarr.create_array(
                store,
                name=key or None,
                shape=array.shape,
                dtype=array.metadata.dtype if array.metadata.zarr_format == 2 else array.metadata.data_type,
                chunks=tuple(max(n, 1) for n in array.chunks),
                shards=array.shards if zarr_format == 3 else None,
                # Readers of version 2 take a fill value for missing where dimensions have names; none stands for zero.
                fill_value=None if zarr_format == 2 and names is not None and not array.fill_value else array.fill_value,
                zarr_format=3 if zarr_format == 3 else 2,
                attributes=attributes,
                dimension_names=names if zarr_format == 3 else None,
                overwrite=True,
            )
    except Exception as error:
        text = shown(" ".join(str(error).split()))[:200] or type(error).__name__
        raise UsageError(
            f"array {shown(node.path)}: is copied, and cannot be written in Zarr format {zarr_format}; leave --zarr-format out ({text})"
        ) from None
    return array, made


def _opened(place: Place) -> zarr.Array[Any]:
    import zarr

    store, key, node = place
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return zarr.open_array(store, path=key, mode="r", zarr_format=3 if node.zarr_format == 3 else 2)


def _boxes(array: zarr.Array[Any]) -> Any:
    """Selections of the write units of an array."""
    unit = array.shards or array.chunks
    axes = [[slice(at, min(at + max(step, 1), n)) for at in range(0, n, max(step, 1))] for n, step in zip(array.shape, unit, strict=True)]
    return itertools.product(*axes)
