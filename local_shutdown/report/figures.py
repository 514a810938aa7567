"""The paper's figures for whatever models there are."""

from __future__ import annotations

from local_shutdown.report import conduct_figures, rate_figures
from local_shutdown.report.data import ReportData
from local_shutdown.report.figure import Figure


def figures(data: ReportData) -> list[Figure]:
    """All for which there are numbers, in the page's order."""
    return [*rate_figures.figures(data), *conduct_figures.figures(data)]
