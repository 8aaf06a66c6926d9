"""Conventions in attributes: which arrays of a hierarchy hold no values of their own, and which stored numbers are not values.

The tables here are the one list; docs/zarr.md shows them with their sources. Pure: JSON values in, names out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from leakycli.formats.zarr.metadata import Document

#: How an attribute names arrays. words: each word, also one with a colon at its end. values: the names in "key: name" pairs. keys: the
#: keys in such pairs. paths: JSON objects with a "type" and a "path", at any depth.
Form = Literal["words", "values", "keys", "paths"]


@dataclass(frozen=True, slots=True)
class Naming:
    """Attributes that name arrays which say where values are, or how good they are.

    attributes: a pattern of their names. form: how they name them. source: where the convention is written.
    """

    attributes: str
    form: Form
    source: str


@dataclass(frozen=True, slots=True)
class Marking:
    """An attribute that says of its own array that it holds no values to transform. values: a pattern of the attribute's text."""

    attribute: str
    values: str
    source: str


_CF = "CF"
_UGRID = "UGRID, SGRID"
_CDM = "netCDF-Java CDM"
_XARRAY = "xarray"

#: Which arrays other attributes name.
NAMINGS = (
    Naming("coordinates|bounds|climatology|ancillary_variables|geometry|node_count|part_node_count|interior_ring", "words", _CF),
    Naming("grid_mapping|coordinate_interpolation", "words", _CF),
    Naming("cell_measures|formula_terms|tie_point_mapping|interpolation_parameters|aggregated_data", "values", _CF),
    Naming("cell_methods", "keys", _CF),
    Naming("mesh|grid|location_index_set", "words", _UGRID),
    Naming(r"\w+_(coordinates|connectivity|shape_type)", "words", _UGRID),
    Naming("coordinateTransformations|multiscales|scene|ome", "paths", "OME-Zarr"),
)

#: Which attributes say it of their own array.
MARKINGS = (
    Marking("units", r".* since .*", _CF),
    Marking("units", r"degrees?_?(north|east|N|E)|degrees(N|E)", _CF),
    Marking("axis", r"[XYZT]", _CF),
    Marking("standard_name", r"(grid_)?(latitude|longitude)|projection_[xy]_(angular_)?coordinate|time|forecast_reference_time", _CF),
    Marking("cf_role|grid_mapping_name|geometry_type|sample_dimension|instance_dimension|formula_terms", r".*", _CF),
    Marking("flag_values|flag_masks|flag_meanings", r".*", _CF),
    Marking("_CoordinateAxisType|_CoordinateTransformType", r".*", _CDM),
    Marking("dtype", r"(datetime64|timedelta64).*", _XARRAY),
)

#: Arrays of a group that holds labels, not values: the group's attribute, its value, the array ("*" for all that the group holds).
LABELS = (("encoding-type", "categorical", "categories", "anndata"), ("image-label", None, "*", "OME-Zarr"))

#: Attributes that make other values of the stored numbers.
_PACKING = ("scale_factor", "add_offset")

#: OME-Zarr's key for transformations; a "path" elsewhere is that of an image.
_TRANSFORMATIONS = "coordinateTransformations"


@dataclass(frozen=True, slots=True)
class Described:
    """What the conventions look at of an array: its attributes and the names of its dimensions (None where it has none)."""

    attributes: Document
    dimensions: tuple[Any, ...] | None


def dimensions(names: Any, attributes: Document) -> tuple[Any, ...] | None:
    """The names of an array's dimensions: of its document (version 3), else of xarray's attribute."""
    if not isinstance(names, list):
        names = attributes.get("_ARRAY_DIMENSIONS")
    return tuple(names) if isinstance(names, list) else None


def supporting(arrays: Mapping[str, Described], groups: Mapping[str, Document]) -> set[str]:
    """Those of `arrays` that say where the others' values are, how good they are, or what they stand for.

    arrays, groups (their attributes): by path.
    """
    found: set[str] = set()
    for path, array in arrays.items():
        if path and (array.dimensions == (path.rpartition("/")[2],) or _marked(array.attributes)):
            found.add(path)
        found.update(_named(array.attributes, path.rpartition("/")[0], arrays))
    for path, attributes in groups.items():
        found.update(_named(attributes, path, arrays))
        found.update(_labels(attributes, path, arrays))
    return found - {""}


def _marked(attributes: Document) -> bool:
    for marking in MARKINGS:
        for name in marking.attribute.split("|"):
            if name in attributes:
                value = attributes[name]
                text = value if isinstance(value, str) else "" if value is None else str(value)[:100]
                if re.fullmatch(marking.values, text, re.DOTALL):
                    return True
    return False


def _named(attributes: Document, group: str, arrays: Mapping[str, Any]) -> Iterator[str]:
    """The arrays that the attributes of something in `group` name."""
    for name, value in attributes.items():
        for naming in NAMINGS:
            if re.fullmatch(naming.attributes, name):
                words = _paths(value, name == _TRANSFORMATIONS) if naming.form == "paths" else _words(value, naming.form)
                yield from (path for word in words for path in _resolved(word, group, arrays, below=naming.form == "paths"))


def _words(value: Any, form: Form) -> Iterator[str]:
    """The names in an attribute: text, or a list of such."""
    for text in value if isinstance(value, list) else (value,):
        if not isinstance(text, str):
            continue
        for word in text.split():
            # "area: cell_area" has a key before each name; "crs: x y" has names only, the first with a colon.
            key = word.endswith(":")
            if form == "words" or key == (form == "keys"):
                yield word.removesuffix(":")


def _paths(value: Any, inside: bool) -> Iterator[str]:
    """The "path" of each coordinate transformation in OME-Zarr's metadata: a JSON object that has a "type" as well."""
    pending = [(value, inside)]
    while pending:
        each, inside = pending.pop()
        if isinstance(each, dict):
            if inside and isinstance(each.get("type"), str) and isinstance(each.get("path"), str):
                yield each["path"]
            pending.extend((inner, inside or key == _TRANSFORMATIONS) for key, inner in each.items())
        elif isinstance(each, list):
            pending.extend((inner, inside) for inner in each)


def _resolved(name: str, group: str, arrays: Mapping[str, Any], below: bool) -> list[str]:
    """The arrays called `name` in `group`: the one there, or in the nearest group around it; from the root after a "/".

    below: `name` may be that of a group, of which all arrays are meant.
    """
    name = name.removeprefix("./").rstrip("/")
    if name.startswith("/"):
        group, name = "", name.lstrip("/")
    while name.startswith("../"):
        name, group = name[3:], group.rpartition("/")[0]
    if not name:
        return []
    while True:
        path = f"{group}/{name}" if group else name
        if path in arrays:
            return [path]
        if below and (inner := [each for each in arrays if each.startswith(f"{path}/")]):
            return inner
        if not group:
            return []
        group = group.rpartition("/")[0]


def _labels(attributes: Document, group: str, arrays: Iterable[str]) -> Iterator[str]:
    """The arrays in `group` that hold labels by its attributes, or by those under "ome"."""
    under = f"{group}/" if group else ""
    ome = attributes.get("ome")
    for fields in (attributes, ome if isinstance(ome, dict) else {}):
        for attribute, value, array, _ in LABELS:
            if attribute in fields and (value is None or fields[attribute] == value):
                yield from (path for path in arrays if (path.startswith(under) if array == "*" else path == under + array))


def packing(attributes: Document) -> tuple[str, ...]:
    """The attributes by which a scale and an offset make other values of the stored numbers."""
    return tuple(name for name in _PACKING if name in attributes)


def reinterpreted(attributes: Document, kind: str) -> str | None:
    """The attribute by which readers take the stored integers for another type; None for most. kind: of the stored type, as numpy has it.

    `_Unsigned` is of the netCDF user's guide; `dtype` is how xarray notes booleans.
    """
    unsigned = str(attributes.get("_Unsigned", "")).lower()
    if (kind == "i" and unsigned == "true") or (kind == "u" and unsigned == "false"):
        return "_Unsigned"
    return "dtype" if kind in "iu" and attributes.get("dtype") == "bool" else None
