"""Missing elements: which values mark them, what these become, and what is counted where valid elements become one.

A mark is a value of `_FillValue` or `missing_value` (CF), or the fill value of a version 2 array of xarray's, which xarray reads as
`_FillValue`. Missing elements are transformed as all others are, and the mark with them, so that they stay missing. Where other elements
may become the same value, a mark gets a value of the result's type that no element takes, where there is one; else the elements that
collide with it are counted (`Losses.masked`).
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leakycli.formats.zarr.metadata import Document, decode_fill, encode_fill
from leakycli.function.kernel import transform
from leakycli.function.rule import Rule
from leakycli.function.stats import NanError

#: Attributes that are elements of the array, and mark what is missing.
_ELEMENTS = ("_FillValue", "missing_value")

#: Attributes that are bounds of its elements, and no longer known.
_BOUNDS = ("valid_min", "valid_max", "valid_range", "actual_range")

#: Attributes in which NCZarr notes the types of the others, in versions 2 and 3 (https://docs.unidata.ucar.edu/nug, "NCZarr").
_TYPES = ("_nczarr_attr", "_NCZARR_ATTR", "_nczarr_attrs")

#: Steps of the type between a mark and the values that are looked at beside it.
_NEIGHBOURS = 4


@dataclass(frozen=True)
class Mask:
    """The marks of one array under a rule.

    given: the rule, without what is missing.
    marks: of the source's type.
    replaced: what a mark becomes, by its bits, where it is not what an element becomes.
    counted: the marks that other elements may become, too.
    default: the only mark is a fill value of 0, which every writer leaves and which may as well be a value. It is no missing element in
    the statistics.
    """

    given: Rule
    marks: tuple[np.generic, ...] = ()
    replaced: dict[bytes, np.generic] = field(default_factory=dict)
    counted: tuple[np.generic, ...] = ()
    default: bool = False

    @classmethod
    def of(cls, attributes: Document, fill: np.generic | None, rule: Rule) -> Mask:
        """The mask of an array with those attributes. fill: its fill value where that is a mark, too."""
        rule = replace(rule, missing=(), fill=None)
        marks: list[np.generic] = []
        for value in (*(each for name in _ELEMENTS for each in _listed(attributes.get(name))), fill):
            element = value if isinstance(value, np.generic) else _decoded(value, rule.source)
            if element is not None and not any(_same(element, mark) for mark in marks):
                marks.append(element)
        replaced, counted = {}, []
        default = fill is not None and not fill and not any(name in attributes for name in _ELEMENTS)
        free = None if default else _free(rule)
        for mark in marks:
            if not (how := _collides(mark, rule)):
                continue
            if how == "far" and free is not None:
                replaced[mark.tobytes()] = free
            else:
                counted.append(mark)
        return cls(rule, tuple(marks), replaced, tuple(counted), default)

    @cached_property
    def rule(self) -> Rule:
        """The rule for the kernel: it leaves missing elements out of the statistics, and counts those that become a mark, of one value."""
        if self.default:
            return self.given
        results = self._counted_results
        return replace(self.given, missing=tuple(mark.item() for mark in self.marks), fill=results[0] if len(results) == 1 else None)

    @cached_property
    def _counted_results(self) -> list[Any]:
        return list({transformed(mark, self.given).item(): None for mark in self.counted})

    def result(self, value: np.generic) -> np.generic:
        """What an element of that value becomes. Raises NanError where it is NaN and has no value in the rule's type."""
        found = next((new for mark, new in self.replaced.items() if _same(np.frombuffer(mark, value.dtype)[0], value)), None)
        return transformed(value, self.given) if found is None else found

    @property
    def active(self) -> bool:
        """Whether there is anything to do or to count that the kernel does not."""
        return bool(self.replaced) or (bool(self.counted) and self.rule.fill is None)

    def apply(self, x: NDArray[Any], y: NDArray[Any]) -> int:
        """Give missing elements of the result `y` their value.

        x, y: what was read and what leaky ReLU made of it, of the same shape. Returns how many valid elements became a mark, where the
        kernel does not count them.
        """
        for bits, new in self.replaced.items():
            y[_equals(x, np.frombuffer(bits, self.given.source)[0])] = new
        if not self.counted or self.rule.fill is not None:
            return 0
        missing = np.logical_or.reduce([_equals(x, mark) for mark in self.marks])
        marked = np.logical_or.reduce([y == self.given.dtype.type(result) for result in self._counted_results])
        return int(np.count_nonzero(marked & ~missing))


def transformed(value: np.generic, rule: Rule) -> np.generic:
    """What leaky ReLU makes of an element. Raises NanError where it is NaN and has no value in the rule's type."""
    result = np.zeros(1, rule.dtype)
    with np.errstate(all="ignore"):
        transform(np.array([value], rule.source), result, rule)
    found: np.generic = result[0]
    return found


def adapted_attributes(attributes: Document, mask: Mask, zarr_format: int) -> tuple[Document, tuple[str, ...]]:
    """The attributes of an array after the transform, and warnings. zarr_format: of the result."""
    rule, adapted, warnings = mask.given, dict(attributes), []
    for name in _ELEMENTS:
        if name in attributes:
            value = attributes[name]
            try:
                # In version 3 xarray has a _FillValue of floats as the base64 of a double, of integers as a number.
                coded = name == "_FillValue" and zarr_format == 3 and rule.source.kind != "f"
                elements = [_element(each, mask, coded) for each in _listed(value)]
                adapted[name] = elements if isinstance(value, list) else elements[0]
            except NanError:
                del adapted[name]
                warnings.append(f"the attribute {name} was dropped: it is NaN, which has no value in {rule.dtype.name}")
    if dropped := [name for name in _BOUNDS if adapted.pop(name, None) is not None]:
        warnings.append(f"the attributes {', '.join(dropped)} were dropped: they are no longer true")
    for name in _TYPES:
        if name in adapted:
            adapted[name] = _retyped(adapted[name], attributes, adapted, rule.dtype)
    return adapted, tuple(warnings)


def _retyped(types: Any, before: Document, after: Document, dtype: np.dtype[Any]) -> Any:
    """NCZarr's types of attributes, with those of elements in the result's type and those of dropped attributes left out."""
    gone = before.keys() - after.keys()
    if isinstance(types, dict) and isinstance(types.get("types"), dict):
        own = dtype.newbyteorder("<").str
        return {**types, "types": {name: own if name in _ELEMENTS else kind for name, kind in types["types"].items() if name not in gone}}
    if isinstance(types, dict) and isinstance(types.get("attribute_types"), list):
        kept = []
        for each in types["attribute_types"]:
            name = each.get("name") if isinstance(each, dict) else None
            if name not in gone:
                kept.append({**each, "configuration": {"type": dtype.name}} if name in _ELEMENTS else each)
        return {**types, "attribute_types": kept}
    return types


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _same(a: np.generic, b: np.generic) -> bool:
    """Whether a reader takes both for the same mark: 0 and -0, any two NaN."""
    return bool(a == b) or (_is_nan(a) and _is_nan(b))


def _is_nan(value: np.generic) -> bool:
    return value.dtype.kind == "f" and bool(np.isnan(value))


def _equals(x: NDArray[Any], mark: np.generic) -> NDArray[np.bool_]:
    """Where the elements of `x` are the mark."""
    found: NDArray[np.bool_] = np.isnan(x) if _is_nan(mark) else x == mark
    return found


def _free(rule: Rule) -> np.generic | None:
    """A value of the result's type that is no element's; None where there is none.

    NaN in a floating type: only an element that is NaN becomes NaN, and that is no number before. In an integer type a bound that no
    integer of the source's type reaches.
    """
    if rule.dtype.kind == "f":
        nan: np.generic = rule.dtype.type("nan")
        return nan
    if rule.source.kind == "f":
        return None
    limits, own = np.iinfo(rule.source), np.iinfo(rule.dtype)
    ends = [int(transformed(rule.source.type(end), rule)) for end in {limits.min, limits.max, max(limits.min, -1), 0, min(1, limits.max)}]
    for bound in (own.min, own.max):
        if not min(ends) <= bound <= max(ends):
            found: np.generic = rule.dtype.type(bound)
            return found
    return None


def _collides(mark: np.generic, rule: Rule) -> str:
    """Whether other elements may become what `mark` becomes: "" for no, "near" for its next neighbours by rounding only, else "far"."""
    try:
        after = transformed(mark, rule)
    except NanError:
        return ""
    if _is_nan(after):
        return ""
    value, result = float(mark), float(after)
    if rule.source.kind == "f" and rule.nan is not None and (_is_nan(mark) or result == rule.nan):
        return "far"
    # The other branch of the function reaches a result of its sign, too; with alpha 0 all that is negative becomes one value.
    if rule.factor < 0 and result > 0 and _reached(result if value < 0 else result / rule.factor, rule):
        return "far"
    if (rule.factor == 0 and value <= 0 and rule.source.kind != "u") or (result == 0 and value != 0):
        return "far"
    if math.isinf(result) and not math.isinf(value):
        return "far"
    near = [each for each in _beside(mark) if _equal(each, after, rule)]
    if not near:
        return ""
    return "near" if rule.source == rule.dtype else "far"


def _reached(x: float, rule: Rule) -> bool:
    """Whether `x` lies in the range of the source's type."""
    limits = np.finfo(rule.source) if rule.source.kind == "f" else np.iinfo(rule.source)
    return float(limits.min) <= x <= float(limits.max)


def _beside(mark: np.generic) -> list[np.generic]:
    """The values of the type next to `mark`, on both sides."""
    limits: Any
    if mark.dtype.kind != "f":
        limits = np.iinfo(mark.dtype.name)
        steps = (int(mark) + step for step in range(-_NEIGHBOURS, _NEIGHBOURS + 1) if step)
        return [mark.dtype.type(value) for value in steps if limits.min <= value <= limits.max]
    found: list[np.generic] = []
    for to in (-math.inf, math.inf):
        value = mark
        for _ in range(_NEIGHBOURS):
            value = np.nextafter(value, mark.dtype.type(to))
            found.append(value)
    return [value for value in found if value != mark and not _is_nan(value)]


def _equal(value: np.generic, after: np.generic, rule: Rule) -> bool:
    return bool(transformed(value, rule) == after)


def _element(value: Any, mask: Mask, coded: bool) -> Any:
    """An attribute that is an element of the array, after the transform; as it was where it is none. Raises NanError.

    coded: whether a float is to be in base64, whatever it was in.
    """
    rule = mask.given
    element = _decoded(value, rule.source)
    if element is None:
        return value
    result = mask.result(element)
    if result.dtype == element.dtype and result.tobytes() == element.tobytes():
        return value
    if rule.dtype.kind == "f" and (coded or unpacked(value) is not None):
        return packed(result)
    literal = isinstance(value, float) and not math.isfinite(value)  # Python's own addition to JSON
    return result.item() if literal else encode_fill(result, 2)


def _decoded(value: Any, dtype: np.dtype[Any]) -> np.generic | None:
    """An element of `dtype` out of its form in an attribute; None where it is none."""
    if (double := unpacked(value)) is not None:
        value = double
    try:
        if isinstance(value, float) and not math.isfinite(value):
            value = encode_fill(np.float64(value), 2)
        return decode_fill(value, dtype)
    except ValueError:
        return None


def packed(value: Any) -> str:
    """A float as xarray has it in version 3: the base64 of a double."""
    return base64.b64encode(struct.pack("<d", float(value))).decode("ascii")


def unpacked(value: Any) -> float | None:
    """The double in base64, as xarray has it; None where it is none."""
    if not isinstance(value, str) or len(value) != 12:
        return None
    try:
        found: float = struct.unpack("<d", base64.b64decode(value, validate=True))[0]
    except (binascii.Error, struct.error):
        return None
    return found
