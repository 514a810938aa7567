"""Run directories in the formats that other programs read: Inspect logs and parquet tables."""

from __future__ import annotations

from local_shutdown.exporters.inspect import export_inspect
from local_shutdown.exporters.parquet import export_parquet

FORMATS = ("inspect", "parquet")

__all__ = ["FORMATS", "export_inspect", "export_parquet"]
