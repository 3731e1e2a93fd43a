"""Notebooks -> pages that need nothing but a browser: one by itself, or the study as one folder."""

from analysis.report.page import write_report
from analysis.report.study import write_study

__all__ = ["write_report", "write_study"]
