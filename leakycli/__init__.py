"""Leaky ReLU over arrays on disk: streamed, exact to the bit, inside a memory bound.

`apply`, `dry_run`, `verify` and `info` work on files (see `leakycli.api`), `leaky_relu` on arrays in memory.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from leakycli._version import __version__

if TYPE_CHECKING:
    from leakycli.api import Options, apply, dry_run, info, verify
    from leakycli.function.kernel import leaky_relu

__all__ = ["Options", "__version__", "apply", "dry_run", "info", "leaky_relu", "verify"]

_HOMES = {"leaky_relu": "leakycli.function.kernel"} | dict.fromkeys(("Options", "apply", "dry_run", "info", "verify"), "leakycli.api")


def __getattr__(name: str) -> Any:
    # Imported on first use, so that `leakycli --help` does not wait for numpy.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'leakycli' has no attribute {name!r}")
