"""`Options`: everything that `apply` and `verify` can be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from leakycli.errors import UsageError
from leakycli.formats import Layout


@dataclass(frozen=True, slots=True)
class Options:
    """What `apply` does and how.

    alpha, dtype, nan: see `leakycli.function.rule.Rule`.
    strict: publish nothing where a cast overflowed or clipped.
    workers: threads, by default as many as the process may use.
    memory: bound in bytes of the process's peak resident memory.
    overwrite: an existing destination may be replaced.
    verify: read the result back and compare before it is published.
    parents: make the destination's folder.
    only, skip: names, or patterns (as a shell's) of names, of arrays to transform and of arrays not to; those that are not are copied. One
    that meets no array is an error.
    patterns_met: it is known that each meets an array in some source of a batch (see `api.check_patterns`), so that one may meet none here.
    to: "npy", "npz" or "zarr", for standard output or in a folder.
    compressor: of a `.npz` "stored", "deflate" or "deflate:LEVEL"; of Zarr "none", "zstd:LEVEL", "gzip:LEVEL" or
    "blosc-CODEC:LEVEL:SHUFFLE"; by default as the source has it.
    chunks, shards, zarr_format: of Zarr, shapes in elements and 2 or 3; by default as the source has them.
    provenance: an attribute of each transformed Zarr array says what was done.
    resume: go on from what an earlier run left, and take a result that is complete as done.
    fsync: flush to disk before anything relies on it, so that a crash of the system loses nothing that was told.
    storage_options: of the file systems behind URLs, as fsspec has them; they may hold credentials, and are not recorded.
    reports: paths of further reports; "none" among them leaves out the one beside the destination.
    command: what to record as the command.
    """

    alpha: float = 0.2
    dtype: str | None = None
    nan: int | None = None
    strict: bool = False
    workers: int | None = None
    memory: int | None = None
    overwrite: bool = False
    verify: bool = False
    parents: bool = False
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    patterns_met: bool = field(default=False, compare=False)
    to: str | None = None
    compressor: str | None = None
    chunks: tuple[int, ...] | None = None
    shards: tuple[int, ...] | None = None
    zarr_format: int | None = None
    provenance: bool = True
    resume: bool = False
    fsync: bool = False
    reports: tuple[str, ...] = ()
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    command: tuple[str, ...] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "alpha", float(self.alpha))
        except (TypeError, ValueError, OverflowError):
            raise UsageError(f"alpha must be a finite number, not {self.alpha!r}") from None

    @property
    def layout(self) -> Layout:
        """How results are to be laid out."""
        return Layout(self.chunks, self.shards, self.compressor, self.zarr_format, self.provenance)

    def parameters(self) -> dict[str, Any]:
        """What decides the result: its values, and its layout where that was asked for."""
        layout = {name: getattr(self, name) for name in ("compressor", "chunks", "shards", "zarr_format")}
        names = ("alpha", "dtype", "nan", "strict", "only", "skip")
        return {name: getattr(self, name) for name in names} | {name: value for name, value in layout.items() if value is not None}
