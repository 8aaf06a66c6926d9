"""What the documents of a result say: attributes, fill value and names of dimensions, from those of its source.

`ZarrTarget` writes it, and `verify` compares with it. The conventions of versions 2 and 3 are translated into one another: names of
dimensions (`_ARRAY_DIMENSIONS`, `dimension_names`), and xarray's mark of missing elements, which is the fill value in version 2 and the
attribute `_FillValue` in version 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from leakycli.errors import UsageError
from leakycli.formats.zarr import masks
from leakycli.formats.zarr.conventions import dimensions
from leakycli.formats.zarr.masks import Mask
from leakycli.formats.zarr.metadata import ArrayDocument, Document, encode_fill
from leakycli.function.rule import Rule


@dataclass(frozen=True, slots=True)
class Said:
    """fill: None for null in version 2, and for zero in version 3. names: of dimensions, None without, and in version 2."""

    attributes: Document
    fill: np.generic | None
    names: list[str | None] | None
    warnings: tuple[str, ...] = ()


def mask_of(document: ArrayDocument, rule: Rule) -> Mask:
    """The mask of an array under a rule."""
    return Mask.of(document.attributes, document.fill_value if _fill_is_mark(document) else None, rule)


def said(document: ArrayDocument, rule: Rule | None, fill: np.generic | None, zarr_format: int, whole: bool) -> Said:
    """What the result's documents say.

    rule: None for an array that stays as it is.
    fill: what the fill value becomes.
    zarr_format: of the result.
    whole: whether all chunks are stored, so that the fill value stands for nothing.

    Raises UsageError where the version cannot say it.
    """
    attributes, warnings = dict(document.attributes), tuple[str, ...]()
    if rule is not None:
        attributes, warnings = masks.adapted_attributes(attributes, mask_of(document, rule), zarr_format)
    names = None if document.dimension_names is None else list(document.dimension_names)
    if zarr_format == document.zarr_format:
        return Said(attributes, fill, names, warnings)
    if zarr_format == 3:
        return _into_3(document, attributes, fill, warnings)
    return _into_2(document, attributes, fill, whole, warnings)


def _fill_is_mark(document: ArrayDocument) -> bool:
    """Whether readers take the fill value for missing: xarray does in version 2, of arrays with names of dimensions."""
    return document.zarr_format == 2 and dimensions(None, document.attributes) is not None


def _into_3(document: ArrayDocument, attributes: Document, fill: np.generic | None, warnings: tuple[str, ...]) -> Said:
    listed = dimensions(None, attributes)
    names = None
    if listed is not None and len(listed) == len(document.shape) and all(isinstance(name, str) for name in listed):
        names = list(listed)
        del attributes["_ARRAY_DIMENSIONS"]
    if _fill_is_mark(document) and document.fill_value is not None and fill is not None:
        attributes["_FillValue"] = fill
    if isinstance(mark := attributes.get("_FillValue"), (int, float, np.generic)) and not isinstance(mark, bool):
        kind = fill.dtype.kind if fill is not None else "f" if isinstance(mark, float) else "i"
        attributes["_FillValue"] = masks.packed(mark) if kind == "f" else int(mark)
    return Said(attributes, fill, names, warnings)


def _into_2(document: ArrayDocument, attributes: Document, fill: np.generic | None, whole: bool, warnings: tuple[str, ...]) -> Said:
    names = document.dimension_names
    mark: Any = attributes.get("_FillValue")
    if (double := masks.unpacked(mark)) is not None:
        mark = attributes["_FillValue"] = double
    if names is None or fill is None:
        return Said(attributes, fill, None, warnings)
    attributes.setdefault("_ARRAY_DIMENSIONS", [name or f"dim_{axis}" for axis, name in enumerate(names)])
    if isinstance(mark, (int, float)) and not isinstance(mark, bool):
        with np.errstate(all="ignore"):
            marked: np.generic = np.array([mark]).astype(fill.dtype)[0]
        if whole or marked.tobytes() == fill.tobytes() or (marked != marked and fill != fill):
            del attributes["_FillValue"]
            return Said(attributes, marked, None, warnings)
        if fill != 0:
            raise UsageError(
                f"chunks that are not stored are {encode_fill(fill, 2)} and its _FillValue is {mark}, which Zarr format 2 has one value "
                "for; leave --zarr-format out"
            )
        return Said(attributes, None, None, warnings)
    # A fill value would be a mark, which it was not.
    return Said(attributes, None if fill == 0 or (whole and fill == fill) else fill, None, warnings)
