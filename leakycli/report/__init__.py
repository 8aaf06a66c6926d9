"""The report of a run: what was done, what is in the arrays before and after, what it took. RENDERERS is the one list of its forms."""

from __future__ import annotations

import importlib
from typing import Protocol, cast

from leakycli.report.model import ArrayReport, Cost, Distribution, Endpoint, Report, Statistics, Versions

#: The module that writes files of each suffix.
RENDERERS = {".json": "leakycli.report.json", ".html": "leakycli.report.html"}


class Renderer(Protocol):
    """A module of RENDERERS. MARKER: what is in the first 200 bytes of every file that it writes, and tells them from others'."""

    MARKER: bytes

    @staticmethod
    def render(report: Report) -> str: ...


def renderer(path: str) -> Renderer:
    """What writes a report to `path`, whose suffix is one of RENDERERS."""
    suffix = next(suffix for suffix in RENDERERS if path.lower().endswith(suffix))
    return cast(Renderer, importlib.import_module(RENDERERS[suffix]))


__all__ = ["RENDERERS", "ArrayReport", "Cost", "Distribution", "Endpoint", "Report", "Statistics", "Versions", "renderer"]
