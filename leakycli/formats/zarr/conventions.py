"""What attributes say by convention: which arrays of a hierarchy hold no values of their own, and what changes with an array's values.

The conventions are CF's (https://cfconventions.org), in the form that xarray gives them in Zarr. Pure: JSON values in, JSON values out.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from leakycli.formats.zarr.metadata import ArrayDocument, Document, decode_fill, encode_fill
from leakycli.function.kernel import NanError, transform
from leakycli.function.rule import Rule

#: Attributes that name other arrays of the dataset. A climatology's bounds are bounds.
_NAMING = ("coordinates", "bounds", "climatology", "grid_mapping", "ancillary_variables", "cell_measures")

#: Attributes that are elements of the array.
_ELEMENTS = ("_FillValue", "missing_value")

#: Attributes that are bounds of its elements, and no longer known.
_BOUNDS = ("valid_min", "valid_max", "valid_range", "actual_range")

_PACKING = ("scale_factor", "add_offset")


def supporting(arrays: Mapping[str, ArrayDocument], groups: Mapping[str, Document]) -> set[str]:
    """Those of `arrays` that say where the others' values are, or how good: dimensions' own, times, and what attributes name.

    arrays, groups (their attributes): by path.
    """
    found = {path for path, document in arrays.items() if path and dimensions(document) == (path.rpartition("/")[2],)}
    for path, document in arrays.items():
        if path and _tells_time(document.attributes):
            found.add(path)
        found.update(_named(document.attributes, path.rpartition("/")[0], arrays))
    for path, attributes in groups.items():
        found.update(_named(attributes, path, arrays))
    return found - {""}


def dimensions(document: ArrayDocument) -> tuple[Any, ...] | None:
    """The names of the array's dimensions; None where they have none. Version 2 has them in an attribute of xarray's."""
    if document.dimension_names is not None:
        return document.dimension_names
    names = document.attributes.get("_ARRAY_DIMENSIONS")
    return tuple(names) if isinstance(names, list) else None


def _tells_time(attributes: Document) -> bool:
    """Whether the stored numbers are dates, as days since one, or what xarray has as such."""
    units, dtype = attributes.get("units"), attributes.get("dtype")
    return (isinstance(units, str) and " since " in units) or (isinstance(dtype, str) and dtype.startswith(("datetime64", "timedelta64")))


def _named(attributes: Document, group: str, arrays: Mapping[str, ArrayDocument]) -> Iterator[str]:
    """The arrays that the attributes of something in `group` name."""
    for attribute in _NAMING:
        text = attributes.get(attribute)
        if not isinstance(text, str):
            continue
        for word in text.split():
            # "area: cell_area" has a key before each name; "crs: x y" has names only, the first with a colon.
            path = _resolved(word.removesuffix(":"), group, arrays)
            if path is not None and not (attribute == "cell_measures" and word.endswith(":")):
                yield path


def _resolved(name: str, group: str, arrays: Mapping[str, ArrayDocument]) -> str | None:
    """The path of the array that is called `name` in `group`: there, or in the nearest group around it; from the root after a "/"."""
    if name.startswith("/"):
        return name[1:] if name[1:] in arrays else None
    while name.startswith("../"):
        name, group = name[3:], group.rpartition("/")[0]
    while (path := f"{group}/{name}" if group else name) not in arrays:
        if not group:
            return None
        group = group.rpartition("/")[0]
    return path


def packing(attributes: Document) -> tuple[str, ...]:
    """The attributes that make other values of the stored numbers."""
    return tuple(name for name in _PACKING if name in attributes)


def transformed(value: np.generic, rule: Rule) -> np.generic:
    """What an element becomes. Raises NanError where it is NaN and has no value in the rule's type."""
    result = np.zeros(1, rule.dtype)
    with np.errstate(all="ignore"):
        transform(np.array([value], rule.source), result, rule)
    found: np.generic = result[0]
    return found


def adapted_attributes(attributes: Document, rule: Rule, zarr_format: int) -> tuple[Document, tuple[str, ...]]:
    """The attributes of an array after the transform, and warnings."""
    adapted, warnings = dict(attributes), []
    for name in _ELEMENTS:
        if name in attributes:
            value = attributes[name]
            try:
                # In version 3 xarray has a _FillValue of floats as the base64 of a double, of integers as a number.
                base64_only = name == "_FillValue" and zarr_format == 3 and rule.source.kind != "f"
                elements = [_element(v, rule, base64_only) for v in (value if isinstance(value, list) else [value])]
                adapted[name] = elements if isinstance(value, list) else elements[0]
            except NanError:
                del adapted[name]
                warnings.append(f"the attribute {name} was dropped: it is NaN, which has no value in {rule.dtype.name}")
                continue
            for single in value if isinstance(value, list) else (value,):
                element = _decoded(single, rule.source)
                if element is not None and _shared(element, rule):
                    warnings.append(
                        f"the {name} {element} became {transformed(element, rule)}, as others may have: those look missing, too"
                    )
    if dropped := [name for name in _BOUNDS if adapted.pop(name, None) is not None]:
        warnings.append(f"the attributes {', '.join(dropped)} were dropped: they are no longer true")
    return adapted, tuple(warnings)


def _element(value: Any, rule: Rule, coded: bool) -> Any:
    """An attribute that is an element of the array, after the transform; as it was where it is none. Raises NanError.

    coded: whether a float is to be in base64, whatever it was in.
    """
    element = _decoded(value, rule.source)
    if element is None:
        return value
    result = transformed(element, rule)
    if result.dtype == element.dtype and result.tobytes() == element.tobytes():
        return value
    if rule.dtype.kind == "f" and (coded or _unpacked(value) is not None):
        return base64.b64encode(struct.pack("<d", float(result))).decode("ascii")
    literal = isinstance(value, float) and not math.isfinite(value)  # Python's own addition to JSON
    return result.item() if literal else encode_fill(result, 2)


def _decoded(value: Any, dtype: np.dtype[Any]) -> np.generic | None:
    """An element of `dtype` out of its form in an attribute; None where it is none."""
    if (double := _unpacked(value)) is not None:
        value = double
    try:
        if isinstance(value, float) and not math.isfinite(value):
            value = encode_fill(np.float64(value), 2)
        return decode_fill(value, dtype)
    except ValueError:
        return None


def _unpacked(value: Any) -> float | None:
    """The double in base64, as xarray has it; None where it is none."""
    if not isinstance(value, str) or len(value) != 12:
        return None
    try:
        found: float = struct.unpack("<d", base64.b64decode(value, validate=True))[0]
    except (binascii.Error, struct.error):
        return None
    return found


def _shared(element: np.generic, rule: Rule) -> bool:
    """Whether elements that are not `element` may become what it becomes."""
    before, after = float(element), float(transformed(element, rule))
    if rule.dtype.kind != "f":
        return rule.source.kind == "f" or before != after
    return (
        (rule.factor < 0 and before < 0)
        or (rule.factor == 0 and before <= 0)
        or (after == 0 and before != 0)
        or (math.isinf(after) and not math.isinf(before))
    )
