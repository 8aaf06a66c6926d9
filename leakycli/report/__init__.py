"""The report of a run: what was done, what is in the arrays before and after, what it cost."""

from leakycli.report.model import ArrayReport, Cost, Endpoint, Report, Statistics

__all__ = ["ArrayReport", "Cost", "Endpoint", "Report", "Statistics"]
