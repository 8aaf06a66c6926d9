"""NumPy's `.npz` format: a zip archive with one `.npy` file for each array, read and written in streams."""

from leakycli.formats.npz.source import NpzSource
from leakycli.formats.npz.target import Compressor, NpzTarget

__all__ = ["Compressor", "NpzSource", "NpzTarget"]
