"""Leaky ReLU over arrays on disk: streamed, exact to the bit, inside a memory bound.

`apply`, `dry_run`, `verify` and `info` work on files, `leaky_relu` on arrays in memory; `read_report` and `save_report` on the reports of
earlier runs. All errors derive from `LeakyError`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from leakycli._version import __version__

if TYPE_CHECKING:
    from leakycli.api import Options, SourceInfo, apply, dry_run, info, read_report, save_report, verify
    from leakycli.engine.events import Finished, RegionDone, Started
    from leakycli.engine.plan import Plan
    from leakycli.engine.preview import Preview
    from leakycli.engine.verify import Comparison
    from leakycli.errors import (
        BatchError,
        CorruptError,
        DifferenceError,
        LeakyError,
        LossError,
        SourceChangedError,
        StorageError,
        UnsupportedError,
        UsageError,
    )
    from leakycli.function.kernel import leaky_relu
    from leakycli.report.model import Report

#: The public names, and the modules that they are in; each is imported on first use, so that `leakycli --help` does not wait for numpy.
_HOMES = {
    "leakycli.api": ("Options", "SourceInfo", "apply", "dry_run", "info", "read_report", "save_report", "verify"),
    "leakycli.function.kernel": ("leaky_relu",),
    "leakycli.report.model": ("Report",),
    "leakycli.engine.plan": ("Plan",),
    "leakycli.engine.preview": ("Preview",),
    "leakycli.engine.verify": ("Comparison",),
    "leakycli.engine.events": ("Finished", "RegionDone", "Started"),
    "leakycli.errors": (
        "BatchError",
        "CorruptError",
        "DifferenceError",
        "LeakyError",
        "LossError",
        "SourceChangedError",
        "StorageError",
        "UnsupportedError",
        "UsageError",
    ),
}

__all__ = [
    "BatchError",
    "Comparison",
    "CorruptError",
    "DifferenceError",
    "Finished",
    "LeakyError",
    "LossError",
    "Options",
    "Plan",
    "Preview",
    "RegionDone",
    "Report",
    "SourceChangedError",
    "SourceInfo",
    "Started",
    "StorageError",
    "UnsupportedError",
    "UsageError",
    "__version__",
    "apply",
    "dry_run",
    "info",
    "leaky_relu",
    "read_report",
    "save_report",
    "verify",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'leakycli' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
