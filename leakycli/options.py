"""The options of `apply` and `verify`: values only, with the checks that need nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from leakycli.arguments import known, normalised
from leakycli.function.alpha import ALPHA
from leakycli.tuning import Tuning, current

#: What `verify` takes of the parameters in a report.
RECORDED = ("alpha", "dtype", "nan", "only", "skip")


@dataclass(frozen=True, slots=True)
class Layout:
    """How results are to be laid out, where not as their source is.

    chunks, shards: shapes in elements.
    compressor: of a `.npz` "stored", "deflate" or "deflate:LEVEL"; of Zarr "none", "zstd:LEVEL", "gzip:LEVEL" or
    "blosc-CODEC:LEVEL:SHUFFLE".
    zarr_format: 2 or 3.
    provenance: an attribute of each transformed Zarr array says what was done.
    """

    chunks: tuple[int, ...] | None = None
    shards: tuple[int, ...] | None = None
    compressor: str | None = None
    zarr_format: int | None = None
    provenance: bool = True


@dataclass(frozen=True, slots=True)
class Parameters:
    """What decides the result: what must be the same for a run to be resumed, what its report holds, what `verify` takes from there.

    alpha: the slope for x <= 0.
    dtype, nan: see `leakycli.function.rule.Rule`.
    strict: publish nothing where a cast overflowed or clipped.
    only, skip: names, or patterns (as a shell's) of names, of arrays to transform and of arrays not to; those that are not are copied.
    One that meets no array is an error.
    compressor, chunks, shards, zarr_format: see `Layout`; by default as the source has them.
    """

    alpha: float = ALPHA
    dtype: str | None = None
    nan: int | None = None
    strict: bool = False
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    compressor: str | None = None
    chunks: tuple[int, ...] | None = None
    shards: tuple[int, ...] | None = None
    zarr_format: int | None = None

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            object.__setattr__(self, name, normalised(name, getattr(self, name)))

    def to_dict(self) -> dict[str, Any]:
        """The values, as journal and report hold them; those of the layout where it was asked for."""
        layout = ("compressor", "chunks", "shards", "zarr_format")
        return {name: value for name, value in asdict(self).items() if value is not None or name not in layout}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Parameters:
        """What `verify` takes of a report, which anyone may have written. Raises KeyError or UsageError where one is missing or wrong."""
        return cls(**{name: values[name] for name in RECORDED})


@dataclass(frozen=True, slots=True)
class Options(Parameters):
    """What `apply` does and how: the parameters, and what does not change the result.

    workers: threads, by default as many as the process may use.
    memory: bound in bytes of the process's peak resident memory.
    overwrite: an existing destination may be replaced.
    verify: read the result back and compare before it is published.
    parents: make the destination's folder.
    patterns_met: it is known that each pattern meets an array in some source of a batch (see `api.check_patterns`), so that one may meet
    none here.
    to: "npy", "npz" or "zarr", for standard output or in a folder.
    provenance: see `Layout`.
    resume: continue what an interrupted run left, and take a result that is complete as done.
    fsync: flush to disk before anything relies on it, so that a crash of the system loses nothing that was recorded.
    reports: paths of further reports; "none" among them leaves out the one beside the destination.
    storage_options: of the file systems behind URLs, as fsspec has them; they may hold credentials, and are not recorded.
    command: what to record as the command.
    tuning: sizes and intervals.
    """

    workers: int | None = None
    memory: int | None = None
    overwrite: bool = False
    verify: bool = False
    parents: bool = False
    patterns_met: bool = field(default=False, compare=False)
    to: str | None = None
    provenance: bool = True
    resume: bool = False
    fsync: bool = False
    reports: tuple[str, ...] = ()
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    command: tuple[str, ...] | None = field(default=None, compare=False)
    tuning: Tuning = field(default_factory=current, repr=False, compare=False)

    def with_fields(self, function: str, fields: Mapping[str, Any], names: Iterable[str] | None = None) -> Options:
        """These options with others in place of some. function: that they were given to, which takes only those of `names`."""
        known(function, fields, names or self.__dataclass_fields__)
        return replace(self, **fields) if fields else self

    @property
    def parameters(self) -> Parameters:
        """What decides the result."""
        return Parameters(**{name: getattr(self, name) for name in Parameters.__dataclass_fields__})

    @property
    def layout(self) -> Layout:
        """How results are to be laid out."""
        return Layout(self.chunks, self.shards, self.compressor, self.zarr_format, self.provenance)
