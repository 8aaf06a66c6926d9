"""Zarr: versions 2 and 3, arrays and hierarchies. Only what `codecs` does not know imports zarr."""

from leakycli.formats.zarr.source import ZarrSource
from leakycli.formats.zarr.target import ZarrTarget, carries, check_compressor, result_array

__all__ = ["ZarrSource", "ZarrTarget", "carries", "check_compressor", "result_array"]
