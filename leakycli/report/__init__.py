"""The report of a run: what was done, what is in the arrays before and after, what it took."""

from leakycli.report.model import ArrayReport, Cost, Distribution, Endpoint, Report, Statistics, Versions
from leakycli.report.renderers import RENDERERS, renderer

__all__ = ["RENDERERS", "ArrayReport", "Cost", "Distribution", "Endpoint", "Report", "Statistics", "Versions", "renderer"]
