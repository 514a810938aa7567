"""Tables of a comparison as pandas frames; `local_shutdown.load` puts them together."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from local_shutdown.analysis.collect import Source
from local_shutdown.analysis.columns import COLUMNS as CELL_COLUMNS
from local_shutdown.analysis.columns import ShownCell
from local_shutdown.analysis.compare import contrast_record
from local_shutdown.analysis.contrasts import ContrastResult
from local_shutdown.detectors import BOOLEANS, COLUMNS, INTEGERS
from local_shutdown.results import reading
from local_shutdown.spreadsheet import restored

_CATEGORY = ("model", "condition", "outcome", "methods", "stop_reason", "factor", "recalled")
_WRITTEN_BY_OTHERS = ("episode_id", "model", "condition", "factor")
_TYPES: dict[str, str] = {
    **dict.fromkeys(_CATEGORY, "category"),
    **dict.fromkeys(BOOLEANS, "boolean"),
    **dict.fromkeys(INTEGERS, "Int64"),
    "duration_s": "float64",
}


def episodes_frame(sources: Iterable[Source]) -> pd.DataFrame:
    """The scored episodes of directories; see `local_shutdown.frames.Frames.episodes`."""
    frames = [_episodes(source) for source in sources if source.has_episodes]
    if not frames:
        frames = [_typed(pd.DataFrame(columns=list(COLUMNS))).assign(source="")]
    found = pd.concat(frames, ignore_index=True)
    # Categories of different runs do not concatenate to a category by themselves.
    return found.astype(dict.fromkeys((*_CATEGORY, "source"), "category"))


def _episodes(source: Source) -> pd.DataFrame:
    path = source.results.path
    if path is not None:
        types = {"episode_id": "str", "trajectory": "str", "server": "str", **_TYPES}
        with reading(path):
            raw = pd.read_csv(path, dtype=types, keep_default_na=False, na_values=[""])
        for name in _WRITTEN_BY_OTHERS:
            raw[name] = raw[name].map(restored, na_action="ignore")
    else:
        scored = (
            {**row._asdict(), "methods": ";".join(row.methods or ())}
            for row in source.results.rows()
        )
        raw = pd.DataFrame.from_records(list(scored), columns=list(COLUMNS))
    frame = _typed(raw)
    frame["model"] = frame["model"].map(source.shown_name)
    return frame.assign(source=source.name)


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.astype({name: kind for name, kind in _TYPES.items() if name in frame})
    methods = frame["methods"].astype(object)
    frame["methods"] = methods.where(methods.notna(), "").astype("category")
    return frame


def cells_frame(cells: Iterable[ShownCell]) -> pd.DataFrame:
    """See `local_shutdown.frames.Frames.cells`."""
    return pd.DataFrame.from_records([{c.name: c.value(of) for c in CELL_COLUMNS} for of in cells])


def contrasts_frame(contrasts: Iterable[ContrastResult]) -> pd.DataFrame:
    """See `local_shutdown.frames.Frames.contrasts`."""
    records = [{**contrast_record(of), "rounded": of.rounded} for of in contrasts]
    return pd.DataFrame.from_records(records)
