"""A report as strict JSON (RFC 8259): numbers that are not finite are the strings "NaN", "Infinity" and "-Infinity"."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

from leakycli.errors import CorruptError
from leakycli.report.model import SCHEMA_VERSION, Distribution, Report

#: Near the beginning of every file of this kind.
MARKER = b'"tool": "leakycli"'

#: Bytes of the largest report that is read.
LARGEST = 1 << 28


def values(report: Report) -> dict[str, Any]:
    """The report as plain JSON values."""
    found: dict[str, Any] = plain(_titled(report))
    return found


def render(report: Report) -> str:
    """The report as a text of a few lines an array: a list of numbers is on one."""
    fields = [f'  "{name}": {_encode(plain(value))}' for name, value in _titled(report).items() if name != "arrays"]
    arrays = ",\n".join(map(_array, report.arrays))
    fields.insert(-_AFTER_ARRAYS, f'  "arrays": [\n{arrays}\n  ]' if arrays else '  "arrays": []')
    return "{\n" + ",\n".join(fields) + "\n}\n"


def line(report: Report) -> str:
    """The report in one line."""
    return _encode(values(report))


def parse(text: str | bytes, name: str) -> Report:
    """The report in `text`. name: of its file, for messages. Raises CorruptError where it is none, or one that was tampered with."""
    try:
        found = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        what = "is nested too deeply" if isinstance(error, RecursionError) else f"is no JSON ({str(error)[:80]})"
        raise CorruptError(f"{name}: {what}; expected a report of leakycli") from None
    try:
        return Report.from_dict(found)
    except CorruptError as error:
        raise CorruptError(f"{name}: {error}") from None


def plain(value: Any) -> Any:
    """`value` as strict JSON values: tuples as lists, objects as their fields, non-finite numbers and undecodable text as strings."""
    # There are many values in each report of a batch of many files: the most frequent come first.
    kind = type(value)
    if value is None or kind is int or kind is bool:
        return value
    if kind is float:
        return value if math.isfinite(value) else "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if kind is str:
        # File names may hold bytes that are no text; JSON is Unicode.
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if kind is Distribution:
        # By far the most of a report, and finite: not looked at number by number.
        return _fields(value) | {"edges": list(value.edges), "counts": list(value.counts)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return plain(_fields(value)) if dataclasses.is_dataclass(value) else value


_encode = json.JSONEncoder(allow_nan=False).encode

#: Fields of a report that come after `arrays`.
_AFTER_ARRAYS = len(dataclasses.fields(Report)) - 1 - [field.name for field in dataclasses.fields(Report)].index("arrays")


def _titled(report: Report) -> dict[str, Any]:
    return {"schema_version": SCHEMA_VERSION, "tool": "leakycli", **_fields(report)}


def _array(array: Any) -> str:
    fields = [f'      "{name}": {_encode(plain(value))}' for name, value in _fields(array).items()]
    return "    {\n" + ",\n".join(fields) + "\n    }"


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")
