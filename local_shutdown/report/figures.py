"""The figures of a report, for whatever models there are."""

from __future__ import annotations

from dataclasses import replace

from local_shutdown.report import conduct_figures, growth_figures, overview, rate_figures
from local_shutdown.report.data import ReportData, plain
from local_shutdown.report.figure import Figure


def figures(data: ReportData) -> list[Figure]:
    """All for which there are numbers, in the page's order; the first two stand at its top.

    They compare models under conditions, so points of branched runs are in none.
    """
    data = replace(data, series=plain(data.series))
    if not data.series:
        return []
    return [
        *overview.figures(data),
        *rate_figures.figures(data),
        *growth_figures.figures(data),
        *conduct_figures.figures(data),
    ]
