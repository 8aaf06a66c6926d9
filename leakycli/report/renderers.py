"""RENDERERS, the one list of a report's forms on disk. Modules are named here, and loaded when used: most runs need one."""

from __future__ import annotations

import importlib
from typing import Any, Protocol, cast

from leakycli.errors import UsageError, shown

#: The module of this package that writes files of each suffix.
RENDERERS = {".json": "json", ".html": "html"}


class Renderer(Protocol):
    """A module of RENDERERS. MARKER: what is in the first 200 bytes of every file that it writes, and tells them from others'."""

    MARKER: bytes

    @staticmethod
    def render(report: Any) -> str:
        """The text of the file."""


def renderer(path: str) -> Renderer:
    """What writes a report to `path`, as its suffix says. Raises UsageError where it says none of RENDERERS."""
    for suffix, name in RENDERERS.items():
        if path.lower().endswith(suffix):
            return cast(Renderer, load(name))
    raise UsageError(f"{shown(path)}: a report's suffix says its kind; it must end in {' or '.join(RENDERERS)}")


def load(name: str) -> Any:
    """A module of this package."""
    return importlib.import_module(f"leakycli.report.{name}")
