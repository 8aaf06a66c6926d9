"""`Report`: the one result object of a run, and its JSON form.

The JSON is strict (RFC 8259): numbers that are not finite are the strings "NaN", "Infinity" and "-Infinity". `schema_version` rises when
a reader of an older version could misread a newer one; fields may be added without that.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from leakycli.formats.base import Chunking
from leakycli.function.sample import Distribution, Histogram
from leakycli.function.stats import Losses, Number, Summary

SCHEMA_VERSION = 2


@dataclass(frozen=True, slots=True)
class Statistics:
    """An array in numbers. count: all elements; missing: those that stand for no value, which count nowhere else. The others are negative,
    zero, positive or NaN; neginf and posinf are among the negative and positive. mean and std (ddof 0) are over the finite elements, None
    where there are none. quantiles (by their names in per cent) and histogram are those of a sample, see `function.sample`.
    """

    count: int
    missing: int
    negative: int
    zero: int
    positive: int
    nan: int
    neginf: int
    posinf: int
    min: Number | None
    max: Number | None
    mean: float | None
    std: float | None
    quantiles: dict[str, Number]
    histogram: Histogram

    @classmethod
    def of(cls, s: Summary, d: Distribution) -> Statistics:
        return cls(
            s.count,
            s.missing,
            s.negative,
            s.zero,
            s.positive,
            s.nan,
            s.neginf,
            s.posinf,
            s.minimum,
            s.maximum,
            s.mean,
            s.std,
            d.quantiles,
            d.histogram,
        )


@dataclass(frozen=True, slots=True)
class ArrayReport:
    """What became of one array. action: "transformed" or "copied" (then there is nothing from factor on). order: "C" or "F".

    chunks, shards, codecs: of a chunked result, None else. factor: alpha as rounded to the compute type.
    codec_pipeline: which codecs ran, "leakycli" or "zarr" with the reason in parentheses; None without chunks.
    """

    name: str
    action: str
    shape: tuple[int, ...]
    order: str
    chunks: tuple[int, ...] | None
    shards: tuple[int, ...] | None
    codecs: str | None
    codec_pipeline: str | None
    dtype_before: str
    dtype_after: str
    factor: float | None
    before: Statistics | None
    after: Statistics | None
    losses: Losses | None

    @classmethod
    def copied(cls, name: str, shape: tuple[int, ...], order: str, dtype: str, chunking: Chunking | None = None) -> ArrayReport:
        """The report of an array that was taken over as it is."""
        chunks, shards, codecs = (None, None, None) if chunking is None else (chunking.chunks, chunking.shards, chunking.codecs)
        return cls(name, "copied", shape, order, chunks, shards, codecs, None, dtype, dtype, None, None, None, None)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Source or destination: path as given, format, bytes, and what identifies it (a source when read, a destination as written)."""

    path: str
    format: str
    bytes: int
    identity: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Cost:
    """What the run took. Times in seconds, memory in bytes of resident peak, throughput in bytes (read and written) a second.

    kernel: which implementation ran, see `function.kernel`.
    """

    started: str
    seconds: float
    bytes_read: int
    bytes_written: int
    throughput: float
    workers: int
    kernel: str
    codec_pipeline: str | None
    memory_bound: int
    memory_projected: int
    memory_measured: int


@dataclass(frozen=True, slots=True)
class Report:
    """A run, whole. command: as typed, None from the library. verified: whether the result was read back and compared."""

    version: str
    command: tuple[str, ...] | None
    parameters: dict[str, Any]
    source: Endpoint
    destination: Endpoint
    arrays: tuple[ArrayReport, ...]
    cost: Cost
    resumed: bool
    verified: bool
    warnings: tuple[str, ...]

    @property
    def losses(self) -> Losses:
        return sum((array.losses for array in self.arrays if array.losses), Losses())

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        values: dict[str, Any] = plain(self._titled())
        return values

    def _titled(self) -> dict[str, Any]:
        return {"schema_version": SCHEMA_VERSION, "tool": "leakycli", **_fields(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Report:
        """The report that `to_dict` gave. Raises KeyError, TypeError or ValueError on anything else."""
        arrays = []
        for array in values["arrays"]:
            fields = {field.name: array[field.name] for field in dataclasses.fields(ArrayReport)}
            for name in ("before", "after"):
                if (held := fields[name]) is not None:
                    numbers: dict[str, Any] = {key: float(n) if isinstance(n, str) else n for key, n in held.items()}
                    quantiles = {key: float(n) if isinstance(n, str) else n for key, n in held["quantiles"].items()}
                    histogram = held["histogram"] | {key: tuple(held["histogram"][key]) for key in ("edges", "counts")}
                    fields[name] = Statistics(**numbers | {"quantiles": quantiles, "histogram": Histogram(**histogram)})
            fields["losses"] = None if fields["losses"] is None else Losses(**fields["losses"])
            for name in ("shape", "chunks", "shards"):
                fields[name] = None if fields[name] is None else tuple(fields[name])
            arrays.append(ArrayReport(**fields))
        fields = {field.name: values[field.name] for field in dataclasses.fields(cls)}
        fields |= {name: Endpoint(**values[name]) for name in ("source", "destination")}
        fields |= {"cost": Cost(**values["cost"]), "arrays": tuple(arrays), "warnings": tuple(values["warnings"])}
        return cls(**fields)

    def to_json(self, indent: int | None = 2) -> str:
        """Strict JSON; an indented report ends in a newline and keeps each list of numbers on one line."""
        if indent is None:
            return json.dumps(self.to_dict(), allow_nan=False)
        return _indented(self._titled(), "", " " * indent) + "\n"


def plain(value: Any) -> Any:
    """`value` as strict JSON values: tuples as lists, objects as their fields, non-finite numbers and undecodable text as strings."""
    # There are many values in each report of a batch of many files: what is most frequent comes first.
    kind = type(value)
    if value is None or kind is int or kind is bool:
        return value
    if kind is float:
        return value if math.isfinite(value) else "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if kind is str:
        # File names may hold bytes that are no text; JSON is Unicode.
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if kind is Histogram:
        # By far the most of a report, and so not looked at number by number: edges are finite.
        return _fields(value) | {"edges": list(value.edges), "counts": list(value.counts)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return plain(_fields(value)) if dataclasses.is_dataclass(value) else value


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _indented(value: Any, margin: str, step: str) -> str:
    """`plain(value)` as indented JSON, without making that first: a batch of many small files has as many reports."""
    kind = type(value)
    # What JSON writes as Python does: the encoder takes far longer to set out than these to write.
    if kind is int or (kind is float and math.isfinite(value)):
        return repr(value)
    if kind is str:
        return _quoted(plain(value))
    if value is None or kind is bool or kind is float:
        return _encode(plain(value))
    inner = margin + step
    if dataclasses.is_dataclass(value):
        kind, value = dict, _fields(value)
    if kind is dict and value:
        items = [f"{inner}{_quoted(key)}: {_indented(item, inner, step)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{margin}}}"
    if kind is tuple and value and all(type(word) is str for word in value):
        return _words(value)
    if kind is tuple and value and dataclasses.is_dataclass(value[0]):
        return "[\n" + ",\n".join([inner + _indented(item, inner, step) for item in value]) + f"\n{margin}]"
    return _encode(plain(value))


_encode = json.JSONEncoder(allow_nan=False).encode
_quoted = json.encoder.encode_basestring_ascii


@lru_cache(16)
def _words(words: tuple[str, ...]) -> str:
    """Of a command, which is the same for all files of a batch."""
    return _encode(plain(words))
