"""Zarr: versions 2 and 3, arrays and hierarchies. zarr is imported below here and nowhere else."""

from leakycli.formats.zarr.source import ZarrReader, ZarrSource
from leakycli.formats.zarr.target import ZarrTarget, ZarrWriter, carries, check_compressor, result_array

__all__ = ["ZarrReader", "ZarrSource", "ZarrTarget", "ZarrWriter", "carries", "check_compressor", "result_array"]
