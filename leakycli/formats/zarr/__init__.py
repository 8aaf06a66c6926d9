"""Zarr: versions 2 and 3, arrays and hierarchies. Only what `codecs` does not know imports zarr."""

from __future__ import annotations

from leakycli.formats.base import Layout, Member, Source, Target
from leakycli.formats.zarr.source import ZarrSource
from leakycli.formats.zarr.target import ZarrTarget, carries, check_compressor, result_array

__all__ = [
    "ZarrSource",
    "ZarrTarget",
    "carries",
    "check_layout",
    "compresses",
    "create_target",
    "open_source",
    "result_array",
]


def open_source(path: str) -> Source:
    """The hierarchy at `path`: a folder, an archive, or a node in either."""
    return ZarrSource(path)


def create_target(path: str, packed: bool, layout: Layout, begun: bool, flush: bool) -> Target:
    """See `formats.create_target`."""
    return ZarrTarget(path, layout, packed=packed, begun=begun, flush=flush)


def check_layout(layout: Layout) -> None:
    """Raise UsageError for a compressor that Zarr does not have."""
    check_compressor(layout.compressor)


def compresses(layout: Layout, source: Source, member: Member) -> bool:
    """Chunks are compressed one by one: their order is free."""
    return False
